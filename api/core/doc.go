// Package core says what Kubernetes v1.37 documents about each kind of the core
// v1 group: one variable per kind, named after it (core.Pod, core.Service …),
// which api/catalogue.go puts into its rows. The rules for pod templates, claims,
// tolerations and the like are exported functions, because api/apps, api/batch
// and the other groups embed the same types. It never does I/O, and never looks
// at other objects: what needs them (allocation, admission) is apiserver's.
package core
