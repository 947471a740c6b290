package claims

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff/api"
	"skiff/client"
	"skiff/controllers/loop"
)

// The directory of a volume of our own outlives the volume's object by nothing: the
// finalizer keeps the object until the node says that the directory is gone. Node and
// controller speak through annotations of the Node, which a node may write itself:
//
//	controller: remove.volumes.skiff.dev/<volume>: <directory>   on the Node, and
//	            skiff.dev/removal-asked: <UID of the Node>       on the volume
//	node:       removes the directory, then the annotation
//	controller: takes the finalizer off
//
// A node that is away does its part when it is back; one that is deleted is not
// waited for.
const (
	// directoryLeft is the finalizer of volumes that have a directory on a node.
	directoryLeft = "skiff.dev/local-path"
	// RemoveVolume is the prefix of a node's annotations that ask it to remove directories.
	RemoveVolume = "remove.volumes.skiff.dev/"
	removalAsked = "skiff.dev/removal-asked"
)

const goingVolumes = "volumes that go, by host"

// Reclaimer is the row that has nodes remove the directories of volumes that are deleted.
func Reclaimer() loop.Controller {
	return loop.Controller{
		Name:   "local-volume-controller",
		Reads:  []*api.Resource{api.For[*corev1.PersistentVolume](), api.For[*corev1.Node]()},
		Writes: []string{"persistentvolumes", "nodes"},
		Indexes: []client.Index{{Name: goingVolumes, Resource: api.For[*corev1.PersistentVolume](), Keys: func(obj api.Object) []string {
			volume := obj.(*corev1.PersistentVolume)
			if host := hostOf(volume); host != "" && volume.DeletionTimestamp != nil {
				return []string{host}
			}
			return nil
		}}},
		Keys: func(v *client.View, c client.Change) (keys []loop.Key) {
			node, ok := c.Object().(*corev1.Node)
			if !ok {
				return []loop.Key{loop.KeyOf(c.Object())}
			}
			for volume := range client.By[*corev1.PersistentVolume](v, goingVolumes, hostname(node)) {
				keys = append(keys, loop.KeyOf(volume))
			}
			return keys
		},
		Decide: func(v *client.View, key loop.Key, _ time.Time, _ loop.Memory) (loop.Plan, loop.Memory) {
			return reclaim(v, key.Name), nil
		},
	}
}

// reclaim decides what the deletion of a volume waits for next.
func reclaim(v *client.View, name string) loop.Plan {
	volume, ok := client.Find[*corev1.PersistentVolume](v, "", name)
	if !ok || volume.DeletionTimestamp == nil || !slices.Contains(volume.Finalizers, directoryLeft) || slices.Contains(volume.Finalizers, volumeInUse) {
		return loop.Plan{}
	}
	node := nodeByHost(v, hostOf(volume))
	if node == nil || volume.Spec.HostPath == nil || volume.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete {
		return letGo(volume)
	}
	_, waits := node.Annotations[RemoveVolume+name]
	switch asked := volume.Annotations[removalAsked] == string(node.UID); {
	case asked && !waits:
		return letGo(volume)
	case asked:
		return loop.Plan{}
	}
	request, err := annotate(RemoveVolume+name, volume.Spec.HostPath.Path)
	if err != nil {
		return loop.Plan{Events: []loop.Event{loop.Warning(volume, "VolumeFailedDelete", err.Error())}}
	}
	next := volume.DeepCopy()
	if next.Annotations == nil {
		next.Annotations = map[string]string{}
	}
	next.Annotations[removalAsked] = string(node.UID)
	// In this order: a volume that says it asked has asked.
	return loop.Plan{Writes: []loop.Write{loop.Patch(node, request), loop.Update(next)}}
}

func letGo(volume *corev1.PersistentVolume) loop.Plan {
	next := volume.DeepCopy()
	next.Finalizers = slices.DeleteFunc(next.Finalizers, func(f string) bool { return f == directoryLeft })
	return loop.Plan{Writes: []loop.Write{loop.Update(next)}}
}

func annotate(key, value string) (client.Patch, error) {
	data, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{key: value}}})
	if err != nil {
		return client.Patch{}, fmt.Errorf("annotate with %s: %w", key, err)
	}
	return client.Patch{Type: types.MergePatchType, Data: data}, nil
}

// hostOf is the host that a volume of our own is on.
func hostOf(volume *corev1.PersistentVolume) string {
	if volume.Annotations[provisionedBy] != Provisioner || volume.Spec.NodeAffinity == nil || volume.Spec.NodeAffinity.Required == nil {
		return ""
	}
	for _, term := range volume.Spec.NodeAffinity.Required.NodeSelectorTerms {
		for _, e := range term.MatchExpressions {
			if e.Key == corev1.LabelHostname && e.Operator == corev1.NodeSelectorOpIn && len(e.Values) == 1 {
				return e.Values[0]
			}
		}
	}
	return ""
}

// hostname of a node, as volumes on it name it.
func hostname(node *corev1.Node) string {
	if host := node.Labels[corev1.LabelHostname]; host != "" {
		return host
	}
	return node.Name
}

func nodeByHost(v *client.View, host string) *corev1.Node {
	for node := range client.All[*corev1.Node](v, "") {
		if hostname(node) == host {
			return node
		}
	}
	return nil
}
