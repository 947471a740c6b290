package core

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	schedulinghelper "k8s.io/component-helpers/scheduling/corev1"
	netutils "k8s.io/utils/net"

	"skiff/api/column"
	"skiff/api/kind"
)

// Node is the kind of a machine that runs pods.
var Node = kind.Of(kind.Spec[*corev1.Node]{
	NameOnUpdate: true,
	New:          func() *corev1.Node { return &corev1.Node{} },
	NewList:      func() runtime.Object { return &corev1.NodeList{} },
	Default:      defaultNode,
	Create: func(n *corev1.Node) { // a node registers itself with its status
		n.Spec.ConfigSource = nil
		n.Status.Config = nil
		n.Spec.PodPreemptionPolicy = nil
	},
	Update: func(n, old *corev1.Node) {
		n.Status = old.Status
		if old.Spec.ConfigSource == nil {
			n.Spec.ConfigSource = nil
		}
		if old.Spec.PodPreemptionPolicy == nil {
			n.Spec.PodPreemptionPolicy = nil
		}
	},
	Validate: func(n *corev1.Node) field.ErrorList { return collect(nil, func(root place) { checkNode(root, n) }) },
	ValidateUpdate: func(n, old *corev1.Node) field.ErrorList {
		return collect(nil, func(root place) {
			checkNode(root, n)
			checkNodeChange(root, n, old)
		})
	},
	Subs: map[string]kind.Sub[*corev1.Node]{"status": {
		Update: func(n, old *corev1.Node) {
			n.Spec = old.Spec
			if old.Status.Config == nil {
				n.Status.Config = nil
			}
		},
		Validate: func(n, old *corev1.Node) field.ErrorList {
			return collect(nil, func(root place) {
				checkNodeBasics(root, n)
				checkNodeChange(root, n, old)
			})
		},
	}},
	Warn: func(n, _ *corev1.Node) []string {
		w := warner{}
		if n.Spec.ConfigSource != nil {
			w.add("spec.configSource: the feature is removed")
		}
		if n.Spec.DoNotUseExternalID != "" {
			w.add("spec.externalID: this field is deprecated, and is unused by Kubernetes")
		}
		for i, c := range n.Spec.PodCIDRs {
			w.texts = append(w.texts, utilvalidation.GetWarningsForCIDR(field.NewPath("spec", "podCIDRs").Index(i), c)...)
		}
		return w.texts
	},
	Fields: func(n *corev1.Node) fields.Set {
		return fields.Set{"spec.unschedulable": boolText(n.Spec.Unschedulable)}
	},
	Columns: []metav1.TableColumnDefinition{
		column.Name,
		column.String("Status", "The status of the node"),
		column.String("Roles", "The roles of the node"),
		column.Age,
		column.String("Version", corev1.NodeSystemInfo{}.SwaggerDoc()["kubeletVersion"]),
		column.Wide("Internal-IP", corev1.NodeStatus{}.SwaggerDoc()["addresses"]),
		column.Wide("External-IP", corev1.NodeStatus{}.SwaggerDoc()["addresses"]),
		column.Wide("OS-Image", corev1.NodeSystemInfo{}.SwaggerDoc()["osImage"]),
		column.Wide("Kernel-Version", corev1.NodeSystemInfo{}.SwaggerDoc()["kernelVersion"]),
		column.Wide("Container-Runtime", corev1.NodeSystemInfo{}.SwaggerDoc()["containerRuntimeVersion"]),
	},
	Row: nodeRow,
})

func nodeRow(n *corev1.Node) []any {
	status := "Unknown"
	for _, c := range n.Status.Conditions {
		if c.Type != corev1.NodeReady {
			continue
		}
		status = "NotReady"
		if c.Status == corev1.ConditionTrue {
			status = "Ready"
		}
	}
	if n.Spec.Unschedulable {
		status += ",SchedulingDisabled"
	}
	address := func(t corev1.NodeAddressType) string {
		for _, a := range n.Status.Addresses {
			if a.Type == t {
				return a.Address
			}
		}
		return "<none>"
	}
	or := func(s string) string {
		if s == "" {
			return "<unknown>"
		}
		return s
	}
	info := &n.Status.NodeInfo
	kernel := or(info.KernelVersion)
	if info.Architecture != "" {
		kernel += " (" + info.Architecture + ")"
	}
	return []any{n.Name, status, nodeRoles(n.Labels), column.Since(n.CreationTimestamp), info.KubeletVersion,
		address(corev1.NodeInternalIP), address(corev1.NodeExternalIP), or(info.OSImage), kernel, or(info.ContainerRuntimeVersion)}
}

