// Package clusterroles gives ClusterRoles with an aggregationRule the rules of the
// roles that it selects.
package clusterroles

import (
	"slices"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"skiff/api"
	"skiff/client"
	"skiff/controllers/loop"
)

// Controller is the row of the table. Its keys are the roles that aggregate.
func Controller() loop.Controller {
	return loop.Controller{
		Name:   "clusterrole-aggregation-controller",
		Reads:  []*api.Resource{api.For[*rbacv1.ClusterRole]()},
		Writes: []string{"clusterroles"},
		Keys: func(v *client.View, _ client.Change) (keys []loop.Key) {
			for role := range client.All[*rbacv1.ClusterRole](v, "") {
				if role.AggregationRule != nil {
					keys = append(keys, loop.KeyOf(role))
				}
			}
			return keys
		},
		Decide: Decide,
	}
}

// Decide puts the rules right.
func Decide(v *client.View, key loop.Key, _ time.Time, _ loop.Memory) (loop.Plan, loop.Memory) {
	role, ok := client.Find[*rbacv1.ClusterRole](v, "", key.Name)
	if !ok || role.AggregationRule == nil || role.DeletionTimestamp != nil {
		return loop.Plan{}, nil
	}
	rules := []rbacv1.PolicyRule{}
	for _, s := range role.AggregationRule.ClusterRoleSelectors {
		selector, err := metav1.LabelSelectorAsSelector(&s)
		if err != nil {
			return loop.Plan{}, nil // validation does not let it in
		}
		for other := range client.All[*rbacv1.ClusterRole](v, "") {
			if other.Name == role.Name || !selector.Matches(labels.Set(other.Labels)) {
				continue
			}
			for _, rule := range other.Rules {
				if !slices.ContainsFunc(rules, func(have rbacv1.PolicyRule) bool { return apiequality.Semantic.DeepEqual(have, rule) }) {
					rules = append(rules, rule)
				}
			}
		}
	}
	if apiequality.Semantic.DeepEqual(role.Rules, rules) {
		return loop.Plan{}, nil
	}
	next := role.DeepCopy()
	next.Rules = rules
	return loop.Plan{Writes: []loop.Write{loop.Update(next)}}, nil
}
