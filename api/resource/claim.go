package resource

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/operation"
	"k8s.io/apimachinery/pkg/api/validate"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/dynamic-resource-allocation/cel"

	"skiff/api/check"
	"skiff/api/column"
	"skiff/api/core"
	"skiff/api/kind"
)

const (
	maxExpression = 10 * 1024
	maxCost       = 1_000_000
)

// ResourceClaim is resource.k8s.io/v1 ResourceClaim.
var ResourceClaim = kind.Of(kind.Spec[*resourcev1.ResourceClaim]{
	NameOnUpdate: true,
	New:          func() *resourcev1.ResourceClaim { return &resourcev1.ResourceClaim{} },
	NewList:      func() runtime.Object { return &resourcev1.ResourceClaimList{} },
	Default:      func(c *resourcev1.ResourceClaim) { defaultClaim(&c.Spec) },
	Create: func(c *resourcev1.ResourceClaim) {
		c.Status = resourcev1.ResourceClaimStatus{}
		dropDerived(&c.Spec)
	},
	Update: func(c, old *resourcev1.ResourceClaim) {
		c.Status = old.Status
		dropDerived(&c.Spec)
	},
	Validate: func(c *resourcev1.ResourceClaim) field.ErrorList {
		return validateClaim(&c.Spec.Devices, field.NewPath("spec", "devices"))
	},
	ValidateUpdate: func(c, old *resourcev1.ResourceClaim) field.ErrorList {
		return validation.ValidateImmutableField(c.Spec, old.Spec, field.NewPath("spec"))
	},
	Subs: map[string]kind.Sub[*resourcev1.ResourceClaim]{"status": {AnyFinalizer: true,
		Update: func(c, old *resourcev1.ResourceClaim) {
			c.Spec = old.Spec
			metav1.ResetObjectMetaForStatus(&c.ObjectMeta, &old.ObjectMeta)
			dropDeallocated(c, old)
		},
		Validate: validateClaimStatus,
	}},
	Columns: []metav1.TableColumnDefinition{
		column.Name, column.String("State", "A summary of the current state (allocated, pending, reserved, etc.)."), column.Age,
	},
	Row: func(c *resourcev1.ResourceClaim) []any {
		return []any{c.Name, stateCell(c), column.Since(c.CreationTimestamp)}
	},
})

// ResourceClaimTemplate is resource.k8s.io/v1 ResourceClaimTemplate.
var ResourceClaimTemplate = kind.Of(kind.Spec[*resourcev1.ResourceClaimTemplate]{
	NameOnUpdate: true,
	New:          func() *resourcev1.ResourceClaimTemplate { return &resourcev1.ResourceClaimTemplate{} },
	NewList:      func() runtime.Object { return &resourcev1.ResourceClaimTemplateList{} },
	Default:      func(t *resourcev1.ResourceClaimTemplate) { defaultClaim(&t.Spec.Spec) },
	Create:       func(t *resourcev1.ResourceClaimTemplate) { dropDerived(&t.Spec.Spec) },
	Update:       func(t, _ *resourcev1.ResourceClaimTemplate) { dropDerived(&t.Spec.Spec) },
	Validate:     validateTemplate,
	ValidateUpdate: func(t, old *resourcev1.ResourceClaimTemplate) field.ErrorList {
		return append(validateTemplate(t), validation.ValidateImmutableField(t.Spec, old.Spec, field.NewPath("spec"))...)
	},
	Columns: []metav1.TableColumnDefinition{column.Name, column.Age},
	Row: func(t *resourcev1.ResourceClaimTemplate) []any {
		return []any{t.Name, column.Since(t.CreationTimestamp)}
	},
})

func validateTemplate(t *resourcev1.ResourceClaimTemplate) field.ErrorList {
	meta, path := &t.Spec.ObjectMeta, field.NewPath("spec", "metadata")
	errs := validation.ValidateAnnotations(meta.Annotations, path.Child("annotations"))
	errs = append(errs, metav1validation.ValidateLabels(meta.Labels, path.Child("labels"))...)
	return append(errs, validateClaim(&t.Spec.Spec.Devices, field.NewPath("spec", "spec", "devices"))...)
}

