package resource

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/check"
	"skiff/api/column"
	"skiff/api/core"
	"skiff/api/kind"
)

const (
	maxDriver         = 63
	maxIdentifier     = 32
	maxParameterBytes = 10 * 1024
	maxRuleConditions = 8
)

// effects of taints, as messages list them.
var effects = []resourcev1.DeviceTaintEffect{resourcev1.DeviceTaintEffectNoExecute, resourcev1.DeviceTaintEffectNoSchedule, resourcev1.DeviceTaintEffectNone}

// DeviceClass is resource.k8s.io/v1 DeviceClass.
var DeviceClass = kind.Of(kind.Spec[*resourcev1.DeviceClass]{
	New:      func() *resourcev1.DeviceClass { return &resourcev1.DeviceClass{} },
	NewList:  func() runtime.Object { return &resourcev1.DeviceClassList{} },
	Intent:   func(c *resourcev1.DeviceClass) any { return &c.Spec },
	Validate: func(c *resourcev1.DeviceClass) field.ErrorList { return validateClass(&c.Spec, nil) },
	ValidateUpdate: func(c, old *resourcev1.DeviceClass) field.ErrorList {
		return validateClass(&c.Spec, &old.Spec)
	},
	Columns: []metav1.TableColumnDefinition{column.Name, column.Age},
	Row: func(c *resourcev1.DeviceClass) []any {
		return []any{c.Name, column.Since(c.CreationTimestamp)}
	},
})

func validateClass(s, old *resourcev1.DeviceClassSpec) field.ErrorList {
	path := field.NewPath("spec")
	stored := old != nil && equality.Semantic.DeepEqual(s.Selectors, old.Selectors)
	errs := validateSelectors(s.Selectors, stored, path.Child("selectors"))
	errs = append(errs, each(s.Config, resourcev1.DeviceConfigMaxSize, nil, path.Child("config"),
		func(c *resourcev1.DeviceClassConfiguration, at *field.Path) field.ErrorList {
			return validateConfig(&c.DeviceConfiguration, at)
		})...)
	if name := s.ExtendedResourceName; name != nil && !isExtended(*name) {
		errs = append(errs, field.Invalid(path.Child("extendedResourceName"), *name, "must be a valid extended resource name"))
	}
	return errs
}

// isExtended tells names of resources that are not Kubernetes' own.
func isExtended(name string) bool {
	if !strings.Contains(name, "/") || strings.Contains(name, "kubernetes.io/") || strings.HasPrefix(name, "requests.") {
		return false
	}
	return len(utilvalidation.IsQualifiedName("requests."+name)) == 0
}

// DeviceTaintRule is resource.k8s.io/v1 DeviceTaintRule.
var DeviceTaintRule = kind.Of(kind.Spec[*resourcev1.DeviceTaintRule]{
	New:     func() *resourcev1.DeviceTaintRule { return &resourcev1.DeviceTaintRule{} },
	NewList: func() runtime.Object { return &resourcev1.DeviceTaintRuleList{} },
	Default: func(r *resourcev1.DeviceTaintRule) { defaultTaint(&r.Spec.Taint) },
	Create:  func(r *resourcev1.DeviceTaintRule) { r.Status = resourcev1.DeviceTaintRuleStatus{} },
	Update: func(r, old *resourcev1.DeviceTaintRule) {
		r.Status = old.Status
		// Another effect begins when it is set.
		if r.Spec.Taint.Effect != old.Spec.Taint.Effect && r.Spec.Taint.TimeAdded.Equal(old.Spec.Taint.TimeAdded) {
			r.Spec.Taint.TimeAdded = nil
			defaultTaint(&r.Spec.Taint)
		}
	},
	Intent:   func(r *resourcev1.DeviceTaintRule) any { return &r.Spec },
	Validate: func(r *resourcev1.DeviceTaintRule) field.ErrorList { return validateTaintRule(&r.Spec, nil) },
	ValidateUpdate: func(r, old *resourcev1.DeviceTaintRule) field.ErrorList {
		return validateTaintRule(&r.Spec, &old.Spec.Taint)
	},
	Subs: map[string]kind.Sub[*resourcev1.DeviceTaintRule]{"status": {
		Update: func(r, old *resourcev1.DeviceTaintRule) {
			r.Spec = old.Spec
			metav1.ResetObjectMetaForStatus(&r.ObjectMeta, &old.ObjectMeta)
		},
		Validate: func(r, _ *resourcev1.DeviceTaintRule) field.ErrorList {
			path := field.NewPath("status", "conditions")
			errs := metav1validation.ValidateConditions(r.Status.Conditions, path)
			if n := len(r.Status.Conditions); n > maxRuleConditions {
				errs = append(errs, field.TooMany(path, n, maxRuleConditions))
			}
			return errs
		},
	}},
	Columns: []metav1.TableColumnDefinition{
		column.Name,
		column.String("Key", resourcev1.DeviceTaint{}.SwaggerDoc()["key"]),
		column.String("Value", resourcev1.DeviceTaint{}.SwaggerDoc()["value"]),
		column.String("Effect", resourcev1.DeviceTaint{}.SwaggerDoc()["effect"]),
		column.String("TimeAdded", resourcev1.DeviceTaint{}.SwaggerDoc()["timeAdded"]),
		column.Age,
	},
	Row: func(r *resourcev1.DeviceTaintRule) []any {
		t, added := &r.Spec.Taint, ""
		if t.TimeAdded != nil {
			added = column.Since(*t.TimeAdded)
		}
		return []any{r.Name, t.Key, t.Value, string(t.Effect), added, column.Since(r.CreationTimestamp)}
	},
	UnconditionalUpdateForbidden: true,
})

