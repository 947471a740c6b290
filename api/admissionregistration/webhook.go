package admissionregistration

import (
	"reflect"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/util/webhook"

	"skiff/api/check"
	"skiff/api/column"
	"skiff/api/kind"
)

// ValidatingWebhookConfiguration is admissionregistration.k8s.io/v1 ValidatingWebhookConfiguration.
var ValidatingWebhookConfiguration = kind.Of(kind.Spec[*admissionv1.ValidatingWebhookConfiguration]{
	NameOnUpdate: true,
	AnyFinalizer: true,
	New: func() *admissionv1.ValidatingWebhookConfiguration {
		return &admissionv1.ValidatingWebhookConfiguration{}
	},
	NewList: func() runtime.Object { return &admissionv1.ValidatingWebhookConfigurationList{} },
	Default: func(c *admissionv1.ValidatingWebhookConfiguration) {
		for i := range c.Webhooks {
			w := &c.Webhooks[i]
			setDefault(&w.FailurePolicy, admissionv1.Fail)
			setDefault(&w.TimeoutSeconds, defaultTimeout)
			defaultMatching(&w.MatchPolicy, &w.NamespaceSelector, &w.ObjectSelector)
			defaultRules(w.Rules)
			defaultService(w.ClientConfig.Service)
		}
	},
	Intent: func(c *admissionv1.ValidatingWebhookConfiguration) any { return c.Webhooks },
	Validate: func(c *admissionv1.ValidatingWebhookConfiguration) field.ErrorList {
		return validateHooks(validating(c), nil)
	},
	ValidateUpdate: func(c, old *admissionv1.ValidatingWebhookConfiguration) field.ErrorList {
		return validateHooks(validating(c), validating(old))
	},
	Columns: hookColumns,
	Row: func(c *admissionv1.ValidatingWebhookConfiguration) []any {
		return []any{c.Name, int64(len(c.Webhooks)), column.Since(c.CreationTimestamp)}
	},
	UnconditionalUpdateForbidden: true,
})

// MutatingWebhookConfiguration is admissionregistration.k8s.io/v1 MutatingWebhookConfiguration.
var MutatingWebhookConfiguration = kind.Of(kind.Spec[*admissionv1.MutatingWebhookConfiguration]{
	NameOnUpdate: true,
	AnyFinalizer: true,
	New:          func() *admissionv1.MutatingWebhookConfiguration { return &admissionv1.MutatingWebhookConfiguration{} },
	NewList:      func() runtime.Object { return &admissionv1.MutatingWebhookConfigurationList{} },
	Default: func(c *admissionv1.MutatingWebhookConfiguration) {
		for i := range c.Webhooks {
			w := &c.Webhooks[i]
			setDefault(&w.FailurePolicy, admissionv1.Fail)
			setDefault(&w.TimeoutSeconds, defaultTimeout)
			setDefault(&w.ReinvocationPolicy, admissionv1.NeverReinvocationPolicy)
			defaultMatching(&w.MatchPolicy, &w.NamespaceSelector, &w.ObjectSelector)
			defaultRules(w.Rules)
			defaultService(w.ClientConfig.Service)
		}
	},
	Intent: func(c *admissionv1.MutatingWebhookConfiguration) any { return c.Webhooks },
	Validate: func(c *admissionv1.MutatingWebhookConfiguration) field.ErrorList {
		return validateHooks(mutating(c), nil)
	},
	ValidateUpdate: func(c, old *admissionv1.MutatingWebhookConfiguration) field.ErrorList {
		return validateHooks(mutating(c), mutating(old))
	},
	Columns: hookColumns,
	Row: func(c *admissionv1.MutatingWebhookConfiguration) []any {
		return []any{c.Name, int64(len(c.Webhooks)), column.Since(c.CreationTimestamp)}
	},
	UnconditionalUpdateForbidden: true,
})

const defaultTimeout = 10 // seconds

var hookColumns = []metav1.TableColumnDefinition{
	column.Name, column.Integer("Webhooks", "Webhooks indicates the number of webhooks registered in this configuration"), column.Age,
}

