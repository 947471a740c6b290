package pod

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
)

// References give the config maps and secrets that pods name. Errors are API errors.
type References interface {
	ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
	// Hold keeps what the pod names at hand until Release.
	Hold(p *corev1.Pod)
	Release(p *corev1.Pod)
}

// Facts are what the downward API tells a container.
type Facts struct {
	Pod         *corev1.Pod
	NodeName    string
	PodIPs      []string
	HostIPs     []string
	Allocatable corev1.ResourceList // of the node: what a missing limit means
}

// Expand replaces $(NAME) by the variable's value and $$ by $, as the API
// documents for command, args, env values and subPathExpr; a name without a
// variable stays as it is written.
func Expand(s string, lookup func(string) (string, bool)) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '$' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		switch s[i+1] {
		case '$':
			b.WriteByte('$')
			i++
		case '(':
			end := strings.IndexByte(s[i+2:], ')')
			if end < 0 {
				b.WriteString("$(")
				i++
				continue
			}
			name := s[i+2 : i+2+end]
			if v, ok := lookup(name); ok {
				b.WriteString(v)
			} else {
				b.WriteString("$(" + name + ")")
			}
			i += 2 + end
		default:
			// $x is no reference: both characters stay.
			b.WriteString(s[i : i+2])
			i++
		}
	}
	return b.String()
}

// env is a container's environment in the order in which it is given.
type env struct {
	names  []string
	values map[string]string
}

func (e *env) set(name, value string) {
	if _, ok := e.values[name]; !ok {
		e.names = append(e.names, name)
	}
	e.values[name] = value
}

