package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	operator "k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"skiff/api"
)

// reviewed is a review's answer: the review itself, filled in.
func reviewed(r *Request, obj runtime.Object) (*Result, error) {
	obj.GetObjectKind().SetGroupVersionKind(r.Resource.GVK())
	return &Result{Code: http.StatusCreated, Object: obj}, nil
}

// decodeReview reads a request's body as T.
func decodeReview[T api.Object](r *Request) (none T, err error) {
	obj, err := r.decodeObject()
	if err != nil {
		return none, err
	}
	review, ok := obj.(T)
	if !ok {
		return none, apierrors.NewBadRequest(fmt.Sprintf("not a %s: %T", r.Resource.KindName, obj))
	}
	return review, nil
}

// reviewToken says whose a token is.
func (s *Server) reviewToken(ctx context.Context, r *Request) (*Result, error) {
	review, err := decodeReview[*authenticationv1.TokenReview](r)
	if err != nil {
		return nil, err
	}
	if review.Spec.Token == "" {
		return nil, apierrors.NewBadRequest("token is required for TokenReview in authentication")
	}
	audiences := authenticator.Audiences(review.Spec.Audiences)
	if len(audiences) == 0 && s.authConfig.Issuer != nil {
		audiences = s.authConfig.Issuer.Audiences()
	}
	if len(audiences) > 0 {
		ctx = authenticator.WithAudiences(ctx, audiences)
	}
	who, ok, err := s.authn.AuthenticateToken(ctx, review.Spec.Token)
	review.Status = authenticationv1.TokenReviewStatus{Authenticated: ok && err == nil}
	if err != nil {
		review.Status.Error = err.Error()
	}
	if review.Status.Authenticated {
		if len(audiences) > 0 && len(audiences.Intersect(who.Audiences)) == 0 {
			return nil, apierrors.NewInternalError(errors.New("the authenticator returned invalid audiences"))
		}
		review.Status.User = userInfo(who.User)
		review.Status.Audiences = who.Audiences
	}
	return reviewed(r, review)
}

func userInfo(u user.Info) authenticationv1.UserInfo {
	info := authenticationv1.UserInfo{Username: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups()}
	for key, values := range u.GetExtra() {
		if info.Extra == nil {
			info.Extra = map[string]authenticationv1.ExtraValue{}
		}
		info.Extra[key] = values
	}
	return info
}

// reviewSelf says who asks.
func (s *Server) reviewSelf(ctx context.Context, r *Request) (*Result, error) {
	review, err := decodeReview[*authenticationv1.SelfSubjectReview](r)
	if err != nil {
		return nil, err
	}
	review.CreationTimestamp = now()
	review.Status = authenticationv1.SelfSubjectReviewStatus{UserInfo: userInfo(r.User)}
	return reviewed(r, review)
}

// reviewAccess says what somebody may do.
func (s *Server) reviewAccess(ctx context.Context, r *Request) (*Result, error) {
	review, err := decodeReview[*authorizationv1.SubjectAccessReview](r)
	if err != nil {
		return nil, err
	}
	errs := validateSubject(&review.Spec)
	if !emptyMeta(review.ObjectMeta) {
		errs = append(errs, field.Invalid(field.NewPath("metadata"), review.ObjectMeta, "must be empty"))
	}
	if len(errs) > 0 {
		return nil, invalidReview(r, errs)
	}
	review.Status = s.decide(ctx, subjectOf(&review.Spec), review.Spec.ResourceAttributes, review.Spec.NonResourceAttributes)
	return reviewed(r, review)
}

