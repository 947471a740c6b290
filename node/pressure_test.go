package node

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	statsv1 "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"skiff/node/pod"
)

type fixedStats struct{ s *statsv1.Summary }

func (f fixedStats) Summary(context.Context) (*statsv1.Summary, error) { return f.s, nil }

func TestEviction(t *testing.T) {
	sum := &statsv1.Summary{}
	view := func(name string, priority int32, asks string, uses uint64) pod.View {
		p := newPod(name, func(p *corev1.Pod) {
			p.UID = types.UID(name)
			p.Spec.Priority = &priority
			if asks != "" {
				p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceMemory: *quantity(asks)}
			}
		})
		uses <<= 20
		memory := &statsv1.MemoryStats{WorkingSetBytes: &uses}
		sum.Pods = append(sum.Pods, statsv1.PodStats{PodRef: statsv1.PodReference{UID: name}, Memory: memory, Containers: []statsv1.ContainerStats{{Name: "main", Memory: memory}}})
		return pod.View{Pod: p, State: pod.Running}
	}
	all := []pod.View{
		view("critical", 2_000_000_000, "", 5000), view("within", 0, "1Gi", 900), view("important", 100, "", 700),
		view("small", 0, "", 10), view("greedy", 0, "100Mi", 600),
	}
	var order, messages []string
	free := int64(50 << 20)
	w := &warden{eviction: Eviction{MemoryAvailable: 100 << 20}, views: func() []pod.View { return all }, stats: fixedStats{sum}, changed: func() {}, warn: func(string) {},
		log:  slog.New(slog.NewTextHandler(io.Discard, nil)),
		free: func(string) (int64, uint64, uint64, error) { return free, 1, 100, nil },
		evict: func(uid types.UID, e pod.Evicted) {
			order = append(order, string(uid))
			messages = append(messages, e.Message)
			for i := range all {
				if all[i].Pod.UID == uid {
					all = append(all[:i:i], all[i+1:]...)
					break
				}
			}
		}}
	for range 6 {
		if err := w.look(t.Context(), time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := strings.Join(order, " "), "greedy small important within"; got != want {
		t.Errorf("evicted %q, want %q", got, want)
	}
	if want := "The node was low on resource: memory. Threshold quantity: 100Mi, available: 51200Ki. Container main was using 614400Ki, request is 100Mi, has larger consumption of memory. "; messages[0] != want {
		t.Errorf("%q, want %q", messages[0], want)
	}
	if p := w.pressure(); !p.Memory || p.Disk {
		t.Errorf("pressure %+v", p)
	}
	order, free = nil, 200<<20
	if err := w.look(t.Context(), time.Now()); err != nil || len(order) > 0 {
		t.Errorf("evicted %v without need, %v", order, err)
	}
	if !w.pressure().Memory {
		t.Error("the pressure is forgotten at once")
	}
}
