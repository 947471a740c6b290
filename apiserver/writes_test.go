package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"

	"skiff/api"
	"skiff/store"
)

// writing is a whole server over a store in memory, with a namespace and its
// default service account.
type writing struct {
	*Server
	t      testing.TB
	memory *store.Memory
	stop   func()
}

var admin = &user.DefaultInfo{Name: "admin", Groups: []string{user.SystemPrivilegedGroup}}

func newWriting(t testing.TB) *writing {
	t.Helper()
	memory := store.OpenMemory(store.MemoryConfig{})
	w := startWriting(t, memory)
	t.Cleanup(func() { w.stop(); memory.Close() })
	w.must("create", "v1/serviceaccounts", "default", "", `{"metadata":{"name":"default"}}`)
	return w
}

// startWriting runs a server on a store that others may use too.
func startWriting(t testing.TB, memory *store.Memory) *writing {
	t.Helper()
	s, err := New(Config{Store: memory, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	select {
	case <-s.Ready():
	case err := <-ended:
		t.Fatal(err)
	case <-time.After(30 * time.Second):
		t.Fatal("the server is not ready")
	}
	return &writing{Server: s, t: t, memory: memory, stop: func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}}
}

// row finds "v1/pods" and "apps/v1/deployments".
func (w *writing) row(path string) *api.Resource {
	w.t.Helper()
	for _, r := range api.Catalogue {
		if strings.TrimPrefix(r.Group+"/"+r.Version+"/"+r.Name, "/") == path {
			return r
		}
	}
	if parts := strings.Split(path, "/"); len(parts) == 3 {
		if r := w.rowFor(schema.GroupVersionResource{Group: parts[0], Version: parts[1], Resource: parts[2]}); r != nil {
			return r
		}
	}
	w.t.Fatalf("no resource %s", path)
	return nil
}

// request makes one of "create", "update", "delete" … or "patch", whose type is
// given as "patch:json", "patch:merge", "patch:strategic", "patch:apply". A name
// may have a subresource: "web/status". Options follow a question mark: "?dryRun".
func (w *writing) request(verb, resource, namespace, name, body string) *Request {
	w.t.Helper()
	resource, options, _ := strings.Cut(resource, "?")
	verb, patch, _ := strings.Cut(verb, ":")
	name, sub, _ := strings.Cut(name, "/")
	r := &Request{User: admin, UserAgent: "tester/1.0", Verb: verb, Resource: w.row(resource), Namespace: namespace, Name: name, Subresource: sub,
		Body: Body{ContentType: "application/json", Bytes: []byte(body)}}
	switch patch {
	case "json":
		r.PatchType = types.JSONPatchType
	case "merge":
		r.PatchType = types.MergePatchType
	case "strategic":
		r.PatchType = types.StrategicMergePatchType
	case "apply":
		r.PatchType = types.ApplyYAMLPatchType
	}
	for option := range strings.SplitSeq(options, "&") {
		key, value, _ := strings.Cut(option, "=")
		switch key {
		case "dryRun":
			r.Write.DryRun = true
		case "strict":
			r.Write.FieldValidation = metav1.FieldValidationStrict
		case "ignore":
			r.Write.FieldValidation = metav1.FieldValidationIgnore
		case "manager":
			r.Write.FieldManager = value
		case "force":
			r.Write.Force = true
		case "type":
			r.Body.ContentType = value
		case "label":
			r.ListOptions.LabelSelector = value
		}
	}
	if verb == "delete" && body != "" {
		if err := json.Unmarshal([]byte(body), &r.DeleteOptions); err != nil {
			w.t.Fatal(err)
		}
		r.Write.DryRun = len(r.DeleteOptions.DryRun) > 0
	}
	return r
}

// do serves a request and returns the object of the answer.
func (w *writing) do(r *Request) (runtime.Object, *Result, error) {
	result, err := w.serve(context.Background(), r)
	if err != nil {
		return nil, nil, err
	}
	if result.Entry != nil {
		return result.Entry.Object(), result, nil
	}
	return result.Object, result, nil
}

func (w *writing) must(verb, resource, namespace, name, body string) runtime.Object {
	w.t.Helper()
	obj, _, err := w.do(w.request(verb, resource, namespace, name, body))
	if err != nil {
		w.t.Fatalf("%s %s %s/%s: %v", verb, resource, namespace, name, err)
	}
	return obj
}

// refused serves a request that must fail, and returns its Status.
func (w *writing) refused(verb, resource, namespace, name, body string) metav1.Status {
	w.t.Helper()
	obj, _, err := w.do(w.request(verb, resource, namespace, name, body))
	if err == nil {
		w.t.Fatalf("%s %s %s/%s was not refused: %v", verb, resource, namespace, name, obj)
	}
	return *statusOf(err)
}

func must[T api.Object](w *writing, verb, resource, namespace, name, body string) T {
	w.t.Helper()
	return w.must(verb, resource, namespace, name, body).(T)
}

const podBody = `{"metadata":{"name":"web","labels":{"app":"web"}},"spec":{"terminationGracePeriodSeconds":30,"containers":[{"name":"c","image":"busybox"}]}}`

// Each wrong request is answered with the Status that Kubernetes documents.
func TestRefused(t *testing.T) {
	w := newWriting(t)
	w.must("create", "v1/configmaps", "default", "", `{"metadata":{"name":"there"},"data":{"a":"1"}}`)
	for name, c := range map[string]struct {
		verb, resource, namespace, name, body string
		code                                  int32
		reason                                metav1.StatusReason
		message                               string // a part of it
	}{
		"broken JSON": {"create", "v1/configmaps", "default", "", `{"metadata":`, 400, metav1.StatusReasonBadRequest,
			`the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: unexpected end of JSON input ({"metadata":)`},
		"broken YAML": {"create", "v1/configmaps?type=application/yaml", "default", "", "a: [", 400, metav1.StatusReasonBadRequest,
			`the object provided is unrecognized (must be of type ConfigMap): yaml: line 1: did not find expected node content (613a205b)`},
		"no protobuf": {"create", "v1/configmaps?type=application/vnd.kubernetes.protobuf", "default", "", "{}", 400, metav1.StatusReasonBadRequest,
			`provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]`},
		"wrong type": {"create", "v1/configmaps", "default", "", `{"metadata":{"name":"x"},"data":[1]}`, 400, metav1.StatusReasonBadRequest,
			`ConfigMap in version "v1" cannot be handled as a ConfigMap: json: cannot unmarshal array into Go struct field ConfigMap.data of type map[string]string`},
		"another kind": {"create", "v1/configmaps", "default", "", `{"kind":"Secret","apiVersion":"v1","metadata":{"name":"x"}}`, 400, metav1.StatusReasonBadRequest,
			`Secret in version "v1" cannot be handled as a ConfigMap: converting (v1.Secret) to (core.ConfigMap): unknown conversion`},
		"no such kind": {"create", "v1/configmaps", "default", "", `{"kind":"Nonsense","apiVersion":"v1","metadata":{"name":"x"}}`, 400, metav1.StatusReasonBadRequest,
			`Nonsense in version "v1" cannot be handled as a ConfigMap: no kind "Nonsense" is registered for version "v1" in scheme`},
		"another version": {"create", "autoscaling/v2/horizontalpodautoscalers", "default", "", `{"kind":"HorizontalPodAutoscaler","apiVersion":"autoscaling/v1","metadata":{"name":"x"}}`, 400, metav1.StatusReasonBadRequest,
			`the API version in the data (autoscaling/v1) does not match the expected API version (autoscaling/v2)`},
		"unknown field, strict": {"create", "v1/configmaps?strict", "default", "", `{"metadata":{"name":"x"},"spec":{},"data":{"a":"1","a":"2"}}`, 400, metav1.StatusReasonBadRequest,
			`ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: unknown field "spec", duplicate field "data.a"`},
		"another namespace": {"create", "v1/configmaps", "default", "", `{"metadata":{"name":"x","namespace":"other"}}`, 400, metav1.StatusReasonBadRequest,
			`the namespace of the provided object does not match the namespace sent on the request`},
		"a missing namespace": {"create", "v1/configmaps", "nowhere", "", `{"metadata":{"name":"x"}}`, 404, metav1.StatusReasonNotFound,
			`namespaces "nowhere" not found`},
		"no name": {"create", "v1/configmaps", "default", "", `{}`, 422, metav1.StatusReasonInvalid,
			`metadata.name: Required value: name or generateName is required`},
		"an invalid name": {"create", "v1/configmaps", "default", "", `{"metadata":{"name":"No_Name"}}`, 422, metav1.StatusReasonInvalid,
			`ConfigMap "No_Name" is invalid: metadata.name: Invalid value: "No_Name": a lowercase RFC 1123 subdomain must consist of`},
		"an invalid label": {"create", "v1/configmaps", "default", "", `{"metadata":{"name":"x","labels":{"a b":"c"}}}`, 422, metav1.StatusReasonInvalid,
			`metadata.labels: Invalid value: "a b"`},
		"it is there": {"create", "v1/configmaps", "default", "", `{"metadata":{"name":"there"}}`, 409, metav1.StatusReasonAlreadyExists,
			`configmaps "there" already exists`},
		"it is there, dry run": {"create", "v1/configmaps?dryRun", "default", "", `{"metadata":{"name":"there"}}`, 409, metav1.StatusReasonAlreadyExists,
			`configmaps "there" already exists`},
		"version on create": {"create", "v1/configmaps", "default", "", `{"metadata":{"name":"x","resourceVersion":"7"}}`, 500, "",
			`resourceVersion should not be set on objects to be created`},
		"update of nothing": {"update", "v1/configmaps", "default", "x", `{"metadata":{"name":"x"}}`, 404, metav1.StatusReasonNotFound,
			`configmaps "x" not found`},
		"another name": {"update", "v1/configmaps", "default", "there", `{"metadata":{"name":"here"}}`, 400, metav1.StatusReasonBadRequest,
			`the name of the object (here) does not match the name on the URL (there)`},
		"no name in update": {"update", "v1/configmaps", "default", "there", `{}`, 400, metav1.StatusReasonBadRequest,
			`the name of the object (there based on URL) was undeterminable: name must be provided`},
		"an old version": {"update", "v1/configmaps", "default", "there", `{"metadata":{"name":"there","resourceVersion":"1"}}`, 409, metav1.StatusReasonConflict,
			`Operation cannot be fulfilled on configmaps "there": the object has been modified; please apply your changes to the latest version and try again`},
		"another uid": {"update", "v1/configmaps", "default", "there", `{"metadata":{"name":"there","uid":"u"}}`, 409, metav1.StatusReasonConflict,
			`Operation cannot be fulfilled on configmaps "there": StorageError: invalid object, Code: 4, Key: /registry/configmaps/default/there, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: u, UID in object meta: `},
		"no patch": {"patch:merge", "v1/configmaps", "default", "there", `{`, 400, metav1.StatusReasonBadRequest,
			`invalid JSON patch`},
		"patch of nothing": {"patch:merge", "v1/configmaps", "default", "x", `{}`, 404, metav1.StatusReasonNotFound,
			`configmaps "x" not found`},
		"patch to a wrong type": {"patch:merge", "v1/configmaps", "default", "there", `{"data":"x"}`, 422, metav1.StatusReasonInvalid,
			`cannot unmarshal string into Go struct field ConfigMap.data of type map[string]string`},
		"unknown field by patch": {"patch:strategic", "v1/configmaps?strict", "default", "there", `{"spec":1}`, 422, metav1.StatusReasonInvalid,
			`strict decoding error: unknown field "spec"`},
		"patch that is no list": {"patch:json", "v1/configmaps", "default", "there", `{"op":"add"}`, 400, "BadRequest",
			"error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp"},
		"patch test failed": {"patch:json", "v1/configmaps", "default", "there", `[{"op":"test","path":"/data/a","value":"2"}]`, 422, "Invalid",
			`the server rejected our request due to an error in our request`},
		"patch that copies copies": {"patch:json", "v1/configmaps", "default", "there", `[{"op":"add","path":"/data","value":{"0":"` + strings.Repeat("x", 1000) + `"}}` +
			doublings(40) + `]`, 422, "Invalid", `the server rejected our request due to an error in our request`},
		"patch of the uid": {"patch:merge", "v1/configmaps", "default", "there", `{"metadata":{"uid":"u"}}`, 422, metav1.StatusReasonInvalid,
			`metadata.uid: Invalid value: "u": field is immutable`},
		"patch of the name": {"patch:merge", "v1/configmaps", "default", "there", `{"metadata":{"name":"other"}}`, 400, metav1.StatusReasonBadRequest,
			`the name of the object (other) does not match the name on the URL (there)`},
		"patch with an old version": {"patch:merge", "v1/configmaps", "default", "there", `{"metadata":{"resourceVersion":"1"}}`, 409, metav1.StatusReasonConflict,
			`the object has been modified`},
		"delete nothing": {"delete", "v1/configmaps", "default", "x", ``, 404, metav1.StatusReasonNotFound,
			`configmaps "x" not found`},
		"delete another uid": {"delete", "v1/configmaps", "default", "there", `{"preconditions":{"uid":"u"}}`, 409, metav1.StatusReasonConflict,
			`Operation cannot be fulfilled on ConfigMap "there": the UID in the precondition (u) does not match the UID in record (`},
		"delete default": {"delete", "v1/namespaces", "", "default", ``, 403, metav1.StatusReasonForbidden,
			`namespaces "default" is forbidden: this namespace may not be deleted`},
		"no service account": {"create", "v1/pods", "default", "", `{"metadata":{"name":"x"},"spec":{"serviceAccountName":"nobody","containers":[{"name":"c","image":"i"}]}}`, 403, metav1.StatusReasonForbidden,
			`pods "x" is forbidden: error looking up service account default/nobody: serviceaccount "nobody" not found`},
		"no priority class": {"create", "v1/pods", "default", "", `{"metadata":{"name":"x"},"spec":{"priorityClassName":"nope","containers":[{"name":"c","image":"i"}]}}`, 403, metav1.StatusReasonForbidden,
			`pods "x" is forbidden: no PriorityClass with name nope was found`},
		"evict nobody": {"create", "v1/pods", "default", "x/eviction", `{"metadata":{"name":"x"}}`, 404, metav1.StatusReasonNotFound, `pods "x" not found`},
		"bind nobody":  {"create", "v1/pods", "default", "x/binding", `{"metadata":{"name":"x"},"target":{"name":"n"}}`, 404, metav1.StatusReasonNotFound, `pods "x" not found`},
	} {
		t.Run(name, func(t *testing.T) {
			sub := *w
			sub.t = t
			got := sub.refused(c.verb, c.resource, c.namespace, c.name, c.body)
			if got.Code != c.code || got.Reason != c.reason || !strings.Contains(got.Message, c.message) {
				t.Errorf("got  %d %s %s\nwant %d %s %s", got.Code, got.Reason, got.Message, c.code, c.reason, c.message)
			}
		})
	}
}

// doublings are JSON patch operations each of which makes /data twice as large.
func doublings(n int) (operations string) {
	for i := range n {
		operations += fmt.Sprintf(`,{"op":"copy","from":"/data","path":"/data/c%d"}`, i)
	}
	return operations
}

func TestCreate(t *testing.T) {
	w := newWriting(t)
	before := time.Now().Truncate(time.Second)
	r := w.request("create", "v1/configmaps", "default", "", `{"metadata":{"name":"a","uid":"mine","creationTimestamp":"2001-01-01T00:00:00Z",
		"deletionTimestamp":"2001-01-01T00:00:00Z","selfLink":"x","generation":7},"data":{"k":"v"},"nonsense":1}`)
	obj, result, err := w.do(r)
	if err != nil {
		t.Fatal(err)
	}
	// (A kind whose generation nobody counts keeps the one that it came with.)
	cm := obj.(*corev1.ConfigMap)
	if result.Code != 201 || cm.UID == "" || cm.UID == "mine" || cm.CreationTimestamp.Before(&metav1.Time{Time: before}) || cm.CreationTimestamp.Nanosecond() != 0 ||
		cm.DeletionTimestamp != nil || cm.SelfLink != "" || cm.Generation != 7 || cm.ResourceVersion == "" || cm.Namespace != "default" {
		t.Errorf("created %d %+v", result.Code, cm.ObjectMeta)
	}
	if want := []string{`unknown field "nonsense"`}; !slices.Equal(r.warnings, want) {
		t.Errorf("warnings %q, want %q", r.warnings, want)
	}
	if len(cm.ManagedFields) != 1 || cm.ManagedFields[0].Manager != "tester" || cm.ManagedFields[0].Operation != "Update" ||
		string(cm.ManagedFields[0].FieldsV1.GetRawBytes()) != `{"f:data":{".":{},"f:k":{}}}` {
		t.Errorf("managed fields %+v", cm.ManagedFields)
	}

	generated := must[*corev1.ConfigMap](w, "create", "v1/configmaps", "default", "", `{"metadata":{"generateName":"b-"}}`)
	if len(generated.Name) != 7 || !strings.HasPrefix(generated.Name, "b-") {
		t.Errorf("generated %q", generated.Name)
	}
	dry := must[*corev1.ConfigMap](w, "create", "v1/configmaps?dryRun", "default", "", `{"metadata":{"name":"dry"}}`)
	if dry.UID == "" || dry.ResourceVersion != "" {
		t.Errorf("dry run %+v", dry.ObjectMeta)
	}
	if status := w.refused("delete", "v1/configmaps", "default", "dry", ""); status.Reason != metav1.StatusReasonNotFound {
		t.Errorf("after the dry run: %+v", status)
	}
}

// A job's labels are made from its uid and its name, which are made first.
func TestCreateJob(t *testing.T) {
	w := newWriting(t)
	for _, meta := range []string{`"name":"j"`, `"generateName":"g-"`} {
		job := must[*batchv1.Job](w, "create", "batch/v1/jobs", "default", "", `{"metadata":{`+meta+`},"spec":{"template":{"spec":{"restartPolicy":"Never","containers":[{"name":"c","image":"i"}]}}}}`)
		if labels := job.Spec.Template.Labels; labels["batch.kubernetes.io/controller-uid"] != string(job.UID) || labels["batch.kubernetes.io/job-name"] != job.Name {
			t.Errorf("%s %s: %v", job.Name, job.UID, labels)
		}
	}
}

// A new pod comes out with all that admission fills in.
func TestCreatePod(t *testing.T) {
	w := newWriting(t)
	w.must("create", "v1/limitranges", "default", "", `{"metadata":{"name":"l"},"spec":{"limits":[{"type":"Container","default":{"memory":"1Gi"},"defaultRequest":{"cpu":"100m"},"max":{"memory":"2Gi"}}]}}`)
	if err := w.fresh(context.Background()); err != nil {
		t.Fatal(err)
	}
	pod := must[*corev1.Pod](w, "create", "v1/pods", "default", "", podBody)
	c := pod.Spec.Containers[0]
	if pod.Spec.ServiceAccountName != "default" || len(pod.Spec.Volumes) != 1 || !strings.HasPrefix(pod.Spec.Volumes[0].Name, "kube-api-access-") ||
		len(c.VolumeMounts) != 1 || c.VolumeMounts[0].MountPath != "/var/run/secrets/kubernetes.io/serviceaccount" {
		t.Errorf("service account: %+v", pod.Spec)
	}
	if len(pod.Spec.Tolerations) != 2 || *pod.Spec.Tolerations[0].TolerationSeconds != 300 {
		t.Errorf("tolerations: %+v", pod.Spec.Tolerations)
	}
	if pod.Spec.Priority == nil || *pod.Spec.Priority != 0 || *pod.Spec.PreemptionPolicy != corev1.PreemptLowerPriority {
		t.Errorf("priority: %v", pod.Spec.Priority)
	}
	if !c.Resources.Requests.Cpu().Equal(resource.MustParse("100m")) || !c.Resources.Limits.Memory().Equal(resource.MustParse("1Gi")) ||
		pod.Annotations["kubernetes.io/limit-ranger"] != "LimitRanger plugin set: cpu, memory request for container c; memory limit for container c" {
		t.Errorf("limits: %+v %q", c.Resources, pod.Annotations)
	}
	status := w.refused("create", "v1/pods", "default", "", `{"metadata":{"name":"big"},"spec":{"containers":[{"name":"c","image":"i","resources":{"limits":{"memory":"3Gi"}}}]}}`)
	if status.Code != 403 || status.Message != `pods "big" is forbidden: maximum memory usage per Container is 2Gi, but limit is 3Gi` {
		t.Errorf("too big: %+v", status)
	}
	w.must("patch:merge", "v1/namespaces", "", "default", `{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"baseline"}}}`)
	if err := w.fresh(context.Background()); err != nil {
		t.Fatal(err)
	}
	status = w.refused("create", "v1/pods", "default", "", `{"metadata":{"name":"root"},"spec":{"hostNetwork":true,"containers":[{"name":"c","image":"i"}]}}`)
	if status.Code != 403 || !strings.Contains(status.Message, `violates PodSecurity "baseline:latest": host namespaces (hostNetwork=true)`) {
		t.Errorf("pod security: %+v", status)
	}
}

func TestUpdate(t *testing.T) {
	w := newWriting(t)
	first := must[*corev1.ConfigMap](w, "create", "v1/configmaps", "default", "", `{"metadata":{"name":"a"},"data":{"k":"1"}}`)
	second := must[*corev1.ConfigMap](w, "update", "v1/configmaps", "default", "a", `{"metadata":{"name":"a"},"data":{"k":"2"}}`)
	if second.UID != first.UID || second.ResourceVersion == first.ResourceVersion || !second.CreationTimestamp.Equal(&first.CreationTimestamp) {
		t.Errorf("updated %+v", second.ObjectMeta)
	}
	// A write that changes nothing is none.
	for _, r := range []*Request{
		w.request("update", "v1/configmaps", "default", "a", `{"metadata":{"name":"a"},"data":{"k":"2"}}`),
		w.request("patch:merge", "v1/configmaps", "default", "a", `{"data":{"k":"2"}}`),
		w.request("patch:strategic", "v1/configmaps", "default", "a", `{}`),
	} {
		obj, _, err := w.do(r)
		if err != nil {
			t.Fatal(err)
		}
		if v := obj.(*corev1.ConfigMap).ResourceVersion; v != second.ResourceVersion {
			t.Errorf("%s %s changed the version from %s to %s", r.Verb, r.PatchType, second.ResourceVersion, v)
		}
	}
	dry := must[*corev1.ConfigMap](w, "update", "v1/configmaps?dryRun", "default", "a", `{"metadata":{"name":"a"},"data":{"k":"3"}}`)
	if dry.Data["k"] != "3" {
		t.Errorf("dry run %+v", dry)
	}
	now, err := w.currentStored(context.Background(), w.row("v1/configmaps"), "default", "a")
	if err != nil || now.Object().GetResourceVersion() != second.ResourceVersion {
		t.Errorf("after the dry run: %v %v", now, err)
	}
	// Leases may be created by PUT.
	if lease := w.row("coordination.k8s.io/v1/leases"); lease.Kind.AllowCreateOnUpdate {
		_, result, err := w.do(w.request("update", "coordination.k8s.io/v1/leases", "default", "l", `{"metadata":{"name":"l"},"spec":{}}`))
		if err != nil || result.Code != 201 {
			t.Errorf("create by update: %+v %v", result, err)
		}
	}
}

// Fifty writers add one each; a patch that names no version is tried again until
// it fits, and none is lost.
func TestConcurrentPatches(t *testing.T) {
	w := newWriting(t)
	w.must("create", "v1/configmaps", "default", "", `{"metadata":{"name":"a"}}`)
	var wg sync.WaitGroup
	for i := range 50 {
		kind := []string{"patch:merge", "patch:strategic", "patch:apply?manager"}[i%3]
		kind, _, _ = strings.Cut(kind, "?")
		wg.Go(func() {
			r := w.request(kind, fmt.Sprintf("v1/configmaps?manager=m%d", i%3), "default", "a",
				fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","data":{"k%d":"v"}}`, i))
			if kind == "patch:apply" {
				r.Write.FieldManager = fmt.Sprint("applier-", i)
			}
			if _, _, err := w.do(r); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	entry, err := w.currentStored(context.Background(), w.row("v1/configmaps"), "default", "a")
	if err != nil {
		t.Fatal(err)
	}
	if n := len(entry.Object().(*corev1.ConfigMap).Data); n != 50 {
		t.Errorf("%d of 50 patches are there", n)
	}
}

// The next version of an object shares what does not change with the one that
// others are reading: making it must not write there. (The race detector looks.)
func TestReadersAreNotDisturbed(t *testing.T) {
	w := newWriting(t)
	body := strings.Replace(podBody, `"image":"busybox"`, `"image":"busybox","resources":{"limits":{"memory":"1Gi"},"requests":{"cpu":"100m"}}`, 1)
	created := must[*corev1.Pod](w, "create", "v1/pods", "default", "", body)
	want := created.Spec.DeepCopy()
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		defer close(done)
		for i := range 50 {
			next := created.DeepCopy()
			next.ResourceVersion, next.Labels["n"] = "", fmt.Sprint(i)
			r := w.request("update", "v1/pods", "default", "web", "")
			r.Body.Object = next
			if _, _, err := w.do(r); err != nil {
				t.Error(err)
			}
			w.must("patch:merge", "v1/pods", "default", "web", fmt.Sprintf(`{"metadata":{"annotations":{"n":"%d"}}}`, i))
		}
	})
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				entry, err := w.current(context.Background(), podRow, "default", "web")
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := json.Marshal(entry.Object()); err != nil {
					t.Error(err)
				}
				if got := entry.Object().(*corev1.Pod).Spec; !got.Containers[0].Resources.Limits.Memory().Equal(*want.Containers[0].Resources.Limits.Memory()) {
					t.Errorf("a reader saw %v", got.Containers[0].Resources)
				}
			}
		})
	}
	wg.Wait()
}

