package admission

import (
	"context"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Priority.

// fillPriority puts into a new pod what its priority class says.
func (c cluster) fillPriority(ctx context.Context, w *Write) error {
	pod, ok := w.Object.(*corev1.Pod)
	if !ok || !w.is("pods", "") {
		return nil
	}
	if old, ok := w.Old.(*corev1.Pod); ok {
		// A client that does not know these fields must not lose them.
		if pod.Spec.Priority == nil {
			pod.Spec.Priority = old.Spec.Priority
		}
		if pod.Spec.PreemptionPolicy == nil {
			pod.Spec.PreemptionPolicy = old.Spec.PreemptionPolicy
		}
		return nil
	}
	class, err := c.priorityClass(ctx, w, pod.Spec.PriorityClassName)
	if err != nil {
		return err
	}
	pod.Spec.PriorityClassName = class.Name
	if p := pod.Spec.Priority; p != nil && *p != class.Value {
		return w.forbid("the integer value of priority (%d) must not be provided in pod spec; priority admission controller computed %d from the given PriorityClass name", *p, class.Value)
	}
	pod.Spec.Priority = &class.Value
	if class.PreemptionPolicy == nil {
		return nil
	}
	if p := pod.Spec.PreemptionPolicy; p != nil && *p != *class.PreemptionPolicy {
		return w.forbid("the string value of PreemptionPolicy (%s) must not be provided in pod spec; priority admission controller computed %s from the given PriorityClass name", *p, *class.PreemptionPolicy)
	}
	policy := *class.PreemptionPolicy
	pod.Spec.PreemptionPolicy = &policy
	return nil
}

// priorityClass returns a copy of the named class, or with "" of the default one.
func (c cluster) priorityClass(ctx context.Context, w *Write, name string) (*schedulingv1.PriorityClass, error) {
	if name != "" {
		class, err := live[*schedulingv1.PriorityClass](ctx, c, "", name)
		if apierrors.IsNotFound(err) {
			return nil, w.forbid("no PriorityClass with name %v was found", name)
		}
		if err != nil {
			return nil, err
		}
		return class.DeepCopy(), nil
	}
	never := corev1.PreemptLowerPriority
	chosen := &schedulingv1.PriorityClass{PreemptionPolicy: &never}
	// Where several say that they are the default, the lowest is taken.
	for class := range list[*schedulingv1.PriorityClass](c, "") {
		if class.GlobalDefault && (chosen.Name == "" || class.Value < chosen.Value) {
			chosen = class.DeepCopy()
		}
	}
	return chosen, nil
}

// checkPriorityClass refuses a second default class.
func (c cluster) checkPriorityClass(_ context.Context, w *Write) error {
	class, ok := w.Object.(*schedulingv1.PriorityClass)
	if !ok || w.Subresource != "" || !class.GlobalDefault {
		return nil
	}
	for other := range list[*schedulingv1.PriorityClass](c, "") {
		if other.GlobalDefault && other.Name != class.Name {
			return w.forbid("PriorityClass %v is already marked as default. Only one default can exist", other.Name)
		}
	}
	return nil
}

// DefaultTolerationSeconds.

// fillTolerations lets a pod stay five minutes on a node that is not ready or
// not reachable, unless it says otherwise.
func fillTolerations(_ context.Context, w *Write) error {
	pod, ok := w.Object.(*corev1.Pod)
	if !ok || !w.is("pods", "") {
		return nil
	}
	for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		says := slices.ContainsFunc(pod.Spec.Tolerations, func(t corev1.Toleration) bool {
			return (t.Key == key || t.Key == "") && (t.Effect == corev1.TaintEffectNoExecute || t.Effect == "")
		})
		if !says {
			seconds := int64(300)
			pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{
				Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds})
		}
	}
	return nil
}

// RuntimeClass.

