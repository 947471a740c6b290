package cache

import (
	"context"
	"fmt"
	"log/slog"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/api"
	"skiff/store"
)

// BenchmarkApply is one event of the store taken in, with 5,000 pods there: of a
// write of this server, whose decoded object was deposited, and of another's, which
// is decoded here.
func BenchmarkApply(b *testing.B) {
	pods := api.For[*corev1.Pod]()
	pod := func(i int) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("p%04d", i%5000), Labels: map[string]string{"app": "web"}},
			Spec:       corev1.PodSpec{NodeName: fmt.Sprint("n", i%50), Containers: []corev1.Container{{Name: "c", Image: "web:1"}}},
		}
	}
	for _, deposited := range []bool{true, false} {
		b.Run(map[bool]string{true: "own", false: "another's"}[deposited], func(b *testing.B) {
			s := newStore(b)
			defer s.Close()
			c, err := New(Config{Store: s, Resources: api.Catalogue, Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				b.Fatal(err)
			}
			ctx, cancel := context.WithCancel(b.Context())
			ended := make(chan error, 1)
			go func() { ended <- c.Run(ctx) }()
			if err := c.WaitReady(ctx); err != nil {
				b.Fatal(err)
			}
			put := func(i int) (revision int64) {
				if deposited {
					return write(b, ctx, s, c, pods, pod(i), store.Any).Revision()
				}
				d, err := c.Table(pods).Deposit(pod(i))
				if err != nil {
					b.Fatal(err)
				}
				revision, err = s.Put(ctx, d.Key(), d.Value, store.Condition{Revision: store.Any})
				if err != nil {
					b.Fatal(err)
				}
				return revision
			}
			for i := range 5000 {
				put(i)
			}
			b.ReportAllocs()
			revision := int64(0)
			for i := 0; b.Loop(); i++ {
				revision = put(i)
			}
			if err := c.WaitFor(ctx, revision); err != nil {
				b.Fatal(err)
			}
			cancel()
			if err := <-ended; err != nil {
				b.Error(err)
			}
		})
	}
}
