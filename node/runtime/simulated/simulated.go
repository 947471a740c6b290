// Package simulated is a container runtime that only pretends: sandboxes get
// addresses, containers run, log a line and end as the pod's annotations say, and
// nothing is started. It takes the place of CRI where thousands of nodes are
// wanted in one process. Its time is package time's, so that in a
// testing/synctest bubble days pass at once. It keeps everything in memory and
// touches neither files nor the network.
package simulated

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff/node/probe"
	"skiff/node/runtime"
)

// Annotations on a pod say how its containers behave. Durations are Go's ("90s").
// One that ends in "." and a container's name holds for that container only.
const (
	// ExitAfter is how long a container runs; missing: until it is stopped (an
	// init container: not at all).
	ExitAfter = "skiff.dev/simulated-exit-after"
	// ExitCode is what it ends with then; missing: 0.
	ExitCode = "skiff.dev/simulated-exit-code"
	// StartDelay is how long it takes to start; missing: the runtime's own.
	StartDelay = "skiff.dev/simulated-start-delay"
	// ReadyAfter is how long after its start its readiness and startup probes fail.
	ReadyAfter = "skiff.dev/simulated-ready-after"
	// Unhealthy "true": its liveness probe fails.
	Unhealthy = "skiff.dev/simulated-unhealthy"
	// StopDelay is how long it takes to end after it was asked to; missing: no time.
	StopDelay = "skiff.dev/simulated-stop-delay"
	// CPU and Memory are what it is said to use, as quantities.
	CPU    = "skiff.dev/simulated-cpu"
	Memory = "skiff.dev/simulated-memory"
)

// KindAnnotation on a container tells its part in the pod: an "init" container
// ends by itself.
const KindAnnotation = "skiff.dev/container-kind"

// Config says how the runtime behaves.
type Config struct {
	// Pods is the range of the pods' addresses. Zero: 10.244.0.0/24.
	Pods netip.Prefix
	// SandboxDelay, StartDelay and PullDelay are how long these take.
	SandboxDelay, StartDelay, PullDelay time.Duration
}

// Runtime is the runtime of one simulated node.
type Runtime struct {
	c Config

	mu         sync.Mutex
	next       int
	sandboxes  map[string]*sandbox
	containers map[string]*container
	images     map[string]*cri.Image
	used       map[netip.Addr]bool
	last       netip.Addr // given out last
	listeners  map[int]chan *cri.ContainerEventResponse
	down       bool
}

var _ runtime.Runtime = (*Runtime)(nil)

type sandbox struct {
	id      string
	config  *cri.PodSandboxConfig
	ready   bool
	ip      netip.Addr
	created time.Time
}

type container struct {
	id      string
	sandbox *sandbox
	config  *cri.ContainerConfig
	state   cri.ContainerState

	created, started, finished time.Time
	exit                       int32
	timer                      *time.Timer
	ended                      chan struct{} // closed at its end
	log                        []line
	resources                  *cri.LinuxContainerResources
}

type line struct {
	at   time.Time
	text string
}

// New makes a runtime without pods.
func New(c Config) *Runtime {
	if !c.Pods.IsValid() {
		c.Pods = netip.MustParsePrefix("10.244.0.0/24")
	}
	return &Runtime{c: c, sandboxes: map[string]*sandbox{}, containers: map[string]*container{}, images: map[string]*cri.Image{},
		used: map[netip.Addr]bool{}, last: c.Pods.Masked().Addr(), listeners: map[int]chan *cri.ContainerEventResponse{}}
}

// SetDown makes every call fail, as if the runtime had crashed, or ends that.
func (r *Runtime) SetDown(down bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = down
}

func (r *Runtime) upLocked() error {
	if r.down {
		return status.Error(codes.Unavailable, "the simulated runtime is down")
	}
	return nil
}

func missing(what, id string) error {
	return status.Errorf(codes.NotFound, "%s %q: not found", what, id)
}

