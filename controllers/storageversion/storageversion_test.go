package storageversion

import (
	"testing"
	"testing/synctest"
	"time"

	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/api"
)

// A definition may follow its migration within a minute; then a missing resource is a mistake.
func TestAResourceThatIsNotServedYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := Config{Resources: func() []*api.Resource { return api.Catalogue }}
		of := func(resource string) *storagemigrationv1.StorageVersionMigration {
			return &storagemigrationv1.StorageVersionMigration{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.Now()},
				Spec: storagemigrationv1.StorageVersionMigrationSpec{Resource: metav1.GroupResource{Resource: resource}}}
		}
		pods, widgets := of("pods"), of("widgets")
		if c.early(pods) || !c.early(widgets) {
			t.Error("at once: pods are served, widgets may come")
		}
		time.Sleep(time.Minute)
		if c.early(widgets) {
			t.Error("after a minute: widgets may still come")
		}
	})
}
