// Package flowcontrol says what Kubernetes documents about the kinds of
// flowcontrol.apiserver.k8s.io/v1: one variable per kind, which api/catalogue.go
// puts into its rows. It never does I/O, and never looks at other objects than the
// one it is given.
package flowcontrol
