package api

import (
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"

	"skiff/api/autoscaling"
	"skiff/api/events"
)

// The conversions of rows that show another row's objects.

func eventFromCore(stored Object) Object { return events.FromCore(stored.(*corev1.Event)) }
func eventToCore(shown Object) Object    { return events.ToCore(shown.(*eventsv1.Event)) }

func hpaFromV2(stored Object) Object {
	return autoscaling.FromV2(stored.(*autoscalingv2.HorizontalPodAutoscaler))
}

func hpaToV2(shown Object) Object {
	return autoscaling.ToV2(shown.(*autoscalingv1.HorizontalPodAutoscaler))
}
