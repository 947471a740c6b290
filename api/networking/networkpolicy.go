package networking

import (
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"skiff/api/check"
	"skiff/api/column"
	"skiff/api/core"
	"skiff/api/kind"
)

// NetworkPolicy is networking.k8s.io/v1 NetworkPolicy.
var NetworkPolicy = kind.Of(kind.Spec[*networkingv1.NetworkPolicy]{
	New:      func() *networkingv1.NetworkPolicy { return &networkingv1.NetworkPolicy{} },
	NewList:  func() runtime.Object { return &networkingv1.NetworkPolicyList{} },
	Default:  defaultNetworkPolicy,
	Intent:   func(p *networkingv1.NetworkPolicy) any { return &p.Spec },
	Validate: func(p *networkingv1.NetworkPolicy) field.ErrorList { return policyRules{}.validate(&p.Spec) },
	ValidateUpdate: func(p, old *networkingv1.NetworkPolicy) field.ErrorList {
		rules := policyRules{lax: len(check.Selector(&old.Spec.PodSelector, false, nil)) > 0}
		eachPeer(&old.Spec, func(peer *networkingv1.NetworkPolicyPeer, _ *field.Path) {
			if b := peer.IPBlock; b != nil {
				rules.known = append(append(rules.known, b.CIDR), b.Except...)
			}
		})
		return rules.validate(&p.Spec)
	},
	Warn: func(p, _ *networkingv1.NetworkPolicy) (texts []string) {
		eachPeer(&p.Spec, func(peer *networkingv1.NetworkPolicyPeer, path *field.Path) {
			if peer.IPBlock == nil {
				return
			}
			at := path.Child("ipBlock")
			texts = append(texts, utilvalidation.GetWarningsForCIDR(at.Child("cidr"), peer.IPBlock.CIDR)...)
			for i, e := range peer.IPBlock.Except {
				texts = append(texts, utilvalidation.GetWarningsForCIDR(at.Child("except").Index(i), e)...)
			}
		})
		return texts
	},
	Columns: []metav1.TableColumnDefinition{
		column.Name, column.String("Pod-Selector", networkingv1.NetworkPolicySpec{}.SwaggerDoc()["podSelector"]), column.Age,
	},
	Row: func(p *networkingv1.NetworkPolicy) []any {
		return []any{p.Name, metav1.FormatLabelSelector(&p.Spec.PodSelector), column.Since(p.CreationTimestamp)}
	},
})

func defaultNetworkPolicy(p *networkingv1.NetworkPolicy) {
	s := &p.Spec
	for i := range s.Ingress {
		defaultPorts(s.Ingress[i].Ports)
	}
	for i := range s.Egress {
		defaultPorts(s.Egress[i].Ports)
	}
	if len(s.PolicyTypes) == 0 {
		s.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(s.Egress) > 0 {
			s.PolicyTypes = append(s.PolicyTypes, networkingv1.PolicyTypeEgress)
		}
	}
}

func defaultPorts(ports []networkingv1.NetworkPolicyPort) {
	for i := range ports {
		if ports[i].Protocol == nil {
			ports[i].Protocol = new(corev1.ProtocolTCP)
		}
	}
}

// eachPeer calls f for each peer of a policy with its path.
func eachPeer(s *networkingv1.NetworkPolicySpec, f func(*networkingv1.NetworkPolicyPeer, *field.Path)) {
	path := field.NewPath("spec")
	for i := range s.Ingress {
		for j := range s.Ingress[i].From {
			f(&s.Ingress[i].From[j], path.Child("ingress").Index(i).Child("from").Index(j))
		}
	}
	for i := range s.Egress {
		for j := range s.Egress[i].To {
			f(&s.Egress[i].To[j], path.Child("egress").Index(i).Child("to").Index(j))
		}
	}
}

// policyRules are the rules of a policy, and what they take because it is stored:
// label values that are not valid, and address ranges in sloppy form.
type policyRules struct {
	lax   bool
	known []string
}

