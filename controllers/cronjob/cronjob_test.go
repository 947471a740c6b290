package cronjob

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/client"
	"skiff/controllers/rehearsal"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

type stage struct {
	*rehearsal.World
	t *testing.T
}

// play is a world with a CronJob that is due every ten minutes in UTC.
func play(t *testing.T, change func(*batchv1.CronJobSpec)) *stage {
	s := &stage{rehearsal.New(t, start, Controller()), t}
	c := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "tidy"}, Spec: batchv1.CronJobSpec{
		Schedule: "*/10 * * * *", TimeZone: new("Etc/UTC"), ConcurrencyPolicy: batchv1.AllowConcurrent,
		SuccessfulJobsHistoryLimit: new(int32(1)), FailedJobsHistoryLimit: new(int32(1)),
		JobTemplate: batchv1.JobTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "tidy"}}},
	}}
	if change != nil {
		change(&c.Spec)
	}
	s.Put(c)
	s.Settle()
	return s
}

func (s *stage) cron() *batchv1.CronJob {
	c, _ := client.Find[*batchv1.CronJob](s.View, "a", "tidy")
	return c
}

// jobs lists the times of the Jobs, with their end.
func (s *stage) jobs() (out []string) {
	for job := range client.All[*batchv1.Job](s.View, "a") {
		at, _ := timeOf(job)
		line := at.UTC().Format("15:04")
		if end := endOf(job); end != "" {
			line += " " + string(end)
		}
		out = append(out, line)
	}
	return out
}

func (s *stage) expect(want ...string) {
	s.t.Helper()
	if got := s.jobs(); !slices.Equal(got, want) {
		s.t.Errorf("jobs at %q, want %q", got, want)
	}
	running := 0
	for job := range client.All[*batchv1.Job](s.View, "a") {
		if endOf(job) == "" {
			running++
		}
	}
	if n := len(s.cron().Status.Active); n != running {
		s.t.Errorf("%d jobs are listed as active, %d are", n, running)
	}
}

// end lets all running Jobs end.
func (s *stage) end(how batchv1.JobConditionType) {
	for _, job := range slices.Collect(client.All[*batchv1.Job](s.View, "a")) {
		if endOf(job) != "" {
			continue
		}
		next := job.DeepCopy()
		next.Status.StartTime = &metav1.Time{Time: s.Now}
		next.Status.Conditions = []batchv1.JobCondition{{Type: how, Status: corev1.ConditionTrue}}
		if how == batchv1.JobComplete {
			next.Status.CompletionTime = &metav1.Time{Time: s.Now}
		}
		s.Put(next)
	}
	s.Settle()
}

func (s *stage) heard(text string) bool {
	return slices.ContainsFunc(s.Events, func(e string) bool { return strings.HasPrefix(e, text) })
}

func TestAJobStartsWhenItsTimeHasCome(t *testing.T) {
	s := play(t, nil)
	s.Advance(5 * time.Minute)
	s.expect()
	s.Advance(time.Minute)
	s.expect("03:10")
	job, ok := client.Find[*batchv1.Job](s.View, "a", fmt.Sprint("tidy-", time.Date(2026, 1, 2, 3, 10, 0, 0, time.UTC).Unix()/60))
	if !ok || job.Labels["app"] != "tidy" || job.Annotations[batchv1.CronJobScheduledTimestampAnnotation] != "2026-01-02T03:10:00Z" {
		t.Errorf("job %v", job)
	}
	s.end(batchv1.JobComplete)
	if st := s.cron().Status; len(st.Active) != 0 || st.LastSuccessfulTime == nil || st.LastScheduleTime.Minute() != 10 {
		t.Errorf("status %+v", st)
	}
	s.Advance(10 * time.Minute)
	s.expect("03:10 Complete", "03:20")
	s.end(batchv1.JobComplete)
	s.expect("03:20 Complete") // the history keeps one
	if !s.heard("SuccessfulCreate Created job tidy-") || !s.heard("SawCompletedJob Saw completed job: tidy-") || !s.heard("SuccessfulDelete Deleted job tidy-") {
		t.Errorf("events %q", s.Events)
	}
}