func stateCell(c *resourcev1.ResourceClaim) string {
	var states []string
	if c.DeletionTimestamp != nil {
		states = append(states, "deleted")
	}
	switch {
	case c.Status.Allocation != nil && len(c.Status.ReservedFor) > 0:
		states = append(states, "allocated", "reserved")
	case c.Status.Allocation != nil:
		states = append(states, "allocated")
	case c.DeletionTimestamp == nil:
		states = append(states, "pending")
	}
	return strings.Join(states, ",")
}

func defaultClaim(s *resourcev1.ResourceClaimSpec) {
	for i := range s.Devices.Requests {
		r := &s.Devices.Requests[i]
		if r.Exactly != nil {
			defaultMode(&r.Exactly.AllocationMode, &r.Exactly.Count)
			defaultTolerations(r.Exactly.Tolerations)
		}
		for j := range r.FirstAvailable {
			defaultMode(&r.FirstAvailable[j].AllocationMode, &r.FirstAvailable[j].Count)
			defaultTolerations(r.FirstAvailable[j].Tolerations)
		}
	}
}

func defaultMode(mode *resourcev1.DeviceAllocationMode, count *int64) {
	if *mode == "" {
		*mode = resourcev1.DeviceAllocationModeExactCount
	}
	if *mode == resourcev1.DeviceAllocationModeExactCount && *count == 0 {
		*count = 1
	}
}

func defaultTolerations(list []resourcev1.DeviceToleration) {
	for i := range list {
		if list[i].Operator == "" {
			list[i].Operator = resourcev1.DeviceTolerationOpEqual
		}
	}
}

// dropDerived clears derivedAttributes, which only an alpha feature reads.
func dropDerived(s *resourcev1.ResourceClaimSpec) {
	for i := range s.Devices.Requests {
		r := &s.Devices.Requests[i]
		if r.Exactly != nil {
			r.Exactly.DerivedAttributes = nil
		}
		for j := range r.FirstAvailable {
			r.FirstAvailable[j].DerivedAttributes = nil
		}
	}
}

// requests are the names in a claim, those of alternatives as "request/alternative".
type requests map[string]bool

func namesOf(c *resourcev1.DeviceClaim) requests {
	names := requests{}
	for _, r := range c.Requests {
		names[r.Name] = true
		for _, sub := range r.FirstAvailable {
			names[r.Name+"/"+sub.Name] = true
		}
	}
	return names
}

func validateClaim(c *resourcev1.DeviceClaim, path *field.Path) (errs field.ErrorList) {
	names := namesOf(c)
	errs = eachWhole(c.Requests, resourcev1.DeviceRequestsMaxSize, func(r resourcev1.DeviceRequest) string { return r.Name }, path.Child("requests"), validateRequest)
	errs = append(errs, each(c.Constraints, resourcev1.DeviceConstraintsMaxSize, nil, path.Child("constraints"),
		func(r *resourcev1.DeviceConstraint, at *field.Path) field.ErrorList {
			return validateConstraint(r, names, at)
		})...)
	return append(errs, each(c.Config, resourcev1.DeviceConfigMaxSize, nil, path.Child("config"),
		func(r *resourcev1.DeviceClaimConfiguration, at *field.Path) field.ErrorList {
			return append(validateReferences(r.Requests, names, at.Child("requests")), validateConfig(&r.DeviceConfiguration, at)...)
		})...)
}

// each checks the items of a list that may have at most limit of them (none if it
// is negative), whose keys differ (key nil: they need not).
func each[T any](list []T, limit int, key func(T) string, path *field.Path, validate func(*T, *field.Path) field.ErrorList) (errs field.ErrorList) {
	if limit >= 0 && len(list) > limit {
		return append(errs, field.TooMany(path, len(list), limit))
	}
	seen := map[string]bool{}
	for i := range list {
		errs = append(errs, validate(&list[i], path.Index(i))...)
		if key == nil {
			continue
		}
		if k := key(list[i]); seen[k] {
			errs = append(errs, field.Duplicate(path.Index(i), k))
		} else {
			seen[k] = true
		}
	}
	return errs
}

