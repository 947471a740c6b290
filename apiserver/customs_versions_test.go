package apiserver

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/metadata"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/yaml"
)

// hosts has two versions, one with a field that the other has in two.
const hosts = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: hosts.example.org}
spec:
  group: example.org
  scope: Cluster
  names: {plural: hosts, kind: Host}
  versions:
  - name: v1
    served: true
    storage: true
    deprecated: true
    schema: {openAPIV3Schema: {type: object, properties: {hostPort: {type: string}}}}
  - name: v2
    served: true
    storage: false
    schema: {openAPIV3Schema: {type: object, properties: {host: {type: string}, port: {type: string}, extra: {type: string, default: here}}}}
`

// hook is a conversion webhook for hosts.
type hook struct {
	*httptest.Server
	calls, objects atomic.Int64
	broken         atomic.Bool
}

func newHook(t *testing.T) *hook {
	c := &hook{}
	c.Server = httptest.NewTLSServer(http.HandlerFunc(c.serve))
	t.Cleanup(c.Close)
	return c
}

func (c *hook) serve(rw http.ResponseWriter, req *http.Request) {
	var review apiextensionsv1.ConversionReview
	if err := json.NewDecoder(req.Body).Decode(&review); err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	c.calls.Add(1)
	review.Response = &apiextensionsv1.ConversionResponse{UID: review.Request.UID, Result: metav1.Status{Status: metav1.StatusSuccess}}
	if c.broken.Load() {
		review.Response.Result = metav1.Status{Status: metav1.StatusFailure, Message: "not today"}
	}
	for _, raw := range review.Request.Objects {
		c.objects.Add(1)
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON(raw.Raw); err != nil {
			http.Error(rw, err.Error(), http.StatusBadRequest)
			return
		}
		u.SetAPIVersion(review.Request.DesiredAPIVersion)
		if joined, ok := u.Object["hostPort"].(string); ok {
			host, port, _ := strings.Cut(joined, ":")
			delete(u.Object, "hostPort")
			u.Object["host"], u.Object["port"] = host, port
		} else {
			u.Object["hostPort"] = fmt.Sprintf("%v:%v", u.Object["host"], u.Object["port"])
			delete(u.Object, "host")
			delete(u.Object, "port")
		}
		body, err := u.MarshalJSON()
		if err != nil {
			http.Error(rw, err.Error(), http.StatusInternalServerError)
			return
		}
		review.Response.ConvertedObjects = append(review.Response.ConvertedObjects, kruntime.RawExtension{Raw: body})
	}
	review.Request = nil
	rw.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(rw).Encode(review)
}

func TestCustomVersions(t *testing.T) {
	w := newWriting(t)
	hook := newHook(t)
	w.define(hosts)
	w.redefine("hosts.example.org", func(d *apiextensionsv1.CustomResourceDefinition) {
		d.Spec.Conversion = &apiextensionsv1.CustomResourceConversion{Strategy: apiextensionsv1.WebhookConverter, Webhook: &apiextensionsv1.WebhookConversion{
			ConversionReviewVersions: []string{"v1"}, ClientConfig: &apiextensionsv1.WebhookClientConfig{URL: &hook.URL,
				CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: hook.Certificate().Raw})}}}
	})
	made := must[*unstructured.Unstructured](w, "create", "example.org/v2/hosts", "", "", `{"apiVersion":"example.org/v2","kind":"Host","metadata":{"name":"a"},"host":"a","port":"1"}`)
	if made.GetAPIVersion() != "example.org/v2" || made.Object["host"] != "a" {
		t.Errorf("created %s", text(t, made))
	}
	stored, err := w.memory.Get(t.Context(), "/registry/example.org/hosts/a")
	if err != nil || !strings.Contains(string(stored.Value), `"hostPort":"a:1"`) || strings.Contains(string(stored.Value), `"extra":"here"`) {
		t.Errorf("stored %s, %v", stored.Value, err)
	}
	if old := must[*unstructured.Unstructured](w, "get", "example.org/v1/hosts", "", "a", ""); old.Object["hostPort"] != "a:1" {
		t.Errorf("in v1: %s", text(t, old))
	}
	for i := range 20 {
		w.must("create", "example.org/v1/hosts", "", "", fmt.Sprintf(`{"apiVersion":"example.org/v1","kind":"Host","metadata":{"name":"h%d"},"hostPort":"h:%d"}`, i, i))
	}
	before := hook.calls.Load()
	result, err := w.serve(t.Context(), w.request("list", "example.org/v2/hosts", "", "", ""))
	if err != nil || len(result.List.Entries) != 21 || hook.calls.Load()-before != 1 {
		t.Fatalf("the list took %d calls: %v", hook.calls.Load()-before, err)
	}
	if obj := result.List.Entries[1].Object().(*unstructured.Unstructured); obj.Object["host"] != "h" {
		t.Errorf("listed %s", text(t, obj))
	}
	patched := must[*unstructured.Unstructured](w, "patch:merge", "example.org/v2/hosts", "", "h3", `{"port":"33"}`)
	if patched.Object["port"] != "33" {
		t.Errorf("patched %s", text(t, patched))
	}

	hook.broken.Store(true)
	w.must("create", "example.org/v1/hosts", "", "", `{"apiVersion":"example.org/v1","kind":"Host","metadata":{"name":"z"},"hostPort":"z:1"}`)
	status := w.refused("get", "example.org/v2/hosts", "", "z", "")
	if status.Code != 500 || status.Message != "conversion webhook for example.org/v1, Kind=Host failed: not today" {
		t.Errorf("%d %s", status.Code, status.Message)
	}
	hook.broken.Store(false)
	w.must("get", "example.org/v2/hosts", "", "z", "")
}

// Objects may be stored in any version that ever was the storage's, and a
// deprecated one says so.
func TestStorageVersionMoves(t *testing.T) {
	w := newWriting(t)
	w.define(hosts)
	w.must("create", "example.org/v1/hosts", "", "", `{"apiVersion":"example.org/v1","kind":"Host","metadata":{"name":"old"},"hostPort":"a:1"}`)
	next := w.redefine("hosts.example.org", func(d *apiextensionsv1.CustomResourceDefinition) {
		d.Spec.Versions[0].Storage, d.Spec.Versions[1].Storage = false, true
	})
	if !slices.Equal(next.Status.StoredVersions, []string{"v1", "v2"}) {
		t.Errorf("stored versions %v", next.Status.StoredVersions)
	}
	w.must("create", "example.org/v1/hosts", "", "", `{"apiVersion":"example.org/v1","kind":"Host","metadata":{"name":"new"},"hostPort":"a:1"}`)
	stored, err := w.memory.Get(t.Context(), "/registry/example.org/hosts/new")
	if err != nil || !strings.Contains(string(stored.Value), `"apiVersion":"example.org/v2"`) {
		t.Errorf("stored %s, %v", stored.Value, err)
	}
	if got := must[*unstructured.Unstructured](w, "get", "example.org/v2/hosts", "", "old", ""); got.GetAPIVersion() != "example.org/v2" || got.Object["hostPort"] != nil {
		t.Errorf("in v2: %s", text(t, got))
	}
	r := w.request("get", "example.org/v1/hosts", "", "old", "")
	if _, _, err := w.do(r); err != nil || !slices.Contains(r.warnings, "example.org/v1 Host is deprecated; use example.org/v2 Host") {
		t.Errorf("warnings %q, %v", r.warnings, err)
	}
}

// client-go's dynamic and metadata clients and its informers work as with built-in kinds.
func TestCustomClients(t *testing.T) {
	s, _, config := serveSuite(t, new(atomic.Bool))
	w := &writing{Server: s, t: t}
	w.define(strings.Replace(cronTabs, "scope: Namespaced", "scope: Cluster", 1))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dynamics, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	gvr := schema.GroupVersionResource{Group: "stable.example.com", Version: "v1", Resource: "crontabs"}
	seen := make(chan string, 10)
	tell := func(what string) func(any) {
		return func(obj any) { seen <- what + " " + obj.(metav1.Object).GetName() }
	}
	informer := dynamicinformer.NewDynamicSharedInformerFactory(dynamics, 0).ForResource(gvr).Informer()
	if _, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{AddFunc: tell("add"), DeleteFunc: tell("delete"),
		UpdateFunc: func(_, obj any) { tell("update")(obj) }}); err != nil {
		t.Fatal(err)
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() { defer close(ended); informer.RunWithContext(running) }()
	defer func() { stop(); <-ended }()
	expect := func(want string) {
		t.Helper()
		select {
		case got := <-seen:
			if got != want {
				t.Errorf("the informer saw %q, want %q", got, want)
			}
		case <-ctx.Done():
			t.Fatalf("the informer never saw %q", want)
		}
	}
	tabs := dynamics.Resource(gvr)
	tab := &unstructured.Unstructured{}
	if err := tab.UnmarshalJSON([]byte(cronTab("a", `{"cronSpec":"* * * * */5"}`))); err != nil {
		t.Fatal(err)
	}
	made, err := tabs.Create(ctx, tab, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	expect("add a")
	made.SetLabels(map[string]string{"x": "y"})
	if _, err := tabs.Update(ctx, made, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	expect("update a")
	metas, err := metadata.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	meta, err := metas.Resource(gvr).Get(ctx, "a", metav1.GetOptions{})
	if err != nil || meta.Labels["x"] != "y" {
		t.Errorf("metadata %v, %v", meta, err)
	}
	if list, err := tabs.List(ctx, metav1.ListOptions{FieldSelector: "spec.cronSpec=* * * * */5", Limit: 1}); err != nil || len(list.Items) != 1 || list.GetKind() != "CronTabList" {
		t.Errorf("list %v, %v", list, err)
	}
	if _, err := tabs.List(ctx, metav1.ListOptions{FieldSelector: "spec.image=x"}); err == nil || !strings.Contains(err.Error(), "field label not supported: spec.image") {
		t.Errorf("an undeclared field: %v", err)
	}
	if err := tabs.Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	expect("delete a")
}

// TestDefinitionsCost measures what definitions cost while nobody uses them:
//
//	SKIFF_DEFINITIONS=1000 go test ./apiserver -run TestDefinitionsCost -v
func TestDefinitionsCost(t *testing.T) {
	n, err := strconv.Atoi(os.Getenv("SKIFF_DEFINITIONS"))
	if err != nil {
		t.Skip("a measurement, not a test: set SKIFF_DEFINITIONS to the number of definitions")
	}
	w := newWriting(t)
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc) + int64(m.StackInuse)
	}
	w.owners.types()
	before, start := heap(), time.Now()
	for i := range n {
		body, err := yaml.YAMLToJSON([]byte(strings.NewReplacer("crontabs", fmt.Sprintf("crontabs%d", i), "crontab,", fmt.Sprintf("crontab%d,", i),
			"CronTab", fmt.Sprintf("CronTab%d", i), "[ct]", fmt.Sprintf("[ct%d]", i)).Replace(cronTabs)))
		if err != nil {
			t.Fatal(err)
		}
		w.must("create", definitions, "", "", string(body))
	}
	w.definition(fmt.Sprintf("crontabs%d.stable.example.com", n-1), func(d *apiextensionsv1.CustomResourceDefinition) bool {
		return d != nil && apihelpers.IsCRDConditionTrue(d, apiextensionsv1.Established)
	})
	took, after := time.Since(start), heap()
	t.Logf("%d definitions established in %v, %v each; just then %d bytes each", n, took, took/time.Duration(n), (after-before)/int64(n))
	start = time.Now()
	w.customs.served().documents.get()
	t.Logf("discovery of them is made in %v", time.Since(start))
	time.Sleep(150 * time.Second) // the cache lets go of decoded definitions in two sweeps
	if each := (heap() - before) / int64(n); each > 100_000 {
		t.Errorf("%d bytes each", each)
	} else {
		t.Logf("two sweeps later %d bytes each", each)
	}
}
