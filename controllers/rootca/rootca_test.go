package rootca

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/client"
	"skiff/controllers/rehearsal"
)

func TestEveryNamespaceHasTheAuthority(t *testing.T) {
	w := rehearsal.New(t, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Controller([]byte("PEM")))
	w.Put(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "a"}})
	w.Put(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ending"}, Status: corev1.NamespaceStatus{Phase: corev1.NamespaceTerminating}})
	w.Settle()
	cm, ok := client.Find[*corev1.ConfigMap](w.View, "a", name)
	if !ok || cm.Data["ca.crt"] != "PEM" {
		t.Fatalf("config map %v", cm)
	}
	if _, ok := client.Find[*corev1.ConfigMap](w.View, "ending", name); ok {
		t.Error("a namespace that is ending gets new objects")
	}
	broken := cm.DeepCopy()
	broken.Data = map[string]string{"ca.crt": "another"}
	w.Put(broken)
	w.Settle()
	if cm, _ := client.Find[*corev1.ConfigMap](w.View, "a", name); cm.Data["ca.crt"] != "PEM" {
		t.Error("a changed authority stays changed")
	}
	w.Remove(cm)
	w.Settle()
	if _, ok := client.Find[*corev1.ConfigMap](w.View, "a", name); !ok {
		t.Error("a deleted authority stays deleted")
	}
}
