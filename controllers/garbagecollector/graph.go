package garbagecollector

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff/api"
	"skiff/client"
)

// graph is who owns whom, as far as a feed has told.
type graph struct {
	nodes map[types.UID]*node
	// dependents of a UID, whether or not there is an object with it.
	dependents map[types.UID]map[types.UID]bool
}

// node is what matters of an object.
type node struct {
	resource        *api.Resource
	namespace, name string
	uid             types.UID
	owners          []metav1.OwnerReference
	deleting        bool
	foreground      bool // deleting, after its dependents
	orphaning       bool // deleting, after its dependents have been released
}

func newGraph() *graph {
	return &graph{nodes: map[types.UID]*node{}, dependents: map[types.UID]map[types.UID]bool{}}
}

func nodeOf(r *api.Resource, obj api.Object) *node {
	deleting := obj.GetDeletionTimestamp() != nil
	return &node{
		resource: r, namespace: obj.GetNamespace(), name: obj.GetName(), uid: obj.GetUID(),
		owners:     obj.GetOwnerReferences(),
		deleting:   deleting,
		foreground: deleting && slices.Contains(obj.GetFinalizers(), metav1.FinalizerDeleteDependents),
		orphaning:  deleting && slices.Contains(obj.GetFinalizers(), metav1.FinalizerOrphanDependents),
	}
}

// apply takes a change in and returns the objects that it may concern.
func (g *graph) apply(c client.Change) (concerned []types.UID) {
	if c.Old != nil && (c.New == nil || c.Old.GetUID() != c.New.GetUID()) {
		concerned = g.remove(c.Old.GetUID())
	}
	if c.New == nil {
		return concerned
	}
	n := nodeOf(c.Resource, c.New)
	old := g.nodes[n.uid]
	g.nodes[n.uid] = n
	if old != nil {
		concerned = append(concerned, g.unlink(old)...)
	}
	for _, ref := range n.owners {
		if g.dependents[ref.UID] == nil {
			g.dependents[ref.UID] = map[types.UID]bool{}
		}
		g.dependents[ref.UID][n.uid] = true
	}
	switch {
	case n.orphaning:
		return append(concerned, n.uid)
	case n.foreground:
		concerned = append(concerned, n.uid)
		for uid := range g.dependents[n.uid] {
			concerned = append(concerned, uid)
		}
		return concerned
	case len(n.owners) > 0 && !n.deleting && !g.surelyOwned(n):
		return append(concerned, n.uid)
	}
	return concerned
}

// remove takes an object out: those that it owned lose it, and owners that wait
// for it may go on.
func (g *graph) remove(uid types.UID) (concerned []types.UID) {
	n := g.nodes[uid]
	if n == nil {
		return nil
	}
	delete(g.nodes, uid)
	concerned = g.unlink(n)
	for uid := range g.dependents[uid] {
		concerned = append(concerned, uid)
	}
	return concerned
}

// unlink takes the object from its owners' dependents, and returns the owners
// that wait for dependents.
func (g *graph) unlink(n *node) (waiting []types.UID) {
	for _, ref := range n.owners {
		delete(g.dependents[ref.UID], n.uid)
		if len(g.dependents[ref.UID]) == 0 {
			delete(g.dependents, ref.UID)
		}
		if owner := g.nodes[ref.UID]; owner != nil && owner.foreground {
			waiting = append(waiting, ref.UID)
		}
	}
	return waiting
}

// surelyOwned tells whether each owner is there, as it is named, and keeps its
// dependents. That nothing is to be done needs no live read.
func (g *graph) surelyOwned(n *node) bool {
	for _, ref := range n.owners {
		owner := g.nodes[ref.UID]
		if owner == nil || owner.foreground || owner.name != ref.Name || owner.resource.KindName != ref.Kind ||
			owner.namespace != "" && owner.namespace != n.namespace {
			return false
		}
	}
	return true
}

// blocking lists the dependents that their owner must wait for.
func (g *graph) blocking(owner types.UID) (out []*node) {
	for uid := range g.dependents[owner] {
		n := g.nodes[uid]
		if slices.ContainsFunc(n.owners, func(ref metav1.OwnerReference) bool {
			return ref.UID == owner && ref.BlockOwnerDeletion != nil && *ref.BlockOwnerDeletion
		}) {
			out = append(out, n)
		}
	}
	return out
}