func TestPatchTypes(t *testing.T) {
	w := newWriting(t)
	w.must("create", "v1/pods", "default", "", podBody)
	pod := must[*corev1.Pod](w, "patch:json", "v1/pods", "default", "web", `[{"op":"test","path":"/kind","value":"Pod"},{"op":"add","path":"/metadata/annotations","value":{"a":"1"}}]`)
	if pod.Annotations["a"] != "1" {
		t.Errorf("JSON patch: %v", pod.Annotations)
	}
	pod = must[*corev1.Pod](w, "patch:strategic", "v1/pods", "default", "web", `{"spec":{"containers":[{"name":"c","image":"other"}],"tolerations":[{"key":"x","operator":"Exists"}]}}`)
	if pod.Spec.Containers[0].Image != "other" || len(pod.Spec.Containers[0].VolumeMounts) != 1 {
		t.Errorf("strategic merge: %+v", pod.Spec.Containers)
	}
	pod = must[*corev1.Pod](w, "patch:merge", "v1/pods", "default", "web", `{"metadata":{"labels":{"app":null,"b":"2"}}}`)
	if _, ok := pod.Labels["app"]; ok || pod.Labels["b"] != "2" {
		t.Errorf("merge: %v", pod.Labels)
	}
}

// https://kubernetes.io/docs/reference/using-api/server-side-apply/
func TestApply(t *testing.T) {
	w := newWriting(t)
	const one = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  x: \"1\"\n  z: \"1\"\n"
	r := w.request("patch:apply", "v1/configmaps?manager=alice", "default", "a", one)
	_, result, err := w.do(r)
	if err != nil || result.Code != 201 {
		t.Fatalf("apply creates: %v %v", result, err)
	}
	if _, result, err = w.do(w.request("patch:apply", "v1/configmaps?manager=alice", "default", "a", one)); err != nil || result.Code == 201 {
		t.Fatalf("apply again: %v %v", result, err)
	}
	unchanged := result.Entry.Revision()

	// Another manager with another value: a conflict that names the owner.
	status := w.refused("patch:apply", "v1/configmaps?manager=bob", "default", "a", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {x: \"2\"}\n")
	if status.Code != 409 || status.Reason != metav1.StatusReasonConflict || status.Message != `Apply failed with 1 conflict: conflict with "alice": .data.x` ||
		len(status.Details.Causes) != 1 || status.Details.Causes[0].Type != metav1.CauseTypeFieldManagerConflict || status.Details.Causes[0].Field != ".data.x" {
		t.Errorf("conflict: %+v %+v", status, status.Details)
	}
	// With the same value both own it.
	cm := must[*corev1.ConfigMap](w, "patch:apply", "v1/configmaps?manager=bob", "default", "a", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {z: \"1\"}\n")
	if len(cm.ManagedFields) != 2 || cm.ResourceVersion == fmt.Sprint(unchanged) {
		t.Errorf("shared: %+v", cm.ManagedFields)
	}
	// By force bob takes x over; alice, who no longer says x, does not remove it.
	w.must("patch:apply", "v1/configmaps?manager=bob&force", "default", "a", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {x: \"2\", z: \"1\"}\n")
	cm = must[*corev1.ConfigMap](w, "patch:apply", "v1/configmaps?manager=alice", "default", "a", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {}\n")
	if cm.Data["x"] != "2" || cm.Data["z"] != "1" {
		t.Errorf("after alice gave up: %v", cm.Data)
	}
	// What its only owner no longer says goes away.
	cm = must[*corev1.ConfigMap](w, "patch:apply", "v1/configmaps?manager=bob", "default", "a", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {z: \"1\"}\n")
	if _, ok := cm.Data["x"]; ok {
		t.Errorf("after bob gave up x: %v", cm.Data)
	}
	for body, want := range map[string]string{
		"apiVersion: v1\nkind: Secret\nmetadata: {name: a}\n":                            "invalid object type: /v1, Kind=Secret",
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, managedFields: []}\n":      "metadata.managedFields must be nil",
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\nnonsense: 1\n":            ".nonsense: field not declared in schema",
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b, resourceVersion: \"1\"}\n": "does not match the name on the URL",
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, uid: u}\n":                 "metadata.uid",
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, resourceVersion: \"1\"}\n": "the object has been modified",
		"]": "error decoding patch",
	} {
		if status := w.refused("patch:apply", "v1/configmaps?manager=alice", "default", "a", body); !strings.Contains(status.Message, want) {
			t.Errorf("%q: %d %s, want %s", body, status.Code, status.Message, want)
		}
	}
}

func TestDelete(t *testing.T) {
	w := newWriting(t)
	create := func(name, meta string) *corev1.ConfigMap {
		return must[*corev1.ConfigMap](w, "create", "v1/configmaps", "default", "", fmt.Sprintf(`{"metadata":{"name":%q%s}}`, name, meta))
	}
	cm := create("plain", "")
	status := w.must("delete", "v1/configmaps", "default", "plain", "").(*metav1.Status)
	if status.Status != "Success" || status.Details.Name != "plain" || status.Details.Kind != "configmaps" || status.Details.UID != cm.UID {
		t.Errorf("deleted: %+v %+v", status, status.Details)
	}
	create("held", `,"finalizers":["example.com/wait"]`)
	held := must[*corev1.ConfigMap](w, "delete", "v1/configmaps", "default", "held", "")
	if held.DeletionTimestamp == nil || *held.DeletionGracePeriodSeconds != 0 {
		t.Errorf("held: %+v", held.ObjectMeta)
	}
	if again := must[*corev1.ConfigMap](w, "delete", "v1/configmaps", "default", "held", ""); again.ResourceVersion != held.ResourceVersion {
		t.Error("deleting again wrote")
	}
	if status := w.refused("create", "v1/configmaps", "default", "", `{"metadata":{"name":"held"}}`); status.Message != `object is being deleted: configmaps "held" already exists` {
		t.Errorf("create of what is going: %s", status.Message)
	}
	if status := w.refused("patch:merge", "v1/configmaps", "default", "held", `{"metadata":{"finalizers":["example.com/wait","example.com/more"]}}`); !strings.Contains(status.Message, "no new finalizers can be added if the object is being deleted") {
		t.Errorf("a new finalizer: %s", status.Message)
	}
	freed := must[*corev1.ConfigMap](w, "patch:merge", "v1/configmaps", "default", "held", `{"metadata":{"finalizers":null}}`)
	if len(freed.Finalizers) != 0 {
		t.Errorf("freed: %+v", freed.ObjectMeta)
	}
	if status := w.refused("delete", "v1/configmaps", "default", "held", ""); status.Code != 404 {
		t.Errorf("after its last finalizer: %+v", status)
	}
	for options, want := range map[string]string{
		`{"propagationPolicy":"Orphan"}`: "orphan", `{"propagationPolicy":"Foreground"}`: "foregroundDeletion", `{"orphanDependents":true}`: "orphan",
	} {
		create("owner", "")
		owner := must[*corev1.ConfigMap](w, "delete", "v1/configmaps", "default", "owner", options)
		if !slices.Equal(owner.Finalizers, []string{want}) {
			t.Errorf("%s: %v", options, owner.Finalizers)
		}
		w.must("patch:merge", "v1/configmaps", "default", "owner", `{"metadata":{"finalizers":null}}`)
	}
	create("dry", "")
	w.must("delete", "v1/configmaps", "default", "dry", `{"dryRun":["All"]}`)
	w.must("delete", "v1/configmaps", "default", "dry", "")
}

// https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-termination
func TestDeletePod(t *testing.T) {
	w := newWriting(t)
	w.must("create", "v1/pods", "default", "", podBody)
	w.must("delete", "v1/pods", "default", "web", "")
	if status := w.refused("delete", "v1/pods", "default", "web", ""); status.Code != 404 {
		t.Errorf("a pod on no node stayed: %+v", status)
	}
	w.must("create", "v1/pods", "default", "", podBody)
	w.must("create", "v1/pods", "default", "web/binding", `{"metadata":{"name":"web"},"target":{"kind":"Node","name":"n1"}}`)
	at := time.Now()
	pod := must[*corev1.Pod](w, "delete", "v1/pods", "default", "web", `{"gracePeriodSeconds":60}`)
	if *pod.DeletionGracePeriodSeconds != 60 || pod.DeletionTimestamp.Sub(at) < 58*time.Second || pod.DeletionTimestamp.Sub(at) > 62*time.Second {
		t.Errorf("a minute: %+v", pod.ObjectMeta)
	}
	if pod = must[*corev1.Pod](w, "delete", "v1/pods", "default", "web", `{"gracePeriodSeconds":90}`); *pod.DeletionGracePeriodSeconds != 60 {
		t.Errorf("more time: %d", *pod.DeletionGracePeriodSeconds)
	}
	if pod = must[*corev1.Pod](w, "delete", "v1/pods", "default", "web", `{"gracePeriodSeconds":5}`); *pod.DeletionGracePeriodSeconds != 5 || pod.DeletionTimestamp.Sub(at) > 7*time.Second {
		t.Errorf("less time: %+v", pod.ObjectMeta)
	}
	w.must("delete", "v1/pods", "default", "web", `{"gracePeriodSeconds":0}`)
	if status := w.refused("delete", "v1/pods", "default", "web", ""); status.Code != 404 {
		t.Errorf("after force: %+v", status)
	}
}

func TestDeleteNamespace(t *testing.T) {
	w := newWriting(t)
	w.must("create", "v1/namespaces", "", "", `{"metadata":{"name":"ns"},"spec":{"finalizers":["kubernetes"]}}`)
	ns := must[*corev1.Namespace](w, "delete", "v1/namespaces", "", "ns", "")
	if ns.Status.Phase != corev1.NamespaceTerminating || ns.DeletionTimestamp == nil {
		t.Fatalf("deleted: %+v", ns)
	}
	if err := w.fresh(context.Background()); err != nil {
		t.Fatal(err)
	}
	status := w.refused("create", "v1/configmaps", "ns", "", `{"metadata":{"name":"late"}}`)
	if status.Code != 403 || status.Message != `configmaps "late" is forbidden: unable to create new content in namespace ns because it is being terminated` ||
		len(status.Details.Causes) != 1 || status.Details.Causes[0].Type != corev1.NamespaceTerminatingCause {
		t.Errorf("late: %+v", status)
	}
	if again := must[*corev1.Namespace](w, "delete", "v1/namespaces", "", "ns", ""); again.ResourceVersion != ns.ResourceVersion {
		t.Error("deleting again wrote")
	}
	if _, ok := w.row("v1/namespaces").Kind.Subs["finalize"]; !ok {
		t.Fatal("namespaces have no subresource finalize")
	}
	w.must("update", "v1/namespaces", "", "ns/finalize", `{"metadata":{"name":"ns"},"spec":{"finalizers":[]}}`)
	if status := w.refused("delete", "v1/namespaces", "", "ns", ""); status.Code != 404 {
		t.Errorf("after finalize: %+v", status)
	}
}

// In the path of a namespace its name is a namespace too, for authorization.
func TestNamespaceInItsOwnPath(t *testing.T) {
	w := newWriting(t)
	for _, verb := range []string{"get", "patch:merge"} {
		if ns := must[*corev1.Namespace](w, verb, "v1/namespaces", "default", "default", `{"metadata":{"labels":{"a":"b"}}}`); ns.Name != "default" || ns.Namespace != "" {
			t.Errorf("%s: %+v", verb, ns.ObjectMeta)
		}
	}
}

func TestDeleteCollection(t *testing.T) {
	w := newWriting(t)
	for i := range 40 {
		w.must("create", "v1/configmaps", "default", "", fmt.Sprintf(`{"metadata":{"name":"c%d","labels":{"half":"%d"}}}`, i, i%2))
	}
	list := w.must("deletecollection", "v1/configmaps?label=half=1", "default", "", "").(*corev1.ConfigMapList)
	if len(list.Items) != 20 || list.Kind != "ConfigMapList" {
		t.Errorf("%d deleted, %s", len(list.Items), list.Kind)
	}
	if err := w.fresh(context.Background()); err != nil {
		t.Fatal(err)
	}
	left := 0
	for entry := range w.table(w.row("v1/configmaps")).Snapshot().All("default") {
		if strings.HasPrefix(entry.Name(), "c") {
			left++
		}
	}
	if left != 20 {
		t.Errorf("%d left", left)
	}
}

func TestBind(t *testing.T) {
	w := newWriting(t)
	w.must("create", "v1/nodes", "", "", `{"metadata":{"name":"n1","labels":{"topology.kubernetes.io/zone":"z1"}}}`)
	created := must[*corev1.Pod](w, "create", "v1/pods", "default", "", podBody)
	bind := func(meta string) string {
		return fmt.Sprintf(`{"metadata":{"name":"web"%s},"target":{"kind":"Node","name":"n1"}}`, meta)
	}
	if status := w.refused("create", "v1/pods", "default", "web/binding", bind(`,"uid":"other"`)); status.Code != 409 {
		t.Errorf("another pod of that name: %+v", status)
	}
	if err := w.fresh(context.Background()); err != nil {
		t.Fatal(err)
	}
	status := w.must("create", "v1/pods", "default", "web/binding", bind(fmt.Sprintf(`,"uid":%q,"annotations":{"a":"1"}`, created.UID))).(*metav1.Status)
	if status.Status != "Success" || status.Code != 201 {
		t.Errorf("bound: %+v", status)
	}
	entry, err := w.currentStored(context.Background(), podRow, "default", "web")
	if err != nil {
		t.Fatal(err)
	}
	pod := entry.Object().(*corev1.Pod)
	if pod.Spec.NodeName != "n1" || pod.Annotations["a"] != "1" || pod.Labels["topology.kubernetes.io/zone"] != "z1" || len(pod.Status.Conditions) == 0 || pod.Status.Conditions[0].Type != corev1.PodScheduled {
		t.Errorf("bound pod: %+v %+v", pod.ObjectMeta, pod.Status)
	}
	again := w.refused("create", "v1/pods", "default", "web/binding", bind(""))
	if again.Code != 409 || again.Message != `Operation cannot be fulfilled on pods/binding "web": pod web is already assigned to node "n1"` {
		t.Errorf("bound twice: %+v", again)
	}
	if status := w.refused("create", "v1/pods", "default", "web/binding", `{"metadata":{"name":"web"},"target":{"kind":"Pod","name":"n1"}}`); !strings.Contains(status.Message, `target.kind: Unsupported value: "Pod"`) {
		t.Errorf("to a pod: %s", status.Message)
	}
}

// https://kubernetes.io/docs/concepts/scheduling-eviction/api-eviction/
func TestEvict(t *testing.T) {
	w := newWriting(t)
	ctx := context.Background()
	running := func(name string, ready corev1.ConditionStatus) {
		w.must("create", "v1/pods", "default", "", strings.Replace(podBody, `"name":"web"`, fmt.Sprintf(`"name":%q`, name), 1))
		w.must("create", "v1/pods", "default", name+"/binding", fmt.Sprintf(`{"metadata":{"name":%q},"target":{"name":"n1"}}`, name))
		entry, err := w.currentStored(ctx, podRow, "default", name)
		if err != nil {
			t.Fatal(err)
		}
		pod := entry.Object().(*corev1.Pod).DeepCopy()
		pod.Status.Phase = corev1.PodRunning
		pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: ready})
		if _, err := w.put(ctx, podRow, pod, store.Condition{Revision: entry.Revision()}); err != nil {
			t.Fatal(err)
		}
	}
	budget := func(allowed, healthy, desired int32) {
		pdb := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "b", UID: "u"},
			Spec:   policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}},
			Status: policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: allowed, CurrentHealthy: healthy, DesiredHealthy: desired}}
		if _, err := w.put(ctx, budgetRow, pdb, store.Condition{Revision: store.Any}); err != nil {
			t.Fatal(err)
		}
	}
	evict := func(name string) (runtime.Object, error) {
		obj, _, err := w.do(w.request("create", "v1/pods", "default", name+"/eviction", fmt.Sprintf(`{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":%q}}`, name)))
		return obj, err
	}
	running("web", corev1.ConditionTrue)
	running("web2", corev1.ConditionTrue)
	running("sick", corev1.ConditionFalse)
	budget(1, 2, 1)
	if obj, err := evict("web"); err != nil || obj.(*metav1.Status).Status != "Success" {
		t.Fatalf("within the budget: %v %v", obj, err)
	}
	entry, err := w.currentStored(ctx, podRow, "default", "web")
	if err != nil {
		t.Fatal(err)
	}
	pod := entry.Object().(*corev1.Pod)
	if pod.DeletionTimestamp == nil || !slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.DisruptionTarget && c.Reason == "EvictionByEvictionAPI"
	}) {
		t.Errorf("evicted: %+v", pod.Status)
	}
	left, err := w.currentStored(ctx, budgetRow, "default", "b")
	if err != nil {
		t.Fatal(err)
	}
	if b := left.Object().(*policyv1.PodDisruptionBudget); b.Status.DisruptionsAllowed != 0 || len(b.Status.DisruptedPods) != 1 {
		t.Errorf("the budget: %+v", b.Status)
	}
	_, err = evict("web2")
	status := statusOf(err)
	if status.Code != 429 || status.Reason != metav1.StatusReasonTooManyRequests || status.Message != "Cannot evict pod as it would violate the pod's disruption budget." ||
		status.Details.Causes[0].Type != policyv1.DisruptionBudgetCause || status.Details.Causes[0].Message != "The disruption budget b does not allow evicting pods currently" {
		t.Errorf("beyond the budget: %+v %+v", status, status.Details)
	}
	if _, err := evict("sick"); err != nil {
		t.Errorf("a pod that is not ready costs nothing: %v", err)
	}
	if _, err := evict("web"); err != nil {
		t.Errorf("a pod that is going costs nothing: %v", err)
	}
	if _, err := evict("nobody"); !apierrors.IsNotFound(err) {
		t.Errorf("nobody: %v", err)
	}
}

