package resource

import (
	"fmt"
	"slices"
	"strings"

	"github.com/blang/semver/v4"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/check"
	"skiff/api/column"
	"skiff/api/core"
	"skiff/api/kind"
)

const maxCounters = 32

// ResourceSlice is resource.k8s.io/v1 ResourceSlice.
var ResourceSlice = kind.Of(kind.Spec[*resourcev1.ResourceSlice]{
	New:     func() *resourcev1.ResourceSlice { return &resourcev1.ResourceSlice{} },
	NewList: func() runtime.Object { return &resourcev1.ResourceSliceList{} },
	Default: func(s *resourcev1.ResourceSlice) {
		for i := range s.Spec.Devices {
			for j := range s.Spec.Devices[i].Taints {
				defaultTaint(&s.Spec.Devices[i].Taints[j])
			}
		}
	},
	Create: func(s *resourcev1.ResourceSlice) { dropAlpha(&s.Spec) },
	Update: func(s, old *resourcev1.ResourceSlice) {
		if !equality.Semantic.DeepEqual(s.Spec, old.Spec) {
			s.Generation = old.Generation + 1 // also where what was changed is dropped now
		}
		dropAlpha(&s.Spec)
	},
	Intent:   func(s *resourcev1.ResourceSlice) any { return &s.Spec },
	Validate: func(s *resourcev1.ResourceSlice) field.ErrorList { return validateSlice(&s.Spec, nil) },
	ValidateUpdate: func(s, old *resourcev1.ResourceSlice) field.ErrorList {
		path := field.NewPath("spec")
		errs := validateSlice(&s.Spec, &old.Spec)
		errs = append(errs, validation.ValidateImmutableField(s.Spec.Pool.Name, old.Spec.Pool.Name, path.Child("pool", "name"))...)
		errs = append(errs, validation.ValidateImmutableField(s.Spec.Driver, old.Spec.Driver, path.Child("driver"))...)
		return append(errs, validation.ValidateImmutableField(s.Spec.NodeName, old.Spec.NodeName, path.Child("nodeName"))...)
	},
	Warn: func(s, _ *resourcev1.ResourceSlice) []string {
		if d := s.Spec.Driver; d != strings.ToLower(d) {
			return []string{fmt.Sprintf("spec.driver: driver names should be lowercase; %q contains uppercase characters", d)}
		}
		return nil
	},
	Fields: func(s *resourcev1.ResourceSlice) fields.Set {
		return fields.Set{resourcev1.ResourceSliceSelectorNodeName: column.Or(s.Spec.NodeName, ""),
			resourcev1.ResourceSliceSelectorDriver: s.Spec.Driver, resourcev1.ResourceSliceSelectorPoolName: s.Spec.Pool.Name}
	},
	Columns: []metav1.TableColumnDefinition{
		column.Name,
		column.String("Node", resourcev1.ResourceSliceSpec{}.SwaggerDoc()["nodeName"]),
		column.String("Driver", resourcev1.ResourceSliceSpec{}.SwaggerDoc()["driver"]),
		column.String("Pool", resourcev1.ResourcePool{}.SwaggerDoc()["name"]),
		column.Age,
	},
	Row: func(s *resourcev1.ResourceSlice) []any {
		return []any{s.Name, column.Or(s.Spec.NodeName, ""), s.Spec.Driver, s.Spec.Pool.Name, column.Since(s.CreationTimestamp)}
	},
})

// dropAlpha clears what only alpha features read. Lists of values stay out of
// attributes for the same reason.
func dropAlpha(s *resourcev1.ResourceSliceSpec) {
	s.PartitionTypeAttribute, s.SkipNodeOperations = nil, nil
	for i := range s.Devices {
		d := &s.Devices[i]
		d.NodeAllocatableResources = nil
		for j := range d.ConsumesCounters {
			d.ConsumesCounters[j].CompatibilityGroups = nil
		}
		for name, a := range d.Attributes {
			if a.BoolValues != nil || a.IntValues != nil || a.StringValues != nil || a.VersionValues != nil {
				a.BoolValues, a.IntValues, a.StringValues, a.VersionValues = nil, nil, nil, nil
				d.Attributes[name] = a
			}
		}
	}
}

