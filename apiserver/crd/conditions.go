package crd

import (
	"fmt"
	"reflect"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Taken is the names that definitions of one group have been given.
type Taken struct{ resources, kinds sets.Set[string] }

// Take notes the names of a definition of the group.
func (t *Taken) Take(of *Definition) {
	if t.resources == nil {
		t.resources, t.kinds = sets.New[string](), sets.New[string]()
	}
	names := &of.identity.names
	t.resources.Insert(names.Plural, names.Singular)
	t.resources.Insert(names.ShortNames...)
	t.kinds.Insert(names.Kind, names.ListKind)
}

// AllNames tells whether the definition has all the names that it asks for.
func AllNames(d *apiextensionsv1.CustomResourceDefinition) bool {
	return equality.Semantic.DeepEqual(d.Spec.Names, d.Status.AcceptedNames)
}

// Settle returns d with the status that follows from it and from the names that
// others of its group have; nil: it has that status. It does not settle what
// follows from a deletion.
func Settle(d *apiextensionsv1.CustomResourceDefinition, taken Taken) *apiextensionsv1.CustomResourceDefinition {
	next := d.DeepCopy()
	settleNames(next, taken)
	settleSchema(next)
	settleApproval(next)
	if reflect.DeepEqual(d.Status, next.Status) {
		return nil
	}
	return next
}

type condition = apiextensionsv1.CustomResourceDefinitionCondition

// settleNames gives the definition those of its names that are free; once it has
// had all of them, it is established, and stays so.
func settleNames(d *apiextensionsv1.CustomResourceDefinition, taken Taken) {
	accepted := condition{Type: apiextensionsv1.NamesAccepted, Status: apiextensionsv1.ConditionTrue, Reason: "NoConflicts", Message: "no conflicts found"}
	if !AllNames(d) {
		refused := func(reason string, err error) {
			accepted.Status, accepted.Reason, accepted.Message = apiextensionsv1.ConditionFalse, reason, err.Error()
		}
		acceptNames(&d.Status.AcceptedNames, &d.Spec.Names, taken, refused)
		setCondition(d, accepted)
	}
	if !apihelpers.IsCRDConditionTrue(d, apiextensionsv1.NamesAccepted) {
		if apihelpers.FindCRDCondition(d, apiextensionsv1.Established) == nil {
			setCondition(d, condition{Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionFalse, Reason: "NotAccepted", Message: "not all names are accepted"})
		}
		return
	}
	if !apihelpers.IsCRDConditionTrue(d, apiextensionsv1.Established) {
		setCondition(d, condition{Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionTrue, Reason: "InitialNamesAccepted", Message: "the initial names have been accepted"})
	}
}

// acceptNames copies into have what is wanted and free; the last refusal counts.
func acceptNames(have, want *apiextensionsv1.CustomResourceDefinitionNames, taken Taken, refused func(reason string, err error)) {
	free := func(want, have string, taken sets.Set[string]) error {
		if want != have && taken.Has(want) {
			return fmt.Errorf("%q is already in use", want)
		}
		return nil
	}
	for _, name := range []struct {
		want   string
		have   *string
		taken  sets.Set[string]
		reason string
	}{
		{want.Plural, &have.Plural, taken.resources, "PluralConflict"},
		{want.Singular, &have.Singular, taken.resources, "SingularConflict"},
	} {
		if err := free(name.want, *name.have, name.taken); err != nil {
			refused(name.reason, err)
			continue
		}
		*name.have = name.want
	}
	var errs []error
	mine := sets.New(have.ShortNames...)
	for _, name := range want.ShortNames {
		if !mine.Has(name) {
			errs = append(errs, free(name, "", taken.resources))
		}
	}
	if err := utilerrors.NewAggregate(errs); err != nil {
		refused("ShortNamesConflict", err)
	} else {
		have.ShortNames = want.ShortNames
	}
	if err := free(want.Kind, have.Kind, taken.kinds); err != nil {
		refused("KindConflict", err)
	} else {
		have.Kind = want.Kind
	}
	if err := free(want.ListKind, have.ListKind, taken.kinds); err != nil {
		refused("ListKindConflict", err)
	} else {
		have.ListKind = want.ListKind
	}
	have.Categories = want.Categories
}

// settleSchema says what is not structural about the schemas. Today's validation
// takes no such definition; older ones are converted.
func settleSchema(d *apiextensionsv1.CustomResourceDefinition) {
	violations := nonStructural(d)
	if violations == nil {
		apihelpers.RemoveCRDCondition(d, apiextensionsv1.NonStructuralSchema)
		return
	}
	setCondition(d, *violations)
}

func nonStructural(d *apiextensionsv1.CustomResourceDefinition) *condition {
	var errs field.ErrorList
	if d.Spec.PreserveUnknownFields {
		errs = append(errs, field.Invalid(field.NewPath("spec", "preserveUnknownFields"), true, "must be false"))
	}
	for i, v := range d.Spec.Versions {
		props, err := internalSchema(d, v.Name)
		if err != nil || props == nil {
			continue
		}
		s, err := structural.NewStructural(props)
		if err != nil {
			return &condition{Type: apiextensionsv1.NonStructuralSchema, Status: apiextensionsv1.ConditionUnknown, Reason: "StructuralError",
				Message: fmt.Sprintf("failed to check validation schema for version %s: %v", v.Name, err)}
		}
		errs = append(errs, structural.ValidateStructural(field.NewPath("spec", "versions").Index(i).Child("schema", "openAPIV3Schema"), s)...)
	}
	if len(errs) == 0 {
		return nil
	}
	return &condition{Type: apiextensionsv1.NonStructuralSchema, Status: apiextensionsv1.ConditionTrue, Reason: "Violations", Message: errs.ToAggregate().Error()}
}

// settleApproval says whether a definition in one of Kubernetes' own groups has
// been approved there.
func settleApproval(d *apiextensionsv1.CustomResourceDefinition) {
	if !apihelpers.IsProtectedCommunityGroup(d.Spec.Group) {
		apihelpers.RemoveCRDCondition(d, apiextensionsv1.KubernetesAPIApprovalPolicyConformant)
		return
	}
	state, message := apihelpers.GetAPIApprovalState(d.Annotations)
	c := condition{Type: apiextensionsv1.KubernetesAPIApprovalPolicyConformant, Status: apiextensionsv1.ConditionFalse, Message: message}
	switch state {
	case apihelpers.APIApprovalInvalid:
		c.Reason = "InvalidAnnotation"
	case apihelpers.APIApprovalMissing:
		c.Reason = "MissingAnnotation"
	case apihelpers.APIApproved:
		c.Status, c.Reason = apiextensionsv1.ConditionTrue, "ApprovedAnnotation"
	case apihelpers.APIApprovalBypassed:
		c.Reason = "UnapprovedAnnotation"
	default:
		c.Status, c.Reason = apiextensionsv1.ConditionUnknown, "UnknownAnnotation"
	}
	setCondition(d, c)
}

// setCondition keeps the time of a condition that says what it said before.
func setCondition(d *apiextensionsv1.CustomResourceDefinition, c condition) {
	if have := apihelpers.FindCRDCondition(d, c.Type); have != nil && apihelpers.IsCRDConditionEquivalent(have, &c) {
		return
	}
	apihelpers.SetCRDCondition(d, c)
}

// Farewell marks a definition that is to be deleted: it stays until its objects
// are gone.
func Farewell(d *apiextensionsv1.CustomResourceDefinition, now metav1.Time) {
	d.DeletionTimestamp = &now
	if !apihelpers.CRDHasFinalizer(d, apiextensionsv1.CustomResourceCleanupFinalizer) {
		d.Finalizers = append(d.Finalizers, apiextensionsv1.CustomResourceCleanupFinalizer)
	}
	Terminating(d, apiextensionsv1.ConditionTrue, "InstanceDeletionPending",
		"CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon")
}

// Terminating says how far the deletion of a definition's objects is.
func Terminating(d *apiextensionsv1.CustomResourceDefinition, status apiextensionsv1.ConditionStatus, reason, message string) {
	setCondition(d, condition{Type: apiextensionsv1.Terminating, Status: status, Reason: reason, Message: message})
}

// Cleaning tells whether a definition is being deleted and its objects are not
// known to be gone.
func Cleaning(d *apiextensionsv1.CustomResourceDefinition) bool {
	return d.DeletionTimestamp != nil && apihelpers.CRDHasFinalizer(d, apiextensionsv1.CustomResourceCleanupFinalizer)
}