func (r *Runtime) Version(context.Context) (*cri.VersionResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.upLocked(); err != nil {
		return nil, err
	}
	return &cri.VersionResponse{Version: "0.1.0", RuntimeName: "simulated", RuntimeVersion: "1", RuntimeApiVersion: "v1"}, nil
}

func (r *Runtime) Status(context.Context) (*cri.StatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.upLocked(); err != nil {
		return nil, err
	}
	conditions := []*cri.RuntimeCondition{{Type: "RuntimeReady", Status: true}, {Type: "NetworkReady", Status: true}}
	return &cri.StatusResponse{Status: &cri.RuntimeStatus{Conditions: conditions}, Features: &cri.RuntimeFeatures{SupplementalGroupsPolicy: true}}, nil
}

func (r *Runtime) CgroupDriver(context.Context) (string, error) { return "cgroupfs", nil }

// pause takes the time that something takes.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
}

func (r *Runtime) RunSandbox(ctx context.Context, config *cri.PodSandboxConfig, _ string) (string, error) {
	if err := pause(ctx, r.c.SandboxDelay); err != nil {
		return "", err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.upLocked(); err != nil {
		return "", err
	}
	m := config.GetMetadata()
	for _, s := range r.sandboxes {
		o := s.config.GetMetadata()
		if s.ready && o.GetUid() == m.GetUid() && o.GetAttempt() == m.GetAttempt() {
			return "", status.Errorf(codes.AlreadyExists, "sandbox name is reserved for %q", s.id)
		}
	}
	s := &sandbox{id: r.idLocked(), config: config, ready: true, created: time.Now()}
	if config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetNetwork() != cri.NamespaceMode_NODE {
		ip, err := r.addressLocked()
		if err != nil {
			return "", err
		}
		s.ip = ip
	}
	r.sandboxes[s.id] = s
	return s.id, nil
}

// idLocked makes an id of the usual form.
func (r *Runtime) idLocked() string {
	r.next++
	return fmt.Sprintf("%064x", r.next)
}

// addressLocked gives out the next free address; the first one is the network's
// own, the second its gateway's.
func (r *Runtime) addressLocked() (netip.Addr, error) {
	first := r.c.Pods.Masked().Addr().Next().Next()
	ip := r.last.Next()
	for tries := 0; tries < 1<<16; tries++ {
		if !r.c.Pods.Contains(ip) || ip.Less(first) {
			ip = first
		}
		if !r.used[ip] {
			r.used[ip], r.last = true, ip
			return ip, nil
		}
		ip = ip.Next()
	}
	return netip.Addr{}, status.Errorf(codes.ResourceExhausted, "no address is free in %s", r.c.Pods)
}

func (r *Runtime) StopSandbox(_ context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.upLocked(); err != nil {
		return err
	}
	s := r.sandboxes[id]
	if s == nil || !s.ready {
		return nil
	}
	for _, c := range r.containers {
		if c.sandbox == s {
			r.endLocked(c, 137)
		}
	}
	s.ready = false
	if s.ip.IsValid() {
		delete(r.used, s.ip)
	}
	r.emitLocked(s, s.id, cri.ContainerEventType_CONTAINER_STOPPED_EVENT)
	return nil
}

func (r *Runtime) RemoveSandbox(ctx context.Context, id string) error {
	if err := r.StopSandbox(ctx, id); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for cid, c := range r.containers {
		if c.sandbox.id == id {
			delete(r.containers, cid)
		}
	}
	delete(r.sandboxes, id)
	return nil
}

// LoseSandbox ends a sandbox as a crash of its pause process would.
func (r *Runtime) LoseSandbox(id string) error { return r.StopSandbox(context.Background(), id) }

func (r *Runtime) statusOfLocked(s *sandbox) *cri.PodSandboxStatus {
	state := cri.PodSandboxState_SANDBOX_NOTREADY
	if s.ready {
		state = cri.PodSandboxState_SANDBOX_READY
	}
	out := &cri.PodSandboxStatus{Id: s.id, Metadata: s.config.Metadata, State: state, CreatedAt: s.created.UnixNano(),
		Labels: s.config.Labels, Annotations: s.config.Annotations, Network: &cri.PodSandboxNetworkStatus{}}
	if s.ip.IsValid() && s.ready {
		out.Network.Ip = s.ip.String()
	}
	return out
}

func (r *Runtime) SandboxStatus(_ context.Context, id string) (*cri.PodSandboxStatus, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.upLocked(); err != nil {
		return nil, err
	}
	s := r.sandboxes[id]
	if s == nil {
		return nil, missing("sandbox", id)
	}
	return r.statusOfLocked(s), nil
}

func (r *Runtime) Sandboxes(context.Context) ([]*cri.PodSandbox, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.upLocked(); err != nil {
		return nil, err
	}
	var out []*cri.PodSandbox
	for _, id := range slices.Sorted(maps.Keys(r.sandboxes)) {
		st := r.statusOfLocked(r.sandboxes[id])
		out = append(out, &cri.PodSandbox{Id: st.Id, Metadata: st.Metadata, State: st.State, CreatedAt: st.CreatedAt, Labels: st.Labels, Annotations: st.Annotations})
	}
	return out, nil
}

func (r *Runtime) CreateContainer(_ context.Context, sandboxID string, config *cri.ContainerConfig, _ *cri.PodSandboxConfig) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.upLocked(); err != nil {
		return "", err
	}
	s := r.sandboxes[sandboxID]
	if s == nil {
		return "", missing("sandbox", sandboxID)
	}
	if !s.ready {
		return "", status.Errorf(codes.FailedPrecondition, "sandbox %q is not running", sandboxID)
	}
	c := &container{id: r.idLocked(), sandbox: s, config: config, created: time.Now(), ended: make(chan struct{}), resources: config.GetLinux().GetResources()}
	r.containers[c.id] = c
	r.emitLocked(s, c.id, cri.ContainerEventType_CONTAINER_CREATED_EVENT)
	return c.id, nil
}

