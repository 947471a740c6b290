package workload

import (
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// RolloutLimits are how many pods of a Deployment there may be too many, and too
// few, during a rollout. Shares of the replicas are rounded up for the surge and
// down for the unavailable; where both come to nothing one may be unavailable,
// since otherwise nothing could ever move.
func RolloutLimits(d *appsv1.Deployment) (surge, unavailable int32) {
	if d.Spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType || *d.Spec.Replicas == 0 || d.Spec.Strategy.RollingUpdate == nil {
		return 0, 0
	}
	n := int(*d.Spec.Replicas)
	surge = share(d.Spec.Strategy.RollingUpdate.MaxSurge, n, true)
	unavailable = share(d.Spec.Strategy.RollingUpdate.MaxUnavailable, n, false)
	if surge == 0 && unavailable == 0 {
		unavailable = 1
	}
	return surge, min(unavailable, *d.Spec.Replicas)
}

// share of n that value names: a number, or a percentage.
func share(value *intstr.IntOrString, n int, up bool) int32 {
	if value == nil {
		return 0
	}
	x, err := intstr.GetScaledValueFromIntOrPercent(value, n, up)
	if err != nil {
		return 0 // validation does not let it in
	}
	return int32(x)
}
