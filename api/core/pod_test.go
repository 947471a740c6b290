package core

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"skiff/api/kind/kindtest"
)

// What `kubectl get pods` says of a pod, from its status.
func TestPodRow(t *testing.T) {
	const spec = `
  initContainers: [{name: i, image: a}, {name: s, image: a, restartPolicy: Always}]
  containers: [{name: c, image: a}, {name: d, image: a}]
`
	for name, c := range map[string]struct{ status, want string }{
		"nothing yet":    {"{phase: Pending}", "0/3 Pending 0"},
		"gated":          {"{phase: Pending, conditions: [{type: PodScheduled, status: 'False', reason: SchedulingGated}]}", "0/3 SchedulingGated 0"},
		"evicted":        {"{phase: Failed, reason: Evicted}", "0/3 Evicted 0"},
		"first init":     {"{phase: Pending, initContainerStatuses: [{name: i, state: {running: {}}}, {name: s, state: {waiting: {reason: PodInitializing}}}]}", "0/3 Init:0/2 0"},
		"init fails":     {"{phase: Pending, initContainerStatuses: [{name: i, restartCount: 2, state: {waiting: {reason: CrashLoopBackOff}}, lastState: {terminated: {exitCode: 1, finishedAt: '1999-12-31T23:55:00Z'}}}]}", "0/3 Init:CrashLoopBackOff 2 (5m ago)"},
		"init exit code": {"{phase: Pending, initContainerStatuses: [{name: i, state: {terminated: {exitCode: 3}}}]}", "0/3 Init:ExitCode:3 0"},
		"init signal":    {"{phase: Pending, initContainerStatuses: [{name: i, state: {terminated: {exitCode: 137, signal: 9}}}]}", "0/3 Init:Signal:9 0"},
		"runs": {`{phase: Running, initContainerStatuses: [{name: i, restartCount: 4, state: {terminated: {exitCode: 0}}}, {name: s, started: true, ready: true, restartCount: 1, state: {running: {}}}],
			containerStatuses: [{name: c, ready: true, state: {running: {}}}, {name: d, ready: true, restartCount: 1, state: {running: {}}, lastState: {terminated: {exitCode: 1, finishedAt: '1999-12-31T21:00:00Z'}}}]}`, "3/3 Running 2 (3h ago)"},
		"crashes":        {"{phase: Running, containerStatuses: [{name: c, restartCount: 3, state: {waiting: {reason: CrashLoopBackOff}}}, {name: d, ready: true, state: {running: {}}}]}", "1/3 CrashLoopBackOff 3"},
		"completed":      {"{phase: Succeeded, containerStatuses: [{name: c, state: {terminated: {exitCode: 0, reason: Completed}}}, {name: d, state: {terminated: {exitCode: 0, reason: Completed}}}]}", "0/3 Completed 0"},
		"one ended well": {"{phase: Running, conditions: [{type: Ready, status: 'True'}], containerStatuses: [{name: c, state: {terminated: {exitCode: 0, reason: Completed}}}, {name: d, ready: true, state: {running: {}}}]}", "1/3 Running 0"},
		"not ready":      {"{phase: Running, containerStatuses: [{name: c, state: {terminated: {exitCode: 0, reason: Completed}}}, {name: d, ready: true, state: {running: {}}}]}", "1/3 NotReady 0"},
		"one failed":     {"{phase: Failed, containerStatuses: [{name: c, state: {terminated: {exitCode: 0, reason: Completed}}}, {name: d, state: {terminated: {exitCode: 1, reason: Error}}}]}", "0/3 Error 0"},
	} {
		synctest.Test(t, func(t *testing.T) { // the clock starts at the year 2000
			p := kindtest.From[*corev1.Pod](t, Pod, "metadata: {name: web, creationTimestamp: '1999-12-31T23:59:00Z'}\nspec: "+spec)
			if err := yaml.UnmarshalStrict([]byte(c.status), &p.Status); err != nil {
				t.Fatal(err)
			}
			row := podRow(p)
			if got := row[1].(string) + " " + row[2].(string) + " " + row[3].(string); got != c.want {
				t.Errorf("%s: %q, want %q", name, got, c.want)
			}
			if row[4] != "60s" {
				t.Errorf("age %v", row[4])
			}
		})
	}
}

