package flow

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/apiserver/pkg/authentication/user"
)

func levelOf(name string, shares int32, lendable int32, queues, hand, length int32) *flowcontrolv1.PriorityLevelConfiguration {
	l := &flowcontrolv1.PriorityLevelConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "uid-" + "l"},
		Spec: flowcontrolv1.PriorityLevelConfigurationSpec{Type: flowcontrolv1.PriorityLevelEnablementLimited,
			Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{NominalConcurrencyShares: &shares, LendablePercent: &lendable,
				LimitResponse: flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject}}}}
	if queues > 0 {
		l.Spec.Limited.LimitResponse = flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeQueue,
			Queuing: &flowcontrolv1.QueuingConfiguration{Queues: queues, HandSize: hand, QueueLengthLimit: length}}
	}
	return l
}

func schemaFor(name, level string, precedence int32, by flowcontrolv1.FlowDistinguisherMethodType, subject flowcontrolv1.Subject) *flowcontrolv1.FlowSchema {
	return &flowcontrolv1.FlowSchema{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: flowcontrolv1.FlowSchemaSpec{
		PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: level}, MatchingPrecedence: precedence,
		DistinguisherMethod: &flowcontrolv1.FlowDistinguisherMethod{Type: by},
		Rules: []flowcontrolv1.PolicyRulesWithSubjects{{Subjects: []flowcontrolv1.Subject{subject},
			ResourceRules:    []flowcontrolv1.ResourcePolicyRule{{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}, Namespaces: []string{"*"}, ClusterScope: true}},
			NonResourceRules: []flowcontrolv1.NonResourcePolicyRule{{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}}}}}}}
}

func groupNamed(name string) flowcontrolv1.Subject {
	return flowcontrolv1.Subject{Kind: "Group", Group: &flowcontrolv1.GroupSubject{Name: name}}
}

func by(name, group string) Digest {
	return Digest{User: &user.DefaultInfo{Name: name, Groups: []string{group}}, Verb: "get", IsResource: true, Resource: "pods", Namespace: "ns"}
}

// two is a server of 20 seats with levels a and b of 8 seats each, and what is mandatory.
func two(queues, hand, length int32) *Controller {
	c := New(20)
	c.Set([]*flowcontrolv1.FlowSchema{
		schemaFor("a", "a", 100, flowcontrolv1.FlowDistinguisherMethodByUserType, groupNamed("a")),
		schemaFor("b", "b", 100, flowcontrolv1.FlowDistinguisherMethodByUserType, groupNamed("b")),
	}, []*flowcontrolv1.PriorityLevelConfiguration{levelOf("a", 10, 50, queues, hand, length), levelOf("b", 10, 50, queues, hand, length)})
	return c
}

func (c *Controller) of(t *testing.T, name string) LevelState {
	t.Helper()
	for _, l := range c.Report() {
		if l.Name == name {
			return l
		}
	}
	t.Fatalf("no level %s", name)
	return LevelState{}
}

// A level borrows what others do not use, but never what they do not lend.
func TestBorrowing(t *testing.T) {
	c := two(0, 0, 0)
	var leaves []func()
	enter := func(name, group string) error {
		leave, err := c.Enter(t.Context(), c.Classify(by(name, group)), 1)
		if err == nil {
			leaves = append(leaves, leave)
		}
		return err
	}
	n := 0
	for enter("flood", "a") == nil {
		n++
	}
	a, b, rest := c.of(t, "a"), c.of(t, "b"), c.of(t, "catch-all")
	if want := c.total - b.Least - rest.Least; n != want || n <= a.Nominal {
		t.Errorf("a took %d seats of %d, its own %d and what is lent; want %d", n, c.total, a.Nominal, want)
	}
	for i := range b.Least {
		if err := enter("calm", "b"); err != nil {
			t.Fatalf("seat %d of b, which it never lends: %v", i, err)
		}
	}
	if err := enter("calm", "b"); err != NoSeat {
		t.Errorf("a seat that is lent: %v", err)
	}
	for _, leave := range leaves {
		leave()
		leave() // twice is once
	}
	for _, l := range c.Report() {
		if l.Taken != 0 || l.Executing != 0 {
			t.Errorf("%s: %d seats are still taken", l.Name, l.Taken)
		}
	}
}

// A user who floods a level does not hold up another one of the same level: the
// queues take turns.
func TestFlowsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := two(16, 2, 200)
		end, cancel := context.WithCancel(t.Context())
		serve := func(name string, took time.Duration) time.Duration {
			start := time.Now()
			leave, err := c.Enter(end, c.Classify(by(name, "a")), 1)
			if err != nil {
				return -1
			}
			waited := time.Since(start)
			time.Sleep(took)
			leave()
			return waited
		}
		var wait sync.WaitGroup
		for range 300 {
			wait.Go(func() {
				for end.Err() == nil && serve("flood", 100*time.Millisecond) >= 0 {
				}
			})
		}
		time.Sleep(5 * time.Second)
		if n := c.of(t, "a").Waiting; n < 100 {
			t.Errorf("only %d wait in a flood", n)
		}
		var worst time.Duration
		for range 20 {
			worst = max(worst, serve("calm", 10*time.Millisecond))
		}
		if worst > 300*time.Millisecond {
			t.Errorf("a calm user waited %s beside a flood", worst)
		}
		cancel()
		wait.Wait()
	})
}

