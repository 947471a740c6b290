package authn

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
)

// serviceAccountTokens authenticates service accounts by their tokens.
type serviceAccountTokens struct {
	issuer  *Issuer
	objects Objects
}

// deletionLeeway is how long tokens stay good after what they are bound to was
// deleted, so that a pod can end in order.
const deletionLeeway = 60 * time.Second

// AuthenticateToken implements authenticator.Token.
func (s *serviceAccountTokens) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	now := time.Now()
	claims, private, err := s.issuer.verify(token, now)
	if errors.Is(err, errNotOurs) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	k := private.Kubernetes
	wanted, ok := authenticator.AudiencesFrom(ctx)
	if !ok || len(wanted) == 0 {
		wanted = s.issuer.audiences
	}
	audiences := wanted.Intersect(authenticator.Audiences(claims.Audience))
	if len(audiences) == 0 {
		return nil, false, fmt.Errorf("token audiences %q is invalid for the target audiences %q", claims.Audience, wanted)
	}
	if want := serviceaccount.MakeUsername(k.Namespace, k.ServiceAccount.Name); claims.Subject != want {
		return nil, false, fmt.Errorf("service account token: subject is %q, want %q", claims.Subject, want)
	}

	account, err := s.objects.ServiceAccount(ctx, k.Namespace, k.ServiceAccount.Name)
	if err != nil {
		return nil, false, fmt.Errorf("look up service account %s/%s: %w", k.Namespace, k.ServiceAccount.Name, err)
	}
	if account == nil || gone(account, k.ServiceAccount.UID, now) {
		return nil, false, errors.New("service account token has been invalidated")
	}
	info := serviceaccount.ServiceAccountInfo{Namespace: k.Namespace, Name: k.ServiceAccount.Name, UID: k.ServiceAccount.UID, CredentialID: credentialID(claims)}
	if k.Secret != nil {
		secret, err := s.objects.Secret(ctx, k.Namespace, k.Secret.Name)
		if err != nil || secret == nil || gone(secret, k.Secret.UID, now) {
			return nil, false, errors.Join(errors.New("service account token has been invalidated: its secret is gone"), err)
		}
	}
	if k.Pod != nil {
		pod, err := s.objects.Pod(ctx, k.Namespace, k.Pod.Name)
		if err != nil || pod == nil || gone(pod, k.Pod.UID, now) {
			return nil, false, errors.Join(errors.New("service account token has been invalidated: its pod is gone"), err)
		}
		info.PodName, info.PodUID = k.Pod.Name, k.Pod.UID
	}
	if k.Node != nil {
		// Bound to the node itself it falls with it; bound to a pod it only says where.
		if k.Pod == nil {
			node, err := s.objects.Node(ctx, k.Node.Name)
			if err != nil || node == nil || gone(node, k.Node.UID, now) {
				return nil, false, errors.Join(errors.New("service account token has been invalidated: its node is gone"), err)
			}
		}
		info.NodeName, info.NodeUID = k.Node.Name, k.Node.UID
	}
	return &authenticator.Response{User: info.UserInfo(), Audiences: audiences}, true, nil
}

// gone tells whether obj is another object of the name, or deleted for a while.
func gone(obj metav1.Object, uid string, now time.Time) bool {
	if string(obj.GetUID()) != uid {
		return true
	}
	deleted := obj.GetDeletionTimestamp()
	return deleted != nil && deleted.Time.Add(deletionLeeway).Before(now)
}

// bootstrapTokens authenticates joining machines: secrets of the type
// bootstrap.kubernetes.io/token in kube-system (KEP-130).
type bootstrapTokens struct{ objects Objects }

var bootstrapToken = regexp.MustCompile(`^([a-z0-9]{6})\.([a-z0-9]{16})$`)

// AuthenticateToken implements authenticator.Token.
func (b *bootstrapTokens) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	match := bootstrapToken.FindStringSubmatch(token)
	if match == nil {
		return nil, false, nil
	}
	id, value := match[1], match[2]
	secret, err := b.objects.Secret(ctx, metav1.NamespaceSystem, "bootstrap-token-"+id)
	if err != nil {
		return nil, false, fmt.Errorf("look up bootstrap token %s: %w", id, err)
	}
	if secret == nil || secret.DeletionTimestamp != nil || secret.Type != "bootstrap.kubernetes.io/token" || string(secret.Data["token-id"]) != id {
		return nil, false, nil
	}
	want, got := fingerprint(string(secret.Data["token-secret"])), fingerprint(value)
	if subtle.ConstantTimeCompare(want[:], got[:]) != 1 {
		return nil, false, nil
	}
	if expired(secret, time.Now()) || string(secret.Data["usage-bootstrap-authentication"]) != "true" {
		return nil, false, nil
	}
	groups := []string{"system:bootstrappers"}
	for _, extra := range strings.Split(string(secret.Data["auth-extra-groups"]), ",") {
		if extra == "" {
			continue
		}
		if !strings.HasPrefix(extra, "system:bootstrappers:") {
			return nil, false, fmt.Errorf("bootstrap token %s: group %q does not begin with system:bootstrappers:", id, extra)
		}
		groups = append(groups, extra)
	}
	slices.Sort(groups)
	return &authenticator.Response{User: &user.DefaultInfo{Name: "system:bootstrap:" + id, Groups: slices.Compact(groups)}}, true, nil
}

// expired tells whether the token has ended; one whose end cannot be read has.
func expired(secret *corev1.Secret, now time.Time) bool {
	text := string(secret.Data["expiration"])
	if text == "" {
		return false
	}
	end, err := time.Parse(time.RFC3339, text)
	return err != nil || !now.Before(end)
}
