package node

import (
	"net/http"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/api"
)

var podRow = api.For[*corev1.Pod]()

type registryHandler = http.Handler

func quantity(s string) *resource.Quantity {
	q := resource.MustParse(s)
	return &q
}

var deleteNow = metav1.DeleteOptions{}
