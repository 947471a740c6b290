package pod

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff/api"
	"skiff/client"
	"skiff/node/probe"
	"skiff/node/runtime"
)

// Volumes are the pods' volumes on this node.
type Volumes interface {
	// SetUp makes all volumes of the pod, and keeps them up to date until
	// TearDown. Doing it again changes nothing.
	SetUp(ctx context.Context, p *corev1.Pod) error
	// Mounts are a container's volume mounts; expand is for subPathExpr.
	Mounts(ctx context.Context, p *corev1.Pod, c *corev1.Container, expand func(string) (string, error)) ([]*cri.Mount, error)
	// Updated says that the pod's object changed: files may tell its labels.
	Updated(p *corev1.Pod)
	// TearDown removes what SetUp made. The pod's directory may be removed after it.
	TearDown(ctx context.Context, p *corev1.Pod) error
}

// Cgroups are the pods' control groups.
type Cgroups interface {
	// Parent is the cgroup in which a pod's containers are, as CRI wants it.
	Parent(p *corev1.Pod) string
	// Ensure makes the pod's cgroup with its limits, or brings the limits up to date.
	Ensure(p *corev1.Pod) error
	Remove(p *corev1.Pod) error
	// Memory is the node's memory in bytes; Hugepages tells whether they can be limited.
	Memory() int64
	Hugepages() bool
}

// Images get a container's image onto the node. The error is an *image.Error.
type Images interface {
	Ensure(ctx context.Context, p *corev1.Pod, c *corev1.Container, sandbox *cri.PodSandboxConfig, note func(typ, reason, message string)) (*cri.Image, error)
}

// Journal keeps records over the agent's restarts.
type Journal interface {
	Load() (map[types.UID]Record, error)
	Put(uid types.UID, r Record)
	Delete(uid types.UID)
}

// Config is what a Manager works with. All fields are required except where said.
type Config struct {
	NodeName   string
	Client     client.Client
	Runtime    runtime.Runtime
	Volumes    Volumes
	References References
	Images     Images
	Cgroups    Cgroups
	Journal    Journal
	Recorder   record.EventRecorder
	// Check does one probe of one container.
	Check probe.Checker
	// Admit tells why a pod cannot run beside the others; empty reason: it can.
	Admit func(p *corev1.Pod, others []*corev1.Pod) (reason, message string)
	// Host is what statuses say of the node; it may change.
	Host func() Host
	// Allocatable is what of the node pods may use.
	Allocatable func() corev1.ResourceList
	// Services of all namespaces for the containers' environment; an error makes
	// containers wait. Nil: containers get no service variables.
	Services func() ([]*corev1.Service, error)
	DNS      DNS
	Layout   Layout
	// SeccompDir holds Localhost profiles. Empty: Layout.Root/seccomp.
	SeccompDir string
	// Resync is the time between full lists of the runtime's containers, the
	// safety net below its events. 0 means 5 minutes.
	Resync time.Duration
	Logger *slog.Logger
}

// Manager runs the node's pods. Its loop owns all machines; nothing on it blocks.
type Manager struct {
	c     Config
	inbox chan func()
	wg    sync.WaitGroup
	ctx   context.Context // of Run

	pods map[types.UID]*entry // owned by the loop

	mu    sync.RWMutex
	views map[types.UID]View // what others may see; replaced, never changed
}

// View is a pod as the rest of the agent sees it.
type View struct {
	Pod        *corev1.Pod
	Status     corev1.PodStatus
	State      State
	Sandbox    Sandbox
	Containers map[string]ContainerView
}

// ContainerView is a container's last two lives.
type ContainerView struct {
	Run, Prev *Run
}

// entry is one machine with what its actions need.
type entry struct {
	m      *Machine
	ctx    context.Context // of set-up and starts; DoCancel renews it
	cancel context.CancelFunc
	timer  *time.Timer

	sent    corev1.PodStatus // last written, or being written
	base    *corev1.Pod      // the object as the API last answered
	writing bool
	retry   int
	saved   string // the record on disk, for comparison

	probes map[string]context.CancelFunc // by container id and probe
}

