package apps

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/check"
	"skiff/api/column"
	"skiff/api/core"
	"skiff/api/kind"
)

// StatefulSet is apps/v1 StatefulSet.
var StatefulSet = kind.Of(kind.Spec[*appsv1.StatefulSet]{
	New:     func() *appsv1.StatefulSet { return &appsv1.StatefulSet{} },
	NewList: func() runtime.Object { return &appsv1.StatefulSetList{} },
	Default: defaultStatefulSet,
	Create: func(s *appsv1.StatefulSet) {
		s.Status = appsv1.StatefulSetStatus{}
		core.DropPodTemplate(&s.Spec.Template, nil)
	},
	Update: func(s, old *appsv1.StatefulSet) {
		s.Status = old.Status
		core.DropPodTemplate(&s.Spec.Template, &old.Spec.Template)
	},
	Intent: func(s *appsv1.StatefulSet) any { return &s.Spec },
	// Its pods are named after it, so its name must be a host name.
	ValidateName:   validation.NameIsDNSLabel,
	Validate:       func(s *appsv1.StatefulSet) field.ErrorList { return validateStatefulSet(&s.Spec, nil) },
	ValidateUpdate: validateStatefulSetUpdate,
	Subs: map[string]kind.Sub[*appsv1.StatefulSet]{"status": {
		Update:   func(s, old *appsv1.StatefulSet) { s.Spec = old.Spec },
		Validate: validateStatefulSetStatus,
	}},
	Scale: &kind.Scale[*appsv1.StatefulSet]{
		Get: func(s *appsv1.StatefulSet) (autoscalingv1.ScaleSpec, autoscalingv1.ScaleStatus) {
			return scaleOf(s.Spec.Replicas, s.Status.Replicas, s.Spec.Selector)
		},
		Set: func(s *appsv1.StatefulSet, replicas int32) { s.Spec.Replicas = &replicas },
	},
	Warn: warnStatefulSet,
	Columns: []metav1.TableColumnDefinition{
		column.Name, column.String("Ready", "Number of the pod with ready state"), column.Age, column.Containers, column.Images,
	},
	Row: func(s *appsv1.StatefulSet) []any {
		names, images := core.PodTemplateImagesAndNames(&s.Spec.Template.Spec)
		return []any{s.Name, fmt.Sprintf("%d/%d", s.Status.ReadyReplicas, column.Or(s.Spec.Replicas, 0)),
			column.Since(s.CreationTimestamp), names, images}
	},
})

