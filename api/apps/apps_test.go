package apps

import (
	"reflect"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"

	"skiff/api/kind/kindtest"
)

const body = `
metadata: {name: web, namespace: default}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: busybox}]}
`

func n(i int32) *int32                { return &i }
func is(v string) *intstr.IntOrString { x := intstr.Parse(v); return &x }

func TestDeployment(t *testing.T) {
	kindtest.Holds(t, Deployment, body)
	type D = *appsv1.Deployment
	d := kindtest.From[D](t, Deployment, body)
	s := d.Spec
	if *s.Replicas != 1 || *s.RevisionHistoryLimit != 10 || *s.ProgressDeadlineSeconds != 600 || s.Strategy.Type != "RollingUpdate" ||
		s.Strategy.RollingUpdate.MaxSurge.String() != "25%" || s.Strategy.RollingUpdate.MaxUnavailable.String() != "25%" ||
		s.Template.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		t.Errorf("defaults: %+v", s)
	}
	kindtest.Refuses(t, Deployment, body, []kindtest.Case[D]{
		kindtest.When("negative", func(d D) { d.Spec.Replicas, d.Spec.MinReadySeconds, d.Spec.RevisionHistoryLimit = n(-1), -1, n(-1) },
			"Invalid spec.replicas", "Invalid spec.minReadySeconds", "Invalid spec.revisionHistoryLimit"),
		kindtest.When("no selector", func(d D) { d.Spec.Selector = nil }, "Required spec.selector",
			"Invalid spec.template.metadata.labels: `selector` does not match template `labels`"),
		kindtest.When("empty selector", func(d D) { d.Spec.Selector = &metav1.LabelSelector{} }, "Invalid spec.selector: empty selector is invalid for deployment"),
		kindtest.When("bad selector", func(d D) {
			d.Spec.Selector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "x"}}}
		}, "Invalid spec.selector.matchExpressions[0].operator", "Invalid spec.selector: invalid label selector"),
		kindtest.When("labels", func(d D) { d.Spec.Template.Labels = nil }, "Invalid spec.template.metadata.labels"),
		kindtest.When("restart", func(d D) { d.Spec.Template.Spec.RestartPolicy = "Never" }, "NotSupported spec.template.spec.restartPolicy"),
		kindtest.When("deadline of pods", func(d D) { d.Spec.Template.Spec.ActiveDeadlineSeconds = new(int64(1)) },
			"Forbidden spec.template.spec.activeDeadlineSeconds: activeDeadlineSeconds in ReplicaSet is not Supported"),
		kindtest.When("deadline", func(d D) { d.Spec.MinReadySeconds = 600 }, "Invalid spec.progressDeadlineSeconds: must be greater than minReadySeconds"),
		kindtest.When("strategy", func(d D) { d.Spec.Strategy.Type = "x" }, "NotSupported spec.strategy"),
		kindtest.When("recreate", func(d D) { d.Spec.Strategy.Type = "Recreate" }, "Forbidden spec.strategy.rollingUpdate"),
		kindtest.When("no rolling", func(d D) { d.Spec.Strategy.RollingUpdate = nil }, "Required spec.strategy.rollingUpdate"),
		kindtest.When("no progress", func(d D) {
			d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxUnavailable: is("0%"), MaxSurge: is("0")}
		}, "Invalid spec.strategy.rollingUpdate.maxUnavailable: may not be 0 when `maxSurge` is 0"),
		kindtest.When("too many", func(d D) {
			d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxUnavailable: is("101%"), MaxSurge: is("x%")}
		}, "Invalid spec.strategy.rollingUpdate.maxUnavailable: must not be greater than 100%", "Invalid spec.strategy.rollingUpdate.maxSurge"),
	})
	kindtest.RefusesUpdate(t, Deployment, body, []kindtest.Case[D]{
		kindtest.When("image", func(d D) { d.Spec.Template.Spec.Containers[0].Image = "x" }),
		kindtest.When("selector", func(d D) {
			d.Spec.Selector.MatchLabels = map[string]string{"a": "b"}
			d.Spec.Template.Labels["a"] = "b"
		},
			"Invalid spec.selector: field is immutable"),
	})
	kindtest.RefusesSub(t, Deployment, "status", body, []kindtest.Case[D]{
		kindtest.When("spec is not status", func(d D) { d.Spec.Replicas = n(-1); d.Labels = map[string]string{"!": ""} }),
		kindtest.When("counts", func(d D) { d.Status.ReadyReplicas, d.Status.AvailableReplicas = 1, 2 },
			"Invalid status.readyReplicas: cannot be greater than status.replicas", "Invalid status.availableReplicas: cannot be greater than status.replicas",
			"Invalid status.availableReplicas: cannot be greater than readyReplicas"),
		kindtest.When("negative", func(d D) { d.Status.CollisionCount = n(-1) }, "Invalid status.collisionCount"),
	})
	old := kindtest.From[D](t, Deployment, body)
	old.Status.CollisionCount = n(2)
	now := old.DeepCopy()
	now.Status.CollisionCount = n(1)
	if errs := Deployment.Subs["status"].Validate(now, old); len(errs) != 1 || errs[0].Detail != "cannot be decremented" {
		t.Errorf("a collision count that goes back: %v", errs)
	}

	now = old.DeepCopy()
	now.Status.Replicas = 5
	Deployment.Update(now, old)
	if now.Status.Replicas != 0 {
		t.Error("an update wrote the status")
	}
	if !reflect.DeepEqual(Deployment.Intent(now), Deployment.Intent(old)) {
		t.Error("status is intent")
	}
	now.Annotations = map[string]string{"a": "b"}
	if reflect.DeepEqual(Deployment.Intent(now), Deployment.Intent(old)) {
		t.Error("annotations are no intent")
	}
	now.Name = "a.b"
	if got := Deployment.Warn(now, nil); len(got) != 1 {
		t.Errorf("warnings about a.b: %q", got)
	}
}

