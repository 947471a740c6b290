package node

import (
	"net/http"

	corev1 "k8s.io/api/core/v1"

	"skiff/api"
)

var podRow = api.For[*corev1.Pod]()

type registryHandler = http.Handler
