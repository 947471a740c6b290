package core

import (
	"path"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/column"
	"skiff/api/kind"
)

// PersistentVolume is the kind of a piece of storage that claims are bound to.
var PersistentVolume = kind.Of(kind.Spec[*corev1.PersistentVolume]{
	NameOnUpdate: true,
	New:          func() *corev1.PersistentVolume { return &corev1.PersistentVolume{} },
	NewList:      func() runtime.Object { return &corev1.PersistentVolumeList{} },
	Default:      defaultPersistentVolume,
	Create: func(v *corev1.PersistentVolume) {
		v.Status = corev1.PersistentVolumeStatus{Phase: corev1.VolumePending, LastPhaseTransitionTime: new(metav1.Now())}
	},
	Update: func(v, old *corev1.PersistentVolume) { v.Status = old.Status },
	Validate: func(v *corev1.PersistentVolume) field.ErrorList {
		return collect(nil, func(root place) { checkPersistentVolume(root, v, false) })
	},
	ValidateUpdate: validatePersistentVolumeUpdate,
	Subs: map[string]kind.Sub[*corev1.PersistentVolume]{"status": {
		Update: func(v, old *corev1.PersistentVolume) {
			v.Spec = old.Spec
			switch last := v.Status.LastPhaseTransitionTime; {
			case v.Status.Phase == old.Status.Phase && last == nil:
				v.Status.LastPhaseTransitionTime = old.Status.LastPhaseTransitionTime
			case v.Status.Phase != old.Status.Phase && (last == nil || last.Equal(old.Status.LastPhaseTransitionTime)):
				v.Status.LastPhaseTransitionTime = new(metav1.Now())
			}
		},
		Validate: func(v, _ *corev1.PersistentVolume) field.ErrorList { return wantsVersion(v.ResourceVersion) },
	}},
	Warn: warnPersistentVolume,
	Columns: []metav1.TableColumnDefinition{
		column.Name,
		column.String("Capacity", corev1.PersistentVolumeSpec{}.SwaggerDoc()["capacity"]),
		column.String("Access Modes", corev1.PersistentVolumeSpec{}.SwaggerDoc()["accessModes"]),
		column.String("Reclaim Policy", corev1.PersistentVolumeSpec{}.SwaggerDoc()["persistentVolumeReclaimPolicy"]),
		column.String("Status", corev1.PersistentVolumeStatus{}.SwaggerDoc()["phase"]),
		column.String("Claim", corev1.PersistentVolumeSpec{}.SwaggerDoc()["claimRef"]),
		column.String("StorageClass", "StorageClass of the pv"),
		column.String("VolumeAttributesClass", "VolumeAttributesClass of the pv"),
		column.String("Reason", corev1.PersistentVolumeStatus{}.SwaggerDoc()["reason"]),
		column.Age,
		column.Wide("VolumeMode", corev1.PersistentVolumeSpec{}.SwaggerDoc()["volumeMode"]),
	},
	Row: func(v *corev1.PersistentVolume) []any {
		claim := ""
		if r := v.Spec.ClaimRef; r != nil {
			claim = r.Namespace + "/" + r.Name
		}
		phase := string(v.Status.Phase)
		if v.DeletionTimestamp != nil {
			phase = "Terminating"
		}
		class := v.Spec.StorageClassName
		if beta, ok := v.Annotations[corev1.BetaStorageClassAnnotation]; ok {
			class = beta
		}
		q := v.Spec.Capacity[corev1.ResourceStorage]
		return []any{v.Name, q.String(), accessModes(v.Spec.AccessModes), string(v.Spec.PersistentVolumeReclaimPolicy), phase, claim, class,
			column.Or(v.Spec.VolumeAttributesClassName, "<unset>"), v.Status.Reason, column.Since(v.CreationTimestamp),
			string(column.Or(v.Spec.VolumeMode, "<unset>"))}
	},
})

// wantsVersion: this status was always written under optimistic concurrency.
func wantsVersion(version string) field.ErrorList {
	if version == "" {
		return field.ErrorList{field.Required(field.NewPath("resourceVersion"), "")}
	}
	return nil
}

