package core

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/check"
)

// warnPod warns on create only: people seldom change pods, and programs often do.
func warnPod(p, old *corev1.Pod) []string {
	if old != nil {
		return nil
	}
	w := warner{}
	if msgs := validation.IsDNS1123Label(p.Name); len(msgs) > 0 {
		w.add("metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: %v", msgs)
	}
	w.pod(nil, &p.Spec, &p.ObjectMeta)
	return w.texts
}

// WarnPodTemplate gives the texts of warnings about deprecated or dubious fields.
// old is nil on create.
func WarnPodTemplate(t, old *corev1.PodTemplateSpec, path *field.Path) []string {
	w := warner{}
	w.pod(path, &t.Spec, &t.ObjectMeta)
	return w.texts
}

type warner struct{ texts []string }

func (w *warner) add(format string, args ...any) {
	w.texts = append(w.texts, fmt.Sprintf(format, args...))
}

func (w *warner) pod(path *field.Path, s *corev1.PodSpec, meta *metav1.ObjectMeta) {
	spec := path.Child("spec")
	w.nodeLabels(spec, s)
	for _, d := range []struct{ key, message string }{
		{"scheduler.alpha.kubernetes.io/critical-pod", `non-functional in v1.16+; use the "priorityClassName" field instead`},
		{"security.alpha.kubernetes.io/sysctls", `non-functional in v1.11+; use the "sysctls" field instead`},
		{"security.alpha.kubernetes.io/unsafe-sysctls", `non-functional in v1.11+; use the "sysctls" field instead`},
	} {
		if _, ok := meta.Annotations[d.key]; ok {
			w.add("%s: %s", path.Child("metadata", "annotations").Key(d.key), d.message)
		}
	}
	for i := range s.Volumes {
		w.volumeType(spec.Child("volumes").Index(i), &s.Volumes[i])
	}
	for i := range s.Volumes {
		w.overlaps(&s.Volumes[i])
	}
	w.duplicates(spec, s)
	w.fraction(spec.Child("overhead"), s.Overhead, corev1.ResourceMemory, corev1.ResourceEphemeralStorage)
	w.profiles(path, s, meta)
	for at, c := range containersAt(s, place{path: spec}) {
		w.container(func() *field.Path { return at().path }, c)
	}
	w.ports(spec, s)
	if g := s.TerminationGracePeriodSeconds; g != nil && *g < 0 {
		w.add("%s: must be >= 0; negative values are invalid and will be treated as 1", spec.Child("terminationGracePeriodSeconds"))
	}
	w.nullSelectors(spec.Child("affinity"), s.Affinity)
	if s.DNSConfig != nil {
		for i, ip := range s.DNSConfig.Nameservers {
			w.texts = append(w.texts, validation.GetWarningsForIP(spec.Child("dnsConfig", "nameservers").Index(i), ip)...)
		}
	}
	for i := range s.HostAliases {
		w.texts = append(w.texts, validation.GetWarningsForIP(spec.Child("hostAliases").Index(i).Child("ip"), s.HostAliases[i].IP)...)
	}
}

// nodeLabels warns of node labels that older versions used.
func (w *warner) nodeLabels(spec *field.Path, s *corev1.PodSpec) {
	for _, k := range sortedKeys(s.NodeSelector) {
		if msg := check.DeprecatedNodeLabel(k); msg != "" {
			w.add("%s: %s", spec.Child("nodeSelector").Key(k), msg)
		}
	}
	if s.Affinity != nil && s.Affinity.NodeAffinity != nil {
		n, at := s.Affinity.NodeAffinity, spec.Child("affinity", "nodeAffinity")
		if r := n.RequiredDuringSchedulingIgnoredDuringExecution; r != nil {
			for i := range r.NodeSelectorTerms {
				w.nodeTerm(at.Child(required, "nodeSelectorTerms").Index(i), &r.NodeSelectorTerms[i], false)
			}
		}
		for i := range n.PreferredDuringSchedulingIgnoredDuringExecution {
			w.nodeTerm(at.Child(preferred).Index(i).Child("preference"), &n.PreferredDuringSchedulingIgnoredDuringExecution[i].Preference, true)
		}
	}
	for i := range s.TopologySpreadConstraints {
		t, at := &s.TopologySpreadConstraints[i], spec.Child("topologySpreadConstraints").Index(i)
		if msg := check.DeprecatedNodeLabel(t.TopologyKey); msg != "" {
			w.add("%s: %s is %s", at.Child("topologyKey"), t.TopologyKey, msg)
		}
		if t.LabelSelector == nil {
			w.nullSelector(at.Child("labelSelector"))
		}
	}
}

