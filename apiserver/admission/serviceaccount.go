package admission

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
)

const (
	defaultServiceAccount = "default"
	tokenVolume           = "kube-api-access-"
	tokenPath             = "/var/run/secrets/kubernetes.io/serviceaccount"
	// tokenSeconds is what tokens in pods ask for. (3607 is Kubernetes' sign for
	// a token that may live longer than it says, for clients that do not renew.)
	tokenSeconds = 3607
	// onlyMountable makes a service account's list of secrets the only ones that
	// its pods may use.
	onlyMountable = "kubernetes.io/enforce-mountable-secrets"
)

// fillServiceAccount gives a new pod its service account, that account's token
// and the account's pull secrets.
func (c cluster) fillServiceAccount(ctx context.Context, w *Write) error {
	pod, ok := w.Object.(*corev1.Pod)
	if !ok || w.Verb != "create" || !w.is("pods", "") || isMirror(pod) {
		return nil
	}
	if pod.Spec.ServiceAccountName == "" {
		pod.Spec.ServiceAccountName = defaultServiceAccount
	}
	pod.Spec.DeprecatedServiceAccount = pod.Spec.ServiceAccountName
	account, err := c.serviceAccount(ctx, w, pod.Spec.ServiceAccountName)
	if err != nil {
		return err
	}
	if wantsToken(account, pod) {
		mountToken(pod)
	}
	if len(pod.Spec.ImagePullSecrets) == 0 {
		pod.Spec.ImagePullSecrets = slices.Clone(account.ImagePullSecrets)
	}
	return nil
}

// checkServiceAccount refuses pods without an account, with secrets that the
// account does not list where it must, and mirror pods that use either.
func (c cluster) checkServiceAccount(ctx context.Context, w *Write) error {
	pod, ok := w.Object.(*corev1.Pod)
	created, debugged := w.Verb == "create" && w.is("pods", ""), w.Verb == "update" && w.is("pods", "ephemeralcontainers")
	if !ok || !created && !debugged {
		return nil
	}
	if created && isMirror(pod) {
		return checkMirror(w, pod)
	}
	if pod.Spec.ServiceAccountName == "" {
		return w.forbid("no service account specified for pod %s/%s", w.Namespace, pod.Name)
	}
	account, err := c.serviceAccount(ctx, w, pod.Spec.ServiceAccountName)
	if err != nil {
		return err
	}
	if enforce, _ := strconv.ParseBool(account.Annotations[onlyMountable]); !enforce {
		return nil
	}
	if debugged {
		err = checkEphemeralSecrets(account, pod)
	} else {
		err = checkSecrets(account, pod)
	}
	if err != nil {
		return w.forbid("%w", err)
	}
	return nil
}

// serviceAccount looks an account up. The account "default" is made by a
// controller soon after its namespace, so it is worth waiting for.
func (c cluster) serviceAccount(ctx context.Context, w *Write, name string) (*corev1.ServiceAccount, error) {
	attempts := 1
	if name == defaultServiceAccount {
		attempts = 10
	}
	var account *corev1.ServiceAccount
	var err error
	for i := range attempts {
		if i > 0 {
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(time.Duration(100+utilrand.Intn(100)) * time.Millisecond):
			}
		}
		if account, err = live[*corev1.ServiceAccount](ctx, c, w.Namespace, name); !apierrors.IsNotFound(err) {
			break
		}
	}
	if apierrors.IsNotFound(err) {
		err = apierrors.NewNotFound(schema.GroupResource{Resource: "serviceaccount"}, name)
	}
	if err != nil {
		return nil, w.forbid("error looking up service account %s/%s: %w", w.Namespace, name, err)
	}
	return account, nil
}

func isMirror(pod *corev1.Pod) bool {
	_, ok := pod.Annotations[corev1.MirrorPodAnnotationKey]
	return ok
}

func wantsToken(account *corev1.ServiceAccount, pod *corev1.Pod) bool {
	switch {
	case pod.Spec.AutomountServiceAccountToken != nil:
		return *pod.Spec.AutomountServiceAccountToken
	case account.AutomountServiceAccountToken != nil:
		return *account.AutomountServiceAccountToken
	}
	return true
}

