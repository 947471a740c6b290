package serviceaccount

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/client"
	"skiff/controllers/rehearsal"
)

func TestEveryNamespaceHasItsAccount(t *testing.T) {
	w := rehearsal.New(t, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Controller())
	w.Put(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "a"}})
	w.Settle()
	account, ok := client.Find[*corev1.ServiceAccount](w.View, "a", name)
	if !ok {
		t.Fatal("there is none")
	}
	w.Remove(account)
	w.Settle()
	if _, ok := client.Find[*corev1.ServiceAccount](w.View, "a", name); !ok {
		t.Error("a deleted account does not come back")
	}
}