// eachWhole is each whose errors about items that are given twice show all of them.
func eachWhole[T any](list []T, limit int, key func(T) string, path *field.Path, validate func(*T, *field.Path) field.ErrorList) field.ErrorList {
	errs := each(list, limit, key, path, validate)
	for _, e := range errs {
		for i := range list {
			if e.Type == field.ErrorTypeDuplicate && e.Field == path.Index(i).String() {
				e.BadValue = list[i]
			}
		}
	}
	return errs
}

func validateRequest(r *resourcev1.DeviceRequest, path *field.Path) field.ErrorList {
	errs := check.DNSLabel(r.Name, path.Child("name"))
	switch several := len(r.FirstAvailable) > 0; {
	case several && r.Exactly != nil:
		errs = append(errs, field.Invalid(path, nil, "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set"))
		return append(errs, declaredOfBoth(r, path)...)
	case several:
		return append(errs, eachWhole(r.FirstAvailable, resourcev1.FirstAvailableDeviceRequestMaxSize,
			func(s resourcev1.DeviceSubRequest) string { return s.Name }, path.Child("firstAvailable"), validateSubRequest)...)
	case r.Exactly == nil:
		return append(errs, field.Required(path, "exactly one of `exactly` or `firstAvailable` is required"))
	}
	e := r.Exactly
	return append(errs, validateWanted(e.DeviceClassName, e.Selectors, e.AllocationMode, e.Count, e.Tolerations, path.Child("exactly"))...)
}

// declaredOfBoth are the rules that hold for each of two forms of a request that
// exclude each other.
func declaredOfBoth(r *resourcev1.DeviceRequest, path *field.Path) field.ErrorList {
	declared := func(mode resourcev1.DeviceAllocationMode, tolerations []resourcev1.DeviceToleration, at *field.Path) field.ErrorList {
		errs := check.OneOf(mode, at.Child("allocationMode"), resourcev1.DeviceAllocationModeAll, resourcev1.DeviceAllocationModeExactCount)
		for i := range tolerations {
			errs = append(errs, declaredOfToleration(&tolerations[i], at.Child("tolerations").Index(i))...)
		}
		return errs
	}
	errs := declared(r.Exactly.AllocationMode, r.Exactly.Tolerations, path.Child("exactly"))
	return append(errs, eachWhole(r.FirstAvailable, resourcev1.FirstAvailableDeviceRequestMaxSize,
		func(s resourcev1.DeviceSubRequest) string { return s.Name }, path.Child("firstAvailable"),
		func(s *resourcev1.DeviceSubRequest, at *field.Path) field.ErrorList {
			return append(validateClassName(s.DeviceClassName, at), declared(s.AllocationMode, s.Tolerations, at)...)
		})...)
}

func declaredOfToleration(t *resourcev1.DeviceToleration, at *field.Path) (errs field.ErrorList) {
	if t.Key != "" {
		errs = append(errs, metav1validation.ValidateLabelName(t.Key, at.Child("key"))...)
	}
	errs = append(errs, check.SetOneOf(t.Operator, at.Child("operator"), resourcev1.DeviceTolerationOpEqual, resourcev1.DeviceTolerationOpExists)...)
	if t.Effect != "" {
		errs = append(errs, check.OneOf(t.Effect, at.Child("effect"), resourcev1.DeviceTaintEffectNoExecute, resourcev1.DeviceTaintEffectNoSchedule, resourcev1.DeviceTaintEffectNone)...)
	}
	return errs
}

func validateClassName(class string, path *field.Path) field.ErrorList {
	if class == "" {
		return field.ErrorList{field.Required(path.Child("deviceClassName"), "")}
	}
	return check.Each(path.Child("deviceClassName"), class, validation.NameIsDNSSubdomain(class, false))
}

func validateSubRequest(s *resourcev1.DeviceSubRequest, path *field.Path) field.ErrorList {
	return append(check.DNSLabel(s.Name, path.Child("name")),
		validateWanted(s.DeviceClassName, s.Selectors, s.AllocationMode, s.Count, s.Tolerations, path)...)
}

