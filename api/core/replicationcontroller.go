package core

import (
	"strconv"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/check"
	"skiff/api/column"
	"skiff/api/kind"
)

// ReplicationController is the kind that came before ReplicaSet.
var ReplicationController = kind.Of(kind.Spec[*corev1.ReplicationController]{
	ValidateName: check.BareName,
	New:          func() *corev1.ReplicationController { return &corev1.ReplicationController{} },
	NewList:      func() runtime.Object { return &corev1.ReplicationControllerList{} },
	Default:      defaultReplicationController,
	Create: func(r *corev1.ReplicationController) {
		r.Status = corev1.ReplicationControllerStatus{}
		if r.Spec.Template != nil {
			DropPodTemplate(r.Spec.Template, nil)
		}
	},
	Update: func(r, old *corev1.ReplicationController) {
		r.Status = old.Status
		if r.Spec.Template != nil {
			DropPodTemplate(r.Spec.Template, old.Spec.Template)
		}
	},
	Intent: func(r *corev1.ReplicationController) any { return &r.Spec },
	Validate: func(r *corev1.ReplicationController) field.ErrorList {
		return validateReplicationController(r, nil)
	},
	ValidateUpdate: func(r, old *corev1.ReplicationController) field.ErrorList {
		return validateReplicationController(r, old.Spec.Template)
	},
	Subs: map[string]kind.Sub[*corev1.ReplicationController]{"status": {
		Update: func(r, old *corev1.ReplicationController) { r.Spec = old.Spec },
		Validate: func(r, _ *corev1.ReplicationController) field.ErrorList {
			return validateReplicationStatus(&r.Status)
		},
	}},
	Scale: &kind.Scale[*corev1.ReplicationController]{
		Get: func(r *corev1.ReplicationController) (autoscalingv1.ScaleSpec, autoscalingv1.ScaleStatus) {
			return autoscalingv1.ScaleSpec{Replicas: column.Or(r.Spec.Replicas, 0)},
				autoscalingv1.ScaleStatus{Replicas: r.Status.Replicas, Selector: labels.Set(r.Spec.Selector).AsSelector().String()}
		},
		Set: func(r *corev1.ReplicationController, n int32) { r.Spec.Replicas = &n },
	},
	Warn: func(r, old *corev1.ReplicationController) []string {
		w := warner{}
		if msgs := validation.IsDNS1123Label(r.Name); old == nil && len(msgs) > 0 {
			w.add("metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: %v", msgs)
		}
		if r.Spec.Template != nil && (old == nil || old.Generation != r.Generation) {
			w.pod(field.NewPath("spec", "template"), &r.Spec.Template.Spec, &r.Spec.Template.ObjectMeta)
		}
		return w.texts
	},
	Fields: func(r *corev1.ReplicationController) fields.Set {
		return fields.Set{"status.replicas": strconv.Itoa(int(r.Status.Replicas))}
	},
	Columns: []metav1.TableColumnDefinition{
		column.Name,
		column.Integer("Desired", corev1.ReplicationControllerSpec{}.SwaggerDoc()["replicas"]),
		column.Integer("Current", corev1.ReplicationControllerStatus{}.SwaggerDoc()["replicas"]),
		column.Integer("Ready", corev1.ReplicationControllerStatus{}.SwaggerDoc()["readyReplicas"]),
		column.Age, column.Containers, column.Images,
		column.Wide("Selector", corev1.ReplicationControllerSpec{}.SwaggerDoc()["selector"]),
	},
	Row: func(r *corev1.ReplicationController) []any {
		names, images := "", ""
		if r.Spec.Template != nil {
			names, images = PodTemplateImagesAndNames(&r.Spec.Template.Spec)
		}
		return []any{r.Name, int64(column.Or(r.Spec.Replicas, 0)), int64(r.Status.Replicas), int64(r.Status.ReadyReplicas),
			column.Since(r.CreationTimestamp), names, images, labels.FormatLabels(r.Spec.Selector)}
	},
})

func defaultReplicationController(r *corev1.ReplicationController) {
	setDefaultPtr(&r.Spec.Replicas, 1)
	if r.Spec.Template == nil {
		return
	}
	if l := r.Spec.Template.Labels; l != nil {
		if len(r.Spec.Selector) == 0 {
			r.Spec.Selector = copyMap(l)
		}
		if len(r.Labels) == 0 {
			r.Labels = copyMap(l)
		}
	}
	DefaultPodTemplate(r.Spec.Template)
}

func copyMap(m map[string]string) map[string]string {
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}

func validateReplicationController(r *corev1.ReplicationController, old *corev1.PodTemplateSpec) field.ErrorList {
	return collect(field.NewPath("spec"), func(p place) {
		s := &r.Spec
		p.notNegative("minReadySeconds", int64(s.MinReadySeconds))
		if len(s.Selector) == 0 {
			p.required("selector", "")
		}
		if s.Replicas == nil {
			p.required("replicas", "")
		} else {
			p.notNegative("replicas", int64(*s.Replicas))
		}
		at, t := p.child("template"), s.Template
		if t == nil {
			at.required("", "")
			return
		}
		if len(s.Selector) > 0 && !labels.Set(s.Selector).AsSelector().Matches(labels.Set(t.Labels)) {
			at.child("metadata").invalid("labels", t.Labels, "`selector` does not match template `labels`")
		}
		at.add(ValidatePodTemplateUpdate(t, old, at.path)...)
		oneOf(at.child("spec"), "restartPolicy", t.Spec.RestartPolicy, corev1.RestartPolicyAlways)
		if t.Spec.ActiveDeadlineSeconds != nil {
			at.child("spec").forbidden("activeDeadlineSeconds", "activeDeadlineSeconds in ReplicationController is not Supported")
		}
	})
}

func validateReplicationStatus(s *corev1.ReplicationControllerStatus) field.ErrorList {
	path := field.NewPath("status")
	labelled := check.N("fullyLabeledReplicas", s.FullyLabeledReplicas)
	ready, available := check.N("readyReplicas", s.ReadyReplicas), check.N("availableReplicas", s.AvailableReplicas)
	errs := check.NotNegative(path, check.N("replicas", s.Replicas), labelled, ready, available, check.N("observedGeneration", s.ObservedGeneration))
	errs = append(errs, check.NotAbove(path, s.Replicas, "cannot be greater than status.replicas", labelled, ready, available)...)
	return append(errs, check.NotAbove(path, s.ReadyReplicas, "cannot be greater than readyReplicas", available)...)
}