func TestWhatRunsWhenTheNextIsDue(t *testing.T) {
	for policy, want := range map[batchv1.ConcurrencyPolicy][]string{
		batchv1.AllowConcurrent: {"03:10", "03:20"}, batchv1.ForbidConcurrent: {"03:10"}, batchv1.ReplaceConcurrent: {"03:20"},
	} {
		t.Run(string(policy), func(t *testing.T) {
			s := play(t, func(c *batchv1.CronJobSpec) { c.ConcurrencyPolicy = policy })
			s.Advance(6 * time.Minute)
			s.Advance(10 * time.Minute)
			s.expect(want...)
		})
	}
}

func TestWhatWasForbiddenRunsLate(t *testing.T) {
	s := play(t, func(c *batchv1.CronJobSpec) { c.ConcurrencyPolicy = batchv1.ForbidConcurrent })
	s.Advance(6 * time.Minute)
	s.Advance(12 * time.Minute)
	if !s.heard("JobAlreadyActive") {
		t.Errorf("events %q", s.Events)
	}
	s.end(batchv1.JobFailed)
	s.expect("03:10 Failed", "03:20")
}

func TestOnlyTheLastOfTheMissedRuns(t *testing.T) {
	s := play(t, nil)
	s.Advance(35 * time.Minute)
	s.expect("03:30")
	s = play(t, nil)
	s.Advance(1000*time.Hour + 6*time.Minute)
	s.expect("19:10")
	if !s.heard("TooManyMissedTimes") {
		t.Errorf("events %q", s.Events)
	}
}

func TestTheStartingDeadline(t *testing.T) {
	s := play(t, func(c *batchv1.CronJobSpec) { c.StartingDeadlineSeconds = new(int64(60)) })
	s.Advance(8 * time.Minute) // nobody decided at 03:10
	s.expect()
	s.Advance(8 * time.Minute)
	s.expect("03:20")
}

func TestSuspended(t *testing.T) {
	s := play(t, func(c *batchv1.CronJobSpec) { c.Suspend = new(true) })
	s.Advance(time.Hour)
	s.expect()
}

func TestTimeZones(t *testing.T) {
	s := play(t, func(c *batchv1.CronJobSpec) { c.Schedule, c.TimeZone = "30 5 * * *", new("Europe/Berlin") })
	s.Advance(25 * time.Minute)
	s.expect()
	s.Advance(time.Hour + time.Minute)
	s.expect("04:30")
}

func TestEvery(t *testing.T) {
	s := play(t, func(c *batchv1.CronJobSpec) { c.Schedule = "@every 7m" })
	s.Advance(7 * time.Minute)
	s.expect("03:11")
	s.Advance(7 * time.Minute)
	s.expect("03:11", "03:18")
}

func TestBadSchedulesAreTold(t *testing.T) {
	for schedule, want := range map[string]string{"59 23 31 2 *": "InvalidSchedule", "TZ=0": "UnparseableSchedule", "x": "UnparseableSchedule"} {
		s := play(t, func(c *batchv1.CronJobSpec) { c.Schedule = schedule })
		s.Advance(time.Hour)
		s.expect()
		if !s.heard(want) {
			t.Errorf("%q: events %q", schedule, s.Events)
		}
	}
	s := play(t, func(c *batchv1.CronJobSpec) { c.TimeZone = new("Atlantis") })
	if !s.heard("UnknownTimeZone") {
		t.Errorf("events %q", s.Events)
	}
}

func TestALostStatusIsFoundAgain(t *testing.T) {
	s := play(t, nil)
	s.Advance(6 * time.Minute)
	c := s.cron().DeepCopy()
	c.Status = batchv1.CronJobStatus{}
	s.Put(c)
	s.Settle()
	s.expect("03:10")
	if st := s.cron().Status; st.LastScheduleTime == nil || len(st.Active) != 1 {
		t.Errorf("status %+v", st)
	}
}
