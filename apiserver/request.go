package apiserver

import (
	"net/http"
	"net/url"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"

	"skiff/api"
	"skiff/apiserver/flow"
	"skiff/cache"
	"skiff/store"
)

// Request is one call of the API, whoever makes it: HTTP only parses into it
// (parse.go), in-process clients fill it themselves (inprocess.go).
type Request struct {
	User user.Info

	// Verb is get, list, watch, create, update, patch, delete or
	// deletecollection; for a path that is not a resource, the HTTP method in
	// lower case.
	Verb string

	// Resource is the row that is asked for; nil: Path is not a resource.
	Resource    *api.Resource
	Subresource string
	Namespace   string // "" for cluster-scoped, and for all namespaces
	Name        string // "" for collections
	Path        string // of a request that is not for a resource
	SubPath     string // what follows the proxy subresource: "/metrics", or ""

	// missing: Resource is named by the request but not served. It is refused,
	// after authorization, so that the answer tells nothing to a stranger.
	missing bool

	Body Body   // create, update, patch, delete
	Out  Output // what the answer should look like

	// ListOptions of list, watch, get (only ResourceVersion) and deletecollection.
	ListOptions metav1.ListOptions
	// Write options of create, update and patch.
	Write WriteOptions
	// DeleteOptions as merged from body and query.
	DeleteOptions metav1.DeleteOptions
	// Patch says how Body is to be applied.
	PatchType types.PatchType

	// Fence, when set, must hold in the transaction of the write.
	Fence store.Fence

	// Query and HTTP are there for subresources that stream (log, exec, proxy).
	// HTTP is nil for in-process requests.
	Query url.Values
	HTTP  *http.Request

	// Component is the name behind an in-process request ("" over HTTP); it is
	// the field manager where none is named.
	UserAgent string

	class    flow.Class // what flow control takes the request for
	leaves   []func()   // give back what the request has taken; see leave
	place    func()     // gives back the place of a watch; nil: it has none
	warnings []string
	answered bool // writing the answer has begun; HTTP only
}

// WriteOptions are the options that create, update and patch share.
type WriteOptions struct {
	DryRun          bool
	FieldManager    string
	FieldValidation string // "", Ignore, Warn, Strict
	Force           bool   // apply patches
}

// Body is what the client sent: bytes, or in process the object itself, which
// the server takes over (the client must not change it afterwards).
type Body struct {
	ContentType string
	Bytes       []byte
	Object      runtime.Object
}

// Output is the negotiated form of an answer.
type Output struct {
	MediaType string // application/json, application/vnd.kubernetes.protobuf, application/yaml, application/cbor
	// As is "" for the object itself, "Table" or "PartialObjectMetadata".
	As string
	// AsVersion is the version of meta.k8s.io that As names ("v1", "v1beta1").
	AsVersion string
	// IncludeObject of a Table: "", None, Metadata, Object.
	IncludeObject metav1.IncludeObjectPolicy
	Pretty        bool
}

// Warn adds a Warning header to the answer. Each text is sent once.
func (r *Request) Warn(text string) {
	for _, w := range r.warnings {
		if w == text {
			return
		}
	}
	r.warnings = append(r.warnings, text)
}

// Result is the answer. Exactly one of Entry, Object, List, Watch and Stream is
// set.
type Result struct {
	Code int // 200, 201 or 202; 0 means 200

	// Entry is an object of the cache: its bytes are made once for all who read it.
	Entry *cache.Entry
	// Object is an answer that stands in no cache: a Status, a review, a Scale,
	// the result of a dry run, discovery.
	Object runtime.Object
	// List is a part of a resource, of one revision.
	List *List
	// Watch is a stream of events, over which the transport iterates.
	Watch *Watch
	// Stream answers by itself (log, exec, proxy, health, metrics).
	Stream http.Handler
}
