package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api"
	"skiff/apiserver/authn"
)

const (
	defaultTokenLife = time.Hour
	leastTokenLife   = 10 * time.Minute
	mostTokenLife    = 1 << 32 // seconds
)

var tokenRequestKind = authenticationv1.SchemeGroupVersion.WithKind("TokenRequest")

// createToken answers POST to serviceaccounts/NAME/token (KEP-1205).
func (s *Server) createToken(ctx context.Context, r *Request) (*Result, error) {
	if s.authConfig.Issuer == nil {
		return nil, apierrors.NewServiceUnavailable("this server issues no service account tokens")
	}
	request, ok := r.Body.Object.(*authenticationv1.TokenRequest)
	if !ok {
		request = &authenticationv1.TokenRequest{}
		if err := r.decodeInto(tokenRequestKind, request); err != nil {
			return nil, err
		}
	}
	if err := checkToken(r, request); err != nil {
		return nil, err
	}
	account, err := live[*corev1.ServiceAccount](ctx, s, r.Namespace, r.Name)
	if err != nil {
		return nil, err
	}
	if account == nil {
		return nil, apierrors.NewNotFound(r.Resource.GroupResource(), r.Name)
	}
	if want := request.UID; want != "" && want != account.UID {
		return nil, apierrors.NewConflict(schema.GroupResource{Group: authenticationv1.GroupName, Resource: "TokenRequest"}, r.Name,
			fmt.Errorf("the UID in the token request (%s) does not match the UID of the service account (%s)", want, account.UID))
	}
	if w := s.judged(r, "create", account, nil); w != nil {
		w.Object = request
		if err := s.admission.Validate(ctx, w); err != nil {
			return nil, err
		}
	}
	if len(request.Spec.Audiences) == 0 {
		// After admission, which tells a node that asks for the server's own
		// audience by name from one that asks for none.
		request.Spec.Audiences = s.authConfig.Issuer.Audiences()
	}
	claim := authn.Claim{
		Namespace:      account.Namespace,
		ServiceAccount: authn.Bound{Name: account.Name, UID: string(account.UID)},
		Audiences:      request.Spec.Audiences,
		Life:           time.Duration(*request.Spec.ExpirationSeconds) * time.Second,
	}
	if ref := request.Spec.BoundObjectRef; ref != nil {
		if err := s.bindToken(ctx, r, account, ref, &claim); err != nil {
			return nil, err
		}
	}
	token, expires, err := s.authConfig.Issuer.Issue(claim, time.Now())
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	request.SetGroupVersionKind(tokenRequestKind)
	request.Name, request.Namespace = account.Name, account.Namespace
	request.CreationTimestamp = metav1.Now().Rfc3339Copy()
	request.Status = authenticationv1.TokenRequestStatus{Token: token, ExpirationTimestamp: metav1.NewTime(expires).Rfc3339Copy()}
	return &Result{Code: http.StatusCreated, Object: request}, nil
}

// checkToken checks what is asked for, and fills in how long the token holds.
func checkToken(r *Request, t *authenticationv1.TokenRequest) error {
	var errs field.ErrorList
	if t.Name != "" && t.Name != r.Name {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), t.Name, "must match the service account name"))
	}
	if t.Namespace != "" && t.Namespace != r.Namespace {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "namespace"), t.Namespace, "must match the service account namespace"))
	}
	if t.Spec.ExpirationSeconds == nil {
		seconds := int64(defaultTokenLife / time.Second)
		t.Spec.ExpirationSeconds = &seconds
	}
	path := field.NewPath("spec", "expirationSeconds")
	if *t.Spec.ExpirationSeconds < int64(leastTokenLife/time.Second) {
		errs = append(errs, field.Invalid(path, *t.Spec.ExpirationSeconds, "may not specify a duration less than 10 minutes"))
	}
	if *t.Spec.ExpirationSeconds > mostTokenLife {
		errs = append(errs, field.Invalid(path, *t.Spec.ExpirationSeconds, "may not specify a duration larger than 2^32 seconds"))
	}
	if len(errs) > 0 {
		return apierrors.NewInvalid(tokenRequestKind.GroupKind(), r.Name, errs)
	}
	return nil
}

// bindToken lets the token stand or fall with a pod, secret or node.
func (s *Server) bindToken(ctx context.Context, r *Request, account *corev1.ServiceAccount, ref *authenticationv1.BoundObjectReference, claim *authn.Claim) error {
	kind := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	var object api.Object
	switch kind {
	case corev1.SchemeGroupVersion.WithKind("Pod"):
		pod, err := live[*corev1.Pod](ctx, s, r.Namespace, ref.Name)
		if err != nil {
			return err
		}
		if pod == nil {
			return apierrors.NewNotFound(api.For[*corev1.Pod]().GroupResource(), ref.Name)
		}
		if pod.Spec.ServiceAccountName != account.Name {
			return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", account.Name))
		}
		object, claim.Pod = pod, &authn.Bound{Name: pod.Name, UID: string(pod.UID)}
		if pod.Spec.NodeName != "" {
			claim.Node = &authn.Bound{Name: pod.Spec.NodeName}
			if node, err := live[*corev1.Node](ctx, s, "", pod.Spec.NodeName); err == nil && node != nil {
				claim.Node.UID = string(node.UID)
			}
		}
	case corev1.SchemeGroupVersion.WithKind("Secret"):
		secret, err := live[*corev1.Secret](ctx, s, r.Namespace, ref.Name)
		if err != nil {
			return err
		}
		if secret == nil {
			return apierrors.NewNotFound(api.For[*corev1.Secret]().GroupResource(), ref.Name)
		}
		object, claim.Secret = secret, &authn.Bound{Name: secret.Name, UID: string(secret.UID)}
	case corev1.SchemeGroupVersion.WithKind("Node"):
		node, err := live[*corev1.Node](ctx, s, "", ref.Name)
		if err != nil {
			return err
		}
		if node == nil {
			return apierrors.NewNotFound(api.For[*corev1.Node]().GroupResource(), ref.Name)
		}
		object, claim.Node = node, &authn.Bound{Name: node.Name, UID: string(node.UID)}
	default:
		return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token to object of type %s", kind))
	}
	if want := ref.UID; want != "" && want != object.GetUID() {
		return staleBinding(kind, ref.Name, want, object.GetUID())
	}
	return nil
}

func staleBinding(kind schema.GroupVersionKind, name string, asked, found types.UID) error {
	return apierrors.NewConflict(schema.GroupResource{Group: kind.Group, Resource: kind.Kind}, name,
		fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated (%s)", asked, found))
}

// discoverIssuer answers /.well-known/openid-configuration (OpenID Connect
// Discovery 1.0), by which others check service account tokens.
func (s *Server) discoverIssuer() ([]byte, error) {
	issuer := s.authConfig.Issuer
	return json.Marshal(map[string]any{
		"issuer":                                issuer.URL(),
		"jwks_uri":                              issuer.URL() + "/openid/v1/jwks",
		"response_types_supported":              []string{"id_token"},
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": issuer.Algorithms(),
	})
}
