// Package apps says what Kubernetes documents about each kind of the apps/v1
// group: one variable per kind, which api/catalogue.go puts into its rows. It
// never does I/O, and never looks at other objects than the one it is given.
package apps
