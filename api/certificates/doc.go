// Package certificates says what Kubernetes documents about the kinds of
// certificates.k8s.io/v1: one variable per kind, which api/catalogue.go puts into
// its rows. Who asks for a certificate, and who may approve or sign it, is
// apiserver's: it knows the user. This package looks at no other object than the
// one it is given.
package certificates
