package pod

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff/node/runtime"
)

// Annotations on containers, for tools that read them from the runtime.
const (
	annotationRestartCount      = "io.kubernetes.container.restartCount"
	annotationTerminationPath   = "io.kubernetes.container.terminationMessagePath"
	annotationTerminationPolicy = "io.kubernetes.container.terminationMessagePolicy"
	annotationGrace             = "io.kubernetes.pod.terminationGracePeriod"
	annotationKind              = "skiff.dev/container-kind"
)

func podLabels(p *corev1.Pod) map[string]string {
	labels := maps.Clone(p.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[runtime.LabelPodName] = p.Name
	labels[runtime.LabelPodNamespace] = p.Namespace
	labels[runtime.LabelPodUID] = string(p.UID)
	return labels
}

// sandboxConfig is the pod's sandbox as CRI wants it.
func (m *Manager) sandboxConfig(p *corev1.Pod, attempt uint32) (*cri.PodSandboxConfig, error) {
	dns, err := m.c.DNS.For(p)
	if err != nil {
		return nil, err
	}
	name, domain := m.c.DNS.hostname(p)
	if p.Spec.SetHostnameAsFQDN != nil && *p.Spec.SetHostnameAsFQDN && domain != "" {
		name += "." + domain
		if len(name) > 64 {
			return nil, fmt.Errorf("failed to construct FQDN from pod hostname and cluster domain, FQDN %s is too long (64 characters is the max, %d characters requested)", name, len(name))
		}
	}
	c := &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: p.Name, Namespace: p.Namespace, Uid: string(p.UID), Attempt: attempt},
		LogDirectory: m.c.Layout.PodLogs(p.Namespace, p.Name, string(p.UID)),
		DnsConfig:    dns,
		Labels:       podLabels(p),
		Annotations:  maps.Clone(p.Annotations),
	}
	if !p.Spec.HostNetwork {
		c.Hostname = name
	}
	c.PortMappings = portMappings(p)
	c.Linux = m.sandboxLinux(p)
	return c, nil
}

func portMappings(p *corev1.Pod) []*cri.PortMapping {
	var out []*cri.PortMapping
	if p.Spec.HostNetwork {
		return nil
	}
	for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
		for _, port := range c.Ports {
			out = append(out, &cri.PortMapping{HostIp: port.HostIP, HostPort: port.HostPort, ContainerPort: port.ContainerPort, Protocol: protocol(port.Protocol)})
		}
	}
	return out
}

func protocol(p corev1.Protocol) cri.Protocol {
	switch p {
	case corev1.ProtocolUDP:
		return cri.Protocol_UDP
	case corev1.ProtocolSCTP:
		return cri.Protocol_SCTP
	}
	return cri.Protocol_TCP
}

func (m *Manager) sandboxLinux(p *corev1.Pod) *cri.LinuxPodSandboxConfig {
	sc := &cri.LinuxSandboxSecurityContext{
		NamespaceOptions: namespaces(p, nil, ""),
		Privileged:       anyPrivileged(p),
		Seccomp:          &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault},
	}
	out := &cri.LinuxPodSandboxConfig{CgroupParent: m.c.Cgroups.Parent(p), SecurityContext: sc}
	total := Total(p)
	out.Resources = &cri.LinuxContainerResources{
		CpuShares: milliCPUToShares(total.Requests.Cpu().MilliValue()), CpuPeriod: cpuPeriod,
	}
	if total.CPULimited {
		out.Resources.CpuQuota = milliCPUToQuota(total.Limits.Cpu().MilliValue())
	}
	if total.MemoryLimited {
		out.Resources.MemoryLimitInBytes = total.Limits.Memory().Value()
	}
	s := p.Spec.SecurityContext
	if s == nil {
		return out
	}
	out.Sysctls = map[string]string{}
	for _, sysctl := range s.Sysctls {
		out.Sysctls[sysctl.Name] = sysctl.Value
	}
	sc.RunAsUser, sc.RunAsGroup = int64Value(s.RunAsUser), int64Value(s.RunAsGroup)
	sc.SupplementalGroups = supplementalGroups(p)
	sc.SupplementalGroupsPolicy = groupsPolicy(s)
	sc.SelinuxOptions = selinux(s.SELinuxOptions)
	return out
}