// Sixty-four services at once on two servers: no address and no port twice, and
// all are given back with the services.
func TestServicesShareNothing(t *testing.T) {
	w := newWriting(t)
	other := startWriting(t, w.memory)
	defer other.stop()
	servers := []*writing{w, other}
	ips, ports := map[string]string{}, map[int32]string{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			obj, _, err := servers[i%2].do(w.request("create", "v1/services", "default", "", fmt.Sprintf(`{"metadata":{"name":"s%d"},"spec":{"type":"NodePort","ports":[{"port":80,"protocol":"TCP"}],"selector":{"a":"b"}}}`, i)))
			if err != nil {
				t.Error(err)
				return
			}
			svc := obj.(*corev1.Service)
			mu.Lock()
			defer mu.Unlock()
			if who := ips[svc.Spec.ClusterIP]; who != "" || svc.Spec.ClusterIP == "" {
				t.Errorf("%s and %s have address %q", who, svc.Name, svc.Spec.ClusterIP)
			}
			if who := ports[svc.Spec.Ports[0].NodePort]; who != "" || svc.Spec.Ports[0].NodePort == 0 {
				t.Errorf("%s and %s have port %d", who, svc.Name, svc.Spec.Ports[0].NodePort)
			}
			ips[svc.Spec.ClusterIP], ports[svc.Spec.Ports[0].NodePort] = svc.Name, svc.Name
		})
	}
	wg.Wait()
	held := func() int {
		if err := w.fresh(context.Background()); err != nil {
			t.Fatal(err)
		}
		return w.table(ipAddressRow).Snapshot().Len()
	}
	before := held()
	w.must("deletecollection", "v1/services", "default", "", "")
	if after := held(); before-after < 64 {
		t.Errorf("%d addresses before, %d after all services are gone", before, after)
	}
	// A service that is refused, or only tried, holds nothing.
	before = held()
	w.refused("create", "v1/services", "default", "", `{"metadata":{"name":"Bad_Name"},"spec":{"type":"NodePort","ports":[{"port":80}]}}`)
	w.must("create", "v1/services?dryRun", "default", "", `{"metadata":{"name":"dry"},"spec":{"type":"NodePort","ports":[{"port":80,"protocol":"TCP"}]}}`)
	if after := held(); after != before {
		t.Errorf("%d addresses before, %d after a refused service", before, after)
	}
}

