package apiserver

import (
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/api"
	"skiff/cache"
	"skiff/store"
)

func (s *reading) pods(b *testing.B, n int) []*cache.Entry {
	entries := make([]*cache.Entry, n)
	for i := range n {
		e, err := s.put(s.ctx, api.For[*corev1.Pod](), somePod("default", fmt.Sprintf("web-5d4f8c7b9-%05d", i)), store.Condition{})
		if err != nil {
			b.Fatal(err)
		}
		entries[i] = e
	}
	if err := s.fresh(s.ctx); err != nil {
		b.Fatal(err)
	}
	return entries
}

func BenchmarkList5000Pods(b *testing.B) {
	s := newReading(b, 0)
	defer s.end()
	s.pods(b, 5000)
	for name, out := range map[string]Output{"json": asJSON, "protobuf": asProtobuf} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				result, err := s.list(s.ctx, &Request{Verb: "list", Resource: api.For[*corev1.Pod](), Namespace: "default"})
				if err != nil {
					b.Fatal(err)
				}
				var n counter
				if err := result.List.Encode(&n, out); err != nil {
					b.Fatal(err)
				}
				b.SetBytes(int64(n))
			}
		})
	}
}

type counter int

func (c *counter) Write(b []byte) (int, error) { *c += counter(len(b)); return len(b), nil }

func BenchmarkGetPod(b *testing.B) {
	s := newReading(b, 0)
	defer s.end()
	s.pods(b, 5000)
	b.ReportAllocs()
	for b.Loop() {
		result, err := s.get(s.ctx, &Request{Verb: "get", Resource: api.For[*corev1.Pod](), Namespace: "default", Name: "web-5d4f8c7b9-02500"})
		if err != nil {
			b.Fatal(err)
		}
		if err := encodeEntry(io.Discard, result.Entry, asJSON); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkListPodsOfANode(b *testing.B) {
	s := newReading(b, 0)
	defer s.end()
	s.pods(b, 5000)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.list(s.ctx, &Request{Verb: "list", Resource: api.For[*corev1.Pod](), ListOptions: metav1.ListOptions{FieldSelector: "spec.nodeName=node-8"}}); err != nil {
			b.Fatal(err)
		}
	}
}

// What one object's encoding costs, once per revision and form.
func BenchmarkEncodePod(b *testing.B) {
	s := newReading(b, 0)
	defer s.end()
	e := s.pods(b, 1)[0]
	b.Run("json", func(b *testing.B) {
		b.ReportAllocs()
		for i := int64(0); b.Loop(); i++ {
			fresh := e.At(e.Revision() + i)
			if _, err := fresh.JSON(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("stamp", func(b *testing.B) {
		b.ReportAllocs()
		for i := int64(0); b.Loop(); i++ {
			e.At(e.Revision() + i)
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for i := int64(0); b.Loop(); i++ {
			e.At(e.Revision() + i).Object()
		}
	})
	b.Run("deposit", func(b *testing.B) {
		b.ReportAllocs()
		table := s.table(api.For[*corev1.Pod]())
		for b.Loop() {
			b.StopTimer()
			pod := somePod("default", "x")
			b.StartTimer()
			d, err := table.Deposit(pod)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := d.Commit(5); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// A write of 1 KiB seen by 200 watchers, frames made, socket left out.
func BenchmarkFanOut200(b *testing.B) {
	s := newReading(b, 0)
	defer s.end()
	var read sync.WaitGroup
	var watches []*Watch
	var got sync.WaitGroup
	for range 200 {
		result, err := s.Server.watch(s.ctx, &Request{Verb: "watch", Resource: configMaps, ListOptions: metav1.ListOptions{ResourceVersion: "1"}})
		if err != nil {
			b.Fatal(err)
		}
		watches = append(watches, result.Watch)
		read.Go(func() {
			var buf []byte
			for {
				events, err := result.Watch.Next(s.ctx)
				if err != nil {
					return
				}
				for _, e := range events {
					if buf, err = appendEvent(buf[:0], result.Watch, e, asJSON); err != nil {
						b.Error(err)
					}
					got.Done()
				}
			}
		})
	}
	data := map[string]string{"k": strings.Repeat("x", 1000)}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		got.Add(len(watches))
		cm := labelled("n", fmt.Sprintf("cm-%d", i))
		cm.Data = data
		if _, err := s.put(s.ctx, configMaps, cm, store.Condition{}); err != nil {
			b.Fatal(err)
		}
		if i%100 == 99 {
			got.Wait()
		}
	}
	got.Wait()
	b.StopTimer()
	s.end()
	read.Wait()
	for _, w := range watches {
		w.Close()
	}
}

// Memory per pod: at rest, and with every form present.
func BenchmarkMemoryPerPod(b *testing.B) {
	const n = 5000
	for b.Loop() {
		s := newReading(b, 0)
		start := heap()
		values := make([][]byte, n)
		table := s.table(api.For[*corev1.Pod]())
		for i := range n {
			d, err := table.Deposit(somePod("default", fmt.Sprintf("web-5d4f8c7b9-%05d", i)))
			if err != nil {
				b.Fatal(err)
			}
			values[i] = d.Value
			d.Abort()
		}
		stored := heap() - start
		entries := make([]*cache.Entry, n)
		key := table.Resource().Key("default", "")
		for i := range n {
			entries[i] = table.Read(store.Entry{Key: fmt.Sprintf("%sp%05d", key, i), Value: values[i], Revision: int64(1e6 + i)})
		}
		rest := heap() - start - stored
		for _, e := range entries {
			e.JSON()
		}
		text := heap() - start - stored
		for _, e := range entries {
			e.Object()
		}
		all := heap() - start - stored
		b.ReportMetric(float64(rest)/n, "B/pod-at-rest")
		b.ReportMetric(float64(text)/n, "B/pod-with-json")
		b.ReportMetric(float64(all)/n, "B/pod-with-all")
		runtime.KeepAlive(values)
		runtime.KeepAlive(entries)
		s.end()
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
