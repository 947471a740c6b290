package claims

import (
	"maps"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/client"
	"skiff/controllers/rehearsal"
)

// nodeRemoves does what a node is asked to, and returns which directories those are.
func nodeRemoves(w *rehearsal.World, name string) (paths []string) {
	node, _ := client.Find[*corev1.Node](w.View, "", name)
	node = node.DeepCopy()
	maps.DeleteFunc(node.Annotations, func(key, path string) bool {
		if strings.HasPrefix(key, RemoveVolume) {
			paths = append(paths, path)
			return true
		}
		return false
	})
	w.Put(node)
	w.Settle()
	return paths
}

// ours puts a volume as Provision makes it, on n1, that its claim has left.
func ours(w *rehearsal.World, policy corev1.PersistentVolumeReclaimPolicy) *corev1.PersistentVolume {
	v := volume("pvc-1", "standard", "1Gi")
	v.Annotations = map[string]string{provisionedBy: Provisioner}
	v.Finalizers = []string{directoryLeft}
	v.Spec.PersistentVolumeReclaimPolicy = policy
	v.Spec.HostPath = &corev1.HostPathVolumeSource{Path: "/volumes/pvc-1"}
	v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "x", Name: "data", UID: "gone"}
	v.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
		MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{"host1"}}},
	}}}}
	w.Put(v)
	w.Settle()
	return v
}

func TestAVolumeWaitsForItsNode(t *testing.T) {
	w := world(t)
	ours(w, corev1.PersistentVolumeReclaimDelete)
	if got := phaseOf(w, "pvc-1"); got != corev1.VolumeReleased {
		t.Fatalf("the volume is %s while its directory is there", got)
	}
	w.Advance(24 * 3600e9) // the node is away
	if got := phaseOf(w, "pvc-1"); got != corev1.VolumeReleased {
		t.Fatalf("the volume is %s though its node never answered", got)
	}
	if paths := nodeRemoves(w, "n1"); len(paths) != 1 || paths[0] != "/volumes/pvc-1" {
		t.Errorf("the node was asked to remove %q", paths)
	}
	if got := phaseOf(w, "pvc-1"); got != "gone" {
		t.Errorf("the volume is %s", got)
	}
	if again := nodeRemoves(w, "n1"); len(again) > 0 {
		t.Errorf("and asked again for %q", again)
	}
}

func TestAVolumeDoesNotWaitForANodeThatIsGone(t *testing.T) {
	w := world(t)
	ours(w, corev1.PersistentVolumeReclaimDelete)
	w.Remove(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
	w.Settle()
	if got := phaseOf(w, "pvc-1"); got != "gone" {
		t.Errorf("the volume is %s", got)
	}
}

// A node of the same name that joins later has not been asked.
func TestANewNodeIsAskedAnew(t *testing.T) {
	w := world(t)
	v := ours(w, corev1.PersistentVolumeReclaimDelete)
	found, _ := client.Find[*corev1.PersistentVolume](w.View, "", v.Name)
	found = found.DeepCopy()
	found.Annotations[removalAsked] = "an older node"
	w.Put(found)
	w.Settle()
	if paths := nodeRemoves(w, "n1"); len(paths) != 1 {
		t.Errorf("the new node was asked to remove %q", paths)
	}
}

func TestRetainedDataStays(t *testing.T) {
	w := world(t)
	ours(w, corev1.PersistentVolumeReclaimRetain)
	if got := phaseOf(w, "pvc-1"); got != corev1.VolumeReleased {
		t.Fatalf("the volume is %s", got)
	}
	v, _ := client.Find[*corev1.PersistentVolume](w.View, "", "pvc-1")
	v = v.DeepCopy()
	now := metav1.NewTime(w.Now)
	v.DeletionTimestamp = &now // kubectl delete pv
	w.Put(v)
	w.Settle()
	if got := phaseOf(w, "pvc-1"); got != "gone" {
		t.Errorf("the volume is %s", got)
	}
	if paths := nodeRemoves(w, "n1"); len(paths) > 0 {
		t.Errorf("the node was asked to remove %q", paths)
	}
}
