package main

import (
	"fmt"
	"reflect"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/kube-openapi/pkg/common"

	"skiff/api"
)

// container is the routes of some rows, as kube-openapi's builders take them.
type container []common.Route

func (c container) RootPath() string                   { return "/" }
func (c container) PathParameters() []common.Parameter { return nil }
func (c container) Routes() []common.Route             { return c }

// route is one method on one path.
type route struct {
	method, path, id, tag, description string
	parameters                         []common.Parameter
	consumes, produces                 []string
	meta                               map[string]any
	reads, writes                      any
	responses                          []common.StatusCodeResponse
}

func (r route) Method() string                                   { return r.method }
func (r route) Path() string                                     { return r.path }
func (r route) OperationName() string                            { return r.id }
func (r route) Parameters() []common.Parameter                   { return r.parameters }
func (r route) Description() string                              { return r.description }
func (r route) Consumes() []string                               { return r.consumes }
func (r route) Produces() []string                               { return r.produces }
func (r route) Metadata() map[string]interface{}                 { return r.meta }
func (r route) RequestPayloadSample() interface{}                { return r.reads }
func (r route) ResponsePayloadSample() interface{}               { return r.writes }
func (r route) StatusCodeResponses() []common.StatusCodeResponse { return r.responses }

type response struct {
	code    int
	message string
	model   any
}

func (r response) Code() int       { return r.code }
func (r response) Message() string { return r.message }
func (r response) Model() any      { return r.model }

type parameter struct {
	name, description, dataType string
	kind                        common.ParameterKind
	required                    bool
}

func (p parameter) Name() string               { return p.name }
func (p parameter) Description() string        { return p.description }
func (p parameter) Required() bool             { return p.required }
func (p parameter) Kind() common.ParameterKind { return p.kind }
func (p parameter) DataType() string           { return p.dataType }
func (p parameter) AllowMultiple() bool        { return false }

var (
	objectTypes = []string{"application/json", "application/yaml", "application/vnd.kubernetes.protobuf"}
	streamTypes = []string{"application/json", "application/yaml", "application/vnd.kubernetes.protobuf",
		"application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"}
	patchTypes = []string{"application/json-patch+json", "application/merge-patch+json",
		"application/strategic-merge-patch+json", "application/apply-patch+yaml"}
)

// root is the path of a row's group and version.
func root(r *api.Resource) string {
	if r.Group == "" {
		return "/api/" + r.Version
	}
	return "/apis/" + r.Group + "/" + r.Version
}

// routes are all routes of the rows, and where the core is among them, those
// that belong to no group.
func routes(rows []*api.Resource) container {
	var c container
	roots := map[string]bool{}
	for _, r := range rows {
		if !roots[root(r)] {
			roots[root(r)] = true
			c = append(c, route{method: "GET", path: root(r) + "/", id: "get" + groupTitle(r) + title(r.Version) + "APIResources", tag: tag(r),
				description: "get available resources", consumes: objectTypes, produces: objectTypes,
				writes: metav1.APIResourceList{}, responses: ok(metav1.APIResourceList{})})
		}
		c = append(c, rowRoutes(r)...)
	}
	if roots["/api/v1"] && len(roots) > 1 {
		c = append(c, route{method: "GET", path: "/version/", id: "getCodeVersion", tag: "version", description: "get the version information for this server",
			consumes: objectTypes[:1], produces: objectTypes[:1], writes: version.Info{}, responses: ok(version.Info{})})
	}
	return c
}

func ok(model any) []common.StatusCodeResponse {
	return []common.StatusCodeResponse{response{200, "OK", model}}
}

// maker makes the routes of one path.
type maker struct {
	row        *api.Resource
	path       string
	suffix     string // of operation ids: "NamespacedPodStatus"
	parameters []common.Parameter
	kind       metav1.GroupVersionKind
	object     any
	what       string // for descriptions
}

func rowRoutes(r *api.Resource) (c container) {
	object := reflect.ValueOf(r.Kind.New()).Elem().Interface()
	m := maker{row: r, kind: metav1.GroupVersionKind{Group: r.Group, Version: r.Version, Kind: r.KindName}, object: object, what: r.KindName}
	m.path, m.suffix, m.parameters = root(r), r.KindName, []common.Parameter{pretty}
	if r.Namespaced {
		if r.Has("list") {
			all := m
			all.path, all.suffix = root(r)+"/"+r.Name, r.KindName+"ForAllNamespaces"
			c = append(c, all.list())
		}
		m.path, m.suffix = m.path+"/namespaces/{namespace}", "Namespaced"+r.KindName
		m.parameters = append(m.parameters, namespace)
	}
	m.path += "/" + r.Name
	if r.Has("list") {
		c = append(c, m.list())
	}
	if r.Has("create") {
		c = append(c, m.create())
	}
	if r.Has("deletecollection") {
		c = append(c, m.deleteCollection())
	}
	m.path += "/{name}"
	m.parameters = append(m.parameters, name(r.KindName))
	c = append(c, m.item(r.Has)...)
	for sub := range r.Kind.Subs {
		s := m.sub(sub)
		s.what = sub + " of the specified " + r.KindName
		c = append(c, s.item(func(verb string) bool {
			return verb == "update" || sub != "finalize" && (verb == "get" || verb == "patch")
		})...)
	}
	if r.Kind.Scale != nil {
		s := m.sub("scale")
		s.kind, s.object, s.what = metav1.GroupVersionKind{Group: "autoscaling", Version: "v1", Kind: "Scale"}, autoscalingv1.Scale{}, "scale of the specified "+r.KindName
		c = append(c, s.item(func(verb string) bool { return verb == "get" || verb == "patch" || verb == "update" })...)
	}
	for _, a := range r.Actions {
		c = append(c, m.action(a)...)
	}
	return c
}

