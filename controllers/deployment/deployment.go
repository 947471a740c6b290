// Package deployment moves an application from one pod template to the next: it
// owns the ReplicaSets of a Deployment, one per template, and shifts replicas
// between them. The pods themselves are the ReplicaSets' matter.
package deployment

import (
	"cmp"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"skiff/api"
	"skiff/client"
	"skiff/controllers/loop"
	"skiff/controllers/workload"
)

const (
	setsByOwner = "replicasets by owner"
	setsOrphans = "replicasets without owner"
)

// Controller is the row of the table.
func Controller() loop.Controller {
	sets := api.For[*appsv1.ReplicaSet]()
	ofDeployment := workload.KeysOf[*appsv1.Deployment](func(d *appsv1.Deployment) *metav1.LabelSelector { return d.Spec.Selector })
	return loop.Controller{
		Name:   "deployment-controller",
		Reads:  []*api.Resource{api.For[*appsv1.Deployment](), sets, api.For[*corev1.Pod]()},
		Writes: []string{"replicasets", "deployments", "deployments/status"},
		Indexes: []client.Index{
			{Name: setsByOwner, Resource: sets, Keys: client.Owners},
			{Name: setsOrphans, Resource: sets, Keys: func(obj api.Object) []string {
				if loop.ControllerOf(obj) != nil {
					return nil
				}
				return client.Namespaces(obj)
			}},
			workload.PodsByOwner(),
		},
		Keys: func(v *client.View, c client.Change) []loop.Key {
			if c.Resource != api.For[*corev1.Pod]() {
				return ofDeployment(v, c)
			}
			// Only the end of a pod matters here: a Recreate waits for it.
			if c.New != nil {
				return nil
			}
			return ofPod(v, c.Old)
		},
		Decide:  Decide,
		Refused: refused,
	}
}

// ofPod finds the deployment two owners up.
func ofPod(v *client.View, pod api.Object) []loop.Key {
	ref := loop.ControllerOf(pod)
	if ref == nil || ref.Kind != "ReplicaSet" {
		return nil
	}
	rs, ok := client.Find[*appsv1.ReplicaSet](v, pod.GetNamespace(), ref.Name)
	if !ok {
		return nil
	}
	if ref = loop.ControllerOf(rs); ref == nil || ref.Kind != "Deployment" {
		return nil
	}
	return []loop.Key{{Namespace: pod.GetNamespace(), Name: ref.Name}}
}

// trouble is the memory: why the last plan could not make a ReplicaSet.
type trouble struct {
	message string
	taken   string // the name that was taken already
}

func refused(m loop.Memory, w loop.Write, err error) loop.Memory {
	if w.Verb() != "create" {
		return m
	}
	if apierrors.IsAlreadyExists(err) {
		return trouble{taken: w.Object().GetName()}
	}
	return trouble{message: err.Error()}
}

// rollout is what one decision knows and has decided so far.
type rollout struct {
	d    *appsv1.Deployment // as it is
	next *appsv1.Deployment // with its new status and revision
	now  time.Time
	view *client.View

	current *appsv1.ReplicaSet   // of the template, nil if it is to be made
	old     []*appsv1.ReplicaSet // all others, the oldest first
	trouble trouble

	plan loop.Plan
}

// Decide makes the next step of the Deployment.
func Decide(v *client.View, key loop.Key, now time.Time, m loop.Memory) (loop.Plan, loop.Memory) {
	d, ok := client.Find[*appsv1.Deployment](v, key.Namespace, key.Name)
	if !ok {
		return loop.Plan{}, nil
	}
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil || selector.Empty() {
		return loop.Plan{Events: []loop.Event{loop.Warning(d, "SelectingAll", "This deployment is selecting all pods. A non-empty selector is required.")}}, nil
	}
	r := &rollout{d: d, next: d.DeepCopy(), now: now, view: v}
	r.trouble, _ = m.(trouble)
	if !r.claim(selector) {
		return r.plan, m // decided again when the adopted sets are seen
	}
	r.next.Status.ObservedGeneration = d.Generation

	switch {
	case d.DeletionTimestamp != nil:
	case d.Spec.Paused:
		r.noteRevision()
		r.scaleInProportion()
		r.cleanUp()
	case r.toBeScaled():
		r.scaleInProportion()
	case d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType:
		r.recreate()
	default:
		r.roll()
	}
	r.writeStatus()
	if r.trouble == (trouble{}) || r.current != nil {
		return r.plan, nil
	}
	return r.plan, r.trouble
}

// claim sorts the Deployment's ReplicaSets; false: some must be adopted or
// released first.
func (r *rollout) claim(selector labels.Selector) bool {
	var sets []*appsv1.ReplicaSet
	for rs := range client.By[*appsv1.ReplicaSet](r.view, setsByOwner, string(r.d.UID)) {
		if selector.Matches(labels.Set(rs.Labels)) {
			sets = append(sets, rs)
		} else if r.d.DeletionTimestamp == nil {
			r.plan.Writes = append(r.plan.Writes, workload.Release(r.d, rs))
		}
	}
	if r.d.DeletionTimestamp == nil {
		for rs := range client.By[*appsv1.ReplicaSet](r.view, setsOrphans, r.d.Namespace) {
			if rs.DeletionTimestamp == nil && selector.Matches(labels.Set(rs.Labels)) {
				r.plan.Writes = append(r.plan.Writes, workload.Adopt(r.d, rs))
			}
		}
	}
	slices.SortStableFunc(sets, func(a, b *appsv1.ReplicaSet) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	for _, rs := range sets {
		if r.current == nil && sameTemplate(&rs.Spec.Template, &r.d.Spec.Template) {
			r.current = rs
		} else {
			r.old = append(r.old, rs)
		}
	}
	return len(r.plan.Writes) == 0
}

// sameTemplate compares templates without the label that tells ReplicaSets apart.
func sameTemplate(a, b *corev1.PodTemplateSpec) bool {
	x, y := a.DeepCopy(), b.DeepCopy()
	delete(x.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	delete(y.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	return apiequality.Semantic.DeepEqual(x, y)
}

// sets are all ReplicaSets, the current one last.
func (r *rollout) sets() []*appsv1.ReplicaSet {
	if r.current == nil {
		return r.old
	}
	return append(slices.Clone(r.old), r.current)
}

// replicasOf sums what the sets ask for.
func replicasOf(sets ...*appsv1.ReplicaSet) (n int32) {
	for _, rs := range sets {
		if rs != nil {
			n += *rs.Spec.Replicas
		}
	}
	return n
}

// limits are how many pods there may be too many and too few during a rollout.
func (r *rollout) limits() (surge, unavailable int32) {
	return workload.RolloutLimits(r.d)
}
