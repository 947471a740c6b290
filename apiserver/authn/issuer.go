package authn

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/uuid"
)

// Issuer makes service account tokens (JWTs as KEP-1205 and KEP-4193 have them)
// and checks their signatures. Safe for concurrent use.
type Issuer struct {
	url       string
	audiences []string
	signer    jose.Signer
	keys      jose.JSONWebKeySet // public, the signing key first
	algs      []jose.SignatureAlgorithm
}

// NewIssuer makes an issuer. url is what tokens name as iss and where discovery
// is served; audiences are the API server's own (default: the url). sign makes
// signatures; tokens signed by a key in old are good as well.
func NewIssuer(url string, audiences []string, sign crypto.Signer, old ...crypto.PublicKey) (*Issuer, error) {
	if len(audiences) == 0 {
		audiences = []string{url}
	}
	i := &Issuer{url: url, audiences: audiences}
	for _, key := range append([]crypto.PublicKey{sign.Public()}, old...) {
		jwk, err := publicKey(key)
		if err != nil {
			return nil, err
		}
		i.keys.Keys = append(i.keys.Keys, jwk)
		i.algs = append(i.algs, jose.SignatureAlgorithm(jwk.Algorithm))
	}
	first := i.keys.Keys[0]
	signer, err := jose.NewSigner(
		jose.SigningKey{Algorithm: jose.SignatureAlgorithm(first.Algorithm), Key: jose.JSONWebKey{Key: sign, KeyID: first.KeyID}},
		nil)
	if err != nil {
		return nil, fmt.Errorf("set up token signing: %w", err)
	}
	i.signer = signer
	return i, nil
}

func publicKey(key crypto.PublicKey) (jose.JSONWebKey, error) {
	jwk := jose.JSONWebKey{Key: key, Use: "sig"}
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		alg := map[string]jose.SignatureAlgorithm{"P-256": jose.ES256, "P-384": jose.ES384, "P-521": jose.ES512}[k.Curve.Params().Name]
		jwk.Algorithm = string(alg)
	case *rsa.PublicKey:
		jwk.Algorithm = string(jose.RS256)
	default:
		return jwk, fmt.Errorf("service account keys of type %T are not supported: use RSA or ECDSA", key)
	}
	sum, err := jwk.Thumbprint(crypto.SHA256)
	if err != nil {
		return jwk, fmt.Errorf("name service account key: %w", err)
	}
	jwk.KeyID = base64.RawURLEncoding.EncodeToString(sum)
	return jwk, nil
}

// URL is the issuer's name.
func (i *Issuer) URL() string { return i.url }

// Audiences are the API server's own.
func (i *Issuer) Audiences() []string { return i.audiences }

// Keys returns the public keys as a JWKS document (RFC 7517).
func (i *Issuer) Keys() []byte {
	data, err := json.Marshal(i.keys)
	if err != nil {
		panic(fmt.Sprintf("authn: public keys cannot be encoded: %v", err)) // they were checked in NewIssuer
	}
	return data
}

// Bound names an object that a token, or a service account, stands or falls with.
type Bound struct {
	Name string `json:"name"`
	UID  string `json:"uid,omitempty"`
}

// privateClaims are what tokens say beyond RFC 7519, under "kubernetes.io".
type privateClaims struct {
	Kubernetes struct {
		Namespace      string           `json:"namespace,omitempty"`
		ServiceAccount Bound            `json:"serviceaccount"`
		Pod            *Bound           `json:"pod,omitempty"`
		Secret         *Bound           `json:"secret,omitempty"`
		Node           *Bound           `json:"node,omitempty"`
		WarnAfter      *jwt.NumericDate `json:"warnafter,omitempty"`
	} `json:"kubernetes.io"`
}

// Claim is what a token is to say.
type Claim struct {
	Namespace      string
	ServiceAccount Bound
	Pod            *Bound
	Secret         *Bound
	Node           *Bound // of the pod, or the node that the token is bound to itself
	Audiences      []string
	Life           time.Duration
}

// Issue makes a token and tells when it ends.
func (i *Issuer) Issue(c Claim, now time.Time) (token string, expires time.Time, err error) {
	expires = now.Add(c.Life)
	var private privateClaims
	private.Kubernetes.Namespace = c.Namespace
	private.Kubernetes.ServiceAccount = c.ServiceAccount
	private.Kubernetes.Pod = c.Pod
	private.Kubernetes.Secret = c.Secret
	private.Kubernetes.Node = c.Node
	token, err = jwt.Signed(i.signer).Claims(private).Claims(jwt.Claims{
		Issuer:    i.url,
		Subject:   "system:serviceaccount:" + c.Namespace + ":" + c.ServiceAccount.Name,
		Audience:  c.Audiences,
		Expiry:    jwt.NewNumericDate(expires),
		NotBefore: jwt.NewNumericDate(now),
		IssuedAt:  jwt.NewNumericDate(now),
		ID:        uuid.NewString(),
	}).Serialize()
	if err != nil {
		return "", time.Time{}, fmt.Errorf("sign token of service account %s/%s: %w", c.Namespace, c.ServiceAccount.Name, err)
	}
	return token, expires, nil
}

// errNotOurs: another authenticator may know the token.
var errNotOurs = errors.New("not a service account token of this cluster")

// verify checks signature, issuer and times.
func (i *Issuer) verify(token string, now time.Time) (claims jwt.Claims, private privateClaims, err error) {
	parsed, err := jwt.ParseSigned(token, i.algs)
	if err != nil {
		return claims, private, errNotOurs
	}
	if err := parsed.UnsafeClaimsWithoutVerification(&claims); err != nil || claims.Issuer != i.url {
		return claims, private, errNotOurs
	}
	for _, key := range i.keys.Keys {
		if len(parsed.Headers) > 0 && parsed.Headers[0].KeyID != "" && parsed.Headers[0].KeyID != key.KeyID {
			continue
		}
		claims, private = jwt.Claims{}, privateClaims{}
		if parsed.Claims(key.Key, &claims, &private) != nil {
			continue
		}
		err := claims.ValidateWithLeeway(jwt.Expected{Time: now}, 0)
		if errors.Is(err, jwt.ErrExpired) {
			return claims, private, errExpired
		}
		if err != nil {
			return claims, private, fmt.Errorf("service account token: %w", err)
		}
		return claims, private, nil
	}
	return claims, private, errors.New("the signature of the service account token is not valid")
}

// credentialID names a token in audit logs without giving it away.
func credentialID(claims jwt.Claims) string { return "JTI=" + claims.ID }

// fingerprint of a secret value, for comparing without leaking its length.
func fingerprint(s string) [32]byte { return sha256.Sum256([]byte(s)) }

// Algorithms names the signature algorithms of the keys, each once.
func (i *Issuer) Algorithms() (names []string) {
	for _, alg := range i.algs {
		if !slices.Contains(names, string(alg)) {
			names = append(names, string(alg))
		}
	}
	return names
}
