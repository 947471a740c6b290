package main

import (
	_ "k8s.io/kube-openapi/pkg/builder"
	_ "k8s.io/kube-openapi/pkg/builder3"
	_ "github.com/google/gnostic-models/openapiv2"
	_ "github.com/google/gnostic-models/openapiv3"
	_ "k8s.io/apiserver/pkg/endpoints/openapi"
	_ "skiff/api"
)

func main() {}
