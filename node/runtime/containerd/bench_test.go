package containerd

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// BenchmarkPod starts pods of one container on the host's network, one after another, image present, and leaves them running. It tells,
// beside the time: the resident memory of containerd with nothing to do and with the pods, that of a shim, and the CPU that all of it takes
// while the pods idle.
//
//	go test -run '^$' -bench Pod -benchtime 20x ./node/runtime/containerd
func BenchmarkPod(b *testing.B) {
	r := newRuntime(b)
	stop := run(b, r)
	defer stop()
	client := connect(b, r)
	idle := resident(b, r.PID())
	var times []time.Duration
	for b.Loop() {
		began := time.Now()
		startPod(b, client, fmt.Sprint("pod-", len(times)))
		times = append(times, time.Since(began))
	}
	b.StopTimer()
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(idle, "containerd-idle-MB")
	b.ReportMetric(resident(b, r.PID()), "containerd-MB")

	ours := []int{r.PID()}
	var shims float64
	table, err := readProcesses()
	if err != nil {
		b.Fatal(err)
	}
	for pid := range table {
		if r.isShim(pid) {
			ours = append(ours, pid)
			shims += resident(b, pid)
		}
	}
	b.ReportMetric(shims/float64(len(ours)-1), "shim-MB")

	const watched = 20 * time.Second
	before := processorTicks(b, ours)
	time.Sleep(watched) // what is measured is that nothing happens
	b.ReportMetric(float64(processorTicks(b, ours)-before)/watched.Seconds(), "idle-CPU-%")
}

func resident(b *testing.B, pid int) (mb float64) {
	b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	var kb int
	for line := range strings.Lines(string(status)) {
		fmt.Sscanf(line, "VmRSS: %d kB", &kb)
	}
	return float64(kb) / 1000
}

// processorTicks is the CPU time of processes in hundredths of a second, so that ticks per second are per cent of a core.
func processorTicks(b *testing.B, pids []int) (ticks int) {
	b.Helper()
	for _, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			b.Fatal(err)
		}
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		var user, system int
		fmt.Sscan(fields[11], &user)
		fmt.Sscan(fields[12], &system)
		ticks += user + system
	}
	return ticks
}