// reviewLocalAccess says what somebody may do in one namespace.
func (s *Server) reviewLocalAccess(ctx context.Context, r *Request) (*Result, error) {
	review, err := decodeReview[*authorizationv1.LocalSubjectAccessReview](r)
	if err != nil {
		return nil, err
	}
	if review.Namespace == "" {
		review.Namespace = r.Namespace
	}
	if review.Namespace != r.Namespace {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("spec.resourceAttributes.namespace must match namespace: %v", r.Namespace))
	}
	errs := validateSubject(&review.Spec)
	meta := review.ObjectMeta
	meta.Namespace = ""
	if !emptyMeta(meta) {
		errs = append(errs, field.Invalid(field.NewPath("metadata"), review.ObjectMeta, "must be empty except for namespace"))
	}
	if at := review.Spec.ResourceAttributes; at != nil && at.Namespace != review.Namespace {
		errs = append(errs, field.Invalid(field.NewPath("spec.resourceAttributes.namespace"), at.Namespace, "must match metadata.namespace"))
	}
	if review.Spec.NonResourceAttributes != nil {
		errs = append(errs, field.Invalid(field.NewPath("spec.nonResourceAttributes"), review.Spec.NonResourceAttributes, "disallowed on this kind of request"))
	}
	if len(errs) > 0 {
		return nil, invalidReview(r, errs)
	}
	review.Status = s.decide(ctx, subjectOf(&review.Spec), review.Spec.ResourceAttributes, nil)
	return reviewed(r, review)
}

// reviewOwnAccess says what the asker may do.
func (s *Server) reviewOwnAccess(ctx context.Context, r *Request) (*Result, error) {
	review, err := decodeReview[*authorizationv1.SelfSubjectAccessReview](r)
	if err != nil {
		return nil, err
	}
	errs := validateAttributes(review.Spec.ResourceAttributes, review.Spec.NonResourceAttributes)
	if !emptyMeta(review.ObjectMeta) {
		errs = append(errs, field.Invalid(field.NewPath("metadata"), review.ObjectMeta, "must be empty"))
	}
	if len(errs) > 0 {
		return nil, invalidReview(r, errs)
	}
	review.Status = s.decide(ctx, r.User, review.Spec.ResourceAttributes, review.Spec.NonResourceAttributes)
	return reviewed(r, review)
}

// reviewOwnRules lists what the asker may do in a namespace.
func (s *Server) reviewOwnRules(ctx context.Context, r *Request) (*Result, error) {
	review, err := decodeReview[*authorizationv1.SelfSubjectRulesReview](r)
	if err != nil {
		return nil, err
	}
	if review.Spec.Namespace == "" {
		return nil, apierrors.NewBadRequest("no namespace on request")
	}
	resources, paths, incomplete, err := s.rulesFor(ctx, r.User, review.Spec.Namespace)
	status := authorizationv1.SubjectRulesReviewStatus{Incomplete: incomplete,
		ResourceRules: []authorizationv1.ResourceRule{}, NonResourceRules: []authorizationv1.NonResourceRule{}}
	for _, rule := range resources {
		status.ResourceRules = append(status.ResourceRules, authorizationv1.ResourceRule{
			Verbs: rule.GetVerbs(), APIGroups: rule.GetAPIGroups(), Resources: rule.GetResources(), ResourceNames: rule.GetResourceNames()})
	}
	for _, rule := range paths {
		status.NonResourceRules = append(status.NonResourceRules, authorizationv1.NonResourceRule{Verbs: rule.GetVerbs(), NonResourceURLs: rule.GetNonResourceURLs()})
	}
	if err != nil {
		status.EvaluationError = err.Error()
	}
	return reviewed(r, &authorizationv1.SelfSubjectRulesReview{Status: status})
}

// rulesFor lists a user's rules; the node authorizer cannot list what it allows.
func (s *Server) rulesFor(ctx context.Context, u user.Info, namespace string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	resources, paths, incomplete, err := s.rbac.RulesFor(ctx, u, namespace)
	if slices.Contains(u.GetGroups(), user.NodesGroup) {
		incomplete, err = true, errors.Join(err, errors.New("node authorizer does not support user rule resolution"))
	}
	if slices.Contains(u.GetGroups(), user.SystemPrivilegedGroup) {
		resources = append(resources, &authorizer.DefaultResourceRuleInfo{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}})
		paths = append(paths, &authorizer.DefaultNonResourceRuleInfo{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}})
	}
	return resources, paths, incomplete, err
}

func emptyMeta(meta metav1.ObjectMeta) bool {
	meta.ManagedFields = nil
	return equality.Semantic.DeepEqual(metav1.ObjectMeta{}, meta)
}

func invalidReview(r *Request, errs field.ErrorList) error {
	return apierrors.NewInvalid(schema.GroupKind{Group: r.Resource.Group, Kind: r.Resource.KindName}, "", errs)
}

