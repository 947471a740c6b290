package admission

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	kubeletapis "k8s.io/kubelet/pkg/apis"

	"skiff/api"
)

var nodeRow = api.For[*corev1.Node]()

const (
	nodesGroup     = "system:nodes"
	nodeNamePrefix = "system:node:"
)

// taintNewNode keeps pods from a new node until it is said to be ready.
func taintNewNode(_ context.Context, w *Write) error {
	node, ok := w.Object.(*corev1.Node)
	if !ok || w.Verb != "create" || w.Subresource != "" {
		return nil
	}
	taint := corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}
	if !slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.MatchTaint(&taint) }) {
		node.Spec.Taints = append(node.Spec.Taints, taint)
	}
	return nil
}

// nodeOf tells whether a user is a node, and which; "" where that cannot be told.
func nodeOf(u user.Info) (name string, isNode bool) {
	if u == nil || !strings.HasPrefix(u.GetName(), nodeNamePrefix) || !slices.Contains(u.GetGroups(), nodesGroup) {
		return "", false
	}
	return strings.TrimPrefix(u.GetName(), nodeNamePrefix), true
}

// restrictNode keeps a node to what is its own: its Node, the pods that are
// bound to it, its lease, its CSINode, its claims' status, and tokens for its
// pods. The node authorizer has looked only at names; this looks at content.
func (c cluster) restrictNode(ctx context.Context, w *Write) error {
	node, isNode := nodeOf(w.User)
	if !isNode {
		return nil
	}
	if node == "" {
		return w.forbid("could not determine node from user %q", w.User.GetName())
	}
	switch w.Resource.String() {
	case "pods":
		return c.restrictPods(ctx, w, node)
	case "nodes":
		return restrictOwnNode(w, node)
	case "persistentvolumeclaims":
		return restrictClaims(w, node)
	case "serviceaccounts":
		return c.restrictTokens(ctx, w, node)
	case "leases.coordination.k8s.io":
		return restrictLease(w, node)
	case "csinodes.storage.k8s.io":
		return restrictCSINode(w, node)
	case "resourceslices.resource.k8s.io":
		return restrictSlices(w, node)
	case "certificatesigningrequests.certificates.k8s.io":
		return restrictCSR(w, node)
	case "podcertificaterequests.certificates.k8s.io":
		return c.restrictPodCertificate(ctx, w, node)
	}
	return nil
}

func (c cluster) restrictPods(ctx context.Context, w *Write, node string) error {
	old, _ := w.Old.(*corev1.Pod)
	switch w.Subresource {
	case "":
		switch w.Verb {
		case "create":
			return c.restrictMirror(ctx, w, node)
		case "delete":
			if old != nil && old.Spec.NodeName != node {
				return w.forbid("node %q can only delete pods with spec.nodeName set to itself", node)
			}
			return nil
		}
		return w.forbid("unexpected operation %q, node %q can only create and delete mirror pods", strings.ToUpper(w.Verb), node)
	case "status":
		return restrictPodStatus(w, node)
	case "eviction":
		pod, err := live[*corev1.Pod](ctx, c, w.Namespace, w.Name)
		if err != nil {
			return err
		}
		if pod.Spec.NodeName != node {
			return w.forbid("node %s can only evict pods with spec.nodeName set to itself", node)
		}
		return nil
	}
	return w.forbid("unexpected pod subresource %q, only 'status' and 'eviction' are allowed", w.Subresource)
}

