package crd

import (
	"context"

	structuralcel "k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/model"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	schemavalidation "k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/common"

	"skiff/api/kind"
)

// validate judges a new object: its schema, scale, embedded objects, lists that
// are sets or maps, and last the rules in CEL.
func (k *customKind) validate(obj kind.Object) field.ErrorList {
	v, err := k.compiled()
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	if errs := k.validateKind(obj); len(errs) > 0 {
		return errs
	}
	fields := content(obj)
	errs := schemavalidation.ValidateCustomResource(nil, fields, v.validator)
	errs = append(errs, k.validateScaleSpec(fields)...)
	errs = append(errs, k.validateScaleStatus(fields)...)
	errs = append(errs, objectmeta.Validate(context.Background(), nil, fields, v.structural, false)...)
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, v.structural, fields)...)
	return v.rules(errs, fields, nil)
}

// validateKind refuses an object that says it is of another kind; its version has
// been compared when it was decoded.
func (k *customKind) validateKind(obj kind.Object) field.ErrorList {
	if got := obj.GetObjectKind().GroupVersionKind().Kind; got != k.gvk.Kind {
		return field.ErrorList{field.Invalid(field.NewPath("kind"), got, "must be "+k.gvk.Kind)}
	}
	return nil
}

// validateUpdate judges the next version of an object. What was wrong before and
// has not changed is let pass (KEP-4008).
func (k *customKind) validateUpdate(obj, old kind.Object) field.ErrorList {
	v, err := k.compiled()
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	if errs := k.validateKind(obj); len(errs) > 0 {
		return errs
	}
	fields, before := content(obj), content(old)
	unchanged := common.NewCorrelatedObject(fields, before, &model.Structural{Structural: v.structural})
	errs := schemavalidation.ValidateCustomResourceUpdate(nil, fields, before, v.validator, schemavalidation.WithRatcheting(unchanged))
	errs = append(errs, k.validateScaleSpec(fields)...)
	errs = append(errs, k.validateScaleStatus(fields)...)
	errs = append(errs, objectmeta.Validate(context.Background(), nil, fields, v.structural, false)...)
	errs = append(errs, v.newListErrors(fields, before)...)
	return v.rules(errs, fields, before, structuralcel.WithRatcheting(unchanged))
}

// validateStatus judges a write to the status subresource, by the status' part of
// the schema.
func (k *customKind) validateStatus(obj, old kind.Object) field.ErrorList {
	v, err := k.compiled()
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	fields, before := content(obj), content(old)
	unchanged := common.NewCorrelatedObject(fields, before, &model.Structural{Structural: v.structural})
	var options []schemavalidation.ValidationOption
	if v.structural != nil {
		options = append(options, schemavalidation.WithRatcheting(unchanged.Key("status")))
	}
	var errs field.ErrorList
	if status, given := fields["status"]; given {
		errs = schemavalidation.ValidateCustomResourceUpdate(field.NewPath("status"), status, before["status"], v.statusValidator, options...)
	}
	errs = append(errs, k.validateScaleStatus(fields)...)
	errs = append(errs, v.newListErrors(fields, before)...)
	return v.rules(errs, fields, before, structuralcel.WithRatcheting(unchanged))
}

// newListErrors are those of lists that are sets or maps, if there were none before.
func (v *compiledVersion) newListErrors(fields, before map[string]any) field.ErrorList {
	errs := listtype.ValidateListSetsAndMaps(nil, v.structural, fields)
	if len(errs) > 0 && len(listtype.ValidateListSetsAndMaps(nil, v.structural, before)) > 0 {
		return nil
	}
	return errs
}

// rules adds the errors of the rules in CEL, unless others make those moot: rules
// are typed, and stand on an object that fits its schema.
func (v *compiledVersion) rules(errs field.ErrorList, fields, before map[string]any, options ...structuralcel.Option) field.ErrorList {
	rules := v.cel()
	if rules == nil {
		return errs
	}
	for _, e := range errs {
		switch e.Type {
		case field.ErrorTypeNotSupported, field.ErrorTypeRequired, field.ErrorTypeTooLong, field.ErrorTypeTooMany, field.ErrorTypeTypeInvalid:
			return append(errs, field.Invalid(nil, nil, "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation"))
		}
	}
	var old any
	if before != nil {
		old = before
	}
	broken, _ := rules.Validate(context.Background(), nil, v.structural, fields, old, celconfig.RuntimeCELCostBudget, options...)
	return append(errs, broken...)
}
