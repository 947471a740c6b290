// Package loop runs controllers. A controller is a pure decision over what is
// known: it gets a view of the cluster, the key of one object, the time and its
// own memory, and returns a plan. The loop learns changes, queues keys, decides,
// writes what was planned, and does not decide about a key again before it has
// seen its own last writes. Controllers never do I/O, and never read a clock.
package loop

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff/api"
	"skiff/client"
)

// Key names what a decision is about: usually the controller's own object.
type Key struct{ Namespace, Name string }

// KeyOf returns the key of an object.
func KeyOf(obj api.Object) Key { return Key{obj.GetNamespace(), obj.GetName()} }

// Memory is what a controller must remember about a key between decisions and
// cannot read from the API: a back-off, a heartbeat seen locally. It is lost when
// the leader changes; a controller must do right without it. nil at first, and
// when it returns nil there is nothing to remember.
type Memory any

// Controller is a row in the table of controllers.
type Controller struct {
	// Name as upstream calls the controller ("replicaset-controller"); its user is
	// the service account of that name in kube-system.
	Name string
	// Reads are the resources that it is told of; Writes those that it changes
	// ("pods", "replicasets/status"), for documentation and its role.
	Reads  []*api.Resource
	Writes []string
	// Indexes that it needs in the view, beside those of others. Their names are
	// prefixed by convention with what they index: "pods by owner".
	Indexes []client.Index
	// Keys tells which keys a change may concern. It may read the view, which
	// has the change already. Nil: the key of the object.
	Keys func(v *client.View, c client.Change) []Key
	// Decide says what to do about key. Same input, same plan: no clock, no I/O,
	// no lock, no log, no randomness. Objects of the view must not be changed.
	Decide func(v *client.View, key Key, now time.Time, m Memory) (Plan, Memory)
	// Refused notes in the memory that a write of the last plan was refused, for
	// the next decision. Nil: refusals are not remembered.
	Refused func(m Memory, w Write, err error) Memory
}

// Plan is what a decision wants done. Its zero value is to do nothing.
type Plan struct {
	// Writes are made in order of their Stage; those of one stage at once,
	// slowly at first (1, 2, 4 …), so that a quota that refuses the first is not
	// asked a thousand times. A failure ends the plan, and the key is decided again.
	Writes []Write
	// Events tell users what was done; they are recorded when the writes succeeded.
	Events []Event
	// WakeAt is when to decide again though nothing changed; zero: never.
	WakeAt time.Time
}

// Write is one change to be made. Make it with the functions below.
type Write struct {
	verb     string
	resource *api.Resource
	object   api.Object // create and update; of delete, what is to be deleted
	sub      string
	patch    client.Patch
	delete   metav1.DeleteOptions

	// Stage orders writes within a plan; 0 comes first.
	Stage int
	// Optional: NotFound, AlreadyExists and Conflict do not fail the plan.
	Optional bool
	// Unless names an object whose absence the write rests on. It is read live
	// before: where it is there after all, nothing is written.
	Unless *Identity
	// Done and Failed, if set, make the event that tells of a success (got is what
	// was written; for a delete, what was deleted) or of a refusal.
	Done   func(got api.Object) Event
	Failed func(err error) Event
}

// Identity is one object: by name and UID, or whichever has the name.
type Identity struct {
	Resource        *api.Resource
	Namespace, Name string
	UID             types.UID // "": any
}

// Create creates obj; a generateName is turned into a name by the loop, so that
// a create whose answer was lost can be found again.
func Create(obj api.Object) Write {
	return Write{verb: "create", resource: api.Of(obj), object: obj}
}

// Update replaces obj, at its resourceVersion.
func Update(obj api.Object) Write {
	return Write{verb: "update", resource: api.Of(obj), object: obj}
}

// UpdateStatus replaces obj's status, at its resourceVersion.
func UpdateStatus(obj api.Object) Write {
	return Write{verb: "update", resource: api.Of(obj), object: obj, sub: "status"}
}

// Patch changes obj (which names it and its UID) by p.
func Patch(obj api.Object, p client.Patch) Write {
	return Write{verb: "patch", resource: api.Of(obj), object: obj, patch: p}
}

// Delete deletes obj: exactly that one, by its UID.
func Delete(obj api.Object) Write {
	uid := obj.GetUID()
	return Write{verb: "delete", resource: api.Of(obj), object: obj, delete: metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}}}
}

// DeleteWith is Delete with options of the caller; its preconditions are kept.
func DeleteWith(obj api.Object, o metav1.DeleteOptions) Write {
	w := Delete(obj)
	if o.Preconditions == nil {
		o.Preconditions = w.delete.Preconditions
	}
	w.delete = o
	return w
}

// Verb is create, update, patch or delete.
func (w Write) Verb() string { return w.verb }

// Object is what is written, or deleted.
func (w Write) Object() api.Object { return w.object }

// Sub is the subresource that is written ("status"), or "".
func (w Write) Sub() string { return w.sub }

// PatchData is what a patch would apply.
func (w Write) PatchData() client.Patch { return w.patch }

// DeleteOptions are those of a delete.
func (w Write) DeleteOptions() metav1.DeleteOptions { return w.delete }

// Event is something to tell users about an object.
type Event struct {
	About   api.Object
	Type    string // corev1.EventTypeNormal or EventTypeWarning
	Reason  string
	Message string
}

// Normal makes an event of that type.
func Normal(about api.Object, reason, message string) Event {
	return Event{about, corev1.EventTypeNormal, reason, message}
}

// Warning makes an event of that type.
func Warning(about api.Object, reason, message string) Event {
	return Event{about, corev1.EventTypeWarning, reason, message}
}

// ControllerOf returns the controlling owner reference, or nil.
func ControllerOf(obj api.Object) *metav1.OwnerReference { return metav1.GetControllerOf(obj) }

// ControlledBy tells whether the controlling owner has that UID.
func ControlledBy(obj api.Object, uid types.UID) bool {
	ref := ControllerOf(obj)
	return ref != nil && ref.UID == uid
}