// hook is what validating and mutating webhooks have in common; reinvocation is
// the latter's alone.
type hook struct {
	name              string
	client            admissionv1.WebhookClientConfig
	rules             []admissionv1.RuleWithOperations
	failure           *admissionv1.FailurePolicyType
	match             *admissionv1.MatchPolicyType
	namespace, object *metav1.LabelSelector
	sideEffects       *admissionv1.SideEffectClass
	timeout           *int32
	versions          []string
	conditions        []admissionv1.MatchCondition
	reinvocation      *admissionv1.ReinvocationPolicyType
}

func validating(c *admissionv1.ValidatingWebhookConfiguration) []hook {
	list := make([]hook, len(c.Webhooks))
	for i := range c.Webhooks {
		w := &c.Webhooks[i]
		list[i] = hook{w.Name, w.ClientConfig, w.Rules, w.FailurePolicy, w.MatchPolicy, w.NamespaceSelector, w.ObjectSelector,
			w.SideEffects, w.TimeoutSeconds, w.AdmissionReviewVersions, w.MatchConditions, nil}
	}
	return list
}

func mutating(c *admissionv1.MutatingWebhookConfiguration) []hook {
	list := make([]hook, len(c.Webhooks))
	for i := range c.Webhooks {
		w := &c.Webhooks[i]
		list[i] = hook{w.Name, w.ClientConfig, w.Rules, w.FailurePolicy, w.MatchPolicy, w.NamespaceSelector, w.ObjectSelector,
			w.SideEffects, w.TimeoutSeconds, w.AdmissionReviewVersions, w.MatchConditions, w.ReinvocationPolicy}
	}
	return list
}

// setDefault fills a field that is unset, and allocates only then.
func setDefault[T any](p **T, v T) {
	if *p == nil {
		*p = new(v)
	}
}

func defaultMatching(policy **admissionv1.MatchPolicyType, namespace, object **metav1.LabelSelector) {
	setDefault(policy, admissionv1.Equivalent)
	setDefault(namespace, metav1.LabelSelector{})
	setDefault(object, metav1.LabelSelector{})
}

func defaultRules(rules []admissionv1.RuleWithOperations) {
	for i := range rules {
		setDefault(&rules[i].Scope, admissionv1.AllScopes)
	}
}

func defaultService(s *admissionv1.ServiceReference) {
	if s != nil {
		setDefault(&s.Port, 443)
	}
}

// tolerance says which of the rules a stored configuration broke already.
type tolerance struct {
	sideEffects, versions, duplicates, selectors, conditions bool
	expressions                                              map[string]bool // stored: they may use what is no longer offered
}

func toleranceOf(hooks, old []hook) tolerance {
	if old == nil {
		return tolerance{}
	}
	t := tolerance{conditions: len(hooks) == len(old), expressions: map[string]bool{}}
	names := map[string]bool{}
	for i, h := range old {
		t.sideEffects = t.sideEffects || h.sideEffects == nil || !slices.Contains(harmless, *h.sideEffects)
		t.versions = t.versions || len(h.versions) > 0 && !slices.ContainsFunc(h.versions, accepted)
		t.duplicates = t.duplicates || names[h.name]
		names[h.name] = true
		for _, s := range []*metav1.LabelSelector{h.namespace, h.object} {
			t.selectors = t.selectors || s != nil && len(check.Selector(s, false, nil)) > 0
		}
		t.conditions = t.conditions && reflect.DeepEqual(hooks[i].conditions, h.conditions)
		for _, c := range h.conditions {
			t.expressions[c.Expression] = true
		}
	}
	return t
}

var harmless = []admissionv1.SideEffectClass{admissionv1.SideEffectClassNone, admissionv1.SideEffectClassNoneOnDryRun}

func accepted(version string) bool { return version == "v1" || version == "v1beta1" }

func validateHooks(hooks, old []hook) (errs field.ErrorList) {
	t := toleranceOf(hooks, old)
	names := map[string]bool{}
	for i := range hooks {
		h, path := &hooks[i], field.NewPath("webhooks").Index(i)
		errs = append(errs, validateHook(h, t, path)...)
		if names[h.name] && h.name != "" && !t.duplicates {
			errs = append(errs, field.Duplicate(path.Child("name"), h.name))
		}
		names[h.name] = true
	}
	return errs
}

