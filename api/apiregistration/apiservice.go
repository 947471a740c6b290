// Package apiregistration says what Kubernetes documents about the kinds of
// apiregistration.k8s.io/v1: one variable per kind, which api/catalogue.go puts
// into its rows. Whether a service answers is apiserver's to find out.
package apiregistration

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"skiff/api/check"
	"skiff/api/column"
	"skiff/api/kind"
)

// APIService is apiregistration.k8s.io/v1 APIService.
var APIService = kind.Of(kind.Spec[*apiregistrationv1.APIService]{
	NameOnUpdate: true,
	AnyFinalizer: true,
	New:          func() *apiregistrationv1.APIService { return &apiregistrationv1.APIService{} },
	NewList:      func() runtime.Object { return &apiregistrationv1.APIServiceList{} },
	Default: func(s *apiregistrationv1.APIService) {
		if r := s.Spec.Service; r != nil && r.Port == nil {
			r.Port = new(int32(443))
		}
	},
	Create: func(s *apiregistrationv1.APIService) {
		s.Status = apiregistrationv1.APIServiceStatus{}
		if s.Spec.Service == nil {
			s.Status.Conditions = []apiregistrationv1.APIServiceCondition{{Type: apiregistrationv1.Available, Status: apiregistrationv1.ConditionTrue,
				LastTransitionTime: metav1.Now(), Reason: "Local", Message: "Local APIServices are always available"}}
		}
	},
	Update: func(s, old *apiregistrationv1.APIService) { s.Status = old.Status },
	NameFor: func(s *apiregistrationv1.APIService) func(string, bool) []string {
		return func(name string, _ bool) []string {
			messages := content.IsPathSegmentName(name)
			if want := s.Spec.Version + "." + s.Spec.Group; name != want && len(messages) == 0 {
				messages = append(messages, fmt.Sprintf("must be `spec.version+\".\"+spec.group`: %q", want))
			}
			return messages
		}
	},
	Validate:       validateService,
	ValidateUpdate: func(s, _ *apiregistrationv1.APIService) field.ErrorList { return validateService(s) },
	Subs: map[string]kind.Sub[*apiregistrationv1.APIService]{"status": {AnyFinalizer: true,
		Update: func(s, old *apiregistrationv1.APIService) {
			s.Spec = old.Spec
			s.Labels, s.Annotations, s.Finalizers, s.OwnerReferences = old.Labels, old.Annotations, old.Finalizers, old.OwnerReferences
		},
		Validate: func(s, _ *apiregistrationv1.APIService) (errs field.ErrorList) {
			for i, c := range s.Status.Conditions {
				errs = append(errs, check.OneOf(c.Status, field.NewPath("status", "conditions").Index(i).Child("status"),
					apiregistrationv1.ConditionTrue, apiregistrationv1.ConditionFalse, apiregistrationv1.ConditionUnknown)...)
			}
			return errs
		},
	}},
	Columns: []metav1.TableColumnDefinition{
		column.Name,
		column.String("Service", "The reference to the service that hosts this API endpoint."),
		column.String("Available", "Whether this service is available."),
		column.Age,
	},
	Row: func(s *apiregistrationv1.APIService) []any {
		service := "Local"
		if r := s.Spec.Service; r != nil {
			service = r.Namespace + "/" + r.Name
		}
		return []any{s.Name, service, availableCell(s), column.Since(s.CreationTimestamp)}
	},
	UnconditionalUpdateForbidden: true,
})

func availableCell(s *apiregistrationv1.APIService) string {
	for _, c := range s.Status.Conditions {
		switch {
		case c.Type != apiregistrationv1.Available:
			continue
		case c.Status != apiregistrationv1.ConditionTrue && c.Reason != "":
			return fmt.Sprintf("%s (%s)", c.Status, c.Reason)
		}
		return string(c.Status)
	}
	return string(apiregistrationv1.ConditionUnknown)
}

func validateService(s *apiregistrationv1.APIService) (errs field.ErrorList) {
	path := field.NewPath("spec")
	if g := s.Spec.Group; g != "" {
		errs = append(errs, check.Each(path.Child("group"), g, utilvalidation.IsDNS1123Subdomain(g))...)
	} else if s.Spec.Version != "v1" {
		errs = append(errs, field.Required(path.Child("group"), "only v1 may have an empty group and it better be legacy kube"))
	}
	errs = append(errs, check.Each(path.Child("version"), s.Spec.Version, utilvalidation.IsDNS1035Label(s.Spec.Version))...)
	if n := s.Spec.GroupPriorityMinimum; n <= 0 || n > 20000 {
		errs = append(errs, field.Invalid(path.Child("groupPriorityMinimum"), n, "must be positive and less than 20000"))
	}
	if n := s.Spec.VersionPriority; n <= 0 || n > 1000 {
		errs = append(errs, field.Invalid(path.Child("versionPriority"), n, "must be positive and less than 1000"))
	}
	return append(errs, validateBackend(&s.Spec, path)...)
}

func validateBackend(s *apiregistrationv1.APIServiceSpec, path *field.Path) (errs field.ErrorList) {
	insecure := path.Child("insecureSkipTLSVerify")
	r := s.Service
	if r == nil {
		if n := len(s.CABundle); n > 0 {
			errs = append(errs, field.Invalid(path.Child("caBundle"), fmt.Sprintf("%d bytes", n), "local APIServices may not have a caBundle"))
		}
		if s.InsecureSkipTLSVerify {
			errs = append(errs, field.Invalid(insecure, true, "local APIServices may not have insecureSkipTLSVerify"))
		}
		return errs
	}
	if r.Namespace == "" {
		errs = append(errs, field.Required(path.Child("service", "namespace"), ""))
	}
	if r.Name == "" {
		errs = append(errs, field.Required(path.Child("service", "name"), ""))
	}
	if wrong := utilvalidation.IsValidPortNum(int(column.Or(r.Port, 0))); len(wrong) > 0 {
		errs = append(errs, field.Invalid(path.Child("service", "port"), column.Or(r.Port, 0), "port is not valid: "+strings.Join(wrong, ", ")))
	}
	if s.InsecureSkipTLSVerify && len(s.CABundle) > 0 {
		errs = append(errs, field.Invalid(insecure, true, "may not be true if caBundle is present"))
	}
	return errs
}