func TestScale(t *testing.T) {
	w := newWriting(t)
	if w.row("apps/v1/deployments").Kind.Scale == nil {
		t.Fatal("deployments have no subresource scale")
	}
	w.must("create", "apps/v1/deployments", "default", "", `{"metadata":{"name":"d"},"spec":{"replicas":1,"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}`)
	w.must("patch:merge", "apps/v1/deployments?manager=scaler", "default", "d/scale", `{"spec":{"replicas":3}}`)
	entry, err := w.currentStored(context.Background(), w.row("apps/v1/deployments"), "default", "d")
	if err != nil {
		t.Fatal(err)
	}
	d := entry.Object().(*appsv1.Deployment)
	if *d.Spec.Replicas != 3 || d.Generation != 2 {
		t.Errorf("scaled: %d, generation %d", *d.Spec.Replicas, d.Generation)
	}
	if !slices.ContainsFunc(d.ManagedFields, func(e metav1.ManagedFieldsEntry) bool {
		return e.Manager == "scaler" && e.Subresource == "scale" && e.APIVersion == "apps/v1" && string(e.FieldsV1.GetRawBytes()) == `{"f:spec":{"f:replicas":{}}}`
	}) {
		t.Errorf("owners: %+v", d.ManagedFields)
	}
	if status := w.refused("update", "apps/v1/deployments", "default", "d/scale", `{"metadata":{"name":"d"},"spec":{"replicas":-1}}`); status.Code != 422 {
		t.Errorf("negative: %+v", status)
	}
}

