package admission

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"iter"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"skiff/api"
)

// objects is a cluster's state.
type objects []api.Object

func (o objects) Get(r *api.Resource, namespace, name string) (api.Object, bool) {
	for _, obj := range o {
		if api.Of(obj) == r && obj.GetNamespace() == namespace && obj.GetName() == name {
			return obj, true
		}
	}
	return nil, false
}

func (o objects) Live(_ context.Context, r *api.Resource, namespace, name string) (api.Object, error) {
	if obj, ok := o.Get(r, namespace, name); ok {
		return obj, nil
	}
	return nil, apierrors.NewNotFound(r.GroupResource(), name)
}

func (o objects) List(r *api.Resource, namespace string) iter.Seq[api.Object] {
	return func(yield func(api.Object) bool) {
		for _, obj := range o {
			if api.Of(obj) == r && (namespace == "" || obj.GetNamespace() == namespace) && !yield(obj) {
				return
			}
		}
	}
}

// rights are "verb resource[/subresource] name".
type rights []string

func (r rights) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	what := a.GetVerb() + " " + a.GetResource()
	if a.GetSubresource() != "" {
		what += "/" + a.GetSubresource()
	}
	if slices.Contains(r, what+" "+a.GetName()) {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, "no rule", nil
}

// run passes a write through the whole chain.
func run(state objects, may rights, w *Write) error {
	if w.User == nil {
		w.User = &user.DefaultInfo{Name: "someone"}
	}
	if w.Warn == nil {
		w.Warn = func(string) {}
	}
	if w.Resource == nil {
		switch {
		case w.Old != nil:
			w.Resource = api.Of(w.Old)
		default:
			w.Resource = api.Of(w.Object)
		}
	}
	if obj, ok := w.Object.(metav1.Object); ok && w.Name == "" {
		w.Name, w.Namespace = obj.GetName(), obj.GetNamespace()
	} else if w.Old != nil && w.Name == "" {
		w.Name, w.Namespace = w.Old.GetName(), w.Old.GetNamespace()
	}
	chain := New(Config{Reader: append(objects{}, state...), Authorizer: may})
	if err := chain.Mutate(context.Background(), w); err != nil {
		return err
	}
	return chain.Validate(context.Background(), w)
}

func meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: "default", Name: name, UID: "u-1"}
}

func global(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name, UID: "u-1"} }

func pod(change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: meta("web"), Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	for _, f := range change {
		f(p)
	}
	return p
}

var base = objects{
	&corev1.Namespace{ObjectMeta: global("default")},
	&corev1.Namespace{ObjectMeta: global("kube-node-lease")},
	&corev1.ServiceAccount{ObjectMeta: meta("default")},
	&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "node-uid", Labels: map[string]string{"topology.kubernetes.io/zone": "z", "other": "x"}}},
}

func ptr[T any](v T) *T { return &v }

func TestPriority(t *testing.T) {
	state := append(slices.Clone(base),
		&schedulingv1.PriorityClass{ObjectMeta: global("high"), Value: 1000, PreemptionPolicy: ptr(corev1.PreemptNever)},
		&schedulingv1.PriorityClass{ObjectMeta: global("usual"), Value: 5, GlobalDefault: true})
	p := pod()
	if err := run(state, nil, &Write{Verb: "create", Object: p}); err != nil || *p.Spec.Priority != 5 || p.Spec.PriorityClassName != "usual" {
		t.Errorf("the default class: %v %+v", err, p.Spec.Priority)
	}
	p = pod(func(p *corev1.Pod) { p.Spec.PriorityClassName = "high" })
	if err := run(state, nil, &Write{Verb: "create", Object: p}); err != nil || *p.Spec.Priority != 1000 || *p.Spec.PreemptionPolicy != corev1.PreemptNever {
		t.Errorf("a class: %v %+v", err, p.Spec)
	}
	p = pod(func(p *corev1.Pod) { p.Spec.PriorityClassName, p.Spec.Priority = "high", ptr(int32(1)) })
	want(t, run(state, nil, &Write{Verb: "create", Object: p}), `pods "web" is forbidden: the integer value of priority (1) must not be provided in pod spec; priority admission controller computed 1000 from the given PriorityClass name`)
	old := pod(func(p *corev1.Pod) { p.Spec.Priority = ptr(int32(7)) })
	p = pod()
	if err := run(state, nil, &Write{Verb: "update", Object: p, Old: old}); err != nil || *p.Spec.Priority != 7 {
		t.Errorf("an update keeps it: %v %v", err, p.Spec.Priority)
	}
	want(t, run(state, nil, &Write{Verb: "create", Object: &schedulingv1.PriorityClass{ObjectMeta: global("second"), GlobalDefault: true}}),
		`priorityclasses.scheduling.k8s.io "second" is forbidden: PriorityClass usual is already marked as default. Only one default can exist`)
}

