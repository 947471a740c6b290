package scheduler_test

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"skiff/skifftest"
)

// A pod with a higher priority takes the room of one with a lower priority: the
// victim is told why in its status and by an event and ends, the pod is nominated
// for the node, and runs there.
func TestAMoreImportantPodGetsTheRoom(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := kubernetes.NewForConfigOrDie(skifftest.New(t, skifftest.Config{Nodes: 1}).RESTConfig())
	ok := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ok(c.SchedulingV1().PriorityClasses().Create(ctx, &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "high"}, Value: 1000}, metav1.CreateOptions{}))
	nodes, err := c.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	ok(nodes, err)
	most := nodes.Items[0].Status.Allocatable.Cpu().MilliValue() * 2 / 3

	pods := c.CoreV1().Pods("default")
	w, err := pods.Watch(ctx, metav1.ListOptions{})
	ok(w, err)
	defer w.Stop()
	create := func(name, class string) {
		t.Helper()
		ok(pods.Create(ctx, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: corev1.PodSpec{
				PriorityClassName: class,
				Containers: []corev1.Container{{Name: "c", Image: "app:1", Resources: corev1.ResourceRequirements{
					Requests: corev1.ResourceList{corev1.ResourceCPU: *resource.NewMilliQuantity(most, resource.DecimalSI)},
				}}},
			},
		}, metav1.CreateOptions{}))
	}
	create("low", "")
	var told, gone, nominated bool
story:
	for event := range w.ResultChan() {
		pod, ok := event.Object.(*corev1.Pod)
		switch {
		case !ok:
			t.Fatalf("the watch says %v", event.Object)
		case pod.Name == "low" && (event.Type == "DELETED" || pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded):
			gone = true // its containers have ended: its room is free
		case pod.Name == "low" && pod.Status.Phase == corev1.PodRunning && pod.DeletionTimestamp == nil && !told:
			create("high", "high")
			told = true
		case pod.Name == "low" && pod.DeletionTimestamp != nil:
			target := false
			for _, c := range pod.Status.Conditions {
				target = target || c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue && c.Reason == corev1.PodReasonPreemptionByScheduler
			}
			if !target {
				t.Errorf("the victim ends with conditions %+v", pod.Status.Conditions)
			}
		case pod.Name == "high" && pod.Status.NominatedNodeName == nodes.Items[0].Name:
			nominated = true
		case pod.Name == "high" && pod.Status.Phase == corev1.PodRunning:
			if !gone || !nominated {
				t.Errorf("it runs; victim gone %v, was nominated %v", gone, nominated)
			}
			if pod.Status.NominatedNodeName != "" {
				t.Errorf("still nominated for %s", pod.Status.NominatedNodeName)
			}
			break story
		}
	}
	if ctx.Err() != nil || !gone {
		t.Fatalf("not preempted: victim gone %v, nominated %v", gone, nominated)
	}
	events, err := c.CoreV1().Events("default").List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=low,reason=Preempted"})
	ok(events, err)
	if len(events.Items) != 1 {
		t.Errorf("events of the victim: %+v", events.Items)
	}
}
