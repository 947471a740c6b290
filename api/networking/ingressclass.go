package networking

import (
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/check"
	"skiff/api/column"
	"skiff/api/kind"
)

const maxController = 250

// IngressClass is networking.k8s.io/v1 IngressClass.
var IngressClass = kind.Of(kind.Spec[*networkingv1.IngressClass]{
	NameOnUpdate: true,
	New:          func() *networkingv1.IngressClass { return &networkingv1.IngressClass{} },
	NewList:      func() runtime.Object { return &networkingv1.IngressClassList{} },
	Default: func(c *networkingv1.IngressClass) {
		if p := c.Spec.Parameters; p != nil && p.Scope == nil {
			p.Scope = new(networkingv1.IngressClassParametersReferenceScopeCluster)
		}
	},
	Intent:   func(c *networkingv1.IngressClass) any { return &c.Spec },
	Validate: validateIngressClass,
	ValidateUpdate: func(c, old *networkingv1.IngressClass) field.ErrorList {
		return append(validation.ValidateImmutableField(c.Spec.Controller, old.Spec.Controller, field.NewPath("spec", "controller")), validateIngressClass(c)...)
	},
	Columns: []metav1.TableColumnDefinition{
		column.Name,
		column.String("Controller", "Controller that is responsible for handling this class"),
		column.String("Parameters", "A reference to a resource with additional parameters"),
		column.Age,
	},
	Row: func(c *networkingv1.IngressClass) []any {
		name, parameters := c.Name, "<none>"
		if c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true" {
			name += " (default)"
		}
		if p := c.Spec.Parameters; p != nil {
			parameters = p.Kind
			if p.APIGroup != nil {
				parameters += "." + *p.APIGroup
			}
			parameters += "/" + p.Name
		}
		return []any{name, c.Spec.Controller, parameters, column.Since(c.CreationTimestamp)}
	},
})

func validateIngressClass(c *networkingv1.IngressClass) (errs field.ErrorList) {
	path := field.NewPath("spec")
	if len(c.Spec.Controller) > maxController {
		errs = append(errs, field.TooLong(path.Child("controller"), "", maxController))
	}
	errs = append(errs, utilvalidation.IsDomainPrefixedPath(path.Child("controller"), c.Spec.Controller)...)
	p := c.Spec.Parameters
	if p == nil {
		return errs
	}
	path = path.Child("parameters")
	if g := p.APIGroup; g != nil {
		errs = append(errs, check.Each(path.Child("apiGroup"), *g, utilvalidation.IsDNS1123Subdomain(*g))...)
	}
	errs = append(errs, requiredSegment(p.Kind, path.Child("kind"))...)
	errs = append(errs, requiredSegment(p.Name, path.Child("name"))...)
	return append(errs, validateScope(p, path)...)
}

func validateScope(p *networkingv1.IngressClassParametersReference, path *field.Path) field.ErrorList {
	const cluster, namespace = networkingv1.IngressClassParametersReferenceScopeCluster, networkingv1.IngressClassParametersReferenceScopeNamespace
	at := path.Child("namespace")
	switch {
	case p.Scope == nil:
		return field.ErrorList{field.Required(path.Child("scope"), "")}
	case *p.Scope == namespace && p.Namespace == nil:
		return field.ErrorList{field.Required(at, "`parameters.scope` is set to 'Namespace'")}
	case *p.Scope == namespace:
		return check.Each(at, *p.Namespace, validation.ValidateNamespaceName(*p.Namespace, false))
	case *p.Scope == cluster && p.Namespace != nil:
		return field.ErrorList{field.Forbidden(at, "`parameters.scope` is set to 'Cluster'")}
	}
	return check.OneOf(*p.Scope, path.Child("scope"), cluster, namespace)
}
