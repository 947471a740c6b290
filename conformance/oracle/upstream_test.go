package oracle

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apiextensionsinstall "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/install"
	"k8s.io/apiextensions-apiserver/pkg/registry/customresourcedefinition"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/registry/rest"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	apiregistrationinstall "k8s.io/kube-aggregator/pkg/apis/apiregistration/install"
	"k8s.io/kube-aggregator/pkg/registry/apiservice"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	_ "k8s.io/kubernetes/pkg/apis/admissionregistration/install"
	_ "k8s.io/kubernetes/pkg/apis/apps/install"
	_ "k8s.io/kubernetes/pkg/apis/authentication/install"
	_ "k8s.io/kubernetes/pkg/apis/authorization/install"
	_ "k8s.io/kubernetes/pkg/apis/autoscaling/install"
	_ "k8s.io/kubernetes/pkg/apis/batch/install"
	_ "k8s.io/kubernetes/pkg/apis/certificates/install"
	_ "k8s.io/kubernetes/pkg/apis/coordination/install"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	_ "k8s.io/kubernetes/pkg/apis/discovery/install"
	_ "k8s.io/kubernetes/pkg/apis/events/install"
	_ "k8s.io/kubernetes/pkg/apis/flowcontrol/install"
	_ "k8s.io/kubernetes/pkg/apis/networking/install"
	_ "k8s.io/kubernetes/pkg/apis/node/install"
	_ "k8s.io/kubernetes/pkg/apis/policy/install"
	_ "k8s.io/kubernetes/pkg/apis/rbac/install"
	_ "k8s.io/kubernetes/pkg/apis/resource/install"
	_ "k8s.io/kubernetes/pkg/apis/scheduling/install"
	_ "k8s.io/kubernetes/pkg/apis/storage/install"
	_ "k8s.io/kubernetes/pkg/apis/storagemigration/install"
	"k8s.io/kubernetes/pkg/capabilities"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/mutatingadmissionpolicy"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/mutatingadmissionpolicybinding"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/mutatingwebhookconfiguration"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/validatingadmissionpolicy"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/validatingadmissionpolicybinding"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/validatingwebhookconfiguration"
	"k8s.io/kubernetes/pkg/registry/apps/controllerrevision"
	"k8s.io/kubernetes/pkg/registry/apps/daemonset"
	"k8s.io/kubernetes/pkg/registry/apps/deployment"
	"k8s.io/kubernetes/pkg/registry/apps/replicaset"
	"k8s.io/kubernetes/pkg/registry/apps/statefulset"
	"k8s.io/kubernetes/pkg/registry/autoscaling/horizontalpodautoscaler"
	"k8s.io/kubernetes/pkg/registry/batch/cronjob"
	"k8s.io/kubernetes/pkg/registry/batch/job"
	"k8s.io/kubernetes/pkg/registry/certificates/certificates"
	"k8s.io/kubernetes/pkg/registry/certificates/clustertrustbundle"
	"k8s.io/kubernetes/pkg/registry/certificates/podcertificaterequest"
	"k8s.io/kubernetes/pkg/registry/coordination/lease"
	"k8s.io/kubernetes/pkg/registry/core/configmap"
	"k8s.io/kubernetes/pkg/registry/core/endpoint"
	"k8s.io/kubernetes/pkg/registry/core/event"
	"k8s.io/kubernetes/pkg/registry/core/limitrange"
	"k8s.io/kubernetes/pkg/registry/core/namespace"
	"k8s.io/kubernetes/pkg/registry/core/node"
	"k8s.io/kubernetes/pkg/registry/core/persistentvolume"
	"k8s.io/kubernetes/pkg/registry/core/persistentvolumeclaim"
	"k8s.io/kubernetes/pkg/registry/core/pod"
	"k8s.io/kubernetes/pkg/registry/core/podtemplate"
	"k8s.io/kubernetes/pkg/registry/core/replicationcontroller"
	"k8s.io/kubernetes/pkg/registry/core/resourcequota"
	"k8s.io/kubernetes/pkg/registry/core/secret"
	"k8s.io/kubernetes/pkg/registry/core/service"
	"k8s.io/kubernetes/pkg/registry/core/serviceaccount"
	"k8s.io/kubernetes/pkg/registry/discovery/endpointslice"
	"k8s.io/kubernetes/pkg/registry/flowcontrol/flowschema"
	"k8s.io/kubernetes/pkg/registry/flowcontrol/prioritylevelconfiguration"
	"k8s.io/kubernetes/pkg/registry/networking/ingress"
	"k8s.io/kubernetes/pkg/registry/networking/ingressclass"
	"k8s.io/kubernetes/pkg/registry/networking/ipaddress"
	"k8s.io/kubernetes/pkg/registry/networking/networkpolicy"
	"k8s.io/kubernetes/pkg/registry/networking/servicecidr"
	"k8s.io/kubernetes/pkg/registry/node/runtimeclass"
	"k8s.io/kubernetes/pkg/registry/policy/poddisruptionbudget"
	"k8s.io/kubernetes/pkg/registry/rbac/clusterrole"
	"k8s.io/kubernetes/pkg/registry/rbac/clusterrolebinding"
	"k8s.io/kubernetes/pkg/registry/rbac/role"
	"k8s.io/kubernetes/pkg/registry/rbac/rolebinding"
	"k8s.io/kubernetes/pkg/registry/resource/deviceclass"
	"k8s.io/kubernetes/pkg/registry/resource/devicetaintrule"
	"k8s.io/kubernetes/pkg/registry/resource/resourceclaim"
	"k8s.io/kubernetes/pkg/registry/resource/resourceclaimtemplate"
	"k8s.io/kubernetes/pkg/registry/resource/resourceslice"
	"k8s.io/kubernetes/pkg/registry/scheduling/priorityclass"
	"k8s.io/kubernetes/pkg/registry/storage/csidriver"
	"k8s.io/kubernetes/pkg/registry/storage/csinode"
	"k8s.io/kubernetes/pkg/registry/storage/csistoragecapacity"
	"k8s.io/kubernetes/pkg/registry/storage/storageclass"
	"k8s.io/kubernetes/pkg/registry/storage/volumeattachment"
	"k8s.io/kubernetes/pkg/registry/storage/volumeattributesclass"
	"k8s.io/kubernetes/pkg/registry/storagemigration/storagemigration"
	"k8s.io/utils/clock"
)

