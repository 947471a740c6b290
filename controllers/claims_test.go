package controllers_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/skifftest"
)

func TestAPodGetsTheVolumeThatItClaims(t *testing.T) {
	s := tell(t, skifftest.Config{})
	until(s, "", "standard", "there", func(c *storagev1.StorageClass) bool { return c != nil })
	s.ok(s.CoreV1().PersistentVolumeClaims("default").Create(s.ctx, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
	}}, metav1.CreateOptions{}))
	p := podOf("p", nil)
	p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}
	s.ok(s.CoreV1().Pods("default").Create(s.ctx, p, metav1.CreateOptions{}))
	until(s, "default", "p", "runs", running)
	claim := until(s, "default", "data", "bound", func(c *corev1.PersistentVolumeClaim) bool { return c != nil && c.Status.Phase == corev1.ClaimBound })
	s.ok(nil, s.CoreV1().PersistentVolumeClaims("default").Delete(s.ctx, "data", metav1.DeleteOptions{}))
	s.ok(nil, s.CoreV1().Pods("default").Delete(s.ctx, "p", metav1.DeleteOptions{}))
	gone[*corev1.PersistentVolumeClaim](s, "default", "data")
	gone[*corev1.PersistentVolume](s, "", claim.Spec.VolumeName)
}
