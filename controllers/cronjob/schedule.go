package cronjob

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"

	"skiff/controllers/loop"
)

// schedule starts a Job if its time has come, and asks to be woken at the next.
func (d *decision) schedule() {
	zone, plan := d.read()
	if plan == nil || d.cron.Spec.Suspend != nil && *d.cron.Spec.Suspend {
		return
	}
	from := d.cron.CreationTimestamp.Time
	if last := d.next.Status.LastScheduleTime; last != nil {
		from = last.Time
	}
	earliest := from
	if limit := d.cron.Spec.StartingDeadlineSeconds; limit != nil {
		if t := d.now.Add(-time.Duration(*limit) * time.Second); t.After(earliest) {
			earliest = t
		}
	}
	due, missed, err := latest(plan, earliest, d.now)
	if err != nil {
		d.tell(loop.Warning(d.cron, "InvalidSchedule", fmt.Sprintf("invalid schedule: %s : %s", d.cron.Spec.Schedule, err)))
		return
	}
	next := plan.Next(d.now)
	if _, steady := plan.(cron.ConstantDelaySchedule); steady {
		last, _, _ := latest(plan, from, d.now) // its times count from the last one
		if last.IsZero() {
			last = from
		}
		next = plan.Next(last)
	}
	d.plan.WakeAt = next
	if due.IsZero() {
		return
	}
	if missed > tooMany {
		d.tell(loop.Warning(d.cron, "TooManyMissedTimes", "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew"))
	}
	d.startAt(due, zone)
}

// startAt starts the Job of a time, if those that run allow it.
func (d *decision) startAt(due time.Time, zone *time.Location) {
	if limit := d.cron.Spec.StartingDeadlineSeconds; limit != nil && due.Add(time.Duration(*limit)*time.Second).Before(d.now) {
		d.tell(loop.Warning(d.cron, "MissSchedule", "Missed scheduled time to start a job: "+due.UTC().Format(time.RFC1123Z)))
		return
	}
	running := d.next.Status.Active
	switch d.cron.Spec.ConcurrencyPolicy {
	case batchv1.ForbidConcurrent:
		if len(running) > 0 {
			d.tell(loop.Normal(d.cron, "JobAlreadyActive", "Not starting job because prior execution is running and concurrency policy is Forbid"))
			return
		}
	case batchv1.ReplaceConcurrent:
		for _, job := range d.jobs {
			for _, r := range running {
				if r.UID == job.UID {
					d.delete(job)
				}
			}
		}
	}
	d.start(due, zone)
}

// read returns the schedule in its time zone; nil where it cannot be read, of
// which users are told.
func (d *decision) read() (zone *time.Location, plan cron.Schedule) {
	text := d.cron.Spec.Schedule
	zone = time.Local // the zone of "", as the controller runs in
	if strings.Contains(text, "TZ") {
		d.tell(loop.Warning(d.cron, "UnsupportedSchedule", fmt.Sprintf("CRON_TZ or TZ used in schedule %q is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details", text)))
	}
	if name := d.cron.Spec.TimeZone; name != nil {
		var err error
		if zone, err = time.LoadLocation(*name); err != nil {
			d.tell(loop.Warning(d.cron, "UnknownTimeZone", fmt.Sprintf("invalid timeZone: %q: %s", *name, err)))
			return nil, nil
		}
		if !strings.Contains(text, "TZ") {
			text = "TZ=" + *name + " " + text
		}
	}
	plan, err := parse(text)
	if err != nil {
		d.tell(loop.Warning(d.cron, "UnparseableSchedule", fmt.Sprintf("unparseable schedule: %q : %s", d.cron.Spec.Schedule, err)))
		return nil, nil
	}
	return zone, plan
}

// parse reads a schedule; the parser panics at some that have only a zone.
func parse(text string) (plan cron.Schedule, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("invalid schedule format: %v", r)
		}
	}()
	return cron.ParseStandard(text)
}

// tooMany missed times are worth a warning.
const tooMany = 100

// latest returns the last time of the schedule after from that is not after now,
// and how many there were, tooMany+1 at most; a zero time: none.
func latest(plan cron.Schedule, from, now time.Time) (last time.Time, missed int, err error) {
	next := plan.Next(from)
	if next.IsZero() {
		return last, 0, errors.New("time difference between two schedules is less than 1 second")
	}
	for ; !next.IsZero() && !next.After(now); next = plan.Next(next) {
		last = next
		if missed++; missed > tooMany {
			return skip(plan, last, now), missed, nil
		}
	}
	return last, missed, nil
}

// skip returns the last time that is not after now without going through all: it
// looks back from now ever further until there is one.
func skip(plan cron.Schedule, known, now time.Time) time.Time {
	if steady, ok := plan.(cron.ConstantDelaySchedule); ok {
		return known.Add(now.Sub(known) / steady.Delay * steady.Delay)
	}
	for back := time.Minute; now.Add(-back).After(known); back *= 2 {
		t := plan.Next(now.Add(-back))
		if t.After(now) {
			continue
		}
		for next := plan.Next(t); !next.After(now); next = plan.Next(next) {
			t = next
		}
		return t
	}
	for next := plan.Next(known); !next.IsZero() && !next.After(now); next = plan.Next(next) {
		known = next
	}
	return known
}