// New checks the configuration.
func New(c Config) (*Manager, error) {
	switch {
	case c.NodeName == "":
		return nil, errors.New("pods: no node name")
	case c.Client == nil, c.Runtime == nil, c.Volumes == nil, c.References == nil, c.Images == nil, c.Cgroups == nil, c.Journal == nil, c.Recorder == nil, c.Check == nil, c.Host == nil:
		return nil, errors.New("pods: incomplete configuration")
	}
	if c.Admit == nil {
		c.Admit = func(*corev1.Pod, []*corev1.Pod) (string, string) { return "", "" }
	}
	if c.Allocatable == nil {
		c.Allocatable = func() corev1.ResourceList { return nil }
	}
	if c.Resync == 0 {
		c.Resync = 5 * time.Minute
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.SeccompDir == "" {
		c.SeccompDir = c.Layout.Root + "/seccomp"
	}
	return &Manager{c: c, inbox: make(chan func(), 128), pods: map[types.UID]*entry{}, views: map[types.UID]View{}}, nil
}

// Run runs the node's pods until ctx ends. Containers stay as they are then.
func (m *Manager) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer m.wg.Wait()
	defer cancel()
	m.ctx = ctx
	found, err := m.waitFound(ctx)
	if err != nil {
		return nil // ctx ended before the runtime answered
	}
	records, err := m.c.Journal.Load()
	if err != nil {
		return err
	}
	feed := m.c.Client.Follow(ctx, client.Source{
		Resource: api.For[*corev1.Pod](),
		Fields:   fields.OneTermEqualSelector("spec.nodeName", m.c.NodeName),
	})
	var first client.Batch
	select {
	case b, ok := <-feed.C:
		if !ok {
			return nil
		}
		first = b
	case <-ctx.Done():
		return nil
	}
	m.adopt(first, found, records)
	m.goDo(func() { m.watchRuntime(ctx) })
	return m.loop(ctx, feed)
}

func (m *Manager) loop(ctx context.Context, feed *client.Feed) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case f := <-m.inbox:
			f()
		case batch, ok := <-feed.C:
			if !ok {
				return nil
			}
			for _, c := range batch.Changes {
				m.changed(c)
			}
		}
	}
}

// goDo runs f beside the loop; Run waits for it.
func (m *Manager) goDo(f func()) {
	m.wg.Add(1)
	go func() {
		defer m.wg.Done()
		f()
	}()
}

// on runs f on the loop. It must not be called from the loop.
func (m *Manager) on(f func()) {
	select {
	case m.inbox <- f:
	case <-m.ctx.Done():
	}
}

// tell gives a pod's machine an event, from outside the loop.
func (m *Manager) tell(uid types.UID, ev Event) {
	m.on(func() { m.step(uid, ev) })
}

// changed takes one change of the API.
func (m *Manager) changed(c client.Change) {
	if c.New == nil {
		old := c.Old.(*corev1.Pod)
		m.step(old.UID, Removed{})
		return
	}
	p := c.New.(*corev1.Pod)
	if c.Old != nil && c.Old.GetUID() != p.UID {
		m.step(c.Old.GetUID(), Removed{})
	}
	e := m.pods[p.UID]
	if e == nil {
		m.admit(p)
		return
	}
	e.base = newer(e.base, p)
	m.step(p.UID, Updated{Pod: p})
}

// newer is whichever of two versions of an object the server wrote later.
func newer(a, b *corev1.Pod) *corev1.Pod {
	if a == nil || compareVersions(a.ResourceVersion, b.ResourceVersion) <= 0 {
		return b
	}
	return a
}

func compareVersions(a, b string) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// admit takes a new pod on, or refuses it.
func (m *Manager) admit(p *corev1.Pod) {
	if !terminal(p.Status.Phase) && p.DeletionTimestamp == nil {
		if reason, message := m.c.Admit(p, m.admitted()); reason != "" {
			m.c.Recorder.Event(p, corev1.EventTypeWarning, reason, message)
			m.begin(p, NewRejected(p, reason, message))
			return
		}
	}
	m.begin(p, NewMachine(p, Found{}, nil, time.Now()))
}

// admitted are the pods that use the node's resources.
func (m *Manager) admitted() []*corev1.Pod {
	var out []*corev1.Pod
	for _, e := range m.pods {
		if !e.m.over() && !terminal(e.m.Pod.Status.Phase) {
			out = append(out, e.m.Pod)
		}
	}
	return out
}

func (m *Manager) begin(p *corev1.Pod, machine *Machine) {
	e := &entry{m: machine, base: p, sent: p.Status, probes: map[string]context.CancelFunc{}}
	e.ctx, e.cancel = context.WithCancel(m.ctx)
	m.pods[p.UID] = e
	m.c.References.Hold(p)
	m.step(p.UID, Tick{})
}

// step gives one event to one machine and does what it asks for.
func (m *Manager) step(uid types.UID, ev Event) {
	e := m.pods[uid]
	if e == nil {
		return
	}
	now := time.Now()
	if u, ok := ev.(Updated); ok && u.Pod != e.m.Pod {
		m.c.References.Hold(u.Pod)
		m.c.Volumes.Updated(u.Pod)
	}
	acts, err := e.m.Step(ev, now)
	if err != nil {
		m.c.Logger.Error("event refused", "err", err)
	}
	for _, a := range acts {
		m.do(e, a)
	}
	m.syncProbes(e)
	m.report(e, now)
	m.save(e)
	m.publish(e)
	m.wake(e, now)
	if e.m.State == Gone {
		m.forget(e)
	}
}

