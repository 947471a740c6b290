// Package status tells the API of the node itself: it registers the node, keeps
// its status and renews its lease. It owns the Node object's status (but for what
// the node lifecycle controller adds when the node is silent) and the lease in
// kube-node-lease. Package node runs it; it never looks at pods.
package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/tools/record"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff/api"
	"skiff/client"
	"skiff/node/runtime"
)

// Config is what a Reporter works with.
type Config struct {
	NodeName string
	Client   client.Client
	Runtime  runtime.Runtime
	Recorder record.EventRecorder // nil: no events

	Labels      map[string]string // set at registration, beside the usual ones
	Annotations map[string]string
	Taints      []corev1.Taint // set at registration
	PodCIDRs    []string       // set at registration; empty: somebody else assigns them
	ProviderID  string

	Addresses   []corev1.NodeAddress
	Port        int32 // of the agent's server; 0: none
	Capacity    corev1.ResourceList
	Allocatable corev1.ResourceList
	Info        corev1.NodeSystemInfo // the runtime's version is filled in

	// Changed is called with each version of the node's object, by one goroutine; it
	// must not block. Nil: nobody wants to know.
	Changed func(*corev1.Node)
	// Pressure tells which resources are short; nil: none ever is.
	Pressure func() Pressure
	// Every is the time between looks at the node. 0 means 10 s.
	Every time.Duration
	// ReportEvery is the time after which an unchanged status is written again. 0 means 5 minutes.
	ReportEvery time.Duration
	// Lease is how long the lease lasts; it is renewed four times in that. 0 means 40 s.
	Lease  time.Duration
	Logger *slog.Logger
}

// Pressure is what the node is short of.
type Pressure struct{ Memory, Disk, PID bool }

// Reporter keeps the node's object and lease.
type Reporter struct {
	c     Config
	ready chan struct{} // closed when the node is registered

	mu     sync.Mutex
	node   *corev1.Node // as last seen; nil before registration
	said   corev1.NodeStatus
	saidAt time.Time
	poke   chan struct{}
}

// New checks the configuration.
func New(c Config) (*Reporter, error) {
	if c.NodeName == "" || c.Client == nil || c.Runtime == nil {
		return nil, errors.New("node status: incomplete configuration")
	}
	if c.Every == 0 {
		c.Every = 10 * time.Second
	}
	if c.ReportEvery == 0 {
		c.ReportEvery = 5 * time.Minute
	}
	if c.Lease == 0 {
		c.Lease = 40 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Pressure == nil {
		c.Pressure = func() Pressure { return Pressure{} }
	}
	return &Reporter{c: c, ready: make(chan struct{}), poke: make(chan struct{}, 1)}, nil
}

// Registered is closed once the API has the node.
func (r *Reporter) Registered() <-chan struct{} { return r.ready }

// Node is the node as the API last showed it; nil before registration.
func (r *Reporter) Node() *corev1.Node {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.node
}

// Poke looks at the node at once: something changed.
func (r *Reporter) Poke() {
	select {
	case r.poke <- struct{}{}:
	default:
	}
}

// SetRecorder gives the reporter its recorder, before Run.
func (r *Reporter) SetRecorder(rec record.EventRecorder) { r.c.Recorder = rec }

// Run registers the node and reports until ctx ends.
func (r *Reporter) Run(ctx context.Context) error {
	if err := r.register(ctx); err != nil {
		return nil // ctx ended first
	}
	close(r.ready)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { r.lease(ctx) })
	wg.Go(func() { r.follow(ctx) })
	if r.c.Recorder != nil {
		r.c.Recorder.Event(r.ref(), corev1.EventTypeNormal, "Starting", "Starting kubelet.")
	}
	t := time.NewTimer(0)
	defer t.Stop()
	soon := firstLook
	for {
		r.report(ctx)
		wait := r.c.Every
		if !r.saidReady() {
			// What it lacks (the pod network's configuration, usually) is about to come.
			wait = min(soon, wait)
			soon *= 2
		} else {
			soon = firstLook
		}
		t.Reset(wait)
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		case <-r.poke:
		}
	}
}

// firstLook is how soon a node that is not ready is looked at again; then the
// pauses double, up to Config.Every.
const firstLook = 50 * time.Millisecond

// saidReady tells whether the last report was that the node is ready.
func (r *Reporter) saidReady() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.said.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

func (r *Reporter) ref() *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: r.c.NodeName, UID: types.UID(r.c.NodeName)}
}

