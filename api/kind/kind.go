// Package kind says what Skiff knows about one kind beyond its Go type: its
// defaults, what a create or an update may set, its validation, its selectable
// fields and its printer columns. The packages api/<group> fill one Kind per
// kind; api/catalogue.go puts them into rows; only apiserver calls them. It
// never does I/O and never looks at the cluster's state.
package kind

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
)

// Object is an API object: a pointer to one of k8s.io/api's types.
type Object interface {
	metav1.Object
	runtime.Object
}

// Spec is what api/<group>/<kind>.go writes down for the Go type T (a pointer
// such as *corev1.Pod). Every func may be nil, which means "nothing to do".
// Funcs may change the first object that they are given and never another.
type Spec[T Object] struct {
	New     func() T
	NewList func() runtime.Object

	// Default fills unset fields as Kubernetes documents. It is idempotent,
	// and is called on create, on update, and on objects read from storage.
	Default func(T)

	// Create resets what a create may not set (status, usually).
	Create func(obj T)
	// Update resets what a plain update may not change (status, usually).
	Update func(obj, old T)
	// Intent is the part whose change adds one to metadata.generation, usually
	// &obj.Spec. Nil: the kind has no generation.
	Intent func(obj T) any

	// CountsUpdates: a create does not set the generation to 1.
	CountsUpdates bool

	// ValidateName checks metadata.name (prefix: it is a generateName prefix).
	// Nil: a DNS subdomain (RFC 1123). Messages as in apimachinery's
	// api/validation.NameIsDNSSubdomain and its siblings.
	ValidateName func(name string, prefix bool) []string
	// NameFor is ValidateName where what a name must be depends on the object.
	NameFor func(obj T) func(name string, prefix bool) []string
	// NameOnUpdate: an update judges metadata.name and generateName as a create does.
	NameOnUpdate bool
	// PlainMeta: a create judges metadata only when all else is fine, and only by
	// what holds for every kind.
	PlainMeta bool
	// AnyFinalizer: bare names of finalizers may be others than Kubernetes' own.
	AnyFinalizer bool
	// Validate checks all of a new object but metadata, which the row checks.
	Validate func(obj T) field.ErrorList
	// ValidateUpdate checks what may not change and all that Validate checks
	// (it calls it where upstream does); metadata is checked by the row.
	ValidateUpdate func(obj, old T) field.ErrorList

	// Subs are the subresources that read and write the object itself:
	// "status", "resize", "ephemeralcontainers", "finalize", "approval".
	Subs map[string]Sub[T]
	// Scale gives the scale subresource. Nil: the kind has none.
	Scale *Scale[T]

	// Warn returns texts for Warning headers (deprecated or dubious fields).
	// old is nil on create.
	Warn func(obj, old T) []string

	// Fields are the selectable fields other than metadata.name and
	// metadata.namespace, which every kind has. The keys are the same for all
	// objects of the kind.
	Fields func(obj T) fields.Set

	// Columns and Row make `kubectl get` tables, with upstream's names, types,
	// priorities and descriptions. Row returns one cell per column; cells are
	// string, int64, bool or nil. Nil: Name and Created At.
	Columns []metav1.TableColumnDefinition
	Row     func(obj T) []any

	// AllowCreateOnUpdate: a PUT of an object that is not there creates it.
	AllowCreateOnUpdate bool
	// UnconditionalUpdateForbidden: a PUT must carry a resourceVersion.
	UnconditionalUpdateForbidden bool
}

// Sub is a subresource that reads and writes the object itself.
type Sub[T Object] struct {
	// Update resets all that the subresource may not change.
	Update func(obj, old T)
	// Validate checks the result; metadata is checked by the row.
	Validate func(obj, old T) field.ErrorList
	// NameOnUpdate and AnyFinalizer are as in Spec, for writes through here.
	NameOnUpdate, AnyFinalizer bool
}

// Scale converts to and from autoscaling/v1 Scale (metadata is apiserver's).
type Scale[T Object] struct {
	Get func(obj T) (autoscalingv1.ScaleSpec, autoscalingv1.ScaleStatus)
	Set func(obj T, replicas int32)
}

// Kind is a Spec with its Go type erased: what apiserver calls. No func is nil,
// except where said.
type Kind struct {
	New            func() Object
	NewList        func() runtime.Object
	Default        func(obj Object)
	Create         func(obj Object)
	Update         func(obj, old Object)
	Intent         func(obj Object) any // nil: no generation
	CountsUpdates  bool
	ValidateName   func(name string, prefix bool) []string
	NameFor        func(obj Object) func(name string, prefix bool) []string // nil: ValidateName
	NameOnUpdate   bool
	PlainMeta      bool
	AnyFinalizer   bool
	Validate       func(obj Object) field.ErrorList
	ValidateUpdate func(obj, old Object) field.ErrorList
	Subs           map[string]ErasedSub
	Scale          *ErasedScale // nil: no scale subresource
	Warn           func(obj, old Object) []string
	Fields         func(obj Object) fields.Set // nil: only metadata.name and metadata.namespace
	Columns        []metav1.TableColumnDefinition
	Row            func(obj Object) []any // nil: Name and Created At

	AllowCreateOnUpdate          bool
	UnconditionalUpdateForbidden bool
}

// NameRule returns what checks the names of obj.
func (k *Kind) NameRule(obj Object) func(name string, prefix bool) []string {
	if k.NameFor != nil {
		return k.NameFor(obj)
	}
	return k.ValidateName
}

// ErasedSub is a Sub with its Go type erased; no func is nil.
type ErasedSub struct {
	Update   func(obj, old Object)
	Validate func(obj, old Object) field.ErrorList

	NameOnUpdate, AnyFinalizer bool
}

// ErasedScale is a Scale with its Go type erased.
type ErasedScale struct {
	Get func(obj Object) (autoscalingv1.ScaleSpec, autoscalingv1.ScaleStatus)
	Set func(obj Object, replicas int32)
	// Check says why an object has no Scale to read, or to write; nil: all have.
	Check func(obj Object, writing bool) error
}
