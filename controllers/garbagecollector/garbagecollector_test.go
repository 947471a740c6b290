package garbagecollector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff/api"
	"skiff/client"
)

// world answers live reads from a map and notes writes. The embedded nil Client
// makes any other call a panic.
type world struct {
	client.Client
	objects map[string]api.Object
	broken  error
	writes  []string
}

func (w *world) Get(_ context.Context, r *api.Resource, namespace, name string) (api.Object, error) {
	if obj := w.objects[r.Name+" "+name]; obj != nil {
		return obj, nil
	}
	if w.broken != nil {
		return nil, w.broken
	}
	return nil, apierrors.NewNotFound(r.GroupResource(), name)
}

func (w *world) Delete(_ context.Context, r *api.Resource, _, name string, o metav1.DeleteOptions) error {
	w.writes = append(w.writes, fmt.Sprintf("delete %s uid=%s version=%s %s", name, *o.Preconditions.UID, *o.Preconditions.ResourceVersion, *o.PropagationPolicy))
	return nil
}

func (w *world) Patch(_ context.Context, _ *api.Resource, _, name string, p client.Patch) (api.Object, error) {
	w.writes = append(w.writes, "patch "+name+" "+string(p.Data))
	return nil, nil
}

func object(name string, change ...func(*corev1.ConfigMap)) *corev1.ConfigMap {
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: name, UID: types.UID("uid-" + name), ResourceVersion: "7"}}
	for _, c := range change {
		c(cm)
	}
	return cm
}

func ownedBy(kind, name, uid string) func(*corev1.ConfigMap) {
	return func(cm *corev1.ConfigMap) {
		cm.OwnerReferences = append(cm.OwnerReferences, metav1.OwnerReference{APIVersion: "v1", Kind: kind, Name: name, UID: types.UID(uid)})
	}
}

// run settles what the graph finds about the objects of the feed, while live
// reads see others.
func run(t *testing.T, feed, live []api.Object, broken error) (*world, []error) {
	t.Helper()
	w := &world{objects: map[string]api.Object{}, broken: broken}
	for _, obj := range live {
		w.objects[api.Of(obj).Name+" "+obj.GetName()] = obj
	}
	g := newCollector(Config{Client: w, Logger: slog.Default()})
	defer g.queue.ShutDown()
	var batch client.Batch
	for _, obj := range feed {
		batch.Changes = append(batch.Changes, client.Change{Resource: api.Of(obj), New: obj})
	}
	g.learn(batch)
	var errs []error
	for g.queue.Len() > 0 {
		uid, _ := g.queue.Get()
		if err := g.settle(context.Background(), uid); err != nil {
			errs = append(errs, err)
		}
		g.queue.Done(uid)
	}
	return w, errs
}

// "Garbage collection never deletes on inferred absence: only after a consistent
// read by name and UID."
func TestNothingIsDeletedOnInferredAbsence(t *testing.T) {
	owner := object("owner")
	child := object("child", ownedBy("ConfigMap", "owner", "uid-owner"))
	for _, c := range []struct {
		name       string
		feed, live []api.Object
		broken     error
		want       []string
		failing    bool
	}{
		{"the feed has not shown the owner, but it is there", []api.Object{child}, []api.Object{owner, child}, nil, nil, false},
		{"the owner is gone", []api.Object{child}, []api.Object{child}, nil, []string{"delete child uid=uid-child version=7 Background"}, false},
		{"the owner's name is another's now", []api.Object{child}, []api.Object{object("owner", func(cm *corev1.ConfigMap) { cm.UID = "another" }), child}, nil, []string{"delete child uid=uid-child version=7 Background"}, false},
		{"the owner cannot be read", []api.Object{child}, []api.Object{child}, errors.New("no answer"), nil, true},
		{"the owner's kind is not served", []api.Object{object("child", ownedBy("Gadget", "owner", "uid-owner"))}, []api.Object{object("child", ownedBy("Gadget", "owner", "uid-owner"))}, nil, nil, true},
		{"the child is another by now", []api.Object{child}, []api.Object{object("child", func(cm *corev1.ConfigMap) { cm.UID = "another" }, ownedBy("ConfigMap", "owner", "uid-owner"))}, nil, nil, false},
		{"the child has lost its owner meanwhile", []api.Object{child}, []api.Object{object("child")}, nil, nil, false},
		{"one of two owners is gone", []api.Object{object("child", ownedBy("ConfigMap", "owner", "uid-owner"), ownedBy("ConfigMap", "other", "uid-other"))},
			[]api.Object{owner, object("child", ownedBy("ConfigMap", "owner", "uid-owner"), ownedBy("ConfigMap", "other", "uid-other"))}, nil,
			[]string{`patch child {"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"ConfigMap","name":"owner","uid":"uid-owner"}],"resourceVersion":"7","uid":"uid-child"}}`}, false},
		{"a cluster's object has a namespace's owner", []api.Object{&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", UID: "n", OwnerReferences: child.OwnerReferences}}},
			[]api.Object{&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", UID: "n", OwnerReferences: child.OwnerReferences}}}, nil, nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, errs := run(t, c.feed, c.live, c.broken)
			if !slices.Equal(w.writes, c.want) {
				t.Errorf("writes %q, want %q", w.writes, c.want)
			}
			if (len(errs) > 0) != c.failing {
				t.Errorf("errors %v", errs)
			}
		})
	}
}

func deleting(finalizer string) func(*corev1.ConfigMap) {
	return func(cm *corev1.ConfigMap) {
		now := metav1.Now()
		cm.DeletionTimestamp, cm.Finalizers = &now, []string{finalizer}
	}
}

func TestAForegroundDeletionWaitsForWhatBlocksIt(t *testing.T) {
	owner := object("owner", deleting(metav1.FinalizerDeleteDependents))
	child := object("child", ownedBy("ConfigMap", "owner", "uid-owner"))
	yes := true
	child.OwnerReferences[0].BlockOwnerDeletion = &yes
	w, _ := run(t, []api.Object{owner, child}, []api.Object{owner, child}, nil)
	if want := []string{"delete child uid=uid-child version=7 Background"}; !slices.Equal(w.writes, want) {
		t.Errorf("with a child: %q, want %q", w.writes, want)
	}
	w, _ = run(t, []api.Object{owner}, []api.Object{owner}, nil)
	if want := []string{`patch owner {"metadata":{"finalizers":[],"resourceVersion":"7","uid":"uid-owner"}}`}; !slices.Equal(w.writes, want) {
		t.Errorf("without: %q, want %q", w.writes, want)
	}
}

func TestOrphansAreReleasedBeforeTheirOwnerGoes(t *testing.T) {
	owner := object("owner", deleting(metav1.FinalizerOrphanDependents))
	child := object("child", ownedBy("ConfigMap", "owner", "uid-owner"))
	w, _ := run(t, []api.Object{owner, child}, []api.Object{owner, child}, nil)
	want := []string{
		`patch child {"metadata":{"ownerReferences":[],"resourceVersion":"7","uid":"uid-child"}}`,
		`patch owner {"metadata":{"finalizers":[],"resourceVersion":"7","uid":"uid-owner"}}`,
	}
	if !slices.Equal(w.writes, want) {
		t.Errorf("writes %q, want %q", w.writes, want)
	}
}
