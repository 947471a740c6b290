package events

import (
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"pgregory.net/rapid"
	"sigs.k8s.io/randfill"

	"skiff/api/kind/kindtest"
)

const started = `
metadata: {name: e, namespace: default}
regarding: {kind: Pod, name: web, namespace: default}
eventTime: "2025-01-01T00:00:00.000000Z"
reportingController: a.b/c
reportingInstance: n1
action: Start
reason: Started
note: it runs
type: Normal
`

func TestEventHolds(t *testing.T) { kindtest.Holds(t, Event, started) }

// Nothing is lost on the way to the core group and back.
func TestConversion(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		fill := randfill.NewWithSeed(rapid.Int64().Draw(r, "seed")).NilChance(0.3)
		var e eventsv1.Event
		fill.Fill(&e.Regarding)
		fill.Fill(&e.Related)
		fill.Fill(&e.DeprecatedSource)
		fill.Fill(&e.ReportingController)
		fill.Fill(&e.ReportingInstance)
		fill.Fill(&e.Action)
		fill.Fill(&e.Reason)
		fill.Fill(&e.Note)
		fill.Fill(&e.Type)
		fill.Fill(&e.DeprecatedCount)
		fill.Fill(&e.ObjectMeta.Name)
		if rapid.Bool().Draw(r, "series") {
			e.Series = &eventsv1.EventSeries{Count: 3}
		}
		if back := FromCore(ToCore(&e)); !reflect.DeepEqual(back, &e) {
			r.Fatalf("%+v became %+v", e, back)
		}
	})
	// A field that the conversion forgot would be zero in the other form.
	core := ToCore(kindtest.From[*eventsv1.Event](t, Event, started))
	if core.InvolvedObject.Name != "web" || core.Message != "it runs" {
		t.Errorf("core event %+v", core)
	}
	if a, b := reflect.TypeFor[corev1.Event]().NumField(), reflect.TypeFor[eventsv1.Event]().NumField(); a != b || a != 16 {
		t.Errorf("events have %d and %d fields: convert the new ones", a, b)
	}
}

func TestEventRefused(t *testing.T) {
	kindtest.Refuses(t, Event, started, []kindtest.Case[*eventsv1.Event]{
		{Name: "no time", Change: func(e *eventsv1.Event) { e.EventTime.Reset() }, Want: []string{"Required eventTime"}},
		{Name: "type", Change: func(e *eventsv1.Event) { e.Type = "Odd" }, Want: []string{"Invalid type: has invalid value: Odd"}},
		{Name: "old fields", Change: func(e *eventsv1.Event) { e.DeprecatedCount, e.DeprecatedSource.Host = 1, "h" },
			Want: []string{"Invalid count: needs to be unset", "Invalid source: needs to be unset"}},
		{Name: "series", Change: func(e *eventsv1.Event) { e.Series = &eventsv1.EventSeries{Count: 1} },
			Want: []string{"Invalid series.count", "Required series.lastObservedTime"}},
		{Name: "no reporter", Change: func(e *eventsv1.Event) { e.ReportingController = "" },
			Want: []string{"Required reportingController", "Invalid reportingController", "Invalid reportingController"}},
		{Name: "elsewhere", Change: func(e *eventsv1.Event) { e.Regarding.Namespace = ""; e.Namespace = "prod" }, Want: []string{"Invalid involvedObject.namespace"}},
	})
	kindtest.RefusesUpdate(t, Event, started, []kindtest.Case[*eventsv1.Event]{
		{Name: "goes on", Change: func(e *eventsv1.Event) {
			e.Series = &eventsv1.EventSeries{Count: 2, LastObservedTime: e.EventTime}
		}},
		{Name: "says else", Change: func(e *eventsv1.Event) { e.Note, e.Regarding.Name = "it stopped", "x" },
			Want: []string{"Invalid message: field is immutable", "Invalid involvedObject: field is immutable"}},
	})
}
