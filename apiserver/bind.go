package apiserver

import (
	"context"
	"fmt"
	"maps"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api"
	"skiff/cache"
)

var podRow = api.For[*corev1.Pod]()

// bind answers POST to pods/binding and to bindings: it puts a pod on a node.
func (s *Server) bind(ctx context.Context, r *Request) (*Result, error) {
	binding, ok := r.Body.Object.(*corev1.Binding)
	if !ok {
		binding = new(corev1.Binding)
		if err := r.decodeInto(corev1.SchemeGroupVersion.WithKind("Binding"), binding); err != nil {
			return nil, err
		}
	}
	one := *r
	one.Resource, one.Subresource = podRow, "binding"
	if r.Resource != podRow {
		one.Name = binding.Name
	}
	if err := matchNamespace(&one, binding); err != nil {
		return nil, err
	}
	if one.Name != binding.Name {
		return nil, apierrors.NewBadRequest("name in URL does not match name in Binding object")
	}
	w := s.judged(&one, "create", binding, nil)
	if err := s.admission.Mutate(ctx, w); err != nil {
		return nil, err
	}
	if errs := validateBinding(binding); len(errs) > 0 {
		return nil, errs.ToAggregate()
	}
	if err := s.admission.Validate(ctx, w); err != nil {
		return nil, err
	}
	return s.retry(ctx, &one, func(entry *cache.Entry) (*Result, error) { return s.bindEntry(ctx, &one, entry, binding) })
}

// bindEntry puts the pod of which entry is the current version on a node.
func (s *Server) bindEntry(ctx context.Context, r *Request, entry *cache.Entry, binding *corev1.Binding) (*Result, error) {
	if entry == nil {
		return nil, apierrors.NewNotFound(podRow.GroupResource(), r.Name)
	}
	old, ok := entry.Object().(*corev1.Pod)
	if !ok {
		return nil, apierrors.NewInternalError(entry.Err())
	}
	if err := matchUID(podRow, r, binding.UID, old.UID); err != nil {
		return nil, err
	}
	if v := binding.ResourceVersion; v != "" && v != old.ResourceVersion {
		return nil, apierrors.NewConflict(podRow.GroupResource(), r.Name, fmt.Errorf(
			"StorageError: invalid object, Code: 4, Key: %s, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: ResourceVersion in precondition: %v, ResourceVersion in object meta: %v",
			entry.Key(), v, old.ResourceVersion))
	}
	pod := old.DeepCopy()
	if err := assign(pod, binding); err != nil {
		return nil, apierrors.NewConflict(schema.GroupResource{Resource: "pods/binding"}, r.Name, err)
	}
	if !r.Write.DryRun {
		if _, err := s.put(ctx, podRow, pod, s.condition(r, podRow, entry.Revision())); err != nil {
			return nil, err
		}
	}
	return succeeded(), nil
}

// assign writes a binding into a pod, if it can still be bound.
func assign(pod *corev1.Pod, binding *corev1.Binding) error {
	switch {
	case pod.DeletionTimestamp != nil:
		return fmt.Errorf("pod %s is being deleted, cannot be assigned to a host", pod.Name)
	case pod.Spec.NodeName != "":
		return fmt.Errorf("pod %v is already assigned to node %q", pod.Name, pod.Spec.NodeName)
	case len(pod.Spec.SchedulingGates) > 0:
		return fmt.Errorf("pod %v has non-empty .spec.schedulingGates", pod.Name)
	}
	pod.Spec.NodeName = binding.Target.Name
	pod.Status.NominatedNodeName = ""
	pod.Annotations = merged(pod.Annotations, binding.Annotations)
	pod.Labels = merged(pod.Labels, binding.Labels)
	setPodCondition(pod, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue})
	return nil
}

// merged is a with what b says instead.
func merged(a, b map[string]string) map[string]string {
	if len(b) == 0 {
		return a
	}
	if a == nil {
		a = make(map[string]string, len(b))
	}
	maps.Copy(a, b)
	return a
}

// setPodCondition replaces the condition of c's type, noting when its status changed.
func setPodCondition(pod *corev1.Pod, c corev1.PodCondition) {
	c.LastTransitionTime = now()
	for i := range pod.Status.Conditions {
		have := &pod.Status.Conditions[i]
		if have.Type != c.Type {
			continue
		}
		if have.Status == c.Status {
			c.LastTransitionTime = have.LastTransitionTime
		}
		*have = c
		return
	}
	pod.Status.Conditions = append(pod.Status.Conditions, c)
}

func validateBinding(b *corev1.Binding) (errs field.ErrorList) {
	target := field.NewPath("target")
	if b.Target.Kind != "" && b.Target.Kind != "Node" {
		errs = append(errs, field.NotSupported(target.Child("kind"), b.Target.Kind, []string{"Node", "<empty>"}))
	}
	if b.Target.Name == "" {
		return append(errs, field.Required(target.Child("name"), ""))
	}
	if len(errs) == 0 {
		for _, text := range validation.NameIsDNSSubdomain(b.Target.Name, false) {
			errs = append(errs, field.Invalid(target.Child("name"), b.Target.Name, text))
		}
	}
	return errs
}

// succeeded answers what has nothing else to say.
func succeeded() *Result {
	return &Result{Code: http.StatusCreated, Object: &metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess, Code: http.StatusCreated,
	}}
}