// A write through a part of an object changes that part, and generation counts
// only what the user wants.
func TestParts(t *testing.T) {
	w := newWriting(t)
	if _, ok := podRow.Kind.Subs["status"]; !ok {
		t.Fatal("pods have no subresource status")
	}
	created := must[*corev1.Pod](w, "create", "v1/pods", "default", "", podBody)
	if created.Generation != 1 || created.Status.Phase != corev1.PodPending || created.Status.QOSClass != corev1.PodQOSBestEffort {
		t.Errorf("created: generation %d, %+v", created.Generation, created.Status)
	}
	pod := must[*corev1.Pod](w, "patch:merge", "v1/pods?manager=kubelet", "default", "web/status", `{"metadata":{"labels":{"x":"y"}},"spec":{"nodeName":"n1"},"status":{"phase":"Running","podIP":"10.0.0.1","podIPs":[{"ip":"10.0.0.1"}]}}`)
	if pod.Spec.NodeName != "" || pod.Status.Phase != corev1.PodRunning || pod.Generation != 1 {
		t.Errorf("after status: %+v", pod)
	}
	owner := slices.IndexFunc(pod.ManagedFields, func(e metav1.ManagedFieldsEntry) bool { return e.Manager == "kubelet" })
	if owner < 0 || pod.ManagedFields[owner].Subresource != "status" || strings.Contains(string(pod.ManagedFields[owner].FieldsV1.GetRawBytes()), "f:spec") {
		t.Errorf("owners: %+v", pod.ManagedFields)
	}
	pod = must[*corev1.Pod](w, "patch:merge", "v1/pods", "default", "web", `{"spec":{"activeDeadlineSeconds":60},"status":{"phase":"Failed"}}`)
	if pod.Status.Phase != corev1.PodRunning || pod.Generation != 2 {
		t.Errorf("after spec: phase %s, generation %d", pod.Status.Phase, pod.Generation)
	}
	if status := w.refused("patch:merge", "v1/pods", "default", "web", `{"spec":{"terminationGracePeriodSeconds":5,"hostname":"x"}}`); status.Code != 422 ||
		!strings.Contains(status.Message, "pod updates may not change fields other than") {
		t.Errorf("an immutable field: %+v", status)
	}
	pod = must[*corev1.Pod](w, "patch:strategic", "v1/pods", "default", "web/ephemeralcontainers", `{"spec":{"ephemeralContainers":[{"name":"debug","image":"busybox"}]}}`)
	if len(pod.Spec.EphemeralContainers) != 1 || pod.Spec.EphemeralContainers[0].TerminationMessagePath == "" {
		t.Errorf("debug: %+v", pod.Spec.EphemeralContainers)
	}
	if status := w.refused("update", "v1/pods", "default", "web/nonsense", `{"metadata":{"name":"web"}}`); status.Code != 404 {
		t.Errorf("no such part: %+v", status)
	}
}

