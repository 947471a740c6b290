package workload

import (
	"encoding/json"
	"fmt"
	"iter"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff/api"
	"skiff/client"
	"skiff/controllers/loop"
)

const onNode = "pods by node"

// PodsByNode is the index behind PodsOn.
func PodsByNode() client.Index {
	return client.Index{Name: onNode, Resource: api.For[*corev1.Pod](), Keys: func(obj api.Object) []string {
		if name := obj.(*corev1.Pod).Spec.NodeName; name != "" {
			return []string{name}
		}
		return nil
	}}
}

// PodsOn yields the pods that are assigned to a node.
func PodsOn(v *client.View, node string) iter.Seq[*corev1.Pod] {
	return client.By[*corev1.Pod](v, onNode, node)
}

// PatchCondition sets one condition of exactly this pod and leaves all others to
// those who own them. A pod that is gone meanwhile does not matter.
func PatchCondition(pod *corev1.Pod, c corev1.PodCondition) loop.Write {
	return PatchStatus(pod, map[string]any{"conditions": []corev1.PodCondition{c}})
}

// PatchStatus changes some fields of the status of exactly this pod.
func PatchStatus(pod *corev1.Pod, fields map[string]any) loop.Write {
	data, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": fields})
	if err != nil {
		panic(fmt.Sprintf("a pod's status always has a JSON form: %v", err))
	}
	w := loop.Patch(pod, client.Patch{Type: types.StrategicMergePatchType, Data: data, Sub: "status"})
	w.Optional = true
	return w
}