func defaultStatefulSet(s *appsv1.StatefulSet) {
	spec := &s.Spec
	core.DefaultPodTemplate(&spec.Template)
	for i := range spec.VolumeClaimTemplates {
		c := &spec.VolumeClaimTemplates[i]
		core.DefaultPersistentVolumeClaim(c)
		c.APIVersion, c.Kind = "v1", "PersistentVolumeClaim"
	}
	if spec.PodManagementPolicy == "" {
		spec.PodManagementPolicy = appsv1.OrderedReadyPodManagement
	}
	strategy := &spec.UpdateStrategy
	if strategy.Type == "" {
		strategy.Type = appsv1.RollingUpdateStatefulSetStrategyType
		setDefault(&strategy.RollingUpdate, appsv1.RollingUpdateStatefulSetStrategy{})
	}
	if strategy.Type == appsv1.RollingUpdateStatefulSetStrategyType && strategy.RollingUpdate != nil {
		setDefault(&strategy.RollingUpdate.Partition, 0)
		setDefault(&strategy.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
	}
	setDefault(&spec.PersistentVolumeClaimRetentionPolicy, appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{})
	if retention := spec.PersistentVolumeClaimRetentionPolicy; retention.WhenDeleted == "" || retention.WhenScaled == "" {
		retention.WhenDeleted = orRetain(retention.WhenDeleted)
		retention.WhenScaled = orRetain(retention.WhenScaled)
	}
	setDefault(&spec.Replicas, 1)
	setDefault(&spec.RevisionHistoryLimit, 10)
}

func orRetain(p appsv1.PersistentVolumeClaimRetentionPolicyType) appsv1.PersistentVolumeClaimRetentionPolicyType {
	if p == "" {
		return appsv1.RetainPersistentVolumeClaimRetentionPolicyType
	}
	return p
}

// validateStatefulSet checks a spec; old is what is stored, nil on create. What
// can no longer be changed is not checked again.
func validateStatefulSet(spec, old *appsv1.StatefulSetSpec) field.ErrorList {
	path := field.NewPath("spec")
	errs := check.NotNegative(path, check.P("replicas", spec.Replicas), check.N("minReadySeconds", spec.MinReadySeconds))
	if o := spec.Ordinals; o != nil {
		errs = append(errs, check.NotNegative(path, check.N("ordinals.start", o.Start))...)
	}
	switch spec.PodManagementPolicy {
	case "":
		errs = append(errs, field.Required(path.Child("podManagementPolicy"), ""))
	case appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement:
	default:
		errs = append(errs, field.Invalid(path.Child("podManagementPolicy"), spec.PodManagementPolicy, "must be 'OrderedReady' or 'Parallel'"))
	}
	errs = append(errs, validateStatefulSetStrategy(&spec.UpdateStrategy, path.Child("updateStrategy"))...)
	errs = append(errs, validateRetention(spec.PersistentVolumeClaimRetentionPolicy, path.Child("persistentVolumeClaimRetentionPolicy"))...)
	if old == nil {
		for i := range spec.VolumeClaimTemplates {
			errs = append(errs, core.ValidatePersistentVolumeClaimSpec(&spec.VolumeClaimTemplates[i].Spec,
				path.Child("volumeClaimTemplates").Index(i).Child("spec"))...)
		}
		if spec.ServiceName != "" {
			errs = append(errs, check.DNSLabel(spec.ServiceName, path.Child("serviceName"))...)
		}
	}
	errs = append(errs, requiredSelector(spec.Selector, "statefulset", path.Child("selector"))...)
	if _, ok := check.Selects(spec.Selector, nil); !ok {
		errs = append(errs, field.Invalid(path.Child("selector"), spec.Selector, ""))
	} else {
		errs = append(errs, validateStatefulSetTemplate(spec, old, path.Child("template"))...)
	}
	return append(errs, runsForever(&spec.Template, "StatefulSet", path.Child("template"))...)
}

func validateStatefulSetStrategy(s *appsv1.StatefulSetUpdateStrategy, path *field.Path) (errs field.ErrorList) {
	rolling := path.Child("rollingUpdate")
	switch s.Type {
	case "":
		return append(errs, field.Required(path, ""))
	case appsv1.OnDeleteStatefulSetStrategyType:
		if s.RollingUpdate != nil {
			errs = append(errs, field.Invalid(rolling, s.RollingUpdate, "only allowed for updateStrategy 'RollingUpdate'"))
		}
		return errs
	case appsv1.RollingUpdateStatefulSetStrategyType:
	default:
		return append(errs, field.Invalid(path, s, "must be 'RollingUpdate' or 'OnDelete'"))
	}
	if s.RollingUpdate == nil {
		return nil
	}
	errs = check.NotNegative(rolling, check.P("partition", s.RollingUpdate.Partition))
	if unavailable := s.RollingUpdate.MaxUnavailable; unavailable != nil {
		at := rolling.Child("maxUnavailable")
		errs = append(errs, check.IntOrPercent(*unavailable, at)...)
		if check.Amount(unavailable) == 0 {
			errs = append(errs, field.Invalid(at, *unavailable, "cannot be 0"))
		}
		errs = append(errs, check.AtMostAll(*unavailable, at)...)
	}
	return errs
}

func validateRetention(p *appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy, path *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	const retain, remove = appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	return append(check.OneOf(p.WhenDeleted, path.Child("whenDeleted"), retain, remove),
		check.OneOf(p.WhenScaled, path.Child("whenScaled"), retain, remove)...)
}

// validateStatefulSetTemplate checks the template as its pods will be: they have
// a volume for each claim template, and names that the controller gives them.
func validateStatefulSetTemplate(spec, old *appsv1.StatefulSetSpec, path *field.Path) field.ErrorList {
	errs := mustSelect(spec.Selector, &spec.Template, path)
	// A template that was stored under laxer rules must stay changeable.
	if old == nil || len(validateStatefulSet(old, nil)) == 0 {
		t := asPods(spec)
		if old == nil {
			errs = append(errs, core.ValidatePodTemplate(t, path)...)
		} else {
			errs = append(errs, core.ValidatePodTemplateUpdate(t, asPods(old), path)...)
		}
	}
	errs = append(errs, metav1validation.ValidateLabels(spec.Template.Labels, path.Child("labels"))...)
	return append(errs, validation.ValidateAnnotations(spec.Template.Annotations, path.Child("annotations"))...)
}

func asPods(spec *appsv1.StatefulSetSpec) *corev1.PodTemplateSpec {
	t := spec.Template // a shallow copy: only fields of its own are set below
	t.Spec.Subdomain, t.Spec.Hostname = "", ""
	if len(spec.VolumeClaimTemplates) == 0 {
		return &t
	}
	claimed := map[string]bool{}
	t.Spec.Volumes = nil
	for i := range spec.VolumeClaimTemplates {
		name := spec.VolumeClaimTemplates[i].Name
		if claimed[name] {
			continue
		}
		claimed[name] = true
		t.Spec.Volumes = append(t.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}})
	}
	for _, v := range spec.Template.Spec.Volumes {
		if !claimed[v.Name] {
			t.Spec.Volumes = append(t.Spec.Volumes, v)
		}
	}
	return &t
}

