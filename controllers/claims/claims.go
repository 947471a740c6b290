// Package claims brings PersistentVolumeClaims and PersistentVolumes together:
// it binds claims to volumes that fit (claims.go), says in each volume's phase
// what became of it (volume.go), makes volumes for claims of our own storage
// class (provision.go) and claims for pods that carry them (ephemeral.go), and
// lets claims and volumes go when nobody uses them (protect.go) and their
// directories are removed (reclaim.go). It writes objects only: directories are
// made and removed by the agent of the node that a volume is on.
package claims

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"skiff/api"
	"skiff/client"
	"skiff/controllers/loop"
)

// Annotations of claims and volumes that users and tools know.
const (
	bindCompleted     = "pv.kubernetes.io/bind-completed"
	boundByController = "pv.kubernetes.io/bound-by-controller"
	provisionedBy     = "pv.kubernetes.io/provisioned-by"
	selectedNode      = "volume.kubernetes.io/selected-node"
	provisioner       = "volume.kubernetes.io/storage-provisioner"
	betaProvisioner   = "volume.beta.kubernetes.io/storage-provisioner"
)

const volumesByClass = "volumes by class"

// Binder is the row of the table. Its keys are claims (with a namespace) and
// volumes (without).
func Binder() loop.Controller {
	return loop.Controller{
		Name: "persistent-volume-binder",
		Reads: []*api.Resource{
			api.For[*corev1.PersistentVolumeClaim](), api.For[*corev1.PersistentVolume](), api.For[*storagev1.StorageClass](), api.For[*corev1.Node](),
		},
		Writes: []string{"persistentvolumes", "persistentvolumes/status", "persistentvolumeclaims", "persistentvolumeclaims/status"},
		Indexes: []client.Index{{Name: volumesByClass, Resource: api.For[*corev1.PersistentVolume](), Keys: func(obj api.Object) []string {
			return []string{obj.(*corev1.PersistentVolume).Spec.StorageClassName}
		}}},
		Keys:   keys,
		Decide: Decide,
	}
}

func keys(v *client.View, c client.Change) (out []loop.Key) {
	switch obj := c.Object().(type) {
	case *corev1.PersistentVolumeClaim:
		out = append(out, loop.KeyOf(obj))
		if obj.Spec.VolumeName != "" {
			out = append(out, loop.Key{Name: obj.Spec.VolumeName})
		}
		if c.New == nil { // a volume may be for it though it never named one
			out = append(out, loop.Key{Name: volumeName(obj)})
		}
	case *corev1.PersistentVolume:
		out = append(out, loop.KeyOf(obj))
		if ref := obj.Spec.ClaimRef; ref != nil {
			return append(out, loop.Key{Namespace: ref.Namespace, Name: ref.Name})
		}
		return append(out, unbound(v, obj.Spec.StorageClassName)...)
	case *storagev1.StorageClass:
		return unbound(v, obj.Name)
	}
	return out // nodes are only looked up
}

// unbound lists the claims of a class that have no volume.
func unbound(v *client.View, class string) (out []loop.Key) {
	for claim := range client.All[*corev1.PersistentVolumeClaim](v, "") {
		if claim.Spec.VolumeName == "" && classOf(claim) == class {
			out = append(out, loop.KeyOf(claim))
		}
	}
	return out
}

func classOf(claim *corev1.PersistentVolumeClaim) string {
	if name := claim.Spec.StorageClassName; name != nil {
		return *name
	}
	return claim.Annotations[corev1.BetaStorageClassAnnotation]
}

// Decide binds a claim, or says what became of a volume.
func Decide(v *client.View, key loop.Key, now time.Time, m loop.Memory) (loop.Plan, loop.Memory) {
	if key.Namespace == "" {
		return decideVolume(v, key.Name), nil
	}
	claim, ok := client.Find[*corev1.PersistentVolumeClaim](v, key.Namespace, key.Name)
	if !ok {
		return loop.Plan{}, nil
	}
	plan := decideClaim(v, claim)
	// What users are told is told once, not whenever something is looked at again.
	last, _ := m.(told)
	next := told{reason: ""}
	if len(plan.Events) > 0 && len(plan.Writes) == 0 {
		next = told{plan.Events[0].Reason, plan.Events[0].Message, now}
		if last.reason == next.reason && last.message == next.message {
			plan.Events, next = nil, last
		}
	}
	if next == (told{}) {
		return plan, nil
	}
	return plan, next
}

// told is the memory: what was told of a claim last.
type told struct {
	reason, message string
	at              time.Time
}

