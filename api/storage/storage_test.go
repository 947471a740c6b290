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
		{"no provisioner", func(c C) { c.Provisioner = "" }, []string{"Required provisioner"}},
		{"provisioner", func(c C) { c.Provisioner = "a/b/c" }, []string{"Invalid provisioner"}},
		{"empty key", func(c C) { c.Parameters[""] = "x" }, []string{"Invalid parameters: field can not be empty."}},
		{"long parameters", func(c C) { c.Parameters["a"] = strings.Repeat("x", 256*1024) }, []string{"TooLong parameters"}},
		{"reclaim", func(c C) { *c.ReclaimPolicy = "Recycle" }, []string{`NotSupported reclaimPolicy: supported values: "Delete", "Retain"`}},
		{"no mode", func(c C) { c.VolumeBindingMode = nil }, []string{"Required volumeBindingMode"}},
		{"mode", func(c C) { *c.VolumeBindingMode = "x" }, []string{"NotSupported volumeBindingMode"}},
		{"same topology twice", func(c C) {
			term := corev1.TopologySelectorTerm{MatchLabelExpressions: []corev1.TopologySelectorLabelRequirement{{Key: "zone", Values: []string{"a"}}}}
			c.AllowedTopologies = []corev1.TopologySelectorTerm{term, term}
		}, []string{"Duplicate allowedTopologies[1].matchLabelExpressions"}},
	})
	kindtest.RefusesUpdate(t, StorageClass, valid, []kindtest.Case[C]{
		{"what may change", func(c C) { c.AllowVolumeExpansion = new(true); c.MountOptions = []string{"ro"} }, nil},
		{"what may not", func(c C) {
			c.Provisioner, c.Parameters, *c.ReclaimPolicy, *c.VolumeBindingMode = "x", nil, "Retain", "WaitForFirstConsumer"
		}, []string{"Invalid provisioner", "Invalid parameters", "Invalid reclaimPolicy", "Invalid volumeBindingMode"}},
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
		{"empty", func(c C) { c.DriverName, c.Parameters = "", nil }, []string{"Required driverName", "Required parameters"}},
	})
	kindtest.RefusesUpdate(t, VolumeAttributesClass, valid, []kindtest.Case[C]{
		{"all", func(c C) { c.DriverName, c.Parameters = "x", map[string]string{"a": "b"} }, []string{"Forbidden driverName", "Forbidden parameters"}},
	})
}

func TestVolumeAttachment(t *testing.T) {
	const valid = `{metadata: {name: a}, spec: {attacher: CSI.example.com, nodeName: n1, source: {persistentVolumeName: pv}}}`
	kindtest.Holds(t, VolumeAttachment, valid)
	type A = *storagev1.VolumeAttachment
	kindtest.Refuses(t, VolumeAttachment, valid, []kindtest.Case[A]{
		{"no attacher", func(a A) { a.Spec.Attacher = "" }, []string{"Required spec.attacher"}},
		{"attacher", func(a A) { a.Spec.Attacher = strings.Repeat("a_", 33) }, []string{"TooLong spec.attacher", "Invalid spec.attacher"}},
		{"node", func(a A) { a.Spec.NodeName = "" }, []string{"Invalid spec.nodeName"}},
		{"no source", func(a A) { a.Spec.Source = storagev1.VolumeAttachmentSource{} }, []string{"Required spec.source"}},
		{"two sources", func(a A) { a.Spec.Source.InlineVolumeSpec = &corev1.PersistentVolumeSpec{} }, []string{"Forbidden spec.source"}},
		{"empty name", func(a A) { a.Spec.Source.PersistentVolumeName = new("") },
			[]string{"Required spec.source.persistentVolumeName", "Invalid spec.source.persistentVolumeName"}},
		{"error", func(a A) {
			a.Status.AttachError = &storagev1.VolumeError{Message: strings.Repeat("x", 1025), ErrorCode: new(int32(-1))}
			a.Status.AttachmentMetadata = map[string]string{"a": strings.Repeat("x", 256*1024)}
		}, []string{"TooLong status.attachError.message", "Invalid status.attachError.errorCode", "TooLong status.attachmentMetadata"}},
	})
	kindtest.RefusesUpdate(t, VolumeAttachment, valid, []kindtest.Case[A]{
		{"node", func(a A) { a.Spec.NodeName = "n2" }, []string{"Invalid spec: field is immutable"}},
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
		{"drivers", func(n N) {
			n.Spec.Drivers = append(n.Spec.Drivers, storagev1.CSINodeDriver{Name: "a.b", NodeID: "x"},
				storagev1.CSINodeDriver{TopologyKeys: []string{"a", "a", "!"}, Allocatable: &storagev1.VolumeNodeResources{Count: new(int32(-1))}})
		}, []string{"Duplicate spec.drivers[1].name", "Required spec.drivers[2].name", "Required spec.drivers[2].nodeID",
			"Duplicate spec.drivers[2]", "Invalid spec.drivers[2]", "Invalid spec.drivers[2].allocatable.count"}},
		{"long id", func(n N) { n.Spec.Drivers[0].NodeID = strings.Repeat("x", 257) }, []string{"Invalid spec.drivers[0].nodeID"}},
	})
	kindtest.RefusesUpdate(t, CSINode, valid, []kindtest.Case[N]{
		{"count", func(n N) { n.Spec.Drivers[0].Allocatable.Count = new(int32(9)) }, nil},
		{"id", func(n N) { n.Spec.Drivers[0].NodeID = "y" }, []string{"Invalid spec.drivers: field is immutable"}},
		{"none", func(n N) { n.Spec.Drivers = nil }, nil},
	})
}