func defaultPersistentVolume(v *corev1.PersistentVolume) {
	setDefault(&v.Status.Phase, corev1.VolumePending)
	setDefault(&v.Spec.PersistentVolumeReclaimPolicy, corev1.PersistentVolumeReclaimRetain)
	setDefaultPtr(&v.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	DefaultVolumeSpec(&v.Spec)
}

// DefaultVolumeSpec fills what is unset in a volume's spec wherever that stands.
func DefaultVolumeSpec(s *corev1.PersistentVolumeSpec) {
	roundResources(s.Capacity)
	if s.HostPath != nil {
		setDefaultPtr(&s.HostPath.Type, corev1.HostPathUnset)
	}
	if s.RBD != nil {
		setDefault(&s.RBD.RBDPool, "rbd")
		setDefault(&s.RBD.RadosUser, "admin")
		setDefault(&s.RBD.Keyring, "/etc/ceph/keyring")
	}
	if s.ISCSI != nil {
		setDefault(&s.ISCSI.ISCSIInterface, "default")
	}
	if s.AzureDisk != nil {
		defaultAzureDisk(s.AzureDisk)
	}
	if s.ScaleIO != nil {
		setDefault(&s.ScaleIO.StorageMode, "ThinProvisioned")
		setDefault(&s.ScaleIO.FSType, "xfs")
	}
}

// ValidatePersistentVolumeSpec checks a volume's spec. inline: it stands in a
// VolumeAttachment, not in the PersistentVolume called name.
func ValidatePersistentVolumeSpec(spec *corev1.PersistentVolumeSpec, name string, inline bool, path *field.Path) field.ErrorList {
	return collect(path, func(p place) {
		if inline {
			checkInlineVolume(p, spec)
		} else {
			checkOwnVolume(p, spec, false)
		}
		checkVolumeSpec(p, spec, name)
	})
}

func checkPersistentVolume(root place, v *corev1.PersistentVolume, lax bool) {
	p := root.child("spec")
	checkOwnVolume(p, &v.Spec, lax)
	checkVolumeSpec(p, &v.Spec, v.Name)
	if _, ok := v.Annotations[corev1.MountOptionAnnotation]; ok && !takesMountOptions(&v.Spec.PersistentVolumeSource) {
		root.child("metadata").child("annotations").forbidden(corev1.MountOptionAnnotation, "may not specify mount options for this volume type")
	}
}

func takesMountOptions(s *corev1.PersistentVolumeSource) bool {
	return s.GCEPersistentDisk != nil || s.AWSElasticBlockStore != nil || s.Glusterfs != nil || s.RBD != nil || s.Quobyte != nil ||
		s.ISCSI != nil || s.Cinder != nil || s.CephFS != nil || s.NFS != nil || s.AzureFile != nil || s.VsphereVolume != nil ||
		s.AzureDisk != nil || s.PortworxVolume != nil || s.StorageOS != nil
}

// checkInlineVolume: what a VolumeAttachment may not say of its volume.
func checkInlineVolume(p place, s *corev1.PersistentVolumeSpec) {
	const inline = "may not be specified in the context of inline volumes"
	if s.ClaimRef != nil {
		p.forbidden("claimRef", inline)
	}
	if len(s.Capacity) > 0 {
		p.forbidden("capacity", inline)
	}
	if s.CSI == nil {
		p.required("csi", "has to be specified in the context of inline volumes")
	}
	if r := s.PersistentVolumeReclaimPolicy; r != "" && r != corev1.PersistentVolumeReclaimRetain {
		p.forbidden("persistentVolumeReclaimPolicy", "may only be Retain in the context of inline volumes")
	}
	if s.NodeAffinity != nil {
		p.forbidden("nodeAffinity", inline)
	}
	if s.StorageClassName != "" {
		p.forbidden("storageClassName", inline)
	}
	if s.VolumeMode != nil && *s.VolumeMode != corev1.PersistentVolumeFilesystem {
		p.forbidden("volumeMode", "may not specify volumeMode other than Filesystem in the context of inline volumes")
	}
}

// checkOwnVolume: what only a PersistentVolume says.
func checkOwnVolume(p place, s *corev1.PersistentVolumeSpec, lax bool) {
	if len(s.Capacity) == 0 {
		p.required("capacity", "")
	}
	if _, ok := s.Capacity[corev1.ResourceStorage]; !ok || len(s.Capacity) > 1 {
		p.add(field.NotSupported(p.at("capacity"), s.Capacity, []corev1.ResourceName{corev1.ResourceStorage}))
	}
	for _, name := range sortedKeys(s.Capacity) {
		at := p.child("capacity").key(string(name))
		checkWholeQuantity(at, s.Capacity[name])
		checkPositiveQuantity(at, s.Capacity[name])
	}
	if s.PersistentVolumeReclaimPolicy != "" {
		oneOf(p, "persistentVolumeReclaimPolicy", s.PersistentVolumeReclaimPolicy,
			corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRecycle, corev1.PersistentVolumeReclaimRetain)
	}
	if s.NodeAffinity != nil {
		if s.NodeAffinity.Required == nil {
			p.child("nodeAffinity").required("required", "must specify required node constraints")
		} else {
			checkNodeSelector(p.child("nodeAffinity").child("required"), s.NodeAffinity.Required, lax)
		}
	}
	if s.HostPath != nil && path.Clean(s.HostPath.Path) == "/" && s.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		p.forbidden("persistentVolumeReclaimPolicy", "may not be 'recycle' for a hostPath mount of '/'")
	}
	if s.StorageClassName != "" {
		p.dnsSubdomain("storageClassName", s.StorageClassName)
	}
	if s.VolumeMode != nil {
		checkVolumeMode(p, *s.VolumeMode)
	}
}

