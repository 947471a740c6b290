// Package coordination says what Kubernetes documents about the kinds of
// coordination.k8s.io/v1: one variable per kind, which api/catalogue.go puts into
// its rows. It never does I/O, and never looks at other objects.
package coordination

import (
	"strings"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/check"
	"skiff/api/column"
	"skiff/api/kind"
)

// Lease is coordination.k8s.io/v1 Lease.
var Lease = kind.Of(kind.Spec[*coordinationv1.Lease]{
	AnyFinalizer: true,
	New:          func() *coordinationv1.Lease { return &coordinationv1.Lease{} },
	NewList:      func() runtime.Object { return &coordinationv1.LeaseList{} },
	// Coordinated leader election is off by default.
	Create: func(l *coordinationv1.Lease) { l.Spec.Strategy, l.Spec.PreferredHolder = nil, nil },
	Update: func(l, old *coordinationv1.Lease) {
		if old.Spec.Strategy == nil {
			l.Spec.Strategy = nil
		}
		if old.Spec.PreferredHolder == nil {
			l.Spec.PreferredHolder = nil
		}
	},
	Validate:       validateLease,
	ValidateUpdate: func(l, _ *coordinationv1.Lease) field.ErrorList { return validateLease(l) },
	Columns: []metav1.TableColumnDefinition{
		column.Name, column.String("Holder", coordinationv1.LeaseSpec{}.SwaggerDoc()["holderIdentity"]), column.Age,
	},
	Row: func(l *coordinationv1.Lease) []any {
		return []any{l.Name, column.Or(l.Spec.HolderIdentity, ""), column.Since(l.CreationTimestamp)}
	},
	AllowCreateOnUpdate:          true,
	UnconditionalUpdateForbidden: true,
})

func validateLease(l *coordinationv1.Lease) (errs field.ErrorList) {
	s, path := &l.Spec, field.NewPath("spec")
	if d := s.LeaseDurationSeconds; d != nil && *d <= 0 {
		errs = append(errs, field.Invalid(path.Child("leaseDurationSeconds"), d, "must be greater than 0"))
	}
	if n := s.LeaseTransitions; n != nil && *n < 0 {
		errs = append(errs, field.Invalid(path.Child("leaseTransitions"), n, "must be greater than or equal to 0"))
	}
	if s.Strategy != nil {
		// The path has its last part twice, and clients may know it so.
		errs = append(errs, validateStrategy(*s.Strategy, path.Child("strategy", "strategy"))...)
	}
	if column.Or(s.PreferredHolder, "") != "" && column.Or(s.Strategy, "") == "" {
		errs = append(errs, field.Forbidden(path.Child("preferredHolder"), "may only be specified if `strategy` is defined"))
	}
	return errs
}

// validateStrategy takes the strategies of Kubernetes, and qualified names of others.
func validateStrategy(s coordinationv1.CoordinatedLeaseStrategy, path *field.Path) field.ErrorList {
	if strings.Contains(string(s), "/") {
		return check.QualifiedName(string(s), path)
	}
	return check.OneOf(s, path, coordinationv1.OldestEmulationVersion)
}
