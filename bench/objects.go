package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
)

// runLabel marks what has no namespace: nodes, priority classes.
const runLabel = "bench.skiff.dev/run"

// noScheduler begins the spec.schedulerName of pods that are only stored: there
// are schedulers of a hundred such names, and none of them exists.
const noScheduler = "nobody"

func (r *run) path(collection string) string {
	return "/api/v1/namespaces/" + r.namespace + "/" + collection
}

// makeNamespace makes the namespace, and the service account without which it
// takes no pods: where no controllers run nobody else would.
func (r *run) makeNamespace(ctx context.Context) error {
	err := r.target.create(ctx, "/api/v1/namespaces", &corev1.Namespace{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}, ObjectMeta: metav1.ObjectMeta{Name: r.namespace, Labels: map[string]string{runLabel: r.id}},
	})
	if err != nil {
		return fmt.Errorf("make namespace: %w", err)
	}
	account := &corev1.ServiceAccount{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"}, ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	if err := r.target.create(ctx, r.path("serviceaccounts"), account); err != nil && !is(err, http.StatusConflict) {
		return fmt.Errorf("make service account: %w", err)
	}
	return nil
}

// removeAll removes what the run made, as far as it is there.
func (r *run) removeAll(ctx context.Context) error {
	mine := "?labelSelector=" + url.QueryEscape(runLabel+"="+r.id)
	err := errors.Join(
		r.empty(ctx, r.path("pods"), "", 0),
		r.empty(ctx, "/api/v1/nodes", mine, 0),
		r.empty(ctx, "/apis/scheduling.k8s.io/v1/priorityclasses", mine, 0),
	)
	self := "/api/v1/namespaces/" + r.namespace
	_, refused := r.target.do(ctx, request{method: http.MethodDelete, path: self, accept: jsonType})
	for refused == nil {
		// Its controller takes a moment; where no controllers run, nobody ever ends it.
		pause(ctx, 100*time.Millisecond)
		_, refused = r.target.do(ctx, request{method: http.MethodGet, path: self, accept: jsonType})
	}
	if is(refused, http.StatusNotFound) {
		refused = nil
	}
	return errors.Join(err, refused)
}

// empty deletes a collection, with a grace period of so many seconds, and waits
// until nothing is left of it.
func (r *run) empty(ctx context.Context, collection, query string, grace int) error {
	body := fmt.Appendf(nil, `{"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":%d,"propagationPolicy":"Background"}`, grace)
	for ctx.Err() == nil {
		_, err := r.target.do(ctx, request{method: http.MethodDelete, path: collection + query, body: body, contentType: jsonType, accept: jsonType})
		if is(err, http.StatusNotFound) {
			return nil
		}
		// A server may need longer for thousands of objects than it allows itself: then it is asked again.
		if err != nil && !is(err, http.StatusGatewayTimeout) && !is(err, http.StatusTooManyRequests) {
			return err
		}
		left, err := r.items(ctx, collection, query)
		if err != nil || left == 0 {
			return err
		}
		pause(ctx, 200*time.Millisecond)
	}
	return ctx.Err()
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// items counts the objects of a collection.
func (r *run) items(ctx context.Context, collection, query string) (int, error) {
	body, err := r.target.read(ctx, request{method: http.MethodGet, path: collection + query, accept: jsonType})
	if err != nil {
		return 0, err
	}
	var list struct {
		Items []struct{} `json:"items"`
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return 0, fmt.Errorf("list %s: %w", collection, err)
	}
	return len(list.Items), nil
}

// stencil is an object's encoding in which the name, and a number from 0 to 99,
// are put for each object.
type stencil struct {
	body        []byte
	contentType string
}

// As long as what takes their place, since protobuf counts bytes.
const (
	nameHole  = "pod-NAMENAME"
	groupHole = "77"
)

// podName is as long as nameHole.
func podName(i int) string { return fmt.Sprintf("pod-%08d", i) }

// of is the body of the object with number i.
func (s stencil) of(i int) []byte {
	body := bytes.ReplaceAll(s.body, []byte(nameHole), []byte(podName(i)))
	// Only the two places that begin so, since other numbers are 77, too.
	group := fmt.Sprintf("%02d", i%100)
	body = bytes.ReplaceAll(body, []byte(noScheduler+"-"+groupHole), []byte(noScheduler+"-"+group))
	return bytes.ReplaceAll(body, []byte("group-"+groupHole), []byte("group-"+group))
}

func jsonStencil(pod *corev1.Pod) (stencil, error) {
	body, err := json.Marshal(pod)
	return stencil{body, jsonType}, err
}

func protobufStencil(pod *corev1.Pod) (stencil, error) {
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		return stencil{}, err
	}
	var b bytes.Buffer
	err := protobuf.NewSerializer(scheme, scheme).Encode(pod, &b)
	return stencil{b.Bytes(), protobufType}, err
}

// storedPod is one that no scheduler takes, with as much in it as a modest
// Deployment's has: the server's answer is about 2.8 kB of JSON.
func storedPod() *corev1.Pod {
	pod := smallPod()
	pod.Labels = map[string]string{
		"app.kubernetes.io/instance": "web-" + nameHole, "group": "group-" + groupHole, "pod-template-hash": "7d9c5b8f6d",
	}
	pod.Spec.SchedulerName = noScheduler + "-" + groupHole
	c := &pod.Spec.Containers[0]
	c.Env = []corev1.EnvVar{{Name: "LOG_LEVEL", Value: "info"}}
	c.Ports = []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}
	return pod
}

// smallPod is what is scheduled.
func smallPod() *corev1.Pod {
	return &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: nameHole, Labels: map[string]string{"app": "bench"}},
		Spec: corev1.PodSpec{
			Containers: []corev1.Container{{
				Name: "main", Image: "registry.example.com/team/web:v1.2.3",
				Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
					corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("64Mi"),
				}},
			}},
		},
	}
}

// ensure makes pods until there are n that wait for no scheduler.
func (r *run) ensure(ctx context.Context, n int) error {
	missing := n - len(r.pods)
	if missing <= 0 {
		return nil
	}
	s, err := jsonStencil(storedPod())
	if err != nil {
		return err
	}
	first := r.reserve(missing)
	err = together(ctx, r.c.Clients, missing, func(ctx context.Context, i int) error { return r.post(ctx, s, first+i) })
	if err != nil {
		return fmt.Errorf("make the %d pods that are worked on: %w", n, err)
	}
	return nil
}

// reserve names n more pods, and returns the first one's number.
func (r *run) reserve(n int) (first int) {
	first = r.made
	for i := range n {
		r.pods = append(r.pods, podName(first+i))
	}
	r.made += n
	return first
}

// post creates a pod from a stencil. The answer comes in the body's own encoding.
func (r *run) post(ctx context.Context, s stencil, i int) error {
	_, err := r.target.do(ctx, request{method: http.MethodPost, path: r.path("pods"), body: s.of(i), contentType: s.contentType, accept: s.contentType})
	return err
}

// kilobyte is a ConfigMap of about 1 KiB.
func kilobyte(name, more string) []byte {
	return fmt.Appendf(nil, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":%q},"data":{"content":%q,"more":%q}}`,
		name, strings.Repeat("0123456789abcdef", 60), more)
}
