// Package volume makes the pods' volumes on this node: directories, files from
// config maps, secrets, tokens and the downward API that follow their sources,
// and the bind mounts of sub-paths. It owns everything below a pod's "volumes"
// and "volume-subpaths" directories. Package pod calls it; what a volume may be is
// the API's affair.
package volume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff/client"
	"skiff/node/pod"
)

// Config is what a Manager works with; all fields but Logger are required.
type Config struct {
	Client     client.Client
	References pod.References
	// TrustBundles are those of the whole cluster.
	TrustBundles func(ctx context.Context) ([]*certificatesv1.ClusterTrustBundle, error)
	Layout       pod.Layout
	// Facts tell what the downward API knows of a pod.
	Facts  func(p *corev1.Pod) pod.Facts
	Logger *slog.Logger
}

// Manager makes and keeps the volumes of one node.
type Manager struct {
	c Config

	mu   sync.Mutex
	pods map[types.UID]*podVolumes
	wake chan struct{}
}

var _ pod.Volumes = (*Manager)(nil)

// podVolumes are one pod's volumes that are set up.
type podVolumes struct {
	mu          sync.Mutex // held while files are written
	pod         *corev1.Pod
	dirs        map[string]string      // host path by volume name
	tokens      map[string]token       // by volume and path
	credentials map[string]*credential // by volume and index of the source
	due         time.Time              // when a token wants to be renewed
	gone        bool
}

// New makes a Manager.
func New(c Config) *Manager {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return &Manager{c: c, pods: map[types.UID]*podVolumes{}, wake: make(chan struct{}, 1)}
}

// Run renews tokens and brings files up to date until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		timer.Reset(m.nextDue())
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-m.wake:
		}
		m.refreshDue(ctx)
	}
}

// Changed says that a config map or secret of the namespace changed, or with "" a
// trust bundle.
func (m *Manager) Changed(namespace string) {
	m.mu.Lock()
	for _, v := range m.pods {
		if v.pod.Namespace == namespace || (namespace == "" && projectsBundle(v.pod)) {
			v.due = time.Unix(1, 0)
		}
	}
	m.mu.Unlock()
	m.poke()
}

// Updated says that a pod's labels or annotations may have changed.
func (m *Manager) Updated(p *corev1.Pod) {
	m.mu.Lock()
	v := m.pods[p.UID]
	if v == nil {
		m.mu.Unlock()
		return
	}
	told := !maps.Equal(v.pod.Labels, p.Labels) || !maps.Equal(v.pod.Annotations, p.Annotations)
	v.pod = p
	if told {
		v.due = time.Unix(1, 0)
	}
	m.mu.Unlock()
	if told {
		m.poke()
	}
}

func (m *Manager) poke() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

func (m *Manager) nextDue() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	wait := time.Hour
	for _, v := range m.pods {
		if !v.due.IsZero() {
			wait = min(wait, time.Until(v.due))
		}
	}
	return max(wait, 10*time.Millisecond)
}

func (m *Manager) refreshDue(ctx context.Context) {
	m.mu.Lock()
	now := time.Now()
	var due []*podVolumes
	for _, v := range m.pods {
		if !v.due.IsZero() && !now.Before(v.due) {
			v.due = time.Time{}
			due = append(due, v)
		}
	}
	m.mu.Unlock()
	for _, v := range due {
		if err := m.refresh(ctx, v); err != nil && ctx.Err() == nil {
			m.c.Logger.Warn("volume is not brought up to date", "pod", v.pod.Namespace+"/"+v.pod.Name, "err", err)
			m.setDue(v, time.Now().Add(time.Minute))
		}
	}
}

func (m *Manager) setDue(v *podVolumes, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if v.due.IsZero() || at.Before(v.due) {
		v.due = at
	}
}

// refresh writes all files of the pod again that have changed.
func (m *Manager) refresh(ctx context.Context, v *podVolumes) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.gone {
		return nil
	}
	var errs []error
	p := m.podOf(v)
	for i := range p.Spec.Volumes {
		vol := &p.Spec.Volumes[i]
		if v.dirs[vol.Name] != "" && fromAPI(vol) {
			errs = append(errs, m.writeFiles(ctx, v, p, vol))
		}
	}
	return errors.Join(errs...)
}