// One autoscaler, seen in two versions.
func TestVersions(t *testing.T) {
	w := newWriting(t)
	const body = `{"metadata":{"name":"h"},"spec":{"maxReplicas":3,"targetCPUUtilizationPercentage":50,"scaleTargetRef":{"apiVersion":"apps/v1","kind":"Deployment","name":"d"}}}`
	first := must[*autoscalingv1.HorizontalPodAutoscaler](w, "create", "autoscaling/v1/horizontalpodautoscalers", "default", "", body)
	if *first.Spec.TargetCPUUtilizationPercentage != 50 || first.ManagedFields[0].APIVersion != "autoscaling/v1" {
		t.Errorf("created in v1: %+v", first)
	}
	second := must[*autoscalingv2.HorizontalPodAutoscaler](w, "patch:merge", "autoscaling/v2/horizontalpodautoscalers?manager=other", "default", "h", `{"spec":{"maxReplicas":4}}`)
	if second.Spec.MaxReplicas != 4 || len(second.Spec.Metrics) != 1 || second.UID != first.UID || len(second.ManagedFields) != 2 {
		t.Errorf("patched in v2: %+v", second)
	}
	apply := "apiVersion: autoscaling/v1\nkind: HorizontalPodAutoscaler\nmetadata: {name: h}\nspec: {maxReplicas: 9}\n"
	status := w.refused("patch:apply", "autoscaling/v1/horizontalpodautoscalers?manager=third", "default", "h", apply)
	if status.Message != `Apply failed with 1 conflict: conflict with "other" using autoscaling/v2: .spec.maxReplicas` {
		t.Errorf("conflict over versions: %s", status.Message)
	}
	third := must[*autoscalingv1.HorizontalPodAutoscaler](w, "patch:apply", "autoscaling/v1/horizontalpodautoscalers?manager=third&force", "default", "h", apply)
	if third.Spec.MaxReplicas != 9 || *third.Spec.TargetCPUUtilizationPercentage != 50 {
		t.Errorf("applied in v1: %+v", third.Spec)
	}
}

