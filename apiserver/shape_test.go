package apiserver

import (
	"context"
	"io"
	"net/http"
	"testing"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"skiff/cluster/pki"
)

// narrow makes a priority level of one seat that queues nothing, for one user.
func narrow(t *testing.T, admin *kubernetes.Clientset, user string) (*flowcontrolv1.FlowSchema, *flowcontrolv1.PriorityLevelConfiguration) {
	t.Helper()
	one, none := int32(1), int32(0)
	level, err := admin.FlowcontrolV1().PriorityLevelConfigurations().Create(t.Context(), &flowcontrolv1.PriorityLevelConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "narrow"},
		Spec: flowcontrolv1.PriorityLevelConfigurationSpec{Type: flowcontrolv1.PriorityLevelEnablementLimited,
			Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{NominalConcurrencyShares: &one, BorrowingLimitPercent: &none,
				LimitResponse: flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	schema, err := admin.FlowcontrolV1().FlowSchemas().Create(t.Context(), &flowcontrolv1.FlowSchema{
		ObjectMeta: metav1.ObjectMeta{Name: "narrow"},
		Spec: flowcontrolv1.FlowSchemaSpec{MatchingPrecedence: 10, PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: "narrow"},
			Rules: []flowcontrolv1.PolicyRulesWithSubjects{{
				Subjects:      []flowcontrolv1.Subject{{Kind: "User", User: &flowcontrolv1.UserSubject{Name: user}}},
				ResourceRules: []flowcontrolv1.ResourcePolicyRule{{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}, Namespaces: []string{"*"}, ClusterScope: true}},
			}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return schema, level
}

// What a FlowSchema says of a user counts, answers say by what they were
// classified, and the seats of a level are all that it has: its own flood cannot
// have more, nor shut others out.
func TestFlowControl(t *testing.T) {
	l := listen(t, func(c *Config, _ *pki.Authority) { c.Front.MaxReads, c.Front.MaxWrites = 20, 20 })
	defer l.stop()
	admin := kubernetes.NewForConfigOrDie(l.config)
	schema, level := narrow(t, admin, "flooder")
	flooder, err := rest.HTTPClientFor(l.as(t, "flooder"))
	if err != nil {
		t.Fatal(err)
	}
	get := func(c *http.Client) *http.Response {
		t.Helper()
		resp, err := c.Get(l.url + "/api/v1/namespaces/default/pods/x")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		return resp
	}
	deadline := time.Now().Add(20 * time.Second)
	var resp *http.Response
	for {
		resp = get(flooder)
		if resp.Header.Get(flowcontrolv1.ResponseHeaderMatchedFlowSchemaUID) == string(schema.UID) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the schema never counts: %v", resp.Header)
		}
	}
	if got := resp.Header.Get(flowcontrolv1.ResponseHeaderMatchedPriorityLevelConfigurationUID); got != string(level.UID) {
		t.Errorf("level %s, want %s", got, level.UID)
	}

	// Somebody sits on the only seat.
	class := l.flow.Classify(digestOf(&Request{User: &user.DefaultInfo{Name: "flooder", Groups: []string{user.AllAuthenticated}}, Verb: "get", Resource: podRow, Namespace: "default"}))
	leave, err := l.flow.Enter(t.Context(), class, 1)
	if err != nil {
		t.Fatal(err)
	}
	if resp := get(flooder); resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") == "" ||
		resp.Header.Get(flowcontrolv1.ResponseHeaderMatchedFlowSchemaUID) != string(schema.UID) {
		t.Errorf("without a seat: %s %v", resp.Status, resp.Header)
	}
	if _, err := admin.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Errorf("an administrator beside a flood: %v", err)
	}
	leave()
	if resp := get(flooder); resp.StatusCode == http.StatusTooManyRequests {
		t.Error("the seat was not given back")
	}

	// The schema is told that its level is there, and that it goes.
	danglingIs := func(want flowcontrolv1.ConditionStatus) {
		t.Helper()
		w, err := admin.FlowcontrolV1().FlowSchemas().Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=narrow"})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
		for {
			select {
			case event := <-w.ResultChan():
				if s, ok := event.Object.(*flowcontrolv1.FlowSchema); ok && len(s.Status.Conditions) == 1 && s.Status.Conditions[0].Status == want {
					return
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("Dangling never becomes %s", want)
			}
		}
	}
	danglingIs(flowcontrolv1.ConditionFalse)
	if err := admin.FlowcontrolV1().PriorityLevelConfigurations().Delete(t.Context(), "narrow", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	danglingIs(flowcontrolv1.ConditionTrue)
}

// What every cluster has comes back when it is deleted, and is put right when a
// user may not change it.
func TestMandatoryFlowObjects(t *testing.T) {
	w := newWriting(t)
	w.must("delete", "flowcontrol.apiserver.k8s.io/v1/flowschemas", "", "catch-all", "")
	w.must("delete", "flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations", "", "workload-low", "")
	w.must("patch:merge", "flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations", "", "exempt", `{"spec":{"exempt":{"lendablePercent":7}}}`)
	w.must("patch:merge", "flowcontrol.apiserver.k8s.io/v1/flowschemas", "", "service-accounts", `{"metadata":{"annotations":{"apf.kubernetes.io/autoupdate-spec":"false"}},"spec":{"matchingPrecedence":8999}}`)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, back := range []struct {
		row  string
		name string
	}{{"flowschemas", "catch-all"}, {"prioritylevelconfigurations", "workload-low"}} {
		for {
			_, _, err := w.do(w.request("get", "flowcontrol.apiserver.k8s.io/v1/"+back.row, "", back.name, ""))
			if err == nil {
				break
			}
			if !apierrors.IsNotFound(err) || ctx.Err() != nil {
				t.Fatalf("%s %s does not come back: %v", back.row, back.name, err)
			}
			if err := w.cache.WaitFor(ctx, w.cache.Revision()+1); err != nil {
				t.Fatalf("%s %s does not come back: %v", back.row, back.name, err)
			}
		}
	}
	level := must[*flowcontrolv1.PriorityLevelConfiguration](w, "get", "flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations", "", "exempt", "")
	if got := level.Spec.Exempt.LendablePercent; got == nil || *got != 7 {
		t.Errorf("the shares of the exempt level, which users may change: %v", got)
	}
	schema := must[*flowcontrolv1.FlowSchema](w, "get", "flowcontrol.apiserver.k8s.io/v1/flowschemas", "", "service-accounts", "")
	if schema.Spec.MatchingPrecedence != 8999 {
		t.Errorf("a schema that a user made his own was put back to %d", schema.Spec.MatchingPrecedence)
	}
}
