// Package check has the rules that kinds of several API groups share, each a
// function from a value and its path to the errors that Kubernetes would give.
// Only the packages api/<group> call it. It knows no kind.
package check

import (
	"slices"
	"strconv"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Count is a whole number with the name of its field.
type Count struct {
	Field string
	Value int64
}

// N makes a Count of any integer.
func N[T ~int32 | ~int64](name string, v T) Count { return Count{name, int64(v)} }

// P is N for an optional field: unset counts as zero, which no rule forbids.
func P[T ~int32 | ~int64](name string, v *T) Count {
	if v == nil {
		return Count{Field: name}
	}
	return Count{name, int64(*v)}
}

// NotNegative refuses numbers below zero.
func NotNegative(parent *field.Path, counts ...Count) (errs field.ErrorList) {
	for _, c := range counts {
		if c.Value < 0 {
			errs = append(errs, validation.ValidateNonnegativeField(c.Value, parent.Child(c.Field))...)
		}
	}
	return errs
}

// NotAbove refuses numbers greater than limit.
func NotAbove(parent *field.Path, limit int32, message string, counts ...Count) (errs field.ErrorList) {
	for _, c := range counts {
		if c.Value > int64(limit) {
			errs = append(errs, field.Invalid(parent.Child(c.Field), int32(c.Value), message))
		}
	}
	return errs
}

// NotDecremented refuses a counter that goes back; unset counts as zero only
// where it was set before.
func NotDecremented(v, old *int32, path *field.Path) field.ErrorList {
	switch {
	case old == nil:
		return nil
	case v == nil:
		return field.ErrorList{field.Invalid(path, int32(0), "cannot be decremented")}
	case *v < *old:
		return field.ErrorList{field.Invalid(path, *v, "cannot be decremented")}
	}
	return nil
}

// Each reports every message about a value as an error at its path.
func Each(path *field.Path, value any, messages []string) (errs field.ErrorList) {
	for _, m := range messages {
		errs = append(errs, field.Invalid(path, value, m))
	}
	return errs
}

// PathSegment is the rule for names of kinds that ask for no more than what a URL's
// path needs.
func PathSegment(name string, prefix bool) []string {
	if prefix {
		return content.IsPathSegmentPrefix(name)
	}
	return content.IsPathSegmentName(name)
}

// BareName wants a DNS subdomain as a name, but lets generateName be any path
// segment: the rule of kinds whose name alone is declared.
func BareName(name string, prefix bool) []string {
	if prefix {
		return content.IsPathSegmentPrefix(name)
	}
	return validation.NameIsDNSSubdomain(name, false)
}

// Unchanged refuses another value; unlike apimachinery's rule its error names no
// value, as those of fields that are declared immutable.
func Unchanged(now, was any, path *field.Path) field.ErrorList {
	if equality.Semantic.DeepEqual(now, was) {
		return nil
	}
	return field.ErrorList{field.Invalid(path, nil, validation.FieldImmutableErrorMsg)}
}

// DNSLabel wants a label of RFC 1123.
func DNSLabel(value string, path *field.Path) field.ErrorList {
	return Each(path, value, utilvalidation.IsDNS1123Label(value))
}

// DriverName wants a DNS subdomain of at most 63 characters, in which capitals are
// taken.
func DriverName(name string, path *field.Path) (errs field.ErrorList) {
	const limit = 63
	if name == "" {
		return append(errs, field.Required(path, ""))
	}
	if len(name) > limit {
		errs = append(errs, field.TooLongCharacters(path, name, limit))
	}
	return append(errs, Each(path, name, content.IsDNS1123SubdomainCaseless(name))...)
}

// QualifiedName wants a name with an optional DNS prefix, as label keys are.
func QualifiedName(value string, path *field.Path) field.ErrorList {
	return Each(path, value, utilvalidation.IsQualifiedName(value))
}

// OneOf wants one of the given values, in the order in which messages list them.
func OneOf[T ~string](value T, path *field.Path, allowed ...T) field.ErrorList {
	if slices.Contains(allowed, value) {
		return nil
	}
	return field.ErrorList{field.NotSupported(path, value, allowed)}
}

// SetOneOf is OneOf that calls an empty value missing.
func SetOneOf[T ~string](value T, path *field.Path, allowed ...T) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return OneOf(value, path, allowed...)
}

// IntOrPercent wants a number of at least zero or a percentage.
func IntOrPercent(v intstr.IntOrString, path *field.Path) field.ErrorList {
	switch v.Type {
	case intstr.String:
		return Each(path, v, utilvalidation.IsValidPercent(v.StrVal))
	case intstr.Int:
		return validation.ValidateNonnegativeField(int64(v.IntVal), path)
	}
	return field.ErrorList{field.Invalid(path, v, "must be an integer or percentage (e.g '5%%')")}
}

// AtMostAll refuses percentages above 100.
func AtMostAll(v intstr.IntOrString, path *field.Path) field.ErrorList {
	if percent, ok := percentage(v); ok && percent > 100 {
		return field.ErrorList{field.Invalid(path, v, "must not be greater than 100%")}
	}
	return nil
}

// Amount is the number in v, a percentage's too; nil is zero.
func Amount(v *intstr.IntOrString) int {
	if v == nil {
		return 0
	}
	if percent, ok := percentage(*v); ok {
		return percent
	}
	return v.IntValue()
}

func percentage(v intstr.IntOrString) (int, bool) {
	if v.Type != intstr.String || len(utilvalidation.IsValidPercent(v.StrVal)) > 0 {
		return 0, false
	}
	n, _ := strconv.Atoi(v.StrVal[:len(v.StrVal)-1])
	return n, true
}

// Selector checks a label selector; lax takes label values that are not valid,
// which older servers stored.
func Selector(s *metav1.LabelSelector, lax bool, path *field.Path) field.ErrorList {
	return metav1validation.ValidateLabelSelector(s,
		metav1validation.LabelSelectorValidationOptions{AllowInvalidLabelValueInSelector: lax}, path)
}

// Selects tells whether a selector matches labels; ok is false where the
// selector is not a valid one.
func Selects(s *metav1.LabelSelector, l map[string]string) (matches, ok bool) {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return false, false
	}
	return selector.Matches(labels.Set(l)), true
}