func anyPrivileged(p *corev1.Pod) bool {
	for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
		if c.SecurityContext != nil && c.SecurityContext.Privileged != nil && *c.SecurityContext.Privileged {
			return true
		}
	}
	return false
}

func int64Value(v *int64) *cri.Int64Value {
	if v == nil {
		return nil
	}
	return &cri.Int64Value{Value: *v}
}

func supplementalGroups(p *corev1.Pod) []int64 {
	s := p.Spec.SecurityContext
	if s == nil {
		return nil
	}
	groups := slices.Clone(s.SupplementalGroups)
	if s.FSGroup != nil {
		groups = append(groups, *s.FSGroup)
	}
	return groups
}

func groupsPolicy(s *corev1.PodSecurityContext) cri.SupplementalGroupsPolicy {
	if s != nil && s.SupplementalGroupsPolicy != nil && *s.SupplementalGroupsPolicy == corev1.SupplementalGroupsPolicyStrict {
		return cri.SupplementalGroupsPolicy_Strict
	}
	return cri.SupplementalGroupsPolicy_Merge
}

func selinux(o *corev1.SELinuxOptions) *cri.SELinuxOption {
	if o == nil {
		return nil
	}
	return &cri.SELinuxOption{User: o.User, Role: o.Role, Type: o.Type, Level: o.Level}
}

// namespaces says which namespaces a container shares. target is the id of the
// container whose processes an ephemeral container sees; empty: none.
func namespaces(p *corev1.Pod, c *corev1.Container, target string) *cri.NamespaceOption {
	o := &cri.NamespaceOption{Network: cri.NamespaceMode_POD, Ipc: cri.NamespaceMode_POD, Pid: cri.NamespaceMode_CONTAINER}
	if p.Spec.HostNetwork {
		o.Network = cri.NamespaceMode_NODE
	}
	if p.Spec.HostIPC {
		o.Ipc = cri.NamespaceMode_NODE
	}
	switch {
	case p.Spec.HostPID:
		o.Pid = cri.NamespaceMode_NODE
	case p.Spec.ShareProcessNamespace != nil && *p.Spec.ShareProcessNamespace:
		o.Pid = cri.NamespaceMode_POD
	case target != "":
		o.Pid, o.TargetId = cri.NamespaceMode_TARGET, target
	}
	return o
}

// containerRequest is all that goes into a container's configuration.
type containerRequest struct {
	pod     *corev1.Pod
	spec    *corev1.Container
	kind    Kind
	attempt uint32
	sandbox Sandbox
	image   *cri.Image // present on the node
	// volumeImages are the images that the container's volumes show, present on the node: IDs by volume.
	volumeImages map[string]string
	target       string // id of an ephemeral container's target
	allowed      *corev1.ResourceRequirements
}

// containerConfig is a container as CRI wants it. Its errors become
// CreateContainerConfigError.
func (m *Manager) containerConfig(ctx context.Context, r containerRequest) (*cri.ContainerConfig, error) {
	p, c := r.pod, r.spec
	facts := m.facts(p, r.sandbox)
	services, err := m.serviceEnv(p)
	if err != nil {
		return nil, err
	}
	environment, invalid, err := Env(ctx, facts, c, services, m.c.References)
	if err != nil {
		return nil, err
	}
	if len(invalid) > 0 {
		m.note(p, c, corev1.EventTypeWarning, "InvalidEnvironmentVariableNames", fmt.Sprintf("Keys %v from the envFrom sources were skipped since they are considered invalid environment variable names.", invalid))
	}
	if err := checkNonRoot(p, c, r.image); err != nil {
		return nil, err
	}
	lookup := func(name string) (string, bool) { v, ok := environment.values[name]; return v, ok }
	mounts, err := m.mounts(ctx, r, lookup)
	if err != nil {
		return nil, err
	}
	out := &cri.ContainerConfig{
		Metadata:    &cri.ContainerMetadata{Name: c.Name, Attempt: r.attempt},
		Image:       &cri.ImageSpec{Image: r.image.GetId(), UserSpecifiedImage: c.Image},
		WorkingDir:  c.WorkingDir,
		Mounts:      mounts,
		Labels:      map[string]string{runtime.LabelContainerName: c.Name, runtime.LabelPodName: p.Name, runtime.LabelPodNamespace: p.Namespace, runtime.LabelPodUID: string(p.UID)},
		Annotations: containerAnnotations(r),
		LogPath:     ContainerLog(c.Name, r.attempt),
		Stdin:       c.Stdin, StdinOnce: c.StdinOnce, Tty: c.TTY,
	}
	if l := c.Lifecycle; l != nil && l.StopSignal != nil {
		out.StopSignal = cri.Signal(cri.Signal_value["SIGNAL_"+string(*l.StopSignal)])
	}
	for _, s := range c.Command {
		out.Command = append(out.Command, Expand(s, lookup))
	}
	for _, s := range c.Args {
		out.Args = append(out.Args, Expand(s, lookup))
	}
	for _, name := range environment.names {
		out.Envs = append(out.Envs, &cri.KeyValue{Key: name, Value: []byte(environment.values[name])})
	}
	out.Linux = m.containerLinux(r)
	return out, nil
}

