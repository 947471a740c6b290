// Package node decides the requests of node agents
// (https://kubernetes.io/docs/reference/access-authn-authz/node/): an agent may
// read the secrets, config maps, claims and volumes of pods that are bound to its
// node, and no others. It keeps a graph from nodes to what their pods name, fed
// with every change of pods and volumes by apiserver.
package node

import (
	"context"
	"fmt"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"skiff/api"
)

// Name returns the node that the user is the agent of, "" if it is none: the
// user system:node:<name> in the group system:nodes.
func Name(u user.Info) string {
	name, ok := strings.CutPrefix(u.GetName(), "system:node:")
	if !ok || name == "" {
		return ""
	}
	for _, group := range u.GetGroups() {
		if group == user.NodesGroup {
			return name
		}
	}
	return ""
}

// Authorizer answers for node agents; for others it has no opinion. Safe for
// concurrent use.
type Authorizer struct {
	static func(rule authorizer.Attributes) bool // what every node may do

	mu    sync.RWMutex // guards all below
	pods  map[place]usage
	uses  map[string]map[thing]int  // by node: how many pods name the thing
	vols  map[string]volume         // persistent volumes by name
	asked map[thing]map[string]bool // persistent volumes that name a secret
	att   map[string]string         // volume attachment -> node
}

type place struct{ namespace, name string }

// thing is what a pod can name.
type thing struct{ resource, namespace, name string }

// usage is what a bound pod names.
type usage struct {
	node   string
	things []thing
}

// volume is what matters of a persistent volume.
type volume struct {
	claim   thing
	secrets []thing
}

// New returns an Authorizer; rules are what every agent may do (the role
// system:node), as far as the graph does not narrow it.
func New(allowed func(authorizer.Attributes) bool) *Authorizer {
	return &Authorizer{
		static: allowed,
		pods:   map[place]usage{},
		uses:   map[string]map[thing]int{},
		vols:   map[string]volume{},
		asked:  map[thing]map[string]bool{},
		att:    map[string]string{},
	}
}

// Apply takes in one change of a Pod, PersistentVolume or VolumeAttachment.
func (a *Authorizer) Apply(obj api.Object, removed bool) {
	switch o := obj.(type) {
	case *corev1.Pod:
		a.setPod(o, removed)
	case *corev1.PersistentVolume:
		a.setVolume(o, removed)
	case *storagev1.VolumeAttachment:
		a.mu.Lock()
		defer a.mu.Unlock()
		if removed {
			delete(a.att, o.Name)
			return
		}
		a.att[o.Name] = o.Spec.NodeName
	}
}

func (a *Authorizer) setPod(pod *corev1.Pod, removed bool) {
	at := place{pod.Namespace, pod.Name}
	var now usage
	// What a finished pod names it needs no more.
	finished := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	if !removed && !finished && pod.Spec.NodeName != "" {
		now = usage{pod.Spec.NodeName, named(pod)}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, t := range a.pods[at].things {
		node := a.pods[at].node
		if a.uses[node][t]--; a.uses[node][t] <= 0 {
			delete(a.uses[node], t)
		}
		if len(a.uses[node]) == 0 {
			delete(a.uses, node)
		}
	}
	if now.node == "" {
		delete(a.pods, at)
		return
	}
	a.pods[at] = now
	for _, t := range now.things {
		if a.uses[now.node] == nil {
			a.uses[now.node] = map[thing]int{}
		}
		a.uses[now.node][t]++
	}
}

func (a *Authorizer) setVolume(pv *corev1.PersistentVolume, removed bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, secret := range a.vols[pv.Name].secrets {
		delete(a.asked[secret], pv.Name)
		if len(a.asked[secret]) == 0 {
			delete(a.asked, secret)
		}
	}
	delete(a.vols, pv.Name)
	if removed || pv.Spec.ClaimRef == nil {
		return
	}
	v := volume{claim: thing{"persistentvolumeclaims", pv.Spec.ClaimRef.Namespace, pv.Spec.ClaimRef.Name}, secrets: volumeSecrets(pv)}
	a.vols[pv.Name] = v
	for _, secret := range v.secrets {
		if a.asked[secret] == nil {
			a.asked[secret] = map[string]bool{}
		}
		a.asked[secret][pv.Name] = true
	}
}

// reaches tells whether a pod on the node leads to the thing.
func (a *Authorizer) reaches(node string, t thing) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	switch t.resource {
	case "persistentvolumes":
		v, ok := a.vols[t.name]
		return ok && a.uses[node][v.claim] > 0
	case "volumeattachments":
		return a.att[t.name] == node
	}
	if a.uses[node][t] > 0 {
		return true
	}
	for pv := range a.asked[t] {
		if a.uses[node][a.vols[pv].claim] > 0 {
			return true
		}
	}
	return false
}