func subjectOf(spec *authorizationv1.SubjectAccessReviewSpec) user.Info {
	u := &user.DefaultInfo{Name: spec.User, Groups: spec.Groups, UID: spec.UID}
	for key, values := range spec.Extra {
		if u.Extra == nil {
			u.Extra = map[string][]string{}
		}
		u.Extra[key] = values
	}
	return u
}

// decide asks the authorizers.
func (s *Server) decide(ctx context.Context, u user.Info, resource *authorizationv1.ResourceAttributes, path *authorizationv1.NonResourceAttributes) authorizationv1.SubjectAccessReviewStatus {
	var at authorizer.AttributesRecord
	if resource != nil {
		at = resourceAttributes(u, resource)
	} else {
		at = authorizer.AttributesRecord{User: u, Verb: path.Verb, Path: path.Path}
	}
	decision, reason, err := s.authz.Authorize(ctx, at)
	status := authorizationv1.SubjectAccessReviewStatus{Allowed: decision == authorizer.DecisionAllow, Denied: decision == authorizer.DecisionDeny, Reason: reason}
	var problems []string
	if err != nil {
		problems = append(problems, err.Error())
	}
	if at.FieldSelectorParsingErr != nil {
		problems = append(problems, ignoredSelector("fieldSelector", len(at.FieldSelectorRequirements)))
	}
	if at.LabelSelectorParsingErr != nil {
		problems = append(problems, ignoredSelector("labelSelector", len(at.LabelSelectorRequirements)))
	}
	status.EvaluationError = strings.Join(problems, "; ")
	return status
}

func ignoredSelector(name string, kept int) string {
	how := "ignored"
	if kept > 0 {
		how = "partially ignored"
	}
	return fmt.Sprintf("spec.resourceAttributes.%s %s due to parse error", name, how)
}

func resourceAttributes(u user.Info, in *authorizationv1.ResourceAttributes) authorizer.AttributesRecord {
	at := authorizer.AttributesRecord{User: u, Verb: in.Verb, Namespace: in.Namespace, APIGroup: in.Group, APIVersion: in.Version,
		Resource: in.Resource, Subresource: in.Subresource, Name: in.Name, ResourceRequest: true}
	if at.APIVersion == "" {
		at.APIVersion = "*"
	}
	if sel := in.LabelSelector; sel != nil {
		at.LabelSelectorRequirements, at.LabelSelectorParsingErr = labelRequirements(sel)
	}
	if sel := in.FieldSelector; sel != nil {
		at.FieldSelectorRequirements, at.FieldSelectorParsingErr = fieldRequirements(sel)
	}
	return at
}

// labelRequirements are those that can be understood. Leaving one out only
// widens what is asked for, so that is safe.
func labelRequirements(sel *authorizationv1.LabelSelectorAttributes) (labels.Requirements, error) {
	if sel.RawSelector != "" {
		parsed, err := labels.Parse(sel.RawSelector)
		if err != nil {
			return nil, err
		}
		requirements, _ := parsed.Requirements()
		return requirements, nil
	}
	operators := map[metav1.LabelSelectorOperator]operator.Operator{
		metav1.LabelSelectorOpIn: operator.In, metav1.LabelSelectorOpNotIn: operator.NotIn,
		metav1.LabelSelectorOpExists: operator.Exists, metav1.LabelSelectorOpDoesNotExist: operator.DoesNotExist,
	}
	var out labels.Requirements
	var errs []error
	for _, r := range sel.Requirements {
		op, ok := operators[r.Operator]
		if !ok {
			errs = append(errs, fmt.Errorf("%q is not a valid label selector operator", r.Operator))
			continue
		}
		requirement, err := labels.NewRequirement(r.Key, op, r.Values)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, *requirement)
	}
	return out, errors.Join(errs...)
}

