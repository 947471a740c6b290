package apiserver

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"skiff/api"
	"skiff/cache"
)

// apply answers an apply patch: the client says which fields it wants and with
// which values, and owns exactly these. What others own with another value is a
// conflict, unless the patch is forced.
func (s *Server) apply(ctx context.Context, r *Request) (*Result, error) {
	sent, err := decodeApplied(r.Body.Bytes)
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
	}
	merge := func(old api.Object) (api.Object, error) {
		// The merge consumes its argument, and may happen again.
		applied := (&unstructured.Unstructured{Object: sent}).DeepCopy()
		obj, err := s.owners.apply(r, old, applied)
		if err != nil {
			return nil, err
		}
		return obj, r.duplicatesInYAML()
	}
	return s.modify(ctx, r, change{
		make: func(_ *cache.Entry, old api.Object) (api.Object, error) { return merge(old) },
		absent: func() (api.Object, error) {
			if r.Subresource != "" {
				return nil, apierrors.NewNotFound(r.Resource.GroupResource(), r.Name)
			}
			obj, err := merge(stored(r.Resource).Kind.New())
			if err != nil {
				return nil, err
			}
			if uid := obj.GetUID(); uid != "" {
				return nil, apierrors.NewConflict(r.Resource.GroupResource(), r.Name, fmt.Errorf(
					"uid mismatch: the provided object specified uid %s, and no existing object was found", uid))
			}
			return obj, nil
		},
	})
}

// decodeApplied reads an apply configuration. Whole numbers stay whole: the schemas
// of custom resources tell them from others.
func decodeApplied(text []byte) (map[string]any, error) {
	fields := make(map[string]any)
	asJSON, err := yaml.YAMLToJSON(text)
	if err != nil {
		return nil, err
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(asJSON, &fields); err != nil {
		return nil, fmt.Errorf("error unmarshaling JSON: while decoding JSON: %w", err)
	}
	return fields, nil
}

// duplicatesInYAML reports keys that the configuration gives twice.
func (r *Request) duplicatesInYAML() error {
	if r.Write.FieldValidation == metav1.FieldValidationIgnore {
		return nil
	}
	var fields map[string]any
	err := yaml.UnmarshalStrict(r.Body.Bytes, &fields)
	switch {
	case err == nil:
		return nil
	case r.Write.FieldValidation == metav1.FieldValidationStrict:
		return apierrors.NewBadRequest(fmt.Sprintf("error strict decoding patch: %v", err))
	}
	return r.dubious([]error{errors.New(err.Error())})
}
