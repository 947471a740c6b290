package store

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// benchmarks run on each kind of store; values are of 1 KiB.
func benchmarks(b *testing.B, run func(*testing.B, Store)) {
	b.Run("memory", func(b *testing.B) { run(b, openMemory(b)) })
	b.Run("embedded", func(b *testing.B) { run(b, openEmbeddedTest(b, b.TempDir())) })
	b.Run("external", func(b *testing.B) { run(b, openExternalTest(b)) })
}

var kibibyte = bytes.Repeat([]byte("x"), 1024)

// cpuPerOp reports the time that all of this process ran, per operation.
func cpuPerOp(b *testing.B) func() {
	before := cpuTime()
	return func() { b.ReportMetric(float64((cpuTime()-before).Nanoseconds())/float64(b.N), "cpu-ns/op") }
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkPut(b *testing.B) {
	benchmarks(b, func(b *testing.B, s Store) {
		defer cpuPerOp(b)()
		for i := 0; b.Loop(); i++ {
			_, err := s.Put(b.Context(), fmt.Sprintf("/registry/x/%d", i), kibibyte, Condition{})
			check(b, err)
		}
	})
}

func BenchmarkPutConcurrent(b *testing.B) {
	benchmarks(b, func(b *testing.B, s Store) {
		var n atomic.Int64
		b.SetParallelism(32) // times the processors
		defer cpuPerOp(b)()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := s.Put(b.Context(), fmt.Sprintf("/registry/x/%d", n.Add(1)), kibibyte, Condition{}); err != nil {
					b.Error(err)
				}
			}
		})
	})
}

// BenchmarkUpdate writes with all conditions that a controller's write has.
func BenchmarkUpdateFenced(b *testing.B) {
	benchmarks(b, func(b *testing.B, s Store) {
		epoch := put(b, s, "/registry/leases/leader", "me")
		at := put(b, s, "/registry/x", string(kibibyte))
		for b.Loop() {
			var err error
			at, err = s.Put(b.Context(), "/registry/x", kibibyte, Condition{Revision: at, Fence: Fence{"/registry/leases/leader", epoch}})
			check(b, err)
		}
	})
}

func BenchmarkGet(b *testing.B) {
	benchmarks(b, func(b *testing.B, s Store) {
		put(b, s, "/registry/x", string(kibibyte))
		for b.Loop() {
			_, err := s.Get(b.Context(), "/registry/x")
			check(b, err)
		}
	})
}

func BenchmarkRevision(b *testing.B) {
	benchmarks(b, func(b *testing.B, s Store) {
		for b.Loop() {
			_, err := s.Revision(b.Context())
			check(b, err)
		}
	})
}

// BenchmarkList reads 1,000 entries of 1 KiB.
func BenchmarkList(b *testing.B) {
	benchmarks(b, func(b *testing.B, s Store) {
		for i := range 1000 {
			put(b, s, fmt.Sprintf("/registry/x/%d", i), string(kibibyte))
		}
		for b.Loop() {
			p, err := s.List(b.Context(), "/registry/x/", "", 0, 0)
			check(b, err)
			if len(p.Entries) != 1000 {
				b.Fatal(len(p.Entries))
			}
		}
	})
}

// BenchmarkWatch writes from many goroutines and reads all of it from one watch of
// everything.
func BenchmarkWatch(b *testing.B) {
	benchmarks(b, func(b *testing.B, s Store) {
		w := s.Watch(b.Context(), "/registry/", 0)
		var n atomic.Int64
		b.SetParallelism(32)
		defer cpuPerOp(b)()
		b.ResetTimer()
		done := make(chan struct{})
		go func() {
			defer close(done)
			for left := b.N; left > 0; {
				batch, ok := <-w.C
				if !ok {
					return
				}
				left -= len(batch.Events)
			}
		}()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := s.Put(b.Context(), fmt.Sprintf("/registry/x/%d", n.Add(1)%1000), kibibyte, Condition{Revision: Any}); err != nil {
					b.Error(err)
				}
			}
		})
		<-done
	})
}

// BenchmarkWatchLatency is the time from a put's begin until its event is there.
func BenchmarkWatchLatency(b *testing.B) {
	benchmarks(b, func(b *testing.B, s Store) {
		w := s.Watch(b.Context(), "/registry/", 0)
		for b.Loop() {
			put(b, s, "/registry/x", string(kibibyte))
			<-w.C
		}
	})
}

// BenchmarkOpen starts an embedded store on empty data, and on what 50,000 writes
// and a clean end have left.
func BenchmarkOpen(b *testing.B) {
	open := func(b *testing.B, dir string) {
		s, err := OpenEmbedded(b.Context(), EmbeddedConfig{Dir: dir})
		check(b, err)
		b.StopTimer()
		check(b, s.Close())
		b.StartTimer()
	}
	b.Run("empty", func(b *testing.B) {
		for b.Loop() {
			open(b, b.TempDir())
		}
	})
	b.Run("with 50000 entries", func(b *testing.B) {
		dir := b.TempDir()
		s, err := OpenEmbedded(b.Context(), EmbeddedConfig{Dir: dir})
		check(b, err)
		group := errgroup.Group{}
		group.SetLimit(100)
		for i := range 50000 {
			group.Go(func() error {
				_, err := s.Put(b.Context(), fmt.Sprintf("/registry/x/%d", i), kibibyte, Condition{})
				return err
			})
		}
		check(b, group.Wait())
		check(b, s.Close())
		for b.Loop() {
			open(b, dir)
		}
	})
}

const idleDirEnv = "SKIFF_STORE_IDLE_DIR"

// BenchmarkIdle starts this binary again as a process that has nothing but an
// embedded store and a watch, and reports what it costs to do nothing for ten
// seconds: processor time and memory.
func BenchmarkIdle(b *testing.B) {
	self, err := os.Executable()
	check(b, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), idleDirEnv+"="+b.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	var percent, resident, anonymous float64
	if _, err := fmt.Sscan(string(out), &percent, &resident, &anonymous); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(percent, "%cpu")
	b.ReportMetric(resident, "MiB-resident")
	b.ReportMetric(anonymous, "MiB-anonymous")
}

// idle is the main of BenchmarkIdle's process.
func idle(dir string) int {
	s, err := OpenEmbedded(context.Background(), EmbeddedConfig{Dir: dir})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	w := s.Watch(context.Background(), "/registry/", 0)
	for range 300 {
		if _, err := s.Put(context.Background(), "/registry/x", kibibyte, Condition{Revision: Any}); err != nil {
			fmt.Println(err)
			return 1
		}
		<-w.C
	}
	time.Sleep(2 * time.Second)
	before := cpuTime()
	time.Sleep(10 * time.Second)
	spent := cpuTime() - before
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	kilobytes := map[string]float64{}
	for line := range strings.Lines(string(status)) {
		var name string
		var n float64
		if c, _ := fmt.Sscan(line, &name, &n); c == 2 {
			kilobytes[name] = n
		}
	}
	fmt.Printf("%.2f %.1f %.1f\n", spent.Seconds()*10, kilobytes["VmRSS:"]/1024, kilobytes["RssAnon:"]/1024)
	return 0
}
