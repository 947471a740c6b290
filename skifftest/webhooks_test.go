package skifftest_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"skiff/skifftest"
)

// hooks is a webhook server: judge answers each review.
type hooks struct {
	t     *testing.T
	url   string
	ca    []byte
	judge func(path string, r *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse

	mu    sync.Mutex
	asked []string // operation and resource of each review
}

func newHooks(t *testing.T, judge func(string, *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse) *hooks {
	h := &hooks{t: t, judge: judge}
	server := httptest.NewTLSServer(h)
	t.Cleanup(server.Close)
	h.url = server.URL
	h.ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	return h
}

func (h *hooks) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		h.t.Error(err)
	}
	var review admissionv1.AdmissionReview
	if err := json.Unmarshal(body, &review); err != nil || review.Request == nil {
		h.t.Errorf("review %s: %v", body, err)
		return
	}
	r := review.Request
	what := string(r.Operation) + " " + r.Resource.Resource
	if r.SubResource != "" {
		what += "/" + r.SubResource
	}
	h.mu.Lock()
	h.asked = append(h.asked, req.URL.Path+" "+what)
	h.mu.Unlock()
	review.Response = h.judge(req.URL.Path, r)
	review.Response.UID = r.UID
	review.Request = nil
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(review); err != nil {
		h.t.Error(err)
	}
}

func (h *hooks) client(path string) admissionregistrationv1.WebhookClientConfig {
	return admissionregistrationv1.WebhookClientConfig{URL: ptr.To(h.url + path), CABundle: h.ca}
}

func (h *hooks) times(what string) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, asked := range h.asked {
		if asked == what {
			n++
		}
	}
	return n
}

func rules(resources ...string) []admissionregistrationv1.RuleWithOperations {
	return []admissionregistrationv1.RuleWithOperations{{
		Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.OperationAll},
		Rule:       admissionregistrationv1.Rule{APIGroups: []string{"*"}, APIVersions: []string{"*"}, Resources: resources},
	}}
}

// eventually tries again while what was set up is not in force yet, as it may be
// for a moment after it was written.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
		time.Sleep(20 * time.Millisecond) // nothing tells when a webhook is in force
	}
}

// Webhooks change and refuse writes, see deletions and connections, are told apart
// by their selectors and conditions, and what they warn of reaches the client.
func TestWebhooksAreAsked(t *testing.T) {
	allow := func() *admissionv1.AdmissionResponse { return &admissionv1.AdmissionResponse{Allowed: true} }
	h := newHooks(t, func(path string, r *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		switch {
		case path == "/mutate" && r.Operation == admissionv1.Create:
			a := allow()
			a.PatchType = ptr.To(admissionv1.PatchTypeJSONPatch)
			a.Patch = []byte(`[{"op":"add","path":"/data/hooked","value":"yes"}]`)
			return a
		case path == "/validate" && strings.Contains(string(r.Object.Raw), "forbidden"):
			return &admissionv1.AdmissionResponse{Result: &metav1.Status{Message: "that word", Code: http.StatusTeapot}}
		case path == "/validate" && r.Operation == admissionv1.Delete && strings.Contains(string(r.OldObject.Raw), "keep"):
			return &admissionv1.AdmissionResponse{Result: &metav1.Status{Message: "it stays"}}
		}
		a := allow()
		a.Warnings = []string{"seen by " + path}
		return a
	})
	k := skifftest.New(t)
	var warned sync.Map
	config := k.RESTConfig()
	config.WarningHandlerWithContext = nil
	config.WarningHandler = warningFunc(func(text string) { warned.Store(text, true) })
	c := kubernetes.NewForConfigOrDie(config)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	none, scope := admissionregistrationv1.SideEffectClassNone, admissionregistrationv1.Fail
	_, err := c.AdmissionregistrationV1().MutatingWebhookConfigurations().Create(ctx, &admissionregistrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "m"},
		Webhooks: []admissionregistrationv1.MutatingWebhook{{
			Name: "m.example.com", ClientConfig: h.client("/mutate"), Rules: rules("configmaps"), SideEffects: &none, FailurePolicy: &scope, AdmissionReviewVersions: []string{"v1"},
			ObjectSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"hook": "yes"}},
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(ctx, &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "v"},
		Webhooks: []admissionregistrationv1.ValidatingWebhook{{
			Name: "v.example.com", ClientConfig: h.client("/validate"), Rules: rules("configmaps", "pods/exec", "deployments/scale"), SideEffects: &none, FailurePolicy: &scope, AdmissionReviewVersions: []string{"v1"},
			MatchConditions: []admissionregistrationv1.MatchCondition{{Name: "not-kube-system", Expression: "request.namespace != 'kube-system'"}},
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}

	maps := c.CoreV1().ConfigMaps("default")
	cm := func(name string, data, labels map[string]string) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Data: data}
	}
	hooked := map[string]string{"hook": "yes"}
	dry := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	eventually(t, "the mutating webhook", func() bool {
		made, err := maps.Create(ctx, cm("dry", map[string]string{"a": "b"}, hooked), dry)
		return err == nil && made.Data["hooked"] == "yes"
	})
	eventually(t, "the validating webhook", func() bool {
		_, err := maps.Create(ctx, cm("dry", map[string]string{"a": "forbidden"}, nil), dry)
		return err != nil
	})

	made, err := maps.Create(ctx, cm("one", map[string]string{"a": "b"}, hooked), metav1.CreateOptions{})
	if err != nil || made.Data["hooked"] != "yes" {
		t.Errorf("with the label: %v, %v", made, err)
	}
	if made, err = maps.Create(ctx, cm("two", map[string]string{"a": "b"}, nil), metav1.CreateOptions{}); err != nil || made.Data["hooked"] != "" {
		t.Errorf("without the label: %v, %v", made, err)
	}
	_, err = maps.Create(ctx, cm("three", map[string]string{"a": "forbidden"}, nil), metav1.CreateOptions{})
	if status, ok := err.(apierrors.APIStatus); !ok || status.Status().Code != http.StatusTeapot || status.Status().Message != `admission webhook "v.example.com" denied the request: that word` {
		t.Errorf("refused with %v", err)
	}
	made.Data["a"] = "forbidden"
	if _, err = maps.Update(ctx, made, metav1.UpdateOptions{}); err == nil {
		t.Error("the update was not refused")
	}
	if _, err := maps.Create(ctx, cm("kept", map[string]string{"a": "keep"}, nil), metav1.CreateOptions{}); err != nil {
		t.Error(err)
	}
	if err := maps.Delete(ctx, "kept", metav1.DeleteOptions{}); err == nil || !strings.Contains(err.Error(), "it stays") {
		t.Errorf("the deletion was refused with %v", err)
	}
	if _, err := c.CoreV1().ConfigMaps("kube-system").Create(ctx, cm("x", map[string]string{"a": "forbidden"}, nil), metav1.CreateOptions{}); err != nil {
		t.Errorf("where the condition leaves it out: %v", err)
	}
	if _, ok := warned.Load("seen by /validate"); !ok {
		t.Error("no warning came")
	}
	if n := h.times("/validate DELETE configmaps"); n == 0 {
		t.Error("no deletion was shown")
	}
}

