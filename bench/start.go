package bench

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Pods that really start, on the nodes that the cluster has.

func (r *run) startPod() *corev1.Pod {
	p := smallPod()
	p.Spec.Containers[0].Image = r.c.Image
	p.Spec.Containers[0].ImagePullPolicy = corev1.PullIfNotPresent
	p.Spec.Containers[0].Resources.Requests = nil
	p.Spec.TerminationGracePeriodSeconds = new(int64)
	return p
}

func isReady(p *podEvent) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue })
}

// startOneByOne starts a pod, waits until it is Ready, and starts the next.
func (r *run) startOneByOne(ctx context.Context, m *meter) error { return r.start(ctx, m, 1) }

// startTogether starts all pods, and waits until the last is Ready.
func (r *run) startTogether(ctx context.Context, m *meter) error { return r.start(ctx, m, m.n) }

func (r *run) start(ctx context.Context, m *meter, atOnce int) error {
	s, err := jsonStencil(r.startPod())
	if err != nil {
		return err
	}
	waiting, err := r.awaitPods(ctx, m, "", isReady)
	if err != nil {
		return err
	}
	first := r.made
	r.made += m.n
	err = m.measure(ctx, func(ctx context.Context) error {
		for done := 0; done < m.n && ctx.Err() == nil; done += atOnce {
			err := together(ctx, r.c.Clients, min(atOnce, m.n-done), func(ctx context.Context, i int) error {
				name := podName(first + done + i)
				waiting.expect(name)
				if err := r.post(ctx, s, first+done+i); err != nil {
					waiting.forget(name)
					m.failed(err)
				}
				return nil
			})
			if err != nil {
				return err
			}
			waiting.wait(ctx, "not ready")
		}
		return nil
	})
	waiting.stop()
	if err != nil {
		return err
	}
	r.pods = nil
	return r.empty(ctx, r.path("pods"), "", 1)
}
