package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/api"
	"skiff/apiserver/crd"
	"skiff/cache"
)

// delete answers DELETE of one object.
func (s *Server) delete(ctx context.Context, r *Request) (*Result, error) {
	if r.Subresource != "" {
		return nil, apierrors.NewMethodNotSupported(r.Resource.GroupResource(), r.Verb)
	}
	return s.retry(ctx, r, func(entry *cache.Entry) (*Result, error) {
		if entry == nil {
			return nil, apierrors.NewNotFound(r.Resource.GroupResource(), r.Name)
		}
		return s.deleteEntry(ctx, r, entry, nil)
	})
}

// deleteEntry deletes the object of which entry is the current version, or
// marks it as being deleted when something must happen first; then mark, if there
// is one, may write more into it.
func (s *Server) deleteEntry(ctx context.Context, r *Request, entry *cache.Entry, mark func(api.Object)) (*Result, error) {
	row, old := stored(r.Resource), entry.Object()
	if old == nil {
		return s.deleteNow(ctx, r, entry) // it cannot be decoded: nothing about it can be asked
	}
	if err := matchPreconditions(r, old); err != nil {
		return nil, err
	}
	w := s.judged(r, "delete", nil, old)
	if err := s.admission.Mutate(ctx, w); err != nil {
		return nil, err
	}
	if err := s.admission.Validate(ctx, w); err != nil {
		return nil, err
	}
	obj := old.DeepCopyObject().(api.Object)
	switch farewell(row, obj, r.DeleteOptions, now()) {
	case gone:
		return s.deleteNow(ctx, r, entry)
	case waiting:
		return leaving(r, entry, nil), s.confirm(ctx, r, entry)
	}
	if mark != nil {
		mark(obj)
	}
	if r.Write.DryRun {
		return leaving(r, nil, obj), s.confirm(ctx, r, entry)
	}
	next, err := s.put(ctx, row, obj, s.condition(r, row, entry.Revision()))
	if err != nil {
		return nil, err
	}
	return leaving(r, next, nil), nil
}

// fate is what becomes of an object that is to be deleted.
type fate int

const (
	gone    fate = iota // it is removed
	marked              // it stays for a while, and was changed to say so
	waiting             // it is being deleted already, and nothing changes
)

// farewell decides what a deletion does, and marks obj where it stays. Only pods
// are given time; everything stays while it has finalizers, and namespaces
// while they have content.
func farewell(row *api.Resource, obj api.Object, o metav1.DeleteOptions, now metav1.Time) fate {
	if ns, ok := obj.(*corev1.Namespace); ok {
		if ns.DeletionTimestamp == nil {
			ns.DeletionTimestamp = &now
			ns.Status.Phase = corev1.NamespaceTerminating
			setCascade(row, ns, o)
			return marked
		}
		if len(ns.Spec.Finalizers) > 0 {
			return waiting
		}
	}
	if d, ok := obj.(*apiextensionsv1.CustomResourceDefinition); ok && d.DeletionTimestamp == nil {
		crd.Farewell(d, now)
		return marked
	}
	grace, wait := int64(0), false
	if pod, ok := obj.(*corev1.Pod); ok {
		grace, wait = podGrace(pod, o, now)
		if wait {
			return waiting
		}
	}
	setCascade(row, obj, o)
	if grace == 0 && len(obj.GetFinalizers()) == 0 {
		return gone
	}
	if grace == 0 {
		markDeleting(obj, now)
	}
	return marked
}

// markDeleting says that an object without grace period is being deleted.
func markDeleting(obj api.Object, now metav1.Time) {
	at := obj.GetDeletionTimestamp()
	if at == nil && obj.GetGeneration() > 0 {
		obj.SetGeneration(obj.GetGeneration() + 1)
	}
	if at == nil || at.After(now.Time) {
		obj.SetDeletionTimestamp(&now)
	}
	obj.SetDeletionGracePeriodSeconds(new(int64))
}

