package oracle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/client-go/kubernetes"
	clientrest "k8s.io/client-go/rest"
	"k8s.io/kube-openapi/pkg/builder3"
	openapicommon "k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/spec3"
	openapiutil "k8s.io/kube-openapi/pkg/util"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	generatedopenapi "k8s.io/kubernetes/pkg/generated/openapi"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/yaml"

	"skiff/skifftest"
)

// patched are the kinds that admission leaves as they were sent, whatever else there is, and that the server itself does
// not act on.
var patched = strings.Fields(`configmaps endpoints limitranges podtemplates replicationcontrollers secrets serviceaccounts
	controllerrevisions.apps daemonsets.apps deployments.apps replicasets.apps statefulsets.apps
	horizontalpodautoscalers.autoscaling horizontalpodautoscalers.v1.autoscaling cronjobs.batch jobs.batch
	leases.coordination.k8s.io endpointslices.discovery.k8s.io ingressclasses.networking.k8s.io ingresses.networking.k8s.io
	networkpolicies.networking.k8s.io runtimeclasses.node.k8s.io poddisruptionbudgets.policy
	roles.rbac.authorization.k8s.io rolebindings.rbac.authorization.k8s.io clusterroles.rbac.authorization.k8s.io
	clusterrolebindings.rbac.authorization.k8s.io deviceclasses.resource.k8s.io resourceclaims.resource.k8s.io
	resourceslices.resource.k8s.io csidrivers.storage.k8s.io csinodes.storage.k8s.io
	csistoragecapacities.storage.k8s.io storageclasses.storage.k8s.io volumeattachments.storage.k8s.io`)

// TestPatches has several managers create, update, patch and apply the same objects on our server and through
// upstream's libraries with its own types: what comes of it is the same, metadata.managedFields too.
func TestPatches(t *testing.T) {
	seed, n := environment("ORACLE_SEED", 1), int(environment("ORACLE_N", 60))/10
	t.Logf("ORACLE_SEED=%d, %d histories of each kind", seed, n)
	c := skifftest.New(t, skifftest.Config{Nodes: -1, NoControllers: true, NoScheduler: true})
	config := c.RESTConfig()
	config.QPS = -1
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().ServiceAccounts("default").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	types := upstreamTypes(t)
	for _, p := range pairs(t) {
		if !slices.Contains(patched, p.name) || !chosen(p.name) {
			continue
		}
		w := &patcher{writer: newWriter(t, p, seed+13), client: client.CoreV1().RESTClient(), managers: map[string]*managedfields.FieldManager{}}
		for _, sub := range w.subresources() {
			w.managers[sub] = w.manager(types, sub)
		}
		for i := range n + len(w.seeds) {
			w.history(i)
		}
	}
	results.report(t, "patch", "apply")
}

// upstreamTypes is upstream's knowledge of how lists merge: made of its own OpenAPI definitions.
var upstreamTypes = func() func(t testing.TB) managedfields.TypeConverter {
	var once sync.Once
	var converter managedfields.TypeConverter
	return func(t testing.TB) managedfields.TypeConverter {
		once.Do(func() {
			namer := openapi.NewDefinitionNamer(legacyscheme.Scheme)
			config := &openapicommon.OpenAPIV3Config{
				Info:              &spec.Info{InfoProps: spec.InfoProps{Title: "oracle"}},
				DefaultResponse:   &spec3.Response{ResponseProps: spec3.ResponseProps{Description: "Default Response."}},
				GetDefinitionName: namer.GetDefinitionName,
				GetDefinitions:    generatedopenapi.GetOpenAPIDefinitions,
			}
			var names []string
			for _, p := range pairs(t) {
				if slices.Contains(patched, p.name) {
					names = append(names, openapiutil.GetCanonicalTypeName(p.row.Kind.New()))
				}
			}
			definitions, err := builder3.BuildOpenAPIDefinitionsForResources(config, names...)
			if err != nil {
				t.Fatal(err)
			}
			if converter, err = managedfields.NewTypeConverter(definitions, false); err != nil {
				t.Fatal(err)
			}
		})
		return converter
	}
}()

// A patcher writes one kind's objects on both sides.
type patcher struct {
	*writer
	client   clientrest.Interface
	managers map[string]*managedfields.FieldManager // upstream's, by subresource
	made     int
}

