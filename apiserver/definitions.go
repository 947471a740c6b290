package apiserver

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"skiff/api"
	"skiff/apiserver/crd"
	"skiff/cache"
)

// The status of CustomResourceDefinitions, and their deletion, are the server's
// own work, not a controller's: what is established is served, by whichever
// server, also where controllers are not Skiff's. Several servers may do the
// same; writes that are late meet a conflict.

// keeper keeps the definitions' status.
type keeper struct {
	s     *Server
	group errgroup.Group

	mu       sync.Mutex
	cleaning map[string]bool // definitions whose objects are being deleted; guarded by mu
}

// keepDefinitions runs until ctx ends.
func (s *Server) keepDefinitions(ctx context.Context) error {
	if s.customs.table == nil {
		return nil
	}
	select {
	case <-s.ready:
	case <-ctx.Done():
		return nil
	}
	k := &keeper{s: s, cleaning: map[string]bool{}}
	defer func() { _ = k.group.Wait() }() // its funcs return nil
	for ctx.Err() == nil {
		k.round(ctx)
	}
	return nil
}

// round looks at all definitions, and then at those that change, until ctx ends
// or the watch falls behind.
func (k *keeper) round(ctx context.Context) {
	w, states := k.s.cache.WatchFromNow(cache.Interest{Table: k.s.customs.table})
	defer w.Stop()
	pending := map[string]bool{}
	for entry := range states[0].All("") {
		pending[entry.Name()] = true
	}
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		k.s.customs.served() // tells those who wait for a change
		if failed := k.settleAll(ctx, pending); failed {
			retry.Reset(time.Second)
		}
		select {
		case <-ctx.Done():
			return
		case <-retry.C:
		case <-w.Wake():
			taken, err := w.Take()
			if err != nil {
				return
			}
			for _, e := range taken.Events {
				k.note(e, pending)
			}
		}
	}
}

// note adds what a change may concern: the definition, and those of its group
// that wait for names.
func (k *keeper) note(e *cache.Event, pending map[string]bool) {
	if e.New != nil {
		pending[e.New.Name()] = true
	}
	for _, changed := range []*cache.Entry{e.Old, e.New} {
		if changed == nil || changed.Err() != nil {
			continue
		}
		group := changed.Object().(*apiextensionsv1.CustomResourceDefinition).Spec.Group
		for _, def := range k.s.customs.served().definitions {
			if def.Group() == group && !def.Settled() {
				pending[def.Name] = true
			}
		}
	}
}

// settleAll settles the pending definitions; those that could not be stay pending.
func (k *keeper) settleAll(ctx context.Context, pending map[string]bool) (failed bool) {
	for name := range pending {
		if err := k.settle(ctx, name); err != nil {
			if ctx.Err() != nil {
				return false
			}
			k.s.log.Warn("the status of a definition could not be written, trying again", "name", name, "error", err)
			failed = true
			continue
		}
		delete(pending, name)
	}
	return failed
}

// settle gives one definition the status that it should have.
func (k *keeper) settle(ctx context.Context, name string) error {
	entry, ok := k.s.customs.table.Get("", name)
	if !ok || entry.Err() != nil {
		return nil
	}
	d := entry.Object().(*apiextensionsv1.CustomResourceDefinition)
	var taken crd.Taken
	if !crd.AllNames(d) {
		for _, def := range k.s.customs.served().definitions {
			if def.Group() == d.Spec.Group {
				taken.Take(def)
			}
		}
	}
	if next := crd.Settle(d, taken); next != nil {
		return k.write(ctx, next)
	}
	if crd.Cleaning(d) {
		k.clean(ctx, d)
	}
	return nil
}

// write stores a status, and waits until the cache has it: the next decision rests
// on it. A conflict is no error: what came between is looked at in its turn.
func (k *keeper) write(ctx context.Context, d *apiextensionsv1.CustomResourceDefinition) error {
	r := k.s.own("update", d)
	r.Subresource = "status"
	result, err := k.s.serve(ctx, r)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if result.Entry != nil {
		return k.s.cache.WaitFor(ctx, result.Entry.Revision())
	}
	return nil
}