// want compares an error with its text; "" means none.
func want(t *testing.T, err error, text string) {
	t.Helper()
	switch {
	case err == nil && text != "":
		t.Errorf("nothing was refused, want %s", text)
	case err != nil && (text == "" || !strings.Contains(err.Error(), text)):
		t.Errorf("got  %v\nwant %s", err, text)
	}
}

func TestServiceAccount(t *testing.T) {
	account := &corev1.ServiceAccount{ObjectMeta: meta("robot"), ImagePullSecrets: []corev1.LocalObjectReference{{Name: "pull"}},
		Secrets: []corev1.ObjectReference{{Name: "mine"}}}
	account.Annotations = map[string]string{"kubernetes.io/enforce-mountable-secrets": "true"}
	state := append(slices.Clone(base), account)
	as := func(p *corev1.Pod) { p.Spec.ServiceAccountName = "robot" }

	p := pod(as)
	p.Spec.InitContainers = []corev1.Container{{Name: "i", VolumeMounts: []corev1.VolumeMount{{Name: "own", MountPath: tokenPath}}}}
	if err := run(state, nil, &Write{Verb: "create", Object: p}); err != nil {
		t.Fatal(err)
	}
	if len(p.Spec.ImagePullSecrets) != 1 || p.Spec.DeprecatedServiceAccount != "robot" || len(p.Spec.InitContainers[0].VolumeMounts) != 1 || len(p.Spec.Containers[0].VolumeMounts) != 1 {
		t.Errorf("filled in: %+v", p.Spec)
	}
	p = pod(as, func(p *corev1.Pod) { p.Spec.AutomountServiceAccountToken = ptr(false) })
	if err := run(state, nil, &Write{Verb: "create", Object: p}); err != nil || len(p.Spec.Volumes) != 0 {
		t.Errorf("no token wanted: %v %+v", err, p.Spec.Volumes)
	}
	p = pod(as, func(p *corev1.Pod) {
		p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "theirs"}}}}
	})
	want(t, run(state, nil, &Write{Verb: "create", Object: p}), `pods "web" is forbidden: container c with envFrom referencing secret.secretName="theirs" is not allowed because service account robot does not reference that secret`)
	mirror := func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "m"} }
	want(t, run(state, nil, &Write{Verb: "create", Object: pod(as, mirror)}), "a mirror pod may not reference service accounts")

	// The account "default" of a new namespace is on its way: it is waited for.
	synctest.Test(t, func(t *testing.T) {
		late := &lateReader{objects: objects{&corev1.Namespace{ObjectMeta: global("default")}}, at: time.Now().Add(300 * time.Millisecond)}
		c := New(Config{Reader: late, Authorizer: rights{}})
		p := pod()
		w := &Write{User: &user.DefaultInfo{}, Verb: "create", Resource: api.Of(p), Namespace: "default", Name: "web", Object: p, Warn: func(string) {}}
		if err := c.Mutate(t.Context(), w); err != nil {
			t.Errorf("the account came, and: %v", err)
		}
	})
}

// lateReader has the default service account only after a while.
type lateReader struct {
	objects
	at time.Time
}

func (l *lateReader) Live(ctx context.Context, r *api.Resource, namespace, name string) (api.Object, error) {
	if r == api.For[*corev1.ServiceAccount]() && !time.Now().Before(l.at) {
		return &corev1.ServiceAccount{ObjectMeta: meta(name)}, nil
	}
	return l.objects.Live(ctx, r, namespace, name)
}

