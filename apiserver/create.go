package apiserver

import (
	"context"
	"net/http"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/endpoints/deprecation"

	"skiff/api"
	"skiff/apiserver/admission"
	"skiff/store"
)

// nameAttempts is how many generated names are tried before giving up.
const nameAttempts = 8

// eventTTL is how long events are kept.
const eventTTL = time.Hour

// create answers POST to a collection.
func (s *Server) create(ctx context.Context, r *Request) (*Result, error) {
	obj, err := r.decodeObject()
	if err != nil {
		return nil, err
	}
	wipe(obj)
	if err := matchNamespace(r, obj); err != nil {
		return nil, err
	}
	dedupOwners(r, obj, "")
	if err := s.owners.update(r, r.Resource.Kind.New(), obj); err != nil {
		return nil, err
	}
	return s.insert(ctx, r, toStored(r.Resource, obj))
}

// insert admits, judges and stores a new object in the storage's version: the
// second half of create, shared with updates and apply patches that create.
func (s *Server) insert(ctx context.Context, r *Request, obj api.Object) (*Result, error) {
	row := stored(r.Resource)
	if err := mayCreate(row, obj.GetName()); err != nil {
		return nil, err
	}
	w := s.judged(r, "create", obj, nil)
	if err := s.admission.Mutate(ctx, w); err != nil {
		return nil, err
	}
	dedupOwners(r, obj, afterAdmission)
	row.Kind.Default(obj)
	if obj.GetResourceVersion() != "" {
		return nil, errVersionOnCreate()
	}

	generated := obj.GetName() == "" && obj.GetGenerateName() != ""
	for attempt := 1; ; attempt++ {
		named := obj
		if generated {
			named = obj.DeepCopyObject().(api.Object) // the next attempt begins from what was sent
		}
		baptize(row, named)
		row.PrepareNew(named)
		noteRequester(r, named)
		if err := s.plan(ctx, r, named, nil); err != nil {
			return nil, err
		}
		w.Object = named
		result, err := s.insertNamed(ctx, r, w, named)
		if !generated || !apierrors.IsAlreadyExists(err) {
			return result, err
		}
		if attempt == nameAttempts {
			return nil, apierrors.NewGenerateNameConflict(r.Resource.GroupResource(), named.GetName(), 1)
		}
	}
}

// insertNamed judges and stores a new object that has its name.
func (s *Server) insertNamed(ctx context.Context, r *Request, w *admission.Write, obj api.Object) (*Result, error) {
	row := stored(r.Resource)
	if err := invalid(row, obj.GetName(), r.Resource.ValidateNew(obj)); err != nil {
		return nil, err
	}
	s.warnAbout(r, row, obj, nil)
	w.Name = obj.GetName()
	taken, err := s.allocate(ctx, r, obj, nil)
	if err != nil {
		return nil, err
	}
	defer taken.settle()
	if err := s.admission.Validate(ctx, w); err != nil {
		return nil, err
	}
	if r.Write.DryRun {
		if _, err := s.current(ctx, row, obj.GetNamespace(), obj.GetName()); err == nil {
			return nil, apierrors.NewAlreadyExists(r.Resource.GroupResource(), obj.GetName())
		}
		return &Result{Code: http.StatusCreated, Object: shownObject(r.Resource, obj)}, nil
	}
	namespace, name := obj.GetNamespace(), obj.GetName()
	row.Kind.Default(obj) // fields that were reset since have theirs when they are read
	entry, err := s.put(ctx, row, obj, s.condition(r, row, 0))
	if err != nil {
		undo(ctx, w, err)
		taken.unknown(err)
		return nil, s.explainExisting(ctx, r, namespace, name, err)
	}
	taken.keep()
	s.quotas.note(entry, row)
	return &Result{Code: http.StatusCreated, Entry: entry.As(r.Resource)}, nil
}

// explainExisting adds to AlreadyExists that the object is about to go.
func (s *Server) explainExisting(ctx context.Context, r *Request, namespace, name string, err error) error {
	if !apierrors.IsAlreadyExists(err) {
		return err
	}
	exists := apierrors.NewAlreadyExists(r.Resource.GroupResource(), name)
	if entry, getErr := s.currentStored(ctx, stored(r.Resource), namespace, name); getErr == nil && entry.Object().GetDeletionTimestamp() != nil {
		exists.ErrStatus.Message = "object is being deleted: " + exists.ErrStatus.Message
	}
	return exists
}

// condition says when a write may happen: when the key is at revision, and the
// writer's epoch, if it has one, is not over.
func (s *Server) condition(r *Request, row *api.Resource, revision int64) store.Condition {
	c := store.Condition{Revision: revision, Fence: r.Fence}
	if row.Group == "" && row.Name == "events" {
		c.TTL = eventTTL
	}
	return c
}

// warnAbout adds the warnings that the kind has about an object, and that its
// kind is not acted on.
func (s *Server) warnAbout(r *Request, row *api.Resource, obj, old api.Object) {
	for _, text := range row.Kind.Warn(obj, old) {
		r.Warn(text)
	}
	if row.Inert != "" {
		r.Warn(row.Inert)
	}
}

// warnDeprecated says that the version of a kind is on its way out. In-process
// clients see no warnings.
func (s *Server) warnDeprecated(r *Request) {
	if r.HTTP == nil || r.Resource.Custom != nil {
		return
	}
	obj := r.Resource.Kind.New()
	if _, ok := obj.(interface{ APILifecycleDeprecated() (int, int) }); !ok {
		return
	}
	s.metrics.deprecated.WithLabelValues(r.Resource.Group, r.Resource.Version, r.Resource.Name, r.Subresource, deprecation.RemovedRelease(obj)).Set(1)
	if text := deprecation.WarningMessage(withKind(obj, r.Resource.GVK())); text != "" {
		r.Warn(text)
	}
}

// judged is the write as admission sees it, in the storage's version.
func (s *Server) judged(r *Request, verb string, obj, old api.Object) *admission.Write {
	w := &admission.Write{
		User: r.User, Verb: verb, Resource: stored(r.Resource), Asked: r.Resource, Subresource: r.Subresource,
		FieldManager: r.Write.FieldManager, FieldValidation: r.Write.FieldValidation,
		Namespace: r.Namespace, Name: r.Name, Old: old, DryRun: r.Write.DryRun, Warn: r.Warn,
	}
	if obj != nil {
		w.Object = obj
		if w.Name == "" {
			w.Name = obj.GetName()
		}
	}
	if w.Resource.Group == "" && w.Resource.Name == "namespaces" {
		w.Namespace = w.Name
	}
	if verb == "delete" {
		w.DeleteOptions = &r.DeleteOptions
	}
	return w
}

// shownObject is an answer that stands in no cache, in the version of the URL
// and with its kind.
func shownObject(row *api.Resource, obj api.Object) api.Object {
	return withKind(fromStored(row, obj), row.GVK())
}

// noteRequester writes into a certificate request who made it: what its signer
// goes by cannot be said by the client.
func noteRequester(r *Request, obj api.Object) {
	csr, ok := obj.(*certificatesv1.CertificateSigningRequest)
	if !ok {
		return
	}
	csr.Spec.Username, csr.Spec.UID, csr.Spec.Groups = r.User.GetName(), r.User.GetUID(), r.User.GetGroups()
	csr.Spec.Extra = map[string]certificatesv1.ExtraValue{}
	for key, values := range r.User.GetExtra() {
		csr.Spec.Extra[key] = values
	}
	if len(csr.Spec.Extra) == 0 {
		csr.Spec.Extra = nil
	}
}
