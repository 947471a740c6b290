package node

import (
	"context"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff/node/reference"
)

// Objects are followed while a pod names them, each once, and no others.
func TestReferencesAreFollowedWhileNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		f := newFakeAPI()
		changed := 0
		k := reference.New(ctx, reference.Config{Client: f, Changed: func(string) { changed++ }})
		cm := func(v string) *corev1.ConfigMap {
			return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "cm"}, Data: map[string]string{"k": v}}
		}
		names := func(name string, maps ...string) *corev1.Pod {
			return newPod(name, func(p *corev1.Pod) {
				p.SetUID(types.UID(name))
				for _, m := range maps {
					p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: m, VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: m}}}})
				}
			})
		}
		a, b := names("a", "cm"), names("b", "cm", "other")
		k.Hold(a)
		k.Hold(a)
		k.Hold(b)
		synctest.Wait()
		if got := f.following(); got != 2 {
			t.Errorf("%d feeds, want one for each of two config maps", got)
		}
		if _, err := k.ConfigMap(ctx, "default", "cm"); !apierrors.IsNotFound(err) {
			t.Errorf("before it is there: %v", err)
		}
		if _, err := f.Create(ctx, cm("1")); err != nil {
			t.Fatal(err)
		}
		if got, err := k.ConfigMap(ctx, "default", "cm"); err != nil || got.Data["k"] != "1" {
			t.Errorf("at once after its creation: %v, %v", got, err)
		}
		synctest.Wait()
		if _, err := f.Update(ctx, "", cm("2")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got, err := k.ConfigMap(ctx, "default", "cm"); err != nil || got.Data["k"] != "2" || changed != 2 {
			t.Errorf("after a change: %v, %v, told %d times", got, err, changed)
		}
		k.Release(b)
		synctest.Wait()
		if got := f.following(); got != 1 {
			t.Errorf("%d feeds after one pod is gone, want 1", got)
		}
		k.Release(a)
		synctest.Wait()
		if got := f.following(); got != 0 {
			t.Errorf("%d feeds after all pods are gone", got)
		}
		cancel()
		k.Wait()
	})
}

func (f *fakeAPI) following() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.follows)
}