// https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#noderestriction
func TestNodeRestriction(t *testing.T) {
	n1 := &user.DefaultInfo{Name: "system:node:n1", Groups: []string{"system:nodes"}}
	onNode := func(name string) *corev1.Pod {
		return pod(func(p *corev1.Pod) { p.Spec.NodeName = name; p.Spec.ServiceAccountName = "default" })
	}
	mirror := func(change ...func(*corev1.Pod)) *corev1.Pod {
		return pod(append([]func(*corev1.Pod){func(p *corev1.Pod) {
			p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "m"}
			p.Spec.NodeName = "n1"
			p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "n1", UID: "node-uid", Controller: ptr(true)}}
		}}, change...)...)
	}
	node := func(name string, labels map[string]string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
	}
	tainted := node("n1", nil)
	tainted.Spec.Taints = []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoSchedule}}
	running := onNode("n1")
	running.UID = "pod-uid"
	running.Spec.Volumes = []corev1.Volume{{Name: "t", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: "vault"}}}}}}}
	elsewhere := onNode("n2")
	elsewhere.Name = "other"
	state := append(slices.Clone(base), running, elsewhere)
	token := func(pod, uid string, audiences ...string) *Write {
		return &Write{Verb: "create", Resource: api.For[*corev1.ServiceAccount](), Subresource: "token", Namespace: "default", Name: "default",
			Object: &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: audiences,
				BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod, UID: types.UID(uid)}}}}
	}
	lease := func(namespace, name string) *coordinationv1.Lease {
		return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	}
	running.Spec.Volumes[0].Projected.Sources = append(running.Spec.Volumes[0].Projected.Sources,
		corev1.VolumeProjection{PodCertificate: &corev1.PodCertificateProjection{SignerName: "example.com/pods"}})
	itself := node("n1", nil)
	itself.UID = "node-uid"
	state = append(state, itself)
	certificate := func(change func(*certificatesv1.PodCertificateRequestSpec)) *Write {
		r := &certificatesv1.PodCertificateRequest{ObjectMeta: meta("req-1"), Spec: certificatesv1.PodCertificateRequestSpec{
			SignerName: "example.com/pods", PodName: "web", PodUID: "pod-uid", NodeName: "n1", NodeUID: "node-uid", ServiceAccountName: "default", ServiceAccountUID: "u-1"}}
		if change != nil {
			change(&r.Spec)
		}
		return &Write{Verb: "create", Object: r}
	}
	relabelled := onNode("n1")
	relabelled.Labels = map[string]string{"a": "b"}
	for name, c := range map[string]struct {
		w    *Write
		want string
	}{
		"a plain pod":           {&Write{Verb: "create", Object: onNode("n1")}, `pod does not have "kubernetes.io/config.mirror" annotation, node "n1" can only create mirror pods`},
		"a mirror pod":          {&Write{Verb: "create", Object: mirror()}, ""},
		"another node's mirror": {&Write{Verb: "create", Object: mirror(func(p *corev1.Pod) { p.Spec.NodeName = "n2" })}, "can only create pods with spec.nodeName set to itself"},
		"a mirror of nobody":    {&Write{Verb: "create", Object: mirror(func(p *corev1.Pod) { p.OwnerReferences = nil })}, "can only create pods with an owner reference set to itself"},
		"a mirror with a secret": {&Write{Verb: "create", Object: mirror(func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}}}
		})}, `node "n1" can not create pods that reference secrets`},
		"its pod goes":               {&Write{Verb: "delete", Old: onNode("n1")}, ""},
		"another's pod goes":         {&Write{Verb: "delete", Old: onNode("n2")}, "can only delete pods with spec.nodeName set to itself"},
		"its pod's status":           {&Write{Verb: "update", Subresource: "status", Object: onNode("n1"), Old: onNode("n1")}, ""},
		"another's pod's status":     {&Write{Verb: "update", Subresource: "status", Object: onNode("n2"), Old: onNode("n2")}, "can only update pod status for pods with spec.nodeName set to itself"},
		"labels by status":           {&Write{Verb: "update", Subresource: "status", Object: relabelled, Old: onNode("n1")}, `node "n1" cannot update labels through pod status`},
		"a pod's spec":               {&Write{Verb: "update", Object: onNode("n1"), Old: onNode("n1")}, `unexpected operation "UPDATE"`},
		"itself":                     {&Write{Verb: "create", Object: node("n1", map[string]string{"kubernetes.io/hostname": "n1", "mine": "x"})}, ""},
		"another node":               {&Write{Verb: "create", Object: node("n2", nil)}, `node "n1" is not allowed to modify node "n2"`},
		"a reserved label":           {&Write{Verb: "create", Object: node("n1", map[string]string{"node-restriction.kubernetes.io/x": "y"})}, "is not allowed to set the following labels: node-restriction.kubernetes.io/x"},
		"an unknown k8s label":       {&Write{Verb: "update", Object: node("n1", map[string]string{"foo.k8s.io/x": "y"}), Old: node("n1", nil)}, "is not allowed to modify labels: foo.k8s.io/x"},
		"its taints":                 {&Write{Verb: "update", Object: node("n1", nil), Old: tainted}, `node "n1" is not allowed to modify taints`},
		"its lease":                  {&Write{Verb: "create", Object: lease("kube-node-lease", "n1")}, ""},
		"another's lease":            {&Write{Verb: "create", Object: lease("kube-node-lease", "n2")}, "can only access node lease with the same name as the requesting node"},
		"a lease elsewhere":          {&Write{Verb: "create", Object: lease("default", "n1")}, `can only access leases in the "kube-node-lease" system namespace`},
		"a token for its pod":        {token("web", "pod-uid", "vault"), ""},
		"for another audience":       {token("web", "pod-uid", "bank"), `system:node:n1 is not authorized to request tokens for audience "bank"`},
		"for another's pod":          {token("other", "u-1", "vault"), "node requested token bound to a pod scheduled on a different node"},
		"a certificate for its pod":  {certificate(nil), ""},
		"a certificate as another":   {certificate(func(r *certificatesv1.PodCertificateRequestSpec) { r.NodeName = "n2" }), `PodCertificateRequest.Spec.NodeName="n2", which is not the requesting node "n1"`},
		"for an earlier node":        {certificate(func(r *certificatesv1.PodCertificateRequestSpec) { r.NodeUID = "old" }), "inconsistent with the running node"},
		"for an earlier pod":         {certificate(func(r *certificatesv1.PodCertificateRequestSpec) { r.PodUID = "old" }), "which differs from running pod"},
		"a certificate for no pod":   {certificate(func(r *certificatesv1.PodCertificateRequestSpec) { r.PodName = "none" }), "while retrieving pod"},
		"for a pod that is not here": {certificate(func(r *certificatesv1.PodCertificateRequestSpec) { r.PodName, r.PodUID = "other", elsewhere.UID }), "is not running on node"},
		"for another account":        {certificate(func(r *certificatesv1.PodCertificateRequestSpec) { r.ServiceAccountName = "admin" }), "that differs from running pod"},
		"from another signer":        {certificate(func(r *certificatesv1.PodCertificateRequestSpec) { r.SignerName = "example.com/other" }), "does not mount a podCertificate projected volume"},
		"for no pod":                 {token("", "", "vault"), "node requested token not bound to a pod"},
	} {
		t.Run(name, func(t *testing.T) {
			c.w.User = n1
			want(t, run(state, nil, c.w), c.want)
		})
	}
	// Others are not held to it.
	want(t, run(state, nil, &Write{Verb: "create", Object: node("n2", map[string]string{"foo.k8s.io/x": "y"})}), "")
}

