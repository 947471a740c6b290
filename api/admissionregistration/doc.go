// Package admissionregistration says what Kubernetes documents about the kinds of
// admissionregistration.k8s.io/v1: one variable per kind, which api/catalogue.go
// puts into its rows. Expressions are compiled, never run. Who may refer to which
// parameters is apiserver's: it needs other objects than the one that is given.
package admissionregistration
