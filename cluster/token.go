package cluster

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/api"
	"skiff/client"
)

// JoinToken lets a machine into a cluster. Its printed form is
//
//	<id>.<secret>.<pin>
//
// id (6) and secret (16 lower case letters and digits) are a Kubernetes bootstrap
// token: the Secret kube-system/bootstrap-token-<id> holds them and says until when
// they are good. pin is the SHA-256 of the public key of the cluster's authority, in
// hexadecimal: whoever joins sends the secret only to a server that has a certificate
// of that authority. A node's token cannot make a server, since servers hold the
// cluster's keys: theirs is in the group of ServerJoiners.
type JoinToken struct{ ID, Secret, Pin string }

// The groups that a token's bearer is in, beside system:bootstrappers.
const (
	NodeJoiners   = "system:bootstrappers:skiff:nodes"
	ServerJoiners = "system:bootstrappers:skiff:servers"
)

var joinTokenForm = regexp.MustCompile(`^([a-z0-9]{6})\.([a-z0-9]{16})\.([0-9a-f]{64})$`)

// ParseJoinToken reads the printed form.
func ParseJoinToken(text string) (JoinToken, error) {
	match := joinTokenForm.FindStringSubmatch(strings.TrimSpace(text))
	if match == nil {
		return JoinToken{}, errors.New("the token is not of the form ID.SECRET.PIN that `skiff token create` prints")
	}
	return JoinToken{match[1], match[2], match[3]}, nil
}

func (t JoinToken) String() string { return t.bearer() + "." + t.Pin }

// bearer is what the API server knows of it.
func (t JoinToken) bearer() string { return t.ID + "." + t.Secret }

const (
	tokenSecretType   corev1.SecretType = "bootstrap.kubernetes.io/token"
	tokenSecretPrefix string            = "bootstrap-token-"
)

// CreateToken makes a token that is good for ttl (0: for ever).
func CreateToken(ctx context.Context, c client.Client, pin string, ttl time.Duration, server bool) (JoinToken, error) {
	id, err := randomText(6)
	if err != nil {
		return JoinToken{}, err
	}
	secret, err := randomText(16)
	if err != nil {
		return JoinToken{}, err
	}
	t := JoinToken{id, secret, pin}
	data := map[string]string{
		"token-id": t.ID, "token-secret": t.Secret, "usage-bootstrap-authentication": "true",
		"auth-extra-groups": NodeJoiners, "description": "A node may join with it.",
	}
	if server {
		data["auth-extra-groups"], data["description"] = ServerJoiners, "A server may join with it and gets the cluster's keys."
	}
	if ttl > 0 {
		data["expiration"] = time.Now().Add(ttl).UTC().Format(time.RFC3339)
	}
	_, err = client.Create(ctx, c, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: tokenSecretPrefix + t.ID},
		Type:       tokenSecretType, StringData: data,
	})
	if err != nil {
		return JoinToken{}, fmt.Errorf("create token: %w", err)
	}
	return t, nil
}

// randomText is n lower case letters and digits.
func randomText(n int) (string, error) {
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789"
	out := make([]byte, n)
	for i := range out {
		at, err := rand.Int(rand.Reader, big.NewInt(int64(len(letters))))
		if err != nil {
			return "", fmt.Errorf("make token: %w", err)
		}
		out[i] = letters[at.Int64()]
	}
	return string(out), nil
}

// TokenInfo is what is shown of a token; its secret is not.
type TokenInfo struct {
	ID          string    `json:"id"`
	For         string    `json:"for"`               // node, server or other
	Expires     time.Time `json:"expires,omitzero"`  // zero: never
	Expired     bool      `json:"expired,omitempty"` // it is deleted soon
	Description string    `json:"description,omitempty"`
}

// ListTokens returns all bootstrap tokens, in order of their ids.
func ListTokens(ctx context.Context, c client.Client) (out []TokenInfo, err error) {
	secrets, err := client.List[*corev1.Secret](ctx, c, client.ListOptions{Namespace: metav1.NamespaceSystem})
	if err != nil {
		return nil, fmt.Errorf("list tokens: %w", err)
	}
	for _, s := range secrets {
		if s.Type != tokenSecretType {
			continue
		}
		info := TokenInfo{ID: string(s.Data["token-id"]), For: "other", Description: string(s.Data["description"])}
		switch string(s.Data["auth-extra-groups"]) {
		case NodeJoiners:
			info.For = "node"
		case ServerJoiners:
			info.For = "server"
		}
		if text := string(s.Data["expiration"]); text != "" {
			at, err := time.Parse(time.RFC3339, text)
			info.Expires, info.Expired = at, err != nil || !time.Now().Before(at)
		}
		out = append(out, info)
	}
	slices.SortFunc(out, func(a, b TokenInfo) int { return cmp.Compare(a.ID, b.ID) })
	return out, nil
}

// DeleteToken ends a token. It is named by its id, or in its whole form.
func DeleteToken(ctx context.Context, c client.Client, token string) error {
	id, _, _ := strings.Cut(token, ".")
	secret, err := client.Get[*corev1.Secret](ctx, c, metav1.NamespaceSystem, tokenSecretPrefix+id)
	if apierrors.IsNotFound(err) || err == nil && secret.Type != tokenSecretType {
		return fmt.Errorf("there is no token %s: `skiff token list` shows those that there are", id)
	}
	if err != nil {
		return fmt.Errorf("delete token %s: %w", id, err)
	}
	if err := c.Delete(ctx, api.For[*corev1.Secret](), secret.Namespace, secret.Name, metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("delete token %s: %w", id, err)
	}
	return nil
}