func TestCertificates(t *testing.T) {
	csr := func(signer, name string, groups ...string) *certificatesv1.CertificateSigningRequest {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name, Organization: groups}}, key)
		if err != nil {
			t.Fatal(err)
		}
		return &certificatesv1.CertificateSigningRequest{ObjectMeta: global("csr"), Spec: certificatesv1.CertificateSigningRequestSpec{
			SignerName: signer, Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})}}
	}
	want(t, run(base, nil, &Write{Verb: "create", Object: csr("kubernetes.io/kube-apiserver-client", "x", "system:masters")}), "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed")
	want(t, run(base, nil, &Write{Verb: "create", Object: csr("kubernetes.io/kube-apiserver-client", "x", "dev")}), "")
	n1 := &user.DefaultInfo{Name: "system:node:n1", Groups: []string{"system:nodes"}}
	want(t, run(base, nil, &Write{User: n1, Verb: "create", Object: csr("kubernetes.io/kubelet-serving", "system:node:n2", "system:nodes")}), "can only create a node CSR with CN=system:node:n1")
	want(t, run(base, nil, &Write{User: n1, Verb: "create", Object: csr("kubernetes.io/kubelet-serving", "system:node:n1", "system:nodes")}), "")

	old := csr("example.com/s", "x")
	approval := func() *Write {
		return &Write{Verb: "update", Subresource: "approval", Object: old.DeepCopy(), Old: old}
	}
	want(t, run(base, nil, approval()), `user not permitted to approve requests with signerName "example.com/s"`)
	want(t, run(base, rights{"approve signers example.com/s"}, approval()), "")
	want(t, run(base, rights{"approve signers example.com/*"}, approval()), "")
	signed := old.DeepCopy()
	signed.Status.Certificate = []byte("x")
	want(t, run(base, nil, &Write{Verb: "update", Subresource: "status", Object: signed, Old: old}), `user not permitted to sign requests with signerName "example.com/s"`)
	want(t, run(base, rights{"sign signers example.com/s"}, &Write{Verb: "update", Subresource: "status", Object: signed, Old: old}), "")
}

