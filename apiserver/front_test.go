package apiserver

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/net/websocket"
	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"skiff/api"
	"skiff/cluster/pki"
)

const oneMap = `{"metadata":{"name":"m"},"data":{"k":"v"}}`

// Each refusal has the reason, code and words that Kubernetes documents.
func TestRefusals(t *testing.T) {
	l := listen(t, nil)
	defer l.stop()
	maps := "/api/v1/namespaces/default/configmaps"
	l.call(t, "POST", maps, nil, oneMap)
	for _, c := range []struct {
		method, path, accept, content, body string
		code                                int
		reason                              metav1.StatusReason
		message                             string
	}{
		{method: "GET", path: maps + "/none", code: 404, reason: "NotFound", message: `configmaps "none" not found`},
		{method: "GET", path: "/nothing", code: 404, reason: "NotFound", message: "the server could not find the requested resource"},
		{method: "GET", path: "/apis/apps/v1/cars", code: 404, reason: "NotFound", message: "the server could not find the requested resource"},
		{method: "GET", path: maps + "/m/engine", code: 404, reason: "NotFound", message: "the server could not find the requested resource"},
		{method: "POST", path: "/api/v1/configmaps", body: oneMap, code: 405, reason: "MethodNotAllowed", message: "the server does not allow this method on the requested resource"},
		{method: "DELETE", path: "/api/v1/componentstatuses/etcd-0", code: 405, reason: "MethodNotAllowed", message: "the server does not allow this method on the requested resource"},
		{method: "POST", path: maps, body: oneMap, code: 409, reason: "AlreadyExists", message: `configmaps "m" already exists`},
		{method: "GET", path: maps + "/m", accept: "text/html", code: 406, reason: "NotAcceptable", message: "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf"},
		{method: "POST", path: maps, content: "text/plain", body: oneMap, code: 415, reason: "UnsupportedMediaType", message: "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf"},
		{method: "PATCH", path: maps + "/m", content: "application/json", body: "{}", code: 415, reason: "UnsupportedMediaType", message: "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml"},
		{method: "PATCH", path: maps + "/m", content: "application/apply-patch+yaml", body: "{}", code: 422, reason: "Invalid", message: `PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch`},
		{method: "POST", path: maps + "?dryRun=maybe", body: oneMap, code: 422, reason: "Invalid", message: `CreateOptions.meta.k8s.io "" is invalid: dryRun: Unsupported value: ["maybe"]: supported values: "All"`},
		{method: "POST", path: maps, body: strings.Repeat("x", maxBody+1), code: 413, reason: "RequestEntityTooLarge", message: "Request entity too large: limit is 3145728"},
		{method: "GET", path: maps + "?labelSelector=a%3D%3D%3Db", code: 400, reason: "BadRequest", message: "unable to parse requirement: found '=', expected: identifier"},
		{method: "GET", path: maps + "?fieldSelector=data.k%3Dv", code: 400, reason: "BadRequest", message: `"data.k" is not a known field selector: only "metadata.name", "metadata.namespace"`},
		{method: "GET", path: "/api/v1/pods?fieldSelector=spec.x%3Dv", code: 400, reason: "BadRequest", message: "field label not supported: spec.x"},
		{method: "GET", path: maps + "?limit=many", code: 400, reason: "BadRequest", message: `strconv.ParseInt: parsing "many": invalid syntax`},
		{method: "GET", path: maps + "?sendInitialEvents=true", code: 422, reason: "Invalid", message: `ListOptions.meta.k8s.io "" is invalid: sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list`},
		{method: "GET", path: maps + "/m?timeout=soon", code: 400, reason: "BadRequest", message: `invalid timeout specified in the request URL - time: invalid duration "soon"`},
		{method: "DELETE", path: maps + "/m", body: `{"kind":"DeleteOptions","apiVersion":"v1","propagationPolicy":"Maybe"}`, code: 422, reason: "Invalid", message: `DeleteOptions.meta.k8s.io "" is invalid: propagationPolicy: Unsupported value: "Maybe": supported values: "Foreground", "Background", "Orphan", "nil"`},
		{method: "GET", path: maps + "?includeObject=Some", accept: "application/json;as=Table;v=v1;g=meta.k8s.io", code: 400, reason: "BadRequest", message: `Unable to convert to Table as requested: includeObject: Invalid value: "Some": must be 'Metadata', 'Object', 'None', or empty`},
		{method: "POST", path: "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", accept: "application/json;as=Table;v=v1;g=meta.k8s.io", body: `{"kind":"SelfSubjectAccessReview","apiVersion":"authorization.k8s.io/v1"}`, code: 406, reason: "NotAcceptable", message: "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf"},
		{method: "GET", path: maps, accept: "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", code: 406, reason: "NotAcceptable", message: "you requested PartialObjectMetadata, but the requested object is a list"},
	} {
		header := map[string]string{"Accept": c.accept}
		if c.content != "" {
			header["Content-Type"] = c.content
		}
		resp, body := l.call(t, c.method, c.path, header, c.body)
		status := decodeStatus(t, body)
		if resp.StatusCode != c.code || int(status.Code) != c.code || status.Reason != c.reason || status.Message != c.message {
			t.Errorf("%s %s: %d %s %q\nwant %d %s %q", c.method, c.path, resp.StatusCode, status.Reason, status.Message, c.code, c.reason, c.message)
		}
	}
}

