package core

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/column"
	"skiff/api/kind"
)

// ResourceQuota is the kind of a limit on what a namespace uses.
var ResourceQuota = kind.Of(kind.Spec[*corev1.ResourceQuota]{
	New:     func() *corev1.ResourceQuota { return &corev1.ResourceQuota{} },
	NewList: func() runtime.Object { return &corev1.ResourceQuotaList{} },
	Default: func(q *corev1.ResourceQuota) {
		roundResources(q.Spec.Hard)
		roundResources(q.Status.Hard)
		roundResources(q.Status.Used)
	},
	Create: func(q *corev1.ResourceQuota) { q.Status = corev1.ResourceQuotaStatus{} },
	Update: func(q, old *corev1.ResourceQuota) { q.Status = old.Status },
	Validate: func(q *corev1.ResourceQuota) field.ErrorList {
		return collect(nil, func(root place) {
			checkQuota(root.child("spec"), &q.Spec)
			checkQuotaStatus(root.child("status"), &q.Status)
		})
	},
	ValidateUpdate: func(q, old *corev1.ResourceQuota) field.ErrorList {
		return collect(field.NewPath("spec"), func(p place) {
			checkQuota(p, &q.Spec)
			if !sets.New(q.Spec.Scopes...).Equal(sets.New(old.Spec.Scopes...)) {
				p.invalid("scopes", q.Spec.Scopes, "field is immutable")
			}
		})
	},
	Subs: map[string]kind.Sub[*corev1.ResourceQuota]{"status": {
		Update: func(q, old *corev1.ResourceQuota) { q.Spec = old.Spec },
		Validate: func(q, _ *corev1.ResourceQuota) field.ErrorList {
			return append(wantsVersion(q.ResourceVersion),
				collect(field.NewPath("status"), func(p place) { checkQuotaStatus(p, &q.Status) })...)
		},
	}},
	Columns: []metav1.TableColumnDefinition{
		column.Name,
		column.String("Request", "Request represents a minimum amount of cpu/memory that a container may consume."),
		column.String("Limit", "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node."),
		column.Age,
	},
	Row: func(q *corev1.ResourceQuota) []any {
		var requests, limits []string
		for _, name := range sortedKeys(q.Status.Hard) {
			used, hard := q.Status.Used[name], q.Status.Hard[name]
			text := string(name) + ": " + used.String() + "/" + hard.String()
			if strings.HasPrefix(string(name), "limits.") {
				limits = append(limits, text)
			} else {
				requests = append(requests, text)
			}
		}
		return []any{q.Name, strings.Join(requests, ", "), strings.Join(limits, ", "), column.Since(q.CreationTimestamp)}
	},
})

func checkQuotaAmounts(p place, list corev1.ResourceList) {
	for _, name := range sortedKeys(list) {
		at := p.key(string(name))
		checkQuotaResourceName(at, name)
		checkQuantity(at, name, list[name])
	}
}

func checkQuotaStatus(p place, s *corev1.ResourceQuotaStatus) {
	checkQuotaAmounts(p.child("hard"), s.Hard)
	checkQuotaAmounts(p.child("used"), s.Used)
}

func checkQuota(p place, s *corev1.ResourceQuotaSpec) {
	checkQuotaAmounts(p.child("hard"), s.Hard)
	for _, scope := range s.Scopes {
		if !knownScope(scope) {
			p.invalid("scopes", s.Scopes, "unsupported scope")
		}
		for _, name := range sortedKeys(s.Hard) {
			if !scopeCounts(scope, name) {
				p.invalid("scopes", s.Scopes, "unsupported scope applied to resource")
			}
		}
	}
	checkScopePairs(p.child("scopes"), s, s.Scopes)
	if s.ScopeSelector == nil {
		return
	}
	at := p.child("scopeSelector").child("matchExpressions")
	var scopes []corev1.ResourceQuotaScope
	for i := range s.ScopeSelector.MatchExpressions {
		e := &s.ScopeSelector.MatchExpressions[i]
		checkScopeExpression(at, e)
		for _, name := range sortedKeys(s.Hard) {
			if !scopeCounts(e.ScopeName, name) {
				at.invalid("", s.ScopeSelector, "unsupported scope applied to resource")
			}
		}
		scopes = append(scopes, e.ScopeName)
	}
	checkScopePairs(at, s, scopes)
}

func checkScopePairs(p place, s *corev1.ResourceQuotaSpec, scopes []corev1.ResourceQuotaScope) {
	both := func(a, b corev1.ResourceQuotaScope) {
		if slices.Contains(scopes, a) && slices.Contains(scopes, b) {
			p.invalid("", s.Scopes, "conflicting scopes")
		}
	}
	both(corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort)
	both(corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating)
}

// checkScopeExpression checks one selector of scopes. Most scopes are there or are
// not; only the classes have values.
func checkScopeExpression(p place, e *corev1.ScopedResourceSelectorRequirement) {
	if !knownScope(e.ScopeName) {
		p.invalid("scopeName", e.ScopeName, "unsupported scope")
	}
	switch e.ScopeName {
	case corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopeTerminating,
		corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		if e.Operator != corev1.ScopeSelectorOpExists {
			p.invalid("operator", e.Operator, "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity")
		}
	}
	switch e.Operator {
	case corev1.ScopeSelectorOpIn, corev1.ScopeSelectorOpNotIn:
		if len(e.Values) == 0 {
			p.required("values", "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector")
		}
	case corev1.ScopeSelectorOpExists, corev1.ScopeSelectorOpDoesNotExist:
		if len(e.Values) > 0 {
			p.invalid("values", e.Values, "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector")
		}
	default:
		p.invalid("operator", e.Operator, "not a valid selector operator")
	}
}

func knownScope(s corev1.ResourceQuotaScope) bool {
	switch s {
	case corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeBestEffort,
		corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopePriorityClass, corev1.ResourceQuotaScopeVolumeAttributesClass,
		corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return true
	}
	return false
}

// scopeCounts tells whether a scope may narrow the count of a resource; of
// resources that are not Kubernetes' own nobody knows.
func scopeCounts(s corev1.ResourceQuotaScope, name corev1.ResourceName) bool {
	if !quotaResources.Has(name) && !isQuotaHugePages(name) {
		return true
	}
	switch s {
	case corev1.ResourceQuotaScopeBestEffort:
		return name == corev1.ResourcePods
	case corev1.ResourceQuotaScopeVolumeAttributesClass:
		return name == corev1.ResourcePersistentVolumeClaims || name == corev1.ResourceRequestsStorage
	case corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeNotBestEffort,
		corev1.ResourceQuotaScopePriorityClass, corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		switch name {
		case corev1.ResourcePods, corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory,
			corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory:
			return true
		}
		return false
	}
	return true
}