func TestOwners(t *testing.T) {
	owned := func(block bool) *corev1.Pod {
		return pod(func(p *corev1.Pod) {
			p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "rs", UID: "r", BlockOwnerDeletion: &block}}
		})
	}
	account := func(p *corev1.Pod) *corev1.Pod { p.Spec.ServiceAccountName = "default"; return p }
	want(t, run(base, nil, &Write{Verb: "create", Object: owned(false)}), "")
	want(t, run(base, nil, &Write{Verb: "create", Object: owned(true)}), "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: no rule, <nil>")
	want(t, run(base, rights{"update replicasets/finalizers rs"}, &Write{Verb: "create", Object: owned(true)}), "")
	want(t, run(base, rights{"update */finalizers *"}, &Write{Verb: "create", Object: owned(true)}), "")
	want(t, run(base, nil, &Write{Verb: "update", Object: account(owned(false)), Old: account(pod())}), "cannot set an ownerRef on a resource you can't delete: no rule, <nil>")
	want(t, run(base, rights{"delete pods web"}, &Write{Verb: "update", Object: account(owned(false)), Old: account(pod())}), "")
	want(t, run(base, nil, &Write{Verb: "update", Object: account(owned(true)), Old: account(owned(true))}), "")
}

func TestStorage(t *testing.T) {
	class := func(name string, created int64, isDefault, grows bool) *storagev1.StorageClass {
		s := &storagev1.StorageClass{ObjectMeta: global(name), AllowVolumeExpansion: &grows}
		s.CreationTimestamp = metav1.Unix(created, 0)
		if isDefault {
			s.Annotations = map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}
		}
		return s
	}
	state := append(slices.Clone(base), class("old", 1, true, false), class("new", 2, true, true), class("newer", 3, false, false))
	claim := func(size string, class *string) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{ObjectMeta: meta("data"), Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: class,
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}}},
			Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound}}
	}
	c := claim("1Gi", nil)
	if err := run(state, nil, &Write{Verb: "create", Object: c}); err != nil || c.Spec.StorageClassName == nil || *c.Spec.StorageClassName != "new" ||
		!slices.Equal(c.Finalizers, []string{"kubernetes.io/pvc-protection"}) {
		t.Errorf("a claim: %v %+v", err, c)
	}
	c = claim("1Gi", ptr(""))
	if err := run(state, nil, &Write{Verb: "create", Object: c}); err != nil || *c.Spec.StorageClassName != "" {
		t.Errorf("a claim of no class: %v %+v", err, c.Spec)
	}
	grow := func(class string) error {
		return run(state, nil, &Write{Verb: "update", Object: claim("2Gi", &class), Old: claim("1Gi", &class)})
	}
	want(t, grow("new"), "")
	want(t, grow("old"), "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize")
	unbound := claim("1Gi", ptr("new"))
	unbound.Status.Phase = corev1.ClaimPending
	want(t, run(state, nil, &Write{Verb: "update", Object: claim("2Gi", ptr("new")), Old: unbound}), "Only bound persistent volume claims can be expanded")

	limits := append(slices.Clone(state), &corev1.LimitRange{ObjectMeta: meta("l"), Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{{
		Type: corev1.LimitTypePersistentVolumeClaim, Max: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}}}})
	want(t, run(limits, nil, &Write{Verb: "create", Object: claim("2Gi", nil)}), "maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 2Gi")

	ingress := &networkingv1.Ingress{ObjectMeta: meta("i")}
	classes := append(slices.Clone(base), &networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: "nginx", Annotations: map[string]string{networkingv1.AnnotationIsDefaultIngressClass: "true"}}})
	if err := run(classes, nil, &Write{Verb: "create", Object: ingress}); err != nil || *ingress.Spec.IngressClassName != "nginx" {
		t.Errorf("an ingress: %v %+v", err, ingress.Spec)
	}
}