// register makes the Node object, or takes over the one that is there.
func (r *Reporter) register(ctx context.Context) error {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		n, err := r.tryRegister(ctx)
		if err == nil {
			r.mu.Lock()
			r.node = n
			r.mu.Unlock()
			return nil
		}
		if ctx.Err() == nil {
			r.c.Logger.Warn("register node", "node", r.c.NodeName, "err", err)
		}
		if !sleep(ctx, wait) {
			return ctx.Err()
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (r *Reporter) tryRegister(ctx context.Context) (*corev1.Node, error) {
	want := r.wanted(ctx)
	n, err := client.Create(ctx, r.c.Client, want)
	if !apierrors.IsAlreadyExists(err) {
		return n, err
	}
	have, err := client.Get[*corev1.Node](ctx, r.c.Client, "", r.c.NodeName)
	if err != nil {
		return nil, err
	}
	labels := map[string]string{}
	for k, v := range want.Labels {
		if have.Labels[k] != v {
			labels[k] = v
		}
	}
	if len(labels) == 0 {
		return have, nil
	}
	data, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": labels}})
	if err != nil {
		return nil, err
	}
	obj, err := r.c.Client.Patch(ctx, api.For[*corev1.Node](), "", r.c.NodeName, client.Patch{Type: types.MergePatchType, Data: data})
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Node), nil
}

func (r *Reporter) wanted(ctx context.Context) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: r.c.NodeName, Labels: r.labels(), Annotations: maps.Clone(r.c.Annotations)}}
	n.Spec.Taints = slices.Clone(r.c.Taints)
	n.Spec.ProviderID = r.c.ProviderID
	if len(r.c.PodCIDRs) > 0 {
		n.Spec.PodCIDR, n.Spec.PodCIDRs = r.c.PodCIDRs[0], slices.Clone(r.c.PodCIDRs)
	}
	n.Status = r.status(ctx, &corev1.Node{}, time.Now())
	return n
}

func (r *Reporter) labels() map[string]string {
	host := r.c.NodeName
	for _, a := range r.c.Addresses {
		if a.Type == corev1.NodeHostName && a.Address != "" {
			host = a.Address
		}
	}
	out := map[string]string{
		corev1.LabelHostname:    host,
		corev1.LabelOSStable:    r.c.Info.OperatingSystem,
		corev1.LabelArchStable:  r.c.Info.Architecture,
		"beta.kubernetes.io/os": r.c.Info.OperatingSystem, "beta.kubernetes.io/arch": r.c.Info.Architecture,
	}
	maps.Copy(out, r.c.Labels)
	return out
}

// follow keeps r.node as the API has it.
func (r *Reporter) follow(ctx context.Context) {
	feed := r.c.Client.Follow(ctx, client.Source{Resource: api.For[*corev1.Node](), Fields: fields.OneTermEqualSelector("metadata.name", r.c.NodeName)})
	for batch := range feed.C {
		for _, c := range batch.Changes {
			n, ok := c.New.(*corev1.Node)
			if !ok {
				continue
			}
			r.mu.Lock()
			r.node = n
			overruled := r.overruledLocked(n)
			r.mu.Unlock()
			if r.c.Changed != nil {
				r.c.Changed(n)
			}
			if overruled {
				r.Poke()
			}
		}
	}
}

// overruledLocked: somebody took the node for lost; it says at once that it is not.
func (r *Reporter) overruledLocked(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionUnknown {
			r.saidAt = time.Time{}
			return true
		}
	}
	return false
}

// report writes the node's status if it changed or is due.
func (r *Reporter) report(ctx context.Context) {
	r.mu.Lock()
	node, said, saidAt := r.node, r.said, r.saidAt
	r.mu.Unlock()
	now := time.Now()
	s := r.status(ctx, node, now)
	if !differs(said, s) && now.Sub(saidAt) < r.c.ReportEvery {
		return
	}
	got, err := r.write(ctx, node, s)
	if err != nil {
		if ctx.Err() == nil {
			r.c.Logger.Warn("node status", "node", r.c.NodeName, "err", err)
		}
		return
	}
	r.mu.Lock()
	r.node, r.said, r.saidAt = got, s, now
	r.mu.Unlock()
	r.tell(node, s)
}

// differs compares but for heartbeats.
func differs(a, b corev1.NodeStatus) bool {
	strip := func(s corev1.NodeStatus) corev1.NodeStatus {
		s.Conditions = slices.Clone(s.Conditions)
		for i := range s.Conditions {
			s.Conditions[i].LastHeartbeatTime = metav1.Time{}
			s.Conditions[i].LastTransitionTime = metav1.Time{}
		}
		return s
	}
	a, b = strip(a), strip(b)
	return !equality.Semantic.DeepEqual(a, b)
}

