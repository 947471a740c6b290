package statefulset

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/api"
	"skiff/client"
	"skiff/controllers/loop"
	"skiff/controllers/workload"
)

// pod makes the pod of an ordinal: of the older template where a rollout has not
// come to it yet.
func (d *decision) pod(ordinal int) (*corev1.Pod, error) {
	template, revision := &d.set.Spec.Template, d.update
	rolling := d.set.Spec.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType
	reached := ordinal-firstOrdinal(d.set) >= d.partition()
	if d.set.Spec.UpdateStrategy.RollingUpdate == nil {
		reached = ordinal >= firstOrdinal(d.set)+int(d.set.Status.CurrentReplicas)
	}
	if rolling && !reached && d.current != d.update {
		older, err := workload.TemplateOf(d.current)
		if err != nil {
			return nil, err
		}
		template, revision = older, d.current
	}
	pod := workload.PodFrom(d.set, template, "")
	pod.Name = d.set.Name + "-" + strconv.Itoa(ordinal)
	identify(d.set, pod, ordinal)
	pod.Labels[appsv1.StatefulSetRevisionLabel] = revision.Name
	pod.Spec.Hostname, pod.Spec.Subdomain = pod.Name, d.set.Spec.ServiceName
	d.mount(pod, ordinal)
	return pod, nil
}

// identify labels the pod with its name and ordinal.
func identify(set *appsv1.StatefulSet, pod *corev1.Pod, ordinal int) {
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	pod.Labels[appsv1.StatefulSetPodNameLabel] = set.Name + "-" + strconv.Itoa(ordinal)
	pod.Labels[appsv1.PodIndexLabel] = strconv.Itoa(ordinal)
}

// mount gives the pod a volume for each claim; one of the template of the same
// name gives way.
func (d *decision) mount(pod *corev1.Pod, ordinal int) {
	var volumes []corev1.Volume
	for _, t := range d.set.Spec.VolumeClaimTemplates {
		volumes = append(volumes, corev1.Volume{Name: t.Name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: d.claimName(t.Name, ordinal)},
		}})
	}
	for _, volume := range pod.Spec.Volumes {
		if !slices.ContainsFunc(volumes, func(v corev1.Volume) bool { return v.Name == volume.Name }) {
			volumes = append(volumes, volume)
		}
	}
	pod.Spec.Volumes = volumes
}

func (d *decision) claimName(template string, ordinal int) string {
	return fmt.Sprintf("%s-%s-%d", template, d.set.Name, ordinal)
}

// claimsOf yields the claims of an ordinal that are there.
func (d *decision) claimsOf(ordinal int) (out []*corev1.PersistentVolumeClaim) {
	for _, t := range d.set.Spec.VolumeClaimTemplates {
		if claim, ok := client.Find[*corev1.PersistentVolumeClaim](d.view, d.set.Namespace, d.claimName(t.Name, ordinal)); ok {
			out = append(out, claim)
		}
	}
	return out
}

// makeClaims makes the claims of an ordinal that are missing; false: one is just
// being deleted, so that the pod must wait.
func (d *decision) makeClaims(ordinal int) bool {
	for _, claim := range d.claimsOf(ordinal) {
		if claim.DeletionTimestamp != nil {
			return false
		}
	}
	pod := d.set.Name + "-" + strconv.Itoa(ordinal)
	for _, t := range d.set.Spec.VolumeClaimTemplates {
		name := d.claimName(t.Name, ordinal)
		if _, ok := client.Find[*corev1.PersistentVolumeClaim](d.view, d.set.Namespace, name); ok {
			continue
		}
		claim := t.DeepCopy()
		claim.ObjectMeta = metav1.ObjectMeta{Name: name, Namespace: d.set.Namespace, Labels: maps.Clone(t.Labels), Annotations: maps.Clone(t.Annotations), Finalizers: t.Finalizers}
		if claim.Labels == nil {
			claim.Labels = map[string]string{}
		}
		maps.Copy(claim.Labels, d.set.Spec.Selector.MatchLabels)
		claim.OwnerReferences, _ = d.claimOwners(nil, ordinal, nil)
		claim.Status = corev1.PersistentVolumeClaimStatus{}
		w := loop.Create(claim)
		w.Done = func(api.Object) loop.Event {
			return loop.Normal(d.set, "SuccessfulCreate", fmt.Sprintf("Create Claim %s Pod %s in StatefulSet %s success", name, pod, d.set.Name))
		}
		w.Failed = func(err error) loop.Event {
			return loop.Warning(d.set, "FailedCreate", fmt.Sprintf("Create Claim %s for Pod %s in StatefulSet %s failed error: %v", name, pod, d.set.Name, err))
		}
		d.plan.Writes = append(d.plan.Writes, w)
	}
	return true
}

