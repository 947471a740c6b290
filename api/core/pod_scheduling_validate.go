package core

import (
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func checkLabelKey(p place, name, key string) {
	p.add(metav1validation.ValidateLabelName(key, p.at(name))...)
}

// The parts of affinity, as fields of node, pod and pod anti-affinity.
const (
	required  = "requiredDuringSchedulingIgnoredDuringExecution"
	preferred = "preferredDuringSchedulingIgnoredDuringExecution"
)

func (c *podCheck) checkAffinity(p place) {
	a := c.spec.Affinity
	if a == nil {
		return
	}
	if n := a.NodeAffinity; n != nil {
		at := p.child("nodeAffinity")
		if n.RequiredDuringSchedulingIgnoredDuringExecution != nil {
			checkNodeSelector(at.child(required), n.RequiredDuringSchedulingIgnoredDuringExecution, c.lenient.nodeAffinityValues)
		}
		for i := range n.PreferredDuringSchedulingIgnoredDuringExecution {
			t, term := &n.PreferredDuringSchedulingIgnoredDuringExecution[i], at.child(preferred).index(i)
			checkWeight(term, t.Weight)
			checkNodeTerm(term.child("preference"), &t.Preference, true) // label values were never checked here
		}
	}
	if a.PodAffinity != nil {
		c.checkPodTerms(p.child("podAffinity"), a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if a.PodAntiAffinity != nil {
		c.checkPodTerms(p.child("podAntiAffinity"), a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
}

func checkWeight(p place, w int32) {
	if w < 1 || w > 100 {
		p.invalid("weight", w, "must be in the range 1-100")
	}
}

func (c *podCheck) checkPodTerms(p place, hard []corev1.PodAffinityTerm, soft []corev1.WeightedPodAffinityTerm) {
	for i := range hard {
		c.checkPodTerm(p.child(required).index(i), &hard[i])
	}
	for i := range soft {
		at := p.child(preferred).index(i)
		checkWeight(at, soft[i].Weight)
		c.checkPodTerm(at.child("podAffinityTerm"), &soft[i].PodAffinityTerm)
	}
}

func (c *podCheck) checkPodTerm(p place, t *corev1.PodAffinityTerm) {
	checkPodTermSelectors(p, t, c.lenient.selectorValues)
	for _, name := range t.Namespaces {
		p.invalidEach("namespace", name, validation.ValidateNamespaceName(name, false))
	}
	checkMatchLabelKeys(p, t.MatchLabelKeys, t.MismatchLabelKeys, t.LabelSelector)
	if t.TopologyKey == "" {
		p.required("topologyKey", "can not be empty")
	}
	checkLabelKey(p, "topologyKey", t.TopologyKey)
}

func checkPodTermSelectors(p place, t *corev1.PodAffinityTerm, lax bool) {
	o := metav1validation.LabelSelectorValidationOptions{AllowInvalidLabelValueInSelector: lax}
	p.add(metav1validation.ValidateLabelSelector(t.LabelSelector, o, p.at("labelSelector"))...)
	p.add(metav1validation.ValidateLabelSelector(t.NamespaceSelector, o, p.at("namespaceSelector"))...)
}

// checkPodAffinityValues checks the selectors in pod affinity alone.
func (c *podCheck) checkPodAffinityValues(p place) {
	terms := func(hard []corev1.PodAffinityTerm, soft []corev1.WeightedPodAffinityTerm) {
		for i := range hard {
			checkPodTermSelectors(p, &hard[i], false)
		}
		for i := range soft {
			checkPodTermSelectors(p, &soft[i].PodAffinityTerm, false)
		}
	}
	if a := c.spec.Affinity.PodAffinity; a != nil {
		terms(a.RequiredDuringSchedulingIgnoredDuringExecution, a.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if a := c.spec.Affinity.PodAntiAffinity; a != nil {
		terms(a.RequiredDuringSchedulingIgnoredDuringExecution, a.PreferredDuringSchedulingIgnoredDuringExecution)
	}
}

// checkRequiredNodeAffinityValues checks the label values in required node affinity alone.
func (c *podCheck) checkRequiredNodeAffinityValues(p place) {
	if n := c.spec.Affinity.NodeAffinity; n != nil && n.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		checkNodeSelectorValues(p, n.RequiredDuringSchedulingIgnoredDuringExecution)
	}
}

func checkNodeSelectorValues(p place, s *corev1.NodeSelector) {
	for i := range s.NodeSelectorTerms {
		for _, r := range s.NodeSelectorTerms[i].MatchExpressions {
			for _, v := range r.Values {
				p.invalidEach("", v, utilvalidation.IsValidLabelValue(v))
			}
		}
	}
}

// ValidateNodeSelector checks a node selector with its terms.
func ValidateNodeSelector(s *corev1.NodeSelector, path *field.Path) field.ErrorList {
	return collect(path, func(p place) { checkNodeSelector(p, s, false) })
}

// checkNodeSelector checks a node selector; lax takes label values that are not valid.
func checkNodeSelector(p place, s *corev1.NodeSelector, lax bool) {
	if len(s.NodeSelectorTerms) == 0 {
		p.required("nodeSelectorTerms", "must have at least one node selector term")
	}
	for i := range s.NodeSelectorTerms {
		checkNodeTerm(p.child("nodeSelectorTerms").index(i), &s.NodeSelectorTerms[i], lax)
	}
}

func checkNodeTerm(p place, t *corev1.NodeSelectorTerm, lax bool) {
	for i := range t.MatchExpressions {
		r, at := &t.MatchExpressions[i], p.child("matchExpressions").index(i)
		switch r.Operator {
		case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
			if len(r.Values) == 0 {
				at.required("values", "must be specified when `operator` is 'In' or 'NotIn'")
			}
		case corev1.NodeSelectorOpExists, corev1.NodeSelectorOpDoesNotExist:
			if len(r.Values) > 0 {
				at.forbidden("values", "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
			}
		case corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt:
			if len(r.Values) != 1 {
				at.required("values", "must be specified single value when `operator` is 'Lt' or 'Gt'")
			}
		default:
			at.invalid("operator", r.Operator, "not a valid selector operator")
		}
		checkLabelKey(at, "key", r.Key)
		for j, v := range r.Values {
			if msgs := utilvalidation.IsValidLabelValue(v); len(msgs) > 0 && !lax {
				at.child("values").index(j).invalidEach("", v, msgs)
			}
		}
	}
	for i := range t.MatchFields {
		checkNodeFieldRequirement(p.child("matchFields").index(i), &t.MatchFields[i])
	}
}

// checkNodeFieldRequirement: the only field of nodes to select by is their name.
func checkNodeFieldRequirement(p place, r *corev1.NodeSelectorRequirement) {
	switch r.Operator {
	case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
		if len(r.Values) != 1 {
			p.required("values", "must be only one value when `operator` is 'In' or 'NotIn' for node field selector")
		}
	default:
		p.invalid("operator", r.Operator, "not a valid selector operator")
	}
	if r.Key != metav1.ObjectNameField {
		p.invalid("key", r.Key, "not a valid field selector key")
		return
	}
	for i, v := range r.Values {
		p.child("values").index(i).dnsSubdomain("", v)
	}
}

// ValidateTopologySelectorTerm checks one of a storage class's allowed topologies.
func ValidateTopologySelectorTerm(t corev1.TopologySelectorTerm, path *field.Path) field.ErrorList {
	return collect(path, func(p place) {
		list := t.MatchLabelExpressions
		for i := range list {
			r, at := &list[i], p.child("matchLabelExpressions").index(i)
			if len(r.Values) == 0 {
				at.required("values", "")
			}
			for j, v := range r.Values {
				if slices.Contains(r.Values[:j], v) {
					at.child("values").index(j).duplicate("", v)
				}
			}
			checkLabelKey(at, "key", r.Key)
			if slices.ContainsFunc(list[:i], func(b corev1.TopologySelectorLabelRequirement) bool { return b.Key == r.Key }) {
				at.duplicate("key", r.Key)
			}
		}
	})
}

// ValidateTolerations checks the tolerations of pods and of runtime classes.
func ValidateTolerations(tolerations []corev1.Toleration, path *field.Path) field.ErrorList {
	return collect(path, func(p place) { checkTolerations(p, tolerations, false) })
}

// checkTolerations checks tolerations; numeric takes the operators Lt and Gt.
func checkTolerations(p place, list []corev1.Toleration, numeric bool) {
	for i := range list {
		t, at := &list[i], p.index(i)
		if t.Key != "" {
			checkLabelKey(at, "key", t.Key)
		} else if t.Operator != corev1.TolerationOpExists {
			at.invalid("operator", t.Operator, "operator must be Exists when `key` is empty, which means \"match all values and all keys\"")
		}
		if t.TolerationSeconds != nil && t.Effect != corev1.TaintEffectNoExecute {
			at.invalid("effect", t.Effect, "effect must be 'NoExecute' when `tolerationSeconds` is set")
		}
		switch t.Operator {
		case corev1.TolerationOpEqual, "":
			if msgs := utilvalidation.IsValidLabelValue(t.Value); len(msgs) > 0 {
				at.invalid("operator", t.Value, strings.Join(msgs, ";"))
			}
		case corev1.TolerationOpExists:
			if t.Value != "" {
				at.invalid("operator", t.Value, "value must be empty when `operator` is 'Exists'")
			}
		case corev1.TolerationOpLt, corev1.TolerationOpGt:
			checkNumericToleration(at, t, numeric)
		default:
			oneOf(at, "operator", t.Operator, corev1.TolerationOpEqual, corev1.TolerationOpExists)
		}
		if t.Effect != "" {
			checkTaintEffect(at, t.Effect)
		}
	}
}

func checkNumericToleration(p place, t *corev1.Toleration, numeric bool) {
	if !numeric {
		p.add(field.NotSupported(p.at("operator"), t.Operator, []corev1.TolerationOperator{
			corev1.TolerationOpEqual, corev1.TolerationOpExists, corev1.TolerationOpLt, corev1.TolerationOpGt}))
		return
	}
	p.invalidEach("value", t.Value, content.IsDecimalInteger(t.Value))
	if _, err := strconv.ParseInt(t.Value, 10, 64); err != nil {
		p.invalid("value", t.Value, err.Error())
	}
}

func checkTaintEffect(p place, effect corev1.TaintEffect) {
	oneOf(p, "effect", effect, corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute)
}

func (c *podCheck) checkTopologySpread(p place) {
	list := c.spec.TopologySpreadConstraints
	for i := range list {
		t, at := &list[i], p.index(i)
		at.positive("maxSkew", int64(t.MaxSkew))
		if t.TopologyKey == "" {
			at.required("topologyKey", "can not be empty")
		}
		oneOf(at, "whenUnsatisfiable", t.WhenUnsatisfiable, corev1.DoNotSchedule, corev1.ScheduleAnyway)
		if slices.ContainsFunc(list[i+1:], func(b corev1.TopologySpreadConstraint) bool {
			return b.TopologyKey == t.TopologyKey && b.WhenUnsatisfiable == t.WhenUnsatisfiable
		}) {
			at.duplicate("{topologyKey, whenUnsatisfiable}", "{"+t.TopologyKey+", "+string(t.WhenUnsatisfiable)+"}")
		}
		if n := t.MinDomains; n != nil {
			at.positive("minDomains", int64(*n))
			if t.WhenUnsatisfiable != corev1.DoNotSchedule {
				at.invalid("minDomains", *n, "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not "+string(t.WhenUnsatisfiable))
			}
		}
		if t.NodeAffinityPolicy != nil {
			oneOf(at, "nodeAffinityPolicy", *t.NodeAffinityPolicy, corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)
		}
		if t.NodeTaintsPolicy != nil {
			oneOf(at, "nodeTaintsPolicy", *t.NodeTaintsPolicy, corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)
		}
		if c.lenient.spreadMatchLabelKeys {
			checkUnmergedLabelKeys(at.child("matchLabelKeys"), t.MatchLabelKeys, t.LabelSelector)
		} else {
			checkMatchLabelKeys(at, t.MatchLabelKeys, nil, t.LabelSelector)
		}
		if !c.lenient.spreadSelector {
			at.add(metav1validation.ValidateLabelSelector(t.LabelSelector, metav1validation.LabelSelectorValidationOptions{}, at.at("labelSelector"))...)
		}
	}
}

// checkMatchLabelKeys checks label keys whose values come from the pod's own
// labels. When the pod was created they were merged into the selector as
// expressions, so one of them may stand there once.
func checkMatchLabelKeys(p place, match, mismatch []string, s *metav1.LabelSelector) {
	checkKeys := func(name string, keys []string) {
		if len(keys) > 0 && s == nil {
			p.forbidden(name, "must not be specified when labelSelector is not set")
			return
		}
		for i, k := range keys {
			checkLabelKey(p.child(name).index(i), "", k)
		}
	}
	checkKeys("matchLabelKeys", match)
	checkKeys("mismatchLabelKeys", mismatch)
	if s != nil && len(match) > 0 {
		for i, e := range s.MatchExpressions {
			_, labelled := s.MatchLabels[e.Key]
			again := slices.ContainsFunc(s.MatchExpressions[:i], func(b metav1.LabelSelectorRequirement) bool { return b.Key == e.Key })
			if j := lastIndex(match, e.Key); j >= 0 && (labelled || again) {
				p.index(j).invalid("", e.Key, "exists in both matchLabelKeys and labelSelector")
			}
		}
	}
	for i, k := range match {
		if slices.Contains(mismatch, k) {
			p.child("matchLabelKeys").index(i).invalid("", k, "exists in both matchLabelKeys and mismatchLabelKeys")
		}
	}
}

func lastIndex(list []string, s string) int {
	for i := len(list) - 1; i >= 0; i-- {
		if list[i] == s {
			return i
		}
	}
	return -1
}

// checkUnmergedLabelKeys is checkMatchLabelKeys for pods older than the merging.
func checkUnmergedLabelKeys(p place, keys []string, s *metav1.LabelSelector) {
	if len(keys) > 0 && s == nil {
		p.forbidden("", "must not be specified when labelSelector is not set")
	}
	for i, k := range keys {
		checkLabelKey(p.index(i), "", k)
		if s == nil {
			continue
		}
		_, ok := s.MatchLabels[k]
		if ok || slices.ContainsFunc(s.MatchExpressions, func(e metav1.LabelSelectorRequirement) bool { return e.Key == k }) {
			p.index(i).invalid("", k, "exists in both matchLabelKeys and labelSelector")
		}
	}
}