// restrictMirror lets a node create only pods that show what it runs by itself.
func (c cluster) restrictMirror(ctx context.Context, w *Write, node string) error {
	pod, ok := w.Object.(*corev1.Pod)
	switch {
	case !ok:
		return w.forbid("unexpected type %T", w.Object)
	case !isMirror(pod):
		return w.forbid("pod does not have %q annotation, node %q can only create mirror pods", corev1.MirrorPodAnnotationKey, node)
	case pod.Spec.NodeName != node:
		return w.forbid("node %q can only create pods with spec.nodeName set to itself", node)
	case len(pod.OwnerReferences) > 1:
		return w.forbid("node %q can only create pods with a single owner reference set to itself", node)
	case len(pod.OwnerReferences) == 0:
		return w.forbid("node %q can only create pods with an owner reference set to itself", node)
	}
	owner := pod.OwnerReferences[0]
	switch {
	case owner.APIVersion != "v1" || owner.Kind != "Node" || owner.Name != node:
		return w.forbid("node %q can only create pods with an owner reference set to itself", node)
	case owner.Controller == nil || !*owner.Controller:
		return w.forbid("node %q can only create pods with a controller owner reference set to itself", node)
	case owner.BlockOwnerDeletion != nil && *owner.BlockOwnerDeletion:
		return w.forbid("node %q must not set blockOwnerDeletion on an owner reference", node)
	}
	own, err := live[*corev1.Node](ctx, c, "", node)
	if err != nil {
		return err
	}
	if owner.UID != own.UID {
		return w.forbid("node %s UID mismatch: expected %s got %s", node, owner.UID, own.UID)
	}
	if kind := refersTo(pod); kind != "" {
		return w.forbid("node %q can not create pods that reference %s", node, kind)
	}
	return nil
}

func restrictPodStatus(w *Write, node string) error {
	pod, ok := w.Object.(*corev1.Pod)
	old, was := w.Old.(*corev1.Pod)
	switch {
	case w.Verb != "update" || !ok || !was:
		return w.forbid("unexpected operation %q", strings.ToUpper(w.Verb))
	case old.Spec.NodeName != node:
		return w.forbid("node %q can only update pod status for pods with spec.nodeName set to itself", node)
	case !labels.Equals(old.Labels, pod.Labels):
		return w.forbid("node %q cannot update labels through pod status", node)
	case !equality.Semantic.DeepEqual(old.Status.ResourceClaimStatuses, pod.Status.ResourceClaimStatuses):
		return w.forbid("node %q cannot update resource claim statues", node)
	case !equality.Semantic.DeepEqual(old.Status.ExtendedResourceClaimStatus, pod.Status.ExtendedResourceClaimStatus):
		return w.forbid("node %q cannot update extended resource claim status", node)
	case !equality.Semantic.DeepEqual(old.Status.NodeAllocatableResourceClaimStatuses, pod.Status.NodeAllocatableResourceClaimStatuses):
		return w.forbid("node %q cannot update node allocatable resource claim statuses", node)
	}
	return nil
}

// restrictOwnNode keeps a node from steering pods to itself.
func restrictOwnNode(w *Write, name string) error {
	node, _ := w.Object.(*corev1.Node)
	old, _ := w.Old.(*corev1.Node)
	if w.Name != name {
		return w.forbid("node %q is not allowed to modify node %q", name, w.Name)
	}
	switch {
	case w.Verb == "create" && node != nil:
		if node.Spec.ConfigSource != nil {
			return w.forbid("node %q is not allowed to create pods with a non-nil configSource", name)
		}
		if forbidden := forbiddenLabels(node.Labels, nil); len(forbidden) > 0 {
			return w.forbid("node %q is not allowed to set the following labels: %s", name, strings.Join(forbidden, ", "))
		}
	case w.Verb == "update" && node != nil && old != nil:
		if node.Spec.ConfigSource != nil && !equality.Semantic.DeepEqual(node.Spec.ConfigSource, old.Spec.ConfigSource) {
			return w.forbid("node %q is not allowed to update configSource to a new non-nil configSource", name)
		}
		if !equality.Semantic.DeepEqual(node.Spec.Taints, old.Spec.Taints) {
			return w.forbid("node %q is not allowed to modify taints", name)
		}
		if !equality.Semantic.DeepEqual(node.OwnerReferences, old.OwnerReferences) {
			return w.forbid("node %q is not allowed to modify ownerReferences", name)
		}
		if forbidden := forbiddenLabels(node.Labels, old.Labels); len(forbidden) > 0 {
			return w.forbid("is not allowed to modify labels: %s", strings.Join(forbidden, ", "))
		}
	}
	return nil
}

