// Package rootca publishes to every namespace, in the config map
// kube-root-ca.crt, the authority by which pods know the API server.
package rootca

import (
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/api"
	"skiff/client"
	"skiff/controllers/loop"
)

const name = "kube-root-ca.crt"

// Controller is the row of the table; ca is PEM. Its keys are namespaces.
func Controller(ca []byte) loop.Controller {
	return loop.Controller{
		Name:   "root-ca-cert-publisher",
		Reads:  []*api.Resource{api.For[*corev1.Namespace](), api.For[*corev1.ConfigMap]()},
		Writes: []string{"configmaps"},
		Keys: func(_ *client.View, c client.Change) []loop.Key {
			switch {
			case c.Resource == api.For[*corev1.Namespace]():
				return []loop.Key{{Name: c.Object().GetName()}}
			case c.Object().GetName() == name:
				return []loop.Key{{Name: c.Object().GetNamespace()}}
			}
			return nil
		},
		Decide: func(v *client.View, key loop.Key, _ time.Time, _ loop.Memory) (loop.Plan, loop.Memory) {
			return decide(v, key.Name, map[string]string{"ca.crt": string(ca)}), nil
		},
	}
}

// decide creates the config map, or puts right what somebody changed.
func decide(v *client.View, namespace string, data map[string]string) loop.Plan {
	ns, ok := client.Find[*corev1.Namespace](v, "", namespace)
	if !ok || ns.Status.Phase == corev1.NamespaceTerminating || ns.DeletionTimestamp != nil {
		return loop.Plan{}
	}
	have, ok := client.Find[*corev1.ConfigMap](v, namespace, name)
	var w loop.Write
	switch {
	case !ok:
		w = loop.Create(&corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Annotations: map[string]string{
				"kubernetes.io/description": "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. " +
					"No other usage is guaranteed across distributions of Kubernetes clusters.",
			}},
			Data: data,
		})
	case !maps.Equal(have.Data, data):
		next := have.DeepCopy()
		next.Data = data
		w = loop.Update(next)
	default:
		return loop.Plan{}
	}
	w.Optional = true
	return loop.Plan{Writes: []loop.Write{w}}
}