// checkVolumeSpec checks what all volumes have.
func checkVolumeSpec(p place, s *corev1.PersistentVolumeSpec, name string) {
	if len(s.AccessModes) == 0 {
		p.required("accessModes", "")
	}
	checkAccessModes(p, s.AccessModes)
	checkPersistentSource(p, s, name)
	if c := s.VolumeAttributesClassName; c != nil {
		if *c == "" {
			p.required("volumeAttributesClassName", "an empty string is disallowed")
		} else {
			p.dnsSubdomain("volumeAttributesClassName", *c)
		}
		if s.CSI == nil {
			p.required("csi", "has to be specified when using volumeAttributesClassName")
		}
	}
}

// checkPersistentSource checks that a volume has one type, and that type. Like
// its twin for pods it is a table: one row a type.
func checkPersistentSource(p place, s *corev1.PersistentVolumeSpec, volume string) {
	one := union{place: p, tooMany: oneVolumeType}
	if at, ok := one.take(s.HostPath != nil, "hostPath"); ok {
		checkHostPath(at, s.HostPath)
	}
	if at, ok := one.takeAs(s.GCEPersistentDisk != nil, "gcePersistentDisk", "persistentDisk"); ok {
		checkGCEDisk(at, s.GCEPersistentDisk)
	}
	if at, ok := one.take(s.AWSElasticBlockStore != nil, "awsElasticBlockStore"); ok {
		checkAWSDisk(at, s.AWSElasticBlockStore)
	}
	if at, ok := one.take(s.Glusterfs != nil, "glusterfs"); ok {
		at.wants("endpoints", s.Glusterfs.EndpointsName)
		at.wants("path", s.Glusterfs.Path)
		if ns := s.Glusterfs.EndpointsNamespace; ns != nil && *ns == "" {
			at.invalid("endpointsNamespace", "", "if the endpointnamespace is set, it must be a valid namespace name")
		} else if ns != nil {
			at.invalidEach("endpointsNamespace", *ns, validation.ValidateNamespaceName(*ns, false))
		}
	}
	if at, ok := one.take(s.Flocker != nil, "flocker"); ok {
		checkFlocker(at, s.Flocker)
	}
	if at, ok := one.take(s.NFS != nil, "nfs"); ok {
		checkNFS(at, s.NFS)
	}
	if at, ok := one.take(s.RBD != nil, "rbd"); ok {
		checkRBD(at, s.RBD.CephMonitors, s.RBD.RBDImage)
	}
	if at, ok := one.take(s.Quobyte != nil, "quobyte"); ok {
		checkQuobyte(at, s.Quobyte)
	}
	if at, ok := one.takeAs(s.CephFS != nil, "cephFS", "cephfs"); ok {
		wantsMonitors(at, s.CephFS.Monitors)
	}
	if at, ok := one.take(s.ISCSI != nil, "iscsi"); ok {
		checkPersistentISCSI(at, s.ISCSI, volume)
	}
	if at, ok := one.take(s.Cinder != nil, "cinder"); ok {
		at.wants("volumeID", s.Cinder.VolumeID)
		if r := s.Cinder.SecretRef; r != nil {
			at.child("secretRef").wants("name", r.Name)
			at.child("secretRef").wants("namespace", r.Namespace)
		}
	}
	if at, ok := one.take(s.FC != nil, "fc"); ok {
		checkFC(at, s.FC)
	}
	if s.FlexVolume != nil { // never refused for coming second
		one.count++
		checkFlex(p.child("flexVolume"), s.FlexVolume.Driver, s.FlexVolume.Options)
	}
	if at, ok := one.take(s.AzureFile != nil, "azureFile"); ok {
		at.wants("secretName", s.AzureFile.SecretName)
		at.wants("shareName", s.AzureFile.ShareName)
		if ns := s.AzureFile.SecretNamespace; ns != nil {
			at.wants("secretNamespace", *ns)
		}
	}
	if at, ok := one.take(s.VsphereVolume != nil, "vsphereVolume"); ok {
		at.wants("volumePath", s.VsphereVolume.VolumePath)
	}
	if at, ok := one.take(s.PhotonPersistentDisk != nil, "photonPersistentDisk"); ok {
		at.wants("pdID", s.PhotonPersistentDisk.PdID)
	}
	if at, ok := one.take(s.PortworxVolume != nil, "portworxVolume"); ok {
		at.wants("volumeID", s.PortworxVolume.VolumeID)
	}
	if at, ok := one.take(s.AzureDisk != nil, "azureDisk"); ok {
		checkAzureDisk(at, s.AzureDisk)
	}
	if at, ok := one.take(s.ScaleIO != nil, "scaleIO"); ok {
		checkScaleIO(at, s.ScaleIO.Gateway, s.ScaleIO.System, s.ScaleIO.VolumeName)
	}
	if at, ok := one.take(s.Local != nil, "local"); ok {
		if at.wants("path", s.Local.Path) {
			checkNoBacksteps(at, "path", s.Local.Path)
		}
		if s.NodeAffinity == nil {
			p.required("nodeAffinity", "Local volume requires node affinity")
		}
	}
	if at, ok := one.take(s.StorageOS != nil, "storageos"); ok {
		checkStorageOS(at, s.StorageOS.VolumeName, s.StorageOS.VolumeNamespace)
		if r := s.StorageOS.SecretRef; r != nil {
			at.child("secretRef").wants("name", r.Name)
			at.child("secretRef").wants("namespace", r.Namespace)
		}
	}
	if at, ok := one.take(s.CSI != nil, "csi"); ok {
		checkPersistentCSI(at, s.CSI)
	}
	if one.count == 0 {
		p.required("", "must specify a volume type")
	}
}