func (m *Manager) podOf(v *podVolumes) *corev1.Pod {
	m.mu.Lock()
	defer m.mu.Unlock()
	return v.pod
}

// SetUp makes all volumes that the pod's containers mount.
func (m *Manager) SetUp(ctx context.Context, p *corev1.Pod) error {
	m.mu.Lock()
	v := m.pods[p.UID]
	if v == nil {
		v = &podVolumes{pod: p, dirs: map[string]string{}, tokens: map[string]token{}, credentials: map[string]*credential{}}
		m.pods[p.UID] = v
	}
	v.pod = p
	m.mu.Unlock()
	v.mu.Lock()
	defer v.mu.Unlock()
	for i := range p.Spec.Volumes {
		vol := &p.Spec.Volumes[i]
		if !mounted(p, vol.Name) {
			continue
		}
		dir, err := m.setUp(ctx, v, p, vol)
		if err != nil {
			return fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", vol.Name, err)
		}
		v.dirs[vol.Name] = dir
	}
	m.poke()
	return nil
}

func mounted(p *corev1.Pod, volume string) bool {
	uses := func(mounts []corev1.VolumeMount) bool {
		return slices.ContainsFunc(mounts, func(m corev1.VolumeMount) bool { return m.Name == volume })
	}
	for _, c := range p.Spec.InitContainers {
		if uses(c.VolumeMounts) {
			return true
		}
	}
	for _, c := range p.Spec.Containers {
		if uses(c.VolumeMounts) {
			return true
		}
	}
	for _, c := range p.Spec.EphemeralContainers {
		if uses(c.VolumeMounts) {
			return true
		}
	}
	return false
}

// fromAPI: the volume's files come from API objects and follow them.
func fromAPI(v *corev1.Volume) bool {
	return v.ConfigMap != nil || v.Secret != nil || v.DownwardAPI != nil || v.Projected != nil
}

// setUp makes one volume and returns its directory or file on the node.
func (m *Manager) setUp(ctx context.Context, v *podVolumes, p *corev1.Pod, vol *corev1.Volume) (string, error) {
	switch {
	case vol.EmptyDir != nil:
		return m.emptyDir(p, vol)
	case vol.HostPath != nil:
		return vol.HostPath.Path, checkHostPath(vol.HostPath)
	case fromAPI(vol):
		dir, err := m.filesDir(p, vol)
		if err != nil {
			return "", err
		}
		v.dirs[vol.Name] = dir
		return dir, m.writeFiles(ctx, v, p, vol)
	case vol.PersistentVolumeClaim != nil:
		return m.claim(ctx, p, vol.PersistentVolumeClaim.ClaimName)
	case vol.Ephemeral != nil:
		return m.claim(ctx, p, p.Name+"-"+vol.Name)
	case vol.Image != nil:
		return "", nil // the runtime mounts it: package pod sees to that
	}
	return "", errors.New("no volume plugin matched: this node makes emptyDir, hostPath, configMap, secret, projected, downwardAPI and claims of directories")
}

// TearDown unmounts and forgets all volumes of the pod.
func (m *Manager) TearDown(_ context.Context, p *corev1.Pod) error {
	m.mu.Lock()
	v := m.pods[p.UID]
	delete(m.pods, p.UID)
	m.mu.Unlock()
	if v != nil {
		v.mu.Lock()
		v.gone = true
		v.mu.Unlock()
	}
	return unmountBelow(m.c.Layout.Pod(string(p.UID)))
}

func (m *Manager) dir(p *corev1.Pod, plugin, name string) string {
	return filepath.Join(m.c.Layout.Pod(string(p.UID)), "volumes", "kubernetes.io~"+plugin, name)
}