func validateHook(h *hook, t tolerance, path *field.Path) field.ErrorList {
	errs := utilvalidation.IsFullyQualifiedName(path.Child("name"), h.name)
	for i := range h.rules {
		errs = append(errs, validateRule(&h.rules[i], path.Child("rules").Index(i))...)
	}
	errs = append(errs, oneOf(h.failure, path.Child("failurePolicy"), failurePolicies...)...)
	errs = append(errs, oneOf(h.match, path.Child("matchPolicy"), matchPolicies...)...)
	errs = append(errs, oneOf(h.reinvocation, path.Child("reinvocationPolicy"), reinvocations...)...)
	errs = append(errs, validateSideEffects(h.sideEffects, t.sideEffects, path.Child("sideEffects"))...)
	if n := h.timeout; n != nil && (*n < 1 || *n > 30) {
		errs = append(errs, field.Invalid(path.Child("timeoutSeconds"), *n, "the timeout value must be between 1 and 30 seconds"))
	}
	if h.namespace != nil {
		errs = append(errs, check.Selector(h.namespace, t.selectors, path.Child("namespaceSelector"))...)
	}
	if h.object != nil {
		errs = append(errs, check.Selector(h.object, t.selectors, path.Child("objectSelector"))...)
	}
	errs = append(errs, validateClient(&h.client, path.Child("clientConfig"))...)
	if !t.conditions {
		errs = append(errs, validateConditions(h.conditions, false, t.expressions, path.Child("matchConditions"))...)
	}
	return append(errs, validateVersions(h.versions, t.versions, path.Child("admissionReviewVersions"))...)
}

var (
	failurePolicies = []admissionv1.FailurePolicyType{admissionv1.Fail, admissionv1.Ignore}
	matchPolicies   = []admissionv1.MatchPolicyType{admissionv1.Equivalent, admissionv1.Exact}
	reinvocations   = []admissionv1.ReinvocationPolicyType{admissionv1.IfNeededReinvocationPolicy, admissionv1.NeverReinvocationPolicy}
)

// oneOf is check.OneOf for a field that may be unset.
func oneOf[T ~string](p *T, path *field.Path, allowed ...T) field.ErrorList {
	if p == nil {
		return nil
	}
	return check.OneOf(*p, path, allowed...)
}

// requiredOneOf is oneOf for a field that must be set.
func requiredOneOf[T ~string](p *T, path *field.Path, allowed ...T) field.ErrorList {
	if p == nil {
		return field.ErrorList{field.Required(path, "")}
	}
	return check.OneOf(*p, path, allowed...)
}

func validateSideEffects(s *admissionv1.SideEffectClass, lax bool, path *field.Path) field.ErrorList {
	allowed := harmless
	if lax {
		allowed = []admissionv1.SideEffectClass{admissionv1.SideEffectClassNone, admissionv1.SideEffectClassNoneOnDryRun,
			admissionv1.SideEffectClassSome, admissionv1.SideEffectClassUnknown}
	}
	if s == nil {
		var names []string
		for _, a := range allowed {
			names = append(names, string(a))
		}
		return field.ErrorList{field.Required(path, "must specify one of "+strings.Join(names, ", "))}
	}
	return check.OneOf(*s, path, allowed...)
}

func validateClient(c *admissionv1.WebhookClientConfig, path *field.Path) field.ErrorList {
	switch {
	case (c.URL == nil) == (c.Service == nil):
		return field.ErrorList{field.Required(path, "exactly one of url or service is required")}
	case c.URL != nil:
		return webhook.ValidateWebhookURL(path.Child("url"), *c.URL, true)
	}
	return webhook.ValidateWebhookService(path.Child("service"), c.Service.Name, c.Service.Namespace, c.Service.Path, column.Or(c.Service.Port, 0))
}

func validateVersions(versions []string, lax bool, path *field.Path) (errs field.ErrorList) {
	if len(versions) == 0 {
		return append(errs, field.Required(path, "must specify one of v1, v1beta1"))
	}
	for i, v := range versions {
		if slices.Contains(versions[:i], v) {
			errs = append(errs, field.Invalid(path.Index(i), v, "duplicate version"))
			continue
		}
		errs = append(errs, check.Each(path.Index(i), v, utilvalidation.IsDNS1035Label(v))...)
	}
	if !lax && !slices.ContainsFunc(versions, accepted) {
		errs = append(errs, field.Invalid(path, versions, "must include at least one of v1, v1beta1"))
	}
	return errs
}