// wake sets the entry's timer to what its machine wants.
func (m *Manager) wake(e *entry, now time.Time) {
	if e.timer != nil {
		e.timer.Stop()
		e.timer = nil
	}
	if at := e.m.WakeAt(now); !at.IsZero() {
		uid := e.m.Pod.UID
		e.timer = time.AfterFunc(at.Sub(now), func() { m.tell(uid, Tick{}) })
	}
}

func (m *Manager) publish(e *entry) {
	v := View{Pod: e.m.Pod, Status: e.sent, State: e.m.State, Sandbox: e.m.Sandbox, Containers: map[string]ContainerView{}}
	for _, c := range e.m.Containers {
		v.Containers[c.Name] = ContainerView{Run: c.Run, Prev: c.Prev}
	}
	m.mu.Lock()
	m.views[e.m.Pod.UID] = v
	m.mu.Unlock()
}

// forget drops a pod that is gone, and what the runtime still has of it.
func (m *Manager) forget(e *entry) {
	p := e.m.Pod
	e.cancel()
	if e.timer != nil {
		e.timer.Stop()
	}
	delete(m.pods, p.UID)
	m.mu.Lock()
	delete(m.views, p.UID)
	m.mu.Unlock()
	m.c.References.Release(p)
	m.c.Journal.Delete(p.UID)
	m.goDo(func() { m.clear(p) })
	// There is room now for those that wait to grow.
	for _, other := range m.pods {
		if r := other.m.Resize; r != nil && r.Reason == corev1.PodReasonDeferred {
			m.resize(other)
		}
	}
}

// View returns what is known of a pod, by namespace and name.
func (m *Manager) View(namespace, name string) (View, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var best View
	ok := false
	for _, v := range m.views {
		if v.Pod.Namespace == namespace && v.Pod.Name == name && (!ok || v.Pod.CreationTimestamp.After(best.Pod.CreationTimestamp.Time)) {
			best, ok = v, true
		}
	}
	return best, ok
}

// Views returns all pods, sorted by namespace and name.
func (m *Manager) Views() []View {
	m.mu.RLock()
	defer m.mu.RUnlock()
	out := make([]View, 0, len(m.views))
	for _, v := range m.views {
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b View) int {
		return compareStrings(a.Pod.Namespace+"/"+a.Pod.Name, b.Pod.Namespace+"/"+b.Pod.Name)
	})
	return out
}

func compareStrings(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// Evict ends a pod that the node wants to be rid of.
func (m *Manager) Evict(uid types.UID, ev Evicted) { m.tell(uid, ev) }

// Poke tries again at once what failed for a missing or wrong object: a config
// map or secret that the namespace's pods name has changed, or with "" something
// that pods of any namespace may name.
func (m *Manager) Poke(namespace string) {
	m.on(func() {
		for uid, e := range m.pods {
			if namespace == "" || e.m.Pod.Namespace == namespace {
				m.step(uid, Poked{})
			}
		}
	})
}

// note records an event about a pod or one of its containers.
func (m *Manager) note(p *corev1.Pod, c *corev1.Container, typ, reason, message string) {
	if c == nil {
		m.c.Recorder.Event(p, typ, reason, message)
		return
	}
	ref := &corev1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: p.Namespace, Name: p.Name, UID: p.UID,
		ResourceVersion: p.ResourceVersion, FieldPath: fieldPath(p, c.Name)}
	m.c.Recorder.Event(ref, typ, reason, message)
}

func fieldPath(p *corev1.Pod, container string) string {
	for _, c := range p.Spec.InitContainers {
		if c.Name == container {
			return fmt.Sprintf("spec.initContainers{%s}", container)
		}
	}
	for _, c := range p.Spec.EphemeralContainers {
		if c.Name == container {
			return fmt.Sprintf("spec.ephemeralContainers{%s}", container)
		}
	}
	return fmt.Sprintf("spec.containers{%s}", container)
}

// facts are what the downward API tells of a pod.
func (m *Manager) facts(p *corev1.Pod, s Sandbox) Facts {
	h := m.c.Host()
	ips := s.IPs
	if p.Spec.HostNetwork {
		ips = h.IPs
	}
	return Facts{Pod: p, NodeName: m.c.NodeName, PodIPs: ips, HostIPs: h.IPs, Allocatable: m.c.Allocatable()}
}

func (m *Manager) serviceEnv(p *corev1.Pod) (map[string]string, error) {
	if m.c.Services == nil {
		return nil, nil
	}
	services, err := m.c.Services()
	if err != nil {
		return nil, err
	}
	links := p.Spec.EnableServiceLinks == nil || *p.Spec.EnableServiceLinks
	return ServiceEnv(p.Namespace, links, services), nil
}