func (r *Reporter) write(ctx context.Context, node *corev1.Node, s corev1.NodeStatus) (*corev1.Node, error) {
	before, err := json.Marshal(corev1.Node{Status: node.Status})
	if err != nil {
		return nil, err
	}
	after, err := json.Marshal(corev1.Node{Status: s})
	if err != nil {
		return nil, err
	}
	diff, err := strategicpatch.CreateTwoWayMergePatch(before, after, corev1.Node{})
	if err != nil {
		return nil, fmt.Errorf("compare statuses: %w", err)
	}
	if diff, err = wholeAddresses(diff, s.Addresses); err != nil {
		return nil, err
	}
	obj, err := r.c.Client.Patch(ctx, api.For[*corev1.Node](), "", r.c.NodeName, client.Patch{Type: types.StrategicMergePatchType, Data: diff, Sub: "status"})
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Node), nil
}

// wholeAddresses makes a patch replace the addresses: they are merged by type,
// and a node may have two of one type.
func wholeAddresses(diff []byte, addresses []corev1.NodeAddress) ([]byte, error) {
	if !strings.Contains(string(diff), `"addresses"`) {
		return diff, nil
	}
	var p map[string]map[string]any
	if err := json.Unmarshal(diff, &p); err != nil {
		return nil, err
	}
	list := []any{}
	for _, a := range addresses {
		list = append(list, a)
	}
	p["status"]["addresses"] = append(list, map[string]string{"$patch": "replace"})
	delete(p["status"], "$setElementOrder/addresses")
	return json.Marshal(p)
}

// tell records that the node became ready or ceased to be.
func (r *Reporter) tell(before *corev1.Node, now corev1.NodeStatus) {
	if r.c.Recorder == nil {
		return
	}
	was, is := ready(before.Status), ready(now)
	switch {
	case was == is:
	case is == corev1.ConditionTrue:
		r.c.Recorder.Event(r.ref(), corev1.EventTypeNormal, "NodeReady", fmt.Sprintf("Node %s status is now: NodeReady", r.c.NodeName))
	default:
		r.c.Recorder.Event(r.ref(), corev1.EventTypeNormal, "NodeNotReady", fmt.Sprintf("Node %s status is now: NodeNotReady", r.c.NodeName))
	}
}

func ready(s corev1.NodeStatus) corev1.ConditionStatus {
	for _, c := range s.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status
		}
	}
	return corev1.ConditionUnknown
}

// status is the node's status now; conditions and volumes of others are kept.
func (r *Reporter) status(ctx context.Context, node *corev1.Node, now time.Time) corev1.NodeStatus {
	s := *node.Status.DeepCopy()
	s.Addresses = slices.Clone(r.c.Addresses)
	s.Capacity, s.Allocatable = r.c.Capacity.DeepCopy(), r.c.Allocatable.DeepCopy()
	s.DaemonEndpoints.KubeletEndpoint.Port = r.c.Port
	s.NodeInfo = r.c.Info
	if v, err := r.c.Runtime.Version(ctx); err == nil {
		s.NodeInfo.ContainerRuntimeVersion = v.RuntimeName + "://" + v.RuntimeVersion
	} else {
		s.NodeInfo.ContainerRuntimeVersion = node.Status.NodeInfo.ContainerRuntimeVersion
	}
	if images, err := r.c.Runtime.Images(ctx); err == nil {
		s.Images = imageList(images)
	}
	p := r.c.Pressure()
	set(&s, corev1.NodeMemoryPressure, p.Memory, "KubeletHasInsufficientMemory", "kubelet has insufficient memory available", "KubeletHasSufficientMemory", "kubelet has sufficient memory available", now)
	set(&s, corev1.NodeDiskPressure, p.Disk, "KubeletHasDiskPressure", "kubelet has disk pressure", "KubeletHasNoDiskPressure", "kubelet has no disk pressure", now)
	set(&s, corev1.NodePIDPressure, p.PID, "KubeletHasInsufficientPID", "kubelet has insufficient PID available", "KubeletHasSufficientPID", "kubelet has sufficient PID available", now)
	st, err := r.c.Runtime.Status(ctx)
	if err == nil {
		features(&s, st)
	}
	problem := problemOf(st, err)
	set(&s, corev1.NodeReady, problem == "", "KubeletReady", "kubelet is posting ready status", "KubeletNotReady", problem, now)
	return s
}

func set(s *corev1.NodeStatus, t corev1.NodeConditionType, is bool, reason, message, notReason, notMessage string, now time.Time) {
	at := metav1.NewTime(now).Rfc3339Copy()
	c := corev1.NodeCondition{Type: t, Status: corev1.ConditionFalse, Reason: notReason, Message: notMessage, LastHeartbeatTime: at, LastTransitionTime: at}
	if is {
		c.Status, c.Reason, c.Message = corev1.ConditionTrue, reason, message
	}
	for i := range s.Conditions {
		if s.Conditions[i].Type == t {
			if s.Conditions[i].Status == c.Status {
				c.LastTransitionTime = s.Conditions[i].LastTransitionTime
			}
			s.Conditions[i] = c
			return
		}
	}
	s.Conditions = append(s.Conditions, c)
}

