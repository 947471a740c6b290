// Package resource says what Kubernetes documents about the kinds of
// resource.k8s.io/v1: one variable per kind, which api/catalogue.go puts into its
// rows. Of a slice's devices it checks names, taints and sizes, and not yet all
// rules for counters and capacities. It looks at no object but the one it is given.
package resource
