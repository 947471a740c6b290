package api

import (
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
)

// The conversions of views. (Filled by api/events and api/autoscaling.)
func eventFromCore(o Object) Object { _ = o.(*corev1.Event); return &eventsv1.Event{} }
func eventToCore(o Object) Object   { _ = o.(*eventsv1.Event); return &corev1.Event{} }
func hpaFromV2(o Object) Object {
	_ = o.(*autoscalingv2.HorizontalPodAutoscaler)
	return &autoscalingv1.HorizontalPodAutoscaler{}
}
func hpaToV2(o Object) Object {
	_ = o.(*autoscalingv1.HorizontalPodAutoscaler)
	return &autoscalingv2.HorizontalPodAutoscaler{}
}
