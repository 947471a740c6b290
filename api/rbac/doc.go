// Package rbac says what Kubernetes documents about the kinds of
// rbac.authorization.k8s.io/v1: one variable per kind, which api/catalogue.go puts
// into its rows. Who may grant what is apiserver's: it needs other objects, and
// this package looks at none but the one it is given.
package rbac
