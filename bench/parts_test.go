package bench

import (
	"bufio"
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
)

func TestQuantiles(t *testing.T) {
	var all []time.Duration
	for i := 1000; i >= 1; i-- {
		all = append(all, time.Duration(i)*time.Millisecond)
	}
	if got, want := quantiles(all), (Latency{P50: 500, P90: 900, P99: 990, Max: 1000}); got != want {
		t.Errorf("of 1 … 1000 ms: %+v, not %+v", got, want)
	}
	if got, want := quantiles([]time.Duration{7 * time.Millisecond}), (Latency{7, 7, 7, 7}); got != want {
		t.Errorf("of one: %+v", got)
	}
	if got := quantiles(nil); got != (Latency{}) {
		t.Errorf("of none: %+v", got)
	}
}

func TestParseStat(t *testing.T) {
	// A name may hold spaces and brackets.
	stat := "4242 (a) b (c) S 1 4242 4242 0 -1 4194560 12 0 0 0 150 50 3 4 20 0 9 0 1000 0 0"
	if got, err := parseStat([]byte(stat)); err != nil || got != 2*time.Second {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "4242", "4242 (x) S 1", "4242 (x) S 1 4242 4242 0 -1 4194560 12 0 0 0 many 50 3"} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func TestParseWorks(t *testing.T) {
	works, err := ParseWorks([]string{"create=7", "list=2", "schedule"})
	if err != nil {
		t.Fatal(err)
	}
	if len(works) != 1+6+1 || works[0] != (Work{Name: "create", N: 7}) || works[1] != (Work{Name: "list-json", N: 2}) || works[7] != (Work{Name: "schedule", N: 5000}) {
		t.Errorf("%v", works)
	}
	for _, bad := range []string{"dance", "create=0", "create=x", "create=-1", "create=1000000000"} {
		if _, err := ParseWorks([]string{bad}); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

// Both encodings of a pod from a stencil are the same pod, with its own name and group.
func TestStencils(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	decode := serializer.NewCodecFactory(scheme).UniversalDeserializer()
	for name, encode := range map[string]func(*corev1.Pod) (stencil, error){"json": jsonStencil, "protobuf": protobufStencil} {
		s, err := encode(storedPod())
		if err != nil {
			t.Fatal(err)
		}
		obj, _, err := decode.Decode(s.of(1234), nil, nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		pod := obj.(*corev1.Pod)
		if pod.Name != "pod-00001234" || pod.Labels["group"] != "group-34" || pod.Spec.SchedulerName != "nobody-34" || pod.Labels["app.kubernetes.io/instance"] != "web-pod-00001234" {
			t.Errorf("%s: %s, %v, %s", name, pod.Name, pod.Labels, pod.Spec.SchedulerName)
		}
		if cpu := pod.Spec.Containers[0].Resources.Requests.Cpu().String(); cpu != "100m" {
			t.Errorf("%s: cpu %s", name, cpu)
		}
	}
}

// Frames longer than the reader's buffer are read whole.
func TestReadLine(t *testing.T) {
	long := `{"type":"ADDED","object":{"metadata":{"name":"watched-00000042"},"data":"` + strings.Repeat("x", 5000) + `"}}` + "\n"
	r := bufio.NewReaderSize(strings.NewReader(long+"short\n"), 64)
	line, err := readLine(r)
	if err != nil || string(line) != long {
		t.Fatalf("%d bytes instead of %d, %v", len(line), len(long), err)
	}
	if i, ok := watchedIndex(line); !ok || i != 42 {
		t.Errorf("it is about %d, %v", i, ok)
	}
	if line, err := readLine(r); err != nil || !bytes.Equal(line, []byte("short\n")) {
		t.Errorf("then %q, %v", line, err)
	}
	if _, ok := watchedIndex([]byte(`{"type":"ERROR","object":{"code":410}}`)); ok {
		t.Error("an error is about no ConfigMap")
	}
}

func TestReasons(t *testing.T) {
	if got := reasonOf(&answerError{status: 429, reason: "TooManyRequests", text: "slow down"}); got != "TooManyRequests" {
		t.Error(got)
	}
	if got := reasonOf(errors.New(strings.Repeat("long", 100))); len(got) > 80 {
		t.Error(got)
	}
	if _, err := New(Config{Server: &rest.Config{}, Works: []Work{{Name: "dance", N: 1}}}); err == nil {
		t.Error("a work that is not there was taken")
	}
}
