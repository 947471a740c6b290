package dynamic

import (
	"fmt"
	"strings"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	k8sadmission "k8s.io/apiserver/pkg/admission"

	"skiff/api"
	"skiff/apiserver/admission"
)

var scaleKind = autoscalingv1.SchemeGroupVersion.WithKind("Scale")

// attributes are a write as webhooks and policies see it: in the version in which
// the client made it, and a Scale where it is one that the client wrote.
type attributes struct {
	k8sadmission.Attributes
	w     *admission.Write
	shown runtime.Object // nil on delete
}

func (a *Admission) attributesOf(w *admission.Write) (*attributes, error) {
	shown, err := shownOf(w, w.Object)
	if err != nil {
		return nil, err
	}
	var old runtime.Object
	if w.Old != nil {
		if old, err = shownOf(w, w.Old); err != nil {
			return nil, err
		}
	}
	kind := w.Asked.GVK()
	if shown != nil {
		if kind, err = a.objects().(*objects).kindOf(shown); err != nil {
			return nil, err
		}
	}
	return &attributes{w: w, shown: shown, Attributes: k8sadmission.NewAttributesRecord(shown, old, kind, w.Namespace, w.Name, w.Asked.GVR(), w.Subresource,
		k8sadmission.Operation(strings.ToUpper(w.Verb)), optionsOf(w), w.DryRun, w.User)}, nil
}

// optionsOf are the write's options, with their kind.
func optionsOf(w *admission.Write) runtime.Object {
	kind := func(name string) metav1.TypeMeta {
		return metav1.TypeMeta{APIVersion: "meta.k8s.io/v1", Kind: name}
	}
	var dryRun []string
	if w.DryRun {
		dryRun = []string{metav1.DryRunAll}
	}
	switch w.Verb {
	case "create":
		return &metav1.CreateOptions{TypeMeta: kind("CreateOptions"), DryRun: dryRun, FieldManager: w.FieldManager, FieldValidation: w.FieldValidation}
	case "update":
		return &metav1.UpdateOptions{TypeMeta: kind("UpdateOptions"), DryRun: dryRun, FieldManager: w.FieldManager, FieldValidation: w.FieldValidation}
	case "delete":
		o := w.DeleteOptions.DeepCopy()
		if o == nil {
			o = new(metav1.DeleteOptions)
		}
		o.TypeMeta = kind("DeleteOptions")
		return o
	}
	return nil
}

// shownOf is an object of the write in the version that the client named.
func shownOf(w *admission.Write, obj runtime.Object) (runtime.Object, error) {
	object, ok := obj.(api.Object)
	switch {
	case obj == nil || !ok || !stored(w, object):
		return obj, nil
	case w.Subresource == "scale":
		if w.Asked.Kind.Scale == nil {
			return nil, fmt.Errorf("%s has no scale", w.Asked)
		}
		return scaleOf(w.Asked, object), nil
	}
	return show(w.Asked, object), nil
}

// stored tells whether the object is one of the write's resource, and not the body
// of a subresource (a binding, an eviction).
func stored(w *admission.Write, obj api.Object) bool {
	return w.Resource.Custom != nil || api.Known(obj) == w.Resource
}

func scaleOf(row *api.Resource, obj api.Object) *autoscalingv1.Scale {
	spec, status := row.Kind.Scale.Get(obj)
	return &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{Name: obj.GetName(), Namespace: obj.GetNamespace(), UID: obj.GetUID(),
			ResourceVersion: obj.GetResourceVersion(), CreationTimestamp: obj.GetCreationTimestamp()},
		Spec: spec, Status: status,
	}
}

// settle takes what was changed about the shown object over into the write's.
func (at *attributes) settle() error {
	if at.shown == nil || at.shown == at.w.Object {
		return nil
	}
	object := at.w.Object.(api.Object)
	switch shown := at.shown.(type) {
	case *autoscalingv1.Scale:
		at.w.Asked.Kind.Scale.Set(object, shown.Spec.Replicas)
	case api.Object:
		assign(object, store(at.w.Asked, shown))
	}
	return nil
}

// renew makes the shown object what the write's has become.
func (at *attributes) renew() error {
	if at.shown == nil || at.shown == at.w.Object {
		return nil
	}
	shown, err := shownOf(at.w, at.w.Object)
	if err != nil {
		return err
	}
	assign(at.shown, shown)
	return nil
}