func validateWanted(class string, selectors []resourcev1.DeviceSelector, mode resourcev1.DeviceAllocationMode, count int64,
	tolerations []resourcev1.DeviceToleration, path *field.Path) (errs field.ErrorList) {
	errs = validateClassName(class, path)
	errs = append(errs, validateSelectors(selectors, false, path.Child("selectors"))...)
	const all, exact = resourcev1.DeviceAllocationModeAll, resourcev1.DeviceAllocationModeExactCount
	switch {
	case mode == all && count != 0:
		errs = append(errs, field.Invalid(path.Child("count"), count, "must not be specified when allocationMode is 'All'"))
	case mode == exact && count <= 0:
		errs = append(errs, field.Invalid(path.Child("count"), count, "must be greater than zero"))
	}
	errs = append(errs, check.OneOf(mode, path.Child("allocationMode"), all, exact)...)
	for i := range tolerations {
		errs = append(errs, validateToleration(&tolerations[i], path.Child("tolerations").Index(i))...)
	}
	return errs
}

// validateSelectors compiles the expressions, unless they are stored as they are.
func validateSelectors(list []resourcev1.DeviceSelector, stored bool, path *field.Path) field.ErrorList {
	return each(list, resourcev1.DeviceSelectorsMaxSize, nil, path, func(s *resourcev1.DeviceSelector, at *field.Path) field.ErrorList {
		if s.CEL == nil {
			return field.ErrorList{field.Required(at.Child("cel"), "")}
		}
		if stored {
			return nil
		}
		return validateExpression(s.CEL.Expression, at.Child("cel", "expression"))
	})
}

func validateExpression(text string, path *field.Path) field.ErrorList {
	if len(text) > maxExpression {
		return field.ErrorList{field.TooLong(path, "", maxExpression)}
	}
	result := cel.GetCompiler(cel.Features{EnableConsumableCapacity: true, EnableListTypeAttributes: true}).
		CompileCELExpression(text, cel.Options{EnvType: new(environment.NewExpressions)})
	if result.Error != nil {
		if e := (*apiservercel.Error)(nil); errors.As(error(result.Error), &e) && e.Type == apiservercel.ErrorTypeInvalid {
			return field.ErrorList{field.Invalid(path, text, e.Detail)}
		} else if e != nil && e.Type == apiservercel.ErrorTypeRequired {
			return field.ErrorList{field.Required(path, e.Detail)}
		}
		return field.ErrorList{field.InternalError(path, result.Error)}
	}
	if result.MaxCost > maxCost {
		return field.ErrorList{field.Forbidden(path, "too complex, exceeds cost limit")}
	}
	return nil
}

func validateToleration(t *resourcev1.DeviceToleration, path *field.Path) (errs field.ErrorList) {
	if t.Key != "" {
		errs = append(errs, metav1validation.ValidateLabelName(t.Key, path.Child("key"))...)
	}
	switch t.Operator {
	case resourcev1.DeviceTolerationOpExists:
		if t.Value != "" {
			errs = append(errs, field.Invalid(path.Child("value"), t.Value, "must be empty for operator `Exists`"))
		}
	case resourcev1.DeviceTolerationOpEqual:
		errs = append(errs, labelValue(t.Value, path.Child("value"))...)
	default:
		errs = append(errs, check.SetOneOf(t.Operator, path.Child("operator"), resourcev1.DeviceTolerationOpEqual, resourcev1.DeviceTolerationOpExists)...)
	}
	if t.Effect != "" {
		errs = append(errs, check.OneOf(t.Effect, path.Child("effect"), effects...)...)
	}
	return errs
}

func validateConstraint(c *resourcev1.DeviceConstraint, names requests, path *field.Path) field.ErrorList {
	errs := validateReferences(c.Requests, names, path.Child("requests"))
	switch {
	case c.MatchAttribute != nil:
		errs = append(errs, validateQualified(c.MatchAttribute, path.Child("matchAttribute"))...)
		return append(errs, validateQualified(c.DistinctAttribute, path.Child("distinctAttribute"))...)
	case c.DistinctAttribute != nil:
		return append(errs, validateQualified(c.DistinctAttribute, path.Child("distinctAttribute"))...)
	}
	return append(errs, field.Required(path, `exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set`))
}

