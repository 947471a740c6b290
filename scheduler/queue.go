package scheduler

import (
	"cmp"
	"container/heap"
	"time"

	corev1 "k8s.io/api/core/v1"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
)

// queue holds the pods without a node: those to be decided about now, by
// priority and age; those that back off; and those that were refused, until
// something changes that may help them.
type queue struct {
	all    map[key]*waiting
	active activeHeap
	// backed are parked pods and those that back off, by the time until which they wait.
	backed backedHeap
	// parked are the refused pods, by the filters that refused them.
	parked map[string]map[*waiting]struct{}
	serial int64 // of the last pod that came
}

// waiting is a pod without a node.
type waiting struct {
	pod      *corev1.Pod
	since    int64 // serial number: age
	attempts int
	tried    time.Time // when the last attempt failed
	refused  *refusal  // why the last attempt failed; nil: it has not been tried
	told     string    // what was last said of that
	until    time.Time // waits until then, if in backed
	place    int       // in active or backed; -1: in neither
	active   bool      // place is one in active
	parked   bool      // waits for a change
	helped   bool      // something changed that may help it: it need not wait if nobody else does
	binding  bool      // decided, and being bound
}

const (
	firstBackoff = time.Second
	mostBackoff  = 10 * time.Second
	// parkedTime is how long a refused pod waits if no change helps it.
	parkedTime = 5 * time.Minute
)

func newQueue() *queue {
	return &queue{all: map[key]*waiting{}, parked: map[string]map[*waiting]struct{}{}}
}

// put adds a pod, or replaces what is known of it. A refused pod whose own spec
// or labels changed may fit now.
func (q *queue) put(pod *corev1.Pod) {
	w := q.all[keyOf(pod)]
	if w == nil {
		q.serial++
		w = &waiting{since: q.serial, place: -1}
		q.all[keyOf(pod)] = w
	}
	old := w.pod
	w.pod = pod
	switch {
	case w.binding:
	case old == nil || w.parked && changed(old, pod):
		q.activate(w)
	case w.active:
		heap.Fix(&q.active, w.place)
	}
}

// changed tells whether what decides about a pod's place differs; its status does not.
func changed(a, b *corev1.Pod) bool { return a.Generation != b.Generation || !sameLabels(a, b) }

func sameLabels(a, b *corev1.Pod) bool {
	if len(a.Labels) != len(b.Labels) {
		return false
	}
	for k, v := range a.Labels {
		if b.Labels[k] != v {
			return false
		}
	}
	return true
}

// remove forgets a pod.
func (q *queue) remove(k key) {
	w := q.all[k]
	if w == nil {
		return
	}
	delete(q.all, k)
	q.leave(w)
}

// leave takes a pod out of wherever it waits.
func (q *queue) leave(w *waiting) {
	switch {
	case w.active:
		heap.Remove(&q.active, w.place)
	case w.place >= 0:
		heap.Remove(&q.backed, w.place)
	}
	q.unpark(w)
	w.helped = false
}

// unpark takes a pod out of those that wait for a change.
func (q *queue) unpark(w *waiting) {
	if !w.parked {
		return
	}
	w.parked = false
	for f := range waitsFor(w.refused) {
		delete(q.parked[f], w)
	}
}

// waitsFor are the filters whose pods have to wait for a change. A pod that no filter refused, since there was no node to ask about,
// waits under an empty name: helpedAll finds it.
func waitsFor(why *refusal) map[string]bool {
	if len(why.by) == 0 {
		return map[string]bool{"": true}
	}
	return why.by
}

// activate makes the pod one to be decided about now.
func (q *queue) activate(w *waiting) {
	q.leave(w)
	heap.Push(&q.active, w)
}

// next takes out the pod to be decided about, or nil.
func (q *queue) next() *waiting {
	if len(q.active) == 0 {
		return nil
	}
	return heap.Pop(&q.active).(*waiting)
}

// park puts a refused pod aside until something changes.
func (q *queue) park(w *waiting, why *refusal, now time.Time) {
	q.leave(w)
	w.attempts++
	w.tried = now
	w.refused, w.parked = why, true
	for f := range waitsFor(why) {
		if q.parked[f] == nil {
			q.parked[f] = map[*waiting]struct{}{}
		}
		q.parked[f][w] = struct{}{}
	}
	w.until = now.Add(parkedTime)
	heap.Push(&q.backed, w)
}

// retry puts a pod aside for its back-off only: what failed was not its place.
func (q *queue) retry(w *waiting, now time.Time) {
	q.leave(w)
	w.attempts++
	w.until = now.Add(backoff(w.attempts))
	heap.Push(&q.backed, w)
}

func backoff(attempts int) time.Duration {
	return min(firstBackoff<<min(attempts-1, 10), mostBackoff)
}

// helped lets the refused pods that one of the filters kept back be decided
// again: at once if nobody else waits, else when their back-off since the last
// attempt is over.
func (q *queue) helped(filters ...string) {
	for _, f := range filters {
		for w := range q.parked[f] {
			q.unpark(w)
			w.helped = true
			w.until = w.tried
			if !w.refused.expected {
				w.until = w.tried.Add(backoff(w.attempts))
			}
			heap.Fix(&q.backed, w.place)
		}
	}
}

// helpedAll is helped for all filters.
func (q *queue) helpedAll() {
	for f := range q.parked {
		q.helped(f)
	}
}

// due activates the pods whose time has come, and a helped one if nobody else waits.
func (q *queue) due(now time.Time) {
	for len(q.backed) > 0 {
		w := q.backed[0]
		if now.Before(w.until) && !(w.helped && len(q.active) == 0) {
			return
		}
		q.activate(w) // takes it out of backed
	}
}

// wakes is when due has to be asked again; zero: not before something changes.
func (q *queue) wakes() time.Time {
	if len(q.backed) == 0 {
		return time.Time{}
	}
	return q.backed[0].until
}

// activeHeap is ordered by priority, then age.
type activeHeap []*waiting

func (h activeHeap) Len() int { return len(h) }
func (h activeHeap) Less(i, j int) bool {
	return cmp.Or(
		cmp.Compare(corev1helpers.PodPriority(h[j].pod), corev1helpers.PodPriority(h[i].pod)),
		cmp.Compare(h[i].since, h[j].since),
	) < 0
}
func (h activeHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i]; h[i].place, h[j].place = i, j }
func (h *activeHeap) Push(x any) {
	w := x.(*waiting)
	w.place, w.active = len(*h), true
	*h = append(*h, w)
}
func (h *activeHeap) Pop() any {
	old := *h
	w := old[len(old)-1]
	*h = old[:len(old)-1]
	w.place, w.active = -1, false
	return w
}

// backedHeap is ordered by the time until which its pods wait.
type backedHeap []*waiting

func (h backedHeap) Len() int           { return len(h) }
func (h backedHeap) Less(i, j int) bool { return h[i].until.Before(h[j].until) }
func (h backedHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i]; h[i].place, h[j].place = i, j }
func (h *backedHeap) Push(x any) {
	w := x.(*waiting)
	w.place = len(*h)
	*h = append(*h, w)
}
func (h *backedHeap) Pop() any {
	old := *h
	w := old[len(old)-1]
	*h = old[:len(old)-1]
	w.place = -1
	return w
}