func TestStrangers(t *testing.T) {
	l := listen(t, nil)
	defer l.stop()
	bob := l.as(t, "bob")
	resp, body := callAs(t, bob, "POST", "/api/v1/namespaces/default/pods", nil, "not even JSON")
	if got := decodeStatus(t, body).Message; resp.StatusCode != 403 || got != `pods is forbidden: User "bob" cannot create resource "pods" in API group "" in the namespace "default"` {
		t.Errorf("%d %s", resp.StatusCode, got)
	}
	if resp, body := callAs(t, bob, "GET", "/apis/apps/v1/cars", nil, ""); resp.StatusCode != 403 {
		t.Errorf("what is not there: %d %s", resp.StatusCode, body)
	}
	if resp, body := callAs(t, bob, "GET", "/api/v1/pods", map[string]string{"Impersonate-User": "admin", "Impersonate-Group": "system:masters"}, ""); resp.StatusCode != 403 || !strings.Contains(string(body), `cannot impersonate resource \"users\"`) {
		t.Errorf("impersonation: %d %s", resp.StatusCode, body)
	}
	resp, body = l.call(t, "GET", "/api/v1/pods", map[string]string{"Impersonate-User": "bob"}, "")
	if got := decodeStatus(t, body).Message; resp.StatusCode != 403 || !strings.Contains(got, `User "bob" cannot list`) {
		t.Errorf("as bob: %d %s", resp.StatusCode, got)
	}
	if resp, body := l.call(t, "GET", "/api/v1/pods", map[string]string{"Impersonate-Group": "g"}, ""); resp.StatusCode != 400 {
		t.Errorf("a group without a user: %d %s", resp.StatusCode, body)
	}
	anonymous := &rest.Config{Host: l.url, TLSClientConfig: rest.TLSClientConfig{CAData: l.config.CAData}}
	if resp, _ := callAs(t, anonymous, "GET", "/livez", nil, ""); resp.StatusCode != 200 {
		t.Errorf("health is for everyone: %d", resp.StatusCode)
	}
	if resp, _ := callAs(t, anonymous, "GET", "/metrics", nil, ""); resp.StatusCode != 403 {
		t.Errorf("metrics are not for everyone: %d", resp.StatusCode)
	}
	if resp, _ := callAs(t, anonymous, "GET", "/api/v1/pods", map[string]string{"Authorization": "Bearer x.y.z"}, ""); resp.StatusCode != 401 {
		t.Errorf("a token that is none: %d", resp.StatusCode)
	}
}

