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

// carryOut makes the writes, stage by stage, and returns what the view must
// show afterwards and the events that tell of refusals.
func carryOut(ctx context.Context, c client.Client, writes []Write) (marks []mark, refused []Event, err error) {
	slices.SortStableFunc(writes, func(a, b Write) int { return a.Stage - b.Stage })
	for len(writes) > 0 {
		n := 1
		for n < len(writes) && writes[n].Stage == writes[0].Stage {
			n++
		}
		m, r, err := carryOutStage(ctx, c, writes[:n])
		marks, refused = append(marks, m...), append(refused, r...)
		if err != nil {
			return marks, refused, err
		}
		writes = writes[n:]
	}
	return marks, refused, nil
}

// atOnce bounds the writes of one plan that are in flight.
const atOnce = 32

// carryOutStage makes writes at once, slowly at first, until one fails.
func carryOutStage(ctx context.Context, c client.Client, writes []Write) (marks []mark, refused []Event, err error) {
	for size := 1; len(writes) > 0; size = min(2*size, atOnce) {
		batch := writes[:min(size, len(writes))]
		writes = writes[len(batch):]
		var mu sync.Mutex // guards the results
		var group sync.WaitGroup
		for _, w := range batch {
			group.Go(func() {
				m, werr := carryOutOne(ctx, c, w)
				mu.Lock()
				defer mu.Unlock()
				if m != nil {
					marks = append(marks, *m)
				}
				if werr == nil || w.Optional && expected(werr) {
					return
				}
				if w.Failed != nil {
					refused = append(refused, w.Failed(werr))
				}
				if err == nil {
					err = werr
				}
			})
		}
		group.Wait()
		if err != nil {
			return marks, refused, err
		}
	}
	return marks, refused, nil
}

func expected(err error) bool {
	return apierrors.IsNotFound(err) || apierrors.IsAlreadyExists(err) || apierrors.IsConflict(err)
}

// carryOutOne makes one write. The mark is nil where the view need not show
// anything new.
func carryOutOne(ctx context.Context, c client.Client, w Write) (*mark, error) {
	obj := w.object
	m := &mark{resource: w.resource, namespace: obj.GetNamespace(), name: obj.GetName(), uid: obj.GetUID()}
	var got api.Object
	var err error
	switch w.verb {
	case "create":
		got, err = c.Create(ctx, obj)
	case "update":
		got, err = c.Update(ctx, w.sub, obj)
	case "patch":
		got, err = c.Patch(ctx, w.resource, m.namespace, m.name, w.patch)
	case "delete":
		err = c.Delete(ctx, w.resource, m.namespace, m.name, w.delete)
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			return m, nil // that one is gone, which is what was wanted
		}
		if err == nil {
			return m, nil
		}
	}
	if err == nil {
		m.uid, m.revision = got.GetUID(), revisionOf(got)
		return m, nil
	}
	if lost(err) {
		return settle(ctx, c, m, fmt.Errorf("%s %s %s/%s: %w", w.verb, w.resource, m.namespace, m.name, err))
	}
	return nil, fmt.Errorf("%s %s %s/%s: %w", w.verb, w.resource, m.namespace, m.name, err)
}

// lost tells whether it is unknown if the write happened.
func lost(err error) bool {
	return apierrors.IsTimeout(err) || apierrors.IsServerTimeout(err) || apierrors.ReasonForError(err) == ""
}

// settle finds out by a linearizable read what the view must come to before the
// key is decided again; the plan fails all the same, since what it wrote is not known.
func settle(ctx context.Context, c client.Client, m *mark, lostErr error) (*mark, error) {
	got, err := c.Get(ctx, m.resource, m.namespace, m.name)
	switch {
	case apierrors.IsNotFound(err):
		return nil, lostErr
	case err != nil:
		return nil, lostErr
	}
	m.uid, m.revision = got.GetUID(), revisionOf(got)
	return m, lostErr
}
