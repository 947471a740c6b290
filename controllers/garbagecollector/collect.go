package garbagecollector

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"skiff/api"
	"skiff/client"
)

// reference names an owner completely.
type reference struct {
	apiVersion, kind, namespace, name string
	uid                               types.UID
}

// state of an owner.
type state int

const (
	solid    state = iota // it is there and keeps its dependents
	dangling              // there is none of that name and UID
	waiting               // it is being deleted after its dependents
)

// collect deletes the object if none of its owners is there, or takes those
// references away that lead nowhere.
func (g *collector) collect(ctx context.Context, n node) error {
	obj, err := g.live(ctx, n)
	if err != nil || obj == nil || obj.GetDeletionTimestamp() != nil || len(obj.GetOwnerReferences()) == 0 {
		return err
	}
	var keep []metav1.OwnerReference
	waits := false
	for _, ref := range obj.GetOwnerReferences() {
		s, err := g.stateOf(ctx, n, ref)
		if err != nil {
			return err
		}
		switch s {
		case solid:
			keep = append(keep, ref)
		case waiting:
			waits = true
		}
	}
	switch {
	case len(keep) == len(obj.GetOwnerReferences()):
		return nil
	case len(keep) > 0:
		return g.patch(ctx, n.resource, obj, "ownerReferences", keep)
	case waits && g.hasDependents(n.uid):
		// Its own dependents go before it, as the owner asked.
		if g.inCircle(n.uid) {
			// Two that wait for each other: this one no longer blocks its owners. The
			// change comes back through the feed and it is deleted then.
			if done, err := g.unblock(ctx, n.resource, obj); err != nil || !done {
				return err
			}
		}
		return g.delete(ctx, n.resource, obj, metav1.DeletePropagationForeground)
	}
	policy := metav1.DeletePropagationBackground
	switch {
	case slices.Contains(obj.GetFinalizers(), metav1.FinalizerOrphanDependents):
		policy = metav1.DeletePropagationOrphan
	case slices.Contains(obj.GetFinalizers(), metav1.FinalizerDeleteDependents):
		policy = metav1.DeletePropagationForeground
	}
	return g.delete(ctx, n.resource, obj, policy)
}

// stateOf reads an owner live, by name and UID. Where it cannot be known whether
// there is one, that is an error, and nothing is deleted.
func (g *collector) stateOf(ctx context.Context, n node, ref metav1.OwnerReference) (state, error) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return solid, fmt.Errorf("owner %s %s: %w", ref.Kind, ref.Name, err)
	}
	r := g.resourceOf(gv.WithKind(ref.Kind))
	switch {
	case r == nil:
		return solid, fmt.Errorf("owner %s %s: no matches for kind %q in version %q", ref.Kind, ref.Name, ref.Kind, ref.APIVersion)
	case r.Namespaced && n.namespace == "":
		return solid, nil // nobody can say which namespace was meant
	}
	id := reference{ref.APIVersion, ref.Kind, "", ref.Name, ref.UID}
	if r.Namespaced {
		id.namespace = n.namespace
	}
	g.mu.Lock()
	known := g.absent[id]
	g.mu.Unlock()
	if known {
		return dangling, nil
	}
	owner, err := g.c.Client.Get(ctx, r, id.namespace, id.name)
	switch {
	case apierrors.IsNotFound(err) || err == nil && owner.GetUID() != ref.UID:
		g.noteAbsent(id)
		return dangling, nil
	case err != nil:
		return solid, fmt.Errorf("read owner %s %s/%s: %w", r, id.namespace, id.name, err)
	case owner.GetDeletionTimestamp() != nil && slices.Contains(owner.GetFinalizers(), metav1.FinalizerDeleteDependents):
		return waiting, nil
	}
	return solid, nil
}

// noteAbsent remembers an owner that is not there: many dependents may ask.
func (g *collector) noteAbsent(id reference) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.absent) >= 5000 {
		clear(g.absent)
	}
	g.absent[id] = true
}

func (g *collector) resourceOf(gvk schema.GroupVersionKind) *api.Resource {
	if r := api.FindKind(gvk); r != nil {
		return r
	}
	// A custom resource has one row for all of its versions.
	for r := range g.following {
		if r.Group == gvk.Group && r.KindName == gvk.Kind {
			return r
		}
	}
	return nil
}

