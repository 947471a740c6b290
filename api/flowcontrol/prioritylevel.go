package flowcontrol

import (
	"fmt"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/apiserver/pkg/util/shufflesharding"

	"skiff/api/check"
	"skiff/api/column"
	"skiff/api/kind"
)

const (
	maxQueues = 10_000_000

	queue, reject = string(flowcontrolv1.LimitResponseTypeQueue), string(flowcontrolv1.LimitResponseTypeReject)
)

// PriorityLevelConfiguration is flowcontrol.apiserver.k8s.io/v1 PriorityLevelConfiguration.
var PriorityLevelConfiguration = kind.Of(kind.Spec[*flowcontrolv1.PriorityLevelConfiguration]{
	NameOnUpdate: true,
	New:          func() *flowcontrolv1.PriorityLevelConfiguration { return &flowcontrolv1.PriorityLevelConfiguration{} },
	NewList:      func() runtime.Object { return &flowcontrolv1.PriorityLevelConfigurationList{} },
	Default:      defaultPriorityLevel,
	Create: func(p *flowcontrolv1.PriorityLevelConfiguration) {
		p.Status = flowcontrolv1.PriorityLevelConfigurationStatus{}
	},
	Update:         func(p, old *flowcontrolv1.PriorityLevelConfiguration) { p.Status = old.Status },
	Intent:         func(p *flowcontrolv1.PriorityLevelConfiguration) any { return &p.Spec },
	Validate:       validatePriorityLevel,
	ValidateUpdate: func(p, _ *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList { return validatePriorityLevel(p) },
	Subs: map[string]kind.Sub[*flowcontrolv1.PriorityLevelConfiguration]{"status": {AnyFinalizer: true,
		Update: func(p, old *flowcontrolv1.PriorityLevelConfiguration) {
			p.Spec = old.Spec
			owners := p.ManagedFields
			p.ObjectMeta = old.ObjectMeta
			p.ManagedFields = owners
		},
		Validate: func(p, _ *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
			return validateLevelConditions(p)
		},
	}},
	Columns: []metav1.TableColumnDefinition{
		column.Name,
		column.String("Type", flowcontrolv1.PriorityLevelConfigurationSpec{}.SwaggerDoc()["type"]),
		column.String("NominalConcurrencyShares", flowcontrolv1.LimitedPriorityLevelConfiguration{}.SwaggerDoc()["nominalConcurrencyShares"]),
		column.String("Queues", flowcontrolv1.QueuingConfiguration{}.SwaggerDoc()["queues"]),
		column.String("HandSize", flowcontrolv1.QueuingConfiguration{}.SwaggerDoc()["handSize"]),
		column.String("QueueLengthLimit", flowcontrolv1.QueuingConfiguration{}.SwaggerDoc()["queueLengthLimit"]),
		column.Age,
	},
	Row: func(p *flowcontrolv1.PriorityLevelConfiguration) []any {
		cells := []any{p.Name, string(p.Spec.Type), "<none>", "<none>", "<none>", "<none>", column.Since(p.CreationTimestamp)}
		if l := p.Spec.Limited; l != nil {
			cells[2] = int64(column.Or(l.NominalConcurrencyShares, 0))
			if q := l.LimitResponse.Queuing; q != nil {
				cells[3], cells[4], cells[5] = int64(q.Queues), int64(q.HandSize), int64(q.QueueLengthLimit)
			}
		}
		return cells
	},
})

func defaultPriorityLevel(p *flowcontrolv1.PriorityLevelConfiguration) {
	if l := p.Spec.Limited; l != nil {
		setDefault(&l.NominalConcurrencyShares, 30)
		setDefault(&l.LendablePercent, 0)
		if q := l.LimitResponse.Queuing; q != nil {
			for _, f := range []struct {
				value *int32
				to    int32
			}{{&q.HandSize, 8}, {&q.Queues, 64}, {&q.QueueLengthLimit, 50}} {
				if *f.value == 0 {
					*f.value = f.to
				}
			}
		}
	}
	if e := p.Spec.Exempt; e != nil {
		setDefault(&e.NominalConcurrencyShares, 0)
		setDefault(&e.LendablePercent, 0)
	}
}

// setDefault fills a field that is unset, and allocates only then.
func setDefault[T any](p **T, v T) {
	if *p == nil {
		*p = new(v)
	}
}

func validatePriorityLevel(p *flowcontrolv1.PriorityLevelConfiguration) (errs field.ErrorList) {
	const preserveZero = "flowcontrol.k8s.io/v1beta3-preserve-zero-concurrency-shares" // v1beta3 told 0 from unset by it
	if _, ok := p.Annotations[preserveZero]; ok {
		errs = append(errs, field.Forbidden(field.NewPath("metadata", "annotations"), fmt.Sprintf("annotation '%s' is forbidden", preserveZero)))
	}
	errs = append(errs, validateLevelSpec(p.Name, &p.Spec)...)
	for _, fixed := range bootstrap.MandatoryPriorityLevelConfigurations {
		if fixed.Name == p.Name {
			errs = append(errs, validateFixed(p, &fixed.Spec)...)
		}
	}
	return append(errs, validateLevelConditions(p)...)
}

// validateFixed wants a level that every server has to be as it is; only how much
// the exempt one lends may change.
func validateFixed(p *flowcontrolv1.PriorityLevelConfiguration, fixed *flowcontrolv1.PriorityLevelConfigurationSpec) field.ErrorList {
	spec, except := p.Spec, ""
	if p.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt {
		spec.Exempt, except = fixed.Exempt, " except the 'spec.exempt' field"
	}
	if equality.Semantic.DeepEqual(spec, *fixed) {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("spec"), p.Spec, fmt.Sprintf("spec of '%s'%s must equal the fixed value", p.Name, except))}
}