// annotation reads a pod's annotation for a container.
func annotation(all map[string]string, key, container string) string {
	if v, ok := all[key+"."+container]; ok {
		return v
	}
	return all[key]
}

func duration(all map[string]string, key, container string) (time.Duration, bool) {
	d, err := time.ParseDuration(annotation(all, key, container))
	return d, err == nil
}

func (r *Runtime) StartContainer(ctx context.Context, id string) error {
	r.mu.Lock()
	c := r.containers[id]
	if err := r.upLocked(); err != nil || c == nil {
		r.mu.Unlock()
		if err == nil {
			err = missing("container", id)
		}
		return err
	}
	all, name := c.sandbox.config.Annotations, c.config.Metadata.Name
	r.mu.Unlock()
	delay := r.c.StartDelay
	if d, ok := duration(all, StartDelay, name); ok {
		delay = d
	}
	if err := pause(ctx, delay); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.state != cri.ContainerState_CONTAINER_CREATED {
		return status.Errorf(codes.FailedPrecondition, "container %q is in state %s", id, c.state)
	}
	if !c.sandbox.ready {
		return status.Errorf(codes.FailedPrecondition, "sandbox of container %q is not running", id)
	}
	c.state, c.started = cri.ContainerState_CONTAINER_RUNNING, time.Now()
	c.log = append(c.log, line{c.started, fmt.Sprintf("simulated container %s of pod %s started", name, c.sandbox.config.Metadata.Name)})
	r.emitLocked(c.sandbox, id, cri.ContainerEventType_CONTAINER_STARTED_EVENT)
	r.scheduleLocked(c)
	return nil
}