// measure runs f b.N times and reports what it cost this process, all that runs
// in the background (the cache, the collector) included.
func measure(b *testing.B, f func(i int)) {
	b.ReportAllocs()
	b.ResetTimer()
	before := cpu(b)
	for i := range b.N {
		f(i)
	}
	b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(b.N), "cpu-µs/op")
}

func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkCreatePod(b *testing.B) {
	w := newWriting(b)
	measure(b, func(i int) {
		w.must("create", "v1/pods", "default", "", strings.Replace(podBody, `"web"`, fmt.Sprintf(`"web-%d"`, i), 1))
	})
}

func BenchmarkPatchPod(b *testing.B) {
	for kind, body := range map[string]string{
		"merge":     `{"metadata":{"labels":{"n":"%d"}}}`,
		"strategic": `{"metadata":{"labels":{"n":"%d"}}}`,
		"json":      `[{"op":"add","path":"/metadata/labels/n","value":"%d"}]`,
		"apply":     `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web","labels":{"n":"%d"}}}`,
	} {
		b.Run(kind, func(b *testing.B) {
			w := newWriting(b)
			w.must("create", "v1/pods", "default", "", podBody)
			measure(b, func(i int) {
				w.must("patch:"+kind, "v1/pods?force&manager=bench", "default", "web", fmt.Sprintf(body, i))
			})
		})
	}
}

func BenchmarkUpdateStatus(b *testing.B) {
	w := newWriting(b)
	pod := must[*corev1.Pod](w, "create", "v1/pods", "default", "", podBody)
	measure(b, func(i int) {
		next := pod.DeepCopy()
		next.ResourceVersion = ""
		next.Status.Message = fmt.Sprint(i)
		r := w.request("update", "v1/pods", "default", "web/status", "")
		r.Body.Object = next
		if _, _, err := w.do(r); err != nil {
			b.Fatal(err)
		}
	})
}
