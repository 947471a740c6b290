package image

import (
	"encoding/base64"
	"encoding/json"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Keyring are credentials by registry, from pull secrets.
type Keyring struct{ keys []key }

type key struct {
	host, path string // host may have * in its labels; path is a prefix, without slashes at its ends
	auth       *cri.AuthConfig
}

// dockerEntry is one registry's entry in a Docker configuration file.
type dockerEntry struct {
	Username, Password, Auth string
	IdentityToken            string `json:"identitytoken"`
	RegistryToken            string `json:"registrytoken"`
}

// Add takes the credentials of a secret of type kubernetes.io/dockerconfigjson or
// kubernetes.io/dockercfg; other secrets and broken ones add nothing.
func (k *Keyring) Add(s *corev1.Secret) {
	entries := map[string]dockerEntry{}
	if data, ok := s.Data[corev1.DockerConfigJsonKey]; ok && s.Type == corev1.SecretTypeDockerConfigJson {
		var file struct{ Auths map[string]dockerEntry }
		if json.Unmarshal(data, &file) != nil {
			return
		}
		entries = file.Auths
	} else if data, ok := s.Data[corev1.DockerConfigKey]; ok && s.Type == corev1.SecretTypeDockercfg {
		if json.Unmarshal(data, &entries) != nil {
			return
		}
	}
	for registry, e := range entries {
		k.add(registry, e)
	}
	// The longest path first: it fits most exactly.
	slices.SortStableFunc(k.keys, func(a, b key) int { return strings.Compare(b.host+"/"+b.path, a.host+"/"+a.path) })
}

func (k *Keyring) add(registry string, e dockerEntry) {
	if !strings.Contains(registry, "://") {
		registry = "https://" + registry
	}
	u, err := url.Parse(registry)
	if err != nil {
		return
	}
	p := strings.Trim(u.Path, "/")
	// /v1 and /v2 are the registry protocol's own paths, not repositories.
	if p == "v1" || p == "v2" {
		p = ""
	}
	p = strings.TrimPrefix(strings.TrimPrefix(p, "v1/"), "v2/")
	if e.Auth != "" && e.Username == "" {
		if raw, err := decodeAuth(e.Auth); err == nil {
			e.Username, e.Password, _ = strings.Cut(raw, ":")
		}
	}
	k.keys = append(k.keys, key{host: u.Host, path: p, auth: &cri.AuthConfig{
		Username: e.Username, Password: e.Password, IdentityToken: e.IdentityToken, RegistryToken: e.RegistryToken}})
}

func decodeAuth(s string) (string, error) {
	s = strings.TrimRight(s, "=")
	b, err := base64.RawStdEncoding.DecodeString(s)
	return string(b), err
}

// Lookup returns the credentials that may open the image's repository, the most
// exact first.
func (k *Keyring) Lookup(image string) []*cri.AuthConfig {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return nil
	}
	host, repo := reference.Domain(named), reference.Path(named)
	var out []*cri.AuthConfig
	for _, key := range k.keys {
		if hostMatches(key.host, host) && pathMatches(key.path, repo) {
			out = append(out, key.auth)
		}
	}
	return out
}

// hubNames are the names of Docker's own registry.
var hubNames = []string{"docker.io", "index.docker.io", "registry-1.docker.io"}

func hostMatches(pattern, host string) bool {
	if slices.Contains(hubNames, host) && slices.Contains(hubNames, pattern) {
		return true
	}
	pn, pp, _ := strings.Cut(pattern, ":")
	hn, hp, _ := strings.Cut(host, ":")
	if pp != hp {
		return false
	}
	ps, hs := strings.Split(pn, "."), strings.Split(hn, ".")
	if len(ps) != len(hs) {
		return false
	}
	for i := range ps {
		if ok, err := path.Match(ps[i], hs[i]); err != nil || !ok {
			return false
		}
	}
	return true
}

func pathMatches(prefix, repo string) bool { return strings.HasPrefix(repo, prefix) }
