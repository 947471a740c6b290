package core

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/diff"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/column"
	"skiff/api/kind"
)

// PersistentVolumeClaim is the kind of a user's request for storage.
var PersistentVolumeClaim = kind.Of(kind.Spec[*corev1.PersistentVolumeClaim]{
	NameOnUpdate: true,
	New:          func() *corev1.PersistentVolumeClaim { return &corev1.PersistentVolumeClaim{} },
	NewList:      func() runtime.Object { return &corev1.PersistentVolumeClaimList{} },
	Default:      DefaultPersistentVolumeClaim,
	Create: func(c *corev1.PersistentVolumeClaim) {
		c.Status = corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending}
		settleDataSources(&c.Spec, nil)
	},
	Update: func(c, old *corev1.PersistentVolumeClaim) {
		c.Status = old.Status
		settleDataSources(&c.Spec, &old.Spec)
	},
	Validate: func(c *corev1.PersistentVolumeClaim) field.ErrorList {
		return ValidatePersistentVolumeClaimSpec(&c.Spec, field.NewPath("spec"))
	},
	ValidateUpdate: validateClaimUpdate,
	Subs: map[string]kind.Sub[*corev1.PersistentVolumeClaim]{"status": {
		Update: func(c, old *corev1.PersistentVolumeClaim) {
			c.Spec = old.Spec
			if old.Status.HealthStatus == nil {
				c.Status.HealthStatus = nil // v1.37 has it off by default
			}
		},
		Validate: validateClaimStatus,
	}},
	Warn: func(c, _ *corev1.PersistentVolumeClaim) []string {
		w := warner{}
		if _, ok := c.Annotations[corev1.BetaStorageClassAnnotation]; ok {
			w.add(`%s: deprecated since v1.8; use "storageClassName" attribute instead`,
				field.NewPath("metadata", "annotations").Key(corev1.BetaStorageClassAnnotation))
		}
		w.claimSpec(field.NewPath("spec"), &c.Spec)
		return w.texts
	},
	Columns: []metav1.TableColumnDefinition{
		column.Name,
		column.String("Status", corev1.PersistentVolumeClaimStatus{}.SwaggerDoc()["phase"]),
		column.String("Volume", corev1.PersistentVolumeClaimSpec{}.SwaggerDoc()["volumeName"]),
		column.String("Capacity", corev1.PersistentVolumeClaimStatus{}.SwaggerDoc()["capacity"]),
		column.String("Access Modes", corev1.PersistentVolumeClaimStatus{}.SwaggerDoc()["accessModes"]),
		column.String("StorageClass", "StorageClass of the pvc"),
		column.String("VolumeAttributesClass", "VolumeAttributesClass of the pvc"),
		column.Age,
		column.Wide("VolumeMode", corev1.PersistentVolumeClaimSpec{}.SwaggerDoc()["volumeMode"]),
	},
	Row: func(c *corev1.PersistentVolumeClaim) []any {
		phase := string(c.Status.Phase)
		if c.DeletionTimestamp != nil {
			phase = "Terminating"
		}
		capacity, modes := "", ""
		if c.Spec.VolumeName != "" {
			q := c.Status.Capacity[corev1.ResourceStorage]
			capacity, modes = q.String(), accessModes(c.Status.AccessModes)
		}
		class := column.Or(c.Spec.StorageClassName, "")
		if beta, ok := c.Annotations[corev1.BetaStorageClassAnnotation]; ok {
			class = beta
		}
		return []any{c.Name, phase, c.Spec.VolumeName, capacity, modes, class,
			column.Or(c.Spec.VolumeAttributesClassName, "<unset>"), column.Since(c.CreationTimestamp),
			string(column.Or(c.Spec.VolumeMode, "<unset>"))}
	},
})

// DefaultPersistentVolumeClaim fills the defaults of a claim, also of a stateful
// set's templates.
func DefaultPersistentVolumeClaim(c *corev1.PersistentVolumeClaim) {
	setDefault(&c.Status.Phase, corev1.ClaimPending)
	DefaultPersistentVolumeClaimSpec(&c.Spec)
	roundResources(c.Status.Capacity)
	roundResources(c.Status.AllocatedResources)
}

