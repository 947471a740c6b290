package loop

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"skiff/api"
	"skiff/client"
)

// mark is a write of ours that the view must show before the key is decided
// again (read-your-writes instead of timed expectations).
type mark struct {
	resource        *api.Resource
	namespace, name string
	uid             types.UID
	revision        int64 // of the write; 0: a deletion
}

// seen tells whether the view has come to the write.
func (m mark) seen(v *client.View) bool {
	if m.revision > 0 && v.Revision() >= m.revision {
		return true
	}
	obj := v.Lookup(m.resource, m.namespace, m.name)
	if m.revision == 0 {
		return obj == nil || obj.GetUID() != m.uid || obj.GetDeletionTimestamp() != nil
	}
	return obj != nil && revisionOf(obj) >= m.revision
}

func revisionOf(obj api.Object) int64 {
	n, _ := strconv.ParseInt(obj.GetResourceVersion(), 10, 64) // 0 for what is no number: never equal to a write of ours
	return n
}

// result of a plan, or of a part of it.
type result struct {
	marks   []mark    // what the view must show afterwards
	events  []Event   // what writes have to tell of themselves
	refused []refusal // writes that failed
	err     error     // why the plan ended early
}

// refusal is a write that failed.
type refusal struct {
	write Write
	err   error
}

// carryOut makes the writes, stage by stage, until one fails.
func carryOut(ctx context.Context, c client.Client, writes []Write) (all result) {
	slices.SortStableFunc(writes, func(a, b Write) int { return a.Stage - b.Stage })
	for len(writes) > 0 && all.err == nil {
		n := 1
		for n < len(writes) && writes[n].Stage == writes[0].Stage {
			n++
		}
		carryOutStage(ctx, c, writes[:n], &all)
		writes = writes[n:]
	}
	return all
}

// atOnce bounds the writes of one plan that are in flight.
const atOnce = 32

// carryOutStage makes writes at once, slowly at first, until one fails.
func carryOutStage(ctx context.Context, c client.Client, writes []Write, all *result) {
	for size := 1; len(writes) > 0 && all.err == nil; size = min(2*size, atOnce) {
		batch := writes[:min(size, len(writes))]
		writes = writes[len(batch):]
		var mu sync.Mutex // guards *all
		var group sync.WaitGroup
		for _, w := range batch {
			group.Go(func() {
				m, got, err := carryOutOne(ctx, c, w)
				mu.Lock()
				defer mu.Unlock()
				all.note(w, m, got, err)
			})
		}
		group.Wait()
	}
}

// note adds what became of one write.
func (all *result) note(w Write, m *mark, got api.Object, err error) {
	if m != nil {
		all.marks = append(all.marks, *m)
	}
	switch {
	case err == nil:
		if w.Done != nil {
			all.events = append(all.events, w.Done(got))
		}
	case w.Optional && expected(err):
	default:
		if w.Failed != nil {
			all.events = append(all.events, w.Failed(err))
		}
		all.refused = append(all.refused, refusal{w, err})
		if all.err == nil {
			all.err = err
		}
	}
}

func expected(err error) bool {
	return apierrors.IsNotFound(err) || apierrors.IsAlreadyExists(err) || apierrors.IsConflict(err)
}

// carryOutOne makes one write. The mark is nil where the view need not show
// anything new. Errors name the write.
func carryOutOne(ctx context.Context, c client.Client, w Write) (m *mark, got api.Object, err error) {
	obj := w.object
	if w.Unless != nil {
		if there, err := present(ctx, c, *w.Unless); there || err != nil {
			return nil, obj, err
		}
	}
	m = &mark{resource: w.resource, namespace: obj.GetNamespace(), name: obj.GetName(), uid: obj.GetUID()}
	switch w.verb {
	case "create":
		got, err = c.Create(ctx, obj)
	case "update":
		got, err = c.Update(ctx, w.sub, obj)
	case "patch":
		got, err = c.Patch(ctx, w.resource, m.namespace, m.name, w.patch)
	case "delete":
		err = c.Delete(ctx, w.resource, m.namespace, m.name, w.delete)
		if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			return m, obj, nil // that one is gone, which is what was wanted
		}
	}
	if err == nil {
		m.uid, m.revision = got.GetUID(), revisionOf(got)
		return m, got, nil
	}
	named := fmt.Errorf("%s %s %s: %w", w.verb, w.resource, KeyOf(obj), err)
	if lost(err) {
		return settle(ctx, c, m), nil, named
	}
	return nil, nil, named
}

// present tells by a live read whether there is such an object.
func present(ctx context.Context, c client.Client, id Identity) (bool, error) {
	obj, err := c.Get(ctx, id.Resource, id.Namespace, id.Name)
	switch {
	case apierrors.IsNotFound(err):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("read %s %s/%s: %w", id.Resource, id.Namespace, id.Name, err)
	}
	return id.UID == "" || obj.GetUID() == id.UID, nil
}

// lost tells whether it is unknown if the write happened.
func lost(err error) bool {
	return apierrors.IsTimeout(err) || apierrors.IsServerTimeout(err) || apierrors.ReasonForError(err) == ""
}

// settle finds out by a linearizable read what the view must come to before the
// key is decided again, after a write whose answer was lost.
func settle(ctx context.Context, c client.Client, m *mark) *mark {
	got, err := c.Get(ctx, m.resource, m.namespace, m.name)
	if err != nil {
		return nil // it is not there, or the next attempt finds out
	}
	m.uid, m.revision = got.GetUID(), revisionOf(got)
	return m
}