// strategy is what upstream's API server asks about a kind when an object is written.
type strategy interface {
	rest.RESTCreateStrategy
	rest.RESTUpdateStrategy
}

// upstreamKind is upstream's side of a row of the catalogue.
type upstreamKind struct {
	main strategy
	subs map[string]rest.RESTUpdateStrategy
}

func status(s rest.RESTUpdateStrategy) map[string]rest.RESTUpdateStrategy {
	return map[string]rest.RESTUpdateStrategy{"status": s}
}

// upstreamKinds has the kinds by the name of their row: what kube-apiserver wires in pkg/registry/*/rest.
func upstreamKinds() map[string]upstreamKind {
	apiregistrationinstall.Install(legacyscheme.Scheme)
	apiextensionsinstall.Install(legacyscheme.Scheme)
	capabilities.Setup(true, 0)
	scheme, namespaces := legacyscheme.Scheme, adminNamespaces{}
	claims := resourceclaim.NewStrategy(namespaces, everything{})
	policies := validatingadmissionpolicy.NewStrategy(nil, noResources{})
	podCertificates := podcertificaterequest.NewStrategy()
	return map[string]upstreamKind{
		"configmaps":             {configmap.Strategy, nil},
		"endpoints":              {endpoint.Strategy, nil},
		"events":                 {event.Strategy, nil},
		"limitranges":            {limitrange.Strategy, nil},
		"namespaces":             {namespace.Strategy, map[string]rest.RESTUpdateStrategy{"status": namespace.StatusStrategy, "finalize": namespace.FinalizeStrategy}},
		"nodes":                  {node.Strategy, status(node.StatusStrategy)},
		"persistentvolumeclaims": {persistentvolumeclaim.Strategy, status(persistentvolumeclaim.StatusStrategy)},
		"persistentvolumes":      {persistentvolume.Strategy, status(persistentvolume.StatusStrategy)},
		"pods": {pod.Strategy, map[string]rest.RESTUpdateStrategy{"status": pod.StatusStrategy,
			"ephemeralcontainers": pod.EphemeralContainersStrategy, "resize": pod.ResizeStrategy}},
		"podtemplates":           {podtemplate.Strategy, nil},
		"replicationcontrollers": {replicationcontroller.Strategy, status(replicationcontroller.StatusStrategy)},
		"resourcequotas":         {resourcequota.Strategy, status(resourcequota.StatusStrategy)},
		"secrets":                {secret.Strategy, nil},
		"serviceaccounts":        {serviceaccount.Strategy, nil},
		"services":               {service.Strategy, status(service.StatusStrategy)},

		"mutatingadmissionpolicies.admissionregistration.k8s.io":         {mutatingadmissionpolicy.NewStrategy(nil, noResources{}), nil},
		"mutatingadmissionpolicybindings.admissionregistration.k8s.io":   {mutatingadmissionpolicybinding.NewStrategy(nil, nil, noResources{}), nil},
		"mutatingwebhookconfigurations.admissionregistration.k8s.io":     {mutatingwebhookconfiguration.Strategy, nil},
		"validatingadmissionpolicies.admissionregistration.k8s.io":       {policies, status(validatingadmissionpolicy.NewStatusStrategy(policies))},
		"validatingadmissionpolicybindings.admissionregistration.k8s.io": {validatingadmissionpolicybinding.NewStrategy(nil, nil, noResources{}), nil},
		"validatingwebhookconfigurations.admissionregistration.k8s.io":   {validatingwebhookconfiguration.Strategy, nil},

		"customresourcedefinitions.apiextensions.k8s.io": {customresourcedefinition.NewStrategy(scheme), status(customresourcedefinition.NewStatusStrategy(scheme))},
		"apiservices.apiregistration.k8s.io":             {apiservice.NewStrategy(scheme), status(apiservice.NewStatusStrategy(scheme))},

		"controllerrevisions.apps": {controllerrevision.Strategy, nil},
		"daemonsets.apps":          {daemonset.Strategy, status(daemonset.StatusStrategy)},
		"deployments.apps":         {deployment.Strategy, status(deployment.StatusStrategy)},
		"replicasets.apps":         {replicaset.Strategy, status(replicaset.StatusStrategy)},
		"statefulsets.apps":        {statefulset.Strategy, status(statefulset.StatusStrategy)},

		"horizontalpodautoscalers.autoscaling":    {horizontalpodautoscaler.Strategy, status(horizontalpodautoscaler.StatusStrategy)},
		"horizontalpodautoscalers.v1.autoscaling": {horizontalpodautoscaler.Strategy, status(horizontalpodautoscaler.StatusStrategy)},
		"cronjobs.batch":                          {cronjob.Strategy, status(cronjob.StatusStrategy)},
		"jobs.batch":                              {job.Strategy, status(job.StatusStrategy)},

		"certificatesigningrequests.certificates.k8s.io": {certificates.Strategy, map[string]rest.RESTUpdateStrategy{
			"status": certificates.StatusStrategy, "approval": certificates.ApprovalStrategy}},
		"clustertrustbundles.certificates.k8s.io": {clustertrustbundle.Strategy, nil},
		"podcertificaterequests.certificates.k8s.io": {podCertificates, status(
			podcertificaterequest.NewStatusStrategy(podCertificates, everything{}, clock.RealClock{}))},

		"leases.coordination.k8s.io":                               {lease.Strategy, nil},
		"endpointslices.discovery.k8s.io":                          {endpointslice.Strategy, nil},
		"events.events.k8s.io":                                     {event.Strategy, nil},
		"flowschemas.flowcontrol.apiserver.k8s.io":                 {flowschema.Strategy, status(flowschema.StatusStrategy)},
		"prioritylevelconfigurations.flowcontrol.apiserver.k8s.io": {prioritylevelconfiguration.Strategy, status(prioritylevelconfiguration.StatusStrategy)},

		"ingressclasses.networking.k8s.io":  {ingressclass.Strategy, nil},
		"ingresses.networking.k8s.io":       {ingress.Strategy, status(ingress.StatusStrategy)},
		"ipaddresses.networking.k8s.io":     {ipaddress.Strategy, nil},
		"networkpolicies.networking.k8s.io": {networkpolicy.Strategy, nil},
		"servicecidrs.networking.k8s.io":    {servicecidr.Strategy, status(servicecidr.StatusStrategy)},

		"runtimeclasses.node.k8s.io":  {runtimeclass.Strategy, nil},
		"poddisruptionbudgets.policy": {poddisruptionbudget.Strategy, status(poddisruptionbudget.StatusStrategy)},

		"clusterrolebindings.rbac.authorization.k8s.io": {clusterrolebinding.Strategy, nil},
		"clusterroles.rbac.authorization.k8s.io":        {clusterrole.Strategy, nil},
		"rolebindings.rbac.authorization.k8s.io":        {rolebinding.Strategy, nil},
		"roles.rbac.authorization.k8s.io":               {role.Strategy, nil},

		"deviceclasses.resource.k8s.io":          {deviceclass.Strategy, nil},
		"devicetaintrules.resource.k8s.io":       {devicetaintrule.Strategy, status(devicetaintrule.StatusStrategy)},
		"resourceclaims.resource.k8s.io":         {claims, status(resourceclaim.NewStatusStrategy(claims))},
		"resourceclaimtemplates.resource.k8s.io": {resourceclaimtemplate.NewStrategy(namespaces), nil},
		"resourceslices.resource.k8s.io":         {resourceslice.Strategy, nil},

		"priorityclasses.scheduling.k8s.io":      {priorityclass.Strategy, nil},
		"csidrivers.storage.k8s.io":              {csidriver.Strategy, nil},
		"csinodes.storage.k8s.io":                {csinode.Strategy, nil},
		"csistoragecapacities.storage.k8s.io":    {csistoragecapacity.Strategy, nil},
		"storageclasses.storage.k8s.io":          {storageclass.Strategy, nil},
		"volumeattachments.storage.k8s.io":       {volumeattachment.Strategy, status(volumeattachment.StatusStrategy)},
		"volumeattributesclasses.storage.k8s.io": {volumeattributesclass.Strategy, nil},

		"storageversionmigrations.storagemigration.k8s.io": {storagemigration.Strategy, status(storagemigration.StatusStrategy)},
	}
}

// everything is allowed: what an authorizer decides is not compared here.
type everything struct{}

func (everything) Authorize(context.Context, authorizer.Attributes) (authorizer.Decision, string, error) {
	return authorizer.DecisionAllow, "", nil
}

// adminNamespaces is a cluster whose namespaces all allow administrators' claims: what another object decides is not
// compared here.
type adminNamespaces struct {
	corev1client.NamespaceInterface
}

func (adminNamespaces) Get(_ context.Context, name string, _ metav1.GetOptions) (*corev1.Namespace, error) {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"resource.kubernetes.io/admin-access": "true"}}}, nil
}

// noResources is wanted, but without an authorizer never asked.
type noResources struct{}

func (noResources) Resolve(kind schema.GroupVersionKind) (schema.GroupVersionResource, error) {
	return schema.GroupVersionResource{}, fmt.Errorf("%s is not known", kind)
}
