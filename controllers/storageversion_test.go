package controllers_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/skifftest"
)

// A migration is carried out once, and changes nothing that is stored as it should
// be; one of a resource that is not served yet waits, and holds up no other.
func TestStorageVersionMigration(t *testing.T) {
	s := tell(t, skifftest.Config{})
	settings, err := s.CoreV1().ConfigMaps("default").Create(s.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "settings"}}, metav1.CreateOptions{})
	s.ok(nil, err)
	for _, resource := range []string{"widgets", "configmaps"} {
		s.ok(s.StoragemigrationV1().StorageVersionMigrations().Create(s.ctx, &storagemigrationv1.StorageVersionMigration{
			ObjectMeta: metav1.ObjectMeta{Name: resource}, Spec: storagemigrationv1.StorageVersionMigrationSpec{Resource: metav1.GroupResource{Resource: resource}}}, metav1.CreateOptions{}))
	}
	is := func(m *storagemigrationv1.StorageVersionMigration, c storagemigrationv1.MigrationConditionType) bool {
		return m != nil && meta.IsStatusConditionTrue(m.Status.Conditions, string(c))
	}
	until(s, "", "configmaps", "migrated", func(m *storagemigrationv1.StorageVersionMigration) bool {
		return is(m, storagemigrationv1.MigrationSucceeded) && !is(m, storagemigrationv1.MigrationRunning) && m.Status.ResourceVersion != ""
	})
	waits, err := s.StoragemigrationV1().StorageVersionMigrations().Get(s.ctx, "widgets", metav1.GetOptions{})
	s.ok(nil, err)
	if len(waits.Status.Conditions) > 0 {
		t.Errorf("a migration of what is not served yet: %+v", waits.Status.Conditions)
	}
	after, err := s.CoreV1().ConfigMaps("default").Get(s.ctx, "settings", metav1.GetOptions{})
	s.ok(nil, err)
	if after.ResourceVersion != settings.ResourceVersion {
		t.Errorf("a config map that is stored as it should be went from %s to %s", settings.ResourceVersion, after.ResourceVersion)
	}
}

// Services get addresses of a range that was added, and the range stays with them.
func TestAnotherServiceRange(t *testing.T) {
	s := tell(t, skifftest.Config{})
	until(s, "", "kubernetes", "in use", func(c *networkingv1.ServiceCIDR) bool {
		return c != nil && len(c.Finalizers) == 1 && meta.IsStatusConditionTrue(c.Status.Conditions, networkingv1.ServiceCIDRConditionReady)
	})
	s.ok(s.NetworkingV1().ServiceCIDRs().Create(s.ctx, &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "extra"},
		Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.168.7.0/24"}}}, metav1.CreateOptions{}))
	until(s, "", "extra", "in use", func(c *networkingv1.ServiceCIDR) bool {
		return c != nil && meta.IsStatusConditionTrue(c.Status.Conditions, networkingv1.ServiceCIDRConditionReady)
	})
	s.ok(s.CoreV1().Services("default").Create(s.ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: corev1.ServiceSpec{ClusterIP: "10.168.7.9", Ports: []corev1.ServicePort{{Port: 80}}}}, metav1.CreateOptions{}))
	until(s, "", "10.168.7.9", "held for the service", func(a *networkingv1.IPAddress) bool {
		return a != nil && a.Spec.ParentRef.Name == "web" && a.Labels[networkingv1.LabelManagedBy] == "ipallocator.k8s.io"
	})
	s.ok(nil, s.NetworkingV1().ServiceCIDRs().Delete(s.ctx, "extra", metav1.DeleteOptions{}))
	until(s, "", "extra", "held by the address", func(c *networkingv1.ServiceCIDR) bool {
		return c != nil && meta.IsStatusConditionFalse(c.Status.Conditions, networkingv1.ServiceCIDRConditionReady)
	})
}
