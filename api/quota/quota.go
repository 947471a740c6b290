// Package quota measures what objects use of a namespace's ResourceQuotas, and
// tells whether a quota lets them. It is the one measure of two parties: the API
// server charges by it when it admits a write, and the resource quota controller
// counts by it what there is. It never does I/O.
package quota

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"
)

// Measure says what the objects of one resource count for.
type Measure struct {
	counts func(name corev1.ResourceName) bool
	use    func(obj runtime.Object, now time.Time) corev1.ResourceList
	// inScope tells whether an object is what a scope selects; nil: never.
	inScope func(scope *corev1.ScopedResourceSelectorRequirement, obj runtime.Object) bool
	// missing says what a quota over the names wants an object to say; nil: nothing.
	missing func(names []corev1.ResourceName, obj runtime.Object) error
	// charged tells which writes may use more than before.
	charged func(verb, subresource string, obj, old runtime.Object) bool
}

// Of returns the measure of a resource with namespaces; nil: no quota counts it.
func Of(gr schema.GroupResource) *Measure {
	switch gr.String() {
	case "pods":
		return pods
	case "services":
		return services
	case "persistentvolumeclaims":
		return claims
	case "resourceclaims.resource.k8s.io":
		return deviceClaims
	case "events", "events.events.k8s.io", "bindings", "localsubjectaccessreviews.authorization.k8s.io":
		return nil
	}
	return counted(gr)
}

// countName is what a quota calls the number of a resource's objects.
func countName(gr schema.GroupResource) corev1.ResourceName {
	return corev1.ResourceName("count/" + gr.String())
}

// alias is the older name of a number of objects; a table.
var alias = map[schema.GroupResource]corev1.ResourceName{
	{Resource: "configmaps"}:             corev1.ResourceConfigMaps,
	{Resource: "resourcequotas"}:         corev1.ResourceQuotas,
	{Resource: "replicationcontrollers"}: corev1.ResourceReplicationControllers,
	{Resource: "secrets"}:                corev1.ResourceSecrets,
}

// Counted returns the resource whose objects a name counts, if that is all that
// it does: "count/widgets.example.com", "secrets".
func Counted(name corev1.ResourceName) (schema.GroupResource, bool) {
	if rest, ok := strings.CutPrefix(string(name), "count/"); ok {
		return schema.ParseGroupResource(rest), true
	}
	for gr, old := range alias {
		if old == name {
			return gr, true
		}
	}
	return schema.GroupResource{}, false
}

// counted is the measure of a resource whose objects are only counted.
func counted(gr schema.GroupResource) *Measure {
	name, old := countName(gr), alias[gr]
	return &Measure{
		counts: func(n corev1.ResourceName) bool { return n == name || old != "" && n == old },
		use: func(runtime.Object, time.Time) corev1.ResourceList {
			list := corev1.ResourceList{name: number(1)}
			if old != "" {
				list[old] = number(1)
			}
			return list
		},
		charged: func(verb, subresource string, _, _ runtime.Object) bool { return verb == "create" && subresource == "" },
	}
}

