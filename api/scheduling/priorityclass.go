// Package scheduling says what Kubernetes documents about the kinds of
// scheduling.k8s.io/v1: one variable per kind, which api/catalogue.go puts into its
// rows. It never does I/O, and never looks at other objects.
package scheduling

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/check"
	"skiff/api/column"
	"skiff/api/kind"
)

// Priorities from maxUserValue up are for the system's own classes.
const (
	maxUserValue        = 1_000_000_000
	systemPrefix        = "system-"
	clusterCritical     = "system-cluster-critical"
	nodeCritical        = "system-node-critical"
	clusterCriticalRank = 2 * maxUserValue
	nodeCriticalRank    = clusterCriticalRank + 1000
)

// PriorityClass is scheduling.k8s.io/v1 PriorityClass.
var PriorityClass = kind.Of(kind.Spec[*schedulingv1.PriorityClass]{
	New:     func() *schedulingv1.PriorityClass { return &schedulingv1.PriorityClass{} },
	NewList: func() runtime.Object { return &schedulingv1.PriorityClassList{} },
	Default: func(c *schedulingv1.PriorityClass) {
		if c.PreemptionPolicy == nil {
			c.PreemptionPolicy = new(corev1.PreemptLowerPriority)
		}
	},
	// Its generation is always 1: what it says cannot change.
	Intent:   func(*schedulingv1.PriorityClass) any { return nil },
	Validate: validatePriorityClass,
	ValidateUpdate: func(c, old *schedulingv1.PriorityClass) (errs field.ErrorList) {
		if c.Value != old.Value {
			errs = append(errs, field.Forbidden(field.NewPath("value"), "may not be changed in an update."))
		}
		return append(errs, validation.ValidateImmutableField(c.PreemptionPolicy, old.PreemptionPolicy, field.NewPath("preemptionPolicy"))...)
	},
	Columns: []metav1.TableColumnDefinition{
		column.Name,
		column.Integer("Value", schedulingv1.PriorityClass{}.SwaggerDoc()["value"]),
		column.Boolean("Global-Default", schedulingv1.PriorityClass{}.SwaggerDoc()["globalDefault"]),
		column.Age,
		column.String("PreemptionPolicy", schedulingv1.PriorityClass{}.SwaggerDoc()["preemptionPolicy"]),
	},
	Row: func(c *schedulingv1.PriorityClass) []any {
		return []any{c.Name, int64(c.Value), c.GlobalDefault, column.Since(c.CreationTimestamp), string(column.Or(c.PreemptionPolicy, ""))}
	},
})

func validatePriorityClass(c *schedulingv1.PriorityClass) (errs field.ErrorList) {
	if strings.HasPrefix(c.Name, systemPrefix) {
		if wrong := notSystemClass(c); wrong != "" {
			errs = append(errs, field.Forbidden(field.NewPath("metadata", "name"),
				"priority class names with 'system-' prefix are reserved for system use only. error: "+wrong))
		}
	} else if c.Value > maxUserValue {
		errs = append(errs, field.Forbidden(field.NewPath("value"), fmt.Sprintf("maximum allowed value of a user defined priority is %d", maxUserValue)))
	}
	if p := c.PreemptionPolicy; p != nil {
		errs = append(errs, check.SetOneOf(*p, field.NewPath("preemptionPolicy"), corev1.PreemptLowerPriority, corev1.PreemptNever)...)
	}
	return errs
}

// notSystemClass says in what a class with a system name differs from the
// system's own.
func notSystemClass(c *schedulingv1.PriorityClass) string {
	rank, ok := map[string]int32{clusterCritical: clusterCriticalRank, nodeCritical: nodeCriticalRank}[c.Name]
	switch {
	case !ok:
		return c.Name + " is not a known system priority class"
	case c.Value != rank:
		return fmt.Sprintf("value of %s PriorityClass must be %d", c.Name, rank)
	case c.GlobalDefault:
		return fmt.Sprintf("globalDefault of %s PriorityClass must be false", c.Name)
	}
	return ""
}
