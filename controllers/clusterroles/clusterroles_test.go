package clusterroles

import (
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/client"
	"skiff/controllers/rehearsal"
)

func role(name, label, sumOf string, resources ...string) *rbacv1.ClusterRole {
	r := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{label: "true"}}}
	if sumOf != "" {
		r.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{sumOf: "true"}}}}
	}
	for _, resource := range resources {
		r.Rules = append(r.Rules, rbacv1.PolicyRule{Verbs: []string{"get"}, Resources: []string{resource}})
	}
	return r
}

func TestARoleIsTheSumOfOthersAndOfTheirSums(t *testing.T) {
	w := rehearsal.New(t, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Controller())
	w.Put(role("admin", "", "to-admin"))
	w.Put(role("edit", "to-admin", "to-edit"))
	w.Put(role("a", "to-edit", "", "pods", "services"))
	w.Put(role("b", "to-admin", "", "secrets", "pods"))
	w.Settle()
	resources := func(name string) (out string) {
		r, _ := client.Find[*rbacv1.ClusterRole](w.View, "", name)
		for _, rule := range r.Rules {
			out += rule.Resources[0] + " "
		}
		return out
	}
	if got := resources("admin"); got != "secrets pods services " {
		t.Errorf("admin: %s", got)
	}
	w.Remove(role("a", "", ""))
	w.Settle()
	if got := resources("edit") + resources("admin"); got != "secrets pods " {
		t.Errorf("after one has gone: %s", got)
	}
}