// fillRuntimeClass gives a new pod the overhead and the scheduling constraints
// of its runtime class.
func (c cluster) fillRuntimeClass(ctx context.Context, w *Write) error {
	pod, class, err := c.runtimeClass(ctx, w)
	if err != nil || class == nil {
		return err
	}
	if class.Overhead != nil {
		if len(pod.Spec.Overhead) > 0 && !equality.Semantic.DeepEqual(class.Overhead.PodFixed, pod.Spec.Overhead) {
			return w.forbid("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
		}
		pod.Spec.Overhead = class.Overhead.PodFixed.DeepCopy()
	}
	if class.Scheduling == nil {
		return nil
	}
	selector := maps.Clone(pod.Spec.NodeSelector)
	if selector == nil && len(class.Scheduling.NodeSelector) > 0 {
		selector = make(map[string]string)
	}
	for key, value := range class.Scheduling.NodeSelector {
		if has, ok := selector[key]; ok && has != value {
			return w.forbid("conflict: runtimeClass.scheduling.nodeSelector[%s] = %s; pod.spec.nodeSelector[%s] = %s", key, value, key, has)
		}
		selector[key] = value
	}
	pod.Spec.NodeSelector = selector
	for _, t := range class.Scheduling.Tolerations {
		if !slices.ContainsFunc(pod.Spec.Tolerations, func(has corev1.Toleration) bool { return equality.Semantic.DeepEqual(has, t) }) {
			pod.Spec.Tolerations = append(pod.Spec.Tolerations, *t.DeepCopy())
		}
	}
	return nil
}

// checkOverhead refuses an overhead that no runtime class has.
func (c cluster) checkOverhead(ctx context.Context, w *Write) error {
	pod, class, err := c.runtimeClass(ctx, w)
	if err != nil || pod == nil {
		return err
	}
	if class != nil && class.Overhead != nil {
		if !equality.Semantic.DeepEqual(class.Overhead.PodFixed, pod.Spec.Overhead) {
			return w.forbid("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
		}
		return nil
	}
	if len(pod.Spec.Overhead) > 0 {
		return w.forbid("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")
	}
	return nil
}

// runtimeClass returns the pod that is created, if the write creates one, and
// its class, if it has one.
func (c cluster) runtimeClass(ctx context.Context, w *Write) (*corev1.Pod, *nodev1.RuntimeClass, error) {
	pod, ok := w.Object.(*corev1.Pod)
	if !ok || w.Verb != "create" || !w.is("pods", "") {
		return nil, nil, nil
	}
	if pod.Spec.RuntimeClassName == nil {
		return pod, nil, nil
	}
	class, err := live[*nodev1.RuntimeClass](ctx, c, "", *pod.Spec.RuntimeClassName)
	if apierrors.IsNotFound(err) {
		return nil, nil, w.forbid("pod rejected: RuntimeClass %q not found", *pod.Spec.RuntimeClassName)
	}
	return pod, class, err
}

// PodTopologyLabels.

// copyTopology copies a node's region and zone to the pod that is bound to it.
func (c cluster) copyTopology(_ context.Context, w *Write) error {
	var node string
	var labels *map[string]string
	switch obj := w.Object.(type) {
	case *corev1.Binding:
		if obj.Target.Kind == "Node" || obj.Target.Kind == "" {
			node, labels = obj.Target.Name, &obj.Labels
		}
	case *corev1.Pod:
		if w.Verb == "create" && w.Subresource == "" {
			node, labels = obj.Spec.NodeName, &obj.Labels
		}
	}
	if node == "" {
		return nil
	}
	for key, value := range c.nodeLabels(node) {
		if key != corev1.LabelTopologyZone && key != corev1.LabelTopologyRegion {
			continue
		}
		if *labels == nil {
			*labels = make(map[string]string)
		}
		(*labels)[key] = value
	}
	return nil
}

func (c cluster) nodeLabels(name string) map[string]string {
	if obj, ok := c.Get(nodeRow, "", name); ok {
		return obj.GetLabels()
	}
	return nil
}