func (w *warner) nodeTerm(path *field.Path, t *corev1.NodeSelectorTerm, values bool) {
	for i, e := range t.MatchExpressions {
		at := path.Child("matchExpressions").Index(i)
		if msg := check.DeprecatedNodeLabel(e.Key); msg != "" {
			w.add("%s: %s is %s", at.Child("key"), e.Key, msg)
		}
		for j, v := range e.Values {
			if !values {
				break
			}
			for _, msg := range validation.IsValidLabelValue(v) {
				w.add("%s: %s is invalid, %s", at.Child("values").Index(j), v, msg)
			}
		}
	}
}

func (w *warner) nullSelector(path *field.Path) {
	w.add("%s: a null labelSelector results in matching no pod", path)
}

func (w *warner) nullSelectors(path *field.Path, a *corev1.Affinity) {
	if a == nil {
		return
	}
	terms := func(at *field.Path, hard []corev1.PodAffinityTerm, soft []corev1.WeightedPodAffinityTerm) {
		for i := range hard {
			if hard[i].LabelSelector == nil {
				w.nullSelector(at.Child(required).Index(i).Child("labelSelector"))
			}
		}
		for i := range soft {
			if soft[i].PodAffinityTerm.LabelSelector == nil {
				w.nullSelector(at.Child(preferred).Index(i).Child("podAffinityTerm", "labelSelector"))
			}
		}
	}
	if p := a.PodAffinity; p != nil {
		terms(path.Child("podAffinity"), p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if p := a.PodAntiAffinity; p != nil {
		terms(path.Child("podAntiAffinity"), p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
}

// volumeType warns of volume types that are going or gone.
func (w *warner) volumeType(path *field.Path, v *corev1.Volume) {
	for _, d := range []struct {
		set           bool
		name, message string
	}{
		{v.PhotonPersistentDisk != nil, "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"},
		{v.GitRepo != nil, "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"},
		{v.ScaleIO != nil, "scaleIO", "deprecated in v1.16, non-functional in v1.22+"},
		{v.Flocker != nil, "flocker", "deprecated in v1.22, non-functional in v1.25+"},
		{v.StorageOS != nil, "storageOS", "deprecated in v1.22, non-functional in v1.25+"},
		{v.Quobyte != nil, "quobyte", "deprecated in v1.22, non-functional in v1.25+"},
		{v.Glusterfs != nil, "glusterfs", "deprecated in v1.25, non-functional in v1.26+"},
		{v.CephFS != nil, "cephfs", "deprecated in v1.28, non-functional in v1.31+"},
		{v.RBD != nil, "rbd", "deprecated in v1.28, non-functional in v1.31+"},
	} {
		if d.set {
			w.add("%s: %s", path.Child(d.name), d.message)
		}
	}
	if v.Ephemeral != nil && v.Ephemeral.VolumeClaimTemplate != nil {
		w.claimSpec(path.Child("ephemeral", "volumeClaimTemplate", "spec"), &v.Ephemeral.VolumeClaimTemplate.Spec)
	}
}

func (w *warner) claimSpec(path *field.Path, s *corev1.PersistentVolumeClaimSpec) {
	w.fraction(path.Child("resources", "requests"), s.Resources.Requests, corev1.ResourceStorage)
	w.fraction(path.Child("resources", "limits"), s.Resources.Limits, corev1.ResourceStorage)
}

// fraction warns of parts of a byte, which nothing can give.
func (w *warner) fraction(path *field.Path, list corev1.ResourceList, names ...corev1.ResourceName) {
	for _, name := range names {
		if q, ok := list[name]; ok && q.MilliValue()%1000 != 0 {
			w.add("%s: fractional byte value %q is invalid, must be an integer", path.Key(string(name)), q.String())
		}
	}
}

// mapped is a file of a volume, and where it comes from.
type mapped struct{ path, source string }

func (m mapped) String() string {
	if m.source != "" {
		return fmt.Sprintf("%q (%s)", m.path, m.source)
	}
	return fmt.Sprintf("%q", m.path)
}

// overlaps warns of files of one volume that cannot both be: the same path, or
// one below the other.
func (w *warner) overlaps(v *corev1.Volume) {
	var seen []mapped
	file := func(of, path, source string) {
		m := mapped{strings.TrimRight(path, "/"), source}
		for _, b := range seen {
			if m.path == "" || b.path == "" {
				continue
			}
			if strings.HasPrefix(b.path+"/", m.path+"/") || strings.HasPrefix(m.path+"/", b.path+"/") {
				w.add("volume %q (%s): overlapping paths: %s with %s", v.Name, of, m, b)
			}
		}
		seen = append(seen, m)
	}
	keys := func(of, source string, items []corev1.KeyToPath) {
		for _, it := range items {
			file(of, it.Path, source)
		}
	}
	switch {
	case v.ConfigMap != nil:
		keys(fmt.Sprintf("ConfigMap %q", v.ConfigMap.Name), "", v.ConfigMap.Items)
	case v.Secret != nil:
		keys(fmt.Sprintf("Secret %q", v.Secret.SecretName), "", v.Secret.Items)
	case v.DownwardAPI != nil:
		for _, it := range v.DownwardAPI.Items {
			file("DownwardAPI", it.Path, "")
		}
	case v.Projected != nil:
		for i := range v.Projected.Sources {
			w.projectedFiles(v.Name, &v.Projected.Sources[i], keys, file)
		}
	}
}

func (w *warner) projectedFiles(volume string, s *corev1.VolumeProjection,
	keys func(of, source string, items []corev1.KeyToPath), file func(of, path, source string)) {
	const of = "Projected"
	switch {
	case *s == (corev1.VolumeProjection{}):
		w.add("volume %q (Projected) has no sources provided", volume)
	case s.ConfigMap != nil && s.ConfigMap.Items != nil:
		keys(of, fmt.Sprintf("ConfigMap %q", s.ConfigMap.Name), s.ConfigMap.Items)
	case s.Secret != nil && s.Secret.Items != nil:
		keys(of, fmt.Sprintf("Secret %q", s.Secret.Name), s.Secret.Items)
	case s.DownwardAPI != nil:
		for _, it := range s.DownwardAPI.Items {
			file(of, it.Path, "DownwardAPI")
		}
	case s.ServiceAccountToken != nil:
		file(of, s.ServiceAccountToken.Path, "ServiceAccountToken")
	case s.ClusterTrustBundle != nil:
		name := s.ClusterTrustBundle.Name
		if name == nil {
			name = s.ClusterTrustBundle.SignerName
		}
		if name != nil {
			file(of, s.ClusterTrustBundle.Path, fmt.Sprintf("ClusterTrustBundle %q", *name))
		}
	case s.PodCertificate != nil:
		file(of, s.PodCertificate.CertificateChainPath, "PodCertificate chain")
		file(of, s.PodCertificate.KeyPath, "PodCertificate key")
		file(of, s.PodCertificate.CredentialBundlePath, "PodCertificate credential bundle")
	}
}

func (w *warner) duplicates(spec *field.Path, s *corev1.PodSpec) {
	for i, a := range s.HostAliases {
		if slices.ContainsFunc(s.HostAliases[:i], func(b corev1.HostAlias) bool { return b.IP == a.IP }) {
			w.add("%s: duplicate ip %q", spec.Child("hostAliases").Index(i).Child("ip"), a.IP)
		}
	}
	for i, r := range s.ImagePullSecrets {
		if slices.Contains(s.ImagePullSecrets[:i], r) {
			w.add("%s: duplicate name %q", spec.Child("imagePullSecrets").Index(i).Child("name"), r.Name)
		}
	}
	for i, r := range s.ImagePullSecrets {
		if r.Name == "" {
			w.add("%s: invalid empty name %q", spec.Child("imagePullSecrets").Index(i).Child("name"), r.Name)
		}
	}
}

// profiles warns of annotations that do nothing without their field.
func (w *warner) profiles(path *field.Path, s *corev1.PodSpec, meta *metav1.ObjectMeta) {
	if len(meta.Annotations) == 0 {
		return
	}
	seccomp := func(key string, set bool) {
		if _, ok := meta.Annotations[key]; ok && !set {
			w.add(`%s: non-functional in v1.27+; use the "seccompProfile" field instead`, path.Child("metadata", "annotations").Key(key))
		}
	}
	var ofPod *corev1.AppArmorProfile
	if s.SecurityContext != nil {
		ofPod = s.SecurityContext.AppArmorProfile
	}
	seccomp(corev1.SeccompPodAnnotationKey, s.SecurityContext != nil && s.SecurityContext.SeccompProfile != nil)
	for c := range containersOf(s) {
		seccomp(seccompPrefix+c.Name, c.SecurityContext != nil && c.SecurityContext.SeccompProfile != nil)
		text, ok := meta.Annotations[appArmorPrefix+c.Name]
		if !ok {
			continue
		}
		// A Pod's field was filled from the annotation when it was created.
		own := c.SecurityContext != nil && c.SecurityContext.AppArmorProfile != nil
		says := appArmorProfile(text)
		filled := path == nil && own && equality.Semantic.DeepEqual(c.SecurityContext.AppArmorProfile, says)
		if filled || !own && (says == nil || !equality.Semantic.DeepEqual(says, ofPod)) {
			w.add(`%s: deprecated since v1.30; use the "appArmorProfile" field instead`, path.Child("metadata", "annotations").Key(appArmorPrefix+c.Name))
		}
	}
}

func (w *warner) container(path func() *field.Path, c *corev1.Container) {
	for _, l := range []struct {
		name string
		list corev1.ResourceList
	}{{"limits", c.Resources.Limits}, {"requests", c.Resources.Requests}} {
		if len(l.list) > 0 {
			w.fraction(path().Child("resources", l.name), l.list, corev1.ResourceMemory, corev1.ResourceEphemeralStorage)
		}
	}
	for i, e := range c.Env {
		if !slices.ContainsFunc(c.Env[:i], func(b corev1.EnvVar) bool { return b.Name == e.Name }) {
			continue
		}
		// A second definition is good only if it builds on the first.
		if ref := "$(" + e.Name + ")"; e.ValueFrom != nil || e.Value == ref || !strings.Contains(e.Value, ref) {
			w.add("%s: hides previous definition of %q, which may be dropped when using apply", path().Child("env").Index(i), e.Name)
		}
	}
}

// ports warns of ports of the pod's containers that get in each other's way.
func (w *warner) ports(spec *field.Path, s *corev1.PodSpec) {
	type defined struct {
		at   *field.Path
		port corev1.ContainerPort
	}
	var all []defined
	for at, c := range containersAt(s, place{path: spec}) {
		for i, port := range c.Ports {
			d := defined{at().path.Child("ports").Index(i), port}
			if port.HostIP != "" && port.HostPort == 0 {
				w.add("%s: hostIP set without hostPort: %+v", d.at, port)
			}
			for _, o := range all {
				if o.port.ContainerPort != port.ContainerPort || o.port.Protocol != port.Protocol {
					continue
				}
				switch {
				case o.port.HostIP == port.HostIP && o.port.HostPort == port.HostPort:
					w.add("%s: duplicate port definition with %s", d.at, o.at)
				case port.HostPort == 0 || o.port.HostPort == 0:
					w.add("%s: overlapping port definition with %s", d.at, o.at)
				case port.HostPort == o.port.HostPort && (port.HostIP == "") != (o.port.HostIP == ""):
					w.add("%s: dangerously ambiguous port definition with %s", d.at, o.at)
				}
			}
			all = append(all, d)
		}
	}
	for i, d := range all {
		first := slices.IndexFunc(all, func(o defined) bool { return o.port.Name == d.port.Name })
		if d.port.Name != "" && first < i {
			w.add("%s: duplicate port name %q with %s, services and probes that select ports by name will use %s", d.at, d.port.Name, all[first].at, all[first].at)
		}
	}
}
