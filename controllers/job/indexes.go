package job

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// indexes is a set of completion indexes: spans in order, none of which touch.
type indexes []span

type span struct{ first, last int }

// parseIndexes reads "1,3-5"; what is not below limit is left out, and what
// cannot be read.
func parseIndexes(text string, limit int) (out indexes) {
	for part := range strings.SplitSeq(text, ",") {
		from, to, isSpan := strings.Cut(part, "-")
		first, err := strconv.Atoi(from)
		if err != nil || first >= limit {
			continue
		}
		last := first
		if isSpan {
			if last, err = strconv.Atoi(to); err != nil {
				continue
			}
		}
		out = append(out, span{first, min(last, limit-1)})
	}
	return out.joined()
}

// joined sorts spans and joins those that touch.
func (x indexes) joined() (out indexes) {
	slices.SortFunc(x, func(a, b span) int { return cmp.Compare(a.first, b.first) })
	for _, s := range x {
		if n := len(out); n > 0 && s.first <= out[n-1].last+1 {
			out[n-1].last = max(out[n-1].last, s.last)
			continue
		}
		out = append(out, s)
	}
	return out
}

// with returns the set with more members.
func (x indexes) with(more ...int) indexes {
	out := slices.Clone(x)
	for _, i := range more {
		out = append(out, span{i, i})
	}
	return out.joined()
}

func (x indexes) total() (n int) {
	for _, s := range x {
		n += s.last - s.first + 1
	}
	return n
}

func (x indexes) has(i int) bool {
	_, found := slices.BinarySearchFunc(x, i, func(s span, i int) int {
		switch {
		case s.last < i:
			return -1
		case s.first > i:
			return 1
		}
		return 0
	})
	return found
}

// common counts the members that both have.
func (x indexes) common(y indexes) (n int) {
	for _, a := range x {
		for _, b := range y {
			n += max(0, min(a.last, b.last)-max(a.first, b.first)+1)
		}
	}
	return n
}

// free returns up to n of the lowest indexes below limit that are not in the set.
func (x indexes) free(n, limit int) (out []int) {
	next := 0
	for _, s := range append(slices.Clone(x), span{limit, limit}) {
		for ; next < min(s.first, limit) && len(out) < n; next++ {
			out = append(out, next)
		}
		next = max(next, s.last+1)
	}
	return out
}

func (x indexes) String() string {
	var parts []string
	for _, s := range x {
		switch s.last - s.first {
		case 0:
			parts = append(parts, strconv.Itoa(s.first))
		case 1:
			parts = append(parts, strconv.Itoa(s.first), strconv.Itoa(s.last))
		default:
			parts = append(parts, strconv.Itoa(s.first)+"-"+strconv.Itoa(s.last))
		}
	}
	return strings.Join(parts, ",")
}

// index of a pod of an Indexed Job; -1: it has none that is proper.
func (d *decision) index(pod *corev1.Pod) int {
	i, err := strconv.Atoi(pod.Annotations[batchv1.JobCompletionIndexAnnotation])
	if err != nil || i < 0 || d.job.Spec.Completions == nil || i >= int(*d.job.Spec.Completions) {
		return -1
	}
	return i
}

// failuresOf returns how many pods of the index had failed before this one was made.
func failuresOf(pod *corev1.Pod) int32 { return number(pod, batchv1.JobIndexFailureCountAnnotation) }

// ignoredOf counts those whose failure the policy ignored.
func ignoredOf(pod *corev1.Pod) int32 {
	return number(pod, batchv1.JobIndexIgnoredFailureCountAnnotation)
}

func allFailuresOf(pod *corev1.Pod) int32 { return failuresOf(pod) + ignoredOf(pod) }

// number reads an annotation that users could have changed.
func number(pod *corev1.Pod, annotation string) int32 {
	n, err := strconv.Atoi(pod.Annotations[annotation])
	if err != nil || n < 0 || n > math.MaxInt32 {
		return 0
	}
	return int32(n)
}
