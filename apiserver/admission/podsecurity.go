package admission

import (
	"context"
	"errors"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	podsecurity "k8s.io/pod-security-admission/admission"
	podsecurityconfig "k8s.io/pod-security-admission/admission/api"
	podsecurityapi "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/metrics"
	"k8s.io/pod-security-admission/policy"
)

// newPodSecurity returns the step that holds pods to the standard that their
// namespace's labels name. The decisions are the library's.
func newPodSecurity(r Reader) func(context.Context, *Write) error {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		panic("admission: the pod security checks contradict each other: " + err.Error())
	}
	state := podSecurityState{cluster{Reader: r}}
	decide := &podsecurity.Admission{
		Configuration:    permissive(),
		Evaluator:        evaluator,
		Metrics:          unmeasured{},
		PodSpecExtractor: podsecurity.DefaultPodSpecExtractor{},
		NamespaceGetter:  state,
		PodLister:        state,
	}
	if err := errors.Join(decide.CompleteConfiguration(), decide.ValidateConfiguration()); err != nil {
		panic("admission: the pod security configuration is not valid: " + err.Error())
	}
	return func(ctx context.Context, w *Write) error {
		gr := w.Resource.GroupResource()
		if w.Verb != "create" && w.Verb != "update" || gr.String() != "namespaces" && !decide.PodSpecExtractor.HasPodSpec(gr) {
			return nil
		}
		return answer(w, decide.Validate(ctx, podSecurityWrite{w}))
	}
}

// permissive demands nothing of namespaces that have no label.
func permissive() *podsecurityconfig.PodSecurityConfiguration {
	level, version := string(podsecurityapi.LevelPrivileged), podsecurityapi.VersionLatest
	return &podsecurityconfig.PodSecurityConfiguration{Defaults: podsecurityconfig.PodSecurityDefaults{
		Enforce: level, EnforceVersion: version, Audit: level, AuditVersion: version, Warn: level, WarnVersion: version}}
}

// answer turns the library's response into warnings and an error.
func answer(w *Write, response *admissionv1.AdmissionResponse) error {
	for _, text := range response.Warnings {
		w.Warn(text)
	}
	if response.Allowed {
		return nil
	}
	refusal := w.forbid("Not allowed by PodSecurity").(*apierrors.StatusError)
	if r := response.Result; r != nil {
		if r.Message != "" {
			refusal.ErrStatus.Message = r.Message
		}
		if r.Reason != "" {
			refusal.ErrStatus.Reason = r.Reason
		}
		if r.Details != nil {
			refusal.ErrStatus.Details = r.Details
		}
		if r.Code != 0 {
			refusal.ErrStatus.Code = r.Code
		}
	}
	return refusal
}

// podSecurityState is what the library reads of the cluster.
type podSecurityState struct{ cluster cluster }

// GetNamespace returns a namespace.
func (s podSecurityState) GetNamespace(ctx context.Context, name string) (*corev1.Namespace, error) {
	return live[*corev1.Namespace](ctx, s.cluster, "", name)
}

// ListPods returns the pods of a namespace.
func (s podSecurityState) ListPods(_ context.Context, namespace string) ([]*corev1.Pod, error) {
	var pods []*corev1.Pod
	for pod := range list[*corev1.Pod](s.cluster, namespace) {
		pods = append(pods, pod)
	}
	return pods, nil
}

// podSecurityWrite is a Write as the library asks about it.
type podSecurityWrite struct{ w *Write }

func (a podSecurityWrite) GetName() string                          { return a.w.Name }
func (a podSecurityWrite) GetNamespace() string                     { return a.w.Namespace }
func (a podSecurityWrite) GetResource() schema.GroupVersionResource { return a.w.Resource.GVR() }
func (a podSecurityWrite) GetKind() schema.GroupVersionKind         { return a.w.Resource.GVK() }
func (a podSecurityWrite) GetSubresource() string                   { return a.w.Subresource }
func (a podSecurityWrite) GetObject() (runtime.Object, error)       { return a.w.Object, nil }
func (a podSecurityWrite) GetUserName() string                      { return a.w.User.GetName() }

func (a podSecurityWrite) GetOldObject() (runtime.Object, error) {
	if a.w.Old == nil {
		return nil, nil
	}
	return a.w.Old, nil
}

func (a podSecurityWrite) GetOperation() admissionv1.Operation {
	if a.w.Verb == "create" {
		return admissionv1.Create
	}
	return admissionv1.Update
}

// unmeasured counts nothing.
type unmeasured struct{}

func (unmeasured) RecordEvaluation(metrics.Decision, podsecurityapi.LevelVersion, metrics.Mode, podsecurityapi.Attributes) {
}
func (unmeasured) RecordExemption(podsecurityapi.Attributes)   {}
func (unmeasured) RecordError(bool, podsecurityapi.Attributes) {}