func TestPodRowDeleted(t *testing.T) {
	p := kindtest.From[*corev1.Pod](t, Pod, plainPod)
	p.Status.Phase, p.DeletionTimestamp = corev1.PodRunning, new(metav1.Now())
	if row := podRow(p); row[2] != "Terminating" {
		t.Errorf("status %v", row[2])
	}
	p.Status.Reason = "NodeLost"
	if row := podRow(p); row[2] != "Unknown" {
		t.Errorf("status %v", row[2])
	}
	p.Status.Phase, p.Status.Reason = corev1.PodSucceeded, ""
	if row := podRow(p); row[2] != "Succeeded" {
		t.Errorf("status %v", row[2])
	}
	p.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "a"}, {ConditionType: "b"}}
	p.Status.Conditions = []corev1.PodCondition{{Type: "b", Status: corev1.ConditionTrue}}
	if row := podRow(p); row[8] != "1/2" || row[5] != "<none>" {
		t.Errorf("wide cells %v", row[5:])
	}
}

func TestQOSClass(t *testing.T) {
	for resources, want := range map[string]corev1.PodQOSClass{
		"{}":                              corev1.PodQOSBestEffort,
		"{requests: {cpu: 1}}":            corev1.PodQOSBurstable,
		"{limits: {cpu: 1, memory: 1Gi}}": corev1.PodQOSGuaranteed,
		"{limits: {memory: 1Gi}}":         corev1.PodQOSBurstable,
		"{limits: {example.com/gpu: 1}}":  corev1.PodQOSBestEffort,
		"{requests: {cpu: 1}, limits: {cpu: 2, memory: 1Gi}}": corev1.PodQOSBurstable,
	} {
		p := kindtest.From[*corev1.Pod](t, Pod, "{metadata: {name: web}, spec: {containers: [{name: c, image: a, resources: "+resources+"}]}}")
		createPod(p)
		if p.Status.QOSClass != want {
			t.Errorf("%s: %s, want %s", resources, p.Status.QOSClass, want)
		}
	}
}

// A create starts a pod anew, whatever status came with it.
func TestCreatePod(t *testing.T) {
	p := kindtest.From[*corev1.Pod](t, Pod, `
metadata: {name: web, labels: {app: web}, annotations: {container.apparmor.security.beta.kubernetes.io/c: localhost/x, pod.beta.kubernetes.io/init-containers: x}}
spec:
  schedulingGates: [{name: wait}]
  schedulingGroup: {podGroupName: x}
  resources: {limits: {memory: 2Gi}}
  topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule, matchLabelKeys: [app, other], labelSelector: {}}]
  containers:
  - {name: c, image: a, resources: {requests: {cpu: 100m}}, lifecycle: {stopSignal: SIGTERM}, livenessProbe: {httpGet: {port: 80, protocol: HTTP2}}}
status: {phase: Running, podIP: 1.2.3.4}
`)
	createPod(p)
	c := &p.Spec.Containers[0]
	if p.Status.Phase != corev1.PodPending || p.Status.PodIP != "" || p.Status.Conditions[0].Reason != corev1.PodReasonSchedulingGated {
		t.Errorf("status %+v", p.Status)
	}
	if p.Spec.SchedulingGroup != nil || c.Lifecycle != nil || c.LivenessProbe.HTTPGet.Protocol != nil || len(p.Annotations) != 1 {
		t.Errorf("fields that are off by default are kept: %+v", p.Spec)
	}
	if e := p.Spec.TopologySpreadConstraints[0].LabelSelector.MatchExpressions; len(e) != 1 || e[0].Values[0] != "web" {
		t.Errorf("label keys are not merged: %v", e)
	}
	if a := c.SecurityContext.AppArmorProfile; a.Type != corev1.AppArmorProfileTypeLocalhost || *a.LocalhostProfile != "x" {
		t.Errorf("profile %v", a)
	}
	if cpu := p.Spec.Resources.Requests[corev1.ResourceCPU]; cpu.String() != "100m" {
		t.Errorf("cpu of the whole pod is %s", cpu.String())
	}
}

