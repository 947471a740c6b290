package claims

import (
	"fmt"
	"hash/fnv"
	"path"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/api"
	"skiff/client"
	"skiff/controllers/loop"
)

const (
	// Provisioner is that of our own classes: a directory on the node where the
	// claim is first used.
	Provisioner = "skiff.dev/local-path"
	// pathParameter of a class says below which directory of the node.
	pathParameter = "path"
	defaultPath   = "/var/lib/skiff/volumes"
	// defaultClass is the class that a new cluster gets.
	defaultClass = "standard"
)

// volumeName is the name of the volume that is made for a claim: the same
// whenever it is tried, so that a claim never gets two.
func volumeName(claim *corev1.PersistentVolumeClaim) string { return "pvc-" + string(claim.UID) }

// provision makes a volume on a node; the claim binds to it when it is seen.
func provision(v *client.View, claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, on string) loop.Plan {
	fail := func(format string, args ...any) loop.Plan {
		return loop.Plan{Events: []loop.Event{loop.Warning(claim, "ProvisioningFailed", fmt.Sprintf("failed to provision volume with StorageClass %q: "+format, append([]any{class.Name}, args...)...))}}
	}
	name := volumeName(claim)
	if _, made := client.Find[*corev1.PersistentVolume](v, "", name); made {
		return loop.Plan{} // and it does not fit, or is going: the next look sees more
	}
	node := nodeFor(v, claim, on)
	base := defaultPath
	if p, ok := class.Parameters[pathParameter]; ok {
		base = p
	}
	switch {
	case node == nil && on != "":
		return fail("node %q is not there", on)
	case node == nil:
		return fail("there is no node that is ready")
	case modeOf(claim.Spec.VolumeMode) == corev1.PersistentVolumeBlock:
		return fail("block volumes are not supported")
	case claim.Spec.Selector != nil:
		return fail("claim.Spec.Selector is not supported")
	case !path.IsAbs(base):
		return fail("the parameter path must be absolute: %q", base)
	}
	kind := corev1.HostPathDirectoryOrCreate
	policy := corev1.PersistentVolumeReclaimDelete
	if class.ReclaimPolicy != nil {
		policy = *class.ReclaimPolicy
	}
	w := loop.Create(&corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{provisionedBy: Provisioner}, Finalizers: []string{directoryLeft}},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: claim.Spec.Resources.Requests[corev1.ResourceStorage]},
			AccessModes:                   claim.Spec.AccessModes,
			PersistentVolumeSource:        corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path.Join(base, name), Type: &kind}},
			ClaimRef:                      claimRef(claim),
			PersistentVolumeReclaimPolicy: policy,
			StorageClassName:              class.Name,
			VolumeMode:                    claim.Spec.VolumeMode,
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{hostname(node)}}},
			}}}},
		},
	})
	w.Done = func(got api.Object) loop.Event {
		return loop.Normal(claim, "ProvisioningSucceeded", "Successfully provisioned volume "+got.GetName())
	}
	w.Failed = func(err error) loop.Event {
		return loop.Warning(claim, "ProvisioningFailed", fmt.Sprintf("failed to provision volume with StorageClass %q: %v", class.Name, err))
	}
	w.Optional = true // made already: the view will show it
	return loop.Plan{Writes: []loop.Write{w}}
}

// nodeFor is the node that the scheduler chose, or where none was asked (binding
// is immediate), one of those that are ready: spread by the claims' UIDs.
func nodeFor(v *client.View, claim *corev1.PersistentVolumeClaim, on string) *corev1.Node {
	if on != "" {
		node, _ := client.Find[*corev1.Node](v, "", on)
		return node
	}
	var ready []*corev1.Node
	for node := range client.All[*corev1.Node](v, "") {
		for _, c := range node.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue && !node.Spec.Unschedulable {
				ready = append(ready, node)
			}
		}
	}
	if len(ready) == 0 {
		return nil
	}
	h := fnv.New32a()
	h.Write([]byte(claim.UID)) // never fails
	return ready[h.Sum32()%uint32(len(ready))]
}

// DefaultClass is the row that gives a cluster without any storage class one. It
// looks once: a class that is deleted later stays deleted until the next start.
func DefaultClass() loop.Controller {
	return loop.Controller{
		Name:   "default-storage-class-controller",
		Reads:  []*api.Resource{api.For[*storagev1.StorageClass](), api.For[*corev1.Namespace]()},
		Writes: []string{"storageclasses"},
		Keys: func(_ *client.View, c client.Change) []loop.Key {
			if c.Resource == api.For[*corev1.Namespace]() && c.Object().GetName() == metav1.NamespaceSystem {
				return []loop.Key{{Name: defaultClass}} // there always is one
			}
			return nil
		},
		Decide: func(v *client.View, _ loop.Key, _ time.Time, m loop.Memory) (loop.Plan, loop.Memory) {
			for range client.All[*storagev1.StorageClass](v, "") {
				return loop.Plan{}, true
			}
			if m != nil {
				return loop.Plan{}, m
			}
			wait := storagev1.VolumeBindingWaitForFirstConsumer
			w := loop.Create(&storagev1.StorageClass{
				ObjectMeta:  metav1.ObjectMeta{Name: defaultClass, Annotations: map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}},
				Provisioner: Provisioner, VolumeBindingMode: &wait,
			})
			w.Optional = true
			return loop.Plan{Writes: []loop.Write{w}}, true
		},
		Refused: func(loop.Memory, loop.Write, error) loop.Memory { return nil }, // it is tried again
	}
}
