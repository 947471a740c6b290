package core

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"skiff/api/kind"
	"skiff/api/kind/kindtest"
)

// The table rows of the other kinds, without their ages.
func TestRows(t *testing.T) {
	for _, c := range []struct {
		kind         kind.Kind
		object, want string
	}{
		{Service, "{metadata: {name: a}, spec: {clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], ports: [{port: 80}, {port: 53, protocol: UDP}], selector: {a: b}}}",
			"a|ClusterIP|10.0.0.1|<none>|80/TCP,53/UDP|<unknown>|a=b"},
		{Service, "{metadata: {name: a}, spec: {type: NodePort, externalIPs: [1.2.3.4], ports: [{port: 80, nodePort: 30000}]}}",
			"a|NodePort|<none>|1.2.3.4|80:30000/TCP|<unknown>|<none>"},
		{Service, "{metadata: {name: a}, spec: {type: LoadBalancer}}", "a|LoadBalancer|<none>|<pending>|<none>|<unknown>|<none>"},
		{Service, "{metadata: {name: a}, spec: {type: LoadBalancer, externalIPs: [x]}, status: {loadBalancer: {ingress: [{ip: 2.2.2.2}, {hostname: h}, {ip: 1.1.1.1}]}}}",
			"a|LoadBalancer|<none>|1.1.1.1,2.2.2.2,h,x|<none>|<unknown>|<none>"},
		{Service, "{metadata: {name: a}, spec: {type: ExternalName, externalName: b.c}}", "a|ExternalName|<none>|b.c|<none>|<unknown>|<none>"},
		{Node, "{metadata: {name: n1, labels: {node-role.kubernetes.io/worker: '', kubernetes.io/role: control-plane}}, spec: {unschedulable: true}, status: {conditions: [{type: Ready, status: 'True'}], addresses: [{type: InternalIP, address: 1.2.3.4}], nodeInfo: {kubeletVersion: v1, kernelVersion: '6.1', architecture: amd64}}}",
			"n1|Ready,SchedulingDisabled|control-plane,worker|<unknown>|v1|1.2.3.4|<none>|<unknown>|6.1 (amd64)|<unknown>"},
		{Node, "{metadata: {name: n1}, status: {conditions: [{type: Ready, status: Unknown}]}}", "n1|NotReady|<none>|<unknown>||<none>|<none>|<unknown>|<unknown>|<unknown>"},
		{Endpoints, "{metadata: {name: e}, subsets: [{addresses: [{ip: 1.1.1.1}, {ip: 1.1.1.2}], ports: [{port: 1}, {port: 2}]}]}", "e|1.1.1.1:1,1.1.1.2:1,1.1.1.1:2 + 1 more...|<unknown>"},
		{Endpoints, "{metadata: {name: e}}", "e|<none>|<unknown>"},
		{PersistentVolume, "{metadata: {name: v}, spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteMany, ReadWriteOnce], claimRef: {namespace: prod, name: c}, storageClassName: s}}",
			"v|1Gi|RWO,RWX|Retain|Pending|prod/c|s|<unset>||<unknown>|Filesystem"},
		{PersistentVolumeClaim, "{metadata: {name: c}, spec: {volumeName: v}, status: {phase: Bound, capacity: {storage: 1Gi}, accessModes: [ReadWriteOncePod]}}",
			"c|Bound|v|1Gi|RWOP||<unset>|<unknown>|Filesystem"},
		{ResourceQuota, "{metadata: {name: q}, status: {hard: {pods: '3', limits.cpu: '4', cpu: '2'}, used: {pods: '1'}}}", "q|cpu: 0/2, pods: 1/3|limits.cpu: 0/4|<unknown>"},
		{Secret, "{metadata: {name: s}, stringData: {a: b}}", "s|Opaque|1|<unknown>"},
		{ConfigMap, "{metadata: {name: c}, data: {a: b}, binaryData: {c: ZA==}}", "c|2|<unknown>"},
		{ComponentStatus, "{metadata: {name: c}, conditions: [{type: Healthy, status: 'False', message: m, error: e}]}", "c|Unhealthy|m|e"},
		{ReplicationController, "{metadata: {name: r}, spec: {selector: {a: b}, template: {spec: {containers: [{name: c, image: i}, {name: d, image: j}]}}}, status: {replicas: 1}}",
			"r|1|1|0|<unknown>|c,d|i,j|a=b"},
		{PodTemplate, "{metadata: {name: p}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}}", "p|c|i|a=b"},
	} {
		var cells []string
		for _, cell := range c.kind.Row(kindtest.From[kind.Object](t, c.kind, c.object)) {
			cells = append(cells, fmt.Sprint(cell))
		}
		if got := strings.Join(cells, "|"); got != c.want {
			t.Errorf("%s\n got %s\nwant %s", c.object, got, c.want)
		}
	}
}

