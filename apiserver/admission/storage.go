package admission

import (
	"context"
	"iter"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	defaultStorageClass     = "storageclass.kubernetes.io/is-default-class"
	defaultStorageClassBeta = "storageclass.beta.kubernetes.io/is-default-class"
	ingressClassAnnotation  = "kubernetes.io/ingress.class"
)

// fillStorageClass gives a claim that names no class the default one.
func (c cluster) fillStorageClass(_ context.Context, w *Write) error {
	claim, ok := w.Object.(*corev1.PersistentVolumeClaim)
	if !ok || w.Verb != "create" || w.Subresource != "" || claim.Spec.StorageClassName != nil {
		return nil
	}
	if _, named := claim.Annotations[corev1.BetaStorageClassAnnotation]; named {
		return nil
	}
	class := newest(list[*storagev1.StorageClass](c, ""), func(s *storagev1.StorageClass) bool {
		return s.Annotations[defaultStorageClass] == "true" || s.Annotations[defaultStorageClassBeta] == "true"
	})
	if class != nil {
		name := class.GetName()
		claim.Spec.StorageClassName = &name
	}
	return nil
}

// fillIngressClass gives an ingress that names no class the default one.
func (c cluster) fillIngressClass(_ context.Context, w *Write) error {
	ingress, ok := w.Object.(*networkingv1.Ingress)
	if !ok || w.Verb != "create" || w.Subresource != "" || ingress.Spec.IngressClassName != nil {
		return nil
	}
	if _, named := ingress.Annotations[ingressClassAnnotation]; named {
		return nil
	}
	class := newest(list[*networkingv1.IngressClass](c, ""), func(i *networkingv1.IngressClass) bool {
		return i.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true"
	})
	if class != nil {
		name := class.GetName()
		ingress.Spec.IngressClassName = &name
	}
	return nil
}

// newest returns the object that was created last among those that are chosen,
// by name where two are equally old; nil if none is.
func newest[T metav1.Object](all iter.Seq[T], chosen func(T) bool) metav1.Object {
	var best metav1.Object
	for obj := range all {
		if !chosen(obj) {
			continue
		}
		if best == nil || later(obj, best) {
			best = obj
		}
	}
	return best
}

func later(a, b metav1.Object) bool {
	x, y := a.GetCreationTimestamp(), b.GetCreationTimestamp()
	if x.Equal(&y) {
		return a.GetName() < b.GetName()
	}
	return y.Before(&x)
}

// protectStorage holds back the deletion of volumes, claims and volume
// attributes classes until nobody uses them; a controller takes it off.
func protectStorage(_ context.Context, w *Write) error {
	if w.Verb != "create" || w.Subresource != "" {
		return nil
	}
	add := func(obj metav1.Object, finalizer string) {
		if !slices.Contains(obj.GetFinalizers(), finalizer) {
			obj.SetFinalizers(append(obj.GetFinalizers(), finalizer))
		}
	}
	switch obj := w.Object.(type) {
	case *corev1.PersistentVolume:
		add(obj, "kubernetes.io/pv-protection")
	case *corev1.PersistentVolumeClaim:
		add(obj, "kubernetes.io/pvc-protection")
	case *storagev1.VolumeAttributesClass:
		add(obj, "kubernetes.io/vac-protection")
	}
	return nil
}

// checkResize lets a claim grow only where its class says that it can.
func (c cluster) checkResize(_ context.Context, w *Write) error {
	claim, ok := w.Object.(*corev1.PersistentVolumeClaim)
	old, was := w.Old.(*corev1.PersistentVolumeClaim)
	if !ok || !was || w.Verb != "update" || w.Subresource != "" {
		return nil
	}
	size, before := claim.Spec.Resources.Requests[corev1.ResourceStorage], old.Spec.Resources.Requests[corev1.ResourceStorage]
	if size.Cmp(before) <= 0 {
		return nil
	}
	if old.Status.Phase != corev1.ClaimBound {
		return w.forbid("Only bound persistent volume claims can be expanded")
	}
	if name := classOf(claim); name != "" && name == classOf(old) {
		for class := range list[*storagev1.StorageClass](c, "") {
			if class.Name == name && class.AllowVolumeExpansion != nil && *class.AllowVolumeExpansion {
				return nil
			}
		}
	}
	return w.forbid("only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize")
}

// classOf names a claim's storage class.
func classOf(claim *corev1.PersistentVolumeClaim) string {
	if name, ok := claim.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return name
	}
	if claim.Spec.StorageClassName != nil {
		return *claim.Spec.StorageClassName
	}
	return ""
}