func (r policyRules) validate(s *networkingv1.NetworkPolicySpec) (errs field.ErrorList) {
	path := field.NewPath("spec")
	errs = check.Selector(&s.PodSelector, r.lax, path.Child("podSelector"))
	for i := range s.Ingress {
		errs = append(errs, validatePolicyPorts(s.Ingress[i].Ports, path.Child("ingress").Index(i).Child("ports"))...)
	}
	for i := range s.Egress {
		errs = append(errs, validatePolicyPorts(s.Egress[i].Ports, path.Child("egress").Index(i).Child("ports"))...)
	}
	eachPeer(s, func(p *networkingv1.NetworkPolicyPeer, at *field.Path) { errs = append(errs, r.validatePeer(p, at)...) })
	types := path.Child("policyTypes")
	if len(s.PolicyTypes) > 2 {
		return append(errs, field.Invalid(types, &s.PolicyTypes, "may not specify more than two policyTypes"))
	}
	for i, t := range s.PolicyTypes {
		errs = append(errs, check.OneOf(t, types.Index(i), networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress)...)
	}
	return errs
}

func (r policyRules) validatePeer(p *networkingv1.NetworkPolicyPeer, path *field.Path) (errs field.ErrorList) {
	if p.PodSelector != nil {
		errs = append(errs, check.Selector(p.PodSelector, r.lax, path.Child("podSelector"))...)
	}
	if p.NamespaceSelector != nil {
		errs = append(errs, check.Selector(p.NamespaceSelector, r.lax, path.Child("namespaceSelector"))...)
	}
	if p.IPBlock != nil {
		errs = append(errs, r.validateBlock(p.IPBlock, path.Child("ipBlock"))...)
	}
	switch selected := p.PodSelector != nil || p.NamespaceSelector != nil; {
	case !selected && p.IPBlock == nil:
		errs = append(errs, field.Required(path, "must specify a peer"))
	case selected && p.IPBlock != nil:
		errs = append(errs, field.Forbidden(path, "may not specify both ipBlock and another peer"))
	}
	return errs
}

func (r policyRules) validateBlock(b *networkingv1.IPBlock, path *field.Path) (errs field.ErrorList) {
	if b.CIDR == "" {
		return append(errs, field.Required(path.Child("cidr"), ""))
	}
	errs = core.ValidateLegacyCIDR(path.Child("cidr"), b.CIDR, r.known)
	_, all, err := netutils.ParseCIDRSloppy(b.CIDR)
	if err != nil {
		return errs // which says so
	}
	for i, text := range b.Except {
		at := path.Child("except").Index(i)
		errs = append(errs, core.ValidateLegacyCIDR(at, text, r.known)...)
		_, except, err := netutils.ParseCIDRSloppy(text)
		if err != nil {
			continue
		}
		whole, _ := all.Mask.Size()
		part, _ := except.Mask.Size()
		if !all.Contains(except.IP) || whole >= part {
			errs = append(errs, field.Invalid(at, text, "must be a strict subset of `cidr`"))
		}
	}
	return errs
}

func validatePolicyPorts(ports []networkingv1.NetworkPolicyPort, path *field.Path) (errs field.ErrorList) {
	for i := range ports {
		p, at := &ports[i], path.Index(i)
		if p.Protocol != nil {
			errs = append(errs, check.OneOf(*p.Protocol, at.Child("protocol"), corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)...)
		}
		errs = append(errs, validatePortRange(p.Port, p.EndPort, at)...)
	}
	return errs
}

func validatePortRange(port *intstr.IntOrString, end *int32, path *field.Path) (errs field.ErrorList) {
	endAt := path.Child("endPort")
	switch {
	case port == nil:
		if end != nil {
			errs = append(errs, field.Invalid(endAt, *end, "may not be specified when `port` is not specified"))
		}
	case port.Type != intstr.Int:
		if end != nil {
			errs = append(errs, field.Invalid(endAt, *end, "may not be specified when `port` is non-numeric"))
		}
		errs = append(errs, check.Each(path.Child("port"), port.StrVal, utilvalidation.IsValidPortName(port.StrVal))...)
	default:
		errs = append(errs, check.Each(path.Child("port"), port.IntVal, utilvalidation.IsValidPortNum(int(port.IntVal)))...)
		if end == nil {
			return errs
		}
		if *end < port.IntVal {
			errs = append(errs, field.Invalid(endAt, *end, "must be greater than or equal to `port`"))
		}
		errs = append(errs, check.Each(endAt, *end, utilvalidation.IsValidPortNum(int(*end)))...)
	}
	return errs
}
