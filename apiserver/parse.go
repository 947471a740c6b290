package apiserver

import (
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	listvalidation "k8s.io/apimachinery/pkg/apis/meta/internalversion/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api"
)

// maxBody is how many bytes a request may carry, as Kubernetes has it.
const maxBody = 3 << 20

// locate says what an HTTP request asks for: everything that authorization
// needs, but neither options nor body. It is called before the caller is known,
// so it must be cheap and cannot fail.
func (s *Server) locate(req *http.Request) *Request {
	t := parsePath(req.Method, req.URL.Path)
	r := &Request{Verb: t.verb, HTTP: req, Path: req.URL.Path, UserAgent: req.UserAgent()}
	if req.URL.RawQuery != "" {
		r.Query = req.URL.Query()
	}
	if !t.isResource {
		return r
	}
	r.Namespace, r.Name, r.Subresource, r.SubPath = t.namespace, t.name, t.subresource, t.rest
	gvr := schema.GroupVersionResource{Group: t.group, Version: t.version, Resource: t.resource}
	r.Resource = s.rowFor(gvr)
	if r.Resource == nil {
		r.missing = true
		r.Resource = &api.Resource{Group: t.group, Version: t.version, Name: t.resource, Namespaced: t.namespace != "", Verbs: []string{}}
		return r
	}
	r.missing = t.malformed || misplaced(r, t)
	r.asCollection(t.watchPath)
	if !t.watchPath {
		// As they came: authorization may depend on them.
		r.ListOptions.FieldSelector, r.ListOptions.LabelSelector = r.Query.Get("fieldSelector"), r.Query.Get("labelSelector")
	}
	return r
}

// misplaced: a path that no client of the API may use, because the resource has
// no namespace, or is named without one, or takes nothing below its name.
func misplaced(r *Request, t target) bool {
	if r.Resource.Name == "namespaces" && r.Resource.Group == "" {
		// Below a namespace there is no other: rights in the one would be rights to the other.
		return t.rest != "" || t.namespace != t.name
	}
	switch {
	case r.Resource.Namespaced && t.namespace == "" && t.name != "",
		!r.Resource.Namespaced && t.namespace != "":
		return true
	}
	return strings.Trim(t.rest, "/") != "" && t.subresource != "proxy"
}

// asCollection makes a get of a collection a list or a watch, and gives a request
// for one name by field selector that name, for authorization.
func (r *Request) asCollection(watchPath bool) {
	if r.Verb == "list" && wantsWatch(r.Query) {
		r.Verb = "watch"
	}
	if (r.Verb != "list" && r.Verb != "watch") || watchPath || r.Name != "" {
		return
	}
	selector, err := fields.ParseSelector(r.Query.Get("fieldSelector"))
	if err != nil {
		return // it is refused when the options are read
	}
	if name, ok := selector.RequiresExactMatch("metadata.name"); ok && len(content.IsPathSegmentName(name)) == 0 {
		r.Name = name
	}
}

func wantsWatch(q url.Values) bool {
	v, ok := q["watch"]
	if !ok || len(v) == 0 {
		return false
	}
	return v[0] != "0" && !strings.EqualFold(v[0], "false")
}

// optionsOfProxy: OPTIONS is passed on to pods, services and nodes. It is no verb of the API, so only a rule for all verbs allows it.
func optionsOfProxy(r *Request) bool {
	return r.Subresource == "proxy" && r.Verb == "" && r.HTTP != nil && r.HTTP.Method == http.MethodOptions
}

// served refuses what the catalogue does not have.
func served(r *Request) error {
	if r.missing {
		return notFoundHere()
	}
	switch {
	case r.Subresource == "":
		if !r.Resource.Has(r.Verb) || (r.Resource.Namespaced && r.Namespace == "" && needsNamespace(r.Verb)) {
			return methodNotAllowed()
		}
	default:
		verbs, ok := subresourceVerbs(r.Resource, r.Subresource)
		if !ok || (r.Name == "") {
			return notFoundHere()
		}
		if !slices.Contains(verbs, r.Verb) && !optionsOfProxy(r) {
			return methodNotAllowed()
		}
	}
	return nil
}

func needsNamespace(verb string) bool {
	return verb != "list" && verb != "watch"
}

// read takes options and body from an HTTP request into r, and settles the form
// of the answer.
func (r *Request) read(req *http.Request) (err error) {
	if err := r.checkNames(); err != nil {
		return err
	}
	if r.streams() {
		return nil
	}
	if err := r.negotiate(req); err != nil {
		return err
	}
	if r.Fence, err = fenceOf(req.Header); err != nil {
		return err
	}
	switch r.Verb {
	case "get":
		return r.readGet()
	case "list", "watch":
		return r.readList()
	case "create":
		return r.readCreate(req)
	case "update":
		return r.readUpdate(req)
	case "patch":
		return r.readPatch(req)
	case "delete":
		return r.readDelete(req)
	case "deletecollection":
		if err := r.readList(); err != nil {
			return err
		}
		return r.readDelete(req)
	}
	return nil
}