func validateLevelSpec(name string, s *flowcontrolv1.PriorityLevelConfigurationSpec) (errs field.ErrorList) {
	path := field.NewPath("spec")
	const exempt, limited = flowcontrolv1.PriorityLevelEnablementExempt, flowcontrolv1.PriorityLevelEnablementLimited
	if (name == flowcontrolv1.PriorityLevelConfigurationNameExempt) != (s.Type == exempt) {
		errs = append(errs, field.Invalid(path.Child("type"), s.Type, "must be 'Exempt' if and only if `name` is 'exempt'"))
	}
	if s.Type != exempt && s.Type != limited {
		errs = append(errs, check.SetOneOf(s.Type, path.Child("type"), exempt, limited)...)
	}
	switch at := path.Child("exempt"); {
	case s.Exempt == nil:
	case s.Type == exempt:
		errs = append(errs, validateShares(s.Exempt.NominalConcurrencyShares, s.Exempt.LendablePercent, at)...)
	default:
		errs = append(errs, field.Forbidden(at, ""))
	}
	at := path.Child("limited")
	switch {
	case s.Limited == nil && s.Type == limited:
		return append(errs, field.Required(at, ""))
	case s.Limited == nil:
		return errs
	case s.Type == limited:
		errs = append(errs, validateLimited(s.Limited, at)...)
	default:
		errs = append(errs, field.Forbidden(at, ""))
	}
	return append(errs, validateResponse(&s.Limited.LimitResponse, at.Child("limitResponse"))...)
}

func validateShares(shares, lendable *int32, path *field.Path) (errs field.ErrorList) {
	if shares != nil && *shares < 0 {
		errs = append(errs, field.Invalid(path.Child("nominalConcurrencyShares"), *shares, "must be a non-negative integer"))
	}
	if lendable != nil && (*lendable < 0 || *lendable > 100) {
		errs = append(errs, field.Invalid(path.Child("lendablePercent"), *lendable, "must be between 0 and 100, inclusive"))
	}
	return errs
}

func validateLimited(l *flowcontrolv1.LimitedPriorityLevelConfiguration, path *field.Path) field.ErrorList {
	errs := validateShares(l.NominalConcurrencyShares, l.LendablePercent, path)
	if n := l.BorrowingLimitPercent; n != nil && *n < 0 {
		errs = append(errs, field.Invalid(path.Child("borrowingLimitPercent"), *n, "if specified, must be a non-negative integer"))
	}
	response, at := l.LimitResponse, path.Child("limitResponse")
	switch queuing := response.Queuing; string(response.Type) {
	case queue:
		if queuing != nil {
			errs = append(errs, validateQueuing(queuing, at.Child("queuing"))...)
		}
	case reject, "":
	default:
		errs = append(errs, field.NotSupported(at.Child("type"), response.Type, []string{queue, reject}))
	}
	return errs
}

// validateResponse checks that what happens at the limit is one thing. It holds for
// levels that have no limit, too.
func validateResponse(r *flowcontrolv1.LimitResponse, path *field.Path) (errs field.ErrorList) {
	if r.Type == "" {
		errs = append(errs, field.Required(path.Child("type"), ""))
	}
	switch at := path.Child("queuing"); {
	case r.Queuing == nil && string(r.Type) == queue:
		errs = append(errs, field.Required(at, ""))
	case r.Queuing != nil && string(r.Type) != queue:
		errs = append(errs, field.Forbidden(at, ""))
	}
	return errs
}

func validateQueuing(q *flowcontrolv1.QueuingConfiguration, path *field.Path) (errs field.ErrorList) {
	if q.QueueLengthLimit <= 0 {
		errs = append(errs, field.Invalid(path.Child("queueLengthLimit"), q.QueueLengthLimit, "must be positive"))
	}
	if q.Queues <= 0 {
		errs = append(errs, field.Invalid(path.Child("queues"), q.Queues, "must be positive"))
	} else if q.Queues > maxQueues {
		errs = append(errs, field.Invalid(path.Child("queues"), q.Queues, fmt.Sprintf("must not be greater than %d", maxQueues)))
	}
	hand := path.Child("handSize")
	switch {
	case q.HandSize <= 0:
		return append(errs, field.Invalid(hand, q.HandSize, "must be positive"))
	case q.HandSize > q.Queues:
		return append(errs, field.Invalid(hand, q.HandSize, fmt.Sprintf("should not be greater than queues (%d)", q.Queues)))
	}
	if shufflesharding.RequiredEntropyBits(int(q.Queues), int(q.HandSize)) > shufflesharding.MaxHashBits {
		errs = append(errs, field.Invalid(hand, q.HandSize, fmt.Sprintf("required entropy bits of deckSize %d and handSize %d should not be greater than %d",
			q.Queues, q.HandSize, shufflesharding.MaxHashBits)))
	}
	return errs
}

func validateLevelConditions(p *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
	types := make([]string, len(p.Status.Conditions))
	for i, c := range p.Status.Conditions {
		types[i] = string(c.Type)
	}
	return validateConditionTypes(types)
}
