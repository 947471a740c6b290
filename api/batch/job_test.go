package batch

import (
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff/api/kind/kindtest"
)

const jobYAML = `
metadata: {name: pi, namespace: default, uid: 9a}
spec:
  template:
    spec:
      restartPolicy: Never
      containers: [{name: c, image: busybox}]
`

const indexedYAML = `
metadata: {name: pi, namespace: default, uid: 9a}
spec:
  completionMode: Indexed
  completions: 5
  parallelism: 5
  backoffLimitPerIndex: 1
  template:
    spec:
      restartPolicy: Never
      containers: [{name: c, image: busybox}]
`

func TestJob(t *testing.T) {
	kindtest.Holds(t, Job, jobYAML)
	kindtest.Holds(t, Job, indexedYAML)
}

// "Normally, the system sets this field (selector) for you."
func TestJobSelector(t *testing.T) {
	j := kindtest.From[*batchv1.Job](t, Job, `
metadata: {name: pi, uid: 9a}
spec: {template: {metadata: {labels: {app: x}}, spec: {restartPolicy: Never, containers: [{name: c, image: b}]}}}`)
	Job.Create(j)
	for _, l := range []map[string]string{j.Spec.Template.Labels, j.Labels} {
		for key, want := range map[string]string{"app": "x", "controller-uid": "9a", "batch.kubernetes.io/controller-uid": "9a",
			"job-name": "pi", "batch.kubernetes.io/job-name": "pi"} {
			if l[key] != want {
				t.Errorf("label %s is %q, want %q", key, l[key], want)
			}
		}
	}
	if got := metav1.FormatLabelSelector(j.Spec.Selector); got != "batch.kubernetes.io/controller-uid=9a" {
		t.Errorf("selector %s", got)
	}

	manual := kindtest.From[*batchv1.Job](t, Job, `
metadata: {name: pi, uid: 9a}
spec: {manualSelector: true, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {restartPolicy: Never}}}`)
	Job.Create(manual)
	if got := metav1.FormatLabelSelector(manual.Spec.Selector); got != "a=b" {
		t.Errorf("a manual selector became %s", got)
	}
}

func TestJobDefaults(t *testing.T) {
	for _, c := range []struct {
		name, yaml           string
		completions          *int32
		parallelism, backoff int32
		replacement          batchv1.PodReplacementPolicy
	}{
		{"nothing", "spec: {}", new(int32(1)), 1, 6, batchv1.TerminatingOrFailed},
		{"work queue", "spec: {parallelism: 3}", nil, 3, 6, batchv1.TerminatingOrFailed},
		{"completions", "spec: {completions: 3}", new(int32(3)), 1, 6, batchv1.TerminatingOrFailed},
		{"limit per index", "spec: {backoffLimitPerIndex: 2}", new(int32(1)), 1, 2147483647, batchv1.TerminatingOrFailed},
		{"failure policy", "spec: {podFailurePolicy: {rules: []}}", new(int32(1)), 1, 6, batchv1.Failed},
	} {
		s := kindtest.From[*batchv1.Job](t, Job, c.yaml).Spec
		if changedPtr(s.Completions, c.completions) || *s.Parallelism != c.parallelism || *s.BackoffLimit != c.backoff ||
			*s.PodReplacementPolicy != c.replacement || *s.CompletionMode != batchv1.NonIndexedCompletion || *s.Suspend || *s.ManualSelector {
			t.Errorf("%s: %+v", c.name, s)
		}
	}
}

