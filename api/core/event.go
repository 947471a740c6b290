package core

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/column"
	"skiff/api/kind"
)

// Event is the kind of a report on something that happened to an object.
var Event = kind.Of(kind.Spec[*corev1.Event]{
	AnyFinalizer: true,
	PlainMeta:    true,
	New:          func() *corev1.Event { return &corev1.Event{} },
	NewList:      func() runtime.Object { return &corev1.EventList{} },
	Validate: func(e *corev1.Event) field.ErrorList {
		return collect(nil, func(root place) { CheckEvent(e, "reportingComponent", root.errs) })
	},
	ValidateUpdate: func(e, _ *corev1.Event) field.ErrorList {
		return collect(nil, func(root place) { CheckEvent(e, "reportingComponent", root.errs) })
	},
	Fields:              EventFields,
	AllowCreateOnUpdate: true,
	Columns:             EventColumns,
	Row:                 EventRow,
})

// CheckEvent adds to errs what is wrong with an event in both of its API groups;
// reporter is the name there of the field reportingController. An event without
// eventTime is one of the old form, of which little was ever checked.
func CheckEvent(e *corev1.Event, reporter string, errs *field.ErrorList) {
	p := place{nil, errs}
	const elsewhere = "does not match event.namespace"
	object := p.child("involvedObject")
	of := e.InvolvedObject.Namespace
	if e.EventTime.Time.IsZero() {
		if of == "" && e.Namespace != "" && e.Namespace != metav1.NamespaceDefault || of != "" && e.Namespace != of {
			object.invalid("namespace", of, elsewhere)
		}
		return
	}
	if of == "" && e.Namespace != metav1.NamespaceDefault && e.Namespace != metav1.NamespaceSystem {
		object.invalid("namespace", of, elsewhere)
	}
	p.wants(reporter, e.ReportingController)
	p.invalidEach(reporter, e.ReportingController, validation.IsQualifiedName(e.ReportingController))
	p.wants("reportingInstance", e.ReportingInstance)
	p.wants("action", e.Action)
	p.wants("reason", e.Reason)
	long := func(name, value string) {
		if len(value) > 128 {
			p.invalid(name, "", "can have at most 128 characters")
		}
	}
	long("reportingInstance", e.ReportingInstance)
	long("action", e.Action)
	long("reason", e.Reason)
	if len(e.Message) > 1024 {
		p.invalid("message", "", "can have at most 1024 characters")
	}
}

// EventFields are the selectable fields of events, by the names of the core group.
func EventFields(e *corev1.Event) fields.Set {
	source := e.Source.Component
	if source == "" {
		source = e.ReportingController
	}
	return fields.Set{
		"involvedObject.kind":            e.InvolvedObject.Kind,
		"involvedObject.namespace":       e.InvolvedObject.Namespace,
		"involvedObject.name":            e.InvolvedObject.Name,
		"involvedObject.uid":             string(e.InvolvedObject.UID),
		"involvedObject.apiVersion":      e.InvolvedObject.APIVersion,
		"involvedObject.resourceVersion": e.InvolvedObject.ResourceVersion,
		"involvedObject.fieldPath":       e.InvolvedObject.FieldPath,
		"reason":                         e.Reason,
		"reportingComponent":             e.ReportingController,
		"source":                         source,
		"type":                           e.Type,
	}
}

// EventColumns are the columns of events in both of their API groups.
var EventColumns = []metav1.TableColumnDefinition{
	column.String("Last Seen", corev1.Event{}.SwaggerDoc()["lastTimestamp"]),
	column.String("Type", corev1.Event{}.SwaggerDoc()["type"]),
	column.String("Reason", corev1.Event{}.SwaggerDoc()["reason"]),
	column.String("Object", corev1.Event{}.SwaggerDoc()["involvedObject"]),
	column.Wide("Subobject", corev1.ObjectReference{}.SwaggerDoc()["fieldPath"]),
	column.Wide("Source", corev1.Event{}.SwaggerDoc()["source"]),
	column.String("Message", corev1.Event{}.SwaggerDoc()["message"]),
	column.Wide("First Seen", corev1.Event{}.SwaggerDoc()["firstTimestamp"]),
	column.Wide("Count", corev1.Event{}.SwaggerDoc()["count"]),
	{Name: "Name", Type: "string", Format: "name", Priority: 1, Description: metav1.ObjectMeta{}.SwaggerDoc()["name"]},
}

// EventRow is the table row of an event.
func EventRow(e *corev1.Event) []any {
	moment := func(t metav1.MicroTime) string { return column.Since(metav1.NewTime(t.Time)) }
	first := column.Since(e.FirstTimestamp)
	if e.FirstTimestamp.IsZero() {
		first = moment(e.EventTime)
	}
	last, count := column.Since(e.LastTimestamp), int64(e.Count)
	if e.LastTimestamp.IsZero() {
		last = first
	}
	switch {
	case e.Series != nil:
		last, count = moment(e.Series.LastObservedTime), int64(e.Series.Count)
	case count == 0: // an event of the new form that happened once
		count = 1
	}
	object := strings.ToLower(e.InvolvedObject.Kind)
	if e.InvolvedObject.Name != "" {
		object += "/" + e.InvolvedObject.Name
	}
	component, host := e.Source.Component, e.Source.Host
	if component == "" {
		component = e.ReportingController
	}
	if host == "" {
		host = e.ReportingInstance
	}
	if host != "" {
		component += ", " + host
	}
	return []any{last, e.Type, e.Reason, object, e.InvolvedObject.FieldPath, component, strings.TrimSpace(e.Message), first, count, e.Name}
}
