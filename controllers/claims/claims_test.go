package claims

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/client"
	"skiff/controllers/rehearsal"
)

func world(t *testing.T) *rehearsal.World {
	w := rehearsal.New(t, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Binder(), ProtectClaims(), ProtectVolumes(), ProtectAttributes(), DefaultClass(), Reclaimer())
	w.Put(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{corev1.LabelHostname: "host1"}}})
	return w
}

func claim(class, size string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
		StorageClassName: &class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}}}}
}

func volume(name, class, size string) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeSpec{
		StorageClassName: class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
		Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}}}
}

func have(w *rehearsal.World) *corev1.PersistentVolumeClaim {
	c, _ := client.Find[*corev1.PersistentVolumeClaim](w.View, "x", "data")
	return c
}

func phaseOf(w *rehearsal.World, name string) corev1.PersistentVolumePhase {
	v, ok := client.Find[*corev1.PersistentVolume](w.View, "", name)
	if !ok {
		return "gone"
	}
	return v.Status.Phase
}

func TestAClaimGetsTheSmallestVolumeThatFits(t *testing.T) {
	w := world(t)
	w.Put(volume("big", "", "10Gi"))
	w.Put(volume("small", "", "1Gi"))
	w.Put(volume("right", "", "5Gi"))
	w.Put(volume("fast", "fast", "5Gi"))
	w.Put(claim("", "4Gi"))
	w.Settle()
	c := have(w)
	if got := c.Status.Capacity[corev1.ResourceStorage]; c.Spec.VolumeName != "right" || c.Status.Phase != corev1.ClaimBound || got.String() != "5Gi" || c.Annotations[bindCompleted] != "yes" {
		t.Errorf("%+v %+v", c.Spec, c.Status)
	}
	if phaseOf(w, "right") != corev1.VolumeBound || phaseOf(w, "big") != corev1.VolumeAvailable {
		t.Errorf("phases %s %s", phaseOf(w, "right"), phaseOf(w, "big"))
	}
	w.Remove(c)
	w.Settle()
	if phaseOf(w, "right") != corev1.VolumeReleased {
		t.Errorf("after the claim: %s", phaseOf(w, "right"))
	}
	w.Put(claim("", "4Gi"))
	w.Settle()
	if have(w).Spec.VolumeName != "big" {
		t.Errorf("a new claim of the same name got %q: a released volume holds another's data", have(w).Spec.VolumeName)
	}
}

func TestAClaimOfTheDefaultClassWaitsForItsConsumer(t *testing.T) {
	w := world(t)
	w.Put(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kube-system"}})
	w.Settle()
	class, ok := client.Find[*storagev1.StorageClass](w.View, "", "standard")
	if !ok || *class.VolumeBindingMode != storagev1.VolumeBindingWaitForFirstConsumer {
		t.Fatalf("class %+v", class)
	}
	w.Put(claim("standard", "1Gi"))
	w.Settle()
	if have(w).Status.Phase != corev1.ClaimPending || !strings.HasPrefix(strings.Join(w.Events, " "), "WaitForFirstConsumer") {
		t.Fatalf("%+v %q", have(w).Status, w.Events)
	}
	c := have(w).DeepCopy()
	metav1.SetMetaDataAnnotation(&c.ObjectMeta, selectedNode, "n1") // as the scheduler does
	w.Put(c)
	w.Settle()
	c = have(w)
	v, ok := client.Find[*corev1.PersistentVolume](w.View, "", c.Spec.VolumeName)
	if !ok || c.Status.Phase != corev1.ClaimBound || v.Spec.HostPath.Path != "/var/lib/skiff/volumes/pvc-"+string(c.UID) || *v.Spec.HostPath.Type != corev1.HostPathDirectoryOrCreate ||
		v.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0].Values[0] != "host1" {
		t.Fatalf("%+v", v)
	}
	// While a pod uses it, neither goes.
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "p"}, Spec: corev1.PodSpec{NodeName: "n1", Volumes: []corev1.Volume{{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}}}
	w.Put(pod)
	c = c.DeepCopy()
	now := metav1.NewTime(w.Now)
	c.DeletionTimestamp = &now
	w.Put(c)
	w.Settle()
	if have(w) == nil {
		t.Fatal("the claim goes while it is used")
	}
	w.Remove(pod)
	w.Settle()
	if have(w) != nil {
		t.Error("the claim stays")
	}
	if removed := nodeRemoves(w, "n1"); len(removed) != 1 || removed[0] != v.Spec.HostPath.Path {
		t.Errorf("the node was asked to remove %q, want %s", removed, v.Spec.HostPath.Path)
	}
	if got := phaseOf(w, v.Name); got != "gone" {
		t.Errorf("its volume: %s", got)
	}
}

