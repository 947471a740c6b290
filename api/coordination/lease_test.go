package coordination

import (
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"

	"skiff/api/kind/kindtest"
)

func TestLease(t *testing.T) {
	const valid = `
metadata: {name: n1, namespace: kube-node-lease}
spec: {holderIdentity: n1, leaseDurationSeconds: 40, renewTime: "2026-01-01T00:00:00.000000Z"}
`
	kindtest.Holds(t, Lease, valid)
	type L = *coordinationv1.Lease
	cases := []kindtest.Case[L]{
		kindtest.When("duration", func(l L) { l.Spec.LeaseDurationSeconds = new(int32(0)) }, "Invalid spec.leaseDurationSeconds: must be greater than 0"),
		kindtest.When("transitions", func(l L) { l.Spec.LeaseTransitions = new(int32(-1)) }, "Invalid spec.leaseTransitions"),
		kindtest.When("strategy", func(l L) { l.Spec.Strategy = new(coordinationv1.CoordinatedLeaseStrategy("x")) }, "NotSupported spec.strategy.strategy"),
		kindtest.When("strategy of others", func(l L) { l.Spec.Strategy = new(coordinationv1.CoordinatedLeaseStrategy("a.b/c")) }),
		kindtest.When("bad strategy of others", func(l L) { l.Spec.Strategy = new(coordinationv1.CoordinatedLeaseStrategy("a b/c")) }, "Invalid spec.strategy.strategy"),
		kindtest.When("preferred", func(l L) { l.Spec.PreferredHolder = new("x") }, "Forbidden spec.preferredHolder"),
	}
	kindtest.Refuses(t, Lease, valid, cases)
	kindtest.RefusesUpdate(t, Lease, valid, cases)
	l := kindtest.From[L](t, Lease, valid)
	l.Spec.PreferredHolder = new("x")
	Lease.Create(l)
	if l.Spec.PreferredHolder != nil {
		t.Error("coordinated election is on")
	}
	if Lease.Intent != nil {
		t.Error("a lease has a generation")
	}
}
