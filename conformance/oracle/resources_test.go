package oracle

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kubernetes/pkg/apis/core/v1/helper/qos"
	quotacore "k8s.io/kubernetes/pkg/quota/v1/evaluator/core"
	"k8s.io/utils/clock"

	"skiff/api/core"
	"skiff/api/quota"
)

// TestResources compares what is computed from the resources of random pods, services and claims: the class of
// service, and what counts against a quota.
func TestResources(t *testing.T) {
	seed, n := environment("ORACLE_SEED", 1), int(environment("ORACLE_N", 60))
	t.Logf("ORACLE_SEED=%d ORACLE_N=%d", seed, n)
	for _, p := range pairs(t) {
		w := newWriter(t, p, seed+11)
		for range 4 * n {
			switch p.name {
			case "pods":
				compareResources(w)
			case "services", "persistentvolumeclaims":
				compareUse(w, w.changed(pick(w.dice, w.pool), w.dice.Intn(3)))
			}
		}
	}
	results.report(t, "resources")
}

// compareResources makes a pod's resources random.
func compareResources(w *writer) {
	text := w.changed(pick(w.dice, w.pool), w.dice.Intn(2))
	pod := w.decode(text).(*corev1.Pod)
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if w.dice.Intn(3) > 0 {
				list[i].Resources = corev1.ResourceRequirements{Requests: w.amounts(), Limits: w.amounts()}
			}
		}
	}
	pod.Spec.Resources = nil
	if w.dice.Intn(3) == 0 {
		pod.Spec.Resources = &corev1.ResourceRequirements{Requests: w.amounts(), Limits: w.amounts()}
	}
	text, ok := w.defaulted(must(w.t, pod))
	if !ok {
		return
	}
	pod = w.decode(text).(*corev1.Pod)
	difference := ""
	if want, have := qos.ComputePodQOS(pod), core.QOSClass(pod); want != have {
		difference = fmt.Sprintf("  upstream %s, skiff %s", want, have)
	}
	results.count("resources", "class of service", difference, func() string { return string(text) })
	compareUse(w, text)
}

func (w *writer) amounts() corev1.ResourceList {
	list := corev1.ResourceList{}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage, "example.com/gpu", "hugepages-2Mi"} {
		if w.dice.Intn(2) == 0 {
			list[name] = pick(w.dice, quantities)
		}
	}
	return list
}

// compareUse compares what an object takes of quotas.
func compareUse(w *writer, text []byte) {
	text, ok := w.defaulted(text)
	if !ok {
		return
	}
	obj := w.decode(text)
	measure := quota.Of(schema.GroupResource{Resource: w.row.Name})
	var want, have corev1.ResourceList
	var err error
	if safely(func() {
		switch o := obj.(type) {
		case *corev1.Pod:
			want, err = quotacore.NewPodEvaluator(nil, clock.RealClock{}).Usage(o)
		case *corev1.Service:
			want, err = quotacore.NewServiceEvaluator(nil).Usage(o)
		case *corev1.PersistentVolumeClaim:
			want, err = quotacore.NewPersistentVolumeClaimEvaluator(nil).Usage(o)
		}
	}) != nil || err != nil {
		return
	}
	difference := ""
	if p := safely(func() { have = measure.Use(obj, time.Now()) }); p != nil {
		difference = fmt.Sprintf("  skiff panics: %v", p)
	} else {
		difference = sameTrees(tree(want), tree(have))
	}
	results.count("resources", "use of quota: "+w.name, difference, func() string { return string(text) })
}

// defaulted is an object as upstream would store it.
func (w *writer) defaulted(text []byte) (out []byte, ok bool) {
	_ = safely(func() {
		out, ok = must(w.t, w.shown(w.must(text))), true
	})
	return out, ok
}