// podGrace decides how long a pod may take to end. Zero: not at all. wait: it is
// ending, and this request changes nothing. Otherwise the pod is marked.
func podGrace(pod *corev1.Pod, o metav1.DeleteOptions, now metav1.Time) (seconds int64, wait bool) {
	asked := o.GracePeriodSeconds
	if asked != nil && *asked < 0 {
		one := int64(1)
		asked = &one
	}
	if pod.DeletionTimestamp != nil {
		return shortenGrace(pod, asked, now)
	}
	switch {
	case asked != nil:
		seconds = *asked
	case pod.Spec.TerminationGracePeriodSeconds != nil:
		seconds = max(*pod.Spec.TerminationGracePeriodSeconds, 0)
		if *pod.Spec.TerminationGracePeriodSeconds < 0 {
			seconds = 1
		}
	}
	// Nothing runs that would need time.
	if pod.Spec.NodeName == "" || pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		seconds = 0
	}
	if seconds == 0 {
		return 0, false
	}
	if pod.Generation > 0 {
		pod.Generation++
	}
	at := metav1.NewTime(now.Add(time.Duration(seconds) * time.Second))
	pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = &at, &seconds
	return seconds, false
}

// shortenGrace is podGrace for a pod that is ending: its time can only become less.
func shortenGrace(pod *corev1.Pod, asked *int64, now metav1.Time) (seconds int64, wait bool) {
	have := pod.DeletionGracePeriodSeconds
	switch {
	case have == nil || *have == 0:
		return 0, false
	case asked == nil || *asked >= *have:
		return 0, true
	case *asked == 0:
		return 0, false
	}
	seconds = *asked
	at := metav1.NewTime(pod.DeletionTimestamp.Add(time.Duration(seconds-*have) * time.Second))
	if at.Before(&now) {
		// All of it is over; one second is the least that still lets the node finish.
		at, seconds = now, 1
	}
	pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = &at, &seconds
	return seconds, false
}

// setCascade sets or takes away the two finalizers that tell the garbage
// collector what to do with an object's dependents.
func setCascade(row *api.Resource, obj api.Object, o metav1.DeleteOptions) {
	policy := cascade(row, obj, o)
	have := obj.GetFinalizers()
	want := slices.DeleteFunc(slices.Clone(have), func(f string) bool {
		return f == metav1.FinalizerOrphanDependents || f == metav1.FinalizerDeleteDependents
	})
	switch policy {
	case metav1.DeletePropagationOrphan:
		want = append(want, metav1.FinalizerOrphanDependents)
	case metav1.DeletePropagationForeground:
		want = append(want, metav1.FinalizerDeleteDependents)
	}
	if !sameSet(have, want) {
		obj.SetFinalizers(want)
	}
}

// cascade is the propagation policy of a deletion: the request's, else that
// which the object's finalizers ask for, else the kind's.
func cascade(row *api.Resource, obj api.Object, o metav1.DeleteOptions) metav1.DeletionPropagation {
	if row.Name == "events" {
		return metav1.DeletePropagationBackground // events own nothing
	}
	if orphan := o.OrphanDependents; orphan != nil { //nolint:staticcheck // clients still send it
		if *orphan {
			return metav1.DeletePropagationOrphan
		}
		if row.Name == "namespaces" {
			return metav1.DeletePropagationForeground
		}
		return metav1.DeletePropagationBackground
	}
	if o.PropagationPolicy != nil {
		return *o.PropagationPolicy
	}
	for _, f := range obj.GetFinalizers() {
		switch f {
		case metav1.FinalizerOrphanDependents:
			return metav1.DeletePropagationOrphan
		case metav1.FinalizerDeleteDependents:
			return metav1.DeletePropagationForeground
		}
	}
	if gr := row.GroupResource().String(); gr == "jobs.batch" || gr == "replicationcontrollers" {
		return metav1.DeletePropagationOrphan // what these two have promised since their first version
	}
	return metav1.DeletePropagationBackground
}

func sameSet(a, b []string) bool {
	a, b = slices.Compact(slices.Sorted(slices.Values(a))), slices.Compact(slices.Sorted(slices.Values(b)))
	return slices.Equal(a, b)
}