// Mounts are the container's mounts, with sub-paths resolved safely.
func (m *Manager) Mounts(_ context.Context, p *corev1.Pod, c *corev1.Container, expand func(string) (string, error)) ([]*cri.Mount, error) {
	m.mu.Lock()
	v := m.pods[p.UID]
	m.mu.Unlock()
	if v == nil {
		return nil, errors.New("the pod's volumes are not set up")
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	var out []*cri.Mount
	for i := range c.VolumeMounts {
		vm := &c.VolumeMounts[i]
		if vol := volumeOf(p, vm.Name); vol != nil && vol.Image != nil {
			continue
		}
		mount, err := m.mount(v, p, c, i, vm, expand)
		if err != nil {
			return nil, err
		}
		out = append(out, mount)
	}
	return out, nil
}

func (m *Manager) mount(v *podVolumes, p *corev1.Pod, c *corev1.Container, i int, vm *corev1.VolumeMount, expand func(string) (string, error)) (*cri.Mount, error) {
	host := v.dirs[vm.Name]
	if host == "" {
		return nil, fmt.Errorf("cannot find volume %q to mount into container %q", vm.Name, c.Name)
	}
	sub := vm.SubPath
	if vm.SubPathExpr != "" {
		var err error
		if sub, err = expand(vm.SubPathExpr); err != nil {
			return nil, err
		}
	}
	readOnly := vm.ReadOnly
	if vol := volumeOf(p, vm.Name); vol != nil {
		readOnly = readOnly || fromAPI(vol) || (vol.PersistentVolumeClaim != nil && vol.PersistentVolumeClaim.ReadOnly)
	}
	if sub != "" {
		if filepath.IsAbs(sub) {
			return nil, fmt.Errorf("error SubPath %q must not be an absolute path", sub)
		}
		target := filepath.Join(m.c.Layout.Pod(string(p.UID)), "volume-subpaths", vm.Name, c.Name, fmt.Sprint(i))
		if err := bindSubPath(host, sub, target); err != nil {
			return nil, fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q: %w", vm.Name, c.Name, err)
		}
		host = target
	}
	path := vm.MountPath
	if !filepath.IsAbs(path) {
		path = filepath.Join("/", path)
	}
	mount := &cri.Mount{ContainerPath: path, HostPath: host, Readonly: readOnly, Propagation: propagation(vm.MountPropagation)}
	if vm.RecursiveReadOnly != nil && readOnly && *vm.RecursiveReadOnly == corev1.RecursiveReadOnlyEnabled {
		mount.RecursiveReadOnly = true
	}
	return mount, nil
}

func volumeOf(p *corev1.Pod, name string) *corev1.Volume {
	for i := range p.Spec.Volumes {
		if p.Spec.Volumes[i].Name == name {
			return &p.Spec.Volumes[i]
		}
	}
	return nil
}

func propagation(mode *corev1.MountPropagationMode) cri.MountPropagation {
	switch {
	case mode == nil:
		return cri.MountPropagation_PROPAGATION_PRIVATE
	case *mode == corev1.MountPropagationHostToContainer:
		return cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
	case *mode == corev1.MountPropagationBidirectional:
		return cri.MountPropagation_PROPAGATION_BIDIRECTIONAL
	}
	return cri.MountPropagation_PROPAGATION_PRIVATE
}

// fsGroup is the group that owns the pod's volumes, or -1.
func fsGroup(p *corev1.Pod) int {
	if s := p.Spec.SecurityContext; s != nil && s.FSGroup != nil {
		return int(*s.FSGroup)
	}
	return -1
}

// own gives a writable volume to the pod's fsGroup: group ownership, group rw,
// and setgid directories, so that new files belong to it too.
func own(root string, group int, policy *corev1.PodFSGroupChangePolicy) error {
	if group < 0 {
		return nil
	}
	if policy != nil && *policy == corev1.FSGroupChangeOnRootMismatch && ownedBy(root, group) {
		return nil
	}
	return filepath.Walk(root, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		if err := os.Lchown(path, -1, group); err != nil {
			return err
		}
		if info.Mode()&os.ModeSymlink != 0 {
			return nil
		}
		mode := info.Mode() | 0o660
		if info.IsDir() {
			mode |= 0o110 | os.ModeSetgid
		}
		return os.Chmod(path, mode)
	})
}
