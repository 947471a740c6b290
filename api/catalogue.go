package api

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"skiff/api/kind"
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
		Prefix: "persistentvolumeclaims", Kind: plain[corev1.PersistentVolumeClaim, corev1.PersistentVolumeClaimList]()},
	{Group: "", Version: "v1", Name: "persistentvolumes", KindName: "PersistentVolume", Singular: "persistentvolume", Short: []string{"pv"},
		Prefix: "persistentvolumes", Kind: plain[corev1.PersistentVolume, corev1.PersistentVolumeList]()},
	{Group: "", Version: "v1", Name: "pods", KindName: "Pod", Singular: "pod", Short: []string{"po"}, Categories: []string{"all"}, Namespaced: true,
		Prefix: "pods", Kind: plain[corev1.Pod, corev1.PodList](), Actions: []Action{
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
		Prefix: "mutatingadmissionpolicies", Kind: plain[admissionregistrationv1.MutatingAdmissionPolicy, admissionregistrationv1.MutatingAdmissionPolicyList]()},
	{Group: "admissionregistration.k8s.io", Version: "v1", Name: "mutatingadmissionpolicybindings", KindName: "MutatingAdmissionPolicyBinding", Singular: "mutatingadmissionpolicybinding", Categories: []string{"api-extensions"},
		Prefix: "mutatingadmissionpolicybindings", Kind: plain[admissionregistrationv1.MutatingAdmissionPolicyBinding, admissionregistrationv1.MutatingAdmissionPolicyBindingList]()},
	{Group: "admissionregistration.k8s.io", Version: "v1", Name: "mutatingwebhookconfigurations", KindName: "MutatingWebhookConfiguration", Singular: "mutatingwebhookconfiguration", Categories: []string{"api-extensions"},
		Prefix: "mutatingwebhookconfigurations", Kind: plain[admissionregistrationv1.MutatingWebhookConfiguration, admissionregistrationv1.MutatingWebhookConfigurationList]()},
	{Group: "admissionregistration.k8s.io", Version: "v1", Name: "validatingadmissionpolicies", KindName: "ValidatingAdmissionPolicy", Singular: "validatingadmissionpolicy", Categories: []string{"api-extensions"},
		Prefix: "validatingadmissionpolicies", Kind: plain[admissionregistrationv1.ValidatingAdmissionPolicy, admissionregistrationv1.ValidatingAdmissionPolicyList]()},
	{Group: "admissionregistration.k8s.io", Version: "v1", Name: "validatingadmissionpolicybindings", KindName: "ValidatingAdmissionPolicyBinding", Singular: "validatingadmissionpolicybinding", Categories: []string{"api-extensions"},
		Prefix: "validatingadmissionpolicybindings", Kind: plain[admissionregistrationv1.ValidatingAdmissionPolicyBinding, admissionregistrationv1.ValidatingAdmissionPolicyBindingList]()},
	{Group: "admissionregistration.k8s.io", Version: "v1", Name: "validatingwebhookconfigurations", KindName: "ValidatingWebhookConfiguration", Singular: "validatingwebhookconfiguration", Categories: []string{"api-extensions"},
		Prefix: "validatingwebhookconfigurations", Kind: plain[admissionregistrationv1.ValidatingWebhookConfiguration, admissionregistrationv1.ValidatingWebhookConfigurationList]()},
	{Group: "apiextensions.k8s.io", Version: "v1", Name: "customresourcedefinitions", KindName: "CustomResourceDefinition", Singular: "customresourcedefinition", Short: []string{"crd", "crds"}, Categories: []string{"api-extensions"},
		Prefix: "apiextensions.k8s.io/customresourcedefinitions", Kind: plain[apiextensionsv1.CustomResourceDefinition, apiextensionsv1.CustomResourceDefinitionList]()},
	{Group: "apiregistration.k8s.io", Version: "v1", Name: "apiservices", KindName: "APIService", Singular: "apiservice", Categories: []string{"api-extensions"},
		Prefix: "apiregistration.k8s.io/apiservices", Kind: plain[apiregistrationv1.APIService, apiregistrationv1.APIServiceList]()},
	{Group: "apps", Version: "v1", Name: "controllerrevisions", KindName: "ControllerRevision", Singular: "controllerrevision", Namespaced: true,
		Prefix: "controllerrevisions", Kind: plain[appsv1.ControllerRevision, appsv1.ControllerRevisionList]()},
	{Group: "apps", Version: "v1", Name: "daemonsets", KindName: "DaemonSet", Singular: "daemonset", Short: []string{"ds"}, Categories: []string{"all"}, Namespaced: true,
		Prefix: "daemonsets", Kind: plain[appsv1.DaemonSet, appsv1.DaemonSetList]()},
	{Group: "apps", Version: "v1", Name: "deployments", KindName: "Deployment", Singular: "deployment", Short: []string{"deploy"}, Categories: []string{"all"}, Namespaced: true,
		Prefix: "deployments", Kind: plain[appsv1.Deployment, appsv1.DeploymentList]()},
	{Group: "apps", Version: "v1", Name: "replicasets", KindName: "ReplicaSet", Singular: "replicaset", Short: []string{"rs"}, Categories: []string{"all"}, Namespaced: true,
		Prefix: "replicasets", Kind: plain[appsv1.ReplicaSet, appsv1.ReplicaSetList]()},
	{Group: "apps", Version: "v1", Name: "statefulsets", KindName: "StatefulSet", Singular: "statefulset", Short: []string{"sts"}, Categories: []string{"all"}, Namespaced: true,
		Prefix: "statefulsets", Kind: plain[appsv1.StatefulSet, appsv1.StatefulSetList]()},
	{Group: "authentication.k8s.io", Version: "v1", Name: "selfsubjectreviews", KindName: "SelfSubjectReview", Singular: "selfsubjectreview",
		Kind: plain[authenticationv1.SelfSubjectReview, metav1.List](), Verbs: []string{"create"}},
	{Group: "authentication.k8s.io", Version: "v1", Name: "tokenreviews", KindName: "TokenReview", Singular: "tokenreview",
		Kind: plain[authenticationv1.TokenReview, metav1.List](), Verbs: []string{"create"}},
	{Group: "authorization.k8s.io", Version: "v1", Name: "localsubjectaccessreviews", KindName: "LocalSubjectAccessReview", Singular: "localsubjectaccessreview", Namespaced: true,
		Kind: plain[authorizationv1.LocalSubjectAccessReview, metav1.List](), Verbs: []string{"create"}},
	{Group: "authorization.k8s.io", Version: "v1", Name: "selfsubjectaccessreviews", KindName: "SelfSubjectAccessReview", Singular: "selfsubjectaccessreview",
		Kind: plain[authorizationv1.SelfSubjectAccessReview, metav1.List](), Verbs: []string{"create"}},
	{Group: "authorization.k8s.io", Version: "v1", Name: "selfsubjectrulesreviews", KindName: "SelfSubjectRulesReview", Singular: "selfsubjectrulesreview",
		Kind: plain[authorizationv1.SelfSubjectRulesReview, metav1.List](), Verbs: []string{"create"}},
	{Group: "authorization.k8s.io", Version: "v1", Name: "subjectaccessreviews", KindName: "SubjectAccessReview", Singular: "subjectaccessreview",
		Kind: plain[authorizationv1.SubjectAccessReview, metav1.List](), Verbs: []string{"create"}},
	{Group: "autoscaling", Version: "v1", Name: "horizontalpodautoscalers", KindName: "HorizontalPodAutoscaler", Singular: "horizontalpodautoscaler", Short: []string{"hpa"}, Categories: []string{"all"}, Namespaced: true,
		Kind: plain[autoscalingv1.HorizontalPodAutoscaler, autoscalingv1.HorizontalPodAutoscalerList](), View: &View{schema.GroupVersionResource{Group: "autoscaling", Version: "v2", Resource: "horizontalpodautoscalers"}, hpaFromV2, hpaToV2}},
	{Group: "autoscaling", Version: "v2", Name: "horizontalpodautoscalers", KindName: "HorizontalPodAutoscaler", Singular: "horizontalpodautoscaler", Short: []string{"hpa"}, Categories: []string{"all"}, Namespaced: true,
		Prefix: "horizontalpodautoscalers", Kind: plain[autoscalingv2.HorizontalPodAutoscaler, autoscalingv2.HorizontalPodAutoscalerList]()},
	{Group: "batch", Version: "v1", Name: "cronjobs", KindName: "CronJob", Singular: "cronjob", Short: []string{"cj"}, Categories: []string{"all"}, Namespaced: true,
		Prefix: "cronjobs", Kind: plain[batchv1.CronJob, batchv1.CronJobList]()},
	{Group: "batch", Version: "v1", Name: "jobs", KindName: "Job", Singular: "job", Categories: []string{"all"}, Namespaced: true,
		Prefix: "jobs", Kind: plain[batchv1.Job, batchv1.JobList]()},
	{Group: "certificates.k8s.io", Version: "v1", Name: "certificatesigningrequests", KindName: "CertificateSigningRequest", Singular: "certificatesigningrequest", Short: []string{"csr"},
		Prefix: "certificatesigningrequests", Kind: plain[certificatesv1.CertificateSigningRequest, certificatesv1.CertificateSigningRequestList]()},
	{Group: "certificates.k8s.io", Version: "v1", Name: "clustertrustbundles", KindName: "ClusterTrustBundle", Singular: "clustertrustbundle",
		Prefix: "clustertrustbundles", Kind: plain[certificatesv1.ClusterTrustBundle, certificatesv1.ClusterTrustBundleList]()},
	{Group: "certificates.k8s.io", Version: "v1", Name: "podcertificaterequests", KindName: "PodCertificateRequest", Singular: "podcertificaterequest", Namespaced: true,
		Prefix: "podcertificaterequests", Kind: plain[certificatesv1.PodCertificateRequest, certificatesv1.PodCertificateRequestList]()},
	{Group: "coordination.k8s.io", Version: "v1", Name: "leases", KindName: "Lease", Singular: "lease", Namespaced: true,
		Prefix: "leases", Kind: plain[coordinationv1.Lease, coordinationv1.LeaseList]()},
	{Group: "discovery.k8s.io", Version: "v1", Name: "endpointslices", KindName: "EndpointSlice", Singular: "endpointslice", Namespaced: true,
		Prefix: "endpointslices", Kind: plain[discoveryv1.EndpointSlice, discoveryv1.EndpointSliceList]()},
	{Group: "events.k8s.io", Version: "v1", Name: "events", KindName: "Event", Singular: "event", Short: []string{"ev"}, Namespaced: true,
		Kind: plain[eventsv1.Event, eventsv1.EventList](), View: &View{schema.GroupVersionResource{Version: "v1", Resource: "events"}, eventFromCore, eventToCore}},
	{Group: "flowcontrol.apiserver.k8s.io", Version: "v1", Name: "flowschemas", KindName: "FlowSchema", Singular: "flowschema",
		Prefix: "flowschemas", Kind: plain[flowcontrolv1.FlowSchema, flowcontrolv1.FlowSchemaList]()},
	{Group: "flowcontrol.apiserver.k8s.io", Version: "v1", Name: "prioritylevelconfigurations", KindName: "PriorityLevelConfiguration", Singular: "prioritylevelconfiguration",
		Prefix: "prioritylevelconfigurations", Kind: plain[flowcontrolv1.PriorityLevelConfiguration, flowcontrolv1.PriorityLevelConfigurationList]()},
	{Group: "networking.k8s.io", Version: "v1", Name: "ingressclasses", KindName: "IngressClass", Singular: "ingressclass",
		Prefix: "ingressclasses", Kind: plain[networkingv1.IngressClass, networkingv1.IngressClassList]()},
	{Group: "networking.k8s.io", Version: "v1", Name: "ingresses", KindName: "Ingress", Singular: "ingress", Short: []string{"ing"}, Namespaced: true,
		Prefix: "ingress", Kind: plain[networkingv1.Ingress, networkingv1.IngressList]()},
	{Group: "networking.k8s.io", Version: "v1", Name: "ipaddresses", KindName: "IPAddress", Singular: "ipaddress", Short: []string{"ip"},
		Prefix: "ipaddresses", Kind: plain[networkingv1.IPAddress, networkingv1.IPAddressList]()},
	{Group: "networking.k8s.io", Version: "v1", Name: "networkpolicies", KindName: "NetworkPolicy", Singular: "networkpolicy", Short: []string{"netpol"}, Namespaced: true,
		Prefix: "networkpolicies", Kind: plain[networkingv1.NetworkPolicy, networkingv1.NetworkPolicyList]()},
	{Group: "networking.k8s.io", Version: "v1", Name: "servicecidrs", KindName: "ServiceCIDR", Singular: "servicecidr",
		Prefix: "servicecidrs", Kind: plain[networkingv1.ServiceCIDR, networkingv1.ServiceCIDRList]()},
	{Group: "node.k8s.io", Version: "v1", Name: "runtimeclasses", KindName: "RuntimeClass", Singular: "runtimeclass",
		Prefix: "runtimeclasses", Kind: plain[nodev1.RuntimeClass, nodev1.RuntimeClassList]()},
	{Group: "policy", Version: "v1", Name: "poddisruptionbudgets", KindName: "PodDisruptionBudget", Singular: "poddisruptionbudget", Short: []string{"pdb"}, Namespaced: true,
		Prefix: "poddisruptionbudgets", Kind: plain[policyv1.PodDisruptionBudget, policyv1.PodDisruptionBudgetList]()},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Name: "clusterrolebindings", KindName: "ClusterRoleBinding", Singular: "clusterrolebinding",
		Prefix: "clusterrolebindings", Kind: plain[rbacv1.ClusterRoleBinding, rbacv1.ClusterRoleBindingList]()},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Name: "clusterroles", KindName: "ClusterRole", Singular: "clusterrole",
		Prefix: "clusterroles", Kind: plain[rbacv1.ClusterRole, rbacv1.ClusterRoleList]()},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Name: "rolebindings", KindName: "RoleBinding", Singular: "rolebinding", Namespaced: true,
		Prefix: "rolebindings", Kind: plain[rbacv1.RoleBinding, rbacv1.RoleBindingList]()},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Name: "roles", KindName: "Role", Singular: "role", Namespaced: true,
		Prefix: "roles", Kind: plain[rbacv1.Role, rbacv1.RoleList]()},
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
		Prefix: "priorityclasses", Kind: plain[schedulingv1.PriorityClass, schedulingv1.PriorityClassList]()},
	{Group: "storage.k8s.io", Version: "v1", Name: "csidrivers", KindName: "CSIDriver", Singular: "csidriver",
		Prefix: "csidrivers", Kind: plain[storagev1.CSIDriver, storagev1.CSIDriverList]()},
	{Group: "storage.k8s.io", Version: "v1", Name: "csinodes", KindName: "CSINode", Singular: "csinode",
		Prefix: "csinodes", Kind: plain[storagev1.CSINode, storagev1.CSINodeList]()},
	{Group: "storage.k8s.io", Version: "v1", Name: "csistoragecapacities", KindName: "CSIStorageCapacity", Singular: "csistoragecapacity", Namespaced: true,
		Prefix: "csistoragecapacities", Kind: plain[storagev1.CSIStorageCapacity, storagev1.CSIStorageCapacityList]()},
	{Group: "storage.k8s.io", Version: "v1", Name: "storageclasses", KindName: "StorageClass", Singular: "storageclass", Short: []string{"sc"},
		Prefix: "storageclasses", Kind: plain[storagev1.StorageClass, storagev1.StorageClassList]()},
	{Group: "storage.k8s.io", Version: "v1", Name: "volumeattachments", KindName: "VolumeAttachment", Singular: "volumeattachment",
		Prefix: "volumeattachments", Kind: plain[storagev1.VolumeAttachment, storagev1.VolumeAttachmentList]()},
	{Group: "storage.k8s.io", Version: "v1", Name: "volumeattributesclasses", KindName: "VolumeAttributesClass", Singular: "volumeattributesclass", Short: []string{"vac"},
		Prefix: "volumeattributesclasses", Kind: plain[storagev1.VolumeAttributesClass, storagev1.VolumeAttributesClassList]()},
	{Group: "storagemigration.k8s.io", Version: "v1", Name: "storageversionmigrations", KindName: "StorageVersionMigration", Singular: "storageversionmigration",
		Prefix: "storageversionmigrations", Kind: plain[storagemigrationv1.StorageVersionMigration, storagemigrationv1.StorageVersionMigrationList]()},
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
