package storage

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/api/kind/kindtest"
)

func TestStorageClass(t *testing.T) {
	const valid = `{metadata: {name: fast, annotations: {storageclass.kubernetes.io/is-default-class: "true"}}, provisioner: Example.com/fast, parameters: {a: b}}`
	kindtest.Holds(t, StorageClass, valid)
	kindtest.Defaults(t, StorageClass, `{provisioner: x}`, `{provisioner: x, reclaimPolicy: Delete, volumeBindingMode: Immediate}`)
	type C = *storagev1.StorageClass
	if row := StorageClass.Row(kindtest.From[C](t, StorageClass, valid)); row[0] != "fast (default)" || row[2] != "Delete" || row[4] != false {
		t.Errorf("row %v", row)
	}
	kindtest.Refuses(t, StorageClass, valid, []kindtest.Case[C]{
		kindtest.When("no provisioner", func(c C) { c.Provisioner = "" }, "Required provisioner"),
		kindtest.When("provisioner", func(c C) { c.Provisioner = "a/b/c" }, "Invalid provisioner"),
		kindtest.When("empty key", func(c C) { c.Parameters[""] = "x" }, "Invalid parameters: field can not be empty."),
		kindtest.When("long parameters", func(c C) { c.Parameters["a"] = strings.Repeat("x", 256*1024) }, "TooLong parameters"),
		kindtest.When("reclaim", func(c C) { *c.ReclaimPolicy = "Recycle" }, `NotSupported reclaimPolicy: supported values: "Delete", "Retain"`),
		kindtest.When("no mode", func(c C) { c.VolumeBindingMode = nil }, "Required volumeBindingMode"),
		kindtest.When("mode", func(c C) { *c.VolumeBindingMode = "x" }, "NotSupported volumeBindingMode"),
		kindtest.When("same topology twice", func(c C) {
			term := corev1.TopologySelectorTerm{MatchLabelExpressions: []corev1.TopologySelectorLabelRequirement{{Key: "zone", Values: []string{"a"}}}}
			c.AllowedTopologies = []corev1.TopologySelectorTerm{term, term}
		}, "Duplicate allowedTopologies[1].matchLabelExpressions"),
		kindtest.When("topology of nothing", func(c C) { c.AllowedTopologies = make([]corev1.TopologySelectorTerm, 1) },
			"Duplicate allowedTopologies[0].matchLabelExpressions"),
	})
	kindtest.RefusesUpdate(t, StorageClass, valid, []kindtest.Case[C]{
		kindtest.When("what may change", func(c C) { c.AllowVolumeExpansion = new(true); c.MountOptions = []string{"ro"} }),
		kindtest.When("what may not", func(c C) {
			c.Provisioner, c.Parameters, *c.ReclaimPolicy, *c.VolumeBindingMode = "x", nil, "Retain", "WaitForFirstConsumer"
		}, "Invalid provisioner", "Invalid parameters", "Invalid reclaimPolicy", "Invalid volumeBindingMode"),
	})
	c := kindtest.From[C](t, StorageClass, valid)
	c.AllowedTopologies = []corev1.TopologySelectorTerm{{MatchLabelExpressions: []corev1.TopologySelectorLabelRequirement{{Key: "beta.kubernetes.io/os"}}}}
	if got := StorageClass.Warn(c, nil); len(got) != 1 || !strings.HasPrefix(got[0], "allowedTopologies[0].matchLabelExpressions[0].key: deprecated") {
		t.Errorf("warnings %q", got)
	}
}

func TestVolumeAttributesClass(t *testing.T) {
	const valid = `{metadata: {name: gold}, driverName: a.b, parameters: {iops: "1"}}`
	kindtest.Holds(t, VolumeAttributesClass, valid)
	type C = *storagev1.VolumeAttributesClass
	kindtest.Refuses(t, VolumeAttributesClass, valid, []kindtest.Case[C]{
		kindtest.When("empty", func(c C) { c.DriverName, c.Parameters = "", nil }, "Required driverName", "Required parameters"),
	})
	kindtest.RefusesUpdate(t, VolumeAttributesClass, valid, []kindtest.Case[C]{
		kindtest.When("all", func(c C) { c.DriverName, c.Parameters = "x", map[string]string{"a": "b"} }, "Forbidden driverName", "Forbidden parameters"),
	})
}