func validateReferences(list []string, names requests, path *field.Path) field.ErrorList {
	return each(list, resourcev1.DeviceRequestsMaxSize, func(s string) string { return s }, path,
		func(s *string, at *field.Path) field.ErrorList { return validateReference(*s, names, at) })
}

func validateReference(name string, names requests, path *field.Path) (errs field.ErrorList) {
	unknown := field.Invalid(path, name, "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'")
	parts := strings.Split(name, "/")
	if len(parts) > 2 {
		return append(errs, unknown)
	}
	for _, p := range parts {
		errs = append(errs, check.DNSLabel(p, path)...)
	}
	if !names[name] {
		errs = append(errs, unknown)
	}
	return errs
}

// dropDeallocated forgets the status of devices that are no longer allocated.
func dropDeallocated(c, old *resourcev1.ResourceClaim) {
	if old.Status.Allocation == nil || c.Status.Allocation != nil {
		return
	}
	was := allocated(old.Status.Allocation)
	c.Status.Devices = slices.DeleteFunc(slices.Clone(c.Status.Devices), func(d resourcev1.AllocatedDeviceStatus) bool { return was[statusKey(&d)] })
	if len(c.Status.Devices) == 0 {
		c.Status.Devices = nil
	}
}

func allocated(a *resourcev1.AllocationResult) map[string]bool {
	keys := map[string]bool{}
	if a == nil {
		return keys
	}
	for _, r := range a.Devices.Results {
		share := ""
		if r.ShareID != nil {
			share = string(*r.ShareID)
		}
		keys[fmt.Sprintf("%s/%s/%s/%s", r.Driver, r.Pool, r.Device, share)] = true
	}
	return keys
}

func statusKey(d *resourcev1.AllocatedDeviceStatus) string {
	return fmt.Sprintf("%s/%s/%s/%s", d.Driver, d.Pool, d.Device, column.Or(d.ShareID, ""))
}

func validateClaimStatus(c, old *resourcev1.ResourceClaim) field.ErrorList {
	s, path := &c.Status, field.NewPath("status")
	reserved := path.Child("reservedFor")
	errs := eachWhole(s.ReservedFor, resourcev1.ResourceClaimReservedForMaxSize,
		func(r resourcev1.ResourceClaimConsumerReference) string { return string(r.UID) }, reserved, validateConsumer)
	known := allocated(s.Allocation)
	errs = append(errs, each(s.Devices, -1, func(d resourcev1.AllocatedDeviceStatus) string { return statusKey(&d) }, path.Child("devices"),
		func(d *resourcev1.AllocatedDeviceStatus, at *field.Path) field.ErrorList {
			return validateDeviceStatus(d, known, at)
		})...)
	switch {
	case len(s.ReservedFor) > 0 && s.Allocation == nil:
		errs = append(errs, field.Forbidden(reserved, "may not be specified when `allocated` is not set"))
	case len(s.ReservedFor) > 0 && c.DeletionTimestamp != nil:
		for _, r := range s.ReservedFor {
			if !slices.Contains(old.Status.ReservedFor, r) {
				errs = append(errs, field.Forbidden(reserved, "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set"))
				break
			}
		}
	}
	if s.Allocation != nil && old.Status.Allocation != nil {
		if !equality.Semantic.DeepEqual(s.Allocation, old.Status.Allocation) {
			errs = append(errs, field.Invalid(path.Child("allocation"), nil, "field cannot be modified once set"))
		}
		return errs
	}
	if s.Allocation != nil {
		errs = append(errs, validateAllocation(s.Allocation, namesOf(&c.Spec.Devices), path.Child("allocation"))...)
	}
	return errs
}

func validateConsumer(r *resourcev1.ResourceClaimConsumerReference, path *field.Path) (errs field.ErrorList) {
	for _, f := range []struct{ name, value string }{{"resource", r.Resource}, {"name", r.Name}, {"uid", string(r.UID)}} {
		if f.value == "" {
			errs = append(errs, field.Required(path.Child(f.name), ""))
		}
	}
	return errs
}

