// Package bootstraptoken deletes bootstrap tokens that have expired.
package bootstraptoken

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/api"
	"skiff/client"
	"skiff/controllers/loop"
)

const secretType corev1.SecretType = "bootstrap.kubernetes.io/token"

// Controller is the row of the table. Its keys are secrets of kube-system.
func Controller() loop.Controller {
	return loop.Controller{
		Name:   "token-cleaner",
		Reads:  []*api.Resource{api.For[*corev1.Secret]()},
		Writes: []string{"secrets"},
		Keys: func(_ *client.View, c client.Change) []loop.Key {
			if s, ok := c.New.(*corev1.Secret); ok && s.Namespace == metav1.NamespaceSystem && s.Type == secretType {
				return []loop.Key{loop.KeyOf(s)}
			}
			return nil
		},
		Decide: Decide,
	}
}

// Decide deletes the token when it has expired. One whose time cannot be read has:
// the API server does not accept it either.
func Decide(v *client.View, key loop.Key, now time.Time, _ loop.Memory) (loop.Plan, loop.Memory) {
	s, ok := client.Find[*corev1.Secret](v, key.Namespace, key.Name)
	if !ok || s.Type != secretType || s.DeletionTimestamp != nil || len(s.Data["expiration"]) == 0 {
		return loop.Plan{}, nil
	}
	at, err := time.Parse(time.RFC3339, string(s.Data["expiration"]))
	if err == nil && now.Before(at) {
		return loop.Plan{WakeAt: at}, nil
	}
	uid, version := s.UID, s.ResourceVersion // the version too: it may have been extended meanwhile
	return loop.Plan{Writes: []loop.Write{loop.DeleteWith(s, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &version}})}}, nil
}
