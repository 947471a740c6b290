package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"

	"skiff/api"
	ours "skiff/apiserver/bootstrap"
	"skiff/apiserver/flow"
	"skiff/client"
)

// shape waits until the request's priority level has seats for it, and takes
// them; r.leave gives them back. A watch has seats only until its initial events
// are told. What streams has none, and what must always get through waits for none.
func (s *Server) shape(ctx context.Context, r *Request) error {
	streams := longRunning(r) && r.Verb != "watch"
	if r.User == nil || streams {
		return nil
	}
	r.class = s.flow.Classify(digestOf(r))
	if alwaysServed(r) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.queueTime(ctx))
	defer cancel()
	leave, err := s.flow.Enter(ctx, r.class, s.width(r))
	if err != nil {
		return tooManyRequests()
	}
	r.leaves = append(r.leaves, leave)
	return nil
}

// longestQueueing bounds how long a request waits for a seat.
const longestQueueing = time.Minute

// queueTime is a quarter of the time that a request has.
func (s *Server) queueTime(ctx context.Context) time.Duration {
	left := s.frontConfig.RequestTimeout
	if deadline, ok := ctx.Deadline(); ok {
		left = time.Until(deadline)
	}
	return min(left/4, longestQueueing)
}

// leave gives back what the request has taken, when it is answered. It may be
// called more than once.
func (r *Request) leave() {
	for _, leave := range r.leaves {
		leave()
	}
	r.leaves = nil
	if r.place != nil {
		r.place()
	}
}

func digestOf(r *Request) flow.Digest {
	d := flow.Digest{User: r.User, Verb: r.Verb, Path: r.Path, Namespace: r.Namespace, Subresource: r.Subresource}
	if r.Resource != nil {
		d.IsResource, d.Group, d.Resource = true, r.Resource.Group, r.Resource.Name
	}
	return d
}

// objectsPerSeat is how many objects in an answer count as one seat.
const objectsPerSeat = 100

// width is how many seats a request takes: more than one, if it reads much.
func (s *Server) width(r *Request) int {
	switch {
	case r.Resource == nil || r.missing:
		return 1
	case r.Verb == "list":
	case r.Verb == "watch" && r.Query.Get("sendInitialEvents") == "true":
	default:
		return 1
	}
	t := s.table(r.Resource)
	if t == nil || r.Name != "" || r.Namespace != "" || r.ListOptions.FieldSelector != "" {
		return 1 // what the cache finds by itself costs what it returns
	}
	n := t.Snapshot().Len()
	if limit := r.Query.Get("limit"); limit != "" {
		var asked int
		if _, err := fmt.Sscan(limit, &asked); err == nil && asked > 0 {
			n = min(n, asked)
		}
	}
	return (n + objectsPerSeat - 1) / objectsPerSeat
}

// addFlowHeaders tells the client by which objects its request was classified.
func addFlowHeaders(header http.Header, class flow.Class) {
	if class.Schema == "" {
		return
	}
	header.Set(flowcontrolv1.ResponseHeaderMatchedFlowSchemaUID, string(class.SchemaUID))
	header.Set(flowcontrolv1.ResponseHeaderMatchedPriorityLevelConfigurationUID, string(class.LevelUID))
}

var (
	flowSchemaRow    = api.For[*flowcontrolv1.FlowSchema]()
	priorityLevelRow = api.For[*flowcontrolv1.PriorityLevelConfiguration]()
)

// newFlow makes the controller with what every cluster starts with: it counts
// until the objects are read.
func newFlow(l *limiter) *flow.Controller {
	c := flow.New(int(l.reads.cap + l.writes.cap))
	c.Set(slices.Concat(bootstrap.MandatoryFlowSchemas, bootstrap.SuggestedFlowSchemas),
		slices.Concat(bootstrap.MandatoryPriorityLevelConfigurations, bootstrap.SuggestedPriorityLevelConfigurations))
	return c
}

// flowSettle is how long changes of the objects are let come to rest before their
// statuses are written and those that every cluster has are put right.
const flowSettle = time.Second

