package main

import (
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"skiff/cluster/local"
	"skiff/image"
)

// privateHost is a registry that is reached through a mirror only.
const privateHost = "private.example"

// privateRegistry makes a registry that asks for a password, at the address that the
// nodes know the machine by, and has the cluster resumed with it as a mirror.
func (s *story) privateRegistry() (address string) {
	s.t.Helper()
	spec, err := local.Load(s.dir)
	if err != nil {
		s.t.Fatal(err)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(free.Addr().String())
	free.Close()
	address = net.JoinHostPort(spec.Ranges().Host().String(), port)
	if out, err := s.run(s.skiffPath, "up", "--name", s.name, "--data-dir", s.dir, "--registry-mirror", privateHost+"=http://"+address); err == nil || !strings.Contains(out, "skiff stop") {
		s.t.Errorf("other mirrors for a cluster that runs: %v\n%s", err, out)
	}
	s.skiff("stop")
	s.skiff("up", "--registry-mirror", privateHost+"=http://"+address)
	l, err := net.Listen("tcp", address)
	if err != nil {
		s.t.Fatal(err)
	}
	images := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "me" || password != "secret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="private"`)
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		images.ServeHTTP(w, r)
	}))
	server.Listener.Close()
	server.Listener = l
	server.Start()
	s.t.Cleanup(server.Close)
	return address
}

// A pod gets an image from a registry with a password if it, or its service account,
// names the secret, and not else.
func (s *story) pullSecrets(address string) {
	s.t.Helper()
	root, _ := s.toolsRoot()
	img, err := image.Build(s.ctx, root, image.Options{Entrypoint: []string{"/bin/sleep", "1000"}})
	if err != nil {
		s.t.Fatal(err)
	}
	ref, err := name.ParseReference(address+"/team/tools:v1", name.Insecure)
	if err == nil {
		err = remote.Write(ref, img, remote.WithAuth(&authn.Basic{Username: "me", Password: "secret"}))
	}
	if err != nil {
		s.t.Fatal(err)
	}
	of := privateHost + "/team/tools:v1"
	s.kubectl("create", "namespace", "private")
	s.kubectl("create", "secret", "docker-registry", "pull", "-n", "private", "--docker-server="+privateHost, "--docker-username=me", "--docker-password=secret")
	s.kubectl("run", "without", "-n", "private", "--image="+of)
	s.kubectl("run", "with", "-n", "private", "--image="+of, `--overrides={"spec":{"imagePullSecrets":[{"name":"pull"}]}}`)
	s.kubectl("wait", "pod/with", "-n", "private", "--for=condition=Ready", "--timeout=30s")
	s.kubectl("wait", "pod/without", "-n", "private", "--for=jsonpath={.status.containerStatuses[0].state.waiting.reason}=ImagePullBackOff", "--timeout=30s")
	if events := s.kubectl("get", "events", "-n", "private", "--field-selector=reason=Failed,involvedObject.name=without", "-o", "jsonpath={.items[*].message}"); !strings.Contains(events, of) {
		s.t.Errorf("the events of the pod without say %q", events)
	}
	s.kubectl("patch", "serviceaccount", "default", "-n", "private", "-p", `{"imagePullSecrets":[{"name":"pull"}]}`)
	s.kubectl("run", "later", "-n", "private", "--image="+of, "--image-pull-policy=Always")
	s.kubectl("wait", "pod/later", "-n", "private", "--for=condition=Ready", "--timeout=30s")
	s.kubectl("delete", "namespace", "private", "--wait=false")
}
