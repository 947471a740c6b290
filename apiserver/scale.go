package apiserver

import (
	"context"
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/yaml"

	"skiff/api"
	"skiff/cache"
)

var scaleKind = autoscalingv1.SchemeGroupVersion.WithKind("Scale")

// scale answers GET, PUT and PATCH of the scale subresource: a view of an object
// in which only the number of replicas can be set.
func (s *Server) scale(ctx context.Context, r *Request) (*Result, error) {
	if r.Resource.Kind.Scale == nil {
		return nil, apierrors.NewNotFound(r.Resource.GroupResource(), r.Name+"/scale")
	}
	switch r.Verb {
	case "get":
		one := *r
		one.Subresource = ""
		result, err := s.get(ctx, &one)
		return scaleResult(r, result, err)
	case "update", "patch":
		next, err := s.nextScale(r)
		if err != nil {
			return nil, err
		}
		result, err := s.modify(ctx, r, change{make: func(_ *cache.Entry, old api.Object) (api.Object, error) {
			return s.rescale(r, old, next)
		}})
		return scaleResult(r, result, err)
	}
	return nil, apierrors.NewMethodNotSupported(r.Resource.GroupResource(), r.Verb)
}

// nextScale returns the function that makes the wanted Scale from the current one.
func (s *Server) nextScale(r *Request) (func(old *autoscalingv1.Scale) (*autoscalingv1.Scale, error), error) {
	switch {
	case r.Verb == "update":
		sent, ok := r.Body.Object.(*autoscalingv1.Scale)
		if !ok {
			sent = new(autoscalingv1.Scale)
			if err := r.decodeInto(scaleKind, sent); err != nil {
				return nil, err
			}
		}
		if err := matchNamespace(r, sent); err != nil {
			return nil, err
		}
		if err := matchName(r, sent); err != nil {
			return nil, err
		}
		return func(old *autoscalingv1.Scale) (*autoscalingv1.Scale, error) {
			scale := sent.DeepCopy()
			return scale, s.owners.updateScale(r, old, scale)
		}, nil
	case r.PatchType == types.ApplyYAMLPatchType:
		fields := make(map[string]any)
		if err := yaml.Unmarshal(r.Body.Bytes, &fields); err != nil {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
		}
		return func(old *autoscalingv1.Scale) (*autoscalingv1.Scale, error) {
			return s.owners.applyScale(r, old, (&unstructured.Unstructured{Object: fields}).DeepCopy())
		}, nil
	}
	p, err := newPatch(r, scaleKind, func() api.Object { return new(autoscalingv1.Scale) })
	if err != nil {
		return nil, err
	}
	return func(old *autoscalingv1.Scale) (*autoscalingv1.Scale, error) {
		patched, err := p.to(old)
		if err != nil {
			return nil, err
		}
		scale := patched.(*autoscalingv1.Scale)
		return scale, s.owners.updateScale(r, old, scale)
	}, nil
}

// rescale returns the object with the number of replicas that the client wants.
func (s *Server) rescale(r *Request, old api.Object, next func(*autoscalingv1.Scale) (*autoscalingv1.Scale, error)) (api.Object, error) {
	gv := r.Resource.GVK().GroupVersion()
	owners := managedfields.NewScaleHandler(old.GetManagedFields(), gv, managedfields.ResourcePathMappings{
		gv.String(): fieldpath.MakePathOrDie("spec", "replicas")})
	if custom := r.Resource.Custom; custom != nil {
		owners = managedfields.NewScaleHandler(old.GetManagedFields(), gv, custom.Replicas)
	}
	if check := r.Resource.Kind.Scale.Check; check != nil {
		if err := check(old, true); err != nil {
			return nil, err
		}
	}
	current := scaleOf(r.Resource, old)
	var err error
	if current.ManagedFields, err = owners.ToSubresource(); err != nil {
		return nil, err
	}
	scale, err := next(current)
	if err != nil {
		return nil, err
	}
	if errs := validateScale(scale); len(errs) > 0 {
		return nil, apierrors.NewInvalid(scaleKind.GroupKind(), old.GetName(), errs)
	}
	if scale.UID != "" && scale.UID != old.GetUID() {
		gr := schema.GroupResource{Group: r.Resource.Group, Resource: r.Resource.Name + "/scale"}
		return nil, apierrors.NewConflict(gr, old.GetName(), fmt.Errorf(
			"Precondition failed: UID in precondition: %v, UID in object meta: %v", scale.UID, old.GetUID()))
	}
	obj := old.DeepCopyObject().(api.Object)
	r.Resource.Kind.Scale.Set(obj, scale.Spec.Replicas)
	obj.SetResourceVersion(scale.ResourceVersion)
	entries, err := owners.ToParent(scale.ManagedFields)
	if err != nil {
		return nil, err
	}
	obj.SetManagedFields(entries)
	return obj, nil
}

// scaleOf is the Scale of an object.
func scaleOf(row *api.Resource, obj api.Object) *autoscalingv1.Scale {
	spec, status := row.Kind.Scale.Get(obj)
	return &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{Name: obj.GetName(), Namespace: obj.GetNamespace(), UID: obj.GetUID(),
			ResourceVersion: obj.GetResourceVersion(), CreationTimestamp: obj.GetCreationTimestamp()},
		Spec: spec, Status: status,
	}
}

// scaleResult shows the object of a result as its Scale.
func scaleResult(r *Request, of *Result, err error) (*Result, error) {
	if err != nil {
		return nil, err
	}
	obj, ok := of.Object.(api.Object)
	if of.Entry != nil {
		obj = of.Entry.Object()
		ok = obj != nil
	}
	if !ok {
		return nil, fmt.Errorf("scale of %s %s: the object cannot be read", r.Resource, r.Name)
	}
	if check := r.Resource.Kind.Scale.Check; check != nil {
		if err := check(obj, r.Verb != "get"); err != nil {
			return nil, err
		}
	}
	scale := scaleOf(r.Resource, obj)
	scale.SetGroupVersionKind(scaleKind)
	return &Result{Object: scale}, nil
}

func validateScale(s *autoscalingv1.Scale) field.ErrorList {
	errs := metav1validation.ValidateManagedFields(s.ManagedFields, field.NewPath("metadata", "managedFields"))
	return append(errs, validation.ValidateNonnegativeField(int64(s.Spec.Replicas), field.NewPath("spec", "replicas"))...)
}