func TestJobRefused(t *testing.T) {
	type J = *batchv1.Job
	n := func(i int32) *int32 { return &i }
	kindtest.Refuses(t, Job, jobYAML, []kindtest.Case[J]{
		kindtest.When("negative counts", func(j J) {
			j.Spec.Parallelism, j.Spec.Completions, j.Spec.BackoffLimit, j.Spec.TTLSecondsAfterFinished = n(-1), n(-1), n(-1), n(-1)
			j.Spec.ActiveDeadlineSeconds = new(int64(-1))
		}, "Invalid spec.parallelism", "Invalid spec.completions", "Invalid spec.backoffLimit",
			"Invalid spec.ttlSecondsAfterFinished", "Invalid spec.activeDeadlineSeconds"),
		kindtest.When("restart policy Always", func(j J) { j.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyAlways },
			`Required spec.template.spec.restartPolicy: valid values: "OnFailure", "Never"`),
		kindtest.When("restart policy unknown", func(j J) { j.Spec.Template.Spec.RestartPolicy = "Often" },
			"NotSupported spec.template.spec.restartPolicy", "NotSupported spec.template.spec.restartPolicy"),
		kindtest.When("foreign label", func(j J) { j.Spec.Template.Labels["controller-uid"] = "x" },
			"Invalid spec.template.metadata.labels[controller-uid]: must be '9a'"),
		kindtest.When("missing label", func(j J) { delete(j.Spec.Template.Labels, "batch.kubernetes.io/job-name") },
			"Required spec.template.metadata.labels[batch.kubernetes.io/job-name]: must be 'pi'"),
		kindtest.When("no selector", func(j J) { j.Spec.Selector = nil },
			"Required spec.selector", "Invalid spec.template.metadata.labels"),
		kindtest.When("selector of another", func(j J) { j.Spec.Selector.MatchLabels["app"] = "x" },
			"Invalid spec.selector: `selector` not auto-generated", "Invalid spec.template.metadata.labels"),
		kindtest.When("managedBy", func(j J) { j.Spec.ManagedBy = new("x") }, "Invalid spec.managedBy"),
		kindtest.When("per index without Indexed", func(j J) { j.Spec.BackoffLimitPerIndex = n(1) },
			"Invalid spec.backoffLimitPerIndex: requires indexed completion mode"),
		kindtest.When("mode", func(j J) { j.Spec.CompletionMode = new(batchv1.CompletionMode("x")) }, "NotSupported spec.completionMode"),
		kindtest.When("success policy without Indexed", func(j J) { j.Spec.SuccessPolicy = &batchv1.SuccessPolicy{} },
			"Invalid spec.successPolicy"),
		kindtest.When("replacement", func(j J) { j.Spec.PodReplacementPolicy = new(batchv1.PodReplacementPolicy("x")) },
			`NotSupported spec.podReplacementPolicy: supported values: "Failed", "TerminatingOrFailed"`),
		kindtest.When("failure policy", func(j J) {
			j.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
			j.Spec.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{
				{},
				{Action: "FailIndex", OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{
					Operator: "In", ContainerName: new("who"), Values: []int32{2, 0, 2}}},
				{Action: "Ignore", OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: "!", Status: "x"}}},
				{Action: "Ignore", OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: "In", Values: []int32{1}},
					OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: "Ready", Status: "True"}}},
			}}
		},
			`Required spec.podFailurePolicy.rules[0].action: valid values: ["Count" "FailIndex" "FailJob" "Ignore"]`,
			"Invalid spec.podFailurePolicy.rules[0]: specifying one of OnExitCodes and OnPodConditions is required",
			"Invalid spec.podFailurePolicy.rules[1].action: requires the backoffLimitPerIndex to be set",
			"Invalid spec.podFailurePolicy.rules[1].onExitCodes.containerName",
			"Invalid spec.podFailurePolicy.rules[1].onExitCodes.values[1]: must not be 0 for the In operator",
			"Duplicate spec.podFailurePolicy.rules[1].onExitCodes.values[2]",
			"Invalid spec.podFailurePolicy.rules[1].onExitCodes.values: must be ordered",
			"Invalid spec.podFailurePolicy.rules[2].onPodConditions[0].type",
			"NotSupported spec.podFailurePolicy.rules[2].onPodConditions[0].status",
			"Invalid spec.podFailurePolicy.rules[3]: specifying both OnExitCodes and OnPodConditions is not supported",
			`NotSupported spec.podReplacementPolicy: supported values: "Failed"`,
			`Invalid spec.template.spec.restartPolicy: only "Never" is supported when podFailurePolicy is specified`,
		),
	})
	kindtest.Refuses(t, Job, indexedYAML, []kindtest.Case[J]{
		kindtest.When("no completions", func(j J) { j.Spec.Completions = nil }, "Required spec.completions: when completion mode is Indexed"),
		kindtest.When("too parallel", func(j J) { j.Spec.Parallelism = n(100001) }, "Invalid spec.parallelism"),
		kindtest.When("more failed than completions", func(j J) { j.Spec.MaxFailedIndexes = n(6) }, "Invalid spec.maxFailedIndexes"),
		kindtest.When("failed without limit", func(j J) { j.Spec.MaxFailedIndexes, j.Spec.BackoffLimitPerIndex = n(1), nil },
			"Required spec.backoffLimitPerIndex"),
		kindtest.When("many completions", func(j J) { j.Spec.Completions, j.Spec.Parallelism = n(100001), n(10001) },
			"Required spec.maxFailedIndexes", "Invalid spec.parallelism"),
		kindtest.When("long name", func(j J) {
			j.Name = "a23456789012345678901234567890123456789012345678901234567890123"
			j.Spec.Template.Labels["job-name"], j.Spec.Template.Labels["batch.kubernetes.io/job-name"] = j.Name, j.Name
		}, "Invalid metadata.name"),
		kindtest.When("success policy", func(j J) {
			j.Spec.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{
				{}, {SucceededIndexes: new("0-2,9")}, {SucceededIndexes: new("0-2"), SucceededCount: n(4)}, {SucceededCount: n(6)},
				{SucceededIndexes: new("0-2,4")}}}
		}, "Required spec.successPolicy.rules[0]", "Invalid spec.successPolicy.rules[1].succeededIndexes",
			"Invalid spec.successPolicy.rules[2].succeededCount", "Invalid spec.successPolicy.rules[3].succeededCount"),
		kindtest.When("empty success policy", func(j J) { j.Spec.SuccessPolicy = &batchv1.SuccessPolicy{} }, "Required spec.successPolicy.rules"),
	})
}

