package pod

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// pulls remembers what was asked for, and answers with an ID made of the name.
type pulls struct{ asked []string }

func (s *pulls) Ensure(_ context.Context, _ *corev1.Pod, c *corev1.Container, _ *cri.PodSandboxConfig, _ func(typ, reason, message string)) (*cri.Image, error) {
	s.asked = append(s.asked, c.Image+" "+string(c.ImagePullPolicy))
	return &cri.Image{Id: "id of " + c.Image}, nil
}

func TestImageVolumes(t *testing.T) {
	images := &pulls{}
	m := &Manager{c: Config{Images: images, Recorder: record.NewFakeRecorder(10)}}
	p := &corev1.Pod{Spec: corev1.PodSpec{Volumes: []corev1.Volume{
		{Name: "model", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: "example/model:v1", PullPolicy: corev1.PullAlways}}},
		{Name: "other", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
	}}}
	c := &corev1.Container{Name: "a", Image: "example/app:v1", VolumeMounts: []corev1.VolumeMount{
		{Name: "model", MountPath: "/model", SubPath: "weights"}, {Name: "other", MountPath: "/tmp"},
	}}
	r := containerRequest{pod: p, spec: c}
	if err := m.ensureImages(context.Background(), &r, nil); err != nil {
		t.Fatal(err)
	}
	if want := []string{"example/app:v1 ", "example/model:v1 Always"}; len(images.asked) != 2 || images.asked[0] != want[0] || images.asked[1] != want[1] {
		t.Errorf("asked for %q, want %q", images.asked, want)
	}
	mounts, err := imageMounts(r, nil)
	if err != nil || len(mounts) != 1 {
		t.Fatalf("%v, %v", mounts, err)
	}
	got := mounts[0]
	if got.ContainerPath != "/model" || got.Image.GetImage() != "id of example/model:v1" || got.ImageSubPath != "weights" || !got.Readonly || got.HostPath != "" {
		t.Errorf("mount %+v", got)
	}
}