// clean deletes a definition's objects beside the loop, once at a time.
func (k *keeper) clean(ctx context.Context, d *apiextensionsv1.CustomResourceDefinition) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.cleaning[d.Name] {
		return
	}
	k.cleaning[d.Name] = true
	k.group.Go(func() error {
		defer func() {
			k.mu.Lock()
			defer k.mu.Unlock()
			delete(k.cleaning, d.Name)
		}()
		for pause := 50 * time.Millisecond; ctx.Err() == nil; pause = min(2*pause, 10*time.Second) {
			err := k.cleanUp(ctx, d.Name)
			if err == nil {
				break
			}
			k.s.log.Info("the objects of a definition are not gone yet, trying again", "name", d.Name, "error", err)
			timer := time.NewTimer(pause)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
			}
		}
		return nil
	})
}

// cleanUp deletes the objects of a definition and then lets it go.
func (k *keeper) cleanUp(ctx context.Context, name string) error {
	d, err := k.current(ctx, name)
	if err != nil || d == nil {
		return err
	}
	if apihelpers.IsCRDConditionTrue(d, apiextensionsv1.Established) {
		crd.Terminating(d, apiextensionsv1.ConditionTrue, "InstanceDeletionInProgress", "CustomResource deletion is in progress")
		if err := k.write(ctx, d.DeepCopy()); err != nil {
			return err
		}
		if err := k.deleteObjects(ctx, name); err != nil {
			return err
		}
		if d, err = k.current(ctx, name); err != nil || d == nil {
			return err
		}
		crd.Terminating(d, apiextensionsv1.ConditionFalse, "InstanceDeletionCompleted", "removed all instances")
	} else {
		crd.Terminating(d, apiextensionsv1.ConditionFalse, "NeverEstablished", "resource was never established")
	}
	apihelpers.CRDRemoveFinalizer(d, apiextensionsv1.CustomResourceCleanupFinalizer)
	if err := k.write(ctx, d); err != nil {
		return err
	}
	if d, err = k.current(ctx, name); err == nil && d != nil {
		err = fmt.Errorf("the definition %s was changed meanwhile", name) // or has other finalizers: then Cleaning is over
	}
	return err
}

// current returns a copy of the definition as it is now; nil: it need not be
// cleaned up.
func (k *keeper) current(ctx context.Context, name string) (*apiextensionsv1.CustomResourceDefinition, error) {
	d, err := live[*apiextensionsv1.CustomResourceDefinition](ctx, k.s, "", name)
	if err != nil || d == nil || !crd.Cleaning(d) {
		return nil, err
	}
	return d.DeepCopy(), nil
}

// deleteObjects deletes all objects of a definition and waits until they are gone.
func (k *keeper) deleteObjects(ctx context.Context, name string) error {
	row := k.storedRow(name)
	if row == nil {
		return fmt.Errorf("the definition %s is not established any more", name)
	}
	if err := k.s.fresh(ctx); err != nil {
		return err
	}
	w, states := k.s.cache.WatchFromNow(cache.Interest{Table: k.s.table(row)})
	defer w.Stop()
	namespaces := map[string]bool{}
	for entry := range states[0].All("") {
		namespaces[entry.Namespace()] = true
	}
	for namespace := range namespaces {
		r := &Request{User: self, UserAgent: "skiff-apiserver", Verb: "deletecollection", Resource: row, Namespace: namespace}
		if _, err := k.s.serve(ctx, r); err != nil {
			return k.failed(ctx, name, "InstanceDeletionFailed", fmt.Errorf("could not issue all deletes: %w", err))
		}
	}
	late := time.NewTimer(time.Minute)
	defer late.Stop()
	for k.s.table(row).Snapshot().Len() > 0 {
		select {
		case <-w.Wake():
			if _, err := w.Take(); err != nil {
				return err
			}
		case <-late.C:
			return k.failed(ctx, name, "InstanceDeletionCheck", fmt.Errorf("could not confirm zero CustomResources remaining: %w", context.DeadlineExceeded))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// failed writes into the definition's status why its objects are still there.
func (k *keeper) failed(ctx context.Context, name, reason string, cause error) error {
	d, err := k.current(ctx, name)
	if err == nil && d != nil {
		crd.Terminating(d, apiextensionsv1.ConditionTrue, reason, cause.Error())
		err = k.write(ctx, d)
	}
	if err != nil {
		return err
	}
	return cause
}

func (k *keeper) storedRow(name string) *api.Resource {
	for _, def := range k.s.customs.served().definitions {
		if def.Name == name {
			return def.Stored
		}
	}
	return nil
}
