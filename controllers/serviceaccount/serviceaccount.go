// Package serviceaccount sees to it that every namespace has the service account
// "default", under which pods run that name no other.
package serviceaccount

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/api"
	"skiff/client"
	"skiff/controllers/loop"
)

const name = "default"

// Controller is the row of the table. Its keys are namespaces.
func Controller() loop.Controller {
	return loop.Controller{
		Name:   "service-account-controller",
		Reads:  []*api.Resource{api.For[*corev1.Namespace](), api.For[*corev1.ServiceAccount]()},
		Writes: []string{"serviceaccounts"},
		Keys: func(_ *client.View, c client.Change) []loop.Key {
			if c.Resource == api.For[*corev1.Namespace]() {
				return []loop.Key{{Name: c.Object().GetName()}}
			}
			if c.New == nil && c.Old.GetName() == name {
				return []loop.Key{{Name: c.Old.GetNamespace()}}
			}
			return nil
		},
		Decide: Decide,
	}
}

// Decide creates the account where it is missing.
func Decide(v *client.View, key loop.Key, _ time.Time, _ loop.Memory) (loop.Plan, loop.Memory) {
	ns, ok := client.Find[*corev1.Namespace](v, "", key.Name)
	if !ok || ns.Status.Phase == corev1.NamespaceTerminating || ns.DeletionTimestamp != nil {
		return loop.Plan{}, nil
	}
	if _, ok := client.Find[*corev1.ServiceAccount](v, key.Name, name); ok {
		return loop.Plan{}, nil
	}
	w := loop.Create(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: key.Name, Name: name}})
	w.Optional = true // somebody else made it meanwhile
	return loop.Plan{Writes: []loop.Write{w}}, nil
}