func containerAnnotations(r containerRequest) map[string]string {
	p, c := r.pod, r.spec
	out := map[string]string{
		annotationKind:              string(r.kind),
		annotationRestartCount:      strconv.Itoa(int(r.attempt)),
		annotationTerminationPath:   c.TerminationMessagePath,
		annotationTerminationPolicy: string(c.TerminationMessagePolicy),
	}
	if g := p.Spec.TerminationGracePeriodSeconds; g != nil {
		out[annotationGrace] = strconv.FormatInt(*g, 10)
	}
	return out
}

// mounts are the container's volumes, its /etc/hosts and its termination log.
func (m *Manager) mounts(ctx context.Context, r containerRequest, lookup func(string) (string, bool)) ([]*cri.Mount, error) {
	expand := func(s string) (string, error) {
		missing := ""
		out := Expand(s, func(name string) (string, bool) {
			v, ok := lookup(name)
			if !ok && missing == "" {
				missing = name
			}
			return v, ok
		})
		if missing != "" {
			return "", fmt.Errorf("missing value for %q", missing)
		}
		return out, nil
	}
	mounts, err := m.c.Volumes.Mounts(ctx, r.pod, r.spec, expand)
	if err != nil || m.c.Layout.Root == "" {
		return mounts, err
	}
	images, err := imageMounts(r, expand)
	if err != nil {
		return nil, err
	}
	mounts = append(mounts, images...)
	own := func(path string) bool {
		return slices.ContainsFunc(r.spec.VolumeMounts, func(v corev1.VolumeMount) bool { return filepath.Clean(v.MountPath) == path })
	}
	if !own("/etc/hosts") {
		mounts = append(mounts, &cri.Mount{ContainerPath: "/etc/hosts", HostPath: m.c.Layout.hosts(string(r.pod.UID))})
	}
	if path := r.spec.TerminationMessagePath; path != "" {
		file, err := m.terminationFile(r)
		if err != nil {
			return nil, err
		}
		mounts = append(mounts, &cri.Mount{ContainerPath: path, HostPath: file})
	}
	return mounts, nil
}

// maskedPaths and readonlyPaths hide what of /proc and /sys is not the container's.
var (
	maskedPaths   = []string{"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

func (m *Manager) containerLinux(r containerRequest) *cri.LinuxContainerConfig {
	p, c := r.pod, r.spec
	resources := c.Resources
	if r.allowed != nil {
		resources = *r.allowed
	}
	sc := &cri.LinuxContainerSecurityContext{
		NamespaceOptions:         namespaces(p, c, r.target),
		SupplementalGroups:       supplementalGroups(p),
		SupplementalGroupsPolicy: groupsPolicy(p.Spec.SecurityContext),
		MaskedPaths:              maskedPaths,
		ReadonlyPaths:            readonlyPaths,
		Seccomp:                  &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined},
	}
	if s := p.Spec.SecurityContext; s != nil {
		sc.RunAsUser, sc.RunAsGroup = int64Value(s.RunAsUser), int64Value(s.RunAsGroup)
		sc.SelinuxOptions = selinux(s.SELinuxOptions)
		setSeccomp(sc, s.SeccompProfile, m.c.SeccompDir)
		setAppArmor(sc, s.AppArmorProfile)
	}
	if s := c.SecurityContext; s != nil {
		m.containerSecurity(sc, s)
	}
	if sc.Privileged {
		sc.Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined}
	}
	return &cri.LinuxContainerConfig{Resources: linuxResources(p, c, resources, m.c.Cgroups.Memory(), m.c.Cgroups.Hugepages()), SecurityContext: sc}
}

