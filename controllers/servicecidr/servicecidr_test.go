package servicecidr

import (
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/controllers/rehearsal"
)

func cidrOf(name string, ranges ...string) *networkingv1.ServiceCIDR {
	return &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "uid-1"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: ranges}}
}

func addressOf(name string) *networkingv1.IPAddress {
	return &networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{networkingv1.LabelManagedBy: allocator}}}
}

func state(w *rehearsal.World, name string) string {
	obj := w.View.Lookup(Controller().Reads[0], "", name)
	if obj == nil {
		return "gone"
	}
	c := obj.(*networkingv1.ServiceCIDR)
	text := ""
	for _, f := range c.Finalizers {
		text += f + " "
	}
	for _, cond := range c.Status.Conditions {
		text += cond.Type + "=" + string(cond.Status) + " " + cond.Reason
	}
	return text
}

// A range stays as long as an address would be in none without it, and ten seconds.
func TestARangeGoesWithItsLastAddress(t *testing.T) {
	w := rehearsal.New(t, time.Unix(1_800_000_000, 0), Controller())
	w.Put(cidrOf("extra", "10.1.0.0/24"))
	w.Put(addressOf("10.1.0.7"))
	w.Put(addressOf("10.2.0.7"))
	w.Settle()
	if got, want := state(w, "extra"), protection+" Ready=True "; got != want {
		t.Fatalf("a new range: %q, want %q", got, want)
	}
	deleted := w.View.Lookup(Controller().Reads[0], "", "extra").DeepCopyObject().(*networkingv1.ServiceCIDR)
	deleted.DeletionTimestamp = &metav1.Time{Time: w.Now}
	w.Put(deleted)
	w.Advance(time.Minute)
	if got, want := state(w, "extra"), protection+" Ready=False "+networkingv1.ServiceCIDRReasonTerminating; got != want {
		t.Fatalf("a range in use: %q, want %q", got, want)
	}
	w.Remove(addressOf("10.1.0.7"))
	w.Settle()
	if got := state(w, "extra"); got != "gone" && got != "Ready=False "+networkingv1.ServiceCIDRReasonTerminating {
		t.Errorf("a range without addresses: %q", got)
	}
}

func TestALargerRangeTakesOver(t *testing.T) {
	w := rehearsal.New(t, time.Unix(1_800_000_000, 0), Controller())
	w.Put(cidrOf("small", "10.1.0.0/28"))
	w.Put(cidrOf("large", "10.1.0.0/16"))
	w.Put(addressOf("10.1.0.3"))
	w.Settle()
	deleted := w.View.Lookup(Controller().Reads[0], "", "small").DeepCopyObject().(*networkingv1.ServiceCIDR)
	deleted.DeletionTimestamp = &metav1.Time{Time: w.Now}
	w.Put(deleted)
	w.Advance(9 * time.Second)
	if got := state(w, "small"); got != protection+" Ready=True " {
		t.Errorf("before ten seconds are over: %q", got)
	}
	w.Advance(2 * time.Second)
	if got := state(w, "small"); got == protection+" Ready=True " {
		t.Errorf("it is still held: %q", got)
	}
}