// DefaultPersistentVolumeClaimSpec fills the defaults of a claim's spec.
func DefaultPersistentVolumeClaimSpec(s *corev1.PersistentVolumeClaimSpec) {
	setDefaultPtr(&s.VolumeMode, corev1.PersistentVolumeFilesystem)
	roundResources(s.Resources.Limits)
	roundResources(s.Resources.Requests)
}

// settleDataSources makes dataSource and dataSourceRef, its successor, say the
// same. The old field only ever took claims and snapshots, and ignored the rest.
// A source in another namespace is off by default in v1.37.
func settleDataSources(s, old *corev1.PersistentVolumeClaimSpec) {
	if crossNamespace(s.DataSourceRef) && (old == nil || old.DataSourceRef == nil) {
		s.DataSourceRef = nil
	}
	hadSource := old != nil && (old.DataSource != nil || old.DataSourceRef != nil)
	if d := s.DataSource; d != nil && s.DataSourceRef == nil && !hadSource {
		group := column.Or(d.APIGroup, "")
		if !(d.Kind == "PersistentVolumeClaim" && group == "" || d.Kind == "VolumeSnapshot" && group == "snapshot.storage.k8s.io") {
			s.DataSource = nil
		}
	}
	sameDataSources(s)
}

func crossNamespace(r *corev1.TypedObjectReference) bool {
	return r != nil && r.Namespace != nil && *r.Namespace != ""
}

func sameDataSources(s *corev1.PersistentVolumeClaimSpec) {
	switch d, r := s.DataSource, s.DataSourceRef; {
	case d != nil && r == nil:
		s.DataSourceRef = &corev1.TypedObjectReference{APIGroup: d.APIGroup, Kind: d.Kind, Name: d.Name}
	case d == nil && r != nil && !crossNamespace(r):
		s.DataSource = &corev1.TypedLocalObjectReference{APIGroup: r.APIGroup, Kind: r.Kind, Name: r.Name}
	}
}

// claimLeniency names what is not held against a claim that was stored so.
type claimLeniency struct {
	selectorValues bool // invalid label values
	sourceGroup    bool // the data source's API group is no domain
}

// ValidatePersistentVolumeClaimSpec checks the spec of a new claim, also in a
// stateful set's templates.
func ValidatePersistentVolumeClaimSpec(spec *corev1.PersistentVolumeClaimSpec, path *field.Path) field.ErrorList {
	return collect(path, func(p place) { checkClaimSpec(p, spec, claimLeniency{}) })
}

func checkClaimSpec(p place, s *corev1.PersistentVolumeClaimSpec, lenient claimLeniency) {
	if len(s.AccessModes) == 0 {
		p.required("accessModes", "at least 1 access mode is required")
	}
	if s.Selector != nil {
		p.add(metav1validation.ValidateLabelSelector(s.Selector,
			metav1validation.LabelSelectorValidationOptions{AllowInvalidLabelValueInSelector: lenient.selectorValues}, p.at("selector"))...)
	}
	checkAccessModes(p, s.AccessModes)
	size := p.child("resources").key(string(corev1.ResourceStorage))
	if q, ok := s.Resources.Requests[corev1.ResourceStorage]; !ok {
		size.required("", "")
	} else {
		checkPositiveQuantity(size, q)
	}
	if c := s.StorageClassName; c != nil && *c != "" {
		p.dnsSubdomain("storageClassName", *c)
	}
	if s.VolumeMode != nil {
		checkVolumeMode(p, *s.VolumeMode)
	}
	checkDataSources(p, s, lenient)
	if c := s.VolumeAttributesClassName; c != nil && *c != "" {
		p.dnsSubdomain("volumeAttributesClassName", *c)
	}
}

func checkVolumeMode(p place, mode corev1.PersistentVolumeMode) {
	oneOf(p, "volumeMode", mode, corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)
}