// checkNames refuses names that would mean another key in the store.
func (r *Request) checkNames() error {
	for _, name := range []string{r.Namespace, r.Name} {
		if name == "" {
			continue
		}
		if msgs := content.IsPathSegmentName(name); len(msgs) > 0 {
			return apierrors.NewBadRequest(fmt.Sprintf("Name parameter invalid: %q: %s", name, strings.Join(msgs, ";")))
		}
	}
	return nil
}

// streams: the subresource reads the body itself, and its options are its own.
func (r *Request) streams() bool {
	switch r.Subresource {
	case "exec", "attach", "portforward", "proxy", "log":
		return true
	}
	return false
}

func (r *Request) readGet() error {
	if len(r.Query) == 0 {
		return nil
	}
	if v, ok := r.Query["export"]; ok {
		export := true
		if err := runtime.Convert_Slice_string_To_bool(&v, &export, nil); err != nil {
			return apierrors.NewBadRequest(fmt.Sprintf("the export parameter cannot be parsed: %v", err))
		}
		if export {
			return apierrors.NewBadRequest("the export parameter, deprecated since v1.14, is no longer supported")
		}
	}
	var o metav1.GetOptions
	if err := metav1.Convert_url_Values_To_v1_GetOptions(&r.Query, &o, nil); err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	r.ListOptions.ResourceVersion = o.ResourceVersion
	return nil
}

// readList reads ListOptions, and checks them as Kubernetes does.
func (r *Request) readList() error {
	if len(r.Query) == 0 && r.Name == "" {
		return nil
	}
	var o metav1.ListOptions
	if err := metav1.Convert_url_Values_To_v1_ListOptions(&r.Query, &o, nil); err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	o.Watch = r.Verb == "watch"
	var checked internalversion.ListOptions
	if err := internalversion.Convert_v1_ListOptions_To_internalversion_ListOptions(&o, &checked, nil); err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	internalversion.SetListOptionsDefaults(&checked, true)
	if errs := listvalidation.ValidateListOptions(&checked, true); len(errs) > 0 {
		return invalidOptions("ListOptions", errs)
	}
	if err := knownFields(r.Resource, checked.FieldSelector); err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	if r.Name != "" && r.Verb != "deletecollection" {
		if checked.FieldSelector == nil || checked.FieldSelector.Empty() {
			o.FieldSelector = fields.OneTermEqualSelector("metadata.name", r.Name).String()
		} else if name, ok := checked.FieldSelector.RequiresExactMatch("metadata.name"); !ok || name != r.Name {
			return apierrors.NewBadRequest("fieldSelector metadata.name doesn't match requested name")
		}
	}
	r.ListOptions = o
	return nil
}

// knownFields refuses a selector over fields that the kind does not index.
func knownFields(row *api.Resource, selector fields.Selector) error {
	if selector == nil || selector.Empty() {
		return nil
	}
	var known fields.Set
	if row.Kind.Fields != nil {
		known = row.Kind.Fields(row.Kind.New())
	}
	for _, q := range selector.Requirements() {
		if q.Field == "metadata.name" || q.Field == "metadata.namespace" || known.Has(q.Field) {
			continue
		}
		switch {
		case known == nil:
			return fmt.Errorf("%q is not a known field selector: only %q, %q", q.Field, "metadata.name", "metadata.namespace")
		case row.Group == "batch":
			return fmt.Errorf("field label %q not supported for %s", q.Field, row.KindName)
		case row.Group == "apps":
			return fmt.Errorf("field label %q not supported for apps%s.%s", q.Field, row.Version, row.KindName)
		}
		return fmt.Errorf("field label not supported: %s", q.Field)
	}
	return nil
}

func (r *Request) readCreate(req *http.Request) (err error) {
	var o metav1.CreateOptions
	if len(r.Query) > 0 {
		if err := metav1.Convert_url_Values_To_v1_CreateOptions(&r.Query, &o, nil); err != nil {
			return apierrors.NewBadRequest(err.Error())
		}
		if errs := metavalidation.ValidateCreateOptions(&o); len(errs) > 0 {
			return invalidOptions("CreateOptions", errs)
		}
	}
	r.Write = WriteOptions{DryRun: len(o.DryRun) > 0, FieldManager: o.FieldManager, FieldValidation: o.FieldValidation}
	return r.readBody(req)
}

