package pod

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"skiff/api"
	"skiff/client"
)

// report writes the pod's status to the API if it changed. One write at a time
// per pod: what changes meanwhile goes into the next one, at once after it.
func (m *Manager) report(e *entry, now time.Time) {
	if e.writing || e.m.Removal == Done || e.m.State == Gone {
		return
	}
	s := e.m.Status(m.c.Host(), now)
	if equality.Semantic.DeepEqual(s, e.sent) {
		m.reported(e)
		return
	}
	base := e.base
	e.sent, e.writing = s, true
	uid := base.UID
	m.goDo(func() {
		p, err := m.patchStatus(base, s)
		m.on(func() { m.wrote(uid, p, err) })
	})
}

// reported: the API has what the machine would say; a final word is passed on.
func (m *Manager) reported(e *entry) {
	if e.m.State == Finished && !e.m.Reported {
		uid := e.m.Pod.UID
		m.goDo(func() { m.tell(uid, Reported{}) })
	}
}

// wrote takes the outcome of a status write.
func (m *Manager) wrote(uid types.UID, p *corev1.Pod, err error) {
	e := m.pods[uid]
	if e == nil {
		return
	}
	e.writing = false
	switch {
	case err == nil:
		e.retry = 0
		if p != nil {
			e.base = newer(e.base, p)
		}
	case apierrors.IsNotFound(err), apierrors.IsConflict(err):
		// The object is gone, or another has its name: the feed tells.
		return
	case apierrors.IsInvalid(err):
		// Saying it again would not help; the pod's end must not wait for it.
		m.c.Logger.Error("status of pod is refused", "pod", e.m.Pod.Namespace+"/"+e.m.Pod.Name, "err", err)
	default:
		m.c.Logger.Warn("status of pod", "pod", e.m.Pod.Namespace+"/"+e.m.Pod.Name, "err", err)
		e.sent = corev1.PodStatus{}
		wait := min(200*time.Millisecond<<min(e.retry, 6), 10*time.Second)
		e.retry++
		e.writing = true
		m.goDo(func() {
			sleep(m.ctx, wait)
			m.on(func() {
				if e := m.pods[uid]; e != nil {
					e.writing = false
					m.step(uid, Tick{})
				}
			})
		})
		return
	}
	m.report(e, time.Now())
	m.publish(e)
}

// patchStatus writes the difference between what the API has and s. It returns
// nil where there is none.
func (m *Manager) patchStatus(base *corev1.Pod, s corev1.PodStatus) (*corev1.Pod, error) {
	before, err := json.Marshal(corev1.Pod{Status: base.Status})
	if err != nil {
		return nil, fmt.Errorf("encode status: %w", err)
	}
	after, err := json.Marshal(corev1.Pod{Status: s})
	if err != nil {
		return nil, fmt.Errorf("encode status: %w", err)
	}
	diff, err := strategicpatch.CreateTwoWayMergePatch(before, after, corev1.Pod{})
	if err != nil {
		return nil, fmt.Errorf("compare statuses: %w", err)
	}
	if string(diff) == "{}" {
		return nil, nil
	}
	// The uid makes sure that a new pod of the same name is not meant.
	diff = append([]byte(fmt.Sprintf(`{"metadata":{"uid":%q},`, base.UID)), diff[1:]...)
	obj, err := m.c.Client.Patch(m.ctx, api.For[*corev1.Pod](), base.Namespace, base.Name,
		client.Patch{Type: types.StrategicMergePatchType, Data: diff, Sub: "status"})
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Pod), nil
}

// save keeps the machine's record on disk if it changed.
func (m *Manager) save(e *entry) {
	if e.m.State == Gone || e.m.StartTime.IsZero() {
		return
	}
	rec := e.m.Record()
	data, err := json.Marshal(rec)
	if err != nil || string(data) == e.saved {
		return
	}
	e.saved = string(data)
	m.c.Journal.Put(e.m.Pod.UID, rec)
}

// runtimeHandler is the runtime's name for the pod's RuntimeClass.
func (m *Manager) runtimeHandler(ctx context.Context, p *corev1.Pod) (string, error) {
	if p.Spec.RuntimeClassName == nil || *p.Spec.RuntimeClassName == "" {
		return "", nil
	}
	rc, err := client.Get[*nodev1.RuntimeClass](ctx, m.c.Client, "", *p.Spec.RuntimeClassName)
	if err != nil {
		return "", fmt.Errorf("runtime class %q: %w", *p.Spec.RuntimeClassName, err)
	}
	return rc.Handler, nil
}