func (g *collector) hasDependents(uid types.UID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.graph.dependents[uid]) > 0
}

// inCircle tells whether one of the object's dependents waits for its dependents.
func (g *collector) inCircle(uid types.UID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for dependent := range g.graph.dependents[uid] {
		if g.graph.nodes[dependent].foreground {
			return true
		}
	}
	return false
}

// unblock makes the object block no owner; done: it blocks none already.
func (g *collector) unblock(ctx context.Context, r *api.Resource, obj api.Object) (done bool, err error) {
	refs := slices.Clone(obj.GetOwnerReferences())
	done = true
	for i := range refs {
		if refs[i].BlockOwnerDeletion != nil && *refs[i].BlockOwnerDeletion {
			no := false
			refs[i].BlockOwnerDeletion = &no
			done = false
		}
	}
	if done {
		return true, nil
	}
	if err := g.patch(ctx, r, obj, "ownerReferences", refs); err != nil {
		return false, err
	}
	g.queue.Add(obj.GetUID())
	return false, nil
}

// delete deletes exactly the object that was read, in exactly that state.
func (g *collector) delete(ctx context.Context, r *api.Resource, obj api.Object, policy metav1.DeletionPropagation) error {
	uid, version := obj.GetUID(), obj.GetResourceVersion()
	err := g.c.Client.Delete(ctx, r, obj.GetNamespace(), obj.GetName(), metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &version}, PropagationPolicy: &policy,
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("delete %s %s/%s: %w", r, obj.GetNamespace(), obj.GetName(), err)
	}
	return nil
}

// patch replaces one field of the metadata of exactly what was read.
func (g *collector) patch(ctx context.Context, r *api.Resource, obj api.Object, field string, value any) error {
	data, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": obj.GetUID(), "resourceVersion": obj.GetResourceVersion(), field: value,
	}})
	if err != nil {
		return fmt.Errorf("encode %s of %s: %w", field, obj.GetName(), err)
	}
	_, err = g.c.Client.Patch(ctx, r, obj.GetNamespace(), obj.GetName(), client.Patch{Type: types.MergePatchType, Data: data})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("patch %s of %s %s/%s: %w", field, r, obj.GetNamespace(), obj.GetName(), err)
	}
	return nil
}

// deleteDependents carries on a foreground deletion: dependents that block it are
// deleted, and when none is left the owner may go.
func (g *collector) deleteDependents(ctx context.Context, n node) error {
	g.mu.Lock()
	blocking := g.graph.blocking(n.uid)
	for _, dependent := range blocking {
		if !dependent.deleting {
			g.queue.Add(dependent.uid)
		}
	}
	g.mu.Unlock()
	if len(blocking) > 0 {
		return nil // their ends bring us back
	}
	return g.dropFinalizer(ctx, n, metav1.FinalizerDeleteDependents)
}

// orphan takes the object from its dependents' owners, and then lets it go. The
// feed is in order, so every dependent from before the deletion is in the graph.
func (g *collector) orphan(ctx context.Context, n node) error {
	g.mu.Lock()
	var dependents []node
	for uid := range g.graph.dependents[n.uid] {
		dependents = append(dependents, *g.graph.nodes[uid])
	}
	g.mu.Unlock()
	for _, dependent := range dependents {
		obj, err := g.live(ctx, dependent)
		if err != nil {
			return err
		}
		if obj == nil {
			continue
		}
		keep := slices.DeleteFunc(slices.Clone(obj.GetOwnerReferences()), func(ref metav1.OwnerReference) bool { return ref.UID == n.uid })
		if len(keep) == len(obj.GetOwnerReferences()) {
			continue
		}
		if err := g.patch(ctx, dependent.resource, obj, "ownerReferences", keep); err != nil {
			return err
		}
	}
	return g.dropFinalizer(ctx, n, metav1.FinalizerOrphanDependents)
}

func (g *collector) dropFinalizer(ctx context.Context, n node, finalizer string) error {
	obj, err := g.live(ctx, n)
	if err != nil || obj == nil || obj.GetDeletionTimestamp() == nil || !slices.Contains(obj.GetFinalizers(), finalizer) {
		return err
	}
	keep := slices.DeleteFunc(slices.Clone(obj.GetFinalizers()), func(f string) bool { return f == finalizer })
	return g.patch(ctx, n.resource, obj, "finalizers", keep)
}
