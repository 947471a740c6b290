package batch

import (
	"fmt"
	"strconv"
	"strings"
)

// interval is a range of completion indexes, both ends included.
type interval struct{ first, last int32 }

type intervals []interval

func (l intervals) count() (n int32) {
	for _, i := range l {
		n += i.last - i.first + 1
	}
	return n
}

// parseIndexes reads a list such as "1,3-5,7", in increasing order and below
// completions.
func parseIndexes(s string, completions int32) (intervals, error) {
	var list intervals
	for _, text := range splitIndexes(s) {
		i, err := parseInterval(text, completions)
		if err != nil {
			return nil, err
		}
		if n := len(list); n > 0 && list[n-1].last >= i.first {
			return nil, fmt.Errorf("non-increasing order, previous: %d, current: %d", list[n-1].last, i.first)
		}
		list = append(list, i)
	}
	return list, nil
}

func parseInterval(s string, completions int32) (i interval, err error) {
	parts := strings.Split(s, "-")
	if len(parts) > 2 {
		return i, fmt.Errorf("the fragment %q violates the requirement that an index interval can have at most two parts separated by '-'", s)
	}
	var ends [2]int32
	for k, p := range parts {
		n, err := strconv.Atoi(p)
		if err != nil {
			return i, fmt.Errorf("cannot convert string to integer for index: %q", p)
		}
		if n >= int(completions) {
			return i, fmt.Errorf("too large index: %q", p)
		}
		ends[k] = int32(n)
	}
	if len(parts) == 1 {
		return interval{ends[0], ends[0]}, nil
	}
	if ends[0] >= ends[1] {
		return i, fmt.Errorf("non-increasing order, previous: %d, current: %d", ends[0], ends[1])
	}
	return interval{ends[0], ends[1]}, nil
}

// overlap finds an index that is in both lists. What cannot be parsed is left
// out: its format is reported on its own.
func overlap(a, b string, completions int32) (index int32, found bool) {
	la, lb := parsable(a, completions), parsable(b, completions)
	for i, j := 0, 0; i < len(la) && j < len(lb); {
		if la[i].first <= lb[j].last && lb[j].first <= la[i].last {
			return max(la[i].first, lb[j].first), true
		}
		if la[i].first <= lb[j].first {
			i++
		} else {
			j++
		}
	}
	return 0, false
}

func parsable(s string, completions int32) (list intervals) {
	for _, text := range splitIndexes(s) {
		if i, err := parseInterval(text, completions); err == nil {
			list = append(list, i)
		}
	}
	return list
}

// splitIndexes tells an empty list from a list with one empty index.
func splitIndexes(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}