// nodeRoles are the roles that labels give a node.
func nodeRoles(labels map[string]string) string {
	var roles []string
	for k, v := range labels {
		if role, ok := strings.CutPrefix(k, "node-role.kubernetes.io/"); ok && role != "" {
			roles = append(roles, role)
		} else if k == "kubernetes.io/role" && v != "" {
			roles = append(roles, v)
		}
	}
	slices.Sort(roles)
	return orNone(strings.Join(slices.Compact(roles), ","))
}

func defaultNode(n *corev1.Node) {
	if n.Status.Allocatable == nil && n.Status.Capacity != nil {
		n.Status.Allocatable = n.Status.Capacity.DeepCopy()
	}
	roundResources(n.Status.Capacity)
	roundResources(n.Status.Allocatable)
	switch s := &n.Spec; {
	case s.PodCIDR == "" && len(s.PodCIDRs) > 0:
		s.PodCIDR = s.PodCIDRs[0]
	case s.PodCIDR != "" && (len(s.PodCIDRs) == 0 || s.PodCIDRs[0] != s.PodCIDR):
		s.PodCIDRs = []string{s.PodCIDR} // the old field wins: its writer may not know the list
	}
}

// checkNodeBasics checks what is checked at each write.
func checkNodeBasics(root place, n *corev1.Node) {
	annotations := root.child("metadata").child("annotations")
	if text := n.Annotations["scheduler.alpha.kubernetes.io/taints"]; text != "" {
		var taints []corev1.Taint
		if err := json.Unmarshal([]byte(text), &taints); err != nil {
			annotations.invalid("", "scheduler.alpha.kubernetes.io/taints", err.Error())
		}
		checkTaints(annotations.child("scheduler.alpha.kubernetes.io/taints"), taints)
	}
	if n.Annotations[corev1.PreferAvoidPodsAnnotationKey] != "" {
		checkAvoidPods(annotations, n.Annotations)
	}
	checkTaints(root.child("metadata").child("taints"), n.Spec.Taints)
	status := root.child("status")
	amounts := func(name string, list corev1.ResourceList) {
		for _, r := range sortedKeys(list) {
			checkQuantity(status.child(name).child(string(r)), r, list[r])
		}
	}
	amounts("capacity", n.Status.Capacity)
	amounts("allocatable", n.Status.Allocatable)
	checkDeclaredFeatures(status.child("declaredFeatures"), n.Status.DeclaredFeatures)
}

func checkNode(root place, n *corev1.Node) {
	checkNodeBasics(root, n)
	if swap := n.Status.NodeInfo.Swap; swap != nil && swap.Capacity != nil {
		root.child("metadata").child("nodeSwapStatus").positive("capacity", *swap.Capacity)
	}
	p := root.child("spec")
	for i, c := range n.Spec.PodCIDRs {
		p.add(ValidateLegacyCIDR(p.path.Child("podCIDRs").Index(i), c, nil)...)
	}
	if len(n.Spec.PodCIDRs) > 1 {
		both, err := netutils.IsDualStackCIDRStrings(n.Spec.PodCIDRs)
		if err != nil {
			p.add(field.InternalError(p.at("podCIDRs"), fmt.Errorf("invalid PodCIDRs. failed to check with dual stack with error:%w", err)))
		}
		if !both || len(n.Spec.PodCIDRs) > 2 {
			p.invalid("podCIDRs", n.Spec.PodCIDRs, "may specify no more than one CIDR for each IP family")
		}
	}
}

