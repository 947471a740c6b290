package storagemigration

import (
	"testing"
	"time"

	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/api/kind/kindtest"
)

func TestMigration(t *testing.T) {
	const valid = `{metadata: {name: m}, spec: {resource: {group: apps, resource: deployments}}}`
	kindtest.Holds(t, StorageVersionMigration, valid)
	type M = *storagemigrationv1.StorageVersionMigration
	kindtest.Refuses(t, StorageVersionMigration, valid, []kindtest.Case[M]{
		kindtest.When("no resource", func(m M) { m.Spec.Resource.Resource = "" }, "Required spec.resource.resource"),
		kindtest.When("names", func(m M) { m.Spec.Resource.Resource, m.Spec.Resource.Group = "A", "B" }, "Invalid spec.resource.resource", "Invalid spec.resource.group"),
	})
	kindtest.RefusesUpdate(t, StorageVersionMigration, valid, []kindtest.Case[M]{
		kindtest.When("spec", func(m M) { m.Spec.Resource.Resource = "x" }, "Invalid spec: field is immutable"),
	})
	condition := func(t string) metav1.Condition {
		return metav1.Condition{Type: t, Status: "True", Reason: "X", LastTransitionTime: metav1.NewTime(time.Unix(1, 0))}
	}
	kindtest.RefusesSub(t, StorageVersionMigration, "status", valid, []kindtest.Case[M]{
		kindtest.When("done", func(m M) {
			m.Status.ResourceVersion = "12"
			m.Status.Conditions = append(m.Status.Conditions, condition("Succeeded"))
		}),
		kindtest.When("version", func(m M) { m.Status.ResourceVersion = "x" }, "Invalid status.resourceVersion"),
		kindtest.When("both", func(m M) {
			m.Status.Conditions = append(m.Status.Conditions, condition("Succeeded"), condition("Failed"))
		}, "Invalid status.conditions: Both success and failed conditions cannot be true at the same time"),
	})
	old := kindtest.From[M](t, StorageVersionMigration, valid)
	old.Status.ResourceVersion, old.Status.Conditions = "12", []metav1.Condition{condition("Succeeded")}
	now := old.DeepCopy()
	now.Status = storagemigrationv1.StorageVersionMigrationStatus{}
	if errs := StorageVersionMigration.Subs["status"].Validate(now, old); len(errs) != 2 {
		t.Errorf("a migration set back: %v", errs)
	}
	if row := StorageVersionMigration.Row(old); row[1] != "deployments.apps" || row[2] != "Succeeded" {
		t.Errorf("row %v", row)
	}
}
