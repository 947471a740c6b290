package parts

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"

	"skiff/conformance/upstream"
)

var bin = filepath.Join("..", "..", "bin", "upstream")

// programs skips the test if one of upstream's is missing, and returns the folder with all.
func programs(t *testing.T, names ...string) string {
	t.Helper()
	if err := upstream.Check(bin, names...); err != nil {
		t.Skip(err)
	}
	path, err := filepath.Abs(bin)
	ok(t, err)
	return path
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// stop ends a program with the test, and shows the end of its log if the test failed.
func stop(t *testing.T, p *upstream.Process) {
	t.Cleanup(func() {
		p.Stop()
		if t.Failed() {
			t.Log(p.Tail(30))
		}
	})
}

// cluster is a cluster as its administrator sees it.
type cluster struct {
	*kubernetes.Clientset
	t   *testing.T
	ctx context.Context
}

// patience is far more than any step takes: a step that does not come fails instead of hanging.
const patience = time.Minute

func open(t *testing.T, admin *rest.Config) *cluster {
	t.Helper()
	clientset, err := kubernetes.NewForConfig(admin)
	ok(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	t.Cleanup(cancel)
	return &cluster{clientset, t, ctx}
}

// until watches a resource of a namespace (that of the whole cluster: "") until is says of an object that it is as wanted.
func until[T runtime.Object](k *cluster, c rest.Interface, namespace, of, what string, is func(T) bool) {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(k.ctx, patience)
	defer cancel()
	var none T
	var last T
	source := cache.NewListWatchFromClient(c, of, namespace, fields.Everything())
	_, err := watchtools.UntilWithSync(ctx, source, none, nil, func(e watch.Event) (bool, error) {
		obj, typed := e.Object.(T)
		if !typed {
			return false, fmt.Errorf("watch %s: %T", of, e.Object)
		}
		last = obj
		return e.Type != watch.Deleted && is(obj), nil
	})
	if err != nil {
		seen, _ := json.Marshal(last) // an object that was decoded can be encoded
		k.t.Fatalf("%s: %v; last seen: %s", what, err, seen)
	}
}

// tellsAStory rolls an application out, changes it, and deletes it: what scheduler, controllers and a node have to do together. No
// two stories of a cluster have the same name.
func (k *cluster) tellsAStory(name string) {
	k.t.Helper()
	began := time.Now()
	deployments := k.AppsV1().Deployments("default")
	d, err := deployments.Create(k.ctx, application(name, 3, "v1"), metav1.CreateOptions{})
	ok(k.t, err)
	k.rolledOut(d)
	k.t.Logf("three pods are available after %.1f s", time.Since(began).Seconds())

	d, err = deployments.Get(k.ctx, name, metav1.GetOptions{})
	ok(k.t, err)
	d.Spec = application(name, 4, "v2").Spec
	d, err = deployments.Update(k.ctx, d, metav1.UpdateOptions{})
	ok(k.t, err)
	k.rolledOut(d)
	pods, err := k.CoreV1().Pods("default").List(k.ctx, metav1.ListOptions{LabelSelector: "app=" + name})
	ok(k.t, err)
	for _, p := range pods.Items {
		if p.DeletionTimestamp == nil && (p.Spec.NodeName == "" || p.Spec.Containers[0].Image != "example/web:v2") {
			k.t.Errorf("pod %s of the new version: %s on node %q", p.Name, p.Spec.Containers[0].Image, p.Spec.NodeName)
		}
	}
	k.t.Logf("four pods of the next version after %.1f s", time.Since(began).Seconds())

	ok(k.t, deployments.Delete(k.ctx, name, metav1.DeleteOptions{}))
	k.gone(pods)
	k.t.Logf("deleted, and its pods with it, after %.1f s", time.Since(began).Seconds())
}

// gone waits until all pods of a list are.
func (k *cluster) gone(pods *corev1.PodList) {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(k.ctx, patience)
	defer cancel()
	left := map[string]bool{}
	for _, p := range pods.Items {
		left[p.Name] = true
	}
	source := cache.NewListWatchFromClient(k.CoreV1().RESTClient(), "pods", "default", fields.Everything())
	_, err := watchtools.Until(ctx, pods.ResourceVersion, source, func(e watch.Event) (bool, error) {
		if p, isPod := e.Object.(*corev1.Pod); isPod && e.Type == watch.Deleted {
			delete(left, p.Name)
		}
		return len(left) == 0, nil
	})
	if err != nil {
		k.t.Fatalf("the pods of a deleted deployment go: %v; left: %v", err, left)
	}
}

// namespaceComesAndGoes makes a namespace, in which a quota is counted and a service gets its slice, and deletes it with all that
// is in it: the controllers' work beside applications.
func (k *cluster) namespaceComesAndGoes(name string) {
	k.t.Helper()
	began := time.Now()
	made, err := k.CoreV1().Namespaces().Create(k.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	ok(k.t, err)
	k.account(name)
	most := corev1.ResourceList{"services": resource.MustParse("3")}
	_, err = k.CoreV1().ResourceQuotas(name).Create(k.ctx, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "few"}, Spec: corev1.ResourceQuotaSpec{Hard: most}}, metav1.CreateOptions{})
	ok(k.t, err)
	counted := func(n int64) {
		k.t.Helper()
		until(k, k.CoreV1().RESTClient(), name, "resourcequotas", fmt.Sprintf("a quota counts %d services", n), func(q *corev1.ResourceQuota) bool {
			used, known := q.Status.Used["services"]
			return known && used.Value() == n
		})
	}
	counted(0)
	web := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80}}}}
	_, err = k.CoreV1().Services(name).Create(k.ctx, web, metav1.CreateOptions{})
	ok(k.t, err)
	counted(1)
	until(k, k.DiscoveryV1().RESTClient(), name, "endpointslices", "a service's slice", func(s *discoveryv1.EndpointSlice) bool {
		return s.Labels[discoveryv1.LabelServiceName] == "web"
	})

	ok(k.t, k.CoreV1().Namespaces().Delete(k.ctx, name, metav1.DeleteOptions{}))
	ctx, cancel := context.WithTimeout(k.ctx, patience)
	defer cancel()
	source := cache.NewListWatchFromClient(k.CoreV1().RESTClient(), "namespaces", "", fields.OneTermEqualSelector("metadata.name", name))
	_, err = watchtools.Until(ctx, made.ResourceVersion, source, func(e watch.Event) (bool, error) { return e.Type == watch.Deleted, nil })
	if err != nil {
		k.t.Fatalf("a deleted namespace goes: %v", err)
	}
	k.t.Logf("a namespace was made and removed in %.1f s", time.Since(began).Seconds())
}

