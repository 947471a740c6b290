package node

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"skiff/api"
	"skiff/client"
)

// fakeAPI is an API server in memory: just enough of one for a node. Its objects
// are immutable, as the real client's are.
type fakeAPI struct {
	mu       sync.Mutex
	revision int64
	objects  map[*api.Resource]map[string]api.Object
	follows  []*follow
	// broken, if set, answers every write with its error.
	broken func(verb string, r *api.Resource) error
	writes map[string]int   // by verb and resource
	pods   chan *corev1.Pod // each new version of a pod, for tests that wait; nil: nobody does
}

var _ client.Client = (*fakeAPI)(nil)

type follow struct {
	sources []client.Source
	mu      sync.Mutex
	queue   []client.Batch
	wake    chan struct{}
}

func newFakeAPI() *fakeAPI {
	return &fakeAPI{objects: map[*api.Resource]map[string]api.Object{}, writes: map[string]int{}}
}

func nameOf(namespace, name string) string { return namespace + "/" + name }

func notFound(r *api.Resource, name string) error {
	return apierrors.NewNotFound(r.GroupResource(), name)
}

func (f *fakeAPI) Get(_ context.Context, r *api.Resource, namespace, name string) (api.Object, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if obj := f.objects[r][nameOf(namespace, name)]; obj != nil {
		return obj, nil
	}
	return nil, notFound(r, name)
}

func (f *fakeAPI) List(_ context.Context, r *api.Resource, o client.ListOptions) ([]api.Object, string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []api.Object
	for _, obj := range f.objects[r] {
		if selected(client.Source{Resource: r, Namespace: o.Namespace, Labels: o.Labels, Fields: o.Fields}, r, obj) {
			out = append(out, obj)
		}
	}
	return out, strconv.FormatInt(f.revision, 10), nil
}

func (f *fakeAPI) fail(verb string, r *api.Resource) error {
	f.writes[verb+" "+r.Name]++
	if f.broken != nil {
		return f.broken(verb, r)
	}
	return nil
}

func (f *fakeAPI) Create(_ context.Context, obj api.Object) (api.Object, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := api.Of(obj)
	if err := f.fail("create", r); err != nil {
		return nil, err
	}
	n := obj.DeepCopyObject().(api.Object)
	if n.GetName() == "" {
		n.SetName(fmt.Sprintf("%s%d", n.GetGenerateName(), f.revision))
	}
	if f.objects[r][nameOf(n.GetNamespace(), n.GetName())] != nil {
		return nil, apierrors.NewAlreadyExists(r.GroupResource(), n.GetName())
	}
	if n.GetUID() == "" {
		n.SetUID(types.UID(fmt.Sprintf("uid-%d", f.revision+1)))
	}
	n.SetCreationTimestamp(metav1.NewTime(time.Now()).Rfc3339Copy())
	n.SetGeneration(1)
	f.putLocked(r, nil, n)
	return n, nil
}

// putLocked stores an object and tells the followers; n nil: it is gone.
func (f *fakeAPI) putLocked(r *api.Resource, old, n api.Object) {
	f.revision++
	if f.objects[r] == nil {
		f.objects[r] = map[string]api.Object{}
	}
	if n != nil {
		n.SetResourceVersion(strconv.FormatInt(f.revision, 10))
		f.objects[r][nameOf(n.GetNamespace(), n.GetName())] = n
		if p, ok := n.(*corev1.Pod); ok && f.pods != nil {
			f.pods <- p
		}
	} else {
		delete(f.objects[r], nameOf(old.GetNamespace(), old.GetName()))
	}
	for _, fl := range f.follows {
		for _, s := range fl.sources {
			before, after := old, n
			if s.Resource != r {
				continue
			}
			if before != nil && !selected(s, r, before) {
				before = nil
			}
			if after != nil && !selected(s, r, after) {
				after = nil
			}
			if before != nil || after != nil {
				fl.push(client.Batch{Changes: []client.Change{{Resource: r, Old: before, New: after, Revision: f.revision}}, Revision: f.revision})
			}
		}
	}
}

func selected(s client.Source, r *api.Resource, obj api.Object) bool {
	if s.Resource != r || (s.Namespace != "" && s.Namespace != obj.GetNamespace()) {
		return false
	}
	set := fields.Set{"metadata.name": obj.GetName(), "metadata.namespace": obj.GetNamespace()}
	if p, ok := obj.(*corev1.Pod); ok {
		set["spec.nodeName"] = p.Spec.NodeName
	}
	return s.Fields == nil || s.Fields.Matches(set)
}

func (f *fakeAPI) Update(_ context.Context, sub string, obj api.Object) (api.Object, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := api.Of(obj)
	if err := f.fail("update", r); err != nil {
		return nil, err
	}
	old := f.objects[r][nameOf(obj.GetNamespace(), obj.GetName())]
	if old == nil {
		return nil, notFound(r, obj.GetName())
	}
	if v := obj.GetResourceVersion(); v != "" && v != old.GetResourceVersion() {
		return nil, apierrors.NewConflict(r.GroupResource(), obj.GetName(), fmt.Errorf("is at %s", old.GetResourceVersion()))
	}
	n := obj.DeepCopyObject().(api.Object)
	if p, ok := n.(*corev1.Pod); ok && sub == "" {
		p.Status = old.(*corev1.Pod).Status
		p.Generation++
	}
	f.putLocked(r, old, n)
	return n, nil
}