func TestScale(t *testing.T) {
	d := kindtest.From[*appsv1.Deployment](t, Deployment, body)
	d.Status.Replicas = 7
	Deployment.Scale.Set(d, 3)
	spec, status := Deployment.Scale.Get(d)
	if *d.Spec.Replicas != 3 || spec.Replicas != 3 || status.Replicas != 7 || status.Selector != "app=web" {
		t.Errorf("scale %+v %+v", spec, status)
	}
	if ReplicaSet.Scale == nil || StatefulSet.Scale == nil || DaemonSet.Scale != nil {
		t.Error("scale of the wrong kinds")
	}
}

func TestReplicaSet(t *testing.T) {
	kindtest.Holds(t, ReplicaSet, body)
	type R = *appsv1.ReplicaSet
	kindtest.Refuses(t, ReplicaSet, body, []kindtest.Case[R]{
		kindtest.When("negative", func(r R) { r.Spec.Replicas, r.Spec.MinReadySeconds = n(-1), -1 }, "Invalid spec.replicas", "Invalid spec.minReadySeconds"),
		kindtest.When("empty selector", func(r R) { r.Spec.Selector = &metav1.LabelSelector{} }, "Invalid spec.selector"),
		kindtest.When("labels", func(r R) { r.Spec.Template.Labels = nil }, "Invalid spec.template.metadata.labels"),
	})
	kindtest.RefusesUpdate(t, ReplicaSet, body, []kindtest.Case[R]{
		kindtest.When("selector", func(r R) {
			r.Spec.Selector.MatchLabels = map[string]string{"a": "b"}
			r.Spec.Template.Labels["a"] = "b"
		}, "Invalid spec.selector"),
	})
	kindtest.RefusesSub(t, ReplicaSet, "status", body, []kindtest.Case[R]{
		kindtest.When("counts", func(r R) { r.Status.FullyLabeledReplicas = 1 }, "Invalid status.fullyLabeledReplicas"),
		kindtest.When("negative", func(r R) { r.Status.ObservedGeneration, r.Status.TerminatingReplicas = -1, n(-1) },
			"Invalid status.observedGeneration", "Invalid status.terminatingReplicas"),
	})
	r := kindtest.From[R](t, ReplicaSet, body)
	r.Status.Replicas = 4
	if got := ReplicaSet.Fields(r)["status.replicas"]; got != "4" {
		t.Errorf("status.replicas=%s", got)
	}
}

const stateful = `
metadata: {name: db, namespace: default}
spec:
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: c, image: busybox}]}
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
`