func validateSlice(s, old *resourcev1.ResourceSliceSpec) field.ErrorList {
	path := field.NewPath("spec")
	errs := validateDriver(s.Driver, path.Child("driver"))
	errs = append(errs, validatePool(s.Pool.Name, path.Child("pool", "name"))...)
	if s.Pool.ResourceSliceCount <= 0 {
		errs = append(errs, field.Invalid(path.Child("pool", "resourceSliceCount"), s.Pool.ResourceSliceCount, "must be greater than zero"))
	}
	if s.Pool.Generation < 0 {
		errs = append(errs, field.Invalid(path.Child("pool", "generation"), s.Pool.Generation, "must be greater than or equal to zero"))
	}
	errs = append(errs, validateSliceNodes(s, path)...)
	if s.SharedCounters != nil && s.Devices != nil {
		errs = append(errs, field.Invalid(path, "", "only one of `sharedCounters` or `devices` is allowed"))
	}
	limit := resourcev1.ResourceSliceMaxDevices
	if slices.ContainsFunc(s.Devices, advanced) {
		limit = resourcev1.ResourceSliceMaxDevicesWithAdvancedFeatures
	}
	errs = append(errs, each(s.Devices, limit, func(d resourcev1.Device) string { return d.Name }, path.Child("devices"),
		func(d *resourcev1.Device, at *field.Path) field.ErrorList {
			return validateDevice(d, stored(old, d.Name), column.Or(s.PerDeviceNodeSelection, false), at)
		})...)
	return append(errs, each(s.SharedCounters, resourcev1.ResourceSliceMaxCounterSets, func(c resourcev1.CounterSet) string { return c.Name }, path.Child("sharedCounters"),
		func(c *resourcev1.CounterSet, at *field.Path) field.ErrorList {
			return append(requiredLabel(c.Name, at.Child("name")), validateCounters(c.Counters, at.Child("counters"))...)
		})...)
}

// validateSliceNodes wants exactly one way of saying from which nodes the devices
// can be reached.
func validateSliceNodes(s *resourcev1.ResourceSliceSpec, path *field.Path) (errs field.ErrorList) {
	var set []string
	if n := s.NodeName; n != nil {
		if *n == "" {
			errs = append(errs, field.Invalid(path.Child("nodeName"), *n, "must be either unset or set to a non-empty string"))
		} else {
			set = append(set, "`nodeName`")
			errs = append(errs, check.Each(path.Child("nodeName"), *n, validation.NameIsDNSSubdomain(*n, false))...)
		}
	}
	if n := s.NodeSelector; n != nil {
		set = append(set, "`nodeSelector`")
		errs = append(errs, core.ValidateNodeSelector(n, path.Child("nodeSelector"))...)
		if len(n.NodeSelectorTerms) != 1 {
			errs = append(errs, field.Invalid(path.Child("nodeSelector", "nodeSelectorTerms"), n.NodeSelectorTerms, "must have exactly one node selector term"))
		}
	}
	for _, flag := range []struct {
		name  string
		value *bool
	}{{"allNodes", s.AllNodes}, {"perDeviceNodeSelection", s.PerDeviceNodeSelection}} {
		if flag.value == nil {
			continue
		}
		if *flag.value {
			set = append(set, "`"+flag.name+"`")
		} else {
			errs = append(errs, field.Invalid(path.Child(flag.name), false, "must be either unset or set to true"))
		}
	}
	const one = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"
	switch len(set) {
	case 0:
		errs = append(errs, field.Required(path, one))
	case 1:
	default:
		errs = append(errs, field.Invalid(path, fmt.Sprintf("{%s}", strings.Join(set, ", ")), one+", but multiple fields are set"))
	}
	return errs
}

