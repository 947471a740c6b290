package admissionregistration

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	celgo "github.com/google/cel-go/cel"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	admissioncel "k8s.io/apiserver/pkg/admission/plugin/cel"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/apiserver/pkg/cel/mutation"

	"skiff/api/check"
)

const maxMatchConditions = 64

// expression is a CEL expression and the types that it may return.
type expression struct {
	text  string
	types []*celgo.Type
}

func (e expression) GetExpression() string      { return e.text }
func (e expression) ReturnTypes() []*celgo.Type { return e.types }

// variable is an expression that others refer to by its name.
type variable struct {
	expression
	name string
}

func (v variable) GetName() string { return v.name }

func boolean(text string) expression { return expression{text, []*celgo.Type{celgo.BoolType}} }
func text(text string) expression    { return expression{text, []*celgo.Type{celgo.StringType}} }

// textOrNull is for annotations: null means none.
func textOrNull(text string) expression {
	return expression{text, []*celgo.Type{celgo.StringType, celgo.NullType}}
}

// jsonPatch and applyConfiguration are what mutations return.
func jsonPatch(text string) expression {
	return expression{text, []*celgo.Type{celgo.ListType(celgo.ObjectType(mutation.JSONPatchTypeName))}}
}

func applyConfiguration(text string) expression {
	return expression{text, []*celgo.Type{celgo.ObjectType("Object")}}
}

// newCompiler makes a compiler for the environment of this version; its variables
// are those of one policy.
func newCompiler(variables bool) (admissioncel.Compiler, error) {
	base := environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion())
	if !variables {
		return admissioncel.NewCompiler(base), nil
	}
	return admissioncel.NewCompositedCompiler(base)
}

// compile checks one expression. Stored ones may use what new ones may not.
func compile(c admissioncel.Compiler, e admissioncel.ExpressionAccessor, with admissioncel.OptionalVariableDeclarations, stored bool, path *field.Path) field.ErrorList {
	env := environment.NewExpressions
	if stored {
		env = environment.StoredExpressions
	}
	return celErrors(e, c.CompileCELExpression(e, with, env), path)
}

func celErrors(e admissioncel.ExpressionAccessor, r admissioncel.CompilationResult, path *field.Path) field.ErrorList {
	if r.Error == nil {
		return nil
	}
	switch r.Error.Type {
	case apiservercel.ErrorTypeRequired:
		return field.ErrorList{field.Required(path, r.Error.Detail)}
	case apiservercel.ErrorTypeInvalid:
		return field.ErrorList{field.Invalid(path, e.GetExpression(), r.Error.Detail)}
	}
	return field.ErrorList{field.InternalError(path, r.Error)}
}

func validateConditions(list []admissionv1.MatchCondition, params bool, stored map[string]bool, path *field.Path) (errs field.ErrorList) {
	if len(list) > maxMatchConditions {
		errs = append(errs, field.TooMany(path, len(list), maxMatchConditions))
	}
	if len(list) == 0 {
		return errs
	}
	compiler, err := newCompiler(false)
	if err != nil {
		return append(errs, field.InternalError(path, err))
	}
	with := admissioncel.OptionalVariableDeclarations{HasParams: params, HasAuthorizer: true}
	for i, c := range list {
		at := path.Index(i)
		if trimmed := strings.TrimSpace(c.Expression); trimmed == "" {
			errs = append(errs, field.Required(at.Child("expression"), ""))
		} else {
			errs = append(errs, compile(compiler, boolean(trimmed), with, stored[trimmed], at.Child("expression"))...)
		}
		if c.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
			continue
		}
		errs = append(errs, check.QualifiedName(c.Name, at.Child("name"))...)
		if slices.ContainsFunc(list[:i], func(o admissionv1.MatchCondition) bool { return o.Name == c.Name }) {
			errs = append(errs, field.Duplicate(at.Child("name"), c.Name))
		}
	}
	return errs
}

var identifier = regexp.MustCompile("^[_a-zA-Z][_a-zA-Z0-9]*$")

// reserved words of CEL cannot be names of variables.
var reserved = []string{"true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import",
	"let", "loop", "package", "namespace", "return", "var", "void", "while"}

func validateVariables(c admissioncel.Compiler, list []admissionv1.Variable, params bool, stored map[string]bool, path *field.Path) (errs field.ErrorList) {
	for i, v := range list {
		at := path.Index(i)
		if strings.TrimSpace(v.Name) == "" {
			errs = append(errs, field.Required(at.Child("name"), "name is not specified"))
		} else if !identifier.MatchString(v.Name) || slices.Contains(reserved, v.Name) {
			errs = append(errs, field.Invalid(at.Child("name"), v.Name, "must be a valid CEL identifier"))
		}
		if strings.TrimSpace(v.Expression) == "" {
			errs = append(errs, field.Required(at.Child("expression"), "expression is not specified"))
			continue
		}
		composed, ok := c.(*admissioncel.CompositedCompiler)
		if !ok {
			errs = append(errs, field.InternalError(at, errors.New("variable composition is not allowed")))
			continue
		}
		env := environment.NewExpressions
		if stored[v.Expression] {
			env = environment.StoredExpressions
		}
		e := variable{expression{v.Expression, []*celgo.Type{celgo.AnyType, celgo.DynType}}, v.Name}
		r := composed.CompileAndStoreVariable(e, admissioncel.OptionalVariableDeclarations{HasParams: params, HasAuthorizer: true}, env)
		errs = append(errs, celErrors(e, r, at.Child("expression"))...)
	}
	return errs
}

func validateParamKind(k *admissionv1.ParamKind, path *field.Path) (errs field.ErrorList) {
	if k == nil {
		return nil
	}
	at := path.Child("apiVersion")
	group, version, ok := strings.Cut(k.APIVersion, "/")
	if !ok {
		group, version = "", k.APIVersion
	}
	switch {
	case k.APIVersion == "":
		errs = append(errs, field.Required(at, ""))
	case strings.Contains(version, "/"):
		errs = append(errs, field.Invalid(at, k.APIVersion, fmt.Sprintf("unexpected GroupVersion string: %s", k.APIVersion)))
	default:
		errs = append(errs, validateGroupVersion(k.APIVersion, group, version, at)...)
	}
	if k.Kind == "" {
		return append(errs, field.Required(path.Child("kind"), ""))
	}
	if wrong := dnsLabel1035(strings.ToLower(k.Kind)); wrong != "" {
		errs = append(errs, field.Invalid(path.Child("kind"), k.Kind, "may have mixed case, but should otherwise match: "+wrong))
	}
	return errs
}