func (f *fakeAPI) Patch(_ context.Context, r *api.Resource, namespace, name string, p client.Patch) (api.Object, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.fail("patch", r); err != nil {
		return nil, err
	}
	old := f.objects[r][nameOf(namespace, name)]
	if old == nil {
		return nil, notFound(r, name)
	}
	before, err := json.Marshal(old)
	if err != nil {
		return nil, err
	}
	var meta struct{ Metadata struct{ UID types.UID } }
	if err := json.Unmarshal(p.Data, &meta); err == nil && meta.Metadata.UID != "" && meta.Metadata.UID != old.GetUID() {
		return nil, apierrors.NewConflict(r.GroupResource(), name, fmt.Errorf("uid is %s", old.GetUID()))
	}
	var after []byte
	n := r.Kind.New()
	switch p.Type {
	case types.StrategicMergePatchType:
		after, err = strategicpatch.StrategicMergePatch(before, p.Data, n)
	case types.MergePatchType:
		after, err = jsonpatch.MergePatch(before, p.Data)
	default:
		err = fmt.Errorf("patch type %s", p.Type)
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(after, n); err != nil {
		return nil, err
	}
	f.putLocked(r, old, n)
	return n, nil
}

func (f *fakeAPI) Delete(_ context.Context, r *api.Resource, namespace, name string, o metav1.DeleteOptions) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.fail("delete", r); err != nil {
		return err
	}
	old := f.objects[r][nameOf(namespace, name)]
	if old == nil {
		return notFound(r, name)
	}
	if o.Preconditions != nil && o.Preconditions.UID != nil && *o.Preconditions.UID != old.GetUID() {
		return apierrors.NewConflict(r.GroupResource(), name, fmt.Errorf("uid is %s", old.GetUID()))
	}
	p, ok := old.(*corev1.Pod)
	if !ok || (o.GracePeriodSeconds != nil && *o.GracePeriodSeconds == 0) || p.Spec.NodeName == "" {
		f.putLocked(r, old, nil)
		return nil
	}
	n := p.DeepCopy()
	grace := int64(30)
	if g := p.Spec.TerminationGracePeriodSeconds; g != nil {
		grace = *g
	}
	if o.GracePeriodSeconds != nil {
		grace = *o.GracePeriodSeconds
	}
	now := metav1.NewTime(time.Now().Add(time.Duration(grace) * time.Second)).Rfc3339Copy()
	n.DeletionTimestamp, n.DeletionGracePeriodSeconds = &now, &grace
	n.Generation++
	f.putLocked(r, old, n)
	return nil
}

func (f *fakeAPI) Post(_ context.Context, r *api.Resource, _, name, sub string, body runtime.Object) (runtime.Object, error) {
	if t, ok := body.(*authenticationv1.TokenRequest); ok && sub == "token" {
		out := t.DeepCopy()
		out.Status.Token = fmt.Sprintf("token-of-%s-%d", name, time.Now().UnixNano())
		out.Status.ExpirationTimestamp = metav1.NewTime(time.Now().Add(time.Duration(*t.Spec.ExpirationSeconds) * time.Second))
		return out, nil
	}
	return nil, fmt.Errorf("fake: no %s of %s", sub, r.Name)
}

func (f *fakeAPI) Fenced(client.Epoch) client.Client { return f }

func (f *fakeAPI) Follow(ctx context.Context, sources ...client.Source) *client.Feed {
	f.mu.Lock()
	defer f.mu.Unlock()
	fl := &follow{sources: sources, wake: make(chan struct{}, 1)}
	first := client.Batch{Revision: f.revision}
	for _, s := range sources {
		for _, obj := range f.objects[s.Resource] {
			if selected(s, s.Resource, obj) {
				first.Changes = append(first.Changes, client.Change{Resource: s.Resource, New: obj, Revision: f.revision})
			}
		}
	}
	fl.push(first)
	f.follows = append(f.follows, fl)
	ch := make(chan client.Batch)
	go func() {
		defer close(ch)
		defer f.unfollow(fl)
		for {
			b, ok := fl.pop()
			if !ok {
				select {
				case <-fl.wake:
					continue
				case <-ctx.Done():
					return
				}
			}
			select {
			case ch <- b:
			case <-ctx.Done():
				return
			}
		}
	}()
	return &client.Feed{C: ch}
}

func (f *fakeAPI) unfollow(fl *follow) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, o := range f.follows {
		if o == fl {
			f.follows = append(f.follows[:i], f.follows[i+1:]...)
			return
		}
	}
}

func (fl *follow) push(b client.Batch) {
	fl.mu.Lock()
	fl.queue = append(fl.queue, b)
	fl.mu.Unlock()
	select {
	case fl.wake <- struct{}{}:
	default:
	}
}

func (fl *follow) pop() (client.Batch, bool) {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	if len(fl.queue) == 0 {
		return client.Batch{}, false
	}
	b := fl.queue[0]
	fl.queue = fl.queue[1:]
	return b, true
}

// pod reads a pod; nil: there is none.
func (f *fakeAPI) pod(name string) *corev1.Pod {
	f.mu.Lock()
	defer f.mu.Unlock()
	p, _ := f.objects[api.For[*corev1.Pod]()]["default/"+name].(*corev1.Pod)
	return p
}

// events lists reasons and messages of the events about a pod, in order of creation.
func (f *fakeAPI) events(pod string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, obj := range f.objects[api.For[*corev1.Event]()] {
		e := obj.(*corev1.Event)
		if e.InvolvedObject.Name == pod {
			out = append(out, e.Reason+": "+e.Message)
		}
	}
	return out
}
