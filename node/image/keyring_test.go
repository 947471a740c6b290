package image

import (
	"encoding/base64"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestKeyring(t *testing.T) {
	auth := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	var ring Keyring
	ring.Add(&corev1.Secret{Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte(fmt.Sprintf(`{"auths": {
		"https://index.docker.io/v1/": {"auth": %q},
		"gcr.io/project": {"username": "narrow", "password": "p"},
		"gcr.io": {"username": "wide", "password": "p"},
		"*.example.com": {"username": "glob", "password": "p"},
		"host:5000": {"username": "port", "password": "p"}}}`, auth("hub:pass:with:colons")))}})
	ring.Add(&corev1.Secret{Type: corev1.SecretTypeDockercfg, Data: map[string][]byte{corev1.DockerConfigKey: []byte(`{"old.example": {"username": "legacy", "password": "p"}}`)}})
	ring.Add(&corev1.Secret{Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte("{broken")}})
	ring.Add(&corev1.Secret{Type: corev1.SecretTypeOpaque, Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte(`{"auths": {"opaque.example": {"username": "x"}}}`)}})
	for image, want := range map[string]string{
		"busybox":                  "hub",
		"docker.io/library/x:1":    "hub",
		"gcr.io/project/app":       "narrow wide",
		"gcr.io/other/app":         "wide",
		"eu.example.com/x":         "glob",
		"a.b.example.com/x":        "",
		"host:5000/x":              "port",
		"host:5001/x":              "",
		"old.example/x":            "legacy",
		"opaque.example/x":         "",
		"quay.io/x":                "",
		"gcr.io/project/x@sha256:": "",
	} {
		got := ""
		for _, a := range ring.Lookup(image) {
			if got != "" {
				got += " "
			}
			got += a.Username
		}
		if got != want {
			t.Errorf("%s: %q, want %q", image, got, want)
		}
	}
	if a := ring.Lookup("busybox"); len(a) == 1 && a[0].Password != "pass:with:colons" {
		t.Errorf("password %q", a[0].Password)
	}
}

func TestPolicy(t *testing.T) {
	for image, want := range map[string]corev1.PullPolicy{
		"x": corev1.PullAlways, "x:latest": corev1.PullAlways, "x:1": corev1.PullIfNotPresent, "host:5000/x": corev1.PullAlways,
		"x@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855": corev1.PullIfNotPresent,
	} {
		if got := Policy(&corev1.Container{Image: image}); got != want {
			t.Errorf("%s: %s, want %s", image, got, want)
		}
	}
}