func TestForms(t *testing.T) {
	l := listen(t, nil)
	defer l.stop()
	maps := "/api/v1/namespaces/default/configmaps"
	big := fmt.Sprintf(`{"metadata":{"name":"big"},"data":{"k":%q}}`, strings.Repeat("v", 200<<10))
	l.call(t, "POST", maps, nil, big)
	l.call(t, "POST", maps, nil, oneMap)

	resp, body := l.call(t, "GET", maps+"/big", map[string]string{"Accept-Encoding": "gzip"}, "")
	if resp.Header.Get("Content-Encoding") != "gzip" || len(body) > 20<<10 {
		t.Errorf("a big answer came as %q, %d bytes", resp.Header.Get("Content-Encoding"), len(body))
	}
	plain, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	var got corev1.ConfigMap
	if err := json.NewDecoder(plain).Decode(&got); err != nil || len(got.Data["k"]) != 200<<10 {
		t.Errorf("unpacked: %d bytes, %v", len(got.Data["k"]), err)
	}
	if resp, _ := l.call(t, "GET", maps+"/m", map[string]string{"Accept-Encoding": "gzip"}, ""); resp.Header.Get("Content-Encoding") != "" {
		t.Error("a small answer was packed")
	}
	if _, body := l.call(t, "GET", maps+"/m", map[string]string{"User-Agent": "curl/8"}, ""); !bytes.Contains(body, []byte("\n  \"kind\"")) {
		t.Errorf("not pretty for people: %s", body)
	}
	if resp, body := l.call(t, "GET", maps+"/m", map[string]string{"Accept": "application/yaml"}, ""); resp.Header.Get("Content-Type") != "application/yaml" || !bytes.Contains(body, []byte("k: v")) {
		t.Errorf("YAML: %s", body)
	}
	var table metav1.Table
	_, body = l.call(t, "GET", maps+"?includeObject=Object", map[string]string{"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}, "")
	if err := json.Unmarshal(body, &table); err != nil || len(table.Rows) != 2 || table.Rows[1].Cells[0] != "m" || table.ColumnDefinitions[0].Name != "Name" {
		t.Errorf("table %s, %v", body, err)
	}
	if !bytes.Contains(table.Rows[1].Object.Raw, []byte(`"kind":"ConfigMap"`)) || !bytes.Contains(table.Rows[1].Object.Raw, []byte(`"k":"v"`)) {
		t.Errorf("row's object %s", table.Rows[1].Object.Raw)
	}
	var partial metav1.PartialObjectMetadataList
	_, body = l.call(t, "GET", maps, map[string]string{"Accept": "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"}, "")
	if err := json.Unmarshal(body, &partial); err != nil || partial.Kind != "PartialObjectMetadataList" || partial.ResourceVersion == "" || len(partial.Items) != 2 || partial.Items[1].Name != "m" || bytes.Contains(body, []byte(`"data"`)) {
		t.Errorf("metadata %s, %v", body, err)
	}
}

// https://kubernetes.io/docs/reference/using-api/api-concepts/#receiving-resources-as-tables
// "column definitions … only in the first event" of a watch.
func TestWatchTable(t *testing.T) {
	l := listen(t, nil)
	defer l.stop()
	l.call(t, "POST", "/api/v1/namespaces/default/configmaps", nil, oneMap)
	l.call(t, "POST", "/api/v1/namespaces/default/configmaps", nil, strings.Replace(oneMap, `"m"`, `"n"`, 1))
	h, err := rest.HTTPClientFor(l.config)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), "GET", l.url+"/api/v1/namespaces/default/configmaps?watch=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
	resp, err := h.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	for i, want := range []string{"m", "n"} {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			t.Fatal(err)
		}
		var event struct {
			Type   string
			Object metav1.Table
		}
		if err := json.Unmarshal(line, &event); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if event.Type != "ADDED" || event.Object.Kind != "Table" || event.Object.Rows[0].Cells[0] != want || (len(event.Object.ColumnDefinitions) > 0) != (i == 0) {
			t.Errorf("event %d: %s", i, line)
		}
	}
}

func TestWatchWebSocket(t *testing.T) {
	l := listen(t, nil)
	defer l.stop()
	l.call(t, "POST", "/api/v1/namespaces/default/configmaps", nil, oneMap)
	config, err := websocket.NewConfig(strings.Replace(l.url, "https", "wss", 1)+"/api/v1/namespaces/default/configmaps?watch=1", l.url)
	if err != nil {
		t.Fatal(err)
	}
	if config.TlsConfig, err = rest.TLSConfigFor(l.config); err != nil {
		t.Fatal(err)
	}
	config.TlsConfig.NextProtos = []string{"http/1.1"}
	conn, err := websocket.DialConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var message string
	if err := websocket.Message.Receive(conn, &message); err != nil || !strings.HasPrefix(message, `{"type":"ADDED"`) {
		t.Errorf("%q, %v", message, err)
	}
}