func checkAccessModes(p place, modes []corev1.PersistentVolumeAccessMode) {
	known := []corev1.PersistentVolumeAccessMode{corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod}
	once, others := false, false
	for _, m := range modes {
		oneOf(p, "accessModes", m, known...)
		once = once || m == corev1.ReadWriteOncePod
		others = others || m != corev1.ReadWriteOncePod && slices.Contains(known, m)
	}
	if once && others {
		p.forbidden("accessModes", "may not use ReadWriteOncePod with other access modes")
	}
}

func checkDataSources(p place, s *corev1.PersistentVolumeClaimSpec, lenient claimLeniency) {
	source := func(at place, name, kind string, group *string) {
		at.wants("name", name)
		at.wants("kind", kind)
		if of := column.Or(group, ""); of == "" && kind != "PersistentVolumeClaim" {
			at.invalid("", kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup")
		} else if of != "" && !lenient.sourceGroup {
			at.dnsSubdomain("apiGroup", of)
		}
	}
	d, r := s.DataSource, s.DataSourceRef
	if d != nil {
		source(p.child("dataSource"), d.Name, d.Kind, d.APIGroup)
	}
	if r != nil {
		at := p.child("dataSourceRef")
		source(at, r.Name, r.Kind, r.APIGroup)
		if crossNamespace(r) {
			at.invalidEach("namespace", *r.Namespace, validation.ValidateNamespaceName(*r.Namespace, false))
		}
	}
	switch {
	case d == nil || r == nil:
	case crossNamespace(r):
		p.invalid("", p.at("dataSource"), "may not be specified when dataSourceRef.namespace is specified")
	case !equality.Semantic.DeepEqual(d.APIGroup, r.APIGroup) || d.Kind != r.Kind || d.Name != r.Name:
		p.invalid("", p.at("dataSource"), "must match dataSourceRef")
	}
}

// validateClaimUpdate: a claim is what quota was charged for, so only its size,
// once bound, and what the binding fills in may change.
func validateClaimUpdate(c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	return collect(nil, func(root place) {
		p := root.child("spec")
		checkClaimSpec(p, &c.Spec, claimLeniency{
			selectorValues: len(metav1validation.ValidateLabelSelector(old.Spec.Selector, metav1validation.LabelSelectorValidationOptions{}, nil)) > 0,
			sourceGroup: old.Spec.DataSource != nil && old.Spec.DataSource.APIGroup != nil ||
				old.Spec.DataSourceRef != nil && old.Spec.DataSourceRef.APIGroup != nil,
		})
		now, was := c.Spec.DeepCopy(), old.Spec.DeepCopy()
		sameDataSources(was)
		if was.VolumeName == "" {
			was.VolumeName = now.VolumeName
		}
		checkClassChange(root, c, old, now, was)
		if c.Status.Phase == corev1.ClaimBound {
			if now.Resources.Requests != nil {
				now.Resources.Requests[corev1.ResourceStorage] = was.Resources.Requests[corev1.ResourceStorage]
			}
			now.VolumeAttributesClassName = was.VolumeAttributesClassName
		}
		if !equality.Semantic.DeepEqual(now, was) {
			p.forbidden("", "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n"+diff.Diff(*was, *now))
		}
		size, oldSize, real := c.Spec.Resources.Requests[corev1.ResourceStorage], old.Spec.Resources.Requests[corev1.ResourceStorage], old.Status.Capacity[corev1.ResourceStorage]
		if size.Cmp(oldSize) < 0 && size.Cmp(real) <= 0 {
			p.child("resources").child("requests").forbidden("storage", "field can not be less than status.capacity")
		}
		p.add(validation.ValidateImmutableField(c.Spec.VolumeMode, old.Spec.VolumeMode, field.NewPath("volumeMode"))...)
		if old.Status.CurrentVolumeAttributesClassName != nil && !equality.Semantic.DeepEqual(c.Spec.VolumeAttributesClassName, old.Spec.VolumeAttributesClassName) {
			switch class := c.Spec.VolumeAttributesClassName; {
			case class == nil:
				p.forbidden("volumeAttributesClassName", "update to nil is forbidden when status.currentVolumeAttributesClassName is not nil")
			case *class == "":
				p.forbidden("volumeAttributesClassName", "update to empty string is forbidden when status.currentVolumeAttributesClassName is not nil")
			}
		}
	})
}

// checkClassChange: a storage class may move from the annotation of older
// versions to the field, and may be filled in where there was none. What it
// allows it sets back in now.
func checkClassChange(root place, c, old *corev1.PersistentVolumeClaim, now, was *corev1.PersistentVolumeClaimSpec) {
	const key = corev1.BetaStorageClassAnnotation
	annotated, had := old.Annotations[key]
	kept, has := c.Annotations[key]
	filled := old.Spec.StorageClassName == nil && c.Spec.StorageClassName != nil
	if had && filled && *c.Spec.StorageClassName == annotated && (!has || kept == annotated) {
		now.StorageClassName = nil
		return
	}
	if kept != annotated {
		root.add(field.Invalid(field.NewPath("metadata").Child("annotations", key), kept, "field is immutable"))
	}
	if filled && (!had || *c.Spec.StorageClassName == annotated) {
		now.StorageClassName = was.StorageClassName
	}
}

func validateClaimStatus(c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	return collect(field.NewPath("status"), func(p place) {
		if c.ResourceVersion == "" {
			p.add(field.Required(field.NewPath("resourceVersion"), ""))
		}
		if len(c.Spec.AccessModes) == 0 {
			p.add(field.Required(field.NewPath("Spec", "accessModes"), ""))
		}
		for _, name := range sortedKeys(c.Status.Capacity) {
			checkWholeQuantity(p.child("capacity").key(string(name)), c.Status.Capacity[name])
		}
		for _, name := range sortedKeys(c.Status.AllocatedResourceStatuses) {
			at := p.child("allocatedResourceStatuses")
			checkClaimResource(at, name)
			states := []corev1.ClaimResourceStatus{corev1.PersistentVolumeClaimControllerResizeInProgress, corev1.PersistentVolumeClaimControllerResizeInfeasible,
				corev1.PersistentVolumeClaimNodeResizeInProgress, corev1.PersistentVolumeClaimNodeResizeInfeasible, corev1.PersistentVolumeClaimNodeResizePending}
			if !slices.Contains(states, c.Status.AllocatedResourceStatuses[name]) {
				slices.Sort(states)
				at.add(field.NotSupported(at.path, name, texts(states)))
			}
		}
		for _, name := range sortedKeys(c.Status.AllocatedResources) {
			if at := p.child("allocatedResources"); checkClaimResource(at, name) {
				checkWholeQuantity(at.key(string(name)), c.Status.AllocatedResources[name])
			}
		}
	})
}

func texts[T ~string](list []T) []string {
	out := make([]string, len(list))
	for i := range list {
		out[i] = string(list[i])
	}
	return out
}

// checkClaimResource: of Kubernetes' own resources a claim has only storage.
func checkClaimResource(p place, name corev1.ResourceName) bool {
	if msgs := utilvalidation.IsQualifiedName(string(name)); len(msgs) > 0 {
		p.invalidEach("", string(name), msgs)
		return false
	}
	if isNative(name) && name != corev1.ResourceStorage {
		oneOf(p, "", string(name), string(corev1.ResourceStorage))
		return false
	}
	return true
}

// accessModes is the short form of a table.
func accessModes(modes []corev1.PersistentVolumeAccessMode) string {
	var short []string
	for _, m := range []struct {
		mode  corev1.PersistentVolumeAccessMode
		short string
	}{{corev1.ReadWriteOnce, "RWO"}, {corev1.ReadOnlyMany, "ROX"}, {corev1.ReadWriteMany, "RWX"}, {corev1.ReadWriteOncePod, "RWOP"}} {
		if slices.Contains(modes, m.mode) {
			short = append(short, m.short)
		}
	}
	return strings.Join(short, ",")
}