func TestVolumeAttachment(t *testing.T) {
	const valid = `{metadata: {name: a}, spec: {attacher: CSI.example.com, nodeName: n1, source: {persistentVolumeName: pv}}}`
	kindtest.Holds(t, VolumeAttachment, valid)
	type A = *storagev1.VolumeAttachment
	kindtest.Refuses(t, VolumeAttachment, valid, []kindtest.Case[A]{
		kindtest.When("no attacher", func(a A) { a.Spec.Attacher = "" }, "Required spec.attacher"),
		kindtest.When("attacher", func(a A) { a.Spec.Attacher = strings.Repeat("a_", 33) }, "TooLong spec.attacher", "Invalid spec.attacher"),
		kindtest.When("node", func(a A) { a.Spec.NodeName = "" }, "Invalid spec.nodeName"),
		kindtest.When("no source", func(a A) { a.Spec.Source = storagev1.VolumeAttachmentSource{} }, "Required spec.source"),
		kindtest.When("two sources", func(a A) { a.Spec.Source.InlineVolumeSpec = &corev1.PersistentVolumeSpec{} }, "Forbidden spec.source"),
		kindtest.When("empty name", func(a A) { a.Spec.Source.PersistentVolumeName = new("") },
			"Required spec.source.persistentVolumeName", "Invalid spec.source.persistentVolumeName"),
		kindtest.When("error", func(a A) {
			a.Status.AttachError = &storagev1.VolumeError{Message: strings.Repeat("x", 1025), ErrorCode: new(int32(-1))}
			a.Status.AttachmentMetadata = map[string]string{"a": strings.Repeat("x", 256*1024)}
		}, "TooLong status.attachError.message", "Invalid status.attachError.errorCode", "TooLong status.attachmentMetadata"),
	})
	kindtest.RefusesUpdate(t, VolumeAttachment, valid, []kindtest.Case[A]{
		kindtest.When("node", func(a A) { a.Spec.NodeName = "n2" }, "Invalid spec: field is immutable"),
	})
	old := kindtest.From[A](t, VolumeAttachment, valid)
	now := old.DeepCopy()
	now.Labels, now.Spec.NodeName, now.Status.Attached = map[string]string{"a": "b"}, "n2", true
	VolumeAttachment.Subs["status"].Update(now, old)
	if now.Labels != nil || now.Spec.NodeName != "n1" || !now.Status.Attached {
		t.Errorf("status update: %+v", now)
	}
}

func TestCSINode(t *testing.T) {
	const valid = `{metadata: {name: n1}, spec: {drivers: [{name: a.b, nodeID: x, topologyKeys: [a.b/zone], allocatable: {count: 3}}]}}`
	kindtest.Holds(t, CSINode, valid)
	type N = *storagev1.CSINode
	kindtest.Refuses(t, CSINode, valid, []kindtest.Case[N]{
		kindtest.When("drivers", func(n N) {
			n.Spec.Drivers = append(n.Spec.Drivers, storagev1.CSINodeDriver{Name: "a.b", NodeID: "x"},
				storagev1.CSINodeDriver{TopologyKeys: []string{"a", "a", "!"}, Allocatable: &storagev1.VolumeNodeResources{Count: new(int32(-1))}})
		}, "Duplicate spec.drivers[1].name", "Required spec.drivers[2].name", "Required spec.drivers[2].nodeID",
			"Duplicate spec.drivers[2]", "Invalid spec.drivers[2]", "Invalid spec.drivers[2].allocatable.count"),
		kindtest.When("long id", func(n N) { n.Spec.Drivers[0].NodeID = strings.Repeat("x", 257) }, "Invalid spec.drivers[0].nodeID"),
	})
	kindtest.RefusesUpdate(t, CSINode, valid, []kindtest.Case[N]{
		kindtest.When("count", func(n N) { n.Spec.Drivers[0].Allocatable.Count = new(int32(9)) }),
		kindtest.When("id", func(n N) { n.Spec.Drivers[0].NodeID = "y" }, "Invalid spec.drivers: field is immutable"),
		kindtest.When("none", func(n N) { n.Spec.Drivers = nil }),
	})
}