// advanced tells devices of which fewer fit into a slice.
func advanced(d resourcev1.Device) bool {
	if len(d.Taints) > 0 || len(d.ConsumesCounters) > 0 {
		return true
	}
	for _, a := range d.Attributes {
		if a.BoolValues != nil || a.IntValues != nil || a.StringValues != nil || a.VersionValues != nil {
			return true
		}
	}
	return false
}

func stored(old *resourcev1.ResourceSliceSpec, name string) *resourcev1.Device {
	if old == nil {
		return nil
	}
	for i := range old.Devices {
		if old.Devices[i].Name == name {
			return &old.Devices[i]
		}
	}
	return nil
}

func validateDevice(d, old *resourcev1.Device, spread bool, path *field.Path) field.ErrorList {
	errs := check.DNSLabel(d.Name, path.Child("name"))
	if n := len(d.Attributes) + len(d.Capacity); n > resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice {
		errs = append(errs, field.Invalid(path, n, fmt.Sprintf("the total number of attributes and capacities must not exceed %d", resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice)))
	}
	for name, a := range d.Attributes {
		errs = append(errs, validateIdentifier(string(name), path.Child("attributes"))...)
		errs = append(errs, validateAttribute(&a, path.Child("attributes").Key(string(name)))...)
	}
	// What is stored may stay.
	if old == nil || !equality.Semantic.DeepEqual(old.Capacity, d.Capacity) {
		for name, c := range d.Capacity {
			errs = append(errs, validateIdentifier(string(name), path.Child("capacity"))...)
			if c.RequestPolicy != nil && !column.Or(d.AllowMultipleAllocations, false) {
				errs = append(errs, field.Forbidden(path.Child("capacity").Key(string(name)).Child("requestPolicy"), "allowMultipleAllocations must be true"))
			}
		}
	}
	if old == nil || !equality.Semantic.DeepEqual(old.Taints, d.Taints) {
		errs = append(errs, each(d.Taints, resourcev1.DeviceTaintsMaxLength, nil, path.Child("taints"),
			func(t *resourcev1.DeviceTaint, at *field.Path) field.ErrorList { return validateTaint(t, nil, at) })...)
	}
	errs = append(errs, each(d.ConsumesCounters, resourcev1.ResourceSliceMaxDeviceCounterConsumptionsPerDevice,
		func(c resourcev1.DeviceCounterConsumption) string { return c.CounterSet }, path.Child("consumesCounters"),
		func(c *resourcev1.DeviceCounterConsumption, at *field.Path) field.ErrorList {
			return append(requiredLabel(c.CounterSet, at.Child("counterSet")), validateCounters(c.Counters, at.Child("counters"))...)
		})...)
	errs = append(errs, validateDeviceNodes(d, spread, path)...)
	return append(errs, validateBinding(d.BindingConditions, d.BindingFailureConditions, path)...)
}

// validateDeviceNodes wants a device to say from which nodes it can be reached
// exactly when its slice leaves that to devices.
func validateDeviceNodes(d *resourcev1.Device, spread bool, path *field.Path) (errs field.ErrorList) {
	if !spread {
		if d.NodeName != nil || d.NodeSelector != nil || d.AllNodes != nil {
			errs = append(errs, field.Invalid(path, nil, "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec"))
		}
		return errs
	}
	var set []string
	if n := d.NodeName; n != nil && *n == "" {
		errs = append(errs, field.Invalid(path.Child("nodeName"), *n, "must not be empty"))
	} else if n != nil {
		set = append(set, "`nodeName`")
		errs = append(errs, check.Each(path.Child("nodeName"), *n, validation.NameIsDNSSubdomain(*n, false))...)
	}
	if d.NodeSelector != nil {
		set = append(set, "`nodeSelector`")
		errs = append(errs, core.ValidateNodeSelector(d.NodeSelector, path.Child("nodeSelector"))...)
	}
	if all := d.AllNodes; all != nil && *all {
		set = append(set, "`allNodes`")
	} else if all != nil {
		errs = append(errs, field.Invalid(path.Child("allNodes"), false, "must be either unset or set to true"))
	}
	const one = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec"
	switch len(set) {
	case 0:
		errs = append(errs, field.Required(path, one))
	case 1:
	default:
		errs = append(errs, field.Invalid(path, fmt.Sprintf("{%s}", strings.Join(set, ", ")), one))
	}
	return errs
}

