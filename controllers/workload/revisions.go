package workload

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/rand"

	"skiff/api"
	"skiff/client"
	"skiff/controllers/loop"
)

const (
	revisionsByOwner = "controllerrevisions by owner"
	revisionOrphans  = "controllerrevisions without owner"
)

// RevisionIndexes are the indexes behind RevisionsOf.
func RevisionIndexes() []client.Index {
	r := api.For[*appsv1.ControllerRevision]()
	return []client.Index{
		{Name: revisionsByOwner, Resource: r, Keys: client.Owners},
		{Name: revisionOrphans, Resource: r, Keys: func(obj api.Object) []string {
			if loop.ControllerOf(obj) != nil {
				return nil
			}
			return client.Namespaces(obj)
		}},
	}
}

// Revisions are the pod templates that an owner has and had, kept as
// ControllerRevisions: a rollout goes from one to the next, or back.
type Revisions struct {
	Current *appsv1.ControllerRevision   // of the present template; nil if it is being made
	All     []*appsv1.ControllerRevision // all, with the current one; the oldest first
	Writes  []loop.Write                 // what must be done before Current can be worked with
}

// History is what RevisionsOf needs to know of an owner.
type History struct {
	Owner      api.Object
	Selector   labels.Selector
	Template   *corev1.PodTemplateSpec
	Collisions *int32 // of names of revisions, in the owner's status
	HashLabel  string // on a revision, beside the template's labels
}

// RevisionsOf sorts the owner's revisions; one of the present template is made
// where there is none, and becomes the newest again where it is not.
func RevisionsOf(v *client.View, h History) (r Revisions) {
	for rev := range client.By[*appsv1.ControllerRevision](v, revisionsByOwner, string(h.Owner.GetUID())) {
		if h.Selector.Matches(labels.Set(rev.Labels)) {
			r.All = append(r.All, rev)
		} else {
			r.Writes = append(r.Writes, Release(h.Owner, rev))
		}
	}
	for rev := range client.By[*appsv1.ControllerRevision](v, revisionOrphans, h.Owner.GetNamespace()) {
		if rev.DeletionTimestamp == nil && h.Selector.Matches(labels.Set(rev.Labels)) {
			r.Writes = append(r.Writes, Adopt(h.Owner, rev))
		}
	}
	if len(r.Writes) > 0 {
		return r // sorted when these are seen
	}
	slices.SortStableFunc(r.All, func(a, b *appsv1.ControllerRevision) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	data := revisionData(h.Template)
	var newest int64
	for _, rev := range r.All {
		newest = rev.Revision
		if sameRevision(rev, data, h.Template) {
			r.Current = rev
		}
	}
	switch {
	case r.Current == nil:
		r.Writes = append(r.Writes, loop.Create(h.revision(data, newest+1)))
	case r.Current.Revision < newest:
		next := r.Current.DeepCopy()
		next.Revision = newest + 1
		r.Writes = append(r.Writes, loop.Update(next))
	}
	return r
}

// revisionData is the template as a strategic merge patch of the owner, by which
// clients (kubectl rollout undo) restore it.
func revisionData(template *corev1.PodTemplateSpec) []byte {
	text, err := json.Marshal(template)
	fields := map[string]any{}
	if err == nil {
		err = json.Unmarshal(text, &fields)
	}
	fields["$patch"] = "replace"
	if err == nil {
		text, err = json.Marshal(map[string]any{"spec": map[string]any{"template": fields}})
	}
	if err != nil {
		panic(fmt.Sprintf("pod templates always have a JSON form: %v", err))
	}
	return text
}

func sameRevision(rev *appsv1.ControllerRevision, data []byte, template *corev1.PodTemplateSpec) bool {
	if bytes.Equal(rev.Data.Raw, data) {
		return true
	}
	have, err := TemplateOf(rev)
	return err == nil && apiequality.Semantic.DeepEqual(have, template)
}

// TemplateOf returns the template that a revision keeps.
func TemplateOf(rev *appsv1.ControllerRevision) (*corev1.PodTemplateSpec, error) {
	var kept struct {
		Spec struct {
			Template corev1.PodTemplateSpec `json:"template"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(rev.Data.Raw, &kept); err != nil {
		return nil, fmt.Errorf("read template of revision %s: %w", rev.Name, err)
	}
	return &kept.Spec.Template, nil
}

func (h History) revision(data []byte, n int64) *appsv1.ControllerRevision {
	sum := fnv.New32a()
	sum.Write(data)
	if h.Collisions != nil && *h.Collisions > 0 {
		sum.Write(binary.LittleEndian.AppendUint32(nil, uint32(*h.Collisions)))
	}
	hash := rand.SafeEncodeString(strconv.FormatUint(uint64(sum.Sum32()), 10))
	named := maps.Clone(h.Template.Labels)
	if named == nil {
		named = map[string]string{}
	}
	named[h.HashLabel] = hash
	const longest = 223 // of an owner's name, so that the revision's is one
	name := h.Owner.GetName()
	return &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: h.Owner.GetNamespace(), Name: name[:min(len(name), longest)] + "-" + hash,
			Labels: named, Annotations: maps.Clone(h.Owner.GetAnnotations()),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(h.Owner, api.Of(h.Owner).GVK())},
		},
		Data: runtime.RawExtension{Raw: data}, Revision: n,
	}
}

// NameTaken tells whether a revision could not be made since another has its
// name: the owner must count a collision.
func NameTaken(w loop.Write, err error) bool {
	_, is := w.Object().(*appsv1.ControllerRevision)
	return is && w.Verb() == "create" && apierrors.IsAlreadyExists(err)
}

// Forget deletes the oldest revisions that are not live, beyond the limit.
func (r Revisions) Forget(limit *int32, live map[string]bool) (writes []loop.Write) {
	var dead []*appsv1.ControllerRevision
	for _, rev := range r.All {
		if rev != r.Current && !live[rev.Name] {
			dead = append(dead, rev)
		}
	}
	if limit == nil {
		return nil
	}
	for _, rev := range dead[:max(0, len(dead)-int(*limit))] {
		writes = append(writes, loop.Delete(rev))
	}
	return writes
}
