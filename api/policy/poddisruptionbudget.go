package policy

import (
	"slices"

	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/check"
	"skiff/api/column"
	"skiff/api/kind"
)

// PodDisruptionBudget is policy/v1 PodDisruptionBudget.
var PodDisruptionBudget = kind.Of(kind.Spec[*policyv1.PodDisruptionBudget]{
	AnyFinalizer: true,
	PlainMeta:    true,
	New:          func() *policyv1.PodDisruptionBudget { return &policyv1.PodDisruptionBudget{} },
	NewList:      func() runtime.Object { return &policyv1.PodDisruptionBudgetList{} },
	Create: func(b *policyv1.PodDisruptionBudget) {
		b.Status = policyv1.PodDisruptionBudgetStatus{}
		stripLegacyMark(b)
	},
	Update: func(b, old *policyv1.PodDisruptionBudget) {
		b.Status = old.Status
		if !equality.Semantic.DeepEqual(b.Spec.Selector, old.Spec.Selector) {
			stripLegacyMark(b)
		}
	},
	Intent:   func(b *policyv1.PodDisruptionBudget) any { return &b.Spec },
	Validate: func(b *policyv1.PodDisruptionBudget) field.ErrorList { return validateBudget(&b.Spec, false) },
	ValidateUpdate: func(b, old *policyv1.PodDisruptionBudget) field.ErrorList {
		lax := old.Spec.Selector != nil && len(check.Selector(old.Spec.Selector, false, nil)) > 0
		return validateBudget(&b.Spec, lax)
	},
	Subs: map[string]kind.Sub[*policyv1.PodDisruptionBudget]{"status": {AnyFinalizer: true,
		Update: func(b, old *policyv1.PodDisruptionBudget) { b.Spec = old.Spec },
		Validate: func(b, _ *policyv1.PodDisruptionBudget) field.ErrorList {
			s, path := &b.Status, field.NewPath("status")
			return append(metav1validation.ValidateConditions(s.Conditions, path.Child("conditions")),
				check.NotNegative(path, check.N("disruptionsAllowed", s.DisruptionsAllowed), check.N("currentHealthy", s.CurrentHealthy),
					check.N("desiredHealthy", s.DesiredHealthy), check.N("expectedPods", s.ExpectedPods))...)
		},
	}},
	Columns: []metav1.TableColumnDefinition{
		column.Name,
		column.String("Min Available", "The minimum number of pods that must be available."),
		column.String("Max Unavailable", "The maximum number of pods that may be unavailable."),
		column.Integer("Allowed Disruptions", "Calculated number of pods that may be disrupted at this time."),
		column.Age,
	},
	Row: func(b *policyv1.PodDisruptionBudget) []any {
		return []any{b.Name, orNA(b.Spec.MinAvailable), orNA(b.Spec.MaxUnavailable), int64(b.Status.DisruptionsAllowed), column.Since(b.CreationTimestamp)}
	},
	UnconditionalUpdateForbidden: true,
})

func orNA(v *intstr.IntOrString) string {
	if v == nil {
		return "N/A"
	}
	return v.String()
}

// legacyMark is the label key by which v1beta1 told an empty selector, which
// there matched nothing, from v1's, which matches all.
const legacyMark = "pdb.kubernetes.io/deprecated-v1beta1-empty-selector-match"

// stripLegacyMark takes the mark out of a selector, unless it is the one that
// matches nothing.
func stripLegacyMark(b *policyv1.PodDisruptionBudget) {
	s := b.Spec.Selector
	isMark := func(r metav1.LabelSelectorRequirement) bool { return r.Key == legacyMark }
	if s == nil || !slices.ContainsFunc(s.MatchExpressions, isMark) {
		return
	}
	if e := s.MatchExpressions; len(s.MatchLabels) == 0 && len(e) == 1 && e[0].Operator == metav1.LabelSelectorOpExists && len(e[0].Values) == 0 {
		return
	}
	s = s.DeepCopy() // it may be shared
	s.MatchExpressions = slices.DeleteFunc(s.MatchExpressions, isMark)
	b.Spec.Selector = s
}

func validateBudget(s *policyv1.PodDisruptionBudgetSpec, lax bool) (errs field.ErrorList) {
	path := field.NewPath("spec")
	if s.MinAvailable != nil && s.MaxUnavailable != nil {
		errs = append(errs, field.Invalid(path, *s, "minAvailable and maxUnavailable cannot be both set"))
	}
	for _, limit := range []struct {
		name  string
		value *intstr.IntOrString
	}{{"minAvailable", s.MinAvailable}, {"maxUnavailable", s.MaxUnavailable}} {
		if limit.value != nil {
			errs = append(errs, check.IntOrPercent(*limit.value, path.Child(limit.name))...)
			errs = append(errs, check.AtMostAll(*limit.value, path.Child(limit.name))...)
		}
	}
	errs = append(errs, check.Selector(s.Selector, lax, path.Child("selector"))...)
	if p := s.UnhealthyPodEvictionPolicy; p != nil {
		errs = append(errs, check.OneOf(*p, path.Child("unhealthyPodEvictionPolicy"), policyv1.AlwaysAllow, policyv1.IfHealthyBudget)...)
	}
	return errs
}
