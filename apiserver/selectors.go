package apiserver

import (
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// selectors shows authorizers what a collection request is narrowed to (KEP-4601).
func selectors(at *authorizer.AttributesRecord, r *Request) {
	if text := r.ListOptions.FieldSelector; text != "" {
		selector, err := fields.ParseSelector(text)
		if err != nil {
			at.FieldSelectorParsingErr = err
		} else {
			at.FieldSelectorRequirements = selector.Requirements()
		}
	}
	if text := r.ListOptions.LabelSelector; text != "" {
		selector, err := labels.Parse(text)
		if err != nil {
			at.LabelSelectorParsingErr = err
		} else {
			at.LabelSelectorRequirements, _ = selector.Requirements()
		}
	}
}