func (m maker) sub(name string) maker {
	m.path += "/" + name
	m.suffix += title(name)
	return m
}

// item are the routes of one object.
func (m maker) item(has func(string) bool) (c container) {
	if has("get") {
		r := m.route("GET", "get", "read", "read the specified "+m.what, m.object)
		c = append(c, r)
	}
	if has("update") {
		r := m.route("PUT", "put", "replace", "replace the specified "+m.what, m.object, writeParameters(metav1.UpdateOptions{}.SwaggerDoc())...)
		r.reads, r.parameters = m.object, append(r.parameters, body)
		r.responses = append(r.responses, response{201, "Created", m.object})
		c = append(c, r)
	}
	if has("patch") {
		r := m.route("PATCH", "patch", "patch", "partially update the specified "+m.what, m.object, writeParameters(metav1.PatchOptions{}.SwaggerDoc())...)
		r.parameters = append(r.parameters, body, query("force", "boolean", metav1.PatchOptions{}.SwaggerDoc()["force"]))
		r.reads, r.consumes = metav1.Patch{}, patchTypes
		r.responses = append(r.responses, response{201, "Created", m.object})
		c = append(c, r)
	}
	if has("delete") {
		var result any = metav1.Status{}
		r := m.route("DELETE", "delete", "delete", "delete "+article(m.row.KindName), result, deleteParameters()...)
		r.reads, r.parameters = metav1.DeleteOptions{}, append(r.parameters, optionalBody)
		r.responses = append(r.responses, response{202, "Accepted", result})
		c = append(c, r)
	}
	return c
}

func (m maker) create() route {
	r := m.route("POST", "post", "create", "create "+article(m.row.KindName), m.object, writeParameters(metav1.CreateOptions{}.SwaggerDoc())...)
	r.reads, r.parameters = m.object, append(r.parameters, body)
	r.responses = append(r.responses, response{201, "Created", m.object}, response{202, "Accepted", m.object})
	return r
}

func (m maker) list() route {
	list := reflect.ValueOf(m.row.Kind.NewList()).Elem().Interface()
	r := m.route("GET", "list", "list", "list or watch objects of kind "+m.row.KindName, list, listParameters()...)
	r.produces = streamTypes
	return r
}

func (m maker) deleteCollection() route {
	r := m.route("DELETE", "deletecollection", "deleteCollection", "delete collection of "+m.row.KindName, metav1.Status{}, append(deleteParameters(), listParameters()[1:]...)...)
	r.id = "delete" + groupTitle(m.row) + title(m.row.Version) + "Collection" + m.suffix
	r.reads, r.parameters = metav1.DeleteOptions{}, append(r.parameters, optionalBody)
	return r
}

// action are the routes of a subresource of another kind.
func (m maker) action(a api.Action) (c container) {
	s := m.sub(a.Name)
	s.kind = metav1.GroupVersionKind{Group: a.Kind.Group, Version: a.Kind.Version, Kind: a.Kind.Kind}
	bodies := map[string]any{"Binding": corev1.Binding{}, "Eviction": policyv1.Eviction{}, "TokenRequest": authenticationv1.TokenRequest{}}
	if object, ok := bodies[a.Kind.Kind]; ok {
		s.object = object
		r := s.create()
		r.description = fmt.Sprintf("create %s of %s", a.Name, article(m.row.KindName))
		return container{r}
	}
	if a.Name == "log" {
		r := s.route("GET", "get", "read", "read log of the specified "+m.row.KindName, "", optionParameters(corev1.PodLogOptions{}.SwaggerDoc(), corev1.PodLogOptions{})...)
		r.produces = append([]string{"text/plain"}, objectTypes...)
		return container{r}
	}
	methods := map[string][]string{"get": {"GET", "HEAD", "OPTIONS"}, "create": {"POST"}, "update": {"PUT"}, "patch": {"PATCH"}, "delete": {"DELETE"}}
	for _, verb := range a.Verbs {
		for _, method := range methods[verb] {
			if a.Name != "proxy" && method != "GET" && method != "POST" {
				continue
			}
			r := s.route(method, "connect", "connect", fmt.Sprintf("connect %s requests to %s of %s", method, a.Name, m.row.KindName), "")
			r.id = "connect" + groupTitle(m.row) + title(m.row.Version) + title(strings.ToLower(method)) + s.suffix
			r.parameters, r.produces = append(r.parameters, connectParameters(a.Kind.Kind)...), []string{"*/*"}
			r.consumes = []string{"*/*"}
			c = append(c, r)
		}
	}
	return c
}

func (m maker) route(method, action, prefix, description string, writes any, more ...common.Parameter) route {
	r := route{method: method, path: m.path, description: description, tag: tag(m.row), consumes: []string{"*/*"}, produces: objectTypes,
		id: prefix + groupTitle(m.row) + title(m.row.Version) + m.suffix, writes: writes, responses: ok(writes)}
	r.parameters = append(append([]common.Parameter{}, m.parameters...), more...)
	r.meta = map[string]any{"x-kubernetes-action": action, "x-kubernetes-group-version-kind": m.kind}
	return r
}

// groupTitle is a group in operation ids: "RbacAuthorization".
func groupTitle(r *api.Resource) string {
	if r.Group == "" {
		return "Core"
	}
	out := ""
	for part := range strings.SplitSeq(strings.TrimSuffix(r.Group, ".k8s.io"), ".") {
		out += title(part)
	}
	return out
}

func tag(r *api.Resource) string {
	g := groupTitle(r)
	return strings.ToLower(g[:1]) + g[1:] + "_" + r.Version
}

func title(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

func article(kind string) string {
	if strings.ContainsAny(kind[:1], "AEIOU") {
		return "an " + kind
	}
	return "a " + kind
}
