package pod

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ensureImages gets the container's image, and the images that its volumes show, onto the node.
func (m *Manager) ensureImages(ctx context.Context, r *containerRequest, sandbox *cri.PodSandboxConfig) error {
	p, c := r.pod, r.spec
	note := func(typ, reason, message string) { m.note(p, c, typ, reason, message) }
	var err error
	if r.image, err = m.c.Images.Ensure(ctx, p, c, sandbox, note); err != nil {
		return err
	}
	for i := range c.VolumeMounts {
		source := imageVolume(p, c.VolumeMounts[i].Name)
		if source == nil {
			continue
		}
		asked := &corev1.Container{Name: c.Name, Image: source.Reference, ImagePullPolicy: source.PullPolicy}
		img, err := m.c.Images.Ensure(ctx, p, asked, sandbox, note)
		if err != nil {
			return err
		}
		if r.volumeImages == nil {
			r.volumeImages = map[string]string{}
		}
		r.volumeImages[c.VolumeMounts[i].Name] = img.Id
	}
	return nil
}

// imageVolume is the source of a volume that shows an image, or nil.
func imageVolume(p *corev1.Pod, volume string) *corev1.ImageVolumeSource {
	for i := range p.Spec.Volumes {
		if p.Spec.Volumes[i].Name == volume {
			return p.Spec.Volumes[i].Image
		}
	}
	return nil
}

// imageMounts are the mounts of images into the container: always read-only, and made by the runtime.
func imageMounts(r containerRequest, expand func(string) (string, error)) ([]*cri.Mount, error) {
	var out []*cri.Mount
	for _, vm := range r.spec.VolumeMounts {
		id, ok := r.volumeImages[vm.Name]
		if !ok {
			continue
		}
		sub := vm.SubPath
		if vm.SubPathExpr != "" {
			var err error
			if sub, err = expand(vm.SubPathExpr); err != nil {
				return nil, err
			}
		}
		out = append(out, &cri.Mount{ContainerPath: vm.MountPath, Image: &cri.ImageSpec{Image: id}, ImageSubPath: sub, Readonly: true})
	}
	return out, nil
}