func (w *patcher) strategy(sub string) rest.RESTUpdateStrategy {
	if sub == "" {
		return w.upstream.main
	}
	return w.upstream.subs[sub]
}

func (w *patcher) manager(types managedfields.TypeConverter, sub string) *managedfields.FieldManager {
	var reset map[fieldpath.APIVersion]fieldpath.Filter
	if s, ok := w.strategy(sub).(rest.ResetFieldsStrategy); ok {
		reset = fieldpath.NewExcludeFilterSetMap(s.GetResetFields())
	}
	if s, ok := w.strategy(sub).(rest.ResetFieldsFilterStrategy); ok {
		reset = s.GetResetFieldsFilter()
	}
	m, err := managedfields.NewDefaultFieldManager(types, runtime.UnsafeObjectConvertor(legacyscheme.Scheme), legacyscheme.Scheme, legacyscheme.Scheme,
		w.row.GVK(), schema.GroupVersion{Group: w.row.Group, Version: runtime.APIVersionInternal}, sub, reset)
	if err != nil {
		w.t.Fatal(err)
	}
	return m
}

// A write is one step of a history.
type write struct {
	verb, sub, manager string
	kind               types.PatchType // of a patch
	force              bool
	body               []byte
}

func (x write) String() string {
	return fmt.Sprintf("%s %s %s by %s (force %v): %s", x.verb, x.kind, x.sub, x.manager, x.force, x.body)
}

// history creates an object and changes it a few times.
func (w *patcher) history(i int) {
	var steps []string
	text := w.pool[i%len(w.seeds)]
	if i >= len(w.seeds) {
		if next := w.changed(text, 1); w.valid(next) {
			text = next
		}
	}
	obj := w.decode(text)
	w.made++
	name := fmt.Sprintf("%s-%d", strings.Trim(strings.ToLower(w.row.Singular), "-"), w.made)
	if w.row.Name == "csidrivers" {
		name = obj.GetName() + "." + name
	}
	obj.SetName(name)
	obj.SetGenerateName("")
	obj.SetResourceVersion("")
	obj.SetFinalizers(nil)
	obj.SetOwnerReferences(nil)
	obj.SetDeletionTimestamp(nil)
	x := write{verb: "create", manager: "creator", body: w.typed(must(w.t, obj))}
	if w.dice.Intn(3) == 0 {
		x = write{verb: "patch", kind: types.ApplyPatchType, manager: "creator", body: w.typed(must(w.t, obj))}
	}
	var live []byte
	for range 5 {
		steps = append(steps, x.String())
		what := "patch"
		if x.kind == types.ApplyPatchType {
			what = "apply"
		}
		have, ourErr := w.send(x, name)
		want, err := w.simulate(x, live, have)
		if errors.Is(err, errPanic) {
			break // there is no answer to compare with
		}
		difference := sameOutcome(want, err, have, ourErr)
		results.count(what, w.name, difference, func() string { return strings.Join(steps, "\n    ") })
		if difference != "" {
			break
		}
		if err == nil {
			obj := w.decode(want)
			obj.SetResourceVersion(w.decode(have).GetResourceVersion())
			live = must(w.t, obj)
		} else if live == nil {
			break
		}
		x = w.nextWrite(live, name)
	}
	w.client.Delete().AbsPath(w.path(name, "")).Do(context.Background())
}

// typed is a body with its kind.
func (w *patcher) typed(text []byte) []byte {
	var fields map[string]any
	if err := json.Unmarshal(text, &fields); err != nil {
		w.t.Fatal(err)
	}
	fields["kind"], fields["apiVersion"] = w.row.KindName, w.row.GVK().GroupVersion().String()
	return must(w.t, fields)
}

