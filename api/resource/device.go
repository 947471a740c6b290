package resource

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/operation"
	"k8s.io/apimachinery/pkg/api/validate"
	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/check"
	"skiff/api/column"
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
	ValidateName: check.BareName,
	New:          func() *resourcev1.DeviceClass { return &resourcev1.DeviceClass{} },
	NewList:      func() runtime.Object { return &resourcev1.DeviceClassList{} },
	Intent:       func(c *resourcev1.DeviceClass) any { return &c.Spec },
	Validate:     func(c *resourcev1.DeviceClass) field.ErrorList { return validateClass(&c.Spec, nil) },
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
	return append(errs, validate.ExtendedResourceName(context.Background(), operation.Operation{}, path.Child("extendedResourceName"), s.ExtendedResourceName, nil)...)
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
	Subs: map[string]kind.Sub[*resourcev1.DeviceTaintRule]{"status": {AnyFinalizer: true,
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

// validateIdentifier wants a name of attributes and capacities, with or without
// the domain that it belongs to.
func validateIdentifier(name string, path *field.Path) (errs field.ErrorList) {
	domain, id, ok := strings.Cut(name, "/")
	switch {
	case strings.Contains(id, "/"):
		return nil // Kubernetes takes these, and may hold some
	case !ok:
		id = name
	case domain == "":
		errs = append(errs, field.Invalid(path, "", "the domain must not be empty"))
	default:
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
func validateQualified(name *resourcev1.FullyQualifiedName, path *field.Path) field.ErrorList {
	return validate.ResourceFullyQualifiedName(context.Background(), operation.Operation{}, path, name, nil)
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
	return append(check.DriverName(c.Opaque.Driver, at.Child("driver")), validateParameters(c.Opaque.Parameters.Raw, at.Child("parameters"))...)
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