// mountToken mounts the account's token into each container that mounts nothing
// else at its place.
func mountToken(pod *corev1.Pod) {
	name, exists := "", false
	for _, v := range pod.Spec.Volumes {
		if strings.HasPrefix(v.Name, tokenVolume) {
			name, exists = v.Name, true
			break
		}
	}
	if name == "" {
		name = tokenVolume + utilrand.String(5)
	}
	needed := false
	mount := func(containers []corev1.Container) {
		for i := range containers {
			taken := slices.ContainsFunc(containers[i].VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == tokenPath })
			if !taken {
				containers[i].VolumeMounts = append(containers[i].VolumeMounts, corev1.VolumeMount{Name: name, ReadOnly: true, MountPath: tokenPath})
				needed = true
			}
		}
	}
	mount(pod.Spec.InitContainers)
	mount(pod.Spec.Containers)
	if needed && !exists {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Projected: tokenSource()}})
	}
}

// tokenSource is the token, the CA that it is to be shown to, and the namespace.
func tokenSource() *corev1.ProjectedVolumeSource {
	mode, seconds := corev1.ProjectedVolumeSourceDefaultMode, int64(tokenSeconds)
	return &corev1.ProjectedVolumeSource{
		DefaultMode: &mode,
		Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: &seconds}},
			{ConfigMap: &corev1.ConfigMapProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"},
				Items:                []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
			}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{
				Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"},
			}}}},
		},
	}
}

// checkMirror refuses mirror pods that refer to what their node has no right to.
func checkMirror(w *Write, pod *corev1.Pod) error {
	if pod.Spec.ServiceAccountName != "" {
		return w.forbid("a mirror pod may not reference service accounts")
	}
	for range podSecrets(pod) {
		return w.forbid("a mirror pod may not reference secrets")
	}
	for _, v := range pod.Spec.Volumes {
		if v.Projected == nil {
			continue
		}
		for _, source := range v.Projected.Sources {
			if source.ServiceAccountToken != nil {
				return w.forbid("a mirror pod may not use ServiceAccountToken volume projections")
			}
		}
	}
	return nil
}

// checkSecrets compares the secrets that a pod uses with those that its account lists.
func checkSecrets(account *corev1.ServiceAccount, pod *corev1.Pod) error {
	mountable := listedSecrets(account)
	for _, v := range pod.Spec.Volumes {
		if v.Secret != nil && !mountable[v.Secret.SecretName] {
			return fmt.Errorf("volume with secret.secretName=%q is not allowed because service account %s does not reference that secret", v.Secret.SecretName, account.Name)
		}
	}
	for _, c := range pod.Spec.InitContainers {
		if err := checkEnvSecrets("init container", c.Name, c.Env, c.EnvFrom, mountable, account.Name); err != nil {
			return err
		}
	}
	for _, c := range pod.Spec.Containers {
		if err := checkEnvSecrets("container", c.Name, c.Env, c.EnvFrom, mountable, account.Name); err != nil {
			return err
		}
	}
	for i, ref := range pod.Spec.ImagePullSecrets {
		if !slices.Contains(account.ImagePullSecrets, ref) {
			return fmt.Errorf("imagePullSecrets[%d].name=%q is not allowed because service account %s does not reference that imagePullSecret", i, ref.Name, account.Name)
		}
	}
	return nil
}

func checkEphemeralSecrets(account *corev1.ServiceAccount, pod *corev1.Pod) error {
	mountable := listedSecrets(account)
	for _, c := range pod.Spec.EphemeralContainers {
		if err := checkEnvSecrets("ephemeral container", c.Name, c.Env, c.EnvFrom, mountable, account.Name); err != nil {
			return err
		}
	}
	return nil
}

func checkEnvSecrets(kind, name string, env []corev1.EnvVar, from []corev1.EnvFromSource, mountable map[string]bool, account string) error {
	for _, e := range env {
		if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil && !mountable[e.ValueFrom.SecretKeyRef.Name] {
			return fmt.Errorf("%s %s with envVar %s referencing secret.secretName=%q is not allowed because service account %s does not reference that secret",
				kind, name, e.Name, e.ValueFrom.SecretKeyRef.Name, account)
		}
	}
	for _, e := range from {
		if e.SecretRef != nil && !mountable[e.SecretRef.Name] {
			return fmt.Errorf("%s %s with envFrom referencing secret.secretName=%q is not allowed because service account %s does not reference that secret",
				kind, name, e.SecretRef.Name, account)
		}
	}
	return nil
}

func listedSecrets(account *corev1.ServiceAccount) map[string]bool {
	listed := make(map[string]bool, len(account.Secrets))
	for _, ref := range account.Secrets {
		listed[ref.Name] = true
	}
	return listed
}