// checkNodeChange: what a node once got, its address ranges and its provider's
// name for it, it keeps.
func checkNodeChange(root place, n, old *corev1.Node) {
	for i, a := range n.Status.Addresses {
		if slices.Contains(n.Status.Addresses[:i], a) {
			root.child("status").child("addresses").index(i).duplicate("", a)
		}
	}
	p := root.child("spec")
	if len(old.Spec.PodCIDRs) > 0 && !slices.Equal(n.Spec.PodCIDRs, old.Spec.PodCIDRs) {
		p.forbidden("podCIDRs", "node updates may not change podCIDR except from \"\" to valid")
	}
	switch now, was := n.Spec.ProviderID, old.Spec.ProviderID; {
	case was == "" || now == was:
	case now == "":
		p.invalid("providerID", nil, "field cannot be cleared once set")
	default:
		p.invalid("providerID", nil, "field cannot be modified once set")
	}
	if n.Spec.DoNotUseExternalID != old.Spec.DoNotUseExternalID {
		p.forbidden("externalID", "may not be updated")
	}
	if n.Spec.ConfigSource != nil {
		checkConfigSource(p.child("configSource"), n.Spec.ConfigSource, false)
	}
	if c := n.Status.Config; c != nil {
		at := root.child("status").child("config")
		for _, s := range []struct {
			name   string
			source *corev1.NodeConfigSource
		}{{"assigned", c.Assigned}, {"active", c.Active}, {"lastKnownGood", c.LastKnownGood}} {
			if s.source != nil {
				checkConfigSource(at.child(s.name), s.source, true)
			}
		}
	}
}

func checkTaints(p place, taints []corev1.Taint) {
	for i := range taints {
		t, at := &taints[i], p.index(i)
		checkLabelKey(at, "key", t.Key)
		if msgs := utilvalidation.IsValidLabelValue(t.Value); len(msgs) > 0 {
			at.invalid("value", t.Value, strings.Join(msgs, ";"))
		}
		if t.Effect == "" {
			at.required("effect", "")
		} else {
			checkTaintEffect(at, t.Effect)
		}
		if slices.ContainsFunc(taints[:i], func(b corev1.Taint) bool { return b.Key == t.Key && b.Effect == t.Effect }) {
			err := field.Duplicate(at.path, *t)
			err.Detail = "taints must be unique by key and effect pair"
			p.add(err)
		}
	}
}

func checkAvoidPods(p place, annotations map[string]string) {
	const key = corev1.PreferAvoidPodsAnnotationKey
	avoid, err := schedulinghelper.GetAvoidPodsFromNodeAnnotations(annotations)
	if err != nil {
		p.invalid("AvoidPods", key, err.Error())
		return
	}
	for i, e := range avoid.PreferAvoidPods {
		at := p.child(key).index(i)
		switch c := e.PodSignature.PodController; {
		case c == nil:
			at.required("PodSignature", "")
		case !isTrue(c.Controller):
			at.child("PodSignature").child("PodController").invalid("Controller", false, "must point to a controller")
		}
	}
}

// featureName: parts in camel case with slashes between, the first in upper.
var featureName = regexp.MustCompile(`^[A-Z][a-zA-Z0-9]*(\/[a-zA-Z][a-zA-Z0-9]*)*$`)

func checkDeclaredFeatures(p place, list []string) {
	for i, f := range list {
		at := p.index(i)
		if i > 0 && list[i-1] == f {
			at.duplicate("", f)
		} else if i > 0 && list[i-1] > f {
			at.invalid("", f, "list must be sorted alphabetically")
		}
		if len(f) > utilvalidation.DNS1123SubdomainMaxLength {
			at.invalid("", f, "invalid feature name \""+f+"\": must be no more than 253 characters")
		} else if !featureName.MatchString(f) {
			at.invalid("", f, "invalid feature name \""+f+"\": must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes")
		}
	}
}

// checkConfigSource checks a reference of a feature that is gone; used tells that
// the node reports it.
func checkConfigSource(p place, s *corev1.NodeConfigSource, used bool) {
	c, at := s.ConfigMap, p.child("configMap")
	if c == nil {
		p.invalid("", s, "exactly one reference subfield must be non-nil")
		return
	}
	if used {
		at.wants("uid", string(c.UID))
		at.wants("resourceVersion", c.ResourceVersion)
	} else {
		if c.UID != "" {
			at.forbidden("uid", "uid must not be set in spec")
		}
		if c.ResourceVersion != "" {
			at.forbidden("resourceVersion", "resourceVersion must not be set in spec")
		}
	}
	if at.wants("namespace", c.Namespace) {
		at.invalidEach("namespace", c.Namespace, validation.ValidateNamespaceName(c.Namespace, false))
	}
	if at.wants("name", c.Name) {
		at.dnsSubdomain("name", c.Name)
	}
	if at.wants("kubeletConfigKey", c.KubeletConfigKey) {
		at.invalidEach("kubeletConfigKey", c.KubeletConfigKey, utilvalidation.IsConfigMapKey(c.KubeletConfigKey))
	}
}