// followFlow keeps the controller up to date, and the objects: who defines a level
// is told whether schemas find it, and what every cluster has is made again.
func (s *Server) followFlow(ctx context.Context) error {
	if s.rowFor(flowSchemaRow.GVR()) == nil || s.rowFor(priorityLevelRow.GVR()) == nil {
		return nil
	}
	own := s.Client(self, flowManager)
	feed := own.Follow(ctx, client.Source{Resource: flowSchemaRow}, client.Source{Resource: priorityLevelRow})
	view := client.NewView()
	tidy := time.NewTimer(flowSettle)
	defer tidy.Stop()
	for {
		select {
		case batch, ok := <-feed.C:
			if !ok {
				return nil
			}
			view.Apply(batch)
			s.flow.Set(slices.Collect(client.All[*flowcontrolv1.FlowSchema](view, "")),
				slices.Collect(client.All[*flowcontrolv1.PriorityLevelConfiguration](view, "")))
			tidy.Reset(flowSettle)
		case <-tidy.C:
			select {
			case <-s.Ready():
				s.tidyFlow(ctx, own, view)
			default:
				tidy.Reset(flowSettle)
			}
		}
	}
}

// flowManager is the field manager of the statuses, as upstream calls it.
const flowManager = "api-priority-and-fairness-config-consumer-v1"

// tidyFlow writes what is not as it should be. What fails is tried with the next change.
func (s *Server) tidyFlow(ctx context.Context, own client.Client, view *client.View) {
	wanted := ours.FlowControl()
	for _, obj := range wanted {
		if err := s.ensure(ctx, obj); err != nil && ctx.Err() == nil {
			s.log.Warn("an object of flow control is not as it must be", "name", obj.GetName(), "error", err)
		}
	}
	for _, row := range []*api.Resource{flowSchemaRow, priorityLevelRow} {
		for obj := range (reader{s}).List(row, "") {
			left := obj.GetAnnotations()[flowcontrolv1.AutoUpdateAnnotationKey] == "true" &&
				!slices.ContainsFunc(wanted, func(w api.Object) bool { return api.Of(w) == row && w.GetName() == obj.GetName() })
			if left { // of an earlier version of the server
				uid := obj.GetUID()
				if err := own.Delete(ctx, row, "", obj.GetName(), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}}); err != nil {
					s.log.Debug("an object of flow control is not removed", "name", obj.GetName(), "error", err)
				}
			}
		}
	}
	for schema := range client.All[*flowcontrolv1.FlowSchema](view, "") {
		name := schema.Spec.PriorityLevelConfiguration.Name
		_, found := client.Find[*flowcontrolv1.PriorityLevelConfiguration](view, "", name)
		if err := tellDangling(ctx, own, schema, name, found); err != nil && !apierrors.IsNotFound(err) {
			s.log.Debug("status of a flow schema not written", "name", schema.Name, "error", err)
		}
	}
}

// tellDangling writes into a schema's status whether its level is there.
func tellDangling(ctx context.Context, own client.Client, schema *flowcontrolv1.FlowSchema, level string, found bool) error {
	c := flowcontrolv1.FlowSchemaCondition{Type: flowcontrolv1.FlowSchemaConditionDangling, Status: flowcontrolv1.ConditionFalse, Reason: "Found",
		Message: fmt.Sprintf("This FlowSchema references the PriorityLevelConfiguration object named %q and it exists", level)}
	if !found {
		c.Status, c.Reason = flowcontrolv1.ConditionTrue, "NotFound"
		c.Message = fmt.Sprintf("This FlowSchema references the PriorityLevelConfiguration object named %q but there is no such object", level)
	}
	for _, have := range schema.Status.Conditions {
		if have.Type == c.Type && have.Status == c.Status && have.Reason == c.Reason && have.Message == c.Message {
			return nil
		}
	}
	c.LastTransitionTime = now()
	body, err := json.Marshal(map[string]any{
		"apiVersion": flowcontrolv1.SchemeGroupVersion.String(), "kind": "FlowSchema", "metadata": map[string]any{"name": schema.Name},
		"status": flowcontrolv1.FlowSchemaStatus{Conditions: []flowcontrolv1.FlowSchemaCondition{c}},
	})
	if err != nil {
		return err
	}
	_, err = own.Patch(ctx, flowSchemaRow, "", schema.Name, client.Patch{Type: types.ApplyYAMLPatchType, Data: body, Sub: "status", Manager: flowManager, Force: true})
	return err
}

