package core

import (
	"cmp"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// place is where a check stands: the path of the value that it looks at, and the
// list that its findings go to. Its methods name a field of that value ("" means
// the value itself), so that a path is only built for what is wrong.
type place struct {
	path *field.Path
	errs *field.ErrorList
}

// collect runs a check at path and gives what it found.
func collect(path *field.Path, check func(place)) field.ErrorList {
	var errs field.ErrorList
	check(place{path, &errs})
	return errs
}

func (p place) child(name string) place { return place{p.path.Child(name), p.errs} }
func (p place) index(i int) place       { return place{p.path.Index(i), p.errs} }
func (p place) key(k string) place      { return place{p.path.Key(k), p.errs} }

func (p place) at(name string) *field.Path {
	if name == "" {
		return p.path
	}
	return p.path.Child(name)
}

func (p place) add(errs ...*field.Error) { *p.errs = append(*p.errs, errs...) }

func (p place) required(name, msg string) { p.add(field.Required(p.at(name), msg)) }

func (p place) invalid(name string, value any, msg string) {
	p.add(field.Invalid(p.at(name), value, msg))
}

// invalidEach reports each of msgs about one value.
func (p place) invalidEach(name string, value any, msgs []string) {
	for _, msg := range msgs {
		p.invalid(name, value, msg)
	}
}

func (p place) forbidden(name, msg string)       { p.add(field.Forbidden(p.at(name), msg)) }
func (p place) duplicate(name string, value any) { p.add(field.Duplicate(p.at(name), value)) }
func (p place) notFound(name string, value any)  { p.add(field.NotFound(p.at(name), value)) }
func (p place) tooLong(name string, limit int)   { p.add(field.TooLong(p.at(name), "", limit)) }

// wants reports a missing text, and tells whether it is there.
func (p place) wants(name, value string) bool {
	if value == "" {
		p.required(name, "")
	}
	return value != ""
}

func (p place) notNegative(name string, v int64) {
	if v < 0 {
		p.invalid(name, v, "must be greater than or equal to 0")
	}
}

func (p place) positive(name string, v int64) {
	if v <= 0 {
		p.invalid(name, v, "must be greater than zero")
	}
}

func (p place) dnsLabel(name, value string) {
	p.invalidEach(name, value, validation.IsDNS1123Label(value))
}

func (p place) dnsSubdomain(name, value string) {
	p.invalidEach(name, value, validation.IsDNS1123Subdomain(value))
}

func (p place) qualifiedName(name, value string) {
	p.invalidEach(name, value, validation.IsQualifiedName(value))
}

// oneOf reports a value that is not among allowed, in the order of messages.
func oneOf[T ~string](p place, name string, value T, allowed ...T) {
	if !slices.Contains(allowed, value) {
		p.add(field.NotSupported(p.at(name), value, slices.Clone(allowed)))
	}
}

// setOneOf is oneOf that calls an empty value missing.
func setOneOf[T ~string](p place, name string, value T, allowed ...T) {
	if value == "" {
		p.required(name, "")
		return
	}
	oneOf(p, name, value, allowed...)
}

// union counts the members set of a union that takes one.
type union struct {
	place
	tooMany string // what to say of the second member
	count   int
}

// take tells whether to check a member: it is set, and the first.
func (u *union) take(set bool, name string) (place, bool) { return u.takeAs(set, name, name) }

// takeAs is take for members whose path differs between the two messages.
func (u *union) takeAs(set bool, second, name string) (place, bool) {
	if !set {
		return place{}, false
	}
	u.count++
	if u.count > 1 {
		u.forbidden(second, u.tooMany)
		return place{}, false
	}
	return u.child(name), true
}

// sortedKeys makes messages about maps come in one order.
func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	if len(m) == 0 {
		return nil
	}
	return slices.Sorted(maps.Keys(m))
}

func isTrue(b *bool) bool { return b != nil && *b }
