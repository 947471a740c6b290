// Package pod runs the pods of one node. A pod is a Machine: named states, one
// step function, no I/O (machine.go, next.go; the diagram is states.md). The
// Manager (manager.go) owns all machines of the node on one goroutine: it feeds
// them what happens (API changes, finished actions, container events, probe
// results, time) and carries out the actions that they ask for. What must be set
// up before containers start is one ordered slice of steps, each with its undo
// (setup.go).
//
// Package node makes the Manager. This package never decides where a pod runs
// and never writes anything but the status, the events and, at the end, the
// removal of its own node's pods.
package pod