// scheduleLocked sets the time of the container's end, if it has one.
func (r *Runtime) scheduleLocked(c *container) {
	all, name := c.sandbox.config.Annotations, c.config.Metadata.Name
	after, ok := duration(all, ExitAfter, name)
	if c.config.Annotations[KindAnnotation] == "init" {
		if _, own := all[ExitAfter+"."+name]; !own {
			after, ok = 0, true
		}
	}
	if !ok {
		return
	}
	code, err := strconv.ParseInt(annotation(all, ExitCode, name), 10, 32)
	if err != nil {
		code = 0
	}
	if c.config.Annotations[KindAnnotation] == "init" {
		if _, own := all[ExitCode+"."+name]; !own {
			code = 0
		}
	}
	c.timer = time.AfterFunc(after, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.endLocked(c, int32(code))
	})
}

// endLocked ends a running container.
func (r *Runtime) endLocked(c *container, code int32) {
	if c.state != cri.ContainerState_CONTAINER_RUNNING {
		return
	}
	if c.timer != nil {
		c.timer.Stop()
	}
	c.state, c.finished, c.exit = cri.ContainerState_CONTAINER_EXITED, time.Now(), code
	close(c.ended)
	r.emitLocked(c.sandbox, c.id, cri.ContainerEventType_CONTAINER_STOPPED_EVENT)
}

// Exit ends a container as if its process had ended with the code.
func (r *Runtime) Exit(id string, code int32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.containers[id]; c != nil {
		r.endLocked(c, code)
	}
}

func (r *Runtime) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	r.mu.Lock()
	c := r.containers[id]
	if err := r.upLocked(); err != nil || c == nil || c.state != cri.ContainerState_CONTAINER_RUNNING {
		r.mu.Unlock()
		return err
	}
	takes, _ := duration(c.sandbox.config.Annotations, StopDelay, c.config.Metadata.Name)
	r.mu.Unlock()
	code := int32(143) // 128 and SIGTERM
	if takes > grace {
		takes, code = grace, 137 // 128 and SIGKILL
	}
	t := time.NewTimer(takes)
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.ended:
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.endLocked(c, code)
	return nil
}

func (r *Runtime) RemoveContainer(_ context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.upLocked(); err != nil {
		return err
	}
	if c := r.containers[id]; c != nil {
		r.endLocked(c, 137)
		delete(r.containers, id)
	}
	return nil
}

func (r *Runtime) containerStatusLocked(c *container) *cri.ContainerStatus {
	out := &cri.ContainerStatus{Id: c.id, Metadata: c.config.Metadata, State: c.state, CreatedAt: c.created.UnixNano(),
		Image: &cri.ImageSpec{Image: c.config.GetImage().GetUserSpecifiedImage()}, ImageRef: c.config.GetImage().GetImage(),
		Labels: c.config.Labels, Annotations: c.config.Annotations, ExitCode: c.exit, LogPath: "",
		Resources: &cri.ContainerResources{Linux: c.resources}}
	if !c.started.IsZero() {
		out.StartedAt = c.started.UnixNano()
	}
	if c.state == cri.ContainerState_CONTAINER_EXITED {
		out.FinishedAt = c.finished.UnixNano()
		out.Reason = "Completed"
		if c.exit != 0 {
			out.Reason = "Error"
		}
	}
	return out
}

func (r *Runtime) ContainerStatus(_ context.Context, id string) (*cri.ContainerStatus, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.upLocked(); err != nil {
		return nil, err
	}
	c := r.containers[id]
	if c == nil {
		return nil, missing("container", id)
	}
	return r.containerStatusLocked(c), nil
}

func (r *Runtime) Containers(context.Context) ([]*cri.Container, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.upLocked(); err != nil {
		return nil, err
	}
	var out []*cri.Container
	for _, id := range slices.Sorted(maps.Keys(r.containers)) {
		c := r.containers[id]
		out = append(out, &cri.Container{Id: c.id, PodSandboxId: c.sandbox.id, Metadata: c.config.Metadata, Image: c.config.Image, ImageRef: c.config.GetImage().GetImage(),
			State: c.state, CreatedAt: c.created.UnixNano(), Labels: c.config.Labels, Annotations: c.config.Annotations})
	}
	return out, nil
}

