package crd

import (
	"bytes"
	"encoding/json"
	"reflect"
	"sync"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metatable "k8s.io/apimachinery/pkg/api/meta/table"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/util/jsonpath"
)

// columns are what `kubectl get` prints of a version: the name, and what the
// definition says, or the age if it says nothing.
type columns struct {
	headers []metav1.TableColumnDefinition
	paths   func() []*jsonpath.JSONPath // of all but the name; nil where a path cannot be parsed
}

var age = []apiextensionsv1.CustomResourceColumnDefinition{{
	Name: "Age", Type: "date", JSONPath: ".metadata.creationTimestamp",
	Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"],
}}

func columnsOf(v *apiextensionsv1.CustomResourceDefinitionVersion) *columns {
	declared := v.AdditionalPrinterColumns
	if len(declared) == 0 {
		declared = age
	}
	c := &columns{headers: []metav1.TableColumnDefinition{
		{Name: "Name", Type: "string", Format: "name", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"]}}}
	var paths []string
	for _, d := range declared {
		about := d.Description
		if about == "" {
			about = "Custom resource definition column (in JSONPath format): " + d.JSONPath
		}
		c.headers = append(c.headers, metav1.TableColumnDefinition{Name: d.Name, Type: d.Type, Format: d.Format, Description: about, Priority: d.Priority})
		paths = append(paths, d.JSONPath)
	}
	headers := c.headers[1:]
	c.paths = sync.OnceValue(func() (parsed []*jsonpath.JSONPath) {
		for i, path := range paths {
			p, err := parsePath(headers[i].Name, path)
			if err != nil {
				p = nil
			}
			parsed = append(parsed, p)
		}
		return parsed
	})
	return c
}

// row returns an object's cells.
func (c *columns) row(fields map[string]any) []any {
	name, _, _ := unstructured.NestedString(fields, "metadata", "name")
	cells := []any{name}
	for i, path := range c.paths() {
		cells = append(cells, cellOf(path, c.headers[1+i].Type, fields))
	}
	return cells
}

func cellOf(path *jsonpath.JSONPath, columnType string, fields map[string]any) any {
	if path == nil {
		return nil
	}
	found, err := path.FindResults(fields)
	if err != nil || len(found) == 0 || len(found[0]) == 0 {
		return nil
	}
	value := found[0][0].Interface()
	if columnType != "string" {
		return cell(columnType, value)
	}
	var text bytes.Buffer
	if err := path.PrintResults(&text, []reflect.Value{reflect.ValueOf(value)}); err != nil {
		return nil
	}
	return text.String()
}

// cell returns a value as a column of its type shows it; nil: it is of another type.
func cell(columnType string, value any) any {
	switch v := value.(type) {
	case int64:
		switch columnType {
		case "integer":
			return v
		case "number":
			return float64(v)
		}
	case float64:
		switch columnType {
		case "integer":
			return int64(v)
		case "number":
			return v
		}
	case json.Number:
		if n, err := v.Float64(); err == nil && columnType == "number" {
			return n
		}
		if n, err := v.Int64(); err == nil && columnType == "integer" {
			return n
		}
	case bool:
		if columnType == "boolean" {
			return v
		}
	case string:
		if columnType == "date" {
			return date(v)
		}
	}
	return nil
}

func date(text string) any {
	var at metav1.Time
	if at.UnmarshalQueryParameter(text) != nil {
		return "<invalid>"
	}
	return metatable.ConvertToHumanReadableDateType(at)
}