// decideClaim brings a claim and its volume together.
func decideClaim(v *client.View, claim *corev1.PersistentVolumeClaim) loop.Plan {
	if claim.Spec.VolumeName == "" {
		return decideUnbound(v, claim)
	}
	volume, ok := client.Find[*corev1.PersistentVolume](v, "", claim.Spec.VolumeName)
	_, completed := claim.Annotations[bindCompleted]
	switch {
	case !ok && completed:
		return lost(claim, "ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!")
	case !ok:
		return status(claim, corev1.ClaimPending, nil)
	case refersTo(volume, claim) && volume.Spec.ClaimRef.UID == claim.UID:
		if !completed {
			return loop.Plan{Writes: []loop.Write{bindClaim(claim, volume)}}
		}
		return status(claim, corev1.ClaimBound, volume)
	case volume.Spec.ClaimRef == nil && completed:
		return lost(claim, "ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!")
	case volume.Spec.ClaimRef == nil || refersTo(volume, claim) && volume.Spec.ClaimRef.UID == "":
		if why := mismatch(volume, claim); why != "" {
			return loop.Plan{Events: []loop.Event{loop.Warning(claim, "VolumeMismatch", fmt.Sprintf("Cannot bind to requested volume %q: %s", volume.Name, why))}}
		}
		return loop.Plan{Writes: bind(claim, volume)}
	case completed:
		return lost(claim, "ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
	}
	plan := status(claim, corev1.ClaimPending, nil)
	plan.Events = append(plan.Events, loop.Warning(claim, "FailedBinding", fmt.Sprintf("volume %q already bound to a different claim.", volume.Name)))
	return plan
}

// decideUnbound finds a volume for a claim that names none, or makes one.
func decideUnbound(v *client.View, claim *corev1.PersistentVolumeClaim) loop.Plan {
	if claim.DeletionTimestamp != nil {
		return loop.Plan{}
	}
	class, hasClass := client.Find[*storagev1.StorageClass](v, "", classOf(claim))
	waits := hasClass && class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
	node := claim.Annotations[selectedNode]
	if volume := best(v, claim, waits && node == "", node); volume != nil {
		return loop.Plan{Writes: bind(claim, volume)}
	}
	plan := status(claim, corev1.ClaimPending, nil)
	switch {
	case classOf(claim) == "":
		plan.Events = append(plan.Events, loop.Normal(claim, "FailedBinding", "no persistent volumes available for this claim and no storage class is set"))
	case !hasClass:
		plan.Events = append(plan.Events, loop.Warning(claim, "ProvisioningFailed", fmt.Sprintf("storageclass.storage.k8s.io %q not found", classOf(claim))))
	case waits && node == "":
		plan.Events = append(plan.Events, loop.Normal(claim, "WaitForFirstConsumer", "waiting for first consumer to be created before binding"))
	case class.Provisioner == Provisioner:
		made := provision(v, claim, class, node)
		plan.Writes, plan.Events = append(plan.Writes, made.Writes...), append(plan.Events, made.Events...)
	case class.Provisioner == "kubernetes.io/no-provisioner":
		plan.Events = append(plan.Events, loop.Normal(claim, "FailedBinding", "no persistent volumes available for this claim and no storage class is set"))
	default:
		if claim.Annotations[provisioner] != class.Provisioner {
			next := claim.DeepCopy()
			metav1.SetMetaDataAnnotation(&next.ObjectMeta, provisioner, class.Provisioner)
			metav1.SetMetaDataAnnotation(&next.ObjectMeta, betaProvisioner, class.Provisioner)
			return loop.Plan{Writes: []loop.Write{loop.Update(next)}}
		}
		plan.Events = append(plan.Events, loop.Normal(claim, "ExternalProvisioning", fmt.Sprintf("Waiting for a volume to be created either by the external provisioner '%s' or manually by the system administrator. "+
			"If volume creation is delayed, please verify that the provisioner is running and correctly registered.", class.Provisioner)))
	}
	return plan
}

// best returns the volume that is meant for the claim, or the smallest that fits.
func best(v *client.View, claim *corev1.PersistentVolumeClaim, onlyMeant bool, node string) (found *corev1.PersistentVolume) {
	want := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	for volume := range client.By[*corev1.PersistentVolume](v, volumesByClass, classOf(claim)) {
		if volume.DeletionTimestamp != nil || mismatch(volume, claim) != "" {
			continue
		}
		if refersTo(volume, claim) {
			return volume
		}
		if onlyMeant || volume.Spec.ClaimRef != nil || volume.Status.Phase != corev1.VolumeAvailable || !picks(claim, volume) || !near(v, volume, node) {
			continue
		}
		have := volume.Spec.Capacity[corev1.ResourceStorage]
		if have.Cmp(want) < 0 {
			continue
		}
		if found != nil {
			if smallest := found.Spec.Capacity[corev1.ResourceStorage]; have.Cmp(smallest) >= 0 {
				continue
			}
		}
		found = volume
	}
	return found
}

// refersTo tells whether the volume is meant for, or bound to, this claim and not
// an earlier one of its name.
func refersTo(volume *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) bool {
	ref := volume.Spec.ClaimRef
	return ref != nil && ref.Namespace == claim.Namespace && ref.Name == claim.Name && (ref.UID == "" || ref.UID == claim.UID)
}

// mismatch says why the volume cannot serve the claim, "" if it can.
func mismatch(volume *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) string {
	want, have := claim.Spec.Resources.Requests[corev1.ResourceStorage], volume.Spec.Capacity[corev1.ResourceStorage]
	switch {
	case have.Cmp(want) < 0:
		return "requested PV is too small"
	case volume.Spec.StorageClassName != classOf(claim):
		return "storageClassName does not match"
	case modeOf(volume.Spec.VolumeMode) != modeOf(claim.Spec.VolumeMode):
		return "incompatible volumeMode"
	}
	for _, mode := range claim.Spec.AccessModes {
		if !slices.Contains(volume.Spec.AccessModes, mode) {
			return "incompatible accessMode"
		}
	}
	return ""
}

func modeOf(m *corev1.PersistentVolumeMode) corev1.PersistentVolumeMode {
	if m == nil {
		return corev1.PersistentVolumeFilesystem
	}
	return *m
}

func picks(claim *corev1.PersistentVolumeClaim, volume *corev1.PersistentVolume) bool {
	if claim.Spec.Selector == nil {
		return true
	}
	s, err := metav1.LabelSelectorAsSelector(claim.Spec.Selector)
	return err == nil && s.Matches(labels.Set(volume.Labels))
}

// near tells whether the volume can be used on the node ("": anywhere).
func near(v *client.View, volume *corev1.PersistentVolume, name string) bool {
	if name == "" || volume.Spec.NodeAffinity == nil || volume.Spec.NodeAffinity.Required == nil {
		return true
	}
	node, ok := client.Find[*corev1.Node](v, "", name)
	if !ok {
		return false
	}
	selector, err := nodeaffinity.NewNodeSelector(volume.Spec.NodeAffinity.Required)
	return err == nil && selector.Match(node)
}

// bind writes the volume first: who holds its claimRef has it, so two claims never
// get one volume. The claim follows when the volume is seen to be its.
func bind(claim *corev1.PersistentVolumeClaim, volume *corev1.PersistentVolume) []loop.Write {
	if refersTo(volume, claim) && volume.Spec.ClaimRef.UID == claim.UID {
		return []loop.Write{bindClaim(claim, volume)}
	}
	next := volume.DeepCopy()
	if next.Spec.ClaimRef == nil {
		metav1.SetMetaDataAnnotation(&next.ObjectMeta, boundByController, "yes")
	}
	next.Spec.ClaimRef = claimRef(claim)
	return []loop.Write{loop.Update(next)}
}

func claimRef(claim *corev1.PersistentVolumeClaim) *corev1.ObjectReference {
	return &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID, ResourceVersion: claim.ResourceVersion}
}