func validateDeviceStatus(d *resourcev1.AllocatedDeviceStatus, known map[string]bool, path *field.Path) field.ErrorList {
	errs := validateDevicePlace(d.Driver, d.Pool, d.Device, path)
	if !known[statusKey(d)] {
		errs = append(errs, field.Invalid(path, deviceID(strings.TrimSuffix(statusKey(d), "/")), "must be an allocated device in the claim"))
	}
	errs = append(errs, validate.UUID(context.Background(), operation.Operation{}, path.Child("shareID"), d.ShareID, nil)...)
	const most = 8
	if n := len(d.Conditions); n > most {
		errs = append(errs, field.TooMany(path.Child("conditions"), n, most))
	}
	errs = append(errs, metav1validation.ValidateConditions(d.Conditions, path.Child("conditions"))...)
	if d.Data != nil && len(d.Data.Raw) > 0 {
		errs = append(errs, validateParameters(d.Data.Raw, path.Child("data"))...)
	}
	return append(errs, validateNetworkData(d.NetworkData, path.Child("networkData"))...)
}

// deviceID is shown in errors as it is, without quotes.
type deviceID string

func (d deviceID) String() string { return string(d) }

func validateNetworkData(d *resourcev1.NetworkDeviceData, path *field.Path) (errs field.ErrorList) {
	if d == nil {
		return nil
	}
	if limit := resourcev1.NetworkDeviceDataInterfaceNameMaxLength; len(d.InterfaceName) > limit {
		errs = append(errs, field.TooLong(path.Child("interfaceName"), "", limit))
	}
	if limit := resourcev1.NetworkDeviceDataHardwareAddressMaxLength; len(d.HardwareAddress) > limit {
		errs = append(errs, field.TooLong(path.Child("hardwareAddress"), "", limit))
	}
	return append(errs, each(d.IPs, 16, func(ip string) string { return ip }, path.Child("ips"), func(ip *string, at *field.Path) field.ErrorList {
		return utilvalidation.IsValidInterfaceAddress(at, *ip)
	})...)
}

func validateDevicePlace(driver, pool, device string, path *field.Path) field.ErrorList {
	errs := validateDriver(driver, path.Child("driver"))
	errs = append(errs, validatePool(pool, path.Child("pool"))...)
	return append(errs, check.DNSLabel(device, path.Child("device"))...)
}

func validateAllocation(a *resourcev1.AllocationResult, names requests, path *field.Path) field.ErrorList {
	devices := path.Child("devices")
	errs := each(a.Devices.Results, resourcev1.AllocationResultsMaxSize, nil, devices.Child("results"),
		func(r *resourcev1.DeviceRequestAllocationResult, at *field.Path) field.ErrorList {
			errs := append(validateReference(r.Request, names, at.Child("request")), check.DriverName(r.Driver, at.Child("driver"))...)
			errs = append(errs, validate.ResourcePoolName(context.Background(), operation.Operation{}, at.Child("pool"), &r.Pool, nil)...)
			errs = append(errs, check.DNSLabel(r.Device, at.Child("device"))...)
			errs = append(errs, validate.UUID(context.Background(), operation.Operation{}, at.Child("shareID"), r.ShareID, nil)...)
			for i := range r.Tolerations {
				errs = append(errs, validateToleration(&r.Tolerations[i], at.Child("tolerations").Index(i))...)
			}
			return errs
		})
	errs = append(errs, each(a.Devices.Config, 2*resourcev1.DeviceConfigMaxSize, nil, devices.Child("config"),
		func(c *resourcev1.DeviceAllocationConfiguration, at *field.Path) field.ErrorList {
			errs := check.SetOneOf(c.Source, at.Child("source"), resourcev1.AllocationConfigSourceClaim, resourcev1.AllocationConfigSourceClass)
			errs = append(errs, validateReferences(c.Requests, names, at.Child("requests"))...)
			return append(errs, validateConfig(&c.DeviceConfiguration, at)...)
		})...)
	if a.NodeSelector != nil {
		errs = append(errs, core.ValidateNodeSelector(a.NodeSelector, path.Child("nodeSelector"))...)
	}
	return errs
}