// validateBinding wants conditions for success and for failure, or none of both.
func validateBinding(good, bad []string, path *field.Path) field.ErrorList {
	name := func(s string) string { return s }
	ok, failed := path.Child("bindingConditions"), path.Child("bindingFailureConditions")
	label := func(s *string, at *field.Path) field.ErrorList { return metav1validation.ValidateLabelName(*s, at) }
	errs := each(good, resourcev1.BindingConditionsMaxSize, name, ok, label)
	errs = append(errs, each(bad, resourcev1.BindingFailureConditionsMaxSize, name, failed, label)...)
	for i, c := range bad {
		if slices.Contains(good, c) {
			errs = append(errs, field.Invalid(failed.Index(i), c, "bindingFailureConditions must not overlap with bindingConditions"))
		}
	}
	switch {
	case len(good) == 0 && len(bad) > 0:
		errs = append(errs, field.Invalid(ok, good, "bindingConditions are required to use bindingFailureConditions"))
	case len(bad) == 0 && len(good) > 0:
		errs = append(errs, field.Invalid(failed, bad, "bindingFailureConditions are required to use bindingConditions"))
	}
	return errs
}

func validateCounters(counters map[string]resourcev1.Counter, path *field.Path) (errs field.ErrorList) {
	if len(counters) == 0 {
		return append(errs, field.Required(path, ""))
	}
	if n := len(counters); n > maxCounters {
		return append(errs, field.TooMany(path, n, maxCounters))
	}
	for name := range counters {
		errs = append(errs, check.Each(path, name, content.IsDNS1123Label(name))...)
	}
	return errs
}

func requiredLabel(name string, path *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return check.Each(path, name, content.IsDNS1123Label(name))
}

// validateAttribute wants one value, short, and a version to be one.
func validateAttribute(a *resourcev1.DeviceAttribute, path *field.Path) (errs field.ErrorList) {
	short := func(v *string, at *field.Path) {
		if v != nil && len(*v) > resourcev1.DeviceAttributeMaxValueLength {
			errs = append(errs, field.TooLong(at, "", resourcev1.DeviceAttributeMaxValueLength))
		}
	}
	short(a.StringValue, path.Child("string"))
	if v := a.VersionValue; v != nil {
		if !isSemantic(*v) {
			errs = append(errs, field.Invalid(path.Child("version"), *v, "must be a string compatible with semver.org spec 2.0.0"))
		}
		short(v, path.Child("version"))
	}
	const members = "one of: `int`, `bool`, `string`, `version`, `ints`, `bools`, `strings`, `versions`"
	switch set := values(a); len(set) {
	case 0:
		errs = append(errs, field.Invalid(path, "", "must specify "+members))
	case 1:
	default:
		errs = append(errs, field.Invalid(path, "{"+strings.Join(set, ", ")+"}", "must specify exactly "+members))
	}
	return errs
}

// isSemantic tells versions of semver.org, 2.0.0.
func isSemantic(v string) bool {
	_, err := semver.Parse(v)
	return err == nil
}

// values names the values of an attribute that are set.
func values(a *resourcev1.DeviceAttribute) (names []string) {
	for _, v := range []struct {
		name string
		set  bool
	}{
		{"int", a.IntValue != nil}, {"bool", a.BoolValue != nil}, {"string", a.StringValue != nil}, {"version", a.VersionValue != nil},
		{"ints", a.IntValues != nil}, {"bools", a.BoolValues != nil}, {"strings", a.StringValues != nil}, {"versions", a.VersionValues != nil},
	} {
		if v.set {
			names = append(names, v.name)
		}
	}
	return names
}