func fieldRequirements(sel *authorizationv1.FieldSelectorAttributes) (fields.Requirements, error) {
	if sel.RawSelector != "" {
		parsed, err := fields.ParseSelector(sel.RawSelector)
		if err != nil {
			return nil, err
		}
		return parsed.Requirements(), nil
	}
	var out fields.Requirements
	var errs []error
	for _, r := range sel.Requirements {
		switch {
		case len(r.Values) != 1 && (r.Operator == metav1.FieldSelectorOpIn || r.Operator == metav1.FieldSelectorOpNotIn):
			errs = append(errs, fmt.Errorf("fieldSelectors %s must have one value", r.Operator))
		case r.Operator == metav1.FieldSelectorOpIn:
			out = append(out, fields.Requirement{Field: r.Key, Operator: operator.Equals, Value: r.Values[0]})
		case r.Operator == metav1.FieldSelectorOpNotIn:
			out = append(out, fields.Requirement{Field: r.Key, Operator: operator.NotEquals, Value: r.Values[0]})
		case r.Operator == metav1.FieldSelectorOpExists, r.Operator == metav1.FieldSelectorOpDoesNotExist:
			errs = append(errs, fmt.Errorf("fieldSelectors do not yet support %v", r.Operator))
		default:
			errs = append(errs, fmt.Errorf("%q is not a valid field selector operator", r.Operator))
		}
	}
	return out, errors.Join(errs...)
}

func validateSubject(spec *authorizationv1.SubjectAccessReviewSpec) field.ErrorList {
	errs := validateAttributes(spec.ResourceAttributes, spec.NonResourceAttributes)
	if spec.User == "" && len(spec.Groups) == 0 {
		errs = append(errs, field.Invalid(field.NewPath("spec", "user"), spec.User, "at least one of user or group must be specified"))
	}
	return errs
}

func validateAttributes(resource *authorizationv1.ResourceAttributes, path *authorizationv1.NonResourceAttributes) (errs field.ErrorList) {
	if (resource == nil) == (path == nil) {
		errs = append(errs, field.Invalid(field.NewPath("spec"), path, "exactly one of nonResourceAttributes or resourceAttributes must be specified"))
	}
	if resource == nil {
		return errs
	}
	at := field.NewPath("spec.resourceAttributes")
	if sel := resource.FieldSelector; sel != nil {
		errs = append(errs, validateSelector(sel.RawSelector, len(sel.Requirements), at.Child("fieldSelector"))...)
	}
	if sel := resource.LabelSelector; sel != nil {
		errs = append(errs, validateSelector(sel.RawSelector, len(sel.Requirements), at.Child("labelSelector"))...)
	}
	return errs
}

func validateSelector(raw string, requirements int, at *field.Path) field.ErrorList {
	switch {
	case raw != "" && requirements > 0:
		return field.ErrorList{field.Invalid(at.Child("rawSelector"), raw, "may not specified at the same time as requirements")}
	case raw == "" && requirements == 0:
		return field.ErrorList{field.Required(at.Child("requirements"), fmt.Sprintf("when %s is specified, requirements or rawSelector is required", at))}
	}
	return nil
}

// componentStatus answers the deprecated question how the control plane is. Its
// parts are in this process, so what answers this answers for them.
func (s *Server) componentStatus(ctx context.Context, r *Request) (*Result, error) {
	r.Warn("v1 ComponentStatus is deprecated in v1.19+")
	list := &corev1.ComponentStatusList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ComponentStatusList"}}
	etcd := corev1.ComponentCondition{Type: corev1.ComponentHealthy, Status: corev1.ConditionTrue, Message: "ok"}
	if err := s.storeAnswers(ctx); err != nil {
		etcd.Status, etcd.Message, etcd.Error = corev1.ConditionFalse, "", err.Error()
	}
	for _, name := range []string{"controller-manager", "etcd-0", "scheduler"} {
		condition := corev1.ComponentCondition{Type: corev1.ComponentHealthy, Status: corev1.ConditionTrue, Message: "ok"}
		if name == "etcd-0" {
			condition = etcd
		}
		list.Items = append(list.Items, corev1.ComponentStatus{ObjectMeta: metav1.ObjectMeta{Name: name}, Conditions: []corev1.ComponentCondition{condition}})
	}
	if r.Verb == "list" {
		return &Result{Object: list}, nil
	}
	for i := range list.Items {
		if one := &list.Items[i]; one.Name == r.Name {
			one.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "ComponentStatus"}
			return &Result{Object: one}, nil
		}
	}
	return nil, apierrors.NewNotFound(r.Resource.GroupResource(), r.Name)
}