// deleteNow removes the object and what was allocated for it.
func (s *Server) deleteNow(ctx context.Context, r *Request, entry *cache.Entry) (*Result, error) {
	row, was := stored(r.Resource), entry
	if !r.Write.DryRun {
		var err error
		if was, err = s.remove(ctx, row, entry, s.condition(r, row, entry.Revision())); err != nil {
			return nil, err
		}
		s.releaseAll(ctx, entry.Object())
	} else if err := s.confirm(ctx, r, entry); err != nil {
		return nil, err
	}
	if returnsDeleted[r.Resource.GroupResource()] {
		return &Result{Entry: was.As(r.Resource)}, nil
	}
	return &Result{Object: &metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess,
		Details: &metav1.StatusDetails{Name: entry.Name(), Group: r.Resource.Group, Kind: r.Resource.Name, UID: entry.UID()},
	}}, nil
}

// returnsDeleted are the resources whose deletion is answered with the object;
// others get a Status. A table.
var returnsDeleted = map[schema.GroupResource]bool{
	{Resource: "namespaces"}:                                       true,
	{Resource: "persistentvolumeclaims"}:                           true,
	{Resource: "persistentvolumes"}:                                true,
	{Resource: "pods"}:                                             true,
	{Resource: "podtemplates"}:                                     true,
	{Resource: "resourcequotas"}:                                   true,
	{Resource: "serviceaccounts"}:                                  true,
	{Resource: "services"}:                                         true,
	{Group: "resource.k8s.io", Resource: "deviceclasses"}:          true,
	{Group: "resource.k8s.io", Resource: "resourceclaims"}:         true,
	{Group: "resource.k8s.io", Resource: "resourceclaimtemplates"}: true,
	{Group: "resource.k8s.io", Resource: "resourceslices"}:         true,
	{Group: "storage.k8s.io", Resource: "csidrivers"}:              true,
	{Group: "storage.k8s.io", Resource: "csinodes"}:                true,
	{Group: "storage.k8s.io", Resource: "storageclasses"}:          true,
	{Group: "storage.k8s.io", Resource: "volumeattachments"}:       true,
	{Group: "storage.k8s.io", Resource: "volumeattributesclasses"}: true,
}

// leaving answers a deletion that is not over: with the object as it is now.
func leaving(r *Request, entry *cache.Entry, obj api.Object) *Result {
	result := &Result{}
	if entry != nil {
		result.Entry = entry.As(r.Resource)
	} else {
		result.Object = runtime.Object(shownObject(r.Resource, obj))
	}
	if orphan := r.DeleteOptions.OrphanDependents; orphan != nil && !*orphan { //nolint:staticcheck // clients still send it
		result.Code = http.StatusAccepted
	}
	return result
}

// matchPreconditions refuses to delete another object than the one that is meant.
func matchPreconditions(r *Request, old api.Object) error {
	p := r.DeleteOptions.Preconditions
	if p == nil {
		return nil
	}
	var cause error
	switch {
	case p.UID != nil && *p.UID != old.GetUID():
		cause = fmt.Errorf("the UID in the precondition (%s) does not match the UID in record (%s). The object might have been deleted and then recreated", *p.UID, old.GetUID())
	case p.ResourceVersion != nil && *p.ResourceVersion != old.GetResourceVersion():
		cause = fmt.Errorf("the ResourceVersion in the precondition (%s) does not match the ResourceVersion in record (%s). The object might have been modified", *p.ResourceVersion, old.GetResourceVersion())
	default:
		return nil
	}
	kind := schema.GroupResource{Group: r.Resource.Group, Resource: r.Resource.KindName}
	return apierrors.NewConflict(kind, old.GetName(), cause)
}

// finalized tells whether nothing but metadata.finalizers can keep an object.
func finalized(obj api.Object) bool {
	ns, ok := obj.(*corev1.Namespace)
	return !ok || len(ns.Spec.Finalizers) == 0
}