// rolledOut waits until all of a deployment's pods are of its version and available.
func (k *cluster) rolledOut(want *appsv1.Deployment) {
	k.t.Helper()
	n := *want.Spec.Replicas
	until(k, k.AppsV1().RESTClient(), "default", "deployments", "roll out", func(d *appsv1.Deployment) bool {
		s := d.Status
		return d.Name == want.Name && s.ObservedGeneration >= want.Generation && s.Replicas == n && s.UpdatedReplicas == n && s.AvailableReplicas == n
	})
}

func application(name string, replicas int32, version string) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "example/web:" + version}}},
			},
		},
	}
}

// leads tells who holds the lease of a component.
func (k *cluster) leads(component string) string {
	k.t.Helper()
	lease, err := k.CoordinationV1().Leases("kube-system").Get(k.ctx, component, metav1.GetOptions{})
	ok(k.t, err)
	if lease.Spec.HolderIdentity == nil {
		return ""
	}
	return *lease.Spec.HolderIdentity
}

// account waits until pods can be created in a namespace: there is a service account for them.
func (k *cluster) account(namespace string) {
	k.t.Helper()
	until(k, k.CoreV1().RESTClient(), namespace, "serviceaccounts", "the namespace's service account", func(a *corev1.ServiceAccount) bool {
		return a.Name == "default"
	})
}
