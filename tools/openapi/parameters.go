package main

import (
	"reflect"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kube-openapi/pkg/common"
)

var (
	namespace    = parameter{"namespace", "object name and auth scope, such as for teams and projects", "string", common.PathParameterKind, true}
	pretty       = query("pretty", "string", "If 'true', then the output is pretty printed. Defaults to 'false' unless the user-agent indicates a browser or command-line HTTP tool (curl and wget).")
	body         = parameter{"body", "", "string", common.BodyParameterKind, true}
	optionalBody = parameter{"body", "", "string", common.BodyParameterKind, false}
)

func name(kind string) parameter {
	return parameter{"name", "name of the " + kind, "string", common.PathParameterKind, true}
}

func query(name, dataType, description string) parameter {
	return parameter{name, description, dataType, common.QueryParameterKind, false}
}

func writeParameters(doc map[string]string) []common.Parameter {
	return []common.Parameter{query("dryRun", "string", doc["dryRun"]), query("fieldManager", "string", doc["fieldManager"]), query("fieldValidation", "string", doc["fieldValidation"])}
}

func deleteParameters() []common.Parameter {
	doc := metav1.DeleteOptions{}.SwaggerDoc()
	return []common.Parameter{query("dryRun", "string", doc["dryRun"]), query("gracePeriodSeconds", "integer", doc["gracePeriodSeconds"]),
		query("orphanDependents", "boolean", doc["orphanDependents"]), query("propagationPolicy", "string", doc["propagationPolicy"])}
}

func listParameters() []common.Parameter {
	doc := metav1.ListOptions{}.SwaggerDoc()
	return []common.Parameter{
		query("allowWatchBookmarks", "boolean", doc["allowWatchBookmarks"]), query("continue", "string", doc["continue"]),
		query("fieldSelector", "string", doc["fieldSelector"]), query("labelSelector", "string", doc["labelSelector"]),
		query("limit", "integer", doc["limit"]), query("resourceVersion", "string", doc["resourceVersion"]),
		query("resourceVersionMatch", "string", doc["resourceVersionMatch"]), query("sendInitialEvents", "boolean", doc["sendInitialEvents"]),
		query("timeoutSeconds", "integer", doc["timeoutSeconds"]), query("watch", "boolean", doc["watch"]),
	}
}

// connectParameters are the options of a subresource that streams, by their kind.
func connectParameters(kind string) []common.Parameter {
	switch kind {
	case "PodExecOptions":
		return optionParameters(corev1.PodExecOptions{}.SwaggerDoc(), corev1.PodExecOptions{})
	case "PodAttachOptions":
		return optionParameters(corev1.PodAttachOptions{}.SwaggerDoc(), corev1.PodAttachOptions{})
	case "PodPortForwardOptions":
		return optionParameters(corev1.PodPortForwardOptions{}.SwaggerDoc(), corev1.PodPortForwardOptions{})
	}
	return nil
}

// optionParameters are the fields of an options struct as query parameters.
func optionParameters(doc map[string]string, options any) (out []common.Parameter) {
	t := reflect.TypeOf(options)
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if name == "" {
			continue // TypeMeta
		}
		out = append(out, query(name, dataType(t.Field(i).Type), doc[name]))
	}
	return out
}

func dataType(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return dataType(t.Elem())
	case reflect.Slice:
		return dataType(t.Elem())
	case reflect.Bool:
		return "boolean"
	case reflect.Int32, reflect.Int64:
		return "integer"
	}
	return "string"
}