// forbiddenLabels are those that differ and that a node may not set on itself.
func forbiddenLabels(now, before map[string]string) (keys []string) {
	differ := func(a, b map[string]string) {
		for key, value := range a {
			if other, ok := b[key]; (!ok || other != value) && !slices.Contains(keys, key) && forbiddenLabel(key) {
				keys = append(keys, key)
			}
		}
	}
	differ(now, before)
	differ(before, now)
	slices.Sort(keys)
	return keys
}

func forbiddenLabel(key string) bool {
	domain, _, ok := strings.Cut(key, "/")
	if !ok {
		return false
	}
	in := func(parent string) bool { return domain == parent || strings.HasSuffix(domain, "."+parent) }
	if in(corev1.LabelNamespaceNodeRestriction) {
		return true
	}
	return (in("kubernetes.io") || in("k8s.io")) && !kubeletapis.IsKubeletLabel(key)
}

// restrictClaims lets a node report how large a volume is, and nothing else.
func restrictClaims(w *Write, node string) error {
	if w.Subresource != "status" {
		return w.forbid("may only update PVC status")
	}
	claim, ok := w.Object.(*corev1.PersistentVolumeClaim)
	old, was := w.Old.(*corev1.PersistentVolumeClaim)
	if w.Verb != "update" || !ok || !was {
		return w.forbid("unexpected operation %q", strings.ToUpper(w.Verb))
	}
	claim, old = claim.DeepCopy(), old.DeepCopy()
	for _, c := range []*corev1.PersistentVolumeClaim{claim, old} {
		c.ResourceVersion, c.ManagedFields = "", nil
		c.Status.Capacity, c.Status.Conditions = nil, nil
		c.Status.AllocatedResources, c.Status.AllocatedResourceStatuses = nil, nil
	}
	if !equality.Semantic.DeepEqual(claim, old) {
		return w.forbid("node %q is not allowed to update fields other than status.quantity and status.conditions", node)
	}
	return nil
}

// restrictTokens gives a node only tokens that are bound to a pod of its own,
// for audiences that the pod asks for.
func (c cluster) restrictTokens(ctx context.Context, w *Write, node string) error {
	if w.Verb != "create" || w.Subresource != "token" {
		return nil
	}
	request, ok := w.Object.(*authenticationv1.TokenRequest)
	if !ok {
		return w.forbid("unexpected type %T", w.Object)
	}
	ref := request.Spec.BoundObjectRef
	if ref == nil || ref.APIVersion != "v1" || ref.Kind != "Pod" || ref.Name == "" {
		return w.forbid("node requested token not bound to a pod")
	}
	if ref.UID == "" {
		return w.forbid("node requested token with a pod binding without a uid")
	}
	pod, err := live[*corev1.Pod](ctx, c, w.Namespace, ref.Name)
	if err != nil {
		return err
	}
	if ref.UID != pod.UID {
		return w.forbid("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID)
	}
	if pod.Spec.NodeName != node {
		return w.forbid("node requested token bound to a pod scheduled on a different node")
	}
	return c.restrictAudience(ctx, w, request, pod)
}

func (c cluster) restrictAudience(ctx context.Context, w *Write, request *authenticationv1.TokenRequest, pod *corev1.Pod) error {
	audience := ""
	switch len(request.Spec.Audiences) {
	case 0:
	case 1:
		audience = request.Spec.Audiences[0]
	default:
		return w.forbid("node may only request 0 or 1 audiences")
	}
	if c.podWantsAudience(pod, audience) {
		return nil
	}
	ok, _, err := c.allowed(ctx, authorizer.AttributesRecord{User: w.User, Verb: "request-serviceaccounts-token-audience",
		APIGroup: w.Resource.Group, APIVersion: w.Resource.Version, Resource: audience, Namespace: w.Namespace, Name: w.Name})
	switch {
	case ok:
		return nil
	case err != nil:
		return w.forbid("error authorizing %s to request tokens for audience %q: %w", w.User.GetName(), audience, err)
	}
	return w.forbid("%s is not authorized to request tokens for audience %q", w.User.GetName(), audience)
}

// podWantsAudience tells whether a pod's own volumes, or the drivers behind
// them, ask for tokens for an audience.
func (c cluster) podWantsAudience(pod *corev1.Pod, audience string) bool {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Projected != nil {
			for _, source := range v.Projected.Sources {
				if source.ServiceAccountToken != nil && source.ServiceAccountToken.Audience == audience {
					return true
				}
			}
		}
		obj, ok := c.Get(api.For[*storagev1.CSIDriver](), "", c.driverOf(pod, v))
		if !ok {
			continue
		}
		for _, request := range obj.(*storagev1.CSIDriver).Spec.TokenRequests {
			if request.Audience == audience {
				return true
			}
		}
	}
	return false
}

