package controllers_test

import (
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/skifftest"
)

func TestCronJobs(t *testing.T) {
	s := tell(t, skifftest.Config{Nodes: 3})
	s.ok(s.BatchV1().CronJobs("default").Create(s.ctx, &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "tidy"}, Spec: batchv1.CronJobSpec{
		Schedule: "@every 1s", ConcurrencyPolicy: batchv1.ForbidConcurrent, JobTemplate: batchv1.JobTemplateSpec{Spec: jobOf("", "0").Spec},
	}}, metav1.CreateOptions{}))
	c := until(s, "default", "tidy", "succeeded", func(c *batchv1.CronJob) bool {
		return c.Status.LastSuccessfulTime != nil && len(c.Status.Active) == 0
	})
	if c.Status.LastScheduleTime == nil {
		t.Errorf("status %+v", c.Status)
	}
	jobs, err := s.BatchV1().Jobs("default").List(s.ctx, metav1.ListOptions{})
	s.ok(jobs, err)
	if len(jobs.Items) == 0 || jobs.Items[0].Status.Succeeded != 1 {
		t.Errorf("jobs %+v", jobs.Items)
	}
}
