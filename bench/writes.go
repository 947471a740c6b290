package bench

import (
	"context"
	"fmt"
	"net/http"

	corev1 "k8s.io/api/core/v1"
)

func (r *run) create(ctx context.Context, m *meter) error { return r.createAs(ctx, m, jsonStencil) }

func (r *run) createProtobuf(ctx context.Context, m *meter) error {
	return r.createAs(ctx, m, protobufStencil)
}

func (r *run) createAs(ctx context.Context, m *meter, encode func(*corev1.Pod) (stencil, error)) error {
	s, err := encode(storedPod())
	if err != nil {
		return err
	}
	first := r.reserve(m.n)
	return m.measure(ctx, func(ctx context.Context) error {
		return m.each(ctx, r.c.Clients, m.n, func(ctx context.Context, i int) error { return r.post(ctx, s, first+i) })
	})
}

// mergePatch changes an annotation of one pod after another.
func (r *run) mergePatch(ctx context.Context, m *meter) error {
	if err := r.ensure(ctx, r.c.Objects); err != nil {
		return err
	}
	return m.measure(ctx, func(ctx context.Context) error {
		return m.each(ctx, r.c.Clients, m.n, func(ctx context.Context, i int) error {
			_, err := r.target.do(ctx, request{
				method: http.MethodPatch, path: r.path("pods/") + r.pods[i%len(r.pods)], accept: jsonType,
				body: fmt.Appendf(nil, `{"metadata":{"annotations":{"patched":"%d"}}}`, i), contentType: "application/merge-patch+json",
			})
			return err
		})
	})
}

// applied is how many ConfigMaps are applied in turn: the first round makes them,
// the others change them.
const applied = 100

func (r *run) apply(ctx context.Context, m *meter) error {
	return m.measure(ctx, func(ctx context.Context) error {
		return m.each(ctx, r.c.Clients, m.n, func(ctx context.Context, i int) error {
			name := fmt.Sprintf("applied-%d", i%applied)
			_, err := r.target.do(ctx, request{
				method: http.MethodPatch, path: r.path("configmaps/") + name + "?fieldManager=skiff-bench&force=true", accept: jsonType,
				body: kilobyte(name, fmt.Sprint(i)), contentType: "application/apply-patch+yaml",
			})
			return err
		})
	})
}

func (r *run) delete(ctx context.Context, m *meter) error {
	if err := r.ensure(ctx, m.n); err != nil {
		return err
	}
	var going []string
	going, r.pods = r.pods[:m.n], r.pods[m.n:]
	return m.measure(ctx, func(ctx context.Context) error {
		return m.each(ctx, r.c.Clients, m.n, func(ctx context.Context, i int) error {
			_, err := r.target.do(ctx, request{
				method: http.MethodDelete, path: r.path("pods/") + going[i], accept: jsonType,
				body: []byte(`{"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":0}`), contentType: jsonType,
			})
			return err
		})
	})
}

// churn is life and death of small objects, in many rounds at once.
func (r *run) churn(ctx context.Context, m *meter) error {
	return m.measure(ctx, func(ctx context.Context) error {
		return m.each(ctx, r.c.Clients, m.n, r.churnOnce)
	})
}

func (r *run) churnOnce(ctx context.Context, i int) error {
	name := fmt.Sprintf("churn-%d", i)
	settings, service := r.path("configmaps/")+name, r.path("services/")+name
	for _, q := range []request{
		{method: http.MethodPost, path: r.path("configmaps"), body: kilobyte(name, ""), contentType: jsonType},
		{method: http.MethodPost, path: r.path("services"), contentType: jsonType, body: fmt.Appendf(nil,
			`{"apiVersion":"v1","kind":"Service","metadata":{"name":%q},"spec":{"selector":{"app":%q},"ports":[{"port":80}]}}`, name, name)},
		{method: http.MethodPatch, path: settings, body: []byte(`{"data":{"more":"changed"}}`), contentType: "application/merge-patch+json"},
		{method: http.MethodGet, path: settings},
		{method: http.MethodDelete, path: service},
		{method: http.MethodDelete, path: settings},
	} {
		q.accept = jsonType
		if _, err := r.target.do(ctx, q); err != nil {
			return err
		}
	}
	return nil
}