func TestJobUpdateRefused(t *testing.T) {
	type J = *batchv1.Job
	kindtest.RefusesUpdate(t, Job, jobYAML, []kindtest.Case[J]{
		kindtest.When("suspend", func(j J) { j.Spec.Suspend = new(true) }),
		kindtest.When("parallelism", func(j J) { j.Spec.Parallelism = new(int32(7)) }),
		kindtest.When("completions", func(j J) { j.Spec.Completions = new(int32(7)) }, "Invalid spec.completions: field is immutable"),
		kindtest.When("template", func(j J) { j.Spec.Template.Spec.Containers[0].Image = "x" }, "Invalid spec.template: field is immutable"),
		kindtest.When("node selector", func(j J) { j.Spec.Template.Spec.NodeSelector = map[string]string{"a": "b"} }, "Invalid spec.template"),
		kindtest.When("managedBy", func(j J) { j.Spec.ManagedBy = new("a.b/c") }, "Invalid spec.managedBy: field is immutable"),
	})
	kindtest.RefusesUpdate(t, Job, indexedYAML, []kindtest.Case[J]{
		kindtest.When("elastic", func(j J) { j.Spec.Completions, j.Spec.Parallelism = new(int32(7)), new(int32(7)) }),
		kindtest.When("not in tandem", func(j J) { j.Spec.Completions = new(int32(7)) },
			"Invalid spec.completions: can only be modified in tandem with spec.parallelism"),
		kindtest.When("limit per index", func(j J) { j.Spec.BackoffLimitPerIndex = new(int32(7)) }, "Invalid spec.backoffLimitPerIndex"),
	})

	// "Updating node affinity, node selector and tolerations is allowed" while suspended.
	old := kindtest.From[J](t, Job, jobYAML)
	old.Spec.Suspend = new(true)
	Job.Create(old)
	now := old.DeepCopy()
	now.Spec.Template.Spec.NodeSelector = map[string]string{"a": "b"}
	now.Spec.Template.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{}}
	now.Spec.Template.Spec.Containers[0].Resources.Requests = corev1.ResourceList{}
	if errs := Job.ValidateUpdate(now, old); len(errs) > 0 {
		t.Errorf("a suspended job's scheduling is fixed: %v", errs.ToAggregate())
	}
	now.Spec.Template.Spec.Containers[0].Image = "x"
	if errs := Job.ValidateUpdate(now, old); len(errs) != 1 || errs[0].Field != "spec.template.spec" {
		t.Errorf("a suspended job's image: %v", errs)
	}
}

