// Package autoscaling says what Kubernetes documents about the kinds of the
// autoscaling group: HorizontalPodAutoscaler as v2, which is stored, and as v1,
// which is a view of it, and Scale, the body of scale subresources. It never does
// I/O, and never looks at other objects than the one it is given.
package autoscaling
