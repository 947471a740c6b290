package controllers_test

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"skiff/api"
	"skiff/skifftest"
)

// story is a cluster that users do things to, by client-go.
type story struct {
	*kubernetes.Clientset
	t       *testing.T
	ctx     context.Context
	dynamic *dynamic.DynamicClient
}

func tell(t *testing.T, c skifftest.Config) *story {
	t.Helper()
	return tellOver(t, skifftest.New(t, c).RESTConfig())
}

func tellOver(t *testing.T, config *rest.Config) *story {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return &story{kubernetes.NewForConfigOrDie(config), t, ctx, dynamic.NewForConfigOrDie(config)}
}

func (s *story) ok(_ any, err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// until waits for an object to come to a state; it is given nil when there is none.
func until[T api.Object](s *story, namespace, name, what string, is func(T) bool) T {
	s.t.Helper()
	var last T
	resource := s.dynamic.Resource(api.For[T]().GVR()).Namespace(namespace)
	only := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", name).String()}
	list, err := resource.List(s.ctx, only)
	s.ok(nil, err)
	see := func(u *unstructured.Unstructured) bool {
		last = api.For[T]().Kind.New().(T)
		s.ok(nil, runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, last))
		return is(last)
	}
	if len(list.Items) == 0 && is(last) || len(list.Items) == 1 && see(&list.Items[0]) {
		return last
	}
	only.ResourceVersion = list.GetResourceVersion()
	w, err := resource.Watch(s.ctx, only)
	s.ok(nil, err)
	defer w.Stop()
	for event := range w.ResultChan() {
		u, ok := event.Object.(*unstructured.Unstructured)
		if !ok {
			s.t.Fatalf("%s: watch of %s: %v", what, name, event.Object)
		}
		if event.Type == watch.Deleted {
			var none T
			if last = none; is(none) {
				return none
			}
			continue
		}
		if see(u) {
			return last
		}
	}
	s.t.Fatalf("%s: %s/%s does not come to that: %+v", what, namespace, name, last)
	return last
}

// gone waits until there is no such object.
func gone[T api.Object](s *story, namespace, name string) {
	s.t.Helper()
	until(s, namespace, name, "gone", func(obj T) bool { return any(obj) == any(*new(T)) })
}

func podOf(name string, labels map[string]string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "web:1"}}}}
}

func running(p *corev1.Pod) bool { return p != nil && p.Status.Phase == corev1.PodRunning }
