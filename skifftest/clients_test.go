package skifftest_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"skiff/skifftest"
)

// client-go's informers keep a mirror: whatever is written, and although the
// history that they would resume from is forgotten again and again, the mirror
// comes to hold what the server has, and each object's last event is its last state.
func TestInformersMirrorTheServer(t *testing.T) {
	inBubble(t, skifftest.Config{Nodes: 1}, func(b *bubble) {
		factory := informers.NewSharedInformerFactoryWithOptions(b.Clientset, 10*time.Minute, informers.WithNamespace("default"))
		maps := factory.Core().V1().ConfigMaps()
		var events atomic.Int64
		last := map[string]string{} // name to data; the informer calls one handler at a time
		_, err := maps.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(o any) { events.Add(1); last[o.(*corev1.ConfigMap).Name] = o.(*corev1.ConfigMap).Data["n"] },
			UpdateFunc: func(_, o any) { events.Add(1); last[o.(*corev1.ConfigMap).Name] = o.(*corev1.ConfigMap).Data["n"] },
			DeleteFunc: func(o any) {
				events.Add(1)
				if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
					o = gone.Obj
				}
				delete(last, o.(*corev1.ConfigMap).Name)
			},
		})
		b.ok(nil, err)
		ctx, stop := context.WithCancel(b.ctx)
		factory.Start(ctx.Done())
		defer factory.Shutdown()
		defer stop()
		factory.WaitForCacheSync(ctx.Done())

		client := b.CoreV1().ConfigMaps("default")
		want := map[string]string{"kube-root-ca.crt": ""}
		for i := range 300 {
			name, n := fmt.Sprint("m", i%23), fmt.Sprint(i)
			cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"odd": fmt.Sprint(i % 2)}}, Data: map[string]string{"n": n}}
			switch _, there := want[name]; {
			case there && i%5 == 0:
				b.ok(nil, client.Delete(b.ctx, name, metav1.DeleteOptions{}))
				delete(want, name)
			case there:
				b.ok(client.Update(b.ctx, cm, metav1.UpdateOptions{}))
				want[name] = n
			default:
				b.ok(client.Create(b.ctx, cm, metav1.CreateOptions{}))
				want[name] = n
			}
			if i%60 == 59 {
				b.Compact()
			}
			if i%100 == 99 {
				time.Sleep(11 * time.Minute) // watches end and are begun again, and a resync passes
			}
		}
		synctest.Wait()
		stop()
		factory.Shutdown()
		for name, n := range want {
			if last[name] != n {
				t.Errorf("%s: the last event said %q, it is %q", name, last[name], n)
			}
		}
		mirrored, err := maps.Lister().List(labels.Everything())
		b.ok(mirrored, err)
		if len(mirrored) != len(want) || len(last) != len(want) {
			t.Errorf("%d objects; the mirror has %d, the events left %d", len(want), len(mirrored), len(last))
		}
		t.Logf("%d events", events.Load())
	})
}

// Of client-go's candidates one leads at a time; when it stops without a word, the
// other takes over after the lease's duration, and never before.
func TestLeaderElectionOfClientGo(t *testing.T) {
	inBubble(t, skifftest.Config{Nodes: 1}, func(b *bubble) {
		const duration = 15 * time.Second
		var leading atomic.Int32
		candidate := func(ctx context.Context, name string, led chan<- string) {
			lock, err := resourcelock.New(resourcelock.LeasesResourceLock, "default", "operator", b.CoreV1(), b.CoordinationV1(), resourcelock.ResourceLockConfig{Identity: name})
			if err != nil {
				t.Error(err)
				return
			}
			leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{
				Lock: lock, LeaseDuration: duration, RenewDeadline: 10 * time.Second, RetryPeriod: 2 * time.Second,
				Callbacks: leaderelection.LeaderCallbacks{
					OnStartedLeading: func(ctx context.Context) {
						if n := leading.Add(1); n != 1 {
							t.Errorf("%d lead at once", n)
						}
						led <- name
						<-ctx.Done()
						leading.Add(-1)
					},
					OnStoppedLeading: func() {},
				},
			})
		}
		led := make(chan string, 10)
		first, endFirst := context.WithCancel(b.ctx)
		second, endSecond := context.WithCancel(b.ctx)
		defer endSecond()
		go candidate(first, "a", led)
		if who := <-led; who != "a" {
			t.Fatalf("%s leads", who)
		}
		go candidate(second, "b", led)
		time.Sleep(time.Hour)
		select {
		case who := <-led:
			t.Fatalf("%s leads, although a does", who)
		default:
		}
		lease, err := b.CoordinationV1().Leases("default").Get(b.ctx, "operator", metav1.GetOptions{})
		b.ok(lease, err)
		if *lease.Spec.HolderIdentity != "a" || *lease.Spec.LeaseTransitions != 0 {
			t.Errorf("lease %+v", lease.Spec)
		}
		renewed := lease.Spec.RenewTime.Time
		endFirst()
		if who := <-led; who != "b" {
			t.Fatalf("%s leads", who)
		}
		if waited := time.Since(renewed); waited < duration || waited > duration+10*time.Second {
			t.Errorf("b leads %s after a's last renewal that was looked at", waited)
		}
		endSecond()
		synctest.Wait()
	})
}

// Two writers that read, change and write back lose none of their changes: the
// slower one is told of the conflict.
func TestConflictsAreTold(t *testing.T) {
	inBubble(t, skifftest.Config{Nodes: 1}, func(b *bubble) {
		client := b.CoreV1().ConfigMaps("default")
		b.ok(client.Create(b.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "count"}, Data: map[string]string{}}, metav1.CreateOptions{}))
		var conflicts atomic.Int64
		done := make(chan error)
		const writers, each = 4, 25
		for w := range writers {
			go func() {
				for i := 0; i < each; {
					cm, err := client.Get(b.ctx, "count", metav1.GetOptions{})
					if err != nil {
						done <- err
						return
					}
					if cm.Annotations == nil {
						cm.Annotations = map[string]string{}
					}
					cm.Annotations[fmt.Sprintf("w%d-%d", w, i)] = ""
					_, err = client.Update(b.ctx, cm, metav1.UpdateOptions{})
					switch {
					case apierrors.IsConflict(err):
						conflicts.Add(1)
					case err != nil:
						done <- err
						return
					default:
						i++
					}
				}
				done <- nil
			}()
		}
		for range writers {
			b.ok(nil, <-done)
		}
		cm, err := client.Get(b.ctx, "count", metav1.GetOptions{})
		b.ok(cm, err)
		if len(cm.Annotations) != writers*each {
			t.Errorf("%d of %d changes are there, after %d conflicts", len(cm.Annotations), writers*each, conflicts.Load())
		}
	})
}
