package apiserver

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/munnerz/goautoneg"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// objectTypes are the media types in which objects come and go, the default
// first; streamTypes are those of watches.
var (
	objectTypes = []string{runtime.ContentTypeJSON, runtime.ContentTypeYAML, runtime.ContentTypeProtobuf}
	streamTypes = []string{runtime.ContentTypeJSON + ";stream=watch", runtime.ContentTypeProtobuf + ";stream=watch"}
)

// negotiate decides in which form the client gets its answer.
func (r *Request) negotiate(req *http.Request) (err error) {
	accept := req.Header.Get("Accept")
	custom := r.Resource != nil && r.Resource.Custom != nil && r.Subresource != "scale"
	convertible := r.Resource != nil && !r.streams() && r.Resource.Has("get") // reviews are not: they are only ever answered
	r.Out, err = negotiated(accept, r.Verb == "watch", convertible, custom)
	if err != nil {
		return err
	}
	r.Out.Pretty = r.Out.Pretty || wantsPretty(r.Query, req.UserAgent())
	if r.Out.As == "Table" {
		r.Out.IncludeObject, err = includeObject(r.Query)
	}
	return err
}

// acceptable picks the first clause of an Accept header (in order of quality)
// that can be served. convertible: the answer may be a Table or metadata only.
func acceptable(header string, watch, convertible bool) (Output, error) {
	return negotiated(header, watch, convertible, false)
}

// negotiated is acceptable; custom: the object itself has no protobuf form, only its
// Table and its metadata have.
func negotiated(header string, watch, convertible, custom bool) (Output, error) {
	switch header { // what nearly all clients send
	case "", "*/*", runtime.ContentTypeJSON, "application/json, */*":
		return Output{MediaType: runtime.ContentTypeJSON}, nil
	case runtime.ContentTypeProtobuf, "application/vnd.kubernetes.protobuf,application/json", "application/vnd.kubernetes.protobuf, application/json":
		if !custom {
			return Output{MediaType: runtime.ContentTypeProtobuf}, nil
		}
	}
	for _, clause := range goautoneg.ParseAccept(header) {
		for _, media := range objectTypes {
			if !matches(&clause, media) || (watch && media == runtime.ContentTypeYAML) {
				continue
			}
			out, ok := withParams(media, clause.Params, convertible)
			if ok && (!custom || media != runtime.ContentTypeProtobuf || out.As != "") {
				return out, nil
			}
		}
	}
	switch {
	case custom && watch:
		return Output{}, notAcceptable(streamTypes[:1])
	case custom:
		return Output{}, notAcceptable(objectTypes[:2])
	case watch:
		return Output{}, notAcceptable(streamTypes)
	}
	return Output{}, notAcceptable(objectTypes)
}

func matches(clause *goautoneg.Accept, media string) bool {
	main, sub, _ := strings.Cut(media, "/")
	return (clause.Type == main || clause.Type == "*") && (clause.SubType == sub || clause.SubType == "*")
}

// withParams reads the parameters of an Accept clause; false: they ask for
// something that does not exist in that media type.
func withParams(media string, params map[string]string, convertible bool) (Output, bool) {
	out := Output{MediaType: media, As: params["as"], AsVersion: params["v"], Pretty: params["pretty"] == "1"}
	if stream := params["stream"]; stream != "" && (stream != "watch" || media == runtime.ContentTypeYAML) {
		return out, false
	}
	if sv := params["sv"]; sv != "" && sv != "v1" {
		return out, false
	}
	if out.As == "" && params["g"] == "" && out.AsVersion == "" {
		return out, true
	}
	if !convertible || params["g"] != metav1.GroupName || (out.AsVersion != "v1" && out.AsVersion != "v1beta1") {
		return out, false
	}
	switch out.As {
	case "Table":
		return out, media != runtime.ContentTypeProtobuf
	case "PartialObjectMetadata", "PartialObjectMetadataList":
		return out, true
	}
	return out, false
}

// wantsPretty: people read it, by ?pretty or by the looks of the client.
func wantsPretty(q url.Values, agent string) bool {
	if v := q.Get("pretty"); v != "" {
		pretty, _ := strconv.ParseBool(v)
		return pretty
	}
	return strings.HasPrefix(agent, "curl") || strings.HasPrefix(agent, "Wget") || strings.HasPrefix(agent, "Mozilla/5.0")
}

func includeObject(q url.Values) (metav1.IncludeObjectPolicy, error) {
	if len(q) == 0 {
		return "", nil
	}
	var o metav1.TableOptions
	if err := metav1.Convert_url_Values_To_v1_TableOptions(&q, &o, nil); err != nil {
		return "", apierrors.NewBadRequest(err.Error())
	}
	if errs := metavalidation.ValidateTableOptions(&o); len(errs) > 0 {
		return "", apierrors.NewBadRequest("Unable to convert to Table as requested: " + errs[0].Error())
	}
	return o.IncludeObject, nil
}