// nextWrite is a random write to a live object.
func (w *patcher) nextWrite(live []byte, name string) write {
	x := write{verb: "patch", manager: pick(w.dice, []string{"creator", "ann", "bob"}), force: w.dice.Intn(2) == 0}
	if _, ok := w.upstream.subs["status"]; ok && w.dice.Intn(4) == 0 {
		x.sub = "status"
	}
	base := live
	if w.dice.Intn(3) == 0 {
		base = w.mixed(live)
	}
	changed := w.named(w.changed(base, 1+w.dice.Intn(2)), live)
	switch w.dice.Intn(5) {
	case 0:
		x.verb, x.body = "update", w.typed(changed)
	case 1:
		x.kind = types.MergePatchType
		x.body, _ = jsonpatch.CreateMergePatch(live, changed)
	case 2:
		x.kind = types.StrategicMergePatchType
		x.body, _ = strategicpatch.CreateTwoWayMergePatch(live, changed, w.row.Kind.New())
	default:
		x.kind = types.ApplyPatchType
		x.body = w.typed(w.configuration(changed, name, x.sub))
	}
	if x.body == nil {
		x.kind, x.body = types.MergePatchType, []byte(`{}`)
	}
	return x
}

// configuration is a part of an object, as one who applies it would send it.
func (w *patcher) configuration(text []byte, name, sub string) []byte {
	var fields map[string]any
	if err := json.Unmarshal(text, &fields); err != nil {
		w.t.Fatal(err)
	}
	meta := map[string]any{"name": name}
	if was, ok := fields["metadata"].(map[string]any); ok {
		for _, key := range []string{"labels", "annotations", "finalizers", "ownerReferences"} {
			if was[key] != nil && w.dice.Intn(2) == 0 {
				meta[key] = was[key]
			}
		}
	}
	delete(fields, "metadata")
	if (sub == "") != (w.dice.Intn(8) == 0) {
		delete(fields, "status")
	}
	w.prune(fields)
	fields["metadata"] = meta
	return must(w.t, fields)
}

// prune takes fields out of a tree, but few of those that name the elements of lists.
func (w *patcher) prune(v any) {
	switch x := v.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(x)) {
			names := slices.Contains([]string{"name", "type", "key", "containerPort", "protocol", "port", "topologyKey", "mountPath", "ip", "uid"}, key)
			if x[key] == nil || !names && w.dice.Intn(4) == 0 || names && w.dice.Intn(40) == 0 {
				delete(x, key)
				continue
			}
			w.prune(x[key])
		}
	case []any:
		for _, e := range x {
			w.prune(e)
		}
	}
}

func (w *patcher) path(name, sub string) string {
	path := "/apis/" + w.row.Group + "/" + w.row.Version
	if w.row.Group == "" {
		path = "/api/v1"
	}
	if w.row.Namespaced {
		path += "/namespaces/default"
	}
	path += "/" + w.row.Name
	if name != "" {
		path += "/" + name
	}
	if sub != "" {
		path += "/" + sub
	}
	return path
}

// send makes the write on our server.
func (w *patcher) send(x write, name string) ([]byte, error) {
	var r *clientrest.Request
	switch x.verb {
	case "create":
		r = w.client.Post().AbsPath(w.path("", ""))
	case "update":
		r = w.client.Put().AbsPath(w.path(name, x.sub))
	default:
		r = w.client.Patch(x.kind).AbsPath(w.path(name, x.sub))
	}
	if x.kind == "" {
		r.SetHeader("Content-Type", runtime.ContentTypeJSON)
	}
	if x.kind == types.ApplyPatchType {
		r.Param("force", fmt.Sprint(x.force))
	}
	r.SetHeader("Accept", runtime.ContentTypeJSON).Param("fieldManager", x.manager).Param("fieldValidation", "Ignore")
	text, err := r.Body(x.body).Do(context.Background()).Raw()
	var status metav1.Status
	if err != nil && json.Unmarshal(text, &status) == nil && status.Kind == "Status" {
		return nil, &apierrors.StatusError{ErrStatus: status}
	}
	return text, err
}

// simulate does with upstream's libraries what its API server does, beginning at live (nil: there is nothing). What
// is decided by chance and by the clock is taken from ours.
func (w *patcher) simulate(x write, live, ours []byte) (out []byte, err error) {
	if p := safely(func() { out, err = w.simulated(x, live, ours) }); p != nil {
		return nil, fmt.Errorf("%w: %v", errPanic, p)
	}
	return out, err
}

var errPanic = errors.New("upstream panics")