func TestCSIDriver(t *testing.T) {
	const valid = `{metadata: {name: a.b}, spec: {tokenRequests: [{audience: x}]}}`
	kindtest.Holds(t, CSIDriver, valid)
	kindtest.Defaults(t, CSIDriver, `{}`, `{spec: {attachRequired: true, podInfoOnMount: false, storageCapacity: false, fsGroupPolicy: ReadWriteOnceWithFSType,
volumeLifecycleModes: [Persistent], requiresRepublish: false, seLinuxMount: false, preventPodSchedulingIfMissing: false}}`)
	type D = *storagev1.CSIDriver
	kindtest.Refuses(t, CSIDriver, valid, []kindtest.Case[D]{
		kindtest.When("unset", func(d D) { d.Spec.AttachRequired, d.Spec.PodInfoOnMount = nil, nil }, "Required spec.attachedRequired", "Required spec.podInfoOnMount"),
		kindtest.When("policy", func(d D) { *d.Spec.FSGroupPolicy = "x" }, "NotSupported spec.fsGroupPolicy"),
		kindtest.When("tokens", func(d D) {
			d.Spec.TokenRequests = []storagev1.TokenRequest{{Audience: "a"}, {Audience: "a"}, {Audience: "b", ExpirationSeconds: new(int64(1))},
				{Audience: "c", ExpirationSeconds: new(int64(1<<32 + 1))}}
		}, "Duplicate spec.tokenRequests[1].audience", "Invalid spec.tokenRequests[2].expirationSeconds", "Invalid spec.tokenRequests[3].expirationSeconds"),
		kindtest.When("mode", func(d D) { d.Spec.VolumeLifecycleModes[0] = "x" }, "NotSupported spec.volumeLifecycleModes"),
		kindtest.When("period", func(d D) { d.Spec.NodeAllocatableUpdatePeriodSeconds = new(int64(9)) }, "Invalid spec.nodeAllocatableUpdatePeriodSeconds"),
		kindtest.When("secrets", func(d D) { d.Spec.ServiceAccountTokenInSecrets, d.Spec.TokenRequests = new(true), nil }, "Invalid spec.serviceAccountTokenInSecrets"),
	})
	kindtest.RefusesUpdate(t, CSIDriver, valid, []kindtest.Case[D]{
		kindtest.When("what may change", func(d D) { d.Spec.PodInfoOnMount = new(true) }),
		kindtest.When("what may not", func(d D) {
			d.Spec.AttachRequired = new(false)
			d.Spec.VolumeLifecycleModes = []storagev1.VolumeLifecycleMode{"Ephemeral"}
		}, "Invalid spec.attachedRequired", "Invalid spec.volumeLifecycleModes"),
	})
	if got := CSIDriver.Warn(kindtest.From[D](t, CSIDriver, valid), nil); len(got) != 1 {
		t.Errorf("warnings %q", got)
	}
}

func TestCSIStorageCapacity(t *testing.T) {
	const valid = `{metadata: {name: c}, storageClassName: fast, capacity: 1Gi, nodeTopology: {matchLabels: {a: b}}}`
	kindtest.Holds(t, CSIStorageCapacity, valid)
	type C = *storagev1.CSIStorageCapacity
	kindtest.Refuses(t, CSIStorageCapacity, valid, []kindtest.Case[C]{
		kindtest.When("class", func(c C) { c.StorageClassName = "" }, "Invalid storageClassName"),
		kindtest.When("negative", func(c C) { c.Capacity = new(resource.MustParse("-1")) }, "Invalid capacity: must be greater than or equal to 0"),
		kindtest.When("topology", func(c C) { c.NodeTopology.MatchLabels["a"] = "!" }, "Invalid nodeTopology.matchLabels"),
	})
	kindtest.RefusesUpdate(t, CSIStorageCapacity, valid, []kindtest.Case[C]{
		kindtest.When("capacity", func(c C) { c.Capacity = nil }),
		kindtest.When("what may not", func(c C) { c.StorageClassName, c.NodeTopology = "x", &metav1.LabelSelector{} }, "Invalid storageClassName", "Invalid nodeTopology"),
	})
}
