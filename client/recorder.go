package client

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff/api"
)

// Recorder tells users what a component did, as Event objects. The same event
// again within ten minutes raises the count of the first instead of adding one,
// and no object gets more than a burst of 25 events and one each five minutes
// after (as client-go's limits are). Telling never blocks and never fails what is
// told of: events beyond the queue are dropped.
type Recorder struct {
	c     RecorderConfig
	queue chan occurrence
}

// RecorderConfig says who tells.
type RecorderConfig struct {
	Client    Client
	Component string       // "replicaset-controller", "kubelet"
	Host      string       // node name, or ""
	Logger    *slog.Logger // nil: slog.Default()
}

// occurrence is one thing that happened.
type occurrence struct {
	about                 corev1.ObjectReference
	kind, reason, message string
	at                    time.Time
}

const (
	recorderQueue    = 1000
	sameEventWindow  = 10 * time.Minute
	burstPerObject   = 25
	refillPerObject  = 5 * time.Minute
	mostRemembered   = 4096
	eventWriteWithin = 10 * time.Second
)

// NewRecorder returns a recorder; Run must run for it to write.
func NewRecorder(c RecorderConfig) *Recorder {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return &Recorder{c: c, queue: make(chan occurrence, recorderQueue)}
}

// Event tells that something happened to obj. kind is corev1.EventTypeNormal or
// EventTypeWarning.
func (r *Recorder) Event(obj api.Object, kind, reason, message string) {
	r.EventAt(Reference(obj), kind, reason, message)
}

// EventAt is Event for a reference, which may name a part of an object (a container).
func (r *Recorder) EventAt(ref corev1.ObjectReference, kind, reason, message string) {
	select {
	case r.queue <- occurrence{ref, kind, reason, message, time.Now()}:
	default:
		r.c.Logger.Debug("event dropped: too many", "object", ref.Namespace+"/"+ref.Name, "reason", reason)
	}
}

// Reference names an object as events do.
func Reference(obj api.Object) corev1.ObjectReference {
	gvk := api.Of(obj).GVK()
	return corev1.ObjectReference{
		APIVersion: gvk.GroupVersion().String(), Kind: gvk.Kind, Namespace: obj.GetNamespace(), Name: obj.GetName(),
		UID: obj.GetUID(), ResourceVersion: obj.GetResourceVersion(),
	}
}

// told is an event that was written, and may be counted up.
type told struct {
	name  string
	count int32
	last  time.Time
}

// allowance is how many events an object may still have.
type allowance struct {
	left float64
	at   time.Time
}

// Run writes events until ctx ends.
func (r *Recorder) Run(ctx context.Context) error {
	seen := map[occurrence]told{}
	limits := map[types.UID]allowance{}
	for {
		var o occurrence
		select {
		case <-ctx.Done():
			return nil
		case o = <-r.queue:
		}
		if len(seen) > mostRemembered || len(limits) > mostRemembered {
			clear(seen)
			clear(limits)
		}
		if !allow(limits, o) {
			continue
		}
		key := o
		key.at, key.about.ResourceVersion = time.Time{}, ""
		before, again := seen[key]
		again = again && o.at.Sub(before.last) < sameEventWindow
		var err error
		if again {
			before.count++
			before.last = o.at
			err = r.raise(ctx, o, before)
			if apierrors.IsNotFound(err) {
				again = false // it has expired meanwhile
			}
		}
		if !again {
			before, err = r.write(ctx, o)
		}
		if err != nil {
			// An event in a namespace that is ending, or of a server that is away:
			// nothing that the component could do about it.
			r.c.Logger.Debug("event not written", "reason", o.reason, "error", err)
			continue
		}
		seen[key] = before
	}
}

// allow takes one event off what the object may have.
func allow(limits map[types.UID]allowance, o occurrence) bool {
	a, ok := limits[o.about.UID]
	if !ok {
		a = allowance{left: burstPerObject, at: o.at}
	}
	a.left = min(burstPerObject, a.left+float64(o.at.Sub(a.at))/float64(refillPerObject))
	a.at = o.at
	defer func() { limits[o.about.UID] = a }()
	if a.left < 1 {
		return false
	}
	a.left--
	return true
}

func (r *Recorder) write(ctx context.Context, o occurrence) (told, error) {
	ctx, cancel := context.WithTimeout(ctx, eventWriteWithin)
	defer cancel()
	namespace := o.about.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	at := metav1.NewTime(o.at)
	t := told{name: fmt.Sprintf("%s.%x", o.about.Name, o.at.UnixNano()), count: 1, last: o.at}
	_, err := r.c.Client.Create(ctx, &corev1.Event{
		ObjectMeta:          metav1.ObjectMeta{Namespace: namespace, Name: t.name},
		InvolvedObject:      o.about,
		Type:                o.kind,
		Reason:              o.reason,
		Message:             o.message,
		Source:              corev1.EventSource{Component: r.c.Component, Host: r.c.Host},
		ReportingController: r.c.Component,
		ReportingInstance:   r.c.Host,
		FirstTimestamp:      at,
		LastTimestamp:       at,
		Count:               1,
	})
	return t, err
}

// raise counts up an event that was written before.
func (r *Recorder) raise(ctx context.Context, o occurrence, t told) error {
	ctx, cancel := context.WithTimeout(ctx, eventWriteWithin)
	defer cancel()
	namespace := o.about.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	patch, err := json.Marshal(map[string]any{"count": t.count, "lastTimestamp": metav1.NewTime(t.last)})
	if err != nil {
		return fmt.Errorf("count up event %s: %w", t.name, err)
	}
	_, err = r.c.Client.Patch(ctx, api.For[*corev1.Event](), namespace, t.name, Patch{Type: types.MergePatchType, Data: patch})
	return err
}
