package apiregistration

import (
	"testing"

	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"skiff/api/kind/kindtest"
)

func TestAPIService(t *testing.T) {
	const valid = `{metadata: {name: v1beta1.metrics.k8s.io}, spec: {group: metrics.k8s.io, version: v1beta1, groupPriorityMinimum: 100, versionPriority: 100,
service: {namespace: kube-system, name: metrics}, insecureSkipTLSVerify: true}}`
	const local = `{metadata: {name: v1.}, spec: {version: v1, groupPriorityMinimum: 18000, versionPriority: 1}}`
	kindtest.Holds(t, APIService, valid)
	kindtest.Holds(t, APIService, local)
	type S = *apiregistrationv1.APIService
	s := kindtest.From[S](t, APIService, local)
	APIService.Create(s)
	if row := APIService.Row(s); row[1] != "Local" || row[2] != "True" {
		t.Errorf("row %v", row)
	}
	remote := kindtest.From[S](t, APIService, valid)
	remote.Status.Conditions = []apiregistrationv1.APIServiceCondition{{Type: "Available", Status: "False", Reason: "MissingEndpoints"}}
	if row := APIService.Row(remote); row[1] != "kube-system/metrics" || row[2] != "False (MissingEndpoints)" || *remote.Spec.Service.Port != 443 {
		t.Errorf("row %v", row)
	}
	kindtest.Refuses(t, APIService, valid, []kindtest.Case[S]{
		kindtest.When("name", func(s S) { s.Name = "x" }, "Invalid metadata.name: must be `spec.version+\".\"+spec.group`: \"v1beta1.metrics.k8s.io\""),
		kindtest.When("version", func(s S) { s.Spec.Version, s.Name = "1", "1.metrics.k8s.io" }, "Invalid spec.version"),
		kindtest.When("group", func(s S) { s.Spec.Group, s.Name = "", "v1beta1." }, "Required spec.group"),
		kindtest.When("priorities", func(s S) { s.Spec.GroupPriorityMinimum, s.Spec.VersionPriority = 20001, 0 }, "Invalid spec.groupPriorityMinimum", "Invalid spec.versionPriority"),
		kindtest.When("service", func(s S) { s.Spec.Service = &apiregistrationv1.ServiceReference{Port: new(int32(0))} },
			"Required spec.service.namespace", "Required spec.service.name", "Invalid spec.service.port"),
		kindtest.When("bundle", func(s S) { s.Spec.CABundle = []byte("x") }, "Invalid spec.insecureSkipTLSVerify"),
		kindtest.When("local", func(s S) { s.Spec.Service = nil }, "Invalid spec.insecureSkipTLSVerify: local APIServices may not have insecureSkipTLSVerify"),
	})
	kindtest.RefusesSub(t, APIService, "status", valid, []kindtest.Case[S]{
		kindtest.When("condition", func(s S) {
			s.Status.Conditions = []apiregistrationv1.APIServiceCondition{{Type: "Available", Status: "x"}}
		}, "NotSupported status.conditions[0].status"),
	})
}