// flowDump answers /debug/api_priority_and_fairness/….
func (s *Server) flowDump(w http.ResponseWriter, req *http.Request) {
	var lines strings.Builder
	line := func(cells ...any) {
		for i, cell := range cells {
			if i > 0 {
				lines.WriteString(", ")
			}
			fmt.Fprint(&lines, cell)
		}
		lines.WriteString("\n")
	}
	switch strings.TrimPrefix(req.URL.Path, flowDebug) {
	case "dump_priority_levels":
		line("PriorityLevelName", "ActiveQueues", "IsIdle", "IsQuiescing", "WaitingRequests", "ExecutingRequests", "DispatchedRequests", "RejectedRequests", "TimedoutRequests", "CancelledRequests")
		for _, l := range s.flow.Report() {
			active := 0
			for _, q := range l.Queues {
				if q.Waiting > 0 {
					active++
				}
			}
			var dispatched, rejected, late, cancelled int64
			for _, f := range l.Schemas {
				dispatched += f.Dispatched
				rejected += f.Rejected[flow.QueueFull] + f.Rejected[flow.NoSeat]
				late += f.Rejected[flow.TimeOut]
				cancelled += f.Rejected[flow.Cancelled]
			}
			line(l.Name, active, l.Executing+l.Waiting == 0, l.Gone, l.Waiting, l.Executing, dispatched, rejected, late, cancelled)
		}
	case "dump_queues":
		line("PriorityLevelName", "Index", "PendingRequests", "SeatsInUse", "NextDispatchR")
		for _, l := range s.flow.Report() {
			for i, q := range l.Queues {
				line(l.Name, i, q.Waiting, q.Seats, fmt.Sprintf("%.8fss", q.Virtual))
			}
		}
	default:
		http.NotFound(w, req)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if _, err := w.Write([]byte(lines.String())); err != nil {
		s.log.Log(req.Context(), slog.LevelDebug, "write a dump", "error", err)
	}
}

const flowDebug = "/debug/api_priority_and_fairness/"

// reconcileFlow returns one of the objects of flow control that every cluster has
// as it must be, or nil if it is. The mandatory ones are always put right, but for
// the shares of the exempt level; of the suggested ones those that no user has
// made his own: the annotation says, or else that nobody has ever changed one.
func reconcileFlow(have, want api.Object) api.Object {
	update := mandatoryFlow(want)
	if !update {
		said, err := strconv.ParseBool(have.GetAnnotations()[flowcontrolv1.AutoUpdateAnnotationKey])
		update = err == nil && said || err != nil && have.GetGeneration() == 1
	}
	next := have.DeepCopyObject().(api.Object)
	if update {
		want = want.DeepCopyObject().(api.Object)
		api.Of(want).Kind.Default(want)
		switch n := next.(type) {
		case *flowcontrolv1.FlowSchema:
			n.Spec = want.(*flowcontrolv1.FlowSchema).Spec
		case *flowcontrolv1.PriorityLevelConfiguration:
			exempt := n.Spec.Exempt
			n.Spec = want.(*flowcontrolv1.PriorityLevelConfiguration).Spec
			if n.Spec.Exempt != nil && exempt != nil {
				n.Spec.Exempt = exempt
			}
		}
	}
	if said, err := strconv.ParseBool(next.GetAnnotations()[flowcontrolv1.AutoUpdateAnnotationKey]); err != nil || said != update {
		annotations := maps.Clone(next.GetAnnotations())
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations[flowcontrolv1.AutoUpdateAnnotationKey] = strconv.FormatBool(update)
		next.SetAnnotations(annotations)
	}
	if equality.Semantic.DeepEqual(have, next) {
		return nil
	}
	return next
}

func mandatoryFlow(obj api.Object) bool {
	switch obj.(type) {
	case *flowcontrolv1.FlowSchema:
		return slices.ContainsFunc(bootstrap.MandatoryFlowSchemas, func(s *flowcontrolv1.FlowSchema) bool { return s.Name == obj.GetName() })
	case *flowcontrolv1.PriorityLevelConfiguration:
		return slices.ContainsFunc(bootstrap.MandatoryPriorityLevelConfigurations, func(l *flowcontrolv1.PriorityLevelConfiguration) bool { return l.Name == obj.GetName() })
	}
	return false
}
