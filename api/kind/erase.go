package kind

import (
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Of erases the Go type of s, so that kinds stand in one table.
func Of[T Object](s Spec[T]) Kind {
	k := Kind{
		New:            func() Object { return s.New() },
		NewList:        s.NewList,
		Default:        one(s.Default),
		Create:         one(s.Create),
		Update:         two(s.Update),
		CountsUpdates:  s.CountsUpdates,
		ValidateName:   s.ValidateName,
		NameOnUpdate:   s.NameOnUpdate,
		PlainMeta:      s.PlainMeta,
		AnyFinalizer:   s.AnyFinalizer,
		Validate:       check(s.Validate),
		ValidateUpdate: check2(s.ValidateUpdate),
		Columns:        s.Columns,

		AllowCreateOnUpdate:          s.AllowCreateOnUpdate,
		UnconditionalUpdateForbidden: s.UnconditionalUpdateForbidden,
	}
	if k.ValidateName == nil {
		k.ValidateName = validation.NameIsDNSSubdomain
	}
	if s.NameFor != nil {
		k.NameFor = func(obj Object) func(string, bool) []string { return s.NameFor(obj.(T)) }
	}
	if s.Intent != nil {
		k.Intent = func(obj Object) any { return s.Intent(obj.(T)) }
	}
	if s.Fields != nil {
		k.Fields = func(obj Object) fields.Set { return s.Fields(obj.(T)) }
	}
	if s.Row != nil {
		k.Row = func(obj Object) []any { return s.Row(obj.(T)) }
	}
	k.Warn = func(obj, old Object) []string {
		if s.Warn == nil {
			return nil
		}
		return s.Warn(obj.(T), cast[T](old))
	}
	if len(s.Subs) > 0 {
		k.Subs = make(map[string]ErasedSub, len(s.Subs))
		for name, sub := range s.Subs {
			k.Subs[name] = ErasedSub{Update: two(sub.Update), Validate: check2(sub.Validate),
				NameOnUpdate: sub.NameOnUpdate, AnyFinalizer: sub.AnyFinalizer}
		}
	}
	if s.Scale != nil {
		k.Scale = &ErasedScale{
			Get: func(obj Object) (autoscalingv1.ScaleSpec, autoscalingv1.ScaleStatus) { return s.Scale.Get(obj.(T)) },
			Set: func(obj Object, replicas int32) { s.Scale.Set(obj.(T), replicas) },
		}
	}
	return k
}

// cast turns a nil interface into a nil T.
func cast[T Object](obj Object) (t T) {
	if obj != nil {
		t = obj.(T)
	}
	return t
}

func one[T Object](f func(T)) func(Object) {
	if f == nil {
		return func(Object) {}
	}
	return func(obj Object) { f(obj.(T)) }
}

func two[T Object](f func(obj, old T)) func(obj, old Object) {
	if f == nil {
		return func(Object, Object) {}
	}
	return func(obj, old Object) { f(obj.(T), old.(T)) }
}

func check[T Object](f func(T) field.ErrorList) func(Object) field.ErrorList {
	if f == nil {
		return func(Object) field.ErrorList { return nil }
	}
	return func(obj Object) field.ErrorList { return f(obj.(T)) }
}

func check2[T Object](f func(obj, old T) field.ErrorList) func(obj, old Object) field.ErrorList {
	if f == nil {
		return func(Object, Object) field.ErrorList { return nil }
	}
	return func(obj, old Object) field.ErrorList { return f(obj.(T), old.(T)) }
}
