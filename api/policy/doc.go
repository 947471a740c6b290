// Package policy says what Kubernetes documents about the kinds of policy/v1: one
// variable per kind, which api/catalogue.go puts into its rows. It never does I/O,
// and never looks at other objects than the one it is given.
package policy
