// Package servicecidr says which ServiceCIDRs are in use, and lets one go only when
// no address would be left without a range.
package servicecidr

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff/api"
	"skiff/client"
	"skiff/controllers/loop"
)

const (
	// protection is the finalizer that keeps a range while it has addresses.
	protection = "networking.k8s.io/service-cidr-finalizer"
	// grace is how long a range that is being deleted stays at least: API servers
	// may not have seen yet that nothing is to be taken from it.
	grace = 10 * time.Second
	// allocator is the manager of the addresses that services have.
	allocator = "ipallocator.k8s.io"
)

// Controller is the row of the table. Its keys are ServiceCIDRs.
func Controller() loop.Controller {
	return loop.Controller{
		Name:   "service-cidrs-controller",
		Reads:  []*api.Resource{api.For[*networkingv1.ServiceCIDR](), api.For[*networkingv1.IPAddress]()},
		Writes: []string{"servicecidrs", "servicecidrs/status"},
		Keys:   keys,
		Decide: Decide,
	}
}

// keys: a range that comes or goes concerns those that are being deleted, since it
// may hold their addresses; so does an address that goes.
func keys(v *client.View, c client.Change) (out []loop.Key) {
	own := c.Resource == api.For[*networkingv1.ServiceCIDR]()
	if !own && c.New != nil {
		return nil
	}
	for cidr := range client.All[*networkingv1.ServiceCIDR](v, "") {
		if cidr.DeletionTimestamp != nil || own && cidr.Name == c.Object().GetName() {
			out = append(out, loop.KeyOf(cidr))
		}
	}
	return out
}

// Decide protects a range, says that it is in use, and lets it go.
func Decide(v *client.View, key loop.Key, now time.Time, _ loop.Memory) (loop.Plan, loop.Memory) {
	cidr, ok := client.Find[*networkingv1.ServiceCIDR](v, "", key.Name)
	if !ok {
		return loop.Plan{}, nil
	}
	protected := slices.Contains(cidr.Finalizers, protection)
	if cidr.DeletionTimestamp == nil {
		var plan loop.Plan
		if !protected {
			plan.Writes = append(plan.Writes, finalizers(cidr, "finalizers"))
		}
		plan.Writes = append(plan.Writes, status(cidr, now, metav1.ConditionTrue, "", "Kubernetes Service CIDR is ready")...)
		for i := range plan.Writes {
			plan.Writes[i].Stage = i
		}
		return plan, nil
	}
	switch end := cidr.DeletionTimestamp.Add(grace); {
	case !protected:
		return loop.Plan{}, nil
	case needed(v, cidr):
		return loop.Plan{Writes: status(cidr, now, metav1.ConditionFalse, networkingv1.ServiceCIDRReasonTerminating,
			"There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR")}, nil
	case now.Before(end):
		return loop.Plan{WakeAt: end}, nil
	}
	return loop.Plan{Writes: []loop.Write{finalizers(cidr, "$deleteFromPrimitiveList/finalizers")}}, nil
}

// needed tells whether an address of a service would be in no range without this one.
func needed(v *client.View, cidr *networkingv1.ServiceCIDR) bool {
	mine, others := prefixes(cidr), []netip.Prefix{}
	for other := range client.All[*networkingv1.ServiceCIDR](v, "") {
		if other.Name != cidr.Name {
			others = append(others, prefixes(other)...)
		}
	}
	in := func(list []netip.Prefix, a netip.Addr) bool {
		return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	for address := range client.All[*networkingv1.IPAddress](v, "") {
		a, err := netip.ParseAddr(address.Name)
		if err == nil && address.Labels[networkingv1.LabelManagedBy] == allocator && in(mine, a) && !in(others, a) {
			return true
		}
	}
	return false
}

func prefixes(cidr *networkingv1.ServiceCIDR) (list []netip.Prefix) {
	for _, text := range cidr.Spec.CIDRs {
		if p, err := netip.ParsePrefix(text); err == nil {
			list = append(list, p.Masked())
		}
	}
	return list
}

// finalizers adds the finalizer or takes it away, and touches no other.
func finalizers(cidr *networkingv1.ServiceCIDR, how string) loop.Write {
	return patch(cidr, "", map[string]any{"metadata": map[string]any{"uid": cidr.UID, how: []string{protection}}})
}

// status says whether the range is in use; nothing, if it is said already.
func status(cidr *networkingv1.ServiceCIDR, now time.Time, is metav1.ConditionStatus, reason, message string) []loop.Write {
	have := meta.FindStatusCondition(cidr.Status.Conditions, networkingv1.ServiceCIDRConditionReady)
	if have != nil && have.Status == is && have.Reason == reason && have.Message == message {
		return nil
	}
	c := metav1.Condition{Type: networkingv1.ServiceCIDRConditionReady, Status: is, Reason: reason, Message: message, LastTransitionTime: metav1.NewTime(now)}
	if have != nil && have.Status == is {
		c.LastTransitionTime = have.LastTransitionTime
	}
	return []loop.Write{patch(cidr, "status", map[string]any{"metadata": map[string]any{"uid": cidr.UID}, "status": map[string]any{"conditions": []metav1.Condition{c}}})}
}

func patch(cidr *networkingv1.ServiceCIDR, sub string, fields map[string]any) loop.Write {
	data, err := json.Marshal(fields)
	if err != nil {
		panic(fmt.Sprintf("a patch of a service network always has a JSON form: %v", err))
	}
	w := loop.Patch(cidr, client.Patch{Type: types.StrategicMergePatchType, Data: data, Sub: sub})
	w.Optional = true
	return w
}