// Names returns those of the names that the measured objects count for, sorted.
func (m *Measure) Names(list corev1.ResourceList) (names []corev1.ResourceName) {
	for name := range list {
		if m.counts(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Use returns what an object uses now.
func (m *Measure) Use(obj runtime.Object, now time.Time) corev1.ResourceList { return m.use(obj, now) }

// Charged tells whether a write (create or update; old is nil on create) may use
// more than there was before.
func (m *Measure) Charged(verb, subresource string, obj, old runtime.Object) bool {
	return m.charged(verb, subresource, obj, old)
}

// Holds tells whether an object is among those that the scopes of a quota select.
func (m *Measure) Holds(spec *corev1.ResourceQuotaSpec, obj runtime.Object) bool {
	for _, scope := range scopes(spec) {
		if m.inScope == nil || !m.inScope(&scope, obj) {
			return false
		}
	}
	return true
}

// scopes are those of a quota in one form.
func scopes(spec *corev1.ResourceQuotaSpec) []corev1.ScopedResourceSelectorRequirement {
	var all []corev1.ScopedResourceSelectorRequirement
	for _, name := range spec.Scopes {
		all = append(all, corev1.ScopedResourceSelectorRequirement{ScopeName: name, Operator: corev1.ScopeSelectorOpExists})
	}
	if spec.ScopeSelector != nil {
		all = append(all, spec.ScopeSelector.MatchExpressions...)
	}
	return all
}

// Write is a write as a quota sees it.
type Write struct {
	Verb, Subresource string
	Object, Old       runtime.Object // Old is nil on create
	Now               time.Time
}

// Charge returns by how much a write raises what a quota says is used; nil: not
// at all. An error says why the quota does not let it be written, in Kubernetes' words.
func (m *Measure) Charge(q *corev1.ResourceQuota, w Write) (corev1.ResourceList, error) {
	names := m.Names(q.Status.Hard)
	if len(names) == 0 || !m.Holds(&q.Spec, w.Object) {
		return nil, nil
	}
	if m.missing != nil {
		if err := m.missing(names, w.Object); err != nil {
			return nil, fmt.Errorf("failed quota: %s: %w", q.Name, err)
		}
	}
	for _, name := range names {
		if _, ok := q.Status.Used[name]; !ok {
			return nil, fmt.Errorf("status unknown for quota: %s, resources: %s", q.Name, join(names))
		}
	}
	use := m.use(w.Object, w.Now)
	if negative := below(use); len(negative) > 0 {
		return nil, fmt.Errorf("quota usage is negative for resource(s): %s", join(negative))
	}
	if w.Old != nil && m.Holds(&q.Spec, w.Old) {
		use = rise(use, m.use(w.Old, w.Now))
	}
	more := corev1.ResourceList{}
	for _, name := range names {
		if amount := use[name]; !amount.IsZero() {
			more[name] = amount
		}
	}
	if len(more) == 0 {
		return nil, nil
	}
	return more, fits(q, w.Subresource, more)
}

// fits tells whether more may be used. What a status says has happened already.
func fits(q *corev1.ResourceQuota, subresource string, more corev1.ResourceList) error {
	if subresource == "status" {
		return nil
	}
	var beyond []corev1.ResourceName
	for name, amount := range more {
		total, hard := q.Status.Used[name].DeepCopy(), q.Status.Hard[name]
		total.Add(amount)
		if total.Cmp(hard) > 0 {
			beyond = append(beyond, name)
		}
	}
	if len(beyond) == 0 {
		return nil
	}
	return fmt.Errorf("exceeded quota: %s, requested: %s, used: %s, limited: %s", q.Name,
		show(more, beyond), show(q.Status.Used, beyond), show(q.Status.Hard, beyond))
}

// Add returns a + b.
func Add(a, b corev1.ResourceList) corev1.ResourceList {
	return combine(a, b, (*resource.Quantity).Add)
}

// Subtract returns a - b, which may be negative.
func Subtract(a, b corev1.ResourceList) corev1.ResourceList {
	return combine(a, b, (*resource.Quantity).Sub)
}

// Without returns those of a's amounts that are left without b; none below zero.
func Without(a, b corev1.ResourceList) corev1.ResourceList {
	left := make(corev1.ResourceList, len(a))
	for name, amount := range a {
		amount = amount.DeepCopy()
		if amount.Sub(b[name]); amount.Sign() < 0 {
			amount = resource.Quantity{Format: amount.Format}
		}
		left[name] = amount
	}
	return left
}

func combine(a, b corev1.ResourceList, with func(*resource.Quantity, resource.Quantity)) corev1.ResourceList {
	sum := make(corev1.ResourceList, len(a)+len(b))
	for name, amount := range a {
		sum[name] = amount.DeepCopy()
	}
	for name, amount := range b {
		have, ok := sum[name]
		if !ok {
			have = resource.Quantity{Format: amount.Format}
		}
		with(&have, amount)
		sum[name] = have
	}
	return sum
}

// rise is how much of now is new since before.
func rise(now, before corev1.ResourceList) corev1.ResourceList {
	difference := Subtract(now, before)
	maps.DeleteFunc(difference, func(_ corev1.ResourceName, amount resource.Quantity) bool { return amount.Sign() <= 0 })
	return difference
}

// Equal tells whether two lists have the same names and amounts.
func Equal(a, b corev1.ResourceList) bool {
	return maps.EqualFunc(a, b, func(x, y resource.Quantity) bool { return x.Cmp(y) == 0 })
}

func below(list corev1.ResourceList) (negative []corev1.ResourceName) {
	for name, amount := range list {
		if amount.Sign() < 0 {
			negative = append(negative, name)
		}
	}
	return negative
}

func number(n int) resource.Quantity { return *resource.NewQuantity(int64(n), resource.DecimalSI) }

// show prints amounts as messages have them: cpu=1,pods=2.
func show(list corev1.ResourceList, names []corev1.ResourceName) string {
	slices.Sort(names)
	var parts []string
	for _, name := range names {
		if amount, ok := list[name]; ok {
			amount = amount.DeepCopy() // String writes to what it prints
			parts = append(parts, string(name)+"="+amount.String())
		}
	}
	return strings.Join(parts, ",")
}

func join(names []corev1.ResourceName) string {
	slices.Sort(names)
	parts := make([]string, len(names))
	for i, name := range names {
		parts[i] = string(name)
	}
	return strings.Join(parts, ",")
}

// selects tells whether a scope's selector takes one of the values; none: the
// object has no value.
func selects(scope *corev1.ScopedResourceSelectorRequirement, values ...string) bool {
	operator, known := operators[scope.Operator]
	if !known {
		return false
	}
	requirement, err := labels.NewRequirement(string(scope.ScopeName), operator, scope.Values)
	if err != nil {
		return false // validation does not let it pass
	}
	if len(values) == 0 {
		return requirement.Matches(labels.Set{})
	}
	return slices.ContainsFunc(values, func(v string) bool { return requirement.Matches(labels.Set{string(scope.ScopeName): v}) })
}

var operators = map[corev1.ScopeSelectorOperator]selection.Operator{
	corev1.ScopeSelectorOpIn: selection.In, corev1.ScopeSelectorOpNotIn: selection.NotIn,
	corev1.ScopeSelectorOpExists: selection.Exists, corev1.ScopeSelectorOpDoesNotExist: selection.DoesNotExist,
}