type warningFunc func(string)

func (f warningFunc) HandleWarningHeader(code int, _, text string) {
	if code == 299 {
		f(text)
	}
}

// Policies change and refuse writes by CEL, with parameters from the cluster.
func TestPoliciesAreAsked(t *testing.T) {
	c := kubernetes.NewForConfigOrDie(skifftest.New(t).RESTConfig())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ok := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	every := &admissionregistrationv1.MatchResources{ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{RuleWithOperations: rules("configmaps")[0]}}}
	every.ResourceRules[0].Operations = []admissionregistrationv1.OperationType{admissionregistrationv1.Create, admissionregistrationv1.Update}
	policies := c.AdmissionregistrationV1()
	ok(c.CoreV1().ConfigMaps("kube-system").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "limits"}, Data: map[string]string{"most": "2"}}, metav1.CreateOptions{}))
	ok(policies.ValidatingAdmissionPolicies().Create(ctx, &admissionregistrationv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "few"},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{
			ParamKind: &admissionregistrationv1.ParamKind{APIVersion: "v1", Kind: "ConfigMap"}, MatchConstraints: every,
			Validations: []admissionregistrationv1.Validation{{
				Expression: "!has(object.data) || size(object.data) <= int(params.data.most)", MessageExpression: "'at most ' + params.data.most",
			}},
		},
	}, metav1.CreateOptions{}))
	ok(policies.ValidatingAdmissionPolicyBindings().Create(ctx, &admissionregistrationv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "few"},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: "few", ValidationActions: []admissionregistrationv1.ValidationAction{admissionregistrationv1.Deny},
			ParamRef:       &admissionregistrationv1.ParamRef{Name: "limits", Namespace: "kube-system", ParameterNotFoundAction: ptr.To(admissionregistrationv1.DenyAction)},
			MatchResources: &admissionregistrationv1.MatchResources{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: "default"}}},
		},
	}, metav1.CreateOptions{}))
	ok(policies.MutatingAdmissionPolicies().Create(ctx, &admissionregistrationv1.MutatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "mark"},
		Spec: admissionregistrationv1.MutatingAdmissionPolicySpec{
			MatchConstraints: every, ReinvocationPolicy: admissionregistrationv1.NeverReinvocationPolicy,
			Mutations: []admissionregistrationv1.Mutation{{
				PatchType:          admissionregistrationv1.PatchTypeApplyConfiguration,
				ApplyConfiguration: &admissionregistrationv1.ApplyConfiguration{Expression: `Object{metadata: Object.metadata{labels: Object.metadata.labels{marked: "yes"}}}`},
			}},
		},
	}, metav1.CreateOptions{}))
	ok(policies.MutatingAdmissionPolicyBindings().Create(ctx, &admissionregistrationv1.MutatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "mark"}, Spec: admissionregistrationv1.MutatingAdmissionPolicyBindingSpec{PolicyName: "mark"},
	}, metav1.CreateOptions{}))

	maps := c.CoreV1().ConfigMaps("default")
	three := map[string]string{"a": "1", "b": "2", "c": "3"}
	create := func(name string, data map[string]string) (*corev1.ConfigMap, error) {
		return maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	}
	var err error
	eventually(t, "the validating policy", func() bool {
		_, err = create("x", three)
		return err != nil
	})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "ValidatingAdmissionPolicy 'few' with binding 'few' denied request: at most 2") {
		t.Errorf("refused with %v", err)
	}
	if _, err := create("x", map[string]string{"a": "1"}); err != nil {
		t.Errorf("one entry: %v", err)
	}
	eventually(t, "the mutating policy", func() bool {
		made, err := create("x", nil)
		return err == nil && made.Labels["marked"] == "yes"
	})
}
