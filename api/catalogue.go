package api

import (
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"skiff/api/admissionregistration"
	"skiff/api/apiextensions"
	"skiff/api/apiregistration"
	"skiff/api/apps"
	"skiff/api/authentication"
	"skiff/api/authorization"
	"skiff/api/autoscaling"
	"skiff/api/batch"
	"skiff/api/certificates"
	"skiff/api/coordination"
	"skiff/api/core"
	"skiff/api/discovery"
	"skiff/api/flowcontrol"
	"skiff/api/kind"
	"skiff/api/networking"
	"skiff/api/node"
	"skiff/api/policy"
	"skiff/api/rbac"
	"skiff/api/scheduling"
	"skiff/api/storage"
	"skiff/api/storagemigration"
)

// Catalogue lists every built-in resource of Kubernetes v1.37's stable groups, once.
var Catalogue = []*Resource{
	{Group: "", Version: "v1", Name: "bindings", KindName: "Binding", Singular: "binding", Namespaced: true,
		Kind: plain[corev1.Binding, metav1.List](), Verbs: []string{"create"}},
	{Group: "", Version: "v1", Name: "componentstatuses", KindName: "ComponentStatus", Singular: "componentstatus", Short: []string{"cs"},
		Kind: plain[corev1.ComponentStatus, corev1.ComponentStatusList](), Verbs: []string{"get", "list"}},
	{Group: "", Version: "v1", Name: "configmaps", KindName: "ConfigMap", Singular: "configmap", Short: []string{"cm"}, Namespaced: true,
		Prefix: "configmaps", Kind: plain[corev1.ConfigMap, corev1.ConfigMapList]()},
	{Group: "", Version: "v1", Name: "endpoints", KindName: "Endpoints", Singular: "endpoints", Short: []string{"ep"}, Namespaced: true,
		Prefix: "services/endpoints", Kind: plain[corev1.Endpoints, corev1.EndpointsList]()},
	{Group: "", Version: "v1", Name: "events", KindName: "Event", Singular: "event", Short: []string{"ev"}, Namespaced: true,
		Prefix: "events", Kind: plain[corev1.Event, corev1.EventList]()},
	{Group: "", Version: "v1", Name: "limitranges", KindName: "LimitRange", Singular: "limitrange", Short: []string{"limits"}, Namespaced: true,
		Prefix: "limitranges", Kind: plain[corev1.LimitRange, corev1.LimitRangeList]()},
	{Group: "", Version: "v1", Name: "namespaces", KindName: "Namespace", Singular: "namespace", Short: []string{"ns"},
		Prefix: "namespaces", Kind: plain[corev1.Namespace, corev1.NamespaceList](), Verbs: []string{"create", "delete", "get", "list", "patch", "update", "watch"}},
	{Group: "", Version: "v1", Name: "nodes", KindName: "Node", Singular: "node", Short: []string{"no"},
		Prefix: "minions", Kind: plain[corev1.Node, corev1.NodeList](), Actions: []Action{
			{"proxy", schema.GroupVersionKind{Group: "", Version: "v1", Kind: "NodeProxyOptions"}, []string{"create", "delete", "get", "patch", "update"}},
		}},
	{Group: "", Version: "v1", Name: "persistentvolumeclaims", KindName: "PersistentVolumeClaim", Singular: "persistentvolumeclaim", Short: []string{"pvc"}, Namespaced: true,
		Prefix: "persistentvolumeclaims", Kind: core.PersistentVolumeClaim},
	{Group: "", Version: "v1", Name: "persistentvolumes", KindName: "PersistentVolume", Singular: "persistentvolume", Short: []string{"pv"},
		Prefix: "persistentvolumes", Kind: core.PersistentVolume},
	{Group: "", Version: "v1", Name: "pods", KindName: "Pod", Singular: "pod", Short: []string{"po"}, Categories: []string{"all"}, Namespaced: true,
		Prefix: "pods", Kind: core.Pod, Actions: []Action{
			{"attach", schema.GroupVersionKind{Group: "", Version: "v1", Kind: "PodAttachOptions"}, []string{"create", "get"}},
			{"binding", schema.GroupVersionKind{Group: "", Version: "v1", Kind: "Binding"}, []string{"create"}},
			{"eviction", schema.GroupVersionKind{Group: "policy", Version: "v1", Kind: "Eviction"}, []string{"create"}},
			{"exec", schema.GroupVersionKind{Group: "", Version: "v1", Kind: "PodExecOptions"}, []string{"create", "get"}},
			{"log", schema.GroupVersionKind{Group: "", Version: "v1", Kind: "Pod"}, []string{"get"}},
			{"portforward", schema.GroupVersionKind{Group: "", Version: "v1", Kind: "PodPortForwardOptions"}, []string{"create", "get"}},
			{"proxy", schema.GroupVersionKind{Group: "", Version: "v1", Kind: "PodProxyOptions"}, []string{"create", "delete", "get", "patch", "update"}},
		}},
	{Group: "", Version: "v1", Name: "podtemplates", KindName: "PodTemplate", Singular: "podtemplate", Namespaced: true,
		Prefix: "podtemplates", Kind: plain[corev1.PodTemplate, corev1.PodTemplateList]()},
	{Group: "", Version: "v1", Name: "replicationcontrollers", KindName: "ReplicationController", Singular: "replicationcontroller", Short: []string{"rc"}, Categories: []string{"all"}, Namespaced: true,
		Prefix: "controllers", Kind: plain[corev1.ReplicationController, corev1.ReplicationControllerList]()},
	{Group: "", Version: "v1", Name: "resourcequotas", KindName: "ResourceQuota", Singular: "resourcequota", Short: []string{"quota"}, Namespaced: true,
		Prefix: "resourcequotas", Kind: plain[corev1.ResourceQuota, corev1.ResourceQuotaList]()},
	{Group: "", Version: "v1", Name: "secrets", KindName: "Secret", Singular: "secret", Namespaced: true,
		Prefix: "secrets", Kind: plain[corev1.Secret, corev1.SecretList]()},
	{Group: "", Version: "v1", Name: "serviceaccounts", KindName: "ServiceAccount", Singular: "serviceaccount", Short: []string{"sa"}, Namespaced: true,
		Prefix: "serviceaccounts", Kind: plain[corev1.ServiceAccount, corev1.ServiceAccountList](), Actions: []Action{
			{"token", schema.GroupVersionKind{Group: "authentication.k8s.io", Version: "v1", Kind: "TokenRequest"}, []string{"create"}},
		}},
	{Group: "", Version: "v1", Name: "services", KindName: "Service", Singular: "service", Short: []string{"svc"}, Categories: []string{"all"}, Namespaced: true,
		Prefix: "services/specs", Kind: plain[corev1.Service, corev1.ServiceList](), Actions: []Action{
			{"proxy", schema.GroupVersionKind{Group: "", Version: "v1", Kind: "ServiceProxyOptions"}, []string{"create", "delete", "get", "patch", "update"}},
		}},
	{Group: "admissionregistration.k8s.io", Version: "v1", Name: "mutatingadmissionpolicies", KindName: "MutatingAdmissionPolicy", Singular: "mutatingadmissionpolicy", Categories: []string{"api-extensions"},
		Prefix: "mutatingadmissionpolicies", Kind: admissionregistration.MutatingAdmissionPolicy},
	{Group: "admissionregistration.k8s.io", Version: "v1", Name: "mutatingadmissionpolicybindings", KindName: "MutatingAdmissionPolicyBinding", Singular: "mutatingadmissionpolicybinding", Categories: []string{"api-extensions"},
		Prefix: "mutatingadmissionpolicybindings", Kind: admissionregistration.MutatingAdmissionPolicyBinding},
	{Group: "admissionregistration.k8s.io", Version: "v1", Name: "mutatingwebhookconfigurations", KindName: "MutatingWebhookConfiguration", Singular: "mutatingwebhookconfiguration", Categories: []string{"api-extensions"},
		Prefix: "mutatingwebhookconfigurations", Kind: admissionregistration.MutatingWebhookConfiguration},
	{Group: "admissionregistration.k8s.io", Version: "v1", Name: "validatingadmissionpolicies", KindName: "ValidatingAdmissionPolicy", Singular: "validatingadmissionpolicy", Categories: []string{"api-extensions"},
		Prefix: "validatingadmissionpolicies", Kind: admissionregistration.ValidatingAdmissionPolicy},
	{Group: "admissionregistration.k8s.io", Version: "v1", Name: "validatingadmissionpolicybindings", KindName: "ValidatingAdmissionPolicyBinding", Singular: "validatingadmissionpolicybinding", Categories: []string{"api-extensions"},
		Prefix: "validatingadmissionpolicybindings", Kind: admissionregistration.ValidatingAdmissionPolicyBinding},
	{Group: "admissionregistration.k8s.io", Version: "v1", Name: "validatingwebhookconfigurations", KindName: "ValidatingWebhookConfiguration", Singular: "validatingwebhookconfiguration", Categories: []string{"api-extensions"},
		Prefix: "validatingwebhookconfigurations", Kind: admissionregistration.ValidatingWebhookConfiguration},
	{Group: "apiextensions.k8s.io", Version: "v1", Name: "customresourcedefinitions", KindName: "CustomResourceDefinition", Singular: "customresourcedefinition", Short: []string{"crd", "crds"}, Categories: []string{"api-extensions"},
		Prefix: "apiextensions.k8s.io/customresourcedefinitions", Kind: apiextensions.CustomResourceDefinition},
	{Group: "apiregistration.k8s.io", Version: "v1", Name: "apiservices", KindName: "APIService", Singular: "apiservice", Categories: []string{"api-extensions"},
		Prefix: "apiregistration.k8s.io/apiservices", Kind: apiregistration.APIService},
	{Group: "apps", Version: "v1", Name: "controllerrevisions", KindName: "ControllerRevision", Singular: "controllerrevision", Namespaced: true,
		Prefix: "controllerrevisions", Kind: apps.ControllerRevision},
	{Group: "apps", Version: "v1", Name: "daemonsets", KindName: "DaemonSet", Singular: "daemonset", Short: []string{"ds"}, Categories: []string{"all"}, Namespaced: true,
		Prefix: "daemonsets", Kind: apps.DaemonSet},
	{Group: "apps", Version: "v1", Name: "deployments", KindName: "Deployment", Singular: "deployment", Short: []string{"deploy"}, Categories: []string{"all"}, Namespaced: true,
		Prefix: "deployments", Kind: apps.Deployment},
	{Group: "apps", Version: "v1", Name: "replicasets", KindName: "ReplicaSet", Singular: "replicaset", Short: []string{"rs"}, Categories: []string{"all"}, Namespaced: true,
		Prefix: "replicasets", Kind: apps.ReplicaSet},
	{Group: "apps", Version: "v1", Name: "statefulsets", KindName: "StatefulSet", Singular: "statefulset", Short: []string{"sts"}, Categories: []string{"all"}, Namespaced: true,
		Prefix: "statefulsets", Kind: apps.StatefulSet},
	{Group: "authentication.k8s.io", Version: "v1", Name: "selfsubjectreviews", KindName: "SelfSubjectReview", Singular: "selfsubjectreview",
		Kind: authentication.SelfSubjectReview, Verbs: []string{"create"}},
	{Group: "authentication.k8s.io", Version: "v1", Name: "tokenreviews", KindName: "TokenReview", Singular: "tokenreview",
		Kind: authentication.TokenReview, Verbs: []string{"create"}},
	{Group: "authorization.k8s.io", Version: "v1", Name: "localsubjectaccessreviews", KindName: "LocalSubjectAccessReview", Singular: "localsubjectaccessreview", Namespaced: true,
		Kind: authorization.LocalSubjectAccessReview, Verbs: []string{"create"}},
	{Group: "authorization.k8s.io", Version: "v1", Name: "selfsubjectaccessreviews", KindName: "SelfSubjectAccessReview", Singular: "selfsubjectaccessreview",
		Kind: authorization.SelfSubjectAccessReview, Verbs: []string{"create"}},
	{Group: "authorization.k8s.io", Version: "v1", Name: "selfsubjectrulesreviews", KindName: "SelfSubjectRulesReview", Singular: "selfsubjectrulesreview",
		Kind: authorization.SelfSubjectRulesReview, Verbs: []string{"create"}},
	{Group: "authorization.k8s.io", Version: "v1", Name: "subjectaccessreviews", KindName: "SubjectAccessReview", Singular: "subjectaccessreview",
		Kind: authorization.SubjectAccessReview, Verbs: []string{"create"}},
	{Group: "autoscaling", Version: "v1", Name: "horizontalpodautoscalers", KindName: "HorizontalPodAutoscaler", Singular: "horizontalpodautoscaler", Short: []string{"hpa"}, Categories: []string{"all"}, Namespaced: true,
		Kind: autoscaling.HorizontalPodAutoscalerV1, View: &View{schema.GroupVersionResource{Group: "autoscaling", Version: "v2", Resource: "horizontalpodautoscalers"}, hpaFromV2, hpaToV2}},
	{Group: "autoscaling", Version: "v2", Name: "horizontalpodautoscalers", KindName: "HorizontalPodAutoscaler", Singular: "horizontalpodautoscaler", Short: []string{"hpa"}, Categories: []string{"all"}, Namespaced: true,
		Prefix: "horizontalpodautoscalers", Kind: autoscaling.HorizontalPodAutoscaler},
	{Group: "batch", Version: "v1", Name: "cronjobs", KindName: "CronJob", Singular: "cronjob", Short: []string{"cj"}, Categories: []string{"all"}, Namespaced: true,
		Prefix: "cronjobs", Kind: batch.CronJob},
	{Group: "batch", Version: "v1", Name: "jobs", KindName: "Job", Singular: "job", Categories: []string{"all"}, Namespaced: true,
		Prefix: "jobs", Kind: batch.Job},
	{Group: "certificates.k8s.io", Version: "v1", Name: "certificatesigningrequests", KindName: "CertificateSigningRequest", Singular: "certificatesigningrequest", Short: []string{"csr"},
		Prefix: "certificatesigningrequests", Kind: certificates.CertificateSigningRequest},
	{Group: "certificates.k8s.io", Version: "v1", Name: "clustertrustbundles", KindName: "ClusterTrustBundle", Singular: "clustertrustbundle",
		Prefix: "clustertrustbundles", Kind: certificates.ClusterTrustBundle},
	{Group: "certificates.k8s.io", Version: "v1", Name: "podcertificaterequests", KindName: "PodCertificateRequest", Singular: "podcertificaterequest", Namespaced: true,
		Prefix: "podcertificaterequests", Kind: certificates.PodCertificateRequest},
	{Group: "coordination.k8s.io", Version: "v1", Name: "leases", KindName: "Lease", Singular: "lease", Namespaced: true,
		Prefix: "leases", Kind: coordination.Lease},
	{Group: "discovery.k8s.io", Version: "v1", Name: "endpointslices", KindName: "EndpointSlice", Singular: "endpointslice", Namespaced: true,
		Prefix: "endpointslices", Kind: discovery.EndpointSlice},
	{Group: "events.k8s.io", Version: "v1", Name: "events", KindName: "Event", Singular: "event", Short: []string{"ev"}, Namespaced: true,
		Kind: plain[eventsv1.Event, eventsv1.EventList](), View: &View{schema.GroupVersionResource{Version: "v1", Resource: "events"}, eventFromCore, eventToCore}},
	{Group: "flowcontrol.apiserver.k8s.io", Version: "v1", Name: "flowschemas", KindName: "FlowSchema", Singular: "flowschema",
		Prefix: "flowschemas", Kind: flowcontrol.FlowSchema},
	{Group: "flowcontrol.apiserver.k8s.io", Version: "v1", Name: "prioritylevelconfigurations", KindName: "PriorityLevelConfiguration", Singular: "prioritylevelconfiguration",
		Prefix: "prioritylevelconfigurations", Kind: flowcontrol.PriorityLevelConfiguration},
	{Group: "networking.k8s.io", Version: "v1", Name: "ingressclasses", KindName: "IngressClass", Singular: "ingressclass",
		Prefix: "ingressclasses", Kind: networking.IngressClass},
	{Group: "networking.k8s.io", Version: "v1", Name: "ingresses", KindName: "Ingress", Singular: "ingress", Short: []string{"ing"}, Namespaced: true,
		Prefix: "ingress", Kind: networking.Ingress},
	{Group: "networking.k8s.io", Version: "v1", Name: "ipaddresses", KindName: "IPAddress", Singular: "ipaddress", Short: []string{"ip"},
		Prefix: "ipaddresses", Kind: networking.IPAddress},
	{Group: "networking.k8s.io", Version: "v1", Name: "networkpolicies", KindName: "NetworkPolicy", Singular: "networkpolicy", Short: []string{"netpol"}, Namespaced: true,
		Prefix: "networkpolicies", Kind: networking.NetworkPolicy},
	{Group: "networking.k8s.io", Version: "v1", Name: "servicecidrs", KindName: "ServiceCIDR", Singular: "servicecidr",
		Prefix: "servicecidrs", Kind: networking.ServiceCIDR},
	{Group: "node.k8s.io", Version: "v1", Name: "runtimeclasses", KindName: "RuntimeClass", Singular: "runtimeclass",
		Prefix: "runtimeclasses", Kind: node.RuntimeClass},
	{Group: "policy", Version: "v1", Name: "poddisruptionbudgets", KindName: "PodDisruptionBudget", Singular: "poddisruptionbudget", Short: []string{"pdb"}, Namespaced: true,
		Prefix: "poddisruptionbudgets", Kind: policy.PodDisruptionBudget},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Name: "clusterrolebindings", KindName: "ClusterRoleBinding", Singular: "clusterrolebinding",
		Prefix: "clusterrolebindings", Kind: rbac.ClusterRoleBinding},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Name: "clusterroles", KindName: "ClusterRole", Singular: "clusterrole",
		Prefix: "clusterroles", Kind: rbac.ClusterRole},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Name: "rolebindings", KindName: "RoleBinding", Singular: "rolebinding", Namespaced: true,
		Prefix: "rolebindings", Kind: rbac.RoleBinding},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Name: "roles", KindName: "Role", Singular: "role", Namespaced: true,
		Prefix: "roles", Kind: rbac.Role},
	{Group: "resource.k8s.io", Version: "v1", Name: "deviceclasses", KindName: "DeviceClass", Singular: "deviceclass",
		Prefix: "deviceclasses", Kind: plain[resourcev1.DeviceClass, resourcev1.DeviceClassList]()},
	{Group: "resource.k8s.io", Version: "v1", Name: "devicetaintrules", KindName: "DeviceTaintRule", Singular: "devicetaintrule",
		Prefix: "devicetaintrules", Kind: plain[resourcev1.DeviceTaintRule, resourcev1.DeviceTaintRuleList]()},
	{Group: "resource.k8s.io", Version: "v1", Name: "resourceclaims", KindName: "ResourceClaim", Singular: "resourceclaim", Namespaced: true,
		Prefix: "resourceclaims", Kind: plain[resourcev1.ResourceClaim, resourcev1.ResourceClaimList]()},
	{Group: "resource.k8s.io", Version: "v1", Name: "resourceclaimtemplates", KindName: "ResourceClaimTemplate", Singular: "resourceclaimtemplate", Namespaced: true,
		Prefix: "resourceclaimtemplates", Kind: plain[resourcev1.ResourceClaimTemplate, resourcev1.ResourceClaimTemplateList]()},
	{Group: "resource.k8s.io", Version: "v1", Name: "resourceslices", KindName: "ResourceSlice", Singular: "resourceslice",
		Prefix: "resourceslices", Kind: plain[resourcev1.ResourceSlice, resourcev1.ResourceSliceList]()},
	{Group: "scheduling.k8s.io", Version: "v1", Name: "priorityclasses", KindName: "PriorityClass", Singular: "priorityclass", Short: []string{"pc"},
		Prefix: "priorityclasses", Kind: scheduling.PriorityClass},
	{Group: "storage.k8s.io", Version: "v1", Name: "csidrivers", KindName: "CSIDriver", Singular: "csidriver",
		Prefix: "csidrivers", Kind: storage.CSIDriver},
	{Group: "storage.k8s.io", Version: "v1", Name: "csinodes", KindName: "CSINode", Singular: "csinode",
		Prefix: "csinodes", Kind: storage.CSINode},
	{Group: "storage.k8s.io", Version: "v1", Name: "csistoragecapacities", KindName: "CSIStorageCapacity", Singular: "csistoragecapacity", Namespaced: true,
		Prefix: "csistoragecapacities", Kind: storage.CSIStorageCapacity},
	{Group: "storage.k8s.io", Version: "v1", Name: "storageclasses", KindName: "StorageClass", Singular: "storageclass", Short: []string{"sc"},
		Prefix: "storageclasses", Kind: storage.StorageClass},
	{Group: "storage.k8s.io", Version: "v1", Name: "volumeattachments", KindName: "VolumeAttachment", Singular: "volumeattachment",
		Prefix: "volumeattachments", Kind: storage.VolumeAttachment},
	{Group: "storage.k8s.io", Version: "v1", Name: "volumeattributesclasses", KindName: "VolumeAttributesClass", Singular: "volumeattributesclass", Short: []string{"vac"},
		Prefix: "volumeattributesclasses", Kind: storage.VolumeAttributesClass},
	{Group: "storagemigration.k8s.io", Version: "v1", Name: "storageversionmigrations", KindName: "StorageVersionMigration", Singular: "storageversionmigration",
		Prefix: "storageversionmigrations", Kind: storagemigration.StorageVersionMigration},
}

func plain[T, L any, PT interface {
	*T
	kind.Object
}, PL interface {
	*L
	runtime.Object
}]() kind.Kind {
	return kind.Of(kind.Spec[PT]{New: func() PT { return PT(new(T)) }, NewList: func() runtime.Object { return PL(new(L)) }})
}
