package admission

import (
	"iter"
	"reflect"

	corev1 "k8s.io/api/core/v1"
)

// podSecrets names the secrets that a pod refers to.
func podSecrets(pod *corev1.Pod) iter.Seq[string] {
	return func(yield func(string) bool) {
		for kind, name := range references(reflect.ValueOf(&pod.Spec)) {
			if kind == "secrets" && !yield(name) {
				return
			}
		}
	}
}

// refersTo names a kind of objects that a pod spec refers to; "" if it refers to none.
func refersTo(pod *corev1.Pod) string {
	if pod.Spec.ServiceAccountName != "" {
		return "serviceaccounts"
	}
	for kind := range references(reflect.ValueOf(&pod.Spec)) {
		return kind
	}
	return ""
}

// references walks a pod spec and yields the resource and name of each object in
// it: by the Go types that refer to objects, so that none can be forgotten.
func references(v reflect.Value) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) { walk(v, yield) }
}

func walk(v reflect.Value, yield func(kind, name string) bool) bool {
	switch v.Kind() {
	case reflect.Pointer:
		return v.IsNil() || walk(v.Elem(), yield)
	case reflect.Slice:
		for i := range v.Len() {
			if !walk(v.Index(i), yield) {
				return false
			}
		}
	case reflect.Struct:
		if kind, name := reference(v.Interface()); kind != "" {
			return yield(kind, name)
		}
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() && !walk(v.Field(i), yield) {
				return false
			}
		}
	}
	return true
}

// reference says what one part of a pod spec refers to. A table.
func reference(part any) (kind, name string) {
	secret := func(ref *corev1.LocalObjectReference) (string, string) {
		if ref == nil {
			return "", ""
		}
		return "secrets", ref.Name
	}
	secretIn := func(ref *corev1.SecretReference) (string, string) {
		if ref == nil {
			return "", ""
		}
		return "secrets", ref.Name
	}
	switch p := part.(type) {
	case corev1.SecretVolumeSource:
		return "secrets", p.SecretName
	case corev1.SecretProjection:
		return "secrets", p.Name
	case corev1.SecretKeySelector:
		return "secrets", p.Name
	case corev1.SecretEnvSource:
		return "secrets", p.Name
	case corev1.LocalObjectReference: // pull secrets; those of volumes are below
		return "secrets", p.Name
	case corev1.AzureFileVolumeSource:
		return "secrets", p.SecretName
	case corev1.CephFSVolumeSource:
		return secret(p.SecretRef)
	case corev1.CinderVolumeSource:
		return secret(p.SecretRef)
	case corev1.FlexVolumeSource:
		return secret(p.SecretRef)
	case corev1.ISCSIVolumeSource:
		return secret(p.SecretRef)
	case corev1.RBDVolumeSource:
		return secret(p.SecretRef)
	case corev1.ScaleIOVolumeSource:
		return secret(p.SecretRef)
	case corev1.StorageOSVolumeSource:
		return secret(p.SecretRef)
	case corev1.CSIPersistentVolumeSource:
		return secretIn(p.NodePublishSecretRef)
	case corev1.CSIVolumeSource:
		if p.NodePublishSecretRef != nil {
			return secret(p.NodePublishSecretRef)
		}
		return "csidrivers", p.Driver
	case corev1.ConfigMapVolumeSource:
		return "configmaps", p.Name
	case corev1.ConfigMapProjection:
		return "configmaps", p.Name
	case corev1.ConfigMapKeySelector:
		return "configmaps", p.Name
	case corev1.ConfigMapEnvSource:
		return "configmaps", p.Name
	case corev1.PersistentVolumeClaimVolumeSource:
		return "persistentvolumeclaims", p.ClaimName
	case corev1.EphemeralVolumeSource:
		return "persistentvolumeclaims", ""
	case corev1.ServiceAccountTokenProjection:
		return "serviceaccounts", ""
	case corev1.ClusterTrustBundleProjection:
		return "clustertrustbundles", ""
	case corev1.PodCertificateProjection:
		return "podcertificaterequests", ""
	case corev1.PodResourceClaim:
		return "resourceclaims", p.Name
	}
	return "", ""
}
