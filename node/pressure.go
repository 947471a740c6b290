package node

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	statsv1 "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"skiff/node/pod"
	"skiff/node/status"
)

// Eviction says when the node rids itself of pods, so that the rest of it lives.
// Its zero value never does: on a machine that somebody works on, a full disk is
// not the pods' fault.
type Eviction struct {
	// MemoryAvailable is the memory in bytes below which pods are evicted. Kubernetes' usual value is 100 MiB.
	MemoryAvailable int64
	// DiskAvailablePercent of the disk of RootDir below which pods are evicted. Kubernetes' usual value is 10.
	DiskAvailablePercent int
}

// pressureFor is how long a pressure is told of after it was last seen, so that the
// condition does not swing.
const pressureFor = 5 * time.Minute

// warden looks at what is left of memory and disk, and evicts.
type warden struct {
	eviction Eviction
	root     string
	views    func() []pod.View
	stats    interface {
		Summary(context.Context) (*statsv1.Summary, error)
	}
	evict   func(types.UID, pod.Evicted)
	changed func() // the pressure is another one
	warn    func(message string)
	log     *slog.Logger
	// free reads what is left; a test has its own.
	free func(root string) (memory int64, disk, diskSize uint64, err error)

	mu           sync.Mutex
	memory, disk time.Time // when the pressure was last seen
}

func (w *warden) run(ctx context.Context) error {
	t := time.NewTicker(10 * time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			if err := w.look(ctx, time.Now()); err != nil && ctx.Err() == nil {
				w.log.Warn("look at the node's memory and disk", "err", err)
			}
		}
	}
}

// pressure is what the node's status says.
func (w *warden) pressure() status.Pressure {
	w.mu.Lock()
	defer w.mu.Unlock()
	recent := func(t time.Time) bool { return !t.IsZero() && time.Since(t) < pressureFor }
	return status.Pressure{Memory: recent(w.memory), Disk: recent(w.disk)}
}

// look evicts one pod if something is short; the next look sees whether it helped.
func (w *warden) look(ctx context.Context, now time.Time) error {
	memory, disk, size, err := w.free(w.root)
	if err != nil {
		return err
	}
	before := w.pressure()
	var short corev1.ResourceName
	var left, least int64
	w.mu.Lock()
	if e := w.eviction.DiskAvailablePercent; e > 0 && size > 0 && disk*100/size < uint64(e) {
		w.disk, short, left, least = now, corev1.ResourceEphemeralStorage, int64(disk), int64(size)*int64(e)/100
	}
	if e := w.eviction.MemoryAvailable; e > 0 && memory < e {
		w.memory, short, left, least = now, corev1.ResourceMemory, memory, e
	}
	w.mu.Unlock()
	if w.pressure() != before {
		w.changed()
	}
	if short == "" {
		return nil
	}
	w.warn("Attempting to reclaim " + string(short))
	sum, err := w.stats.Summary(ctx)
	if err != nil {
		return err
	}
	victim, ok := choose(w.views(), sum, short)
	if !ok {
		return nil
	}
	w.evict(victim.Pod.UID, pod.Evicted{
		Reason: "Evicted", Grace: time.Second,
		Message:   evictionMessage(victim.Pod, sum, short, left, least),
		Condition: &corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonTerminationByKubelet, Message: evictionMessage(victim.Pod, sum, short, left, least)},
	})
	return nil
}

// used is what a pod uses of the resource that is short.
func used(p *corev1.Pod, sum *statsv1.Summary, name corev1.ResourceName) int64 {
	total := int64(0)
	for i := range sum.Pods {
		s := &sum.Pods[i]
		if s.PodRef.UID != string(p.UID) {
			continue
		}
		if name == corev1.ResourceMemory && s.Memory != nil && s.Memory.WorkingSetBytes != nil {
			total += int64(*s.Memory.WorkingSetBytes)
		}
		for _, c := range s.Containers {
			if name == corev1.ResourceEphemeralStorage && c.Rootfs != nil && c.Rootfs.UsedBytes != nil {
				total += int64(*c.Rootfs.UsedBytes)
			}
		}
	}
	return total
}

// choose picks the pod to evict: one that uses more than it asked for before one
// that does not, then the lower priority, then the larger excess. Pods that the
// node cannot do without stay.
func choose(views []pod.View, sum *statsv1.Summary, name corev1.ResourceName) (pod.View, bool) {
	views = slices.DeleteFunc(slices.Clone(views), func(v pod.View) bool {
		critical := v.Pod.Spec.Priority != nil && *v.Pod.Spec.Priority >= 2_000_000_000
		return critical || v.State != pod.Running || v.Pod.DeletionTimestamp != nil
	})
	excess := func(v pod.View) int64 {
		asked := pod.Total(v.Pod).Requests[name]
		return used(v.Pod, sum, name) - asked.Value()
	}
	priority := func(v pod.View) int32 {
		if v.Pod.Spec.Priority == nil {
			return 0
		}
		return *v.Pod.Spec.Priority
	}
	slices.SortStableFunc(views, func(a, b pod.View) int {
		ea, eb := excess(a), excess(b)
		if (ea > 0) != (eb > 0) {
			if ea > 0 {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(priority(a), priority(b)), cmp.Compare(eb, ea))
	})
	if len(views) == 0 {
		return pod.View{}, false
	}
	return views[0], true
}

func evictionMessage(p *corev1.Pod, sum *statsv1.Summary, name corev1.ResourceName, left, least int64) string {
	bytes := func(n int64) string { return resource.NewQuantity(n, resource.BinarySI).String() }
	msg := fmt.Sprintf("The node was low on resource: %s. Threshold quantity: %s, available: %s. ", name, bytes(least), fmt.Sprintf("%dKi", left/1024))
	for i := range sum.Pods {
		if sum.Pods[i].PodRef.UID != string(p.UID) {
			continue
		}
		for _, c := range sum.Pods[i].Containers {
			var use int64
			if name == corev1.ResourceMemory && c.Memory != nil && c.Memory.WorkingSetBytes != nil {
				use = int64(*c.Memory.WorkingSetBytes)
			}
			if name == corev1.ResourceEphemeralStorage && c.Rootfs != nil && c.Rootfs.UsedBytes != nil {
				use = int64(*c.Rootfs.UsedBytes)
			}
			var asked resource.Quantity
			for _, spec := range p.Spec.Containers {
				if spec.Name == c.Name {
					asked = spec.Resources.Requests[name]
				}
			}
			if use > asked.Value() {
				msg += fmt.Sprintf("Container %s was using %dKi, request is %s, has larger consumption of %s. ", c.Name, use/1024, asked.String(), name)
			}
		}
	}
	return msg
}

// machineFree is what is left of the machine's memory and of the disk of root.
func machineFree(root string) (memory int64, disk, size uint64, err error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, 0, 0, err
	}
	defer f.Close()
	memory = -1
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if v, ok := strings.CutPrefix(sc.Text(), "MemAvailable:"); ok {
			kb, err := strconv.ParseInt(strings.Fields(v)[0], 10, 64)
			if err != nil {
				return 0, 0, 0, fmt.Errorf("read /proc/meminfo: %w", err)
			}
			memory = kb * 1024
		}
	}
	if memory < 0 {
		return 0, 0, 0, fmt.Errorf("read /proc/meminfo: it has no MemAvailable")
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(root, &fs); err != nil {
		return 0, 0, 0, fmt.Errorf("read the disk of %s: %w", root, err)
	}
	return memory, fs.Bavail * uint64(fs.Bsize), fs.Blocks * uint64(fs.Bsize), nil
}
