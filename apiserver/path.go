package apiserver

import (
	"net/http"
	"strings"
)

// target is what a method and a path name, before anyone knows whether it is
// served. Authorization and storage both see only this, never the path itself.
type target struct {
	isResource     bool
	group, version string
	resource       string
	namespace      string
	name           string
	subresource    string
	rest           string // of the path, after the subresource
	verb           string
	watchPath      bool // the deprecated form /api/v1/watch/…
	malformed      bool // has empty segments: nothing is ever served there
}

// namespaceSubresources stand where a namespaced resource would stand.
var namespaceSubresources = map[string]bool{"status": true, "finalize": true}

// parsePath splits a path by the rules of the API conventions:
//
//	/api/{version}/…                   the core group
//	/apis/{group}/{version}/…          all others
//	…/namespaces/{namespace}/{resource}/{name}/{subresource}/{rest}
//	…/{resource}/{name}/{subresource}/{rest}
//	…/watch/…                          before either of them
//
// What does not have this form is not for a resource. The path is the decoded
// one, so an encoded slash separates like any other.
func parsePath(method, path string) target {
	t := target{verb: strings.ToLower(method)}
	trimmed := strings.Trim(path, "/")
	segments := strings.Split(trimmed, "/")
	switch {
	case segments[0] == "api" && len(segments) >= 3:
		t.version, segments = segments[1], segments[2:]
	case segments[0] == "apis" && len(segments) >= 4:
		t.group, t.version, segments = segments[1], segments[2], segments[3:]
	default:
		return t
	}
	t.isResource = true
	t.malformed = strings.HasPrefix(path, "//") || t.version == "" || (t.group == "" && strings.HasPrefix(trimmed, "apis/"))
	t.verb = verbOf(method)
	if segments[0] == "watch" && len(segments) > 1 {
		t.verb, t.watchPath, segments = "watch", true, segments[1:]
	}
	if segments[0] == "namespaces" && len(segments) > 1 {
		t.namespace = segments[1]
		t.malformed = t.malformed || t.namespace == ""
		if len(segments) > 2 && !namespaceSubresources[segments[2]] {
			segments = segments[2:]
		}
	}
	t.take(segments, strings.HasSuffix(path, "/"))
	if t.name == "" {
		switch t.verb {
		case "get":
			t.verb = "list"
		case "delete":
			t.verb = "deletecollection"
		}
	}
	return t
}

// take reads resource, name, subresource and what follows.
func (t *target) take(segments []string, slash bool) {
	for i, s := range segments {
		if i < 3 && s == "" {
			t.malformed = true
		}
		switch i {
		case 0:
			t.resource = s
		case 1:
			t.name = s
		case 2:
			t.subresource = s
		default:
			t.rest += "/" + s
		}
	}
	if slash && t.subresource != "" {
		t.rest += "/"
	}
}

func verbOf(method string) string {
	switch method {
	case http.MethodPost:
		return "create"
	case http.MethodGet, http.MethodHead:
		return "get"
	case http.MethodPut:
		return "update"
	case http.MethodPatch:
		return "patch"
	case http.MethodDelete:
		return "delete"
	}
	return ""
}