func TestStatefulSet(t *testing.T) {
	kindtest.Holds(t, StatefulSet, stateful)
	type S = *appsv1.StatefulSet
	s := kindtest.From[S](t, StatefulSet, stateful).Spec
	if s.PodManagementPolicy != "OrderedReady" || s.UpdateStrategy.Type != "RollingUpdate" || *s.UpdateStrategy.RollingUpdate.Partition != 0 ||
		s.UpdateStrategy.RollingUpdate.MaxUnavailable.IntVal != 1 || s.PersistentVolumeClaimRetentionPolicy.WhenDeleted != "Retain" ||
		s.PersistentVolumeClaimRetentionPolicy.WhenScaled != "Retain" || *s.Replicas != 1 || *s.RevisionHistoryLimit != 10 ||
		s.VolumeClaimTemplates[0].Kind != "PersistentVolumeClaim" || s.VolumeClaimTemplates[0].Status.Phase != "Pending" ||
		*s.VolumeClaimTemplates[0].Spec.VolumeMode != "Filesystem" {
		t.Errorf("defaults: %+v", s)
	}
	kindtest.Refuses(t, StatefulSet, stateful, []kindtest.Case[S]{
		kindtest.When("negative", func(s S) {
			s.Spec.Replicas, s.Spec.MinReadySeconds, s.Spec.Ordinals = n(-1), -1, &appsv1.StatefulSetOrdinals{Start: -1}
		}, "Invalid spec.replicas", "Invalid spec.minReadySeconds", "Invalid spec.ordinals.start"),
		kindtest.When("management", func(s S) { s.Spec.PodManagementPolicy = "x" }, "Invalid spec.podManagementPolicy"),
		kindtest.When("no management", func(s S) { s.Spec.PodManagementPolicy = "" }, "Required spec.podManagementPolicy"),
		kindtest.When("strategy", func(s S) { s.Spec.UpdateStrategy.Type = "x" }, "Invalid spec.updateStrategy: must be 'RollingUpdate' or 'OnDelete'"),
		kindtest.When("no strategy", func(s S) { s.Spec.UpdateStrategy.Type = "" }, "Required spec.updateStrategy"),
		kindtest.When("on delete", func(s S) { s.Spec.UpdateStrategy.Type = "OnDelete" }, "Invalid spec.updateStrategy.rollingUpdate"),
		kindtest.When("rolling", func(s S) {
			s.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{Partition: n(-1), MaxUnavailable: is("0")}
		}, "Invalid spec.updateStrategy.rollingUpdate.partition", "Invalid spec.updateStrategy.rollingUpdate.maxUnavailable: cannot be 0"),
		kindtest.When("retention", func(s S) { s.Spec.PersistentVolumeClaimRetentionPolicy.WhenScaled = "x" },
			"NotSupported spec.persistentVolumeClaimRetentionPolicy.whenScaled"),
		kindtest.When("service", func(s S) { s.Spec.ServiceName = "A" }, "Invalid spec.serviceName"),
		kindtest.When("selector", func(s S) { s.Spec.Selector = &metav1.LabelSelector{} }, "Invalid spec.selector: empty selector is invalid for statefulset"),
		kindtest.When("no selector", func(s S) { s.Spec.Selector = nil }, "Required spec.selector", "Invalid spec.template.metadata.labels"),
		kindtest.When("restart", func(s S) { s.Spec.Template.Spec.RestartPolicy = "Never" }, "NotSupported spec.template.spec.restartPolicy"),
	})
	kindtest.RefusesUpdate(t, StatefulSet, stateful, []kindtest.Case[S]{
		kindtest.When("what may change", func(s S) {
			s.Spec.Replicas, s.Spec.MinReadySeconds, s.Spec.UpdateStrategy = n(4), 3, appsv1.StatefulSetUpdateStrategy{Type: "OnDelete"}
			s.Spec.Template.Spec.Containers[0].Image = "x"
		}),
		kindtest.When("service", func(s S) { s.Spec.ServiceName = "other" }, "Invalid spec.serviceName: field is immutable"),
		kindtest.When("claims", func(s S) { s.Spec.VolumeClaimTemplates = nil }, "Invalid spec.volumeClaimTemplates: field is immutable"),
		kindtest.When("management", func(s S) { s.Spec.PodManagementPolicy = "Parallel" }, "Invalid spec.podManagementPolicy: field is immutable"),
	})
	kindtest.RefusesSub(t, StatefulSet, "status", stateful, []kindtest.Case[S]{
		kindtest.When("counts", func(s S) { s.Status.CurrentReplicas, s.Status.AvailableReplicas = 1, 1 }, "Invalid status.currentReplicas",
			"Invalid status.availableReplicas", "Invalid status.availableReplicas: cannot be greater than status.readyReplicas"),
	})
	if StatefulSet.ValidateName("a.b", false) == nil {
		t.Error("a name that is no host name is taken")
	}
	// The controller mounts a claim under the template's name, in place of a volume.
	x := kindtest.From[S](t, StatefulSet, stateful)
	x.Spec.Template.Spec.Volumes = []corev1.Volume{{Name: "data"}, {Name: "other"}}
	if v := asPods(&x.Spec).Spec.Volumes; len(v) != 2 || v[0].PersistentVolumeClaim == nil || v[1].Name != "other" {
		t.Errorf("volumes of the pods: %+v", v)
	}
	if x.Spec.Template.Spec.Volumes[0].PersistentVolumeClaim != nil {
		t.Error("the template was changed")
	}
	x.Spec.RevisionHistoryLimit = n(-1)
	if got := StatefulSet.Warn(x, nil); len(got) != 1 {
		t.Errorf("warnings: %q", got)
	}
}