// Authorize implements authorizer.UnconditionalAuthorizer.
func (a *Authorizer) Authorize(_ context.Context, at authorizer.Attributes) (authorizer.Decision, string, error) {
	node := Name(at.GetUser())
	if node == "" {
		return authorizer.DecisionNoOpinion, "", nil
	}
	if reason, narrowed := a.narrow(node, at); narrowed {
		if reason == "" {
			return authorizer.DecisionAllow, "", nil
		}
		return authorizer.DecisionNoOpinion, reason, nil
	}
	if a.static(at) {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

// narrow decides what an agent may do only for its own node or pods. narrowed is
// false where the graph says nothing; reason is empty when it is allowed.
func (a *Authorizer) narrow(node string, at authorizer.Attributes) (reason string, narrowed bool) {
	if !at.IsResourceRequest() {
		return "", false
	}
	read := at.GetVerb() == "get" || at.GetVerb() == "list" || at.GetVerb() == "watch"
	switch at.GetAPIGroup() + "/" + at.GetResource() {
	case "/secrets", "/configmaps":
		return a.byPods(node, at, read), true
	case "/persistentvolumeclaims":
		if at.GetSubresource() == "status" {
			return a.byPods(node, at, at.GetVerb() == "get" || at.GetVerb() == "update" || at.GetVerb() == "patch"), true
		}
		return a.byPods(node, at, at.GetVerb() == "get"), true
	case "/persistentvolumes", "storage.k8s.io/volumeattachments", "resource.k8s.io/resourceclaims":
		return a.byPods(node, at, at.GetVerb() == "get"), true
	case "/serviceaccounts":
		if at.GetSubresource() == "" && at.GetVerb() == "get" {
			return a.byPods(node, at, true), true
		}
		if at.GetSubresource() != "token" {
			return "can only create tokens for individual service accounts", true
		}
		return a.byPods(node, at, at.GetVerb() == "create"), true
	case "/pods":
		return a.pod(node, at)
	case "/nodes":
		return a.node(node, at)
	case "coordination.k8s.io/leases", "storage.k8s.io/csinodes":
		return own(node, at), true
	case "certificates.k8s.io/podcertificaterequests":
		return certificateRequests(node, at), true
	case "resource.k8s.io/resourceslices":
		if at.GetVerb() == "create" || selects(at, "spec.nodeName", node) {
			return "", true
		}
		return "can only read resource slices of its own node", !a.static(at) || at.GetVerb() == "list" || at.GetVerb() == "watch" || at.GetVerb() == "deletecollection"
	}
	return "", false
}

// byPods allows what a pod on the node leads to.
func (a *Authorizer) byPods(node string, at authorizer.Attributes, verbAllowed bool) string {
	switch {
	case !verbAllowed:
		return fmt.Sprintf("can only read resources of this type, not %s", at.GetVerb())
	case at.GetName() == "":
		return "No Object name found"
	case !a.reaches(node, thing{at.GetResource(), at.GetNamespace(), at.GetName()}):
		return fmt.Sprintf("no relationship found between node '%s' and this object", node)
	}
	return ""
}

// pod: an agent lists and watches the pods of its node, and gets its own.
func (a *Authorizer) pod(node string, at authorizer.Attributes) (reason string, narrowed bool) {
	switch at.GetVerb() {
	case "list", "watch":
		if selects(at, "spec.nodeName", node) {
			return "", true
		}
		return "can only list/watch pods with spec.nodeName field selector", true
	case "get":
		a.mu.RLock()
		defer a.mu.RUnlock()
		if u, ok := a.pods[place{at.GetNamespace(), at.GetName()}]; ok && u.node != node {
			return fmt.Sprintf("no relationship found between node '%s' and this object", node), true
		}
		// A pod that has finished or is gone names nothing; the agent that ran it may still ask.
		return "", true
	}
	return "", false
}

// node: an agent reads its own Node object.
func (a *Authorizer) node(node string, at authorizer.Attributes) (reason string, narrowed bool) {
	switch at.GetVerb() {
	case "get", "list", "watch":
		if at.GetName() == node && at.GetSubresource() == "" {
			return "", true
		}
		return fmt.Sprintf("node '%s' cannot read '%s', only its own Node object", node, at.GetName()), true
	}
	return "", false
}

// own allows the agent the object that has its node's name.
func own(node string, at authorizer.Attributes) string {
	if at.GetResource() == "leases" && at.GetNamespace() != corev1.NamespaceNodeLease {
		return fmt.Sprintf("can only access leases in the %q system namespace", corev1.NamespaceNodeLease)
	}
	switch at.GetVerb() {
	case "create":
		return "" // the name is in the body: NodeRestriction looks at it
	case "get", "update", "patch", "delete":
		if at.GetName() == node {
			return ""
		}
		return "can only access " + at.GetResource() + " with the same name as the requesting node"
	}
	return fmt.Sprintf("can only get, create, update, patch, or delete %s", at.GetResource())
}

// certificateRequests: an agent requests certificates for its pods, and follows its own requests.
func certificateRequests(node string, at authorizer.Attributes) string {
	if at.GetSubresource() != "" {
		return "nodes may not access the status subresource of PodCertificateRequests"
	}
	switch at.GetVerb() {
	case "create":
		return "" // for whom is in the body: NodeRestriction looks at it
	case "list", "watch":
		if selects(at, "spec.nodeName", node) {
			return ""
		}
		return "can only list/watch podcertificaterequests with nodeName field selector"
	}
	return fmt.Sprintf("nodes may not %s podcertificaterequests", at.GetVerb())
}

// selects tells whether the request selects field=value.
func selects(at authorizer.Attributes, field, value string) bool {
	reqs, err := at.GetFieldSelector()
	if err != nil {
		return false
	}
	for _, r := range reqs {
		if r.Field == field && r.Value == value && (r.Operator == "=" || r.Operator == "==") {
			return true
		}
	}
	return false
}

// ConditionsAwareAuthorize implements authorizer.Authorizer; there are no conditions.
func (a *Authorizer) ConditionsAwareAuthorize(ctx context.Context, at authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return authorizer.ConditionsAwareDecisionFromParts(a.Authorize(ctx, at))
}

// EvaluateConditions implements authorizer.Authorizer; there are no conditions.
func (a *Authorizer) EvaluateConditions(context.Context, authorizer.ConditionsAwareDecision, authorizer.ConditionsData) (authorizer.Decision, string, error) {
	return authorizer.DecisionDeny, "", authorizer.ErrorConditionEvaluationNotSupported
}
