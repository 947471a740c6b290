// Package rehearsal plays controllers against a world in memory, step by step and
// without a clock of its own: tests of controllers use it to see what a series of
// decisions leads to. It stands for the API server only as far as that needs:
// names, UIDs, generations, status split, conflicts, deletion.
package rehearsal

import (
	"encoding/json"
	"fmt"
	"strconv"
	"testing"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"skiff/api"
	"skiff/client"
	"skiff/controllers/loop"
)

// World is what there is.
type World struct {
	t           *testing.T
	Now         time.Time
	View        *client.View
	controllers []loop.Controller
	memory      []map[loop.Key]loop.Memory
	queue       []map[loop.Key]bool
	wakes       []map[loop.Key]time.Time
	revision    int64

	// Refuse, if set, may refuse a write.
	Refuse func(w loop.Write) error
	// Events that were told, as "reason message".
	Events []string
	// After is called after each write, to check what must always hold.
	After func()
}

// New returns an empty world for the controllers.
func New(t *testing.T, now time.Time, controllers ...loop.Controller) *World {
	var indexes []client.Index
	w := &World{t: t, Now: now, controllers: controllers}
	for _, c := range controllers {
		indexes = append(indexes, c.Indexes...)
		w.memory = append(w.memory, map[loop.Key]loop.Memory{})
		w.queue = append(w.queue, map[loop.Key]bool{})
		w.wakes = append(w.wakes, map[loop.Key]time.Time{})
	}
	w.View = client.NewView(indexes...)
	return w
}

// Put creates or replaces an object, as a user or another component would; a
// changed spec raises its generation.
func (w *World) Put(obj api.Object) {
	obj = obj.DeepCopyObject().(api.Object)
	r := api.Of(obj)
	old := w.View.Lookup(r, obj.GetNamespace(), obj.GetName())
	w.revision++
	obj.SetResourceVersion(strconv.FormatInt(w.revision, 10))
	if old == nil {
		if obj.GetUID() == "" {
			obj.SetUID(types.UID(fmt.Sprintf("uid-%d", w.revision)))
		}
		obj.SetGeneration(1)
		if created := obj.GetCreationTimestamp(); created.IsZero() {
			obj.SetCreationTimestamp(metav1.NewTime(w.Now))
		}
	} else {
		obj.SetUID(old.GetUID())
		obj.SetCreationTimestamp(old.GetCreationTimestamp())
		obj.SetGeneration(old.GetGeneration())
		if r.Kind.Intent != nil && !apiequality.Semantic.DeepEqual(r.Kind.Intent(old), r.Kind.Intent(obj)) {
			obj.SetGeneration(old.GetGeneration() + 1)
		}
	}
	if obj.GetDeletionTimestamp() != nil && len(obj.GetFinalizers()) == 0 && old != nil {
		w.change(r, old, nil)
		return
	}
	w.change(r, old, obj)
}

// Remove takes an object away at once.
func (w *World) Remove(obj api.Object) {
	r := api.Of(obj)
	if old := w.View.Lookup(r, obj.GetNamespace(), obj.GetName()); old != nil {
		w.revision++
		w.change(r, old, nil)
	}
}

func (w *World) change(r *api.Resource, old, obj api.Object) {
	c := client.Change{Resource: r, Old: old, New: obj, Revision: w.revision}
	w.View.Apply(client.Batch{Changes: []client.Change{c}, Revision: w.revision})
	for i, ctl := range w.controllers {
		for _, reads := range ctl.Reads {
			if reads != r {
				continue
			}
			keys := []loop.Key{loop.KeyOf(c.Object())}
			if ctl.Keys != nil {
				keys = ctl.Keys(w.View, c)
			}
			for _, key := range keys {
				w.queue[i][key] = true
			}
		}
	}
	if w.After != nil {
		w.After()
	}
}

// Settle lets the controllers decide until there is nothing to do.
func (w *World) Settle() {
	w.t.Helper()
	for steps := 0; ; steps++ {
		if steps > 10_000 {
			w.t.Fatal("the controllers do not come to rest")
		}
		if !w.Step() {
			return
		}
	}
}