func TestDiscovery(t *testing.T) {
	l := listen(t, nil)
	defer l.stop()
	c, err := discovery.NewDiscoveryClientForConfig(l.config)
	if err != nil {
		t.Fatal(err)
	}
	groups, byVersion, failed, err := c.GroupsAndMaybeResources()
	if err != nil || len(failed) > 0 {
		t.Fatal(err, failed)
	}
	if len(groups.Groups) != 22 || groups.Groups[6].Name != "autoscaling" || groups.Groups[6].PreferredVersion.Version != "v2" {
		t.Errorf("groups %v", groups.Groups)
	}
	if byVersion == nil {
		t.Error("the client did not take the aggregated form")
	}
	seen := 0
	for _, row := range api.Catalogue {
		list := byVersion[schema.GroupVersion{Group: row.Group, Version: row.Version}]
		for _, r := range list.APIResources {
			if r.Name == row.Name && r.Kind == row.KindName && r.Namespaced == row.Namespaced {
				seen++
			}
		}
	}
	if seen != len(api.Catalogue) {
		t.Errorf("%d of %d rows are discovered", seen, len(api.Catalogue))
	}
	// The plain form says the same.
	_, body := l.call(t, "GET", "/api/v1", nil, "")
	var plain metav1.APIResourceList
	if err := json.Unmarshal(body, &plain); err != nil || plain.Kind != "APIResourceList" || len(plain.APIResources) != len(byVersion[schema.GroupVersion{Version: "v1"}].APIResources) {
		t.Errorf("/api/v1: %d resources, %v", len(plain.APIResources), err)
	}
	header := map[string]string{"Accept": "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"}
	resp, body := l.call(t, "GET", "/apis", header, "")
	var doc apidiscoveryv2.APIGroupDiscoveryList
	if err := json.Unmarshal(body, &doc); err != nil || len(doc.Items) != 21 || resp.Header.Get("Etag") == "" {
		t.Errorf("aggregated: %d items, etag %q, %v", len(doc.Items), resp.Header.Get("Etag"), err)
	}
	header["If-None-Match"] = resp.Header.Get("Etag")
	if resp, _ := l.call(t, "GET", "/apis", header, ""); resp.StatusCode != http.StatusNotModified {
		t.Errorf("unchanged: %d", resp.StatusCode)
	}
}