// driverOf names the CSI driver of a volume; "" if it has none.
func (c cluster) driverOf(pod *corev1.Pod, v *corev1.Volume) string {
	claim := ""
	switch {
	case v.CSI != nil:
		return v.CSI.Driver
	case v.PersistentVolumeClaim != nil:
		claim = v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil:
		claim = pod.Name + "-" + v.Name
	default:
		return ""
	}
	obj, ok := c.Get(api.For[*corev1.PersistentVolumeClaim](), pod.Namespace, claim)
	if !ok {
		return ""
	}
	obj, ok = c.Get(api.For[*corev1.PersistentVolume](), "", obj.(*corev1.PersistentVolumeClaim).Spec.VolumeName)
	if !ok || obj.(*corev1.PersistentVolume).Spec.CSI == nil {
		return ""
	}
	return obj.(*corev1.PersistentVolume).Spec.CSI.Driver
}

func restrictLease(w *Write, node string) error {
	if w.Namespace != corev1.NamespaceNodeLease {
		return w.forbid("can only access leases in the %q system namespace", corev1.NamespaceNodeLease)
	}
	if objectName(w) != node {
		return w.forbid("can only access node lease with the same name as the requesting node")
	}
	return nil
}

func restrictCSINode(w *Write, node string) error {
	if objectName(w) != node {
		return w.forbid("can only access CSINode with the same name as the requesting node")
	}
	return nil
}

// objectName is the name of what is written, also where it is created.
func objectName(w *Write) string {
	if meta, ok := w.Object.(metav1.Object); ok && w.Verb == "create" {
		return meta.GetName()
	}
	return w.Name
}

func restrictSlices(w *Write, node string) error {
	var slice *resourcev1.ResourceSlice
	switch w.Verb {
	case "create":
		slice, _ = w.Object.(*resourcev1.ResourceSlice)
	case "delete":
		slice, _ = w.Old.(*resourcev1.ResourceSlice)
	}
	if slice != nil && (slice.Spec.NodeName == nil || *slice.Spec.NodeName != node) {
		return w.forbid("can only %s ResourceSlice with the same NodeName as the requesting node", w.Verb)
	}
	return nil
}

// restrictCSR lets a node ask only for certificates in its own name.
func restrictCSR(w *Write, node string) error {
	csr, ok := w.Object.(*certificatesv1.CertificateSigningRequest)
	if !ok || w.Verb != "create" {
		return nil
	}
	switch csr.Spec.SignerName {
	case certificatesv1.KubeletServingSignerName, certificatesv1.KubeAPIServerClientKubeletSignerName:
	default:
		return nil
	}
	request, err := parseCSR(csr.Spec.Request)
	if err != nil {
		return w.forbid("unable to parse csr: %w", err)
	}
	if request.Subject.CommonName != nodeNamePrefix+node {
		return w.forbid("can only create a node CSR with CN=system:node:%s", node)
	}
	return nil
}

// parseCSR reads the PEM of a certificate request.
func parseCSR(data []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse the request: %w", err)
	}
	return request, nil
}