func (m *Manager) containerSecurity(sc *cri.LinuxContainerSecurityContext, s *corev1.SecurityContext) {
	if s.RunAsUser != nil {
		sc.RunAsUser = int64Value(s.RunAsUser)
	}
	if s.RunAsGroup != nil {
		sc.RunAsGroup = int64Value(s.RunAsGroup)
	}
	if s.SELinuxOptions != nil {
		sc.SelinuxOptions = selinux(s.SELinuxOptions)
	}
	sc.Privileged = s.Privileged != nil && *s.Privileged
	sc.ReadonlyRootfs = s.ReadOnlyRootFilesystem != nil && *s.ReadOnlyRootFilesystem
	sc.NoNewPrivs = s.AllowPrivilegeEscalation != nil && !*s.AllowPrivilegeEscalation
	if s.Capabilities != nil {
		sc.Capabilities = &cri.Capability{}
		for _, a := range s.Capabilities.Add {
			sc.Capabilities.AddCapabilities = append(sc.Capabilities.AddCapabilities, string(a))
		}
		for _, d := range s.Capabilities.Drop {
			sc.Capabilities.DropCapabilities = append(sc.Capabilities.DropCapabilities, string(d))
		}
	}
	if s.ProcMount != nil && *s.ProcMount == corev1.UnmaskedProcMount {
		sc.MaskedPaths, sc.ReadonlyPaths = []string{}, []string{}
	}
	setSeccomp(sc, s.SeccompProfile, m.c.SeccompDir)
	setAppArmor(sc, s.AppArmorProfile)
}

func setSeccomp(sc *cri.LinuxContainerSecurityContext, s *corev1.SeccompProfile, dir string) {
	if s == nil {
		return
	}
	switch s.Type {
	case corev1.SeccompProfileTypeRuntimeDefault:
		sc.Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}
	case corev1.SeccompProfileTypeLocalhost:
		if s.LocalhostProfile != nil {
			sc.Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: filepath.Join(dir, filepath.FromSlash(*s.LocalhostProfile))}
		}
	default:
		sc.Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined}
	}
}

func setAppArmor(sc *cri.LinuxContainerSecurityContext, s *corev1.AppArmorProfile) {
	if s == nil {
		return
	}
	switch s.Type {
	case corev1.AppArmorProfileTypeUnconfined:
		sc.Apparmor = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined}
	case corev1.AppArmorProfileTypeLocalhost:
		if s.LocalhostProfile != nil {
			sc.Apparmor = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: *s.LocalhostProfile}
		}
	default:
		sc.Apparmor = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}
	}
}

// checkNonRoot holds runAsNonRoot against the user that the container would get.
func checkNonRoot(p *corev1.Pod, c *corev1.Container, image *cri.Image) error {
	var nonRoot *bool
	var user *int64
	if s := p.Spec.SecurityContext; s != nil {
		nonRoot, user = s.RunAsNonRoot, s.RunAsUser
	}
	if s := c.SecurityContext; s != nil {
		if s.RunAsNonRoot != nil {
			nonRoot = s.RunAsNonRoot
		}
		if s.RunAsUser != nil {
			user = s.RunAsUser
		}
	}
	if nonRoot == nil || !*nonRoot {
		return nil
	}
	where := fmt.Sprintf("(pod: %q, container: %s)", fmt.Sprintf("%s_%s(%s)", p.Name, p.Namespace, p.UID), c.Name)
	switch {
	case user != nil && *user == 0:
		return fmt.Errorf("container's runAsUser breaks non-root policy %s", where)
	case user != nil:
		return nil
	case image.GetUid() != nil && image.GetUid().Value == 0, image.GetUid() == nil && image.GetUsername() == "":
		return fmt.Errorf("container has runAsNonRoot and image will run as root %s", where)
	case image.GetUid() == nil:
		return fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root %s", image.GetUsername(), where)
	}
	return nil
}