func TestDaemonSet(t *testing.T) {
	kindtest.Holds(t, DaemonSet, body)
	type D = *appsv1.DaemonSet
	kindtest.Refuses(t, DaemonSet, body, []kindtest.Case[D]{
		kindtest.When("selector", func(d D) { d.Spec.Selector = &metav1.LabelSelector{} }, "Invalid spec.selector: empty selector is invalid for daemonset"),
		kindtest.When("no selector", func(d D) { d.Spec.Selector = nil }, "Invalid spec.template.metadata.labels"),
		kindtest.When("restart", func(d D) { d.Spec.Template.Spec.RestartPolicy = "Never" }, "NotSupported spec.template.spec.restartPolicy"),
		kindtest.When("strategy", func(d D) { d.Spec.UpdateStrategy.Type = "x" }, "NotSupported spec.updateStrategy"),
		kindtest.When("no rolling", func(d D) { d.Spec.UpdateStrategy.RollingUpdate = nil }, "Required spec.updateStrategy.rollingUpdate"),
		kindtest.When("both", func(d D) { d.Spec.UpdateStrategy.RollingUpdate.MaxSurge = is("1") },
			"Invalid spec.updateStrategy.rollingUpdate.maxSurge: may not be set when maxUnavailable is non-zero"),
		kindtest.When("neither", func(d D) { d.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable = is("0") },
			"Required spec.updateStrategy.rollingUpdate.maxUnavailable: cannot be 0 when maxSurge is 0"),
		kindtest.When("negative", func(d D) { d.Spec.MinReadySeconds, d.Spec.RevisionHistoryLimit = -1, n(-1) },
			"Invalid spec.minReadySeconds", "Invalid spec.revisionHistoryLimit"),
	})
	kindtest.RefusesUpdate(t, DaemonSet, body, []kindtest.Case[D]{
		kindtest.When("selector", func(d D) {
			d.Spec.Selector.MatchLabels = map[string]string{"a": "b"}
			d.Spec.Template.Labels["a"] = "b"
		}, "Invalid spec.selector"),
	})
	kindtest.RefusesSub(t, DaemonSet, "status", body, []kindtest.Case[D]{
		kindtest.When("negative", func(d D) { d.Status.NumberReady = -1 }, "Invalid status.numberReady"),
	})

	const annotation = "deprecated.daemonset.template.generation"
	old := kindtest.From[D](t, DaemonSet, body)
	DaemonSet.Create(old)
	now := old.DeepCopy()
	now.Spec.Template.Spec.Containers[0].Image = "x"
	now.Annotations[annotation] = "77"
	DaemonSet.Update(now, old)
	if old.Annotations[annotation] != "1" || now.Annotations[annotation] != "2" {
		t.Errorf("template generations %s, %s", old.Annotations[annotation], now.Annotations[annotation])
	}
	same := now.DeepCopy()
	same.Spec.MinReadySeconds = 3
	DaemonSet.Update(same, now)
	if same.Annotations[annotation] != "2" {
		t.Errorf("template generation %s without a change of the template", same.Annotations[annotation])
	}
}

func TestControllerRevision(t *testing.T) {
	const valid = `{metadata: {name: web-1}, revision: 1, data: {spec: {}}}`
	kindtest.Holds(t, ControllerRevision, valid)
	type R = *appsv1.ControllerRevision
	kindtest.Refuses(t, ControllerRevision, valid, []kindtest.Case[R]{
		kindtest.When("negative", func(r R) { r.Revision = -1 }, "Invalid revision"),
		kindtest.When("no data", func(r R) { r.Data = runtime.RawExtension{} }, "Required data: data is mandatory"),
		kindtest.When("null", func(r R) { r.Data.Raw = []byte("null") }, "Required data: data is mandatory"),
		kindtest.When("list", func(r R) { r.Data.Raw = []byte("[]") }, "Required data: data must be a valid JSON object"),
		kindtest.When("broken", func(r R) { r.Data.Raw = []byte("{") }, "Invalid data: error parsing data"),
	})
	kindtest.RefusesUpdate(t, ControllerRevision, valid, []kindtest.Case[R]{
		kindtest.When("revision", func(r R) { r.Revision = 2 }),
		kindtest.When("data", func(r R) { r.Data.Raw = []byte("{}") }, "Invalid data: field is immutable"),
	})
	r := kindtest.From[R](t, ControllerRevision, valid)
	r.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "web", Controller: new(true)}}
	if got := ControllerRevision.Row(r)[1]; got != "statefulset.apps/web" {
		t.Errorf("controller %v", got)
	}
}