func checkPersistentCSI(p place, c *corev1.CSIPersistentVolumeSource) {
	checkCSIDriver(p, "driver", c.Driver)
	p.wants("volumeHandle", c.VolumeHandle)
	secret := func(name string, r *corev1.SecretReference) {
		if r == nil {
			return
		}
		at := p.child(name)
		if at.wants("name", r.Name) {
			at.dnsSubdomain("name", r.Name)
		}
		if at.wants("namespace", r.Namespace) {
			at.dnsLabel("namespace", r.Namespace)
		}
	}
	secret("controllerPublishSecretRef", c.ControllerPublishSecretRef)
	secret("controllerExpandSecretRef", c.ControllerExpandSecretRef)
	secret("nodePublishSecretRef", c.NodePublishSecretRef)
	secret("nodeExpandSecretRef", c.NodeExpandSecretRef)
}

// validatePersistentVolumeUpdate: what the volume is may not change.
func validatePersistentVolumeUpdate(v, old *corev1.PersistentVolume) field.ErrorList {
	return collect(nil, func(root place) {
		var broken field.ErrorList
		if a := old.Spec.NodeAffinity; a != nil && a.Required != nil {
			checkNodeSelectorValues(place{nil, &broken}, a.Required)
		}
		checkPersistentVolume(root, v, len(broken) > 0)
		source, was := &v.Spec.PersistentVolumeSource, &old.Spec.PersistentVolumeSource
		if was.CSI != nil && was.CSI.ControllerExpandSecretRef == nil && source.CSI != nil && source.CSI.ControllerExpandSecretRef != nil {
			source = source.DeepCopy() // this may be set once
			source.CSI.ControllerExpandSecretRef = nil
		}
		if !equality.Semantic.DeepEqual(source, was) {
			root.child("spec").forbidden("persistentvolumesource", "spec.persistentvolumesource is immutable after creation\n"+diff.Diff(*was, *source))
		}
		root.add(validation.ValidateImmutableField(v.Spec.VolumeMode, old.Spec.VolumeMode, field.NewPath("volumeMode"))...)
		if old.Spec.NodeAffinity != nil && !equality.Semantic.DeepEqual(withStableLabels(v.Spec.NodeAffinity, old.Spec.NodeAffinity), old.Spec.NodeAffinity) {
			root.invalid("nodeAffinity", v.Spec.NodeAffinity, "field is immutable, except for updating from beta label to GA")
		}
		if old.Spec.VolumeAttributesClassName != nil && v.Spec.VolumeAttributesClassName == nil {
			root.child("spec").forbidden("volumeAttributesClassName", "update from non-nil value to nil is forbidden")
		}
	})
}