func (w *patcher) simulated(x write, live, ours []byte) ([]byte, error) {
	fields := w.managers[x.sub]
	var old, in runtime.Object
	var err error
	if live != nil {
		old = w.must(live)
	} else if old, err = legacyscheme.Scheme.New(w.row.GVK()); err != nil {
		return nil, err
	}
	if x.kind == types.ApplyPatchType {
		sent := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(x.body, &sent.Object); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		if in, err = fields.Apply(old.DeepCopyObject(), sent, x.manager, x.force); err != nil {
			return nil, err
		}
	} else {
		text, err := w.patchedText(x, live)
		if err != nil {
			return nil, err
		}
		if in, err = w.internal(text); err != nil {
			return nil, err
		}
		if live == nil {
			rest.WipeObjectMetaSystemFields(in.(metav1.Object))
		}
		in = fields.UpdateNoErrors(old.DeepCopyObject(), in, x.manager)
	}
	if live == nil {
		return w.finishCreate(in, ours)
	}
	if obj := in.(metav1.Object); obj.GetResourceVersion() == "" && w.strategy(x.sub).AllowUnconditionalUpdate(context.Background()) {
		obj.SetResourceVersion(old.(metav1.Object).GetResourceVersion())
	}
	ctx, _ := w.listening(x.sub)
	if err := rest.BeforeUpdate(w.strategy(x.sub), ctx, in, old); err != nil {
		return nil, err
	}
	return must(w.t, w.read(in)), nil
}

// patchedText is the object that a write leads to, before defaults.
func (w *patcher) patchedText(x write, live []byte) ([]byte, error) {
	switch x.kind {
	case types.MergePatchType:
		return jsonpatch.MergePatch(live, x.body)
	case types.StrategicMergePatchType:
		return strategicpatch.StrategicMergePatch(live, x.body, w.row.Kind.New())
	}
	return x.body, nil
}

func (w *patcher) finishCreate(in runtime.Object, ours []byte) ([]byte, error) {
	obj := in.(metav1.Object)
	rest.WipeObjectMetaSystemFields(obj)
	rest.FillObjectMetaSystemFields(obj)
	if w.row.Namespaced {
		obj.SetNamespace("default")
	}
	if made := w.decode(ours); made != nil {
		obj.SetUID(made.GetUID())
		obj.SetCreationTimestamp(made.GetCreationTimestamp())
	}
	ctx, _ := w.listening("")
	if err := rest.BeforeCreate(w.upstream.main, ctx, in); err != nil {
		return nil, err
	}
	return must(w.t, w.read(in)), nil
}

// sameOutcome says where two answers to a write differ.
func sameOutcome(want []byte, err error, have []byte, ourErr error) string {
	if (err == nil) != (ourErr == nil) {
		return fmt.Sprintf("  upstream: %v\n  skiff:    %v", firstLine(err), firstLine(ourErr))
	}
	if err != nil {
		if a, b := reasonOf(err), reasonOf(ourErr); a != b {
			return fmt.Sprintf("  upstream: %v: %v\n  skiff:    %v: %v", a, firstLine(err), b, firstLine(ourErr))
		}
		if reasonOf(err) == metav1.StatusReasonConflict && err.Error() != ourErr.Error() {
			return fmt.Sprintf("  upstream: %v\n  skiff:    %v", err, ourErr)
		}
		return ""
	}
	return sameTrees(settled(want), settled(have))
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(fmt.Sprint(err), "\n")
	return cut(line, 300)
}

// reasonOf an error; the libraries' own errors become what upstream's server makes of them.
func reasonOf(err error) metav1.StatusReason {
	if reason := apierrors.ReasonForError(err); reason != metav1.StatusReasonUnknown {
		return reason
	}
	return metav1.StatusReasonInternalError
}

// settled is an object without what differs from one run to another.
func settled(text []byte) map[string]any {
	var obj map[string]any
	if err := json.Unmarshal(text, &obj); err != nil {
		return map[string]any{"error": err.Error()}
	}
	delete(obj, "kind")
	delete(obj, "apiVersion")
	meta, _ := obj["metadata"].(map[string]any)
	delete(meta, "resourceVersion")
	owners, _ := meta["managedFields"].([]any)
	for _, o := range owners {
		delete(o.(map[string]any), "time")
	}
	slices.SortFunc(owners, func(a, b any) int { return strings.Compare(short(a), short(b)) })
	return obj
}