func (r *Request) readUpdate(req *http.Request) error {
	var o metav1.UpdateOptions
	if len(r.Query) > 0 {
		if err := metav1.Convert_url_Values_To_v1_UpdateOptions(&r.Query, &o, nil); err != nil {
			return apierrors.NewBadRequest(err.Error())
		}
		if errs := metavalidation.ValidateUpdateOptions(&o); len(errs) > 0 {
			return invalidOptions("UpdateOptions", errs)
		}
	}
	r.Write = WriteOptions{DryRun: len(o.DryRun) > 0, FieldManager: o.FieldManager, FieldValidation: o.FieldValidation}
	return r.readBody(req)
}

// patchTypes are the media types of patches, in the order that the error lists.
var patchTypes = []string{
	string(types.JSONPatchType), string(types.MergePatchType),
	string(types.StrategicMergePatchType), string(types.ApplyYAMLPatchType),
}

// patchTypesOf leaves out what needs a Go type.
func patchTypesOf(r *Request) []string {
	if r.Resource.Custom == nil || r.Subresource == "scale" {
		return patchTypes
	}
	return []string{string(types.JSONPatchType), string(types.MergePatchType), string(types.ApplyYAMLPatchType)}
}

func (r *Request) readPatch(req *http.Request) (err error) {
	media, _, _ := strings.Cut(req.Header.Get("Content-Type"), ";")
	if known := patchTypesOf(r); !slices.Contains(known, media) {
		return unsupportedMediaType(known)
	}
	r.PatchType = types.PatchType(media)
	if r.Body.Bytes, err = readAll(req); err != nil {
		return err
	}
	r.Body.ContentType = media
	var o metav1.PatchOptions
	if err := convertPatchOptions(r.Query, &o); err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	if errs := metavalidation.ValidatePatchOptions(&o, r.PatchType); len(errs) > 0 {
		return invalidOptions("PatchOptions", errs)
	}
	r.Write = WriteOptions{DryRun: len(o.DryRun) > 0, FieldManager: o.FieldManager, FieldValidation: o.FieldValidation, Force: o.Force != nil && *o.Force}
	return nil
}

func convertPatchOptions(q url.Values, o *metav1.PatchOptions) error {
	if len(q) == 0 {
		return nil
	}
	return metav1.Convert_url_Values_To_v1_PatchOptions(&q, o, nil)
}

// readDelete reads DeleteOptions from the body, or where there is none, from the
// query.
func (r *Request) readDelete(req *http.Request) error {
	body, err := readAll(req)
	if err != nil {
		return err
	}
	if len(body) > 0 {
		media, err := inputType(req.Header.Get("Content-Type"))
		if err != nil {
			return err
		}
		if err := decodeDeleteOptions(media, body, &r.DeleteOptions); err != nil {
			return apierrors.NewBadRequest(err.Error())
		}
	} else if len(r.Query) > 0 {
		if err := metav1.Convert_url_Values_To_v1_DeleteOptions(&r.Query, &r.DeleteOptions, nil); err != nil {
			return apierrors.NewBadRequest(err.Error())
		}
	}
	r.DeleteOptions.IgnoreStoreReadErrorWithClusterBreakingPotential = nil
	if errs := metavalidation.ValidateDeleteOptions(&r.DeleteOptions); len(errs) > 0 {
		return invalidOptions("DeleteOptions", errs)
	}
	r.Write.DryRun = len(r.DeleteOptions.DryRun) > 0
	return nil
}

func (r *Request) readBody(req *http.Request) (err error) {
	if r.Body.ContentType, err = inputType(req.Header.Get("Content-Type")); err != nil {
		return err
	}
	r.Body.Bytes, err = readAll(req)
	return err
}

// inputType is the media type of a body that is an object.
func inputType(header string) (string, error) {
	if header == "" || header == runtime.ContentTypeJSON {
		return runtime.ContentTypeJSON, nil
	}
	media, _, err := mime.ParseMediaType(header)
	if err == nil && slices.Contains(objectTypes, media) {
		return media, nil
	}
	return "", unsupportedMediaType(objectTypes)
}

// readAll reads a body, up to the limit.
func readAll(req *http.Request) ([]byte, error) {
	if req.Body == nil || req.Body == http.NoBody {
		return nil, nil
	}
	limited := &io.LimitedReader{R: req.Body, N: maxBody + 1}
	body, err := readSized(limited, req.ContentLength)
	if limited.N <= 0 {
		return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", maxBody))
	}
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("read the body of the request: %v", err))
	}
	return body, nil
}

// readSized is io.ReadAll that believes a plausible Content-Length.
func readSized(r io.Reader, length int64) ([]byte, error) {
	if length <= 0 || length > maxBody {
		return io.ReadAll(r)
	}
	body := make([]byte, length)
	n, err := io.ReadFull(r, body)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = fmt.Errorf("%d of %d bytes arrived: %w", n, length, io.ErrUnexpectedEOF)
	}
	return body[:n], err
}

func invalidOptions(kind string, errs field.ErrorList) error {
	return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: kind}, "", errs)
}