// Env makes a container's environment: the services' variables, then envFrom,
// then env, later ones winning. invalid lists keys that cannot be variable names.
func Env(ctx context.Context, f Facts, c *corev1.Container, services map[string]string, refs References) (*env, []string, error) {
	e := &env{values: map[string]string{}}
	var invalid []string
	for i := range c.EnvFrom {
		bad, err := e.from(ctx, f.Pod.Namespace, &c.EnvFrom[i], refs)
		if err != nil {
			return nil, nil, err
		}
		invalid = append(invalid, bad...)
	}
	lookup := func(name string) (string, bool) {
		if v, ok := e.values[name]; ok {
			return v, true
		}
		v, ok := services[name]
		return v, ok
	}
	for i := range c.Env {
		v := &c.Env[i]
		if v.ValueFrom == nil {
			e.set(v.Name, Expand(v.Value, lookup))
			continue
		}
		value, ok, err := valueFrom(ctx, f, c, v.ValueFrom, refs)
		if err != nil {
			return nil, nil, err
		}
		if ok {
			e.set(v.Name, value)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(services)) {
		if _, ok := e.values[name]; !ok {
			e.set(name, services[name])
		}
	}
	return e, invalid, nil
}

func (e *env) from(ctx context.Context, namespace string, src *corev1.EnvFromSource, refs References) (invalid []string, err error) {
	data := map[string]string{}
	switch {
	case src.ConfigMapRef != nil:
		cm, err := refs.ConfigMap(ctx, namespace, src.ConfigMapRef.Name)
		if err != nil {
			return nil, optional(err, src.ConfigMapRef.Optional)
		}
		data = cm.Data
	case src.SecretRef != nil:
		s, err := refs.Secret(ctx, namespace, src.SecretRef.Name)
		if err != nil {
			return nil, optional(err, src.SecretRef.Optional)
		}
		for k, v := range s.Data {
			data[k] = string(v)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(data)) {
		name := src.Prefix + k
		if len(validation.IsEnvVarName(name)) > 0 && len(validation.IsRelaxedEnvVarName(name)) > 0 {
			invalid = append(invalid, name)
			continue
		}
		e.set(name, data[k])
	}
	return invalid, nil
}

// optional forgives a missing object.
func optional(err error, opt *bool) error {
	if apierrors.IsNotFound(err) && opt != nil && *opt {
		return nil
	}
	return err
}

func valueFrom(ctx context.Context, f Facts, c *corev1.Container, src *corev1.EnvVarSource, refs References) (string, bool, error) {
	switch {
	case src.FieldRef != nil:
		v, err := f.Field(src.FieldRef.FieldPath)
		return v, true, err
	case src.ResourceFieldRef != nil:
		v, err := f.ResourceField(c.Name, src.ResourceFieldRef)
		return v, true, err
	case src.ConfigMapKeyRef != nil:
		r := src.ConfigMapKeyRef
		cm, err := refs.ConfigMap(ctx, f.Pod.Namespace, r.Name)
		if err != nil {
			return "", false, optional(err, r.Optional)
		}
		if v, ok := cm.Data[r.Key]; ok {
			return v, true, nil
		}
		return "", false, missingKey(r.Key, "ConfigMap", f.Pod.Namespace, r.Name, r.Optional)
	case src.SecretKeyRef != nil:
		r := src.SecretKeyRef
		s, err := refs.Secret(ctx, f.Pod.Namespace, r.Name)
		if err != nil {
			return "", false, optional(err, r.Optional)
		}
		if v, ok := s.Data[r.Key]; ok {
			return string(v), true, nil
		}
		return "", false, missingKey(r.Key, "Secret", f.Pod.Namespace, r.Name, r.Optional)
	}
	return "", false, errors.New("environment variable has a source of a kind that this node does not know")
}

func missingKey(key, kind, namespace, name string, opt *bool) error {
	if opt != nil && *opt {
		return nil
	}
	return fmt.Errorf("couldn't find key %v in %s %v/%v", key, kind, namespace, name)
}

// Field is the value of a downward API field path.
func (f Facts) Field(path string) (string, error) {
	p := f.Pod
	if key, ok := subscript(path, "metadata.annotations"); ok {
		return p.Annotations[key], nil
	}
	if key, ok := subscript(path, "metadata.labels"); ok {
		return p.Labels[key], nil
	}
	switch path {
	case "metadata.name":
		return p.Name, nil
	case "metadata.namespace":
		return p.Namespace, nil
	case "metadata.uid":
		return string(p.UID), nil
	case "metadata.labels":
		return formatMap(p.Labels), nil
	case "metadata.annotations":
		return formatMap(p.Annotations), nil
	case "spec.nodeName":
		return f.NodeName, nil
	case "spec.serviceAccountName":
		return p.Spec.ServiceAccountName, nil
	case "spec.hostname":
		return p.Spec.Hostname, nil
	case "status.podIP":
		return first(f.PodIPs), nil
	case "status.podIPs":
		return strings.Join(f.PodIPs, ","), nil
	case "status.hostIP":
		return first(f.HostIPs), nil
	case "status.hostIPs":
		return strings.Join(f.HostIPs, ","), nil
	}
	return "", fmt.Errorf("unsupported fieldPath: %v", path)
}

func first(s []string) string {
	if len(s) == 0 {
		return ""
	}
	return s[0]
}

func subscript(path, field string) (string, bool) {
	rest, ok := strings.CutPrefix(path, field+"['")
	if !ok {
		return "", false
	}
	return strings.CutSuffix(rest, "']")
}

// formatMap writes labels or annotations as the downward API does: key="value", sorted.
func formatMap(m map[string]string) string {
	var b strings.Builder
	for i, k := range slices.Sorted(maps.Keys(m)) {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s=%q", k, m[k])
	}
	return b.String()
}

// ResourceField is a container's request or limit in units of the divisor,
// rounded up. A limit that is not set is the node's allocatable.
func (f Facts) ResourceField(container string, r *corev1.ResourceFieldSelector) (string, error) {
	if r.ContainerName != "" {
		container = r.ContainerName
	}
	c := findContainer(f.Pod, container)
	if c == nil {
		return "", fmt.Errorf("container %s not found", container)
	}
	part, name, ok := strings.Cut(r.Resource, ".")
	if !ok || (part != "limits" && part != "requests") {
		return "", fmt.Errorf("unsupported container resource : %v", r.Resource)
	}
	list := c.Resources.Requests
	if part == "limits" {
		list = c.Resources.Limits
	}
	q, set := list[corev1.ResourceName(name)]
	if !set && part == "limits" {
		q = f.Allocatable[corev1.ResourceName(name)]
	}
	divisor := r.Divisor
	if divisor.IsZero() {
		divisor = *resource.NewQuantity(1, resource.DecimalSI)
	}
	if name == "cpu" {
		return strconv.FormatInt(ceil(q.MilliValue(), divisor.MilliValue()), 10), nil
	}
	return strconv.FormatInt(ceil(q.Value(), divisor.Value()), 10), nil
}

func ceil(a, b int64) int64 {
	if b == 0 {
		return a
	}
	return (a + b - 1) / b
}

func findContainer(p *corev1.Pod, name string) *corev1.Container {
	for i := range p.Spec.Containers {
		if p.Spec.Containers[i].Name == name {
			return &p.Spec.Containers[i]
		}
	}
	for i := range p.Spec.InitContainers {
		if p.Spec.InitContainers[i].Name == name {
			return &p.Spec.InitContainers[i]
		}
	}
	for i := range p.Spec.EphemeralContainers {
		if p.Spec.EphemeralContainers[i].Name == name {
			return (*corev1.Container)(&p.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		}
	}
	return nil
}

// ServiceEnv are the variables that tell a container of the services of its
// namespace (if links), and always of the API server: default/kubernetes.
func ServiceEnv(namespace string, links bool, services []*corev1.Service) map[string]string {
	out := map[string]string{}
	for _, s := range services {
		master := s.Namespace == corev1.NamespaceDefault && s.Name == "kubernetes"
		if s.Spec.ClusterIP == "" || s.Spec.ClusterIP == corev1.ClusterIPNone || len(s.Spec.Ports) == 0 {
			continue
		}
		if !(links && s.Namespace == namespace) && !master {
			continue
		}
		if master && namespace != corev1.NamespaceDefault && slices.ContainsFunc(services, func(o *corev1.Service) bool {
			return links && o.Namespace == namespace && o.Name == s.Name
		}) {
			continue // the namespace's own service of that name wins
		}
		serviceVars(out, s)
	}
	return out
}

func serviceVars(out map[string]string, s *corev1.Service) {
	prefix := envName(s.Name)
	ip := s.Spec.ClusterIP
	out[prefix+"_SERVICE_HOST"] = ip
	out[prefix+"_SERVICE_PORT"] = strconv.Itoa(int(s.Spec.Ports[0].Port))
	for i, p := range s.Spec.Ports {
		port := strconv.Itoa(int(p.Port))
		if p.Name != "" {
			out[prefix+"_SERVICE_PORT_"+envName(p.Name)] = port
		}
		protocol := strings.ToLower(string(p.Protocol))
		if protocol == "" {
			protocol = "tcp"
		}
		at := prefix + "_PORT_" + port + "_" + strings.ToUpper(protocol)
		address := protocol + "://" + net.JoinHostPort(ip, port)
		if i == 0 {
			out[prefix+"_PORT"] = address
		}
		out[at], out[at+"_PROTO"], out[at+"_PORT"], out[at+"_ADDR"] = address, protocol, port, ip
	}
}

func envName(s string) string { return strings.ToUpper(strings.ReplaceAll(s, "-", "_")) }
