package volume

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff/node/pod"
)

// Virtual are the volumes of simulated nodes: no files, but a pod still waits for
// the config maps and secrets that it names.
type Virtual struct{ References pod.References }

var _ pod.Volumes = Virtual{}

// SetUp checks that what the volumes name is there.
func (v Virtual) SetUp(ctx context.Context, p *corev1.Pod) error {
	for i := range p.Spec.Volumes {
		vol := &p.Spec.Volumes[i]
		var err error
		optional := false
		switch {
		case vol.ConfigMap != nil:
			optional = vol.ConfigMap.Optional != nil && *vol.ConfigMap.Optional
			_, err = v.References.ConfigMap(ctx, p.Namespace, vol.ConfigMap.Name)
		case vol.Secret != nil:
			optional = vol.Secret.Optional != nil && *vol.Secret.Optional
			_, err = v.References.Secret(ctx, p.Namespace, vol.Secret.SecretName)
		}
		if err != nil && !(optional && apierrors.IsNotFound(err)) {
			return fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", vol.Name, err)
		}
	}
	return nil
}

func (Virtual) Mounts(context.Context, *corev1.Pod, *corev1.Container, func(string) (string, error)) ([]*cri.Mount, error) {
	return nil, nil
}

func (Virtual) TearDown(context.Context, *corev1.Pod) error { return nil }

// Updated does nothing: there are no files.
func (Virtual) Updated(*corev1.Pod) {}
