package core

import (
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/api/column"
)

var podColumns = []metav1.TableColumnDefinition{
	column.Name,
	column.String("Ready", "The aggregate readiness state of this pod for accepting traffic."),
	column.String("Status", "The aggregate status of the containers in this pod."),
	column.String("Restarts", "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted."),
	column.Age,
	column.Wide("IP", corev1.PodStatus{}.SwaggerDoc()["podIP"]),
	column.Wide("Node", corev1.PodSpec{}.SwaggerDoc()["nodeName"]),
	column.Wide("Nominated Node", corev1.PodStatus{}.SwaggerDoc()["nominatedNodeName"]),
	column.Wide("Readiness Gates", corev1.PodSpec{}.SwaggerDoc()["readinessGates"]),
}

func podRow(p *corev1.Pod) []any {
	v := summarize(p)
	ip := ""
	if len(p.Status.PodIPs) > 0 {
		ip = p.Status.PodIPs[0].IP
	}
	restarts := strconv.Itoa(v.restarts)
	if v.restarts != 0 && !v.lastRestart.IsZero() {
		restarts = fmt.Sprintf("%d (%s ago)", v.restarts, column.Since(metav1.Time{Time: v.lastRestart}))
	}
	return []any{
		p.Name, fmt.Sprintf("%d/%d", v.ready, v.total), v.status, restarts, column.Since(p.CreationTimestamp),
		orNone(ip), orNone(p.Spec.NodeName), orNone(p.Status.NominatedNodeName), readinessGates(p),
	}
}

func orNone(s string) string {
	if s == "" {
		return "<none>"
	}
	return s
}

func readinessGates(p *corev1.Pod) string {
	if len(p.Spec.ReadinessGates) == 0 {
		return "<none>"
	}
	n := 0
	for _, g := range p.Spec.ReadinessGates {
		if conditionTrue(p.Status.Conditions, g.ConditionType) {
			n++
		}
	}
	return fmt.Sprintf("%d/%d", n, len(p.Spec.ReadinessGates))
}

// conditionTrue looks at the first condition of a type.
func conditionTrue(list []corev1.PodCondition, t corev1.PodConditionType) bool {
	for i := range list {
		if list[i].Type == t {
			return list[i].Status == corev1.ConditionTrue
		}
	}
	return false
}

// podSummary is what the table says of a pod's containers, in few words.
type podSummary struct {
	status       string
	ready, total int
	restarts     int
	lastRestart  time.Time // zero: none is known
}

func (v *podSummary) restarted(c *corev1.ContainerStatus) {
	v.restarts += int(c.RestartCount)
	if t := c.LastTerminationState.Terminated; t != nil && t.FinishedAt.After(v.lastRestart) {
		v.lastRestart = t.FinishedAt.Time
	}
}

func summarize(p *corev1.Pod) podSummary {
	v := podSummary{status: string(p.Status.Phase), total: len(p.Spec.Containers)}
	if p.Status.Reason != "" {
		v.status = p.Status.Reason
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Reason == corev1.PodReasonSchedulingGated {
			v.status = corev1.PodReasonSchedulingGated
		}
	}
	sidecars := map[string]bool{}
	for i := range p.Spec.InitContainers {
		if c := &p.Spec.InitContainers[i]; isSidecar(c) {
			sidecars[c.Name] = true
			v.total++
		}
	}
	// Restarts of init containers count until they are done, then only sidecars'.
	inits, done := v, podSummary{}
	initializing := false
	for i := range p.Status.InitContainerStatuses {
		c := &p.Status.InitContainerStatuses[i]
		inits.restarted(c)
		if sidecars[c.Name] {
			done.restarted(c)
		}
		if status, waiting := initStatus(c, sidecars[c.Name], i, len(p.Spec.InitContainers)); waiting {
			inits.status, initializing = status, true
			break
		}
		if sidecars[c.Name] && c.Ready && !exitedWell(c) {
			inits.ready++
		}
	}
	v = inits
	if !initializing || conditionTrue(p.Status.Conditions, corev1.PodInitialized) {
		v.restarts, v.lastRestart = done.restarts, done.lastRestart
		v.addContainers(p)
	}
	switch over := p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded; {
	case p.DeletionTimestamp == nil:
	case p.Status.Reason == "NodeLost": // its node cannot be reached
		v.status = "Unknown"
	case !over:
		v.status = "Terminating"
	}
	return v
}

func exitedWell(c *corev1.ContainerStatus) bool {
	return c.State.Terminated != nil && c.State.Terminated.ExitCode == 0
}

// initStatus tells whether the pod waits for an init container, and how it says so.
func initStatus(c *corev1.ContainerStatus, sidecar bool, i, n int) (status string, waiting bool) {
	switch t, w := c.State.Terminated, c.State.Waiting; {
	case exitedWell(c), sidecar && isTrue(c.Started):
		return "", false
	case t != nil:
		return "Init:" + exitReason(t), true
	case w != nil && w.Reason != "" && w.Reason != "PodInitializing":
		return "Init:" + w.Reason, true
	}
	return fmt.Sprintf("Init:%d/%d", i, n), true
}

func exitReason(t *corev1.ContainerStateTerminated) string {
	switch {
	case t.Reason != "":
		return t.Reason
	case t.Signal != 0:
		return fmt.Sprintf("Signal:%d", t.Signal)
	}
	return fmt.Sprintf("ExitCode:%d", t.ExitCode)
}

// addContainers lets the first container that has something to say say it.
func (v *podSummary) addContainers(p *corev1.Pod) {
	running, failed := false, ""
	for i := len(p.Status.ContainerStatuses) - 1; i >= 0; i-- {
		c := &p.Status.ContainerStatuses[i]
		v.restarted(c)
		switch t, w := c.State.Terminated, c.State.Waiting; {
		case w != nil && w.Reason != "":
			v.status = w.Reason
		case t != nil:
			v.status = exitReason(t)
			if t.ExitCode != 0 {
				failed = v.status
			}
		case c.Ready && c.State.Running != nil:
			running = true
			v.ready++
		}
	}
	if v.status != "Completed" {
		return
	}
	switch {
	case running && conditionTrue(p.Status.Conditions, corev1.PodReady):
		v.status = "Running"
	case failed != "":
		v.status = failed
	case running:
		v.status = "NotReady"
	}
}