// claimsAreAnothers tells whether a claim still belongs to a past pod of the
// ordinal, with which it is going to be deleted.
func (d *decision) claimsAreAnothers(ordinal int) bool {
	p := d.set.Spec.PersistentVolumeClaimRetentionPolicy
	if p == nil || p.WhenScaled != appsv1.DeletePersistentVolumeClaimRetentionPolicyType {
		return false
	}
	name := d.set.Name + "-" + strconv.Itoa(ordinal)
	for _, claim := range d.claimsOf(ordinal) {
		if slices.ContainsFunc(claim.OwnerReferences, func(r metav1.OwnerReference) bool { return r.Kind == "Pod" && r.Name == name }) {
			return true
		}
	}
	return false
}

func (d *decision) ownClaims(pod *corev1.Pod) { d.ownClaimsOf(ordinalIn(d.set, pod.Name), pod) }

// ownClaimsOf gives the claims of an ordinal the owners with which they shall go.
func (d *decision) ownClaimsOf(ordinal int, pod *corev1.Pod) {
	for _, claim := range d.claimsOf(ordinal) {
		owners, conflict := d.claimOwners(claim, ordinal, pod)
		if apiequality.Semantic.DeepEqual(owners, claim.OwnerReferences) || claim.DeletionTimestamp != nil {
			continue
		}
		if conflict {
			d.plan.Events = append(d.plan.Events, loop.Warning(d.set, "ConflictingController", fmt.Sprintf(
				"PersistentVolumeClaim %s has a conflicting OwnerReference that acts as a manging controller, the retention policy is ignored for this claim", claim.Name)))
		}
		next := claim.DeepCopy()
		next.OwnerReferences = owners
		d.plan.Writes = append(d.plan.Writes, loop.Update(next))
	}
}

// claimOwners returns the owners that the retention policy wants for a claim:
// the set where it goes with the set, the pod where the pod is going because of
// scaling down. A claim of a stranger, or of another set or pod of the same
// name, is left as it is; conflict tells of a stranger.
func (d *decision) claimOwners(claim *corev1.PersistentVolumeClaim, ordinal int, pod *corev1.Pod) (owners []metav1.OwnerReference, conflict bool) {
	const del = appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	var policy appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy
	if p := d.set.Spec.PersistentVolumeClaimRetentionPolicy; p != nil {
		policy = *p
	}
	if claim != nil {
		for _, ref := range claim.OwnerReferences {
			isSet := ref.Kind == "StatefulSet" && ref.Name == d.set.Name
			isPod := ref.Kind == "Pod" && ref.Name == d.set.Name+"-"+strconv.Itoa(ordinal)
			if isSet && ref.UID != d.set.UID || isPod && pod != nil && ref.UID != pod.UID {
				return claim.OwnerReferences, false
			}
			if isSet || isPod {
				continue
			}
			owners = append(owners, ref)
			conflict = conflict || ref.Controller != nil && *ref.Controller
		}
	}
	if policy.WhenScaled != del && policy.WhenDeleted != del {
		return owners, false
	}
	if conflict {
		return owners, true
	}
	place := ordinal - firstOrdinal(d.set)
	scaledDown := place < 0 || place >= len(d.replicas)
	if policy.WhenScaled == del && scaledDown {
		if pod != nil {
			owners = append(owners, *metav1.NewControllerRef(pod, corev1.SchemeGroupVersion.WithKind("Pod")))
		}
		return owners, false
	}
	if policy.WhenDeleted == del {
		owners = append(owners, *metav1.NewControllerRef(d.set, api.Of(d.set).GVK()))
	}
	return owners, false
}
