package deployment

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"

	"skiff/api"
	"skiff/controllers/loop"
)

// The annotations by which tools follow rollouts.
const (
	revisionKey = "deployment.kubernetes.io/revision"
	historyKey  = "deployment.kubernetes.io/revision-history"
	desiredKey  = "deployment.kubernetes.io/desired-replicas"
	maxKey      = "deployment.kubernetes.io/max-replicas"
)

func revisionOf(obj api.Object) int64 {
	n, err := strconv.ParseInt(obj.GetAnnotations()[revisionKey], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// nextRevision is one more than that of any old set.
func (r *rollout) nextRevision() int64 {
	var most int64
	for _, rs := range r.old {
		most = max(most, revisionOf(rs))
	}
	return most + 1
}

// ensureCurrent sees to it that there is a ReplicaSet of the template, with
// the newest revision, and that the Deployment names that revision. false: it
// is only being made.
func (r *rollout) ensureCurrent() bool {
	if r.current == nil {
		r.create()
		return false
	}
	r.noteRevision()
	return true
}

// noteRevision gives the set of the template, if there is one, the newest
// revision: an undo makes an old set the current one again.
func (r *rollout) noteRevision() {
	if r.current == nil {
		return
	}
	next := r.current.DeepCopy()
	r.annotate(next, r.nextRevision())
	next.Spec.MinReadySeconds = r.d.Spec.MinReadySeconds
	if !maps.Equal(next.Annotations, r.current.Annotations) || next.Spec.MinReadySeconds != r.current.Spec.MinReadySeconds {
		r.replace(r.current, next)
	}
	r.setRevision(next.Annotations[revisionKey])
}

func (r *rollout) setRevision(revision string) {
	if r.next.Annotations[revisionKey] != revision {
		metav1.SetMetaDataAnnotation(&r.next.ObjectMeta, revisionKey, revision)
	}
}

// notCopied are annotations of the Deployment that say nothing about its template.
var notCopied = []string{corev1.LastAppliedConfigAnnotation, revisionKey, historyKey, desiredKey, maxKey, appsv1.DeprecatedRollbackTo}

// annotate copies the Deployment's annotations to its set and raises the set's revision.
func (r *rollout) annotate(rs *appsv1.ReplicaSet, revision int64) {
	for key, value := range r.d.Annotations {
		if !slices.Contains(notCopied, key) {
			metav1.SetMetaDataAnnotation(&rs.ObjectMeta, key, value)
		}
	}
	before := revisionOf(rs)
	if before >= revision {
		return
	}
	if before > 0 {
		history := strconv.FormatInt(before, 10)
		if h := rs.Annotations[historyKey]; h != "" {
			history = h + "," + history
		}
		metav1.SetMetaDataAnnotation(&rs.ObjectMeta, historyKey, history)
	}
	metav1.SetMetaDataAnnotation(&rs.ObjectMeta, revisionKey, strconv.FormatInt(revision, 10))
}

// create plans the ReplicaSet of the template.
func (r *rollout) create() {
	hash := r.templateHash()
	name := r.d.Name + "-" + hash
	if r.trouble.taken == name {
		// Another template has the same hash: count that, and take the next one.
		count := collisions(r.d) + 1
		r.next.Status.CollisionCount = &count
		r.trouble = trouble{}
		return
	}
	template := r.d.Spec.Template.DeepCopy()
	template.Labels = withHash(template.Labels, hash)
	selector := r.d.Spec.Selector.DeepCopy()
	selector.MatchLabels = withHash(selector.MatchLabels, hash)
	replicas := r.firstReplicas()
	rs := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       r.d.Namespace,
			Name:            name,
			Labels:          maps.Clone(template.Labels),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(r.d, api.Of(r.d).GVK())},
		},
		Spec: appsv1.ReplicaSetSpec{Replicas: &replicas, MinReadySeconds: r.d.Spec.MinReadySeconds, Selector: selector, Template: *template},
	}
	revision := r.nextRevision()
	r.annotate(rs, revision)
	r.noteScale(rs)

	w := loop.Create(rs)
	w.Done = func(api.Object) loop.Event {
		return loop.Normal(r.d, "ScalingReplicaSet", fmt.Sprintf("Scaled up replica set %s from 0 to %d", name, replicas))
	}
	w.Failed = func(err error) loop.Event {
		return loop.Warning(r.d, "ReplicaSetCreateError", fmt.Sprintf("Failed to create new replica set %q: %v", name, err))
	}
	r.plan.Writes = append(r.plan.Writes, w)
	r.setRevision(strconv.FormatInt(revision, 10))
	r.progressed("NewReplicaSetCreated", fmt.Sprintf("Created new replica set %q", name))
}

// firstReplicas is how many pods the new set starts with.
func (r *rollout) firstReplicas() int32 {
	want := *r.d.Spec.Replicas
	if r.d.Spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType {
		return want
	}
	surge, _ := r.limits()
	return max(0, min(want, want+surge-replicasOf(r.old...)))
}

func collisions(d *appsv1.Deployment) int32 {
	if d.Status.CollisionCount == nil {
		return 0
	}
	return *d.Status.CollisionCount
}

// templateHash names a template: the same for the same template always.
func (r *rollout) templateHash() string {
	text, err := json.Marshal(&r.d.Spec.Template)
	if err != nil {
		panic(fmt.Sprintf("pod templates always have a JSON form: %v", err))
	}
	h := fnv.New32a()
	h.Write(text)
	if n := collisions(r.d); n > 0 {
		h.Write(binary.LittleEndian.AppendUint32(nil, uint32(n)))
	}
	return rand.SafeEncodeString(strconv.FormatUint(uint64(h.Sum32()), 10))
}

func withHash(have map[string]string, hash string) map[string]string {
	out := maps.Clone(have)
	if out == nil {
		out = map[string]string{}
	}
	out[appsv1.DefaultDeploymentUniqueLabelKey] = hash
	return out
}

// cleanUp deletes old sets without pods beyond the history that is to be kept.
func (r *rollout) cleanUp() {
	if r.d.Spec.RevisionHistoryLimit == nil {
		return
	}
	surplus := len(r.old) - int(*r.d.Spec.RevisionHistoryLimit)
	if surplus <= 0 {
		return
	}
	byRevision := slices.Clone(r.old)
	slices.SortStableFunc(byRevision, func(a, b *appsv1.ReplicaSet) int { return int(revisionOf(a) - revisionOf(b)) })
	for _, rs := range byRevision[:surplus] {
		if rs.Status.Replicas != 0 || *rs.Spec.Replicas != 0 || rs.Generation > rs.Status.ObservedGeneration || rs.DeletionTimestamp != nil {
			continue
		}
		r.plan.Writes = append(r.plan.Writes, loop.Delete(rs))
	}
}
