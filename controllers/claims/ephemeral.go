package claims

import (
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/api"
	"skiff/client"
	"skiff/controllers/loop"
)

// Ephemeral is the row that makes the claims which pods carry templates of. They
// are owned by their pods, and so go with them. Its keys are pods.
func Ephemeral() loop.Controller {
	return loop.Controller{
		Name:   "ephemeral-volume-controller",
		Reads:  []*api.Resource{api.For[*corev1.Pod](), api.For[*corev1.PersistentVolumeClaim]()},
		Writes: []string{"persistentvolumeclaims"},
		Keys: func(_ *client.View, c client.Change) []loop.Key {
			if pod, ok := c.Object().(*corev1.Pod); ok {
				if c.Old == nil && hasEphemeral(pod) {
					return []loop.Key{loop.KeyOf(pod)}
				}
				return nil
			}
			if ref := loop.ControllerOf(c.Object()); c.New == nil && ref != nil && ref.Kind == "Pod" {
				return []loop.Key{{Namespace: c.Object().GetNamespace(), Name: ref.Name}}
			}
			return nil
		},
		Decide: decideEphemeral,
	}
}

func hasEphemeral(pod *corev1.Pod) bool {
	for _, vol := range pod.Spec.Volumes {
		if vol.Ephemeral != nil {
			return true
		}
	}
	return false
}

func decideEphemeral(v *client.View, key loop.Key, _ time.Time, _ loop.Memory) (plan loop.Plan, _ loop.Memory) {
	pod, ok := client.Find[*corev1.Pod](v, key.Namespace, key.Name)
	if !ok || pod.DeletionTimestamp != nil {
		return plan, nil
	}
	for _, vol := range pod.Spec.Volumes {
		if vol.Ephemeral == nil || vol.Ephemeral.VolumeClaimTemplate == nil {
			continue
		}
		name := pod.Name + "-" + vol.Name
		if claim, ok := client.Find[*corev1.PersistentVolumeClaim](v, pod.Namespace, name); ok {
			if !loop.ControlledBy(claim, pod.UID) { // never somebody else's data
				plan.Events = append(plan.Events, loop.Warning(pod, "FailedBinding", "PVC "+pod.Namespace+"/"+name+" was not created for pod "+pod.Namespace+"/"+pod.Name+" (pod is not owner)"))
			}
			continue
		}
		template := vol.Ephemeral.VolumeClaimTemplate
		w := loop.Create(&corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: pod.Namespace, Name: name, Labels: maps.Clone(template.Labels), Annotations: maps.Clone(template.Annotations),
				OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(pod, api.Of(pod).GVK())},
			},
			Spec: *template.Spec.DeepCopy(),
		})
		w.Optional = true
		plan.Writes = append(plan.Writes, w)
	}
	return plan, nil
}
