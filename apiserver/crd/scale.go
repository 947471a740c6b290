package crd

import (
	"fmt"
	"math"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"skiff/api/kind"
)

func (k *customKind) getScale(obj kind.Object) (spec autoscalingv1.ScaleSpec, status autoscalingv1.ScaleStatus) {
	fields := content(obj)
	replicas, _, _ := unstructured.NestedInt64(fields, segments(k.scale.SpecReplicasPath)...)
	spec.Replicas = int32(replicas)
	replicas, _, _ = unstructured.NestedInt64(fields, segments(k.scale.StatusReplicasPath)...)
	status.Replicas = int32(replicas)
	if path := k.scale.LabelSelectorPath; path != nil && *path != "" {
		status.Selector, _, _ = unstructured.NestedString(fields, segments(*path)...)
	}
	return spec, status
}

func (k *customKind) setScale(obj kind.Object, replicas int32) {
	// It fails only where a field on the way is not an object; checkScale has seen that.
	_ = unstructured.SetNestedField(content(obj), int64(replicas), segments(k.scale.SpecReplicasPath)...)
}

// checkScale says why an object has no Scale.
func (k *customKind) checkScale(obj kind.Object, writing bool) error {
	fields := content(obj)
	_, found, err := unstructured.NestedInt64(fields, segments(k.scale.SpecReplicasPath)...)
	if err != nil {
		return err
	}
	if !found && !writing {
		return apierrors.NewInternalError(fmt.Errorf("the spec replicas field %q does not exist", k.scale.SpecReplicasPath))
	}
	if _, _, err := unstructured.NestedInt64(fields, segments(k.scale.StatusReplicasPath)...); err != nil {
		return err
	}
	if path := k.scale.LabelSelectorPath; path != nil && *path != "" {
		_, _, err = unstructured.NestedString(fields, segments(*path)...)
	}
	return err
}

// replicasPaths is where each version has the number of replicas.
func replicasPaths(d *apiextensionsv1.CustomResourceDefinition) managedfields.ResourcePathMappings {
	out := managedfields.ResourcePathMappings{}
	for _, v := range d.Spec.Versions {
		gv := schema.GroupVersion{Group: d.Spec.Group, Version: v.Name}.String()
		out[gv] = nil
		if v.Subresources == nil || v.Subresources.Scale == nil {
			continue
		}
		var path fieldpath.Path
		for _, name := range segments(v.Subresources.Scale.SpecReplicasPath) {
			path = append(path, fieldpath.PathElement{FieldName: &name})
		}
		out[gv] = path
	}
	return out
}

func (k *customKind) validateScaleSpec(fields map[string]any) field.ErrorList {
	if k.scale == nil {
		return nil
	}
	return validateReplicas(fields, k.scale.SpecReplicasPath)
}

func (k *customKind) validateScaleStatus(fields map[string]any) field.ErrorList {
	if k.scale == nil {
		return nil
	}
	errs := validateReplicas(fields, k.scale.StatusReplicasPath)
	if path := k.scale.LabelSelectorPath; path != nil {
		if selector, _, err := unstructured.NestedString(fields, segments(*path)...); err != nil {
			errs = append(errs, field.Invalid(field.NewPath(*path), selector, err.Error()))
		}
	}
	return errs
}

func validateReplicas(fields map[string]any, path string) field.ErrorList {
	at := field.NewPath(path)
	n, _, err := unstructured.NestedInt64(fields, segments(path)...)
	switch {
	case err != nil:
		return field.ErrorList{field.Invalid(at, n, err.Error())}
	case n < 0:
		return field.ErrorList{field.Invalid(at, n, "should be a non-negative integer")}
	case n > math.MaxInt32:
		return field.ErrorList{field.Invalid(at, n, fmt.Sprintf("should be less than or equal to %v", math.MaxInt32))}
	}
	return nil
}
