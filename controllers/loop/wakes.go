package loop

import (
	"container/heap"
	"time"
)

// wakes are the times at which keys are to be decided again, the earliest first.
// An entry that its key has replaced by another time is skipped when it is due.
type wakes []wake

type wake struct {
	at         time.Time
	controller *controller
	key        Key
}

func (w *wakes) add(x wake) { heap.Push(w, x) }

// until returns how long the earliest wake is away, an hour at most.
func (w wakes) until(now time.Time) time.Duration {
	if len(w) == 0 {
		return time.Hour
	}
	return min(max(0, w[0].at.Sub(now)), time.Hour)
}

// due takes out what is due.
func (w *wakes) due(now time.Time) (out []wake) {
	for len(*w) > 0 && !(*w)[0].at.After(now) {
		out = append(out, heap.Pop(w).(wake))
	}
	return out
}

func (w wakes) Len() int           { return len(w) }
func (w wakes) Less(i, j int) bool { return w[i].at.Before(w[j].at) }
func (w wakes) Swap(i, j int)      { w[i], w[j] = w[j], w[i] }
func (w *wakes) Push(x any)        { *w = append(*w, x.(wake)) }
func (w *wakes) Pop() any {
	old := *w
	x := old[len(old)-1]
	*w = old[:len(old)-1]
	return x
}
