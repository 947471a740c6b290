// Package image gets images onto the node and off it again: pull policy, bounded
// parallel pulls, credentials from imagePullSecrets, and garbage collection when
// the disk fills up. Package pod asks for a container's image and holds the
// back-off between pulls; package node runs the collection.
package image

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff/node/runtime"
)

// Error is why a container has no image, as its status shows it.
type Error struct {
	Reason, Message string
	Pull            bool // a pull failed, so that pulls back off
}

func (e *Error) Error() string { return e.Reason + ": " + e.Message }

// Secrets give the pull secrets that pods name.
type Secrets interface {
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
}

// Config is what a Store works with.
type Config struct {
	Runtime runtime.Runtime
	Secrets Secrets
	// Parallel is how many pulls run at once. 0 means 4.
	Parallel int
}

// Store are the images of one node.
type Store struct {
	c     Config
	slots chan struct{}
}

// New makes a Store.
func New(c Config) *Store {
	if c.Parallel == 0 {
		c.Parallel = 4
	}
	return &Store{c: c, slots: make(chan struct{}, c.Parallel)}
}

// Ensure returns the container's image, pulled if its policy asks for that. note
// records events about the container. The error is an *Error.
func (s *Store) Ensure(ctx context.Context, p *corev1.Pod, c *corev1.Container, sandbox *cri.PodSandboxConfig, note func(typ, reason, message string)) (*cri.Image, error) {
	named, err := withTag(c.Image)
	if err != nil {
		message := fmt.Sprintf("Failed to apply default image tag %q: %v", c.Image, err)
		note(corev1.EventTypeWarning, "InspectFailed", message)
		return nil, &Error{Reason: "InvalidImageName", Message: message}
	}
	spec := &cri.ImageSpec{Image: named, UserSpecifiedImage: c.Image, Annotations: maps.Clone(p.Annotations)}
	if Policy(c) != corev1.PullAlways {
		img, err := s.c.Runtime.ImageStatus(ctx, spec)
		if err != nil {
			message := fmt.Sprintf("Failed to inspect image %q: %v", c.Image, err)
			note(corev1.EventTypeWarning, "InspectFailed", message)
			return nil, &Error{Reason: "ImageInspectError", Message: message}
		}
		if img != nil {
			note(corev1.EventTypeNormal, "Pulled", fmt.Sprintf("Container image %q already present on machine and can be accessed by the pod", c.Image))
			return img, nil
		}
		if Policy(c) == corev1.PullNever {
			message := fmt.Sprintf("Container image %q is not present with pull policy of Never", c.Image)
			note(corev1.EventTypeWarning, "ErrImageNeverPull", message)
			return nil, &Error{Reason: "ErrImageNeverPull", Message: message}
		}
	}
	return s.pull(ctx, p, c, spec, sandbox, note)
}

// Policy is the container's pull policy, with the default for one that has none.
func Policy(c *corev1.Container) corev1.PullPolicy {
	if c.ImagePullPolicy != "" {
		return c.ImagePullPolicy
	}
	if named, err := withTag(c.Image); err == nil && strings.HasSuffix(named, ":latest") {
		return corev1.PullAlways
	}
	return corev1.PullIfNotPresent
}

// withTag gives a reference without tag and digest the tag latest, and leaves
// all others as they are written.
func withTag(image string) (string, error) {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return "", fmt.Errorf("couldn't parse image reference %q: %v", image, err)
	}
	if reference.IsNameOnly(named) {
		return image + ":latest", nil
	}
	return image, nil
}

func (s *Store) pull(ctx context.Context, p *corev1.Pod, c *corev1.Container, spec *cri.ImageSpec, sandbox *cri.PodSandboxConfig, note func(typ, reason, message string)) (*cri.Image, error) {
	credentials := s.credentials(ctx, p, spec.Image, note)
	note(corev1.EventTypeNormal, "Pulling", fmt.Sprintf("Pulling image %q", c.Image))
	asked := time.Now()
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return nil, &Error{Reason: "ErrImagePull", Message: ctx.Err().Error(), Pull: true}
	}
	began := time.Now()
	ref, err := s.tryAll(ctx, spec, credentials, sandbox)
	if err != nil {
		note(corev1.EventTypeWarning, "Failed", fmt.Sprintf("Failed to pull image %q: %v", c.Image, err))
		return nil, pullError(c.Image, err)
	}
	img, err := s.c.Runtime.ImageStatus(ctx, &cri.ImageSpec{Image: ref})
	if err != nil || img == nil {
		img = &cri.Image{Id: ref}
	}
	note(corev1.EventTypeNormal, "Pulled", fmt.Sprintf("Successfully pulled image %q in %v (%v including waiting). Image size: %v bytes.",
		c.Image, time.Since(began).Truncate(time.Millisecond), time.Since(asked).Truncate(time.Millisecond), img.Size))
	return img, nil
}

// tryAll pulls with each credential in turn, or without one where none fits.
func (s *Store) tryAll(ctx context.Context, spec *cri.ImageSpec, credentials []*cri.AuthConfig, sandbox *cri.PodSandboxConfig) (ref string, err error) {
	if len(credentials) == 0 {
		return s.c.Runtime.PullImage(ctx, spec, nil, sandbox)
	}
	for _, auth := range credentials {
		if ref, err = s.c.Runtime.PullImage(ctx, spec, auth, sandbox); err == nil {
			return ref, nil
		}
	}
	return "", err
}

// pullError names the failures that a runtime tells apart.
func pullError(image string, err error) *Error {
	text := runtime.Message(err)
	for name, why := range map[string]string{"RegistryUnavailable": "the registry is unavailable", "SignatureValidationFailed": "the signature validation failed"} {
		if rest, ok := strings.CutPrefix(text, name); ok {
			return &Error{Reason: name, Message: fmt.Sprintf("image pull failed for %s because %s%s", image, why, rest), Pull: true}
		}
	}
	return &Error{Reason: "ErrImagePull", Message: err.Error(), Pull: true}
}

func (s *Store) credentials(ctx context.Context, p *corev1.Pod, image string, note func(typ, reason, message string)) []*cri.AuthConfig {
	var ring Keyring
	var missing []string
	for _, ref := range p.Spec.ImagePullSecrets {
		if ref.Name == "" || s.c.Secrets == nil {
			continue
		}
		secret, err := s.c.Secrets.Secret(ctx, p.Namespace, ref.Name)
		if err != nil {
			missing = append(missing, ref.Name)
			continue
		}
		ring.Add(secret)
	}
	if len(missing) > 0 {
		note(corev1.EventTypeWarning, "FailedToRetrieveImagePullSecret", fmt.Sprintf("Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", strings.Join(missing, ", ")))
	}
	return ring.Lookup(image)
}
