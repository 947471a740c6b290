package admission

import (
	"context"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"skiff/api"
)

// checkOwners refuses owner references by those who could not do by hand what
// the garbage collector would do for them: delete the object, or hold back the
// deletion of its owner.
func (c cluster) checkOwners(ctx context.Context, w *Write) error {
	obj, ok := w.Object.(metav1.Object)
	if !ok || w.Verb != "create" && w.Verb != "update" || w.is("pods", "status") {
		return nil
	}
	var before []metav1.OwnerReference
	if w.Old != nil {
		before = w.Old.GetOwnerReferences()
	}
	refs := obj.GetOwnerReferences()
	if len(refs) == 0 && len(before) == 0 || equality.Semantic.DeepEqual(refs, before) {
		return nil
	}
	if w.Verb != "create" {
		ok, reason, err := c.allowed(ctx, authorizer.AttributesRecord{User: w.User, Verb: "delete", Namespace: w.Namespace,
			APIGroup: w.Resource.Group, APIVersion: w.Resource.Version, Resource: w.Resource.Name, Subresource: w.Subresource, Name: w.Name})
		if !ok {
			return w.forbid("cannot set an ownerRef on a resource you can't delete: %v, %v", reason, err)
		}
	}
	blocking := newlyBlocking(refs, before)
	if len(blocking) == 0 {
		return nil
	}
	if ok, _, _ := c.allowed(ctx, authorizer.AttributesRecord{User: w.User, Verb: "update", APIGroup: "*", APIVersion: "*",
		Resource: "*", Subresource: "finalizers", Name: "*"}); ok {
		return nil
	}
	for _, ref := range blocking {
		if err := c.mayHoldBack(ctx, w, ref); err != nil {
			return err
		}
	}
	return nil
}

// mayHoldBack tells whether the user may set finalizers on an owner.
func (c cluster) mayHoldBack(ctx context.Context, w *Write, ref metav1.OwnerReference) error {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	row := api.FindKind(gv.WithKind(ref.Kind))
	if err != nil || row == nil {
		return w.forbid("cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion %s Kind %s: no matches for kind %q in version %q",
			ref.APIVersion, ref.Kind, ref.Kind, ref.APIVersion)
	}
	at := authorizer.AttributesRecord{User: w.User, Verb: "update", APIGroup: row.Group, APIVersion: row.Version,
		Resource: row.Name, Subresource: "finalizers", Name: ref.Name}
	if row.Namespaced {
		at.Namespace = w.Namespace
	}
	ok, reason, err := c.allowed(ctx, at)
	if !ok {
		return w.forbid("cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: %v, %v", reason, err)
	}
	return nil
}

// newlyBlocking are the references that hold back their owner and did not before.
func newlyBlocking(refs, before []metav1.OwnerReference) (blocking []metav1.OwnerReference) {
	blocks := func(r *metav1.OwnerReference) bool { return r.BlockOwnerDeletion != nil && *r.BlockOwnerDeletion }
	for i := range refs {
		if !blocks(&refs[i]) {
			continue
		}
		did := false
		for j := range before {
			did = did || before[j].UID == refs[i].UID && blocks(&before[j])
		}
		if !did {
			blocking = append(blocking, refs[i])
		}
	}
	return blocking
}