func TestJobStatusRefused(t *testing.T) {
	type J = *batchv1.Job
	set := func(j J, types ...batchv1.JobConditionType) {
		for _, c := range types {
			j.Status.Conditions = append(j.Status.Conditions, batchv1.JobCondition{Type: c, Status: corev1.ConditionTrue})
		}
	}
	now := metav1.NewTime(time.Unix(1000, 0))
	before := metav1.NewTime(time.Unix(900, 0))
	kindtest.RefusesSub(t, Job, "status", jobYAML, []kindtest.Case[J]{
		kindtest.When("done well", func(j J) {
			set(j, "SuccessCriteriaMet", "Complete")
			j.Status.StartTime, j.Status.CompletionTime, j.Status.Succeeded = &before, &now, 1
		}),
		kindtest.When("done badly", func(j J) {
			set(j, "Complete")
			j.Status.Active, j.Status.Terminating = 1, new(int32(1))
			j.Status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{Failed: []types.UID{"", "a", "a"}}
		}, "Invalid status.conditions: cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
			"Required status.completionTime", "Required status.startTime",
			"Invalid status.active", "Invalid status.terminating",
			"Invalid status.uncountedTerminatedPods: must be empty for finished job",
			"Invalid status.uncountedTerminatedPods.failed[0]", "Duplicate status.uncountedTerminatedPods.failed[2]"),
		kindtest.When("failed without target", func(j J) { set(j, "Failed"); j.Status.StartTime = &now },
			"Invalid status.conditions: cannot set Failed=True condition without the FailureTarget=true condition"),
		kindtest.When("end before start", func(j J) {
			set(j, "SuccessCriteriaMet", "Complete")
			j.Status.StartTime, j.Status.CompletionTime = &now, &before
		}, "Invalid status.completionTime: must be equal to or after `startTime`"),
		kindtest.When("end without completion", func(j J) { j.Status.CompletionTime = &now }, "Invalid status.completionTime"),
		kindtest.When("ready without active", func(j J) { j.Status.Ready = new(int32(1)) }, "Invalid status.ready"),
		kindtest.When("negative", func(j J) { j.Status.Active = -1 }, "Invalid status.active"),
		kindtest.When("indexes of a job without", func(j J) { j.Status.CompletedIndexes, j.Status.FailedIndexes = "0", new("0") },
			"Invalid status.completedIndexes", "Invalid status.failedIndexes: cannot set non-null",
			"Invalid status.failedIndexes: failedIndexes and completedIndexes overlap at index: 0"),
	})
	kindtest.RefusesSub(t, Job, "status", indexedYAML, []kindtest.Case[J]{
		kindtest.When("fine", func(j J) { j.Status.CompletedIndexes, j.Status.FailedIndexes = "0,2-3", new("1") }),
		kindtest.When("not ordered", func(j J) { j.Status.CompletedIndexes = "3,1" }, "Invalid status.completedIndexes"),
		kindtest.When("too large", func(j J) { j.Status.FailedIndexes = new("5") }, "Invalid status.failedIndexes"),
	})

	old := kindtest.From[J](t, Job, jobYAML)
	set(old, "SuccessCriteriaMet", "Complete")
	old.Status.StartTime, old.Status.CompletionTime, old.Status.Succeeded, old.Status.Failed = &before, &now, 1, 1
	back := old.DeepCopy()
	back.Status = batchv1.JobStatus{}
	got := map[string]int{}
	for _, e := range Job.Subs["status"].Validate(back, old) {
		got[e.Field]++
	}
	for path, n := range map[string]int{"status.conditions": 2, "status.succeeded": 1, "status.failed": 1, "status.startTime": 1} {
		if got[path] != n {
			t.Errorf("a job set back: %d errors at %s, want %d (%v)", got[path], path, n, got)
		}
	}
}