func validateStatefulSetUpdate(s, old *appsv1.StatefulSet) field.ErrorList {
	path := field.NewPath("spec")
	errs := validateStatefulSet(&s.Spec, &old.Spec)
	errs = append(errs, validation.ValidateImmutableField(s.Spec.Selector, old.Spec.Selector, path.Child("selector"))...)
	errs = append(errs, validation.ValidateImmutableField(s.Spec.VolumeClaimTemplates, old.Spec.VolumeClaimTemplates, path.Child("volumeClaimTemplates"))...)
	errs = append(errs, validation.ValidateImmutableField(s.Spec.ServiceName, old.Spec.ServiceName, path.Child("serviceName"))...)
	return append(errs, validation.ValidateImmutableField(s.Spec.PodManagementPolicy, old.Spec.PodManagementPolicy, path.Child("podManagementPolicy"))...)
}

func validateStatefulSetStatus(set, old *appsv1.StatefulSet) field.ErrorList {
	s, path := &set.Status, field.NewPath("status")
	errs := check.NotNegative(path, check.N("replicas", s.Replicas), check.N("readyReplicas", s.ReadyReplicas),
		check.N("currentReplicas", s.CurrentReplicas), check.N("updatedReplicas", s.UpdatedReplicas),
		check.N("availableReplicas", s.AvailableReplicas), check.N("observedGeneration", s.ObservedGeneration),
		check.P("collisionCount", s.CollisionCount))
	errs = append(errs, check.NotAbove(path, s.Replicas, "cannot be greater than status.replicas",
		check.N("readyReplicas", s.ReadyReplicas), check.N("currentReplicas", s.CurrentReplicas),
		check.N("updatedReplicas", s.UpdatedReplicas), check.N("availableReplicas", s.AvailableReplicas))...)
	errs = append(errs, check.NotAbove(path, s.ReadyReplicas, "cannot be greater than status.readyReplicas", check.N("availableReplicas", s.AvailableReplicas))...)
	return append(errs, check.NotDecremented(s.CollisionCount, old.Status.CollisionCount, path.Child("collisionCount"))...)
}

func warnStatefulSet(s, old *appsv1.StatefulSet) (texts []string) {
	claims := field.NewPath("spec", "volumeClaimTemplates")
	if old == nil {
		texts = warnTemplate(&s.Spec.Template, nil)
	} else {
		texts = warnTemplate(&s.Spec.Template, &old.Spec.Template)
	}
	for i := range s.Spec.VolumeClaimTemplates {
		at := claims.Index(i)
		if old != nil {
			at = at.Child("Spec")
		}
		r := &s.Spec.VolumeClaimTemplates[i].Spec.Resources
		texts = append(texts, warnFraction(r.Requests, at.Child("resources", "requests"))...)
		texts = append(texts, warnFraction(r.Limits, at.Child("resources", "limits"))...)
	}
	if limit := s.Spec.RevisionHistoryLimit; limit != nil && *limit < 0 {
		texts = append(texts, "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended")
	}
	return texts
}

// warnFraction warns about a part of a byte.
func warnFraction(list corev1.ResourceList, path *field.Path) []string {
	q, ok := list[corev1.ResourceStorage]
	if !ok || q.MilliValue()%1000 == 0 {
		return nil
	}
	return []string{fmt.Sprintf("%s: fractional byte value %q is invalid, must be an integer", path.Key(string(corev1.ResourceStorage)), q.String())}
}
