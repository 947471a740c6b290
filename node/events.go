package node

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"

	"skiff/api"
	"skiff/client"
)

// eventSink writes events through the node's own client.
type eventSink struct {
	ctx    context.Context
	client client.Client

	mu   sync.Mutex
	last int64 // time in the name of the last event: names are object and time, and must differ
}

func (s *eventSink) CreateWithEventNamespaceWithContext(ctx context.Context, e *corev1.Event) (*corev1.Event, error) {
	s.mu.Lock()
	s.last = max(s.last+1, e.FirstTimestamp.UnixNano())
	named := *e
	named.Name = fmt.Sprintf("%s.%x", e.InvolvedObject.Name, s.last)
	s.mu.Unlock()
	return client.Create(ctx, s.client, &named)
}

func (s *eventSink) UpdateWithEventNamespaceWithContext(ctx context.Context, e *corev1.Event) (*corev1.Event, error) {
	return client.Update(ctx, s.client, "", e)
}

func (s *eventSink) PatchWithEventNamespaceWithContext(ctx context.Context, e *corev1.Event, data []byte) (*corev1.Event, error) {
	obj, err := s.client.Patch(ctx, api.For[*corev1.Event](), e.Namespace, e.Name, client.Patch{Type: types.StrategicMergePatchType, Data: data})
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Event), nil
}

func (s *eventSink) Create(e *corev1.Event) (*corev1.Event, error) {
	return s.CreateWithEventNamespaceWithContext(s.ctx, e)
}

func (s *eventSink) Update(e *corev1.Event) (*corev1.Event, error) {
	return s.UpdateWithEventNamespaceWithContext(s.ctx, e)
}

func (s *eventSink) Patch(e *corev1.Event, data []byte) (*corev1.Event, error) {
	return s.PatchWithEventNamespaceWithContext(s.ctx, e, data)
}

// startRecorder records events as the node: repeated ones are counted, floods are
// held back. stop ends it.
func startRecorder(ctx context.Context, c client.Client, scheme *runtime.Scheme, node string) (r record.EventRecorder, stop func()) {
	b := record.NewBroadcaster(record.WithContext(ctx))
	b.StartRecordingToSink(&eventSink{ctx: ctx, client: c})
	return b.NewRecorder(scheme, corev1.EventSource{Component: "kubelet", Host: node}), b.Shutdown
}
