// Package conformance holds what judges Skiff from outside: upstream's e2e suite with the images it needs (e2e),
// upstream's own code beside ours over random objects (oracle), and upstream's programs in our place and ours in theirs
// (parts). It is a module of its own, so that nothing of k8s.io/kubernetes comes near the product.
package conformance
