// Package node says what Kubernetes documents about the kinds of node.k8s.io/v1:
// one variable per kind, which api/catalogue.go puts into its rows. It never does
// I/O, and never looks at other objects than the one it is given.
package node

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/check"
	"skiff/api/column"
	"skiff/api/core"
	"skiff/api/kind"
)

// RuntimeClass is node.k8s.io/v1 RuntimeClass.
var RuntimeClass = kind.Of(kind.Spec[*nodev1.RuntimeClass]{
	NameOnUpdate: true,
	AnyFinalizer: true,
	New:          func() *nodev1.RuntimeClass { return &nodev1.RuntimeClass{} },
	NewList:      func() runtime.Object { return &nodev1.RuntimeClassList{} },
	Validate:     func(c *nodev1.RuntimeClass) field.ErrorList { return validateRuntimeClass(c, content.IsDNS1123Label) },
	ValidateUpdate: func(c, old *nodev1.RuntimeClass) field.ErrorList {
		// Only a create knows the declared rule, which counts bytes.
		return append(validateRuntimeClass(c, utilvalidation.IsDNS1123Label), check.Unchanged(c.Handler, old.Handler, field.NewPath("handler"))...)
	},
	Warn: func(c, _ *nodev1.RuntimeClass) (texts []string) {
		if c.Scheduling == nil {
			return nil
		}
		for key := range c.Scheduling.NodeSelector {
			if text := check.DeprecatedNodeLabel(key); text != "" {
				texts = append(texts, fmt.Sprintf("scheduling.nodeSelector: %s", text))
			}
		}
		return texts
	},
	Columns: []metav1.TableColumnDefinition{column.Name, column.String("Handler", ""), column.Age},
	Row: func(c *nodev1.RuntimeClass) []any {
		return []any{c.Name, c.Handler, column.Since(c.CreationTimestamp)}
	},
	AllowCreateOnUpdate:          true,
	UnconditionalUpdateForbidden: true,
})

func validateRuntimeClass(c *nodev1.RuntimeClass, label func(string) []string) (errs field.ErrorList) {
	if c.Handler == "" {
		errs = append(errs, field.Required(field.NewPath("handler"), ""))
	} else {
		errs = append(errs, check.Each(field.NewPath("handler"), c.Handler, label(c.Handler))...)
	}
	if c.Overhead != nil {
		errs = append(errs, core.ValidateResourceRequirements(&corev1.ResourceRequirements{Limits: c.Overhead.PodFixed}, field.NewPath("overhead"))...)
	}
	if s := c.Scheduling; s != nil {
		path := field.NewPath("scheduling")
		errs = append(errs, metav1validation.ValidateLabels(s.NodeSelector, path.Child("nodeSelector"))...)
		errs = append(errs, core.ValidateTolerations(s.Tolerations, path.Child("tolerations"))...)
		for i, t := range s.Tolerations {
			same := func(o corev1.Toleration) bool {
				return o.Key == t.Key && o.Operator == t.Operator && o.Value == t.Value && o.Effect == t.Effect
			}
			if slices.ContainsFunc(s.Tolerations[:i], same) {
				errs = append(errs, field.Duplicate(path.Child("tolerations").Index(i), t))
			}
		}
	}
	return errs
}
