package volume

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/api"
	"skiff/client"
)

// signed is an API whose signer answers each request with the given status at once.
type signed struct {
	client.Client
	status certificatesv1.PodCertificateRequestStatus
	made   []*certificatesv1.PodCertificateRequest
}

func (s *signed) Get(_ context.Context, r *api.Resource, _, name string) (api.Object, error) {
	if r == api.For[*corev1.Node]() {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "node-uid"}}, nil
	}
	return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "account-uid"}}, nil
}

func (s *signed) Create(_ context.Context, obj api.Object) (api.Object, error) {
	r := obj.DeepCopyObject().(*certificatesv1.PodCertificateRequest)
	r.Name, r.Status = "req-1", s.status
	s.made = append(s.made, r)
	return r, nil
}

func (s *signed) Follow(ctx context.Context, _ ...client.Source) *client.Feed {
	c := make(chan client.Batch, 1)
	c <- client.Batch{Changes: []client.Change{{New: s.made[len(s.made)-1]}}}
	context.AfterFunc(ctx, func() { close(c) })
	return &client.Feed{C: c}
}

func ended(condition string, begin time.Time) certificatesv1.PodCertificateRequestStatus {
	at := metav1.NewTime(begin)
	return certificatesv1.PodCertificateRequestStatus{CertificateChain: "a remark\n" + certificate("leaf") + certificate("root"), BeginRefreshAt: &at,
		Conditions: []metav1.Condition{{Type: condition, Status: metav1.ConditionTrue, Reason: "Because", Message: "of that"}}}
}

func TestPodCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := &signed{status: ended("Issued", time.Now().Add(time.Hour))}
		m := New(Config{Client: api})
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "p", UID: "pod-uid"}, Spec: corev1.PodSpec{NodeName: "n1", ServiceAccountName: "default"}}
		v := &podVolumes{pod: p, credentials: map[string]*credential{}}
		source := &corev1.PodCertificateProjection{SignerName: "example.com/pods", KeyType: "ED25519", CredentialBundlePath: "all.pem", KeyPath: "key.pem", CertificateChainPath: "chain.pem"}
		write := func() (map[string]file, error) {
			files := map[string]file{}
			return files, m.certificate(t.Context(), files, v, p, "tls/0", source, 0o644)
		}
		files, err := write()
		if err != nil {
			t.Fatal(err)
		}
		chain := certificate("leaf") + certificate("root")
		if got := string(files["chain.pem"].data); got != chain {
			t.Errorf("chain %q", got)
		}
		if got, want := string(files["all.pem"].data), string(files["key.pem"].data)+chain; got != want || !strings.HasPrefix(got, "-----BEGIN PRIVATE KEY") {
			t.Errorf("bundle %q", got)
		}
		holds(t, files["key.pem"].data, api.made[0])
		if _, err := write(); err != nil || len(api.made) != 1 {
			t.Errorf("asked %d times (%v) before it is time", len(api.made), err)
		}
		if v.due.After(time.Now().Add(time.Hour+5*time.Minute)) || v.due.Before(time.Now().Add(time.Hour)) {
			t.Errorf("renewed at %s", v.due)
		}
		time.Sleep(66 * time.Minute)
		if renewed, err := write(); err != nil || len(api.made) != 2 || string(renewed["key.pem"].data) == string(files["key.pem"].data) {
			t.Errorf("not renewed: asked %d times, %v", len(api.made), err)
		}
	})
}

// holds: the request is for the pod, and the key is the one that it proves.
func holds(t *testing.T, key []byte, r *certificatesv1.PodCertificateRequest) {
	t.Helper()
	if s := r.Spec; s.PodUID != "pod-uid" || s.NodeUID != "node-uid" || s.ServiceAccountUID != "account-uid" || s.SignerName != "example.com/pods" || r.Namespace != "x" {
		t.Errorf("request %+v", r)
	}
	block, _ := pem.Decode(key)
	private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	proof, err := x509.ParseCertificateRequest(r.Spec.StubPKCS10Request)
	if err != nil || proof.CheckSignature() != nil {
		t.Fatalf("proof: %v", err)
	}
	if got := private.(ed25519.PrivateKey).Public().(ed25519.PublicKey); !got.Equal(proof.PublicKey) {
		t.Error("the proof is of another key")
	}
}

func TestPodCertificateThatIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := &signed{status: ended("Denied", time.Now())}
		m := New(Config{Client: api})
		p := &corev1.Pod{Spec: corev1.PodSpec{NodeName: "n1"}}
		v := &podVolumes{pod: p, credentials: map[string]*credential{}}
		for range 3 {
			err := m.certificate(t.Context(), map[string]file{}, v, p, "tls/0", &corev1.PodCertificateProjection{KeyType: "ECDSAP256"}, 0o644)
			if want := `PodCertificateRequest was permanently denied: reason="Because" message="of that"`; err == nil || err.Error() != want {
				t.Errorf("got %v, want %s", err, want)
			}
		}
		if len(api.made) != 1 {
			t.Errorf("asked %d times: a refusal is for good", len(api.made))
		}
	})
}

// A signer that takes its time: the attempt ends, and the next one waits for the same request.
func TestPodCertificateThatTakesLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := &signed{}
		m := New(Config{Client: api})
		p := &corev1.Pod{Spec: corev1.PodSpec{NodeName: "n1"}}
		v := &podVolumes{pod: p, credentials: map[string]*credential{}}
		source := &corev1.PodCertificateProjection{KeyType: "ECDSAP256", KeyPath: "key.pem"}
		if err := m.certificate(t.Context(), map[string]file{}, v, p, "tls/0", source, 0o644); err != errNotIssued {
			t.Errorf("got %v, want %v", err, errNotIssued)
		}
		api.made[0].Status = ended("Issued", time.Now().Add(time.Hour))
		files := map[string]file{}
		if err := m.certificate(t.Context(), files, v, p, "tls/0", source, 0o644); err != nil || len(api.made) != 1 || files["key.pem"].data == nil {
			t.Errorf("asked %d times, %v", len(api.made), err)
		}
	})
}