func TestCSIDriver(t *testing.T) {
	const valid = `{metadata: {name: a.b}, spec: {tokenRequests: [{audience: x}]}}`
	kindtest.Holds(t, CSIDriver, valid)
	kindtest.Defaults(t, CSIDriver, `{}`, `{spec: {attachRequired: true, podInfoOnMount: false, storageCapacity: false, fsGroupPolicy: ReadWriteOnceWithFSType,
volumeLifecycleModes: [Persistent], requiresRepublish: false, seLinuxMount: false, preventPodSchedulingIfMissing: false}}`)
	type D = *storagev1.CSIDriver
	kindtest.Refuses(t, CSIDriver, valid, []kindtest.Case[D]{
		{"unset", func(d D) { d.Spec.AttachRequired, d.Spec.PodInfoOnMount = nil, nil }, []string{"Required spec.attachedRequired", "Required spec.podInfoOnMount"}},
		{"policy", func(d D) { *d.Spec.FSGroupPolicy = "x" }, []string{"NotSupported spec.fsGroupPolicy"}},
		{"tokens", func(d D) {
			d.Spec.TokenRequests = []storagev1.TokenRequest{{Audience: "a"}, {Audience: "a"}, {Audience: "b", ExpirationSeconds: new(int64(1))},
				{Audience: "c", ExpirationSeconds: new(int64(1<<32 + 1))}}
		}, []string{"Duplicate spec.tokenRequests[1].audience", "Invalid spec.tokenRequests[2].expirationSeconds", "Invalid spec.tokenRequests[3].expirationSeconds"}},
		{"mode", func(d D) { d.Spec.VolumeLifecycleModes[0] = "x" }, []string{"NotSupported spec.volumeLifecycleModes"}},
		{"period", func(d D) { d.Spec.NodeAllocatableUpdatePeriodSeconds = new(int64(9)) }, []string{"Invalid spec.nodeAllocatableUpdatePeriodSeconds"}},
		{"secrets", func(d D) { d.Spec.ServiceAccountTokenInSecrets, d.Spec.TokenRequests = new(true), nil }, []string{"Invalid spec.serviceAccountTokenInSecrets"}},
	})
	kindtest.RefusesUpdate(t, CSIDriver, valid, []kindtest.Case[D]{
		{"what may change", func(d D) { d.Spec.PodInfoOnMount = new(true) }, nil},
		{"what may not", func(d D) {
			d.Spec.AttachRequired = new(false)
			d.Spec.VolumeLifecycleModes = []storagev1.VolumeLifecycleMode{"Ephemeral"}
		}, []string{"Invalid spec.attachedRequired", "Invalid spec.volumeLifecycleModes"}},
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
		{"class", func(c C) { c.StorageClassName = "" }, []string{"Invalid storageClassName"}},
		{"negative", func(c C) { c.Capacity = new(resource.MustParse("-1")) }, []string{"Invalid capacity: must be greater than or equal to 0"}},
		{"topology", func(c C) { c.NodeTopology.MatchLabels["a"] = "!" }, []string{"Invalid nodeTopology.matchLabels"}},
	})
	kindtest.RefusesUpdate(t, CSIStorageCapacity, valid, []kindtest.Case[C]{
		{"capacity", func(c C) { c.Capacity = nil }, nil},
		{"what may not", func(c C) { c.StorageClassName, c.NodeTopology = "x", &metav1.LabelSelector{} }, []string{"Invalid storageClassName", "Invalid nodeTopology"}},
	})
}
