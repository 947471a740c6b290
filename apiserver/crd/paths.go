package crd

import (
	"strings"
	"unicode"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// operation is one method of one path, as OpenAPI documents describe it.
type operation struct {
	method, path, id, action, about string
	kind                            map[string]any
	query                           []parameter
	body                            string // name of the schema; "": there is none
	bodyRequired                    bool
	consumes                        []string
	result                          string // name of the schema
	also                            map[string]string
	tag                             string
}

type parameter struct{ name, kind, about string }

const (
	statusType        = metaTypes + "Status"
	patchType         = metaTypes + "Patch"
	deleteOptionsType = metaTypes + "DeleteOptions"
	scaleType         = "io.k8s.api.autoscaling.v1.Scale"
)

var (
	objectMedia = []string{"application/json", "application/yaml"}
	patchMedia  = []string{string(types.JSONPatchType), string(types.MergePatchType), string(types.ApplyYAMLPatchType)}
)

func parameters(about map[string]string, names ...string) (out []parameter) {
	for _, name := range names {
		kind := "string"
		switch name {
		case "allowWatchBookmarks", "sendInitialEvents", "watch", "orphanDependents", "force":
			kind = "boolean"
		case "limit", "timeoutSeconds", "gracePeriodSeconds":
			kind = "integer"
		}
		out = append(out, parameter{name, kind, about[name]})
	}
	return out
}

func listParameters() []parameter {
	return parameters(metav1.ListOptions{}.SwaggerDoc(), "allowWatchBookmarks", "continue", "fieldSelector", "labelSelector", "limit",
		"resourceVersion", "resourceVersionMatch", "sendInitialEvents", "timeoutSeconds", "watch")
}

func writeParameters(about map[string]string, more ...string) []parameter {
	return parameters(about, append([]string{"dryRun", "fieldManager", "fieldValidation"}, more...)...)
}

// operations are those of one version.
func (def *Definition) operations(d *apiextensionsv1.CustomResourceDefinition, v *apiextensionsv1.CustomResourceDefinitionVersion) (out []operation) {
	names := &def.identity.names
	object, list := modelName(d.Spec.Group, v.Name, names.Kind), modelName(d.Spec.Group, v.Name, names.ListKind)
	root := "/apis/" + d.Spec.Group + "/" + v.Name + "/"
	suffix := names.Kind
	group := title(d.Spec.Group) + title(v.Name)
	add := func(o operation) {
		o.id = o.id[:strings.IndexFunc(o.id+"X", unicode.IsUpper)] + group + o.id[strings.IndexFunc(o.id+"X", unicode.IsUpper):]
		if o.kind == nil {
			o.kind = gvkOf(d.Spec.Group, v.Name, names.Kind)
		}
		o.tag = camel(d.Spec.Group) + "_" + v.Name
		out = append(out, o)
	}
	listing := operation{method: "get", action: "list", about: "list objects of kind " + names.Kind, query: listParameters(), result: list}
	if d.Spec.Scope == apiextensionsv1.NamespaceScoped {
		everywhere := listing
		everywhere.path, everywhere.id = root+names.Plural, "list"+names.Kind+"ForAllNamespaces"
		add(everywhere)
		root += "namespaces/{namespace}/"
		suffix = "Namespaced" + names.Kind
	}
	collection := root + names.Plural
	listing.path, listing.id = collection, "list"+suffix
	add(listing)
	add(operation{method: "post", path: collection, id: "create" + suffix, action: "post", about: "create " + article(names.Kind),
		query: writeParameters(metav1.CreateOptions{}.SwaggerDoc()), body: object, bodyRequired: true, result: object,
		also: map[string]string{"201": "Created", "202": "Accepted"}})
	add(operation{method: "delete", path: collection, id: "deleteCollection" + suffix, action: "deletecollection", about: "delete collection of " + names.Kind,
		query: listParameters(), result: statusType})
	item := collection + "/{name}"
	for _, o := range def.itemOperations(item, suffix, names.Kind, object) {
		add(o)
	}
	add(operation{method: "delete", path: item, id: "delete" + suffix, action: "delete", about: "delete " + article(names.Kind),
		query: parameters(metav1.DeleteOptions{}.SwaggerDoc(), "dryRun", "gracePeriodSeconds", "orphanDependents", "propagationPolicy"),
		body:  deleteOptionsType, result: statusType, also: map[string]string{"202": "Accepted"}})
	if v.Subresources != nil && v.Subresources.Status != nil {
		for _, o := range def.itemOperations(item+"/status", suffix+"Status", "status of the specified "+names.Kind, object) {
			add(o)
		}
	}
	if v.Subresources != nil && v.Subresources.Scale != nil {
		for _, o := range def.itemOperations(item+"/scale", suffix+"Scale", "scale of the specified "+names.Kind, scaleType) {
			o.kind = gvkOf("autoscaling", "v1", "Scale")
			add(o)
		}
	}
	return out
}

// itemOperations read and write one object, or a part of it.
func (def *Definition) itemOperations(path, suffix, what, object string) []operation {
	if !strings.Contains(what, "specified") {
		what = "the specified " + what
	}
	return []operation{
		{method: "get", path: path, id: "read" + suffix, action: "get", about: "read " + what, result: object,
			query: parameters(metav1.GetOptions{}.SwaggerDoc(), "resourceVersion")},
		{method: "put", path: path, id: "replace" + suffix, action: "put", about: "replace " + what,
			query: writeParameters(metav1.UpdateOptions{}.SwaggerDoc()), body: object, bodyRequired: true, result: object, also: map[string]string{"201": "Created"}},
		{method: "patch", path: path, id: "patch" + suffix, action: "patch", about: "partially update " + what,
			query: writeParameters(metav1.PatchOptions{}.SwaggerDoc(), "force"), body: patchType, bodyRequired: true, consumes: patchMedia, result: object},
	}
}

// pathParameters are those that the path itself names.
func (o *operation) pathParameters() (out []parameter) {
	if strings.Contains(o.path, "{namespace}") {
		out = append(out, parameter{"namespace", "string", "object name and auth scope, such as for teams and projects"})
	}
	if strings.Contains(o.path, "{name}") {
		out = append(out, parameter{"name", "string", "name of the " + o.kind["kind"].(string)})
	}
	return out
}

// pathsOf renders operations as the paths of a document.
func pathsOf(operations []operation, f form) map[string]any {
	paths := map[string]any{}
	for i := range operations {
		o := &operations[i]
		item, ok := paths[o.path].(map[string]any)
		if !ok {
			item = map[string]any{}
			var shared []any
			for _, p := range o.pathParameters() {
				shared = append(shared, f.parameter(p, "path"))
			}
			shared = append(shared, f.parameter(parameter{"pretty", "string", "If 'true', then the output is pretty printed. Defaults to 'false' unless the user-agent indicates a browser or command-line HTTP tool (curl and wget)."}, "query"))
			item["parameters"] = shared
			paths[o.path] = item
		}
		item[o.method] = f.operation(o)
	}
	return paths
}

func (f form) parameter(p parameter, in string) map[string]any {
	out := map[string]any{"name": p.name, "in": in, "description": p.about}
	if in == "path" {
		out["required"] = true
	}
	if f.v2 {
		out["type"], out["uniqueItems"] = p.kind, true
	} else {
		out["schema"] = map[string]any{"type": p.kind, "uniqueItems": true}
	}
	return out
}

func (f form) operation(o *operation) map[string]any {
	out := map[string]any{
		"description": o.about, "operationId": o.id, "tags": []any{o.tag},
		"x-kubernetes-action": o.action, "x-kubernetes-group-version-kind": o.kind,
	}
	query := []any{}
	for _, p := range o.query {
		query = append(query, f.parameter(p, "query"))
	}
	consumes := o.consumes
	if consumes == nil {
		consumes = objectMedia
	}
	responses := map[string]any{"200": f.response("OK", o.result), "401": map[string]any{"description": "Unauthorized"}}
	for code, text := range o.also {
		responses[code] = f.response(text, o.result)
	}
	out["responses"] = responses
	switch {
	case f.v2:
		out["schemes"], out["produces"], out["consumes"] = []any{"https"}, objectMedia, consumes
		if o.body != "" {
			body := map[string]any{"name": "body", "in": "body", "schema": map[string]any{"$ref": f.ref(o.body)}}
			if o.bodyRequired {
				body["required"] = true
			}
			query = append(query, body)
		}
	case o.body != "":
		content := map[string]any{}
		for _, media := range consumes {
			content[media] = map[string]any{"schema": map[string]any{"$ref": f.ref(o.body)}}
		}
		out["requestBody"] = map[string]any{"content": content}
		if o.bodyRequired {
			out["requestBody"].(map[string]any)["required"] = true
		}
	}
	if len(query) > 0 {
		out["parameters"] = query
	}
	return out
}

func (f form) response(text, schema string) map[string]any {
	ref := map[string]any{"$ref": f.ref(schema)}
	if f.v2 {
		return map[string]any{"description": text, "schema": ref}
	}
	content := map[string]any{}
	for _, media := range objectMedia {
		content[media] = map[string]any{"schema": ref}
	}
	return map[string]any{"description": text, "content": content}
}

func article(noun string) string {
	if noun != "" && strings.ContainsRune("AEIOU", unicode.ToUpper(rune(noun[0]))) {
		return "an " + noun
	}
	return "a " + noun
}

// title joins the parts of a name, each with a capital: StableExampleCom.
func title(name string) string {
	var b strings.Builder
	for _, part := range strings.FieldsFunc(name, func(r rune) bool { return r == '.' || r == '-' }) {
		b.WriteString(strings.ToUpper(part[:1]) + part[1:])
	}
	return b.String()
}

func camel(name string) string {
	t := title(name)
	return strings.ToLower(t[:1]) + t[1:]
}