// stableLabels are the names that node labels got when they were declared stable.
var stableLabels = map[string]string{
	corev1.LabelFailureDomainBetaZone:   corev1.LabelTopologyZone,
	corev1.LabelFailureDomainBetaRegion: corev1.LabelTopologyRegion,
	"beta.kubernetes.io/os":             corev1.LabelOSStable,
	"beta.kubernetes.io/arch":           corev1.LabelArchStable,
	corev1.LabelInstanceType:            corev1.LabelInstanceTypeStable,
}

// withStableLabels is a copy of now in which labels that old has by their older
// name have that name again.
func withStableLabels(now, old *corev1.VolumeNodeAffinity) *corev1.VolumeNodeAffinity {
	if now == nil || now.Required == nil || old.Required == nil {
		return now
	}
	now = now.DeepCopy()
	for i := range min(len(now.Required.NodeSelectorTerms), len(old.Required.NodeSelectorTerms)) {
		is, was := &now.Required.NodeSelectorTerms[i], &old.Required.NodeSelectorTerms[i]
		rename := func(is, was []corev1.NodeSelectorRequirement) {
			for j := range min(len(is), len(was)) {
				if is[j].Key == stableLabels[was[j].Key] {
					is[j].Key = was[j].Key
				}
			}
		}
		rename(is.MatchExpressions, was.MatchExpressions)
		rename(is.MatchFields, was.MatchFields)
	}
	return now
}

func warnPersistentVolume(v, _ *corev1.PersistentVolume) []string {
	w, s := warner{}, &v.Spec
	spec := field.NewPath("spec")
	for _, d := range []struct{ key, use string }{
		{corev1.BetaStorageClassAnnotation, `deprecated since v1.8; use "storageClassName" attribute instead`},
		{corev1.MountOptionAnnotation, `deprecated since v1.31; use "mountOptions" attribute instead`},
	} {
		if _, ok := v.Annotations[d.key]; ok {
			w.add("%s: %s", field.NewPath("metadata", "annotations").Key(d.key), d.use)
		}
	}
	if s.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		w.add("%s: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.", spec.Child("persistentVolumeReclaimPolicy"))
	}
	if s.NodeAffinity != nil && s.NodeAffinity.Required != nil {
		for i := range s.NodeAffinity.Required.NodeSelectorTerms {
			w.nodeTerm(spec.Child("nodeAffinity", "required", "nodeSelectorTerms").Index(i), &s.NodeAffinity.Required.NodeSelectorTerms[i], false)
		}
	}
	for _, d := range []struct {
		set           bool
		name, message string
	}{
		{s.CephFS != nil, "cephfs", "deprecated in v1.28, non-functional in v1.31+"},
		{s.PhotonPersistentDisk != nil, "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"},
		{s.ScaleIO != nil, "scaleIO", "deprecated in v1.16, non-functional in v1.22+"},
		{s.StorageOS != nil, "storageOS", "deprecated in v1.22, non-functional in v1.25+"},
		{s.Glusterfs != nil, "glusterfs", "deprecated in v1.25, non-functional in v1.26+"},
		{s.RBD != nil, "rbd", "deprecated in v1.28, non-functional in v1.31+"},
	} {
		if d.set {
			w.add("%s: %s", spec.Child(d.name), d.message)
		}
	}
	return w.texts
}
