package networking

import (
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"skiff/api/check"
	"skiff/api/column"
	"skiff/api/kind"
)

// IPAddress is networking.k8s.io/v1 IPAddress.
var IPAddress = kind.Of(kind.Spec[*networkingv1.IPAddress]{
	NameOnUpdate: true,
	New:          func() *networkingv1.IPAddress { return &networkingv1.IPAddress{} },
	NewList:      func() runtime.Object { return &networkingv1.IPAddressList{} },
	ValidateName: func(name string, _ bool) (messages []string) {
		for _, err := range utilvalidation.IsValidIP(nil, name) {
			messages = append(messages, err.Detail)
		}
		return messages
	},
	Validate: func(a *networkingv1.IPAddress) field.ErrorList { return validateParent(a.Spec.ParentRef) },
	ValidateUpdate: func(a, old *networkingv1.IPAddress) field.ErrorList {
		return append(validateParent(a.Spec.ParentRef), validation.ValidateImmutableField(a.Spec.ParentRef, old.Spec.ParentRef, field.NewPath("spec", "parentRef"))...)
	},
	Columns: []metav1.TableColumnDefinition{
		column.Name, column.String("ParentRef", networkingv1.IPAddressSpec{}.SwaggerDoc()["parentRef"]),
	},
	Row: func(a *networkingv1.IPAddress) []any {
		parent := "<none>"
		if p := a.Spec.ParentRef; p != nil {
			parent = strings.ToLower(schema.GroupResource{Group: p.Group, Resource: p.Resource}.String())
			if p.Namespace != "" {
				parent += "/" + p.Namespace
			}
			parent += "/" + p.Name
		}
		return []any{a.Name, parent}
	},
})

func validateParent(p *networkingv1.ParentReference) (errs field.ErrorList) {
	path := field.NewPath("spec", "parentRef")
	if p == nil {
		return append(errs, field.Required(path, ""))
	}
	if p.Group != "" { // services are of the group ""
		errs = append(errs, check.Each(path.Child("group"), p.Group, utilvalidation.IsDNS1123Subdomain(p.Group))...)
	}
	errs = append(errs, requiredSegment(p.Resource, path.Child("resource"))...)
	errs = append(errs, requiredSegment(p.Name, path.Child("name"))...)
	if p.Namespace != "" {
		errs = append(errs, check.Each(path.Child("namespace"), p.Namespace, content.IsPathSegmentName(p.Namespace))...)
	}
	return errs
}

// ServiceCIDR is networking.k8s.io/v1 ServiceCIDR.
var ServiceCIDR = kind.Of(kind.Spec[*networkingv1.ServiceCIDR]{
	New:      func() *networkingv1.ServiceCIDR { return &networkingv1.ServiceCIDR{} },
	NewList:  func() runtime.Object { return &networkingv1.ServiceCIDRList{} },
	Create:   func(c *networkingv1.ServiceCIDR) { c.Status = networkingv1.ServiceCIDRStatus{} },
	Update:   func(c, old *networkingv1.ServiceCIDR) { c.Status = old.Status },
	Validate: func(c *networkingv1.ServiceCIDR) field.ErrorList { return validateCIDRs(&c.Spec) },
	ValidateUpdate: func(c, old *networkingv1.ServiceCIDR) field.ErrorList {
		return validateCIDRsUpdate(&c.Spec, &old.Spec)
	},
	Subs: map[string]kind.Sub[*networkingv1.ServiceCIDR]{"status": {AnyFinalizer: true,
		Update: func(c, old *networkingv1.ServiceCIDR) {
			c.Spec = old.Spec
			metav1.ResetObjectMetaForStatus(&c.ObjectMeta, &old.ObjectMeta)
		},
	}},
	Columns: []metav1.TableColumnDefinition{
		column.Name, column.String("CIDRs", networkingv1.ServiceCIDRSpec{}.SwaggerDoc()["cidrs"]), column.Age,
	},
	Row: func(c *networkingv1.ServiceCIDR) []any {
		return []any{c.Name, strings.Join(c.Spec.CIDRs, ","), column.Since(c.CreationTimestamp)}
	},
})

func validateCIDRs(s *networkingv1.ServiceCIDRSpec) (errs field.ErrorList) {
	path := field.NewPath("spec", "cidrs")
	switch n := len(s.CIDRs); {
	case n == 0:
		return append(errs, field.Required(path, "at least one CIDR required"))
	case n > 2:
		return append(errs, field.Invalid(path, s, "may only hold up to 2 values"))
	}
	for i, c := range s.CIDRs {
		errs = append(errs, utilvalidation.IsValidCIDR(path.Index(i), c)...)
	}
	if len(s.CIDRs) == 2 {
		family := netutils.IPFamilyOfCIDRString(s.CIDRs[0])
		if family != netutils.IPFamilyUnknown && family == netutils.IPFamilyOfCIDRString(s.CIDRs[1]) {
			errs = append(errs, field.Invalid(path, s.CIDRs, "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"))
		}
	}
	return errs
}

// validateCIDRsUpdate lets a range of the other family be added, and nothing else.
func validateCIDRsUpdate(s, old *networkingv1.ServiceCIDRSpec) (errs field.ErrorList) {
	path := field.NewPath("spec", "cidrs")
	grown := len(old.CIDRs) == 1 && len(s.CIDRs) == 2
	if !grown && len(s.CIDRs) != len(old.CIDRs) {
		return append(errs, field.Invalid(path, s.CIDRs, validation.FieldImmutableErrorMsg))
	}
	for i, was := range old.CIDRs {
		if s.CIDRs[i] != was {
			errs = append(errs, field.Invalid(path.Index(i), s.CIDRs[i], validation.FieldImmutableErrorMsg))
		}
	}
	if grown {
		errs = append(errs, validateCIDRs(s)...)
	}
	return errs
}