func TestOpenAPI(t *testing.T) {
	l := listen(t, nil)
	defer l.stop()
	c, err := discovery.NewDiscoveryClientForConfig(l.config)
	if err != nil {
		t.Fatal(err)
	}
	v2, err := c.OpenAPISchema()
	if err != nil || len(v2.GetPaths().GetPath()) < 150 {
		t.Errorf("v2: %d paths, %v", len(v2.GetPaths().GetPath()), err)
	}
	docs, err := c.OpenAPIV3().Paths()
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range api.Catalogue {
		path := "api/" + row.Version
		if row.Group != "" {
			path = "apis/" + row.Group + "/" + row.Version
		}
		if docs[path] == nil {
			t.Errorf("no OpenAPI v3 document for %s: run go generate ./apiserver/openapi", path)
		}
	}
	text, err := docs["apis/apps/v1"].Schema("application/json")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"x-kubernetes-group-version-kind"`, `"x-kubernetes-patch-merge-key":"name"`, `"x-kubernetes-list-type":"map"`, `"x-kubernetes-action":"post"`, `"/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale"`} {
		if !bytes.Contains(text, []byte(want)) {
			t.Errorf("apis/apps/v1 lacks %s", want)
		}
	}
}

func TestHealth(t *testing.T) {
	l := listen(t, func(c *Config, _ *pki.Authority) {
		c.Front.Health = []HealthCheck{{Name: "moon", Ready: true, Check: func(context.Context) error { return fmt.Errorf("not full") }}}
	})
	defer l.stop()
	for path, want := range map[string]string{
		"/livez":                           "200 ok",
		"/readyz":                          "500 [+]ping ok\n[+]log ok\n[+]etcd ok\n[+]etcd-readiness ok\n[+]informer-sync ok\n[+]poststarthook/rbac/bootstrap-roles ok\n[-]moon failed: reason withheld\n[+]shutdown ok\nreadyz check failed\n",
		"/readyz?exclude=moon":             "200 ok",
		"/livez?verbose&exclude=ping,mars": "200 [+]ping excluded: ok\n[+]log ok\n[+]etcd ok\n[+]poststarthook/rbac/bootstrap-roles ok\nwarn: some health checks cannot be excluded: no matches for \"mars\"\nlivez check passed\n",
		"/livez/etcd":                      "200 ok",
		"/readyz/moon":                     "500 internal server error: not full\n",
	} {
		resp, body := l.call(t, "GET", path, nil, "")
		if got := fmt.Sprintf("%d %s", resp.StatusCode, body); got != want {
			t.Errorf("%s\n got %q\nwant %q", path, got, want)
		}
	}
	_, body := l.call(t, "GET", "/metrics", nil, "")
	for _, want := range []string{`apiserver_request_total{code="200",component="apiserver"`, "apiserver_request_duration_seconds_bucket", `apiserver_current_inflight_requests{request_kind="mutating"} 0`, "go_goroutines", "process_resident_memory_bytes"} {
		if !bytes.Contains(body, []byte(want)) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
}

// A server that ends leaves nothing behind, and ends its watches instead of
// waiting for them.
func TestShutdown(t *testing.T) {
	before := goleak.IgnoreCurrent()
	l := listen(t, nil)
	config := rest.CopyConfig(l.config)
	h, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	c, err := kubernetes.NewForConfigAndClient(config, h)
	if err != nil {
		t.Fatal(err)
	}
	w, err := c.CoreV1().Namespaces().Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	<-w.ResultChan()
	l.stop()
	for range w.ResultChan() {
	}
	h.CloseIdleConnections()
	goleak.VerifyNone(t, before)
}

// A server without listeners of its own serves whoever calls its handler until
// Run's context ends, and no shorter.
func TestHandlerAlone(t *testing.T) {
	l := listen(t, func(c *Config, _ *pki.Authority) {
		for _, open := range c.Front.Listeners {
			open.Close()
		}
		c.Front.Listeners = nil
	})
	front := httptest.NewServer(l.Handler())
	defer front.Close()
	resp, err := http.Get(front.URL + "/readyz?verbose")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("not ready: %s", resp.Status)
	}
	if l.stopping.Err() != nil {
		t.Error("watches would end at once")
	}
	l.stop()
	if l.stopping.Err() == nil {
		t.Error("watches would never end")
	}
}

// A panic costs one request, never the server.
func TestPanic(t *testing.T) {
	l := listen(t, func(c *Config, _ *pki.Authority) {
		c.Front.Health = []HealthCheck{{Name: "bomb", Live: true, Check: func(context.Context) error { panic("boom") }}}
	})
	defer l.stop()
	h, err := rest.HTTPClientFor(l.config)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := h.Get(l.url + "/livez/bomb"); err == nil {
		resp.Body.Close()
		t.Errorf("a request that panics while it writes was answered: %s", resp.Status)
	}
	r := l.locate(httptest.NewRequest("GET", "/api", nil))
	w := httptest.NewRecorder()
	func() {
		defer l.Server.recover(w, r)
		panic("boom")
	}()
	if status := decodeStatus(t, w.Body.Bytes()); w.Code != 500 || status.Reason != metav1.StatusReasonInternalError || !strings.Contains(status.Message, "This request caused apiserver to panic. Look in the logs for details.") {
		t.Errorf("%d %+v", w.Code, status)
	}
	if resp, _ := l.call(t, "GET", "/readyz", nil, ""); resp.StatusCode != 200 {
		t.Errorf("afterwards: %s", resp.Status)
	}
}

// kubectl runs stock kubectl, if there is one.
func kubectl(t *testing.T, kubeconfig, stdin string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "kubectl", args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig, "HOME="+t.TempDir())
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out) + err.Error()
	}
	return string(out)
}

const web = `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web"},"spec":{"replicas":2,"selector":{"matchLabels":{"app":"web"}},
"template":{"metadata":{"labels":{"app":"web"}},"spec":{"containers":[{"name":"a","image":"x"}]}}}}`

func TestKubectl(t *testing.T) {
	if _, err := exec.LookPath("kubectl"); err != nil {
		t.Skip("there is no kubectl on PATH")
	}
	l := listen(t, nil)
	defer l.stop()
	config := l.kubeconfig(t)
	for _, step := range []struct {
		args, stdin, want string
	}{
		{"version", "", "Server Version: v1.37.2+skiff"},
		{"api-resources", "", "horizontalpodautoscalers"},
		{"explain deployment.spec.strategy.type", "", "FIELD: type <string>"},
		{"apply -f -", web, "deployment.apps/web created"},
		{"apply -f -", web, "deployment.apps/web unchanged"},
		{"apply -f -", strings.Replace(web, "replicas", "replicass", 1), `unknown field "spec.replicass"`},
		{"apply --server-side --field-manager other -f -", strings.Replace(web, "2", "3", 1), "conflict with \"kubectl-client-side-apply\""},
		{"get deploy -o wide", "", "app=web"},
		{"describe deploy web", "", "RollingUpdateStrategy:  25% max unavailable"},
		{"scale deploy web --replicas=5", "", "scaled"},
		{"get deploy web -o jsonpath={.spec.replicas}", "", "5"},
		{"auth whoami", "", "system:masters"},
		{"auth can-i create pods --as bob", "", "no"},
		{"get componentstatuses", "", "Warning: v1 ComponentStatus is deprecated"},
		{"delete deploy web", "", `deployment.apps "web" deleted`},
		{"get deploy web", "", `Error from server (NotFound): deployments.apps "web" not found`},
	} {
		if got := kubectl(t, config, step.stdin, strings.Fields(step.args)...); !strings.Contains(got, step.want) {
			t.Errorf("kubectl %s:\n%s\nlacks %q", step.args, got, step.want)
		}
	}
}