func TestAClaimWhoseVolumeIsGoneIsLost(t *testing.T) {
	w := world(t)
	w.Put(volume("v", "", "1Gi"))
	w.Put(claim("", "1Gi"))
	w.Settle()
	w.Remove(volume("v", "", "1Gi"))
	w.Settle()
	if have(w).Status.Phase != corev1.ClaimLost {
		t.Errorf("phase %s", have(w).Status.Phase)
	}
}

func TestAVolumeMayBeMeantForAClaim(t *testing.T) {
	w := world(t)
	v := volume("v", "", "1Gi")
	v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "x", Name: "data"}
	w.Put(v)
	w.Put(volume("a", "", "1Gi"))
	w.Put(claim("", "1Gi"))
	w.Settle()
	if have(w).Spec.VolumeName != "v" || phaseOf(w, "v") != corev1.VolumeBound {
		t.Errorf("got %q, %s", have(w).Spec.VolumeName, phaseOf(w, "v"))
	}
}

func TestAPodCarriesItsClaim(t *testing.T) {
	w := rehearsal.New(t, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Ephemeral())
	template := corev1.PersistentVolumeClaimTemplate{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Spec: claim("fast", "1Gi").Spec}
	w.Put(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "p"}, Spec: corev1.PodSpec{Volumes: []corev1.Volume{
		{Name: "scratch", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{VolumeClaimTemplate: &template}}}}}})
	w.Settle()
	c, ok := client.Find[*corev1.PersistentVolumeClaim](w.View, "x", "p-scratch")
	if !ok || c.OwnerReferences[0].Name != "p" || *c.Spec.StorageClassName != "fast" || c.Labels["a"] != "b" {
		t.Fatalf("%+v", c)
	}
	w.Remove(c)
	w.Settle()
	if _, ok := client.Find[*corev1.PersistentVolumeClaim](w.View, "x", "p-scratch"); !ok {
		t.Error("a deleted claim does not come back while its pod lives")
	}
}

func TestAttributesClassesStayWhileTheyAreUsed(t *testing.T) {
	w := world(t)
	gold := "gold"
	w.Put(&storagev1.VolumeAttributesClass{ObjectMeta: metav1.ObjectMeta{Name: gold}, DriverName: "d.example"})
	c := claim("", "1Gi")
	c.Spec.VolumeAttributesClassName = &gold
	w.Put(c)
	w.Settle()
	class, ok := client.Find[*storagev1.VolumeAttributesClass](w.View, "", gold)
	if !ok || len(class.Finalizers) != 1 || class.Finalizers[0] != classInUse {
		t.Fatalf("a class without its finalizer: %+v", class)
	}
	going, now := class.DeepCopy(), metav1.NewTime(w.Now)
	going.DeletionTimestamp = &now
	w.Put(going)
	w.Settle()
	held := func() bool {
		class, ok := client.Find[*storagev1.VolumeAttributesClass](w.View, "", gold)
		return ok && len(class.Finalizers) > 0
	}
	if !held() {
		t.Error("a class may go while a claim names it")
	}
	w.Remove(have(w))
	w.Settle()
	if held() {
		t.Error("a class is held when nobody names it any more")
	}
}