// A service that changes its type loses what the new type has no use for, unless
// the client changed that too.
func TestServiceChangesType(t *testing.T) {
	const text = "{metadata: {name: a}, spec: {type: LoadBalancer, clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], ipFamilies: [IPv4], ipFamilyPolicy: SingleStack, loadBalancerClass: a/b, externalTrafficPolicy: Local, healthCheckNodePort: 31000, ports: [{port: 80, nodePort: 30000}]}, status: {loadBalancer: {ingress: [{ip: 1.2.3.4}]}}}"
	old := kindtest.From[*corev1.Service](t, Service, text)
	s := old.DeepCopy()
	s.Spec.Type = corev1.ServiceTypeClusterIP
	Service.Update(s, old)
	if s.Spec.Ports[0].NodePort != 0 || s.Spec.HealthCheckNodePort != 0 || s.Spec.LoadBalancerClass != nil || s.Spec.ExternalTrafficPolicy != "" ||
		s.Spec.AllocateLoadBalancerNodePorts != nil || len(s.Status.LoadBalancer.Ingress) != 0 || s.Spec.ClusterIP != "10.0.0.1" {
		t.Errorf("service %+v", s)
	}
	if errs := Service.ValidateUpdate(s, old); len(errs) > 0 {
		t.Error(errs.ToAggregate())
	}
	s = old.DeepCopy()
	s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, "a.b"
	Service.Update(s, old)
	if s.Spec.ClusterIP != "" || s.Spec.ClusterIPs != nil || s.Spec.IPFamilies != nil || s.Spec.IPFamilyPolicy != nil {
		t.Errorf("service %+v", s)
	}
	if errs := Service.ValidateUpdate(s, old); len(errs) > 0 {
		t.Error(errs.ToAggregate())
	}
}

func TestNamespaceFinalizers(t *testing.T) {
	n := kindtest.From[*corev1.Namespace](t, Namespace, "{metadata: {name: a}, spec: {finalizers: [b/c]}, status: {phase: Terminating}}")
	Namespace.Create(n)
	if n.Status.Phase != corev1.NamespaceActive || len(n.Spec.Finalizers) != 2 {
		t.Errorf("namespace %+v", n)
	}
	changed := n.DeepCopy()
	changed.Spec.Finalizers = nil
	Namespace.Update(changed, n)
	if len(changed.Spec.Finalizers) != 2 {
		t.Error("an update took finalizers away")
	}
	changed.Spec.Finalizers = nil
	Namespace.Subs["finalize"].Update(changed, n)
	if len(changed.Spec.Finalizers) != 0 {
		t.Error("finalize took no finalizers away")
	}
}

// The old dataSource takes claims and snapshots only, and both fields say the same.
func TestDataSources(t *testing.T) {
	for text, want := range map[string]string{
		"dataSource: {kind: PersistentVolumeClaim, name: a}":                 "PersistentVolumeClaim/PersistentVolumeClaim",
		"dataSource: {apiGroup: x.y, kind: Z, name: a}":                      "/",
		"dataSourceRef: {apiGroup: x.y, kind: Z, name: a}":                   "Z/Z",
		"dataSourceRef: {apiGroup: x.y, kind: Z, name: a, namespace: other}": "/",
	} {
		c := kindtest.From[*corev1.PersistentVolumeClaim](t, PersistentVolumeClaim, "{spec: {"+text+"}}")
		PersistentVolumeClaim.Create(c)
		got := "/"
		if d, r := c.Spec.DataSource, c.Spec.DataSourceRef; d != nil && r != nil {
			got = d.Kind + "/" + r.Kind
		}
		if got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}
