package core

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/kind"
)

// LimitRange is the kind of bounds and defaults for single objects of a namespace.
var LimitRange = kind.Of(kind.Spec[*corev1.LimitRange]{
	NameOnUpdate:   true,
	New:            func() *corev1.LimitRange { return &corev1.LimitRange{} },
	NewList:        func() runtime.Object { return &corev1.LimitRangeList{} },
	Default:        defaultLimitRange,
	Validate:       validateLimitRange,
	ValidateUpdate: func(l, _ *corev1.LimitRange) field.ErrorList { return validateLimitRange(l) },
})

func defaultLimitRange(l *corev1.LimitRange) {
	for i := range l.Spec.Limits {
		it := &l.Spec.Limits[i]
		if it.Type == corev1.LimitTypeContainer {
			fillFrom(&it.Default, it.Max)
			fillFrom(&it.DefaultRequest, it.Default)
			fillFrom(&it.DefaultRequest, it.Min)
		}
		roundResources(it.Max)
		roundResources(it.Min)
		roundResources(it.Default)
		roundResources(it.DefaultRequest)
		roundResources(it.MaxLimitRequestRatio)
	}
}

// fillFrom copies into list what it does not have of from.
func fillFrom(list *corev1.ResourceList, from corev1.ResourceList) {
	for name, q := range from {
		addIfMissing(list, name, q)
	}
}

func validateLimitRange(l *corev1.LimitRange) field.ErrorList {
	return collect(field.NewPath("spec", "limits"), func(p place) {
		for i := range l.Spec.Limits {
			it, at := &l.Spec.Limits[i], p.index(i)
			checkLimitType(at, it.Type)
			if slices.ContainsFunc(l.Spec.Limits[:i], func(b corev1.LimitRangeItem) bool { return b.Type == it.Type }) {
				at.duplicate("type", it.Type)
			}
			checkLimits(at, it)
		}
	})
}

func checkLimitType(p place, t corev1.LimitType) {
	msgs := validation.IsQualifiedName(string(t))
	p.invalidEach("type", t, msgs)
	known := t == corev1.LimitTypePod || t == corev1.LimitTypeContainer || t == corev1.LimitTypePersistentVolumeClaim
	if len(msgs) == 0 && !known && !strings.Contains(string(t), "/") {
		p.invalid("type", t, "must be a standard limit type or fully qualified")
	}
}

// checkLimits checks the five lists of an item by themselves and against each other.
func checkLimits(p place, it *corev1.LimitRangeItem) {
	names := sets.New[corev1.ResourceName]()
	list := func(name string, l corev1.ResourceList) {
		for _, r := range sortedKeys(l) {
			at := p.child(name).key(string(r))
			if it.Type == corev1.LimitTypePod || it.Type == corev1.LimitTypeContainer {
				checkContainerResourceName(at, r)
			} else {
				checkResourceName(at, r)
			}
			names.Insert(r)
		}
	}
	list("max", it.Max)
	list("min", it.Min)
	if it.Type == corev1.LimitTypePod {
		if len(it.Default) > 0 {
			p.forbidden("default", "may not be specified when `type` is 'Pod'")
		}
		if len(it.DefaultRequest) > 0 {
			p.forbidden("defaultRequest", "may not be specified when `type` is 'Pod'")
		}
	} else {
		list("default", it.Default)
		list("defaultRequest", it.DefaultRequest)
	}
	if it.Type == corev1.LimitTypePersistentVolumeClaim {
		_, least := it.Min[corev1.ResourceStorage]
		_, most := it.Max[corev1.ResourceStorage]
		if !least && !most {
			p.required("limits", "either minimum or maximum storage value is required, but neither was provided")
		}
	}
	list("maxLimitRequestRatio", it.MaxLimitRequestRatio)
	for _, name := range sets.List(names) {
		checkLimitsOf(p, it, name)
	}
}

// checkLimitsOf checks the bounds of one resource against each other.
func checkLimitsOf(p place, it *corev1.LimitRangeItem, name corev1.ResourceName) {
	least, hasMin := it.Min[name]
	most, hasMax := it.Max[name]
	limit, hasLimit := it.Default[name]
	ask, hasAsk := it.DefaultRequest[name]
	if it.Type == corev1.LimitTypePod {
		hasLimit, hasAsk = false, false
	}
	above := func(both bool, a, b resource.Quantity, at string, value resource.Quantity, message string) {
		if both && a.Cmp(b) > 0 {
			p.child(at).key(string(name)).invalid("", value, fmt.Sprintf(message, a.String(), b.String()))
		}
	}
	above(hasMin && hasMax, least, most, "min", least, "min value %s is greater than max value %s")
	above(hasMin && hasAsk, least, ask, "defaultRequest", ask, "min value %s is greater than default request value %s")
	above(hasAsk && hasMax, ask, most, "defaultRequest", ask, "default request value %s is greater than max value %s")
	above(hasAsk && hasLimit, ask, limit, "defaultRequest", ask, "default request value %s is greater than default limit value %s")
	above(hasMin && hasLimit, least, limit, "default", least, "min value %s is greater than default value %s")
	above(hasLimit && hasMax, limit, most, "default", most, "default value %s is greater than max value %s")
	if ratio, ok := it.MaxLimitRequestRatio[name]; ok {
		checkRatio(p.child("maxLimitRequestRatio").key(string(name)), ratio, least, most, hasMin && hasMax)
	}
	if hasLimit && hasAsk && !mayOvercommit(name) && limit.Cmp(ask) != 0 {
		p.child("defaultRequest").key(string(name)).invalid("", ask,
			fmt.Sprintf("default value %s must equal to defaultRequest value %s in %s", limit.String(), ask.String(), name))
	}
}

func checkRatio(p place, ratio, least, most resource.Quantity, bounded bool) {
	if ratio.Cmp(resource.MustParse("1")) < 0 {
		p.invalid("", ratio, "ratio "+ratio.String()+" is less than 1")
	}
	if !bounded {
		return
	}
	r, low, high := float64(ratio.Value()), least.Value(), most.Value()
	if ratio.Value() < resource.MaxMilliValue && low < resource.MaxMilliValue && high < resource.MaxMilliValue {
		r, low, high = float64(ratio.MilliValue())/1000, least.MilliValue(), most.MilliValue()
	}
	if widest := float64(high) / float64(low); r > widest {
		p.invalid("", ratio, fmt.Sprintf("ratio %s is greater than max/min = %f", ratio.String(), widest))
	}
}
