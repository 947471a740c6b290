package bootstraptoken

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/client"
	"skiff/controllers/rehearsal"
)

func TestExpiredTokensGo(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	w := rehearsal.New(t, start, Controller())
	put := func(name string, kind corev1.SecretType, expiration string) {
		w.Put(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: name}, Type: kind, Data: map[string][]byte{"expiration": []byte(expiration)}})
	}
	put("soon", secretType, start.Add(time.Minute).Format(time.RFC3339))
	put("never", secretType, "")
	put("unreadable", secretType, "tomorrow")
	put("another", corev1.SecretTypeOpaque, start.Add(-time.Minute).Format(time.RFC3339))
	check := func(name string, want bool) {
		t.Helper()
		if _, ok := client.Find[*corev1.Secret](w.View, "kube-system", name); ok != want {
			t.Errorf("%s is there: %v", name, ok)
		}
	}
	w.Advance(59 * time.Second)
	check("soon", true)
	check("unreadable", false)
	w.Advance(time.Second)
	check("soon", false)
	check("never", true)
	check("another", true)
}