func (r *Runtime) UpdateContainer(_ context.Context, id string, resources *cri.LinuxContainerResources) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.upLocked(); err != nil {
		return err
	}
	c := r.containers[id]
	if c == nil {
		return missing("container", id)
	}
	c.resources = resources
	return nil
}

// emitLocked tells the listeners. One that does not keep up loses its stream, and
// will list.
func (r *Runtime) emitLocked(s *sandbox, id string, what cri.ContainerEventType) {
	e := &cri.ContainerEventResponse{ContainerId: id, ContainerEventType: what, CreatedAt: time.Now().UnixNano(), PodSandboxStatus: r.statusOfLocked(s)}
	if c := r.containers[id]; c != nil {
		e.ContainersStatuses = []*cri.ContainerStatus{r.containerStatusLocked(c)}
	}
	for n, ch := range r.listeners {
		select {
		case ch <- e:
		default:
			close(ch)
			delete(r.listeners, n)
		}
	}
}

func (r *Runtime) Events(ctx context.Context, connected func(), on func(*cri.ContainerEventResponse)) error {
	ch := make(chan *cri.ContainerEventResponse, 256)
	r.mu.Lock()
	if err := r.upLocked(); err != nil {
		r.mu.Unlock()
		return err
	}
	r.next++
	n := r.next
	r.listeners[n] = ch
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.listeners, n)
	}()
	connected()
	for {
		select {
		case e, ok := <-ch:
			if !ok {
				return status.Error(codes.ResourceExhausted, "the listener was too slow")
			}
			on(e)
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
}

func (r *Runtime) Stats(context.Context) ([]*cri.ContainerStats, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.upLocked(); err != nil {
		return nil, err
	}
	now := time.Now()
	var out []*cri.ContainerStats
	for _, c := range r.containers {
		if c.state != cri.ContainerState_CONTAINER_RUNNING {
			continue
		}
		all, name := c.sandbox.config.Annotations, c.config.Metadata.Name
		cpu, memory := quantity(all, CPU, name, "1m"), quantity(all, Memory, name, "8Mi")
		nano := uint64(cpu.MilliValue()) * 1_000_000
		total := uint64(now.Sub(c.started).Seconds() * float64(nano))
		out = append(out, &cri.ContainerStats{
			Attributes: &cri.ContainerAttributes{Id: c.id, Metadata: c.config.Metadata, Labels: c.config.Labels},
			Cpu:        &cri.CpuUsage{Timestamp: now.UnixNano(), UsageCoreNanoSeconds: &cri.UInt64Value{Value: total}, UsageNanoCores: &cri.UInt64Value{Value: nano}},
			Memory:     &cri.MemoryUsage{Timestamp: now.UnixNano(), WorkingSetBytes: &cri.UInt64Value{Value: uint64(memory.Value())}, UsageBytes: &cri.UInt64Value{Value: uint64(memory.Value())}},
		})
	}
	return out, nil
}

func quantity(all map[string]string, key, name, otherwise string) resource.Quantity {
	q, err := resource.ParseQuantity(annotation(all, key, name))
	if err != nil {
		return resource.MustParse(otherwise)
	}
	return q
}

// Check answers probes of simulated containers from the pod's annotations.
func Check(_ context.Context, t probe.Target, p *corev1.Probe) probe.Result {
	if p == t.Container.LivenessProbe {
		if annotation(t.Pod.Annotations, Unhealthy, t.Container.Name) == "true" {
			return probe.Result{Outcome: probe.Failure, Output: "simulated as unhealthy"}
		}
		return probe.Result{Outcome: probe.Success}
	}
	if after, ok := duration(t.Pod.Annotations, ReadyAfter, t.Container.Name); ok && time.Since(t.Started) < after {
		return probe.Result{Outcome: probe.Failure, Output: "simulated as not ready yet"}
	}
	return probe.Result{Outcome: probe.Success}
}