func defaultTaint(t *resourcev1.DeviceTaint) {
	if t.TimeAdded == nil {
		t.TimeAdded = new(metav1.Now().Rfc3339Copy())
	}
}

func validateTaintRule(s *resourcev1.DeviceTaintRuleSpec, old *resourcev1.DeviceTaint) (errs field.ErrorList) {
	path := field.NewPath("spec")
	if d := s.DeviceSelector; d != nil {
		at := path.Child("deviceSelector")
		if d.Driver != nil {
			errs = append(errs, validateDriver(*d.Driver, at.Child("driver"))...)
		}
		if d.Pool != nil {
			errs = append(errs, validatePool(*d.Pool, at.Child("pool"))...)
		}
		if d.Device != nil {
			errs = append(errs, check.DNSLabel(*d.Device, at.Child("device"))...)
		}
	}
	return append(errs, validateTaint(&s.Taint, old, path.Child("taint"))...)
}

// validateTaint takes an effect that is stored already.
func validateTaint(t, old *resourcev1.DeviceTaint, path *field.Path) field.ErrorList {
	errs := metav1validation.ValidateLabelName(t.Key, path.Child("key"))
	if t.Value != "" {
		errs = append(errs, labelValue(t.Value, path.Child("value"))...)
	}
	if old == nil || old.Effect != t.Effect {
		errs = append(errs, check.SetOneOf(t.Effect, path.Child("effect"), effects...)...)
	}
	return errs
}

