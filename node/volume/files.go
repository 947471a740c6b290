package volume

import (
	"context"
	"fmt"
	"os"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"skiff/api"
)

// file is one file of a volume. owner -1: root.
type file struct {
	data  []byte
	mode  os.FileMode
	owner int
}

// filesDir makes the directory of a volume of files: in memory where they are secret.
func (m *Manager) filesDir(p *corev1.Pod, vol *corev1.Volume) (string, error) {
	plugin, secret := "configmap", false
	switch {
	case vol.Secret != nil:
		plugin, secret = "secret", true
	case vol.Projected != nil:
		plugin, secret = "projected", true
	case vol.DownwardAPI != nil:
		plugin = "downward-api"
	}
	dir := m.dir(p, plugin, vol.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if secret {
		if err := tmpfs(dir, 0); err != nil {
			return "", err
		}
	}
	// Whoever runs in the container may look into it; the files have their own modes.
	return dir, os.Chmod(dir, 0o777)
}

// writeFiles brings a volume's files in line with their sources.
func (m *Manager) writeFiles(ctx context.Context, v *podVolumes, p *corev1.Pod, vol *corev1.Volume) error {
	files, err := m.files(ctx, v, p, vol)
	if err != nil {
		return err
	}
	return replace(v.dirs[vol.Name], files, fsGroup(p), time.Now())
}

const defaultMode = 0o644

func modeOr(mode *int32, otherwise os.FileMode) os.FileMode {
	if mode != nil {
		return os.FileMode(*mode)
	}
	return otherwise
}

func (m *Manager) files(ctx context.Context, v *podVolumes, p *corev1.Pod, vol *corev1.Volume) (map[string]file, error) {
	files := map[string]file{}
	switch {
	case vol.ConfigMap != nil:
		s := vol.ConfigMap
		return files, m.configMap(ctx, files, p, s.Name, s.Items, s.Optional, modeOr(s.DefaultMode, defaultMode))
	case vol.Secret != nil:
		s := vol.Secret
		return files, m.secret(ctx, files, p, s.SecretName, s.Items, s.Optional, modeOr(s.DefaultMode, defaultMode))
	case vol.DownwardAPI != nil:
		return files, m.downward(files, p, vol.DownwardAPI.Items, modeOr(vol.DownwardAPI.DefaultMode, defaultMode))
	}
	mode := modeOr(vol.Projected.DefaultMode, defaultMode)
	for i := range vol.Projected.Sources {
		s := &vol.Projected.Sources[i]
		var err error
		switch {
		case s.ConfigMap != nil:
			err = m.configMap(ctx, files, p, s.ConfigMap.Name, s.ConfigMap.Items, s.ConfigMap.Optional, mode)
		case s.Secret != nil:
			err = m.secret(ctx, files, p, s.Secret.Name, s.Secret.Items, s.Secret.Optional, mode)
		case s.DownwardAPI != nil:
			err = m.downward(files, p, s.DownwardAPI.Items, mode)
		case s.ServiceAccountToken != nil:
			err = m.token(ctx, files, v, p, vol.Name, s.ServiceAccountToken, mode)
		case s.ClusterTrustBundle != nil:
			err = m.trustBundle(ctx, files, s.ClusterTrustBundle, mode)
		case s.PodCertificate != nil:
			err = m.certificate(ctx, files, v, p, fmt.Sprintf("%s/%d", vol.Name, i), s.PodCertificate, mode)
		}
		if err != nil {
			return nil, err
		}
	}
	return files, nil
}

func (m *Manager) configMap(ctx context.Context, files map[string]file, p *corev1.Pod, name string, items []corev1.KeyToPath, optional *bool, mode os.FileMode) error {
	may := optional != nil && *optional
	cm, err := m.c.References.ConfigMap(ctx, p.Namespace, name)
	if apierrors.IsNotFound(err) && may {
		return nil
	}
	if err != nil {
		return err
	}
	data := map[string][]byte{}
	for k, v := range cm.Data {
		data[k] = []byte(v)
	}
	for k, v := range cm.BinaryData {
		data[k] = v
	}
	return choose(files, data, items, may, mode, "config")
}

func (m *Manager) secret(ctx context.Context, files map[string]file, p *corev1.Pod, name string, items []corev1.KeyToPath, optional *bool, mode os.FileMode) error {
	may := optional != nil && *optional
	s, err := m.c.References.Secret(ctx, p.Namespace, name)
	if apierrors.IsNotFound(err) && may {
		return nil
	}
	if err != nil {
		return err
	}
	return choose(files, s.Data, items, may, mode, "secret")
}

// choose puts all keys, or the chosen ones under their paths, into files.
func choose(files map[string]file, data map[string][]byte, items []corev1.KeyToPath, optional bool, mode os.FileMode, noun string) error {
	if len(items) == 0 {
		for k, v := range data {
			files[k] = file{data: v, mode: mode, owner: -1}
		}
		return nil
	}
	for _, it := range items {
		v, ok := data[it.Key]
		if !ok {
			if optional {
				continue
			}
			return fmt.Errorf("references non-existent %s key: %s", noun, it.Key)
		}
		files[it.Path] = file{data: v, mode: modeOr(it.Mode, mode), owner: -1}
	}
	return nil
}

func (m *Manager) downward(files map[string]file, p *corev1.Pod, items []corev1.DownwardAPIVolumeFile, mode os.FileMode) error {
	facts := m.c.Facts(p)
	for _, it := range items {
		var value string
		var err error
		switch {
		case it.FieldRef != nil:
			value, err = facts.Field(it.FieldRef.FieldPath)
		case it.ResourceFieldRef != nil:
			value, err = facts.ResourceField(it.ResourceFieldRef.ContainerName, it.ResourceFieldRef)
		}
		if err != nil {
			return err
		}
		files[it.Path] = file{data: []byte(value), mode: modeOr(it.Mode, mode), owner: -1}
	}
	return nil
}

// token is a service account token that was given out for a pod.
type token struct {
	value   string
	renewAt time.Time
}

// maxTokenAge is how long a token is used at most before it is renewed.
const maxTokenAge = 24 * time.Hour

func (m *Manager) token(ctx context.Context, files map[string]file, v *podVolumes, p *corev1.Pod, volume string, s *corev1.ServiceAccountTokenProjection, mode os.FileMode) error {
	key := volume + "/" + s.Path
	t, ok := v.tokens[key]
	if !ok || !time.Now().Before(t.renewAt) {
		fresh, err := m.requestToken(ctx, p, s)
		if err != nil && (!ok || ctx.Err() != nil) {
			return fmt.Errorf("failed to fetch token: %w", err)
		}
		if err != nil {
			// The old one is still good for a while.
			m.c.Logger.Warn("token is not renewed", "pod", p.Namespace+"/"+p.Name, "err", err)
			m.setDue(v, time.Now().Add(time.Minute))
		} else {
			t = fresh
			v.tokens[key] = t
		}
	}
	if time.Now().Before(t.renewAt) {
		m.setDue(v, t.renewAt)
	}
	f := file{data: []byte(t.value), mode: mode, owner: commonUser(p)}
	if f.owner >= 0 || fsGroup(p) >= 0 {
		f.mode = 0o600
	}
	files[s.Path] = f
	return nil
}

func (m *Manager) requestToken(ctx context.Context, p *corev1.Pod, s *corev1.ServiceAccountTokenProjection) (token, error) {
	seconds := int64(3600)
	if s.ExpirationSeconds != nil {
		seconds = *s.ExpirationSeconds
	}
	account := p.Spec.ServiceAccountName
	if account == "" {
		account = "default"
	}
	r := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: &seconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: p.Name, UID: p.UID},
	}}
	if s.Audience != "" {
		r.Spec.Audiences = []string{s.Audience}
	}
	began := time.Now()
	obj, err := m.c.Client.Post(ctx, api.For[*corev1.ServiceAccount](), p.Namespace, account, "token", r)
	if err != nil {
		return token{}, err
	}
	answer, ok := obj.(*authenticationv1.TokenRequest)
	if !ok {
		return token{}, fmt.Errorf("token request was answered with a %T", obj)
	}
	life := time.Duration(seconds) * time.Second
	if exp := answer.Status.ExpirationTimestamp.Time; !exp.IsZero() {
		life = exp.Sub(began)
	}
	return token{value: answer.Status.Token, renewAt: began.Add(min(life*8/10, maxTokenAge))}, nil
}

// commonUser is the user that all containers run as, or -1.
func commonUser(p *corev1.Pod) int {
	user := int64(-1)
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for _, c := range list {
			var u *int64
			if p.Spec.SecurityContext != nil {
				u = p.Spec.SecurityContext.RunAsUser
			}
			if c.SecurityContext != nil && c.SecurityContext.RunAsUser != nil {
				u = c.SecurityContext.RunAsUser
			}
			if u == nil || (user >= 0 && *u != user) {
				return -1
			}
			user = *u
		}
	}
	return int(user)
}