// Who waits too long, or finds its queue full, is told so, and takes no place.
func TestWaitingEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := two(1, 1, 2)
		class := c.Classify(by("u", "a"))
		var leaves []func()
		for c.of(t, "a").Waiting == 0 && len(leaves) < 100 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			leave, err := c.Enter(ctx, class, 1)
			cancel()
			if err != nil {
				if err != TimeOut {
					t.Errorf("after its time: %v", err)
				}
				break
			}
			leaves = append(leaves, leave)
		}
		results := make(chan error, 3)
		ctx, cancel := context.WithCancel(t.Context())
		for range 2 {
			go func() {
				leave, err := c.Enter(ctx, class, 1)
				if err == nil {
					leave()
				}
				results <- err
			}()
		}
		synctest.Wait()
		if _, err := c.Enter(ctx, class, 1); err != QueueFull {
			t.Errorf("the third in a queue of two: %v", err)
		}
		leaves[0]()
		synctest.Wait()
		if err := <-results; err != nil {
			t.Errorf("a seat that was given back: %v", err)
		}
		if err := <-results; err != nil {
			t.Errorf("a seat that was given back again: %v", err)
		}
		go func() { _, err := c.Enter(ctx, class, 10); results <- err }() // as wide as can be, and there is one seat
		synctest.Wait()
		cancel()
		if err := <-results; err != nil && err != Cancelled {
			t.Errorf("a client that goes away: %v", err)
		}
		if n := c.of(t, "a").Waiting; n != 0 {
			t.Errorf("%d still wait", n)
		}
	})
}

// Objects change while requests wait and sit: nobody is lost.
func TestObjectsChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := two(8, 2, 50)
		done := make(chan error, 200)
		for i := range 200 {
			go func() {
				leave, err := c.Enter(t.Context(), c.Classify(by(fmt.Sprint(i), "a")), 1+i%3)
				if err == nil {
					time.Sleep(time.Duration(i) * time.Millisecond)
					leave()
				}
				done <- err
			}()
		}
		synctest.Wait()
		c.Set(nil, nil) // all of it is deleted
		time.Sleep(100 * time.Millisecond)
		c.Set(nil, []*flowcontrolv1.PriorityLevelConfiguration{levelOf("a", 1, 0, 2, 1, 3)})
		for range 200 {
			if err := <-done; err != nil {
				t.Errorf("a request that waited: %v", err)
			}
		}
		c.Set(nil, nil)
		for _, l := range c.Report() {
			if l.Gone || l.Taken != 0 || l.Waiting != 0 {
				t.Errorf("left over: %+v", l)
			}
		}
	})
}

func TestClassify(t *testing.T) {
	c := New(600)
	c.Set(append(bootstrap.MandatoryFlowSchemas[:2:2], bootstrap.SuggestedFlowSchemas...),
		append(bootstrap.MandatoryPriorityLevelConfigurations[:2:2], bootstrap.SuggestedPriorityLevelConfigurations...))
	resource := func(name, verb, group, resource, sub, ns string, groups ...string) Digest {
		return Digest{User: &user.DefaultInfo{Name: name, Groups: append(groups, user.AllAuthenticated)}, Verb: verb, IsResource: true, Group: group, Resource: resource, Subresource: sub, Namespace: ns}
	}
	for _, test := range []struct {
		what, want string
		digest     Digest
	}{
		{"an administrator", "exempt/exempt", resource("root", "list", "", "pods", "", "", user.SystemPrivilegedGroup)},
		{"a probe", "probes/exempt", Digest{User: &user.DefaultInfo{Name: "x", Groups: []string{user.AllUnauthenticated}}, Verb: "get", Path: "/livez"}},
		{"a node's lease", "system-node-high/node-high", resource("system:node:n", "update", "coordination.k8s.io", "leases", "", "kube-node-lease", user.NodesGroup)},
		{"a node's status", "system-node-high/node-high", resource("system:node:n", "patch", "", "nodes", "status", "", user.NodesGroup)},
		{"a node's pods", "system-nodes/system", resource("system:node:n", "list", "", "pods", "", "", user.NodesGroup)},
		{"the controllers' lease", "system-leader-election/leader-election", resource("system:kube-controller-manager", "update", "coordination.k8s.io", "leases", "", "kube-system")},
		{"a controller", "kube-system-service-accounts/workload-high", resource("system:serviceaccount:kube-system:job-controller", "create", "batch", "jobs", "", "x", "system:serviceaccounts:kube-system", "system:serviceaccounts")},
		{"a pod", "service-accounts/workload-low", resource("system:serviceaccount:shop:web", "list", "", "pods", "", "shop", "system:serviceaccounts:shop", "system:serviceaccounts")},
		{"a person", "global-default/global-default", resource("jane", "list", "", "pods", "", "shop")},
		{"nobody", "catch-all/catch-all", Digest{User: &user.DefaultInfo{Name: user.Anonymous, Groups: []string{"others"}}, Verb: "get", Path: "/version"}},
	} {
		class := c.Classify(test.digest)
		if got := class.Schema + "/" + class.Level; got != test.want {
			t.Errorf("%s: %s, want %s", test.what, got, test.want)
		}
	}
}

func BenchmarkClassifyAndEnter(b *testing.B) {
	c := New(600)
	c.Set(append(bootstrap.MandatoryFlowSchemas[:2:2], bootstrap.SuggestedFlowSchemas...),
		append(bootstrap.MandatoryPriorityLevelConfigurations[:2:2], bootstrap.SuggestedPriorityLevelConfigurations...))
	d := Digest{User: &user.DefaultInfo{Name: "jane", Groups: []string{user.AllAuthenticated}}, Verb: "get", IsResource: true, Resource: "pods", Namespace: "shop"}
	b.ReportAllocs()
	for b.Loop() {
		leave, err := c.Enter(context.Background(), c.Classify(d), 1)
		if err != nil {
			b.Fatal(err)
		}
		leave()
	}
}