// A feature that is off stays where the stored pod uses it.
func TestUpdateKeepsUsedFeatures(t *testing.T) {
	const text = "{metadata: {name: web}, spec: {schedulingGroup: {podGroupName: x}, containers: [{name: c, image: a, lifecycle: {stopSignal: SIGTERM}}]}}"
	old := kindtest.From[*corev1.Pod](t, Pod, text)
	old.Spec.SchedulingGroup = nil
	p := kindtest.From[*corev1.Pod](t, Pod, text)
	updatePod(p, old)
	if p.Spec.SchedulingGroup != nil || p.Spec.Containers[0].Lifecycle == nil {
		t.Errorf("spec %+v", p.Spec)
	}
}

func TestPodWarnings(t *testing.T) {
	p := kindtest.From[*corev1.Pod](t, Pod, `
metadata: {name: web.x, annotations: {seccomp.security.alpha.kubernetes.io/pod: runtime/default}}
spec:
  nodeSelector: {beta.kubernetes.io/os: linux}
  imagePullSecrets: [{name: a}, {name: a}, {name: ""}]
  hostAliases: [{ip: 10.0.0.1}, {ip: 10.0.0.1}]
  topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: ScheduleAnyway}]
  containers:
  - name: c
    image: a
    env: [{name: A, value: b}, {name: A, value: c}, {name: B, value: b}, {name: B, value: "$(B)c"}]
    ports: [{containerPort: 80, name: x}]
    resources: {requests: {memory: 100m}}
  - {name: d, image: a, ports: [{containerPort: 80, name: x}]}
  volumes:
  - {name: g, gitRepo: {repository: a}}
  - {name: m, configMap: {name: x, items: [{key: a, path: p}, {key: b, path: p/q}]}}
`)
	want := []string{
		"metadata.name: this is used in the Pod's hostname",
		`spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use "kubernetes.io/os" instead`,
		"spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod",
		"spec.volumes[0].gitRepo: deprecated in v1.11, and disabled by default in v1.33+",
		`volume "m" (ConfigMap "x"): overlapping paths: "p/q" with "p"`,
		`spec.hostAliases[1].ip: duplicate ip "10.0.0.1"`,
		`spec.imagePullSecrets[1].name: duplicate name "a"`,
		`spec.imagePullSecrets[2].name: invalid empty name ""`,
		`metadata.annotations[seccomp.security.alpha.kubernetes.io/pod]: non-functional in v1.27+; use the "seccompProfile" field instead`,
		`spec.containers[0].resources.requests[memory]: fractional byte value "100m" is invalid, must be an integer`,
		`spec.containers[0].env[1]: hides previous definition of "A", which may be dropped when using apply`,
		"spec.containers[1].ports[0]: duplicate port definition with spec.containers[0].ports[0]",
		`spec.containers[1].ports[0]: duplicate port name "x" with spec.containers[0].ports[0], services and probes that select ports by name will use spec.containers[0].ports[0]`,
	}
	got := warnPod(p, nil)
	for _, w := range want {
		if !slices.ContainsFunc(got, func(g string) bool { return strings.HasPrefix(g, w) }) {
			t.Errorf("no warning %q in\n%s", w, strings.Join(got, "\n"))
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d warnings, want %d:\n%s", len(got), len(want), strings.Join(got, "\n"))
	}
	if got := warnPod(p, p); got != nil {
		t.Errorf("warnings on update: %v", got)
	}
}

// What a stored pod broke already is not held against its update.
func TestLeniency(t *testing.T) {
	for name, spec := range map[string]string{
		"huge pages":   "containers: [{name: c, image: a, resources: {limits: {cpu: 1, hugepages-2Mi: 3Mi}}}]",
		"sysctls":      "hostNetwork: true, containers: [{name: c, image: a}], securityContext: {sysctls: [{name: net.a, value: b}]}",
		"numbers":      "containers: [{name: c, image: a}], tolerations: [{key: a, operator: Gt, value: '5', effect: NoSchedule}]",
		"image volume": "containers: [{name: c, image: a}], volumes: [{name: v, image: {reference: ''}}]",
		"resize":       "containers: [{name: c, image: a}], initContainers: [{name: i, image: a, resizePolicy: [{resourceName: cpu, restartPolicy: RestartContainer}]}]",
		"host users":   "hostUsers: false, hostNetwork: true, containers: [{name: c, image: a}]",
		"selector":     "containers: [{name: c, image: a}], affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: a, labelSelector: {matchExpressions: [{key: a, operator: In, values: ['!']}]}}]}}",
		"token path":   "serviceAccountName: a, containers: [{name: c, image: a}], volumes: [{name: v, projected: {sources: [{serviceAccountToken: {path: ../a}}]}}]",
	} {
		p := kindtest.From[*corev1.Pod](t, Pod, "{metadata: {name: web}, spec: {"+spec+"}}")
		if errs := validateNewPod(p); len(errs) == 0 {
			t.Errorf("%s: a new pod is taken", name)
		}
		if errs := validatePodUpdate(p, p.DeepCopy()); len(errs) > 0 {
			t.Errorf("%s: a stored pod is refused: %v", name, errs.ToAggregate())
		}
	}
}

func TestResize(t *testing.T) {
	const text = "{metadata: {name: web, labels: {a: b}}, spec: {containers: [{name: c, image: a, resources: {requests: {cpu: 1, memory: 1Gi}}}]}}"
	old := kindtest.From[*corev1.Pod](t, Pod, text)
	createPod(old)
	p := kindtest.From[*corev1.Pod](t, Pod, strings.NewReplacer("cpu: 1", "cpu: 2", "image: a", "image: b").Replace(text))
	resizePod(p, old)
	if c := &p.Spec.Containers[0]; c.Image != "a" || c.Resources.Requests.Cpu().String() != "2" || p.Status.QOSClass != corev1.PodQOSBurstable {
		t.Errorf("resized to %+v", c)
	}
	if errs := validateResize(p, old); len(errs) > 0 {
		t.Error(errs.ToAggregate())
	}
	if old.Spec.Containers[0].Resources.Requests.Cpu().String() != "1" {
		t.Error("the stored pod was changed")
	}
}

func TestStatusUpdateKeeps(t *testing.T) {
	old := kindtest.From[*corev1.Pod](t, Pod, plainPod)
	createPod(old)
	old.Status.ObservedGeneration = 2
	old.Status.Conditions = []corev1.PodCondition{{Type: "a", ObservedGeneration: 1}, {Type: "a", ObservedGeneration: 2}}
	p := kindtest.From[*corev1.Pod](t, Pod, plainPod)
	p.Spec.NodeName = "elsewhere"
	p.Status = corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: "a"}, {Type: "a"}, {Type: "b"}}}
	updatePodStatus(p, old)
	if p.Spec.NodeName != "" || p.Status.Phase != corev1.PodRunning || p.Status.QOSClass != corev1.PodQOSBestEffort || p.Status.ObservedGeneration != 2 {
		t.Errorf("pod %+v", p)
	}
	for i, want := range []int64{1, 2, 0} {
		if got := p.Status.Conditions[i].ObservedGeneration; got != want {
			t.Errorf("condition %d of generation %d, want %d", i, got, want)
		}
	}
}

func TestEventRow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := metav1.Now()
		time.Sleep(3 * time.Minute) // of the bubble's clock
		e := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "e"}, InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "web"}, FirstTimestamp: now,
			Source: corev1.EventSource{Component: "kubelet", Host: "n1"}, Message: " hello ", Type: "Normal", Reason: "Started"}
		want := []any{"3m", "Normal", "Started", "pod/web", "", "kubelet, n1", "hello", "3m", int64(1), "e"}
		if got := EventRow(e); !slices.Equal(got, want) {
			t.Errorf("row %v, want %v", got, want)
		}
	})
}