// features are what the runtime can do.
func features(s *corev1.NodeStatus, st *cri.StatusResponse) {
	if f := st.Features; f != nil {
		groups := f.SupplementalGroupsPolicy
		s.Features = &corev1.NodeFeatures{SupplementalGroupsPolicy: &groups}
	}
	s.RuntimeHandlers = nil
	for _, h := range st.RuntimeHandlers {
		out := corev1.NodeRuntimeHandler{Name: h.Name}
		if f := h.Features; f != nil {
			// Pods in user namespaces of their own are not run by this agent,
			// whatever the runtime could do.
			mounts, users := f.RecursiveReadOnlyMounts, false
			out.Features = &corev1.NodeRuntimeHandlerFeatures{RecursiveReadOnlyMounts: &mounts, UserNamespaces: &users}
		}
		s.RuntimeHandlers = append(s.RuntimeHandlers, out)
	}
	slices.SortFunc(s.RuntimeHandlers, func(a, b corev1.NodeRuntimeHandler) int { return strings.Compare(a.Name, b.Name) })
}

// problemOf is why the node is not ready; empty: it is.
func problemOf(st *cri.StatusResponse, err error) string {
	if err != nil {
		return fmt.Sprintf("container runtime is down: %s", runtime.Message(err))
	}
	var out []string
	for _, c := range st.GetStatus().GetConditions() {
		if c.Status {
			continue
		}
		switch c.Type {
		case "NetworkReady":
			out = append(out, fmt.Sprintf("container runtime network not ready: %s=%v reason:%s message:%s", c.Type, c.Status, c.Reason, c.Message))
		case "RuntimeReady":
			out = append(out, fmt.Sprintf("container runtime not ready: %s=%v reason:%s message:%s", c.Type, c.Status, c.Reason, c.Message))
		}
	}
	if len(out) > 1 {
		return "[" + strings.Join(out, ", ") + "]"
	}
	return strings.Join(out, "")
}

// Bounds of the images in a node's status: the largest ones, a few names each.
const (
	maxImages = 50
	maxNames  = 5
)

func imageList(images []*cri.Image) []corev1.ContainerImage {
	var out []corev1.ContainerImage
	for _, i := range images {
		names := slices.Concat(i.RepoDigests, i.RepoTags)
		if len(names) == 0 {
			continue
		}
		out = append(out, corev1.ContainerImage{Names: names[:min(len(names), maxNames)], SizeBytes: int64(i.Size)})
	}
	slices.SortFunc(out, func(a, b corev1.ContainerImage) int {
		if a.SizeBytes != b.SizeBytes {
			return int(max(min(b.SizeBytes-a.SizeBytes, 1), -1))
		}
		return strings.Compare(a.Names[0], b.Names[0])
	})
	return out[:min(len(out), maxImages)]
}

// lease renews the node's lease until ctx ends.
func (r *Reporter) lease(ctx context.Context) {
	var held *coordinationv1.Lease
	wait := r.c.Lease / 4
	for {
		got, err := r.renew(ctx, held)
		next := wait
		if err != nil {
			if ctx.Err() == nil {
				r.c.Logger.Warn("renew node lease", "node", r.c.NodeName, "err", err)
			}
			got, next = nil, min(wait, time.Second)
		}
		held = got
		if !sleep(ctx, next) {
			return
		}
	}
}

func (r *Reporter) renew(ctx context.Context, held *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	now := metav1.NowMicro()
	if held == nil {
		have, err := client.Get[*coordinationv1.Lease](ctx, r.c.Client, corev1.NamespaceNodeLease, r.c.NodeName)
		if apierrors.IsNotFound(err) {
			return client.Create(ctx, r.c.Client, r.newLease(now))
		}
		if err != nil {
			return nil, err
		}
		held = have
	}
	l := held.DeepCopy()
	l.Spec.RenewTime = &now
	l.Spec.HolderIdentity = &r.c.NodeName
	got, err := client.Update(ctx, r.c.Client, "", l)
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return r.renew(ctx, nil)
	}
	return got, err
}

func (r *Reporter) newLease(now metav1.MicroTime) *coordinationv1.Lease {
	seconds := int32(r.c.Lease / time.Second)
	l := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: r.c.NodeName}}
	l.Spec = coordinationv1.LeaseSpec{HolderIdentity: &r.c.NodeName, LeaseDurationSeconds: &seconds, RenewTime: &now}
	if n := r.Node(); n != nil {
		l.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: n.Name, UID: n.UID}}
	}
	return l
}