func TestPods(t *testing.T) {
	small := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m")}
	state := append(slices.Clone(base), &nodev1.RuntimeClass{ObjectMeta: global("vm"), Overhead: &nodev1.Overhead{PodFixed: small},
		Scheduling: &nodev1.Scheduling{NodeSelector: map[string]string{"vm": "yes"}, Tolerations: []corev1.Toleration{{Key: "vm", Operator: corev1.TolerationOpExists}}}})
	as := func(p *corev1.Pod) { p.Spec.RuntimeClassName = ptr("vm") }
	p := pod(as)
	if err := run(state, nil, &Write{Verb: "create", Object: p}); err != nil || p.Spec.NodeSelector["vm"] != "yes" || len(p.Spec.Overhead) != 1 || p.Spec.Tolerations[2].Key != "vm" {
		t.Errorf("a runtime class: %v %+v", err, p.Spec)
	}
	want(t, run(state, nil, &Write{Verb: "create", Object: pod(as, func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"vm": "no"} })}),
		"conflict: runtimeClass.scheduling.nodeSelector[vm] = yes; pod.spec.nodeSelector[vm] = no")
	want(t, run(base, nil, &Write{Verb: "create", Object: pod(as)}), `pod rejected: RuntimeClass "vm" not found`)
	want(t, run(base, nil, &Write{Verb: "create", Object: pod(func(p *corev1.Pod) { p.Spec.Overhead = small })}), "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")

	p = pod(func(p *corev1.Pod) { p.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}} })
	if err := run(base, nil, &Write{Verb: "create", Object: p}); err != nil || len(p.Spec.Tolerations) != 1 {
		t.Errorf("a pod that tolerates all: %v %+v", err, p.Spec.Tolerations)
	}
	binding := &corev1.Binding{ObjectMeta: meta("web"), Target: corev1.ObjectReference{Kind: "Node", Name: "n1"}}
	if err := run(base, nil, &Write{Verb: "create", Resource: api.For[*corev1.Pod](), Subresource: "binding", Object: binding}); err != nil ||
		len(binding.Labels) != 1 || binding.Labels["topology.kubernetes.io/zone"] != "z" {
		t.Errorf("a binding: %v %v", err, binding.Labels)
	}
	node := &corev1.Node{ObjectMeta: global("n9")}
	if err := run(base, nil, &Write{Verb: "create", Object: node}); err != nil || len(node.Spec.Taints) != 1 || node.Spec.Taints[0].Key != corev1.TaintNodeNotReady {
		t.Errorf("a new node: %v %+v", err, node.Spec.Taints)
	}
}

// https://kubernetes.io/docs/concepts/security/pod-security-admission/
func TestPodSecurity(t *testing.T) {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default", Labels: map[string]string{
		"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/warn": "restricted"}}}
	state := objects{ns, &corev1.ServiceAccount{ObjectMeta: meta("default")}}
	privileged := func(p *corev1.Pod) {
		p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: ptr(true)}
	}
	want(t, run(state, nil, &Write{Verb: "create", Object: pod(privileged)}), `pods "web" is forbidden: violates PodSecurity "baseline:latest": privileged (container "c" must not set securityContext.privileged=true)`)
	var warnings []string
	warn := func(text string) { warnings = append(warnings, text) }
	want(t, run(state, nil, &Write{Verb: "create", Object: pod(), Warn: warn}), "")
	if len(warnings) != 1 || !strings.Contains(warnings[0], `would violate PodSecurity "restricted:latest"`) {
		t.Errorf("warnings: %q", warnings)
	}
	warnings = nil
	template := corev1.PodTemplateSpec{Spec: pod(privileged).Spec}
	want(t, run(state, nil, &Write{Verb: "create", Object: &appsv1.Deployment{ObjectMeta: meta("d"), Spec: appsv1.DeploymentSpec{Template: template}}, Warn: warn}), "")
	if len(warnings) != 1 {
		t.Errorf("a template warns: %q", warnings)
	}
	bad := ns.DeepCopy()
	bad.Labels["pod-security.kubernetes.io/enforce"] = "nonsense"
	want(t, run(state, nil, &Write{Verb: "update", Object: bad, Old: ns}), `metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: "nonsense"`)
}