// Step makes one decision and carries out its plan; false: there is none to make.
func (w *World) Step() bool {
	for i, ctl := range w.controllers {
		for key, at := range w.wakes[i] {
			if !w.Now.Before(at) {
				delete(w.wakes[i], key)
				w.queue[i][key] = true
			}
		}
		for _, key := range sorted(w.queue[i]) {
			delete(w.queue[i], key)
			plan, m := ctl.Decide(w.View, key, w.Now, w.memory[i][key])
			w.memory[i][key] = m
			if !plan.WakeAt.IsZero() {
				w.wakes[i][key] = plan.WakeAt
			}
			w.carryOut(i, key, plan)
			return true
		}
	}
	return false
}

// Advance moves time and lets the controllers decide.
func (w *World) Advance(d time.Duration) {
	w.t.Helper()
	w.Now = w.Now.Add(d)
	w.Settle()
}

func (w *World) carryOut(i int, key loop.Key, plan loop.Plan) {
	for _, e := range plan.Events {
		w.Events = append(w.Events, e.Reason+" "+e.Message)
	}
	for _, write := range plan.Writes {
		got, err := w.write(write)
		if err == nil {
			if write.Done != nil {
				e := write.Done(got)
				w.Events = append(w.Events, e.Reason+" "+e.Message)
			}
			continue
		}
		if write.Optional {
			continue
		}
		if write.Failed != nil {
			e := write.Failed(err)
			w.Events = append(w.Events, e.Reason+" "+e.Message)
		}
		if refused := w.controllers[i].Refused; refused != nil {
			w.memory[i][key] = refused(w.memory[i][key], write, err)
		}
		return
	}
}

func (w *World) write(write loop.Write) (api.Object, error) {
	if w.Refuse != nil {
		if err := w.Refuse(write); err != nil {
			return nil, err
		}
	}
	obj := write.Object()
	r := api.Of(obj)
	if write.Verb() == "create" && obj.GetName() == "" {
		obj = obj.DeepCopyObject().(api.Object)
		obj.SetName(fmt.Sprintf("%s%05d", obj.GetGenerateName(), w.revision+1))
	}
	old := w.View.Lookup(r, obj.GetNamespace(), obj.GetName())
	switch write.Verb() {
	case "create":
		if old != nil {
			return nil, alreadyExists(r, obj)
		}
		w.Put(obj)
	case "update":
		if old == nil {
			return nil, notFound(r, obj)
		}
		if v := obj.GetResourceVersion(); v != "" && v != old.GetResourceVersion() {
			return nil, conflict(r, obj)
		}
		next := obj.DeepCopyObject().(api.Object)
		if sub, ok := r.Kind.Subs[write.Sub()]; ok {
			sub.Update(next, old)
		} else {
			r.Kind.Update(next, old)
		}
		w.Put(next)
	case "patch":
		if old == nil {
			return nil, notFound(r, obj)
		}
		next, err := patched(r, old, write.PatchData())
		if err != nil {
			return nil, err
		}
		w.Put(next)
	case "delete":
		if old == nil || old.GetUID() != obj.GetUID() {
			return obj, nil
		}
		w.delete(r, old)
	}
	return w.View.Lookup(r, obj.GetNamespace(), obj.GetName()), nil
}

// delete marks what has finalizers and takes the rest away.
func (w *World) delete(r *api.Resource, old api.Object) {
	if len(old.GetFinalizers()) == 0 {
		w.Remove(old)
		return
	}
	next := old.DeepCopyObject().(api.Object)
	now := metav1.NewTime(w.Now)
	next.SetDeletionTimestamp(&now)
	w.Put(next)
}

// patched applies a merge patch, or a strategic one.
func patched(r *api.Resource, old api.Object, p client.Patch) (api.Object, error) {
	before, err := json.Marshal(old)
	if err != nil {
		return nil, err
	}
	var after []byte
	if p.Type == types.StrategicMergePatchType {
		after, err = strategicpatch.StrategicMergePatch(before, p.Data, r.Kind.New())
	} else {
		after, err = jsonpatch.MergePatch(before, p.Data)
	}
	if err != nil {
		return nil, err
	}
	next := r.Kind.New()
	if err := json.Unmarshal(after, next); err != nil {
		return nil, err
	}
	if v := next.GetResourceVersion(); v != old.GetResourceVersion() {
		return nil, conflict(r, old)
	}
	return next, nil
}
