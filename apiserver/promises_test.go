package apiserver

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/api"
	"skiff/store"
)

// servers are two servers on one store.
func servers(t *testing.T) (a, b *reading) {
	t.Helper()
	a = newReading(t, 0)
	s, err := New(Config{Store: a.store, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.cache.Run(ctx) }()
	if err := s.cache.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	return a, &reading{s, ctx, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		a.end()
	}}
}

// "A read with resourceVersion unset is linearizable": it shows every write that
// was acknowledged before it began, also by another server.
func TestReadsShowAcknowledgedWrites(t *testing.T) {
	a, b := servers(t)
	defer b.end()
	for i := range 300 {
		cm := labelled("n", "a")
		cm.Data = map[string]string{"i": strconv.Itoa(i)}
		e := a.write(t, cm, store.Any)
		for _, s := range []*reading{a, b} {
			result, err := s.get(s.ctx, &Request{Verb: "get", Resource: configMaps, Namespace: "n", Name: "a"})
			if err != nil || result.Entry.Revision() != e.Revision() {
				t.Fatalf("after the write at %d a read shows %v, %v", e.Revision(), result, err)
			}
			l, err := s.listOf("n", metav1.ListOptions{})
			if err != nil || l.Revision < e.Revision() || l.Entries[0].Revision() != e.Revision() {
				t.Fatalf("after the write at %d a list at %d shows %v, %v", e.Revision(), l.Revision, names(l), err)
			}
			l, err = s.listOf("n", metav1.ListOptions{ResourceVersion: rv(e.Revision())})
			if err != nil || l.Revision < e.Revision() {
				t.Fatalf("a list not older than %d is of %d, %v", e.Revision(), l.Revision, err)
			}
		}
	}
}

// "With 0 it never shows older state than this server has already shown": not
// even to somebody else, and not after a watch event.
func TestReadsDoNotGoBack(t *testing.T) {
	a, b := servers(t)
	defer b.end()
	const writes = 500
	var running sync.WaitGroup
	running.Go(func() {
		for i := range writes {
			cm := labelled("n", "a")
			cm.Data = map[string]string{"i": strconv.Itoa(i)}
			if _, err := a.put(a.ctx, configMaps, cm, store.Condition{Revision: store.Any}); err != nil {
				t.Error(err)
			}
		}
		cm := labelled("n", "z")
		if _, err := a.put(a.ctx, configMaps, cm, store.Condition{}); err != nil {
			t.Error(err)
		}
	})
	for range 4 {
		w := b.watchOf(t, "", metav1.ListOptions{ResourceVersion: "1"})
		running.Go(func() {
			defer w.Close()
			for {
				events, err := w.Next(b.ctx)
				if err != nil {
					t.Error(err)
					return
				}
				for _, e := range events {
					result, err := b.get(b.ctx, &Request{Verb: "get", Resource: configMaps, Namespace: "n", Name: e.Entry.Name(),
						ListOptions: metav1.ListOptions{ResourceVersion: "0"}})
					if err != nil || result.Entry.Revision() < e.Entry.Revision() {
						t.Errorf("after the event at %d a read shows %v, %v", e.Entry.Revision(), result, err)
						return
					}
					l, err := b.listOf("", metav1.ListOptions{ResourceVersion: "0"})
					if err != nil || l.Revision < e.Entry.Revision() {
						t.Errorf("after the event at %d a list is of %d, %v", e.Entry.Revision(), l.Revision, err)
						return
					}
					if e.Entry.Name() == "z" {
						return
					}
				}
			}
		})
	}
	running.Wait()
}

// Two servers give one object the same bytes, whichever of them wrote it.
func TestServersShowTheSame(t *testing.T) {
	a, b := servers(t)
	defer b.end()
	pods := api.For[*corev1.Pod]()
	for i := range 20 {
		pod := somePod("n", fmt.Sprint(i))
		pods.Kind.Default(pod) // as every write does
		e, err := a.put(a.ctx, pods, pod, store.Condition{})
		if err != nil {
			t.Fatal(err)
		}
		result, err := b.get(b.ctx, &Request{Verb: "get", Resource: pods, Namespace: "n", Name: fmt.Sprint(i)})
		if err != nil {
			t.Fatal(err)
		}
		ours, err := e.JSON()
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := result.Entry.JSON()
		if err != nil {
			t.Fatal(err)
		}
		if string(ours) != string(theirs) || string(e.Protobuf()) != string(result.Entry.Protobuf()) {
			t.Fatalf("the writer shows\n%s\nthe other server\n%s", ours, theirs)
		}
	}
}