func bindClaim(claim *corev1.PersistentVolumeClaim, volume *corev1.PersistentVolume) loop.Write {
	next := claim.DeepCopy()
	if next.Spec.VolumeName == "" {
		next.Spec.VolumeName = volume.Name
		metav1.SetMetaDataAnnotation(&next.ObjectMeta, boundByController, "yes")
	}
	metav1.SetMetaDataAnnotation(&next.ObjectMeta, bindCompleted, "yes")
	return loop.Update(next)
}

// status writes the claim's phase, and what it got.
func status(claim *corev1.PersistentVolumeClaim, phase corev1.PersistentVolumeClaimPhase, volume *corev1.PersistentVolume) loop.Plan {
	next := claim.DeepCopy()
	next.Status.Phase = phase
	switch {
	case volume == nil:
		next.Status.AccessModes, next.Status.Capacity = nil, nil
	case claim.Status.Phase != corev1.ClaimBound:
		next.Status.AccessModes, next.Status.Capacity = volume.Spec.AccessModes, corev1.ResourceList{corev1.ResourceStorage: volume.Spec.Capacity[corev1.ResourceStorage]}
	}
	if apiequality.Semantic.DeepEqual(claim.Status, next.Status) {
		return loop.Plan{}
	}
	return loop.Plan{Writes: []loop.Write{loop.UpdateStatus(next)}}
}

func lost(claim *corev1.PersistentVolumeClaim, reason, message string) loop.Plan {
	plan := status(claim, corev1.ClaimLost, nil)
	if len(plan.Writes) > 0 {
		plan.Events = append(plan.Events, loop.Warning(claim, reason, message))
	}
	return plan
}