func labelValue(v string, path *field.Path) field.ErrorList {
	return check.Each(path, v, utilvalidation.IsValidLabelValue(v))
}

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
	Intent:   func(s *resourcev1.ResourceSlice) any { return &s.Spec },
	Validate: func(s *resourcev1.ResourceSlice) field.ErrorList { return validateSlice(&s.Spec, nil) },
	ValidateUpdate: func(s, old *resourcev1.ResourceSlice) field.ErrorList {
		path := field.NewPath("spec")
		errs := validateSlice(&s.Spec, &old.Spec)
		errs = append(errs, validation.ValidateImmutableField(s.Spec.Pool.Name, old.Spec.Pool.Name, path.Child("pool", "name"))...)
		errs = append(errs, validation.ValidateImmutableField(s.Spec.Driver, old.Spec.Driver, path.Child("driver"))...)
		return append(errs, validation.ValidateImmutableField(s.Spec.NodeName, old.Spec.NodeName, path.Child("nodeName"))...)
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
			return validateDevice(d, stored(old, d.Name), at)
		})...)
	return append(errs, each(s.SharedCounters, resourcev1.ResourceSliceMaxCounterSets, func(c resourcev1.CounterSet) string { return c.Name }, path.Child("sharedCounters"),
		func(c *resourcev1.CounterSet, at *field.Path) field.ErrorList {
			errs := check.DNSLabel(c.Name, at.Child("name"))
			if len(c.Counters) == 0 {
				errs = append(errs, field.Required(at.Child("counters"), ""))
			}
			for name := range c.Counters {
				errs = append(errs, check.DNSLabel(name, at.Child("counters").Key(name))...)
			}
			return errs
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

func validateDevice(d, old *resourcev1.Device, path *field.Path) field.ErrorList {
	errs := check.DNSLabel(d.Name, path.Child("name"))
	if n := len(d.Attributes) + len(d.Capacity); n > resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice {
		errs = append(errs, field.Invalid(path, n, fmt.Sprintf("the total number of attributes and capacities must not exceed %d", resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice)))
	}
	for name, a := range d.Attributes {
		at := path.Child("attributes").Key(string(name))
		errs = append(errs, validateIdentifier(string(name), at)...)
		if values(&a) != 1 {
			errs = append(errs, field.Invalid(at, a, "exactly one value must be specified"))
		}
	}
	for name := range d.Capacity {
		errs = append(errs, validateIdentifier(string(name), path.Child("capacity").Key(string(name)))...)
	}
	// What is stored may stay.
	if old == nil || !equality.Semantic.DeepEqual(old.Taints, d.Taints) {
		errs = append(errs, each(d.Taints, resourcev1.DeviceTaintsMaxLength, nil, path.Child("taints"),
			func(t *resourcev1.DeviceTaint, at *field.Path) field.ErrorList { return validateTaint(t, nil, at) })...)
	}
	return errs
}

// values counts the values of an attribute.
func values(a *resourcev1.DeviceAttribute) (n int) {
	for _, set := range []bool{a.BoolValue != nil, a.IntValue != nil, a.StringValue != nil, a.VersionValue != nil,
		a.BoolValues != nil, a.IntValues != nil, a.StringValues != nil, a.VersionValues != nil} {
		if set {
			n++
		}
	}
	return n
}

// validateIdentifier wants a name of attributes and capacities, with or without
// the domain that it belongs to.
func validateIdentifier(name string, path *field.Path) (errs field.ErrorList) {
	domain, id, ok := strings.Cut(name, "/")
	if !ok {
		domain, id = "", name
	} else if domain == "" {
		errs = append(errs, field.Invalid(path, "", "the domain must not be empty"))
	} else {
		errs = append(errs, validateDriver(domain, path)...)
	}
	if id == "" && ok {
		return append(errs, field.Invalid(path, "", "the name must not be empty"))
	}
	if len(id) > maxIdentifier {
		errs = append(errs, field.TooLong(path, "", maxIdentifier))
	}
	return append(errs, check.Each(path, id, content.IsCIdentifier(id))...)
}

// validateQualified is validateIdentifier with a domain.
func validateQualified(name string, path *field.Path) field.ErrorList {
	errs := validateIdentifier(name, path)
	if !strings.Contains(name, "/") {
		errs = append(errs, field.Invalid(path, name, "a fully qualified name must be a domain and a name separated by a slash"))
	}
	return errs
}

// validateDriver checks the name of a driver, in which capitals are taken.
func validateDriver(name string, path *field.Path) (errs field.ErrorList) {
	if name == "" {
		return append(errs, field.Required(path, ""))
	}
	if len(name) > maxDriver {
		errs = append(errs, field.TooLong(path, "", maxDriver))
	}
	return append(errs, check.Each(path, name, utilvalidation.IsDNS1123Subdomain(strings.ToLower(name)))...)
}

func validatePool(name string, path *field.Path) (errs field.ErrorList) {
	if name == "" {
		return append(errs, field.Required(path, ""))
	}
	if len(name) > utilvalidation.DNS1123SubdomainMaxLength {
		errs = append(errs, field.TooLong(path, "", utilvalidation.DNS1123SubdomainMaxLength))
	}
	for _, part := range strings.Split(name, "/") {
		errs = append(errs, check.Each(path, part, utilvalidation.IsDNS1123Subdomain(part))...)
	}
	return errs
}

func validateConfig(c *resourcev1.DeviceConfiguration, path *field.Path) field.ErrorList {
	at := path.Child("opaque")
	if c.Opaque == nil {
		return field.ErrorList{field.Required(at, "")}
	}
	return append(validateDriver(c.Opaque.Driver, at.Child("driver")), validateParameters(c.Opaque.Parameters.Raw, at.Child("parameters"))...)
}

// validateParameters wants a JSON object.
func validateParameters(raw []byte, path *field.Path) field.ErrorList {
	if len(raw) == 0 {
		return field.ErrorList{field.Required(path, "")}
	}
	if len(raw) > maxParameterBytes {
		return field.ErrorList{field.TooLong(path, "", maxParameterBytes)}
	}
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		return field.ErrorList{field.Invalid(path, "<value omitted>", fmt.Sprintf("error parsing data as JSON: %v", err))}
	}
	switch v.(type) {
	case nil:
		return field.ErrorList{field.Required(path, "")}
	case map[string]any:
		return nil
	}
	return field.ErrorList{field.Invalid(path, "<value omitted>", "must be a valid JSON object")}
}