func TestCronJob(t *testing.T) {
	const valid = `
metadata: {name: tick, namespace: default}
spec:
  schedule: "*/5 * * * *"
  timeZone: Europe/Zurich
  jobTemplate: {spec: {template: {spec: {restartPolicy: OnFailure, containers: [{name: c, image: busybox}]}}}}
`
	kindtest.Holds(t, CronJob, valid)
	type C = *batchv1.CronJob
	kindtest.Refuses(t, CronJob, valid, []kindtest.Case[C]{
		kindtest.When("no schedule", func(c C) { c.Spec.Schedule = "" }, "Required spec.schedule"),
		kindtest.When("bad schedule", func(c C) { c.Spec.Schedule = "every day" }, "Invalid spec.schedule"),
		kindtest.When("a zone that makes the parser panic", func(c C) { c.Spec.Schedule = "TZ=0" },
			"Invalid spec.schedule", "Invalid spec.schedule: cannot use TZ or CRON_TZ"),
		kindtest.When("a zone in the schedule", func(c C) { c.Spec.Schedule = "TZ=UTC 0 * * * *" },
			"Invalid spec.schedule: cannot use TZ or CRON_TZ in schedule, use timeZone field instead"),
		kindtest.When("@hourly", func(c C) { c.Spec.Schedule = "@hourly" }),
		kindtest.When("empty zone", func(c C) { c.Spec.TimeZone = new("") }, "Invalid spec.timeZone"),
		kindtest.When("local zone", func(c C) { c.Spec.TimeZone = new("Local") }, "Invalid spec.timeZone"),
		kindtest.When("zone outside", func(c C) { c.Spec.TimeZone = new("../etc/passwd") }, "Invalid spec.timeZone: unknown time zone ../etc/passwd"),
		kindtest.When("no such zone", func(c C) { c.Spec.TimeZone = new("Mars/Base") }, "Invalid spec.timeZone: unknown time zone Mars/Base"),
		kindtest.When("old zone", func(c C) { c.Spec.TimeZone = new("Etc/GMT+5") }),
		kindtest.When("policy", func(c C) { c.Spec.ConcurrencyPolicy = "x" }, "NotSupported spec.concurrencyPolicy"),
		kindtest.When("negative", func(c C) { c.Spec.FailedJobsHistoryLimit = new(int32(-1)) }, "Invalid spec.failedJobsHistoryLimit"),
		kindtest.When("selector", func(c C) { c.Spec.JobTemplate.Spec.Selector = &metav1.LabelSelector{} }, "Invalid spec.jobTemplate.spec.selector"),
		kindtest.When("manual", func(c C) { c.Spec.JobTemplate.Spec.ManualSelector = new(true) }, "NotSupported spec.jobTemplate.spec.manualSelector"),
		kindtest.When("long name", func(c C) { c.Name = "a2345678901234567890123456789012345678901234567890123" }, "Invalid metadata.name"),
		kindtest.When("template", func(c C) { c.Spec.JobTemplate.Spec.Parallelism = new(int32(-1)) }, "Invalid spec.jobTemplate.spec.parallelism"),
	})
	kindtest.RefusesUpdate(t, CronJob, valid, []kindtest.Case[C]{
		kindtest.When("schedule", func(c C) { c.Spec.Schedule = "@daily" }),
		kindtest.When("long name", func(c C) { c.Name = "a2345678901234567890123456789012345678901234567890123" }),
	})
}

func TestOverlap(t *testing.T) {
	for _, c := range []struct {
		a, b  string
		index int32
		found bool
	}{{"", "1", 0, false}, {"0-3", "4", 0, false}, {"0-3,6", "4,5-7", 6, true}, {"x,5", "5", 5, true}, {"1,3", "2,3", 3, true}} {
		if i, ok := overlap(c.a, c.b, 10); i != c.index || ok != c.found {
			t.Errorf("overlap(%q, %q) = %d, %v", c.a, c.b, i, ok)
		}
	}
}
