package apiserver

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"k8s.io/client-go/kubernetes"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// "Authorization for dry-run and non-dry-run requests is identical … no changes are
// persisted": whatever the verb and the subresource, the store stays at its revision.
func TestDryRunsChangeNothing(t *testing.T) {
	w := newWriting(t)
	w.must("create", "v1/namespaces", "", "", `{"metadata":{"name":"shop"}}`)
	w.must("create", "v1/serviceaccounts", "shop", "", `{"metadata":{"name":"default"}}`)
	w.must("create", "v1/pods", "shop", "", podBody)
	w.must("create", "v1/pods", "shop", "", strings.Replace(podBody, `"web"`, `"bound"`, 1))
	w.must("create", "v1/pods", "shop", "bound/binding", `{"metadata":{"name":"bound"},"target":{"kind":"Node","name":"n"}}`)
	w.must("create", "v1/services", "shop", "", `{"metadata":{"name":"s"},"spec":{"type":"NodePort","ports":[{"port":80}]}}`)
	w.must("create", "apps/v1/deployments", "shop", "", `{"metadata":{"name":"d"},"spec":{"replicas":1,"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}`)
	w.must("create", "v1/configmaps", "shop", "", `{"metadata":{"name":"held","finalizers":["example.com/x"]}}`)
	w.must("create", "v1/nodes", "", "", `{"metadata":{"name":"n"}}`)
	before := w.revision()

	type request struct{ verb, resource, namespace, name, body string }
	for _, r := range []request{
		{"create", "v1/configmaps?dryRun", "shop", "", `{"metadata":{"generateName":"c-"}}`},
		{"create", "v1/services?dryRun", "shop", "", `{"metadata":{"name":"dry"},"spec":{"type":"LoadBalancer","externalTrafficPolicy":"Local","ports":[{"port":80}]}}`},
		{"create", "v1/namespaces?dryRun", "", "", `{"metadata":{"name":"dry"}}`},
		{"update", "v1/configmaps?dryRun", "shop", "held", `{"metadata":{"name":"held"},"data":{"a":"b"}}`},
		{"patch:merge", "v1/configmaps?dryRun", "shop", "held", `{"data":{"a":"b"}}`},
		{"patch:json", "v1/configmaps?dryRun", "shop", "held", `[{"op":"add","path":"/data","value":{"a":"b"}}]`},
		{"patch:strategic", "v1/services?dryRun", "shop", "s", `{"spec":{"type":"ClusterIP"}}`},
		{"patch:apply", "v1/configmaps?dryRun&manager=m", "shop", "new", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"new"}}`},
		{"patch:merge", "v1/pods?dryRun", "shop", "web/status", `{"status":{"phase":"Running"}}`},
		{"patch:strategic", "v1/pods?dryRun", "shop", "web/ephemeralcontainers", `{"spec":{"ephemeralContainers":[{"name":"e","image":"i"}]}}`},
		{"create", "v1/pods?dryRun", "shop", "web/binding", `{"metadata":{"name":"web"},"target":{"kind":"Node","name":"n"}}`},
		{"create", "v1/pods?dryRun", "shop", "bound/eviction", `{"metadata":{"name":"bound"}}`},
		{"create", "v1/bindings?dryRun", "shop", "", `{"metadata":{"name":"web"},"target":{"kind":"Node","name":"n"}}`},
		{"update", "apps/v1/deployments?dryRun", "shop", "d/scale", `{"metadata":{"name":"d","namespace":"shop"},"spec":{"replicas":5}}`},
		{"patch:merge", "apps/v1/deployments?dryRun", "shop", "d/scale", `{"spec":{"replicas":5}}`},
		{"patch:merge", "v1/nodes?dryRun", "", "n/status", `{"status":{"phase":"Running"}}`},
		{"update", "v1/namespaces?dryRun", "", "shop/finalize", `{"metadata":{"name":"shop"},"spec":{}}`},
		{"delete", "v1/pods?dryRun", "shop", "web", `{"dryRun":["All"],"gracePeriodSeconds":0}`},
		{"delete", "v1/pods?dryRun", "shop", "bound", `{"dryRun":["All"]}`},
		{"delete", "v1/services?dryRun", "shop", "s", `{"dryRun":["All"]}`},
		{"delete", "v1/configmaps?dryRun", "shop", "held", `{"dryRun":["All"],"propagationPolicy":"Foreground"}`},
		{"patch:merge", "v1/configmaps?dryRun", "shop", "held", `{"metadata":{"finalizers":null}}`},
		{"delete", "v1/namespaces?dryRun", "", "shop", `{"dryRun":["All"]}`},
		{"deletecollection", "v1/pods?dryRun", "shop", "", ""},
		{"deletecollection", "v1/services?dryRun", "shop", "", ""},
	} {
		if _, _, err := w.do(w.request(r.verb, r.resource, r.namespace, r.name, r.body)); err != nil {
			t.Errorf("%s %s %s: %v", r.verb, r.resource, r.name, err)
		}
		if now := w.revision(); now != before {
			t.Errorf("%s %s %s went from revision %d to %d", r.verb, r.resource, r.name, before, now)
			before = now
		}
	}
}

func (w *writing) revision() int64 {
	w.t.Helper()
	revision, err := w.store.Revision(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	return revision
}

// A deletecollection with a limit deletes so many.
func TestDeleteCollectionLimit(t *testing.T) {
	w := newWriting(t)
	for i := range 5 {
		w.must("create", "v1/configmaps", "default", "", fmt.Sprintf(`{"metadata":{"name":"m%d","labels":{"a":"b"}}}`, i))
	}
	r := w.request("deletecollection", "v1/configmaps?label=a=b", "default", "", "")
	r.ListOptions.Limit = 2
	obj, _, err := w.do(r)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(obj.(*corev1.ConfigMapList).Items); n != 2 {
		t.Errorf("%d are said to be deleted", n)
	}
	if err := w.fresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := w.table(w.row("v1/configmaps")).Snapshot().Len(); n < 3 {
		t.Errorf("%d are left of 5, two were to be deleted", n)
	}
}

// What operators look at is there, under the names that they know.
func TestMetricNames(t *testing.T) {
	l := listen(t, nil)
	defer l.stop()
	admin := kubernetes.NewForConfigOrDie(l.config)
	if _, err := admin.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	watch, err := admin.CoreV1().ConfigMaps("default").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	<-watch.ResultChan()
	defer watch.Stop()
	var warned warnings
	config := rest.CopyConfig(l.config)
	config.WarningHandler = &warned
	if _, err := kubernetes.NewForConfigOrDie(config).CoreV1().Endpoints("default").List(t.Context(), metav1.ListOptions{}); err != nil { //nolint:staticcheck // that it is deprecated is the point
		t.Fatal(err)
	}
	if got, want := strings.Join(warned, "; "), "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"; got != want {
		t.Errorf("warned %q, want %q", got, want)
	}
	body, err := admin.CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`apiserver_request_total{code="201",component="apiserver",dry_run="",group="",resource="configmaps",scope="resource",subresource="",verb="POST",version="v1"} 1`,
		`apiserver_longrunning_requests{component="apiserver",group="",resource="configmaps",scope="namespace",subresource="",verb="WATCH",version="v1"} 1`,
		`apiserver_resource_objects{group="",resource="configmaps"}`, `apiserver_storage_objects{resource="configmaps"}`,
		`apiserver_watch_events_total{group="",resource="configmaps",version="v1"}`, "apiserver_request_duration_seconds_bucket", "apiserver_request_sli_duration_seconds_bucket",
		"apiserver_response_sizes_bucket", "apiserver_current_inflight_requests", `apiserver_requested_deprecated_apis{group="",removed_release="",resource="endpoints",subresource="",version="v1"} 1`,
		"apiserver_flowcontrol_dispatched_requests_total", `apiserver_flowcontrol_nominal_limit_seats{priority_level="workload-low"}`, "process_resident_memory_bytes", "go_goroutines",
	} {
		if !strings.Contains(string(body), line) {
			t.Errorf("/metrics has no %s", line)
		}
	}
	resp, err := admin.CoreV1().RESTClient().Get().AbsPath("/debug/api_priority_and_fairness/dump_priority_levels").DoRaw(t.Context())
	if err != nil || !strings.Contains(string(resp), "workload-high, 0, ") {
		t.Errorf("dump of the priority levels: %v\n%s", err, resp)
	}
}

type warnings []string

func (w *warnings) HandleWarningHeader(_ int, _ string, text string) { *w = append(*w, text) }
