package apiserver

import (
	"net/http"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"skiff/api"
	"skiff/client"
	"skiff/store"
)

// fenceOf reads the epoch in which a remote component writes. Only leases can be
// named, so that nobody learns from a refused write at which revision some other
// object is.
func fenceOf(h http.Header) (store.Fence, error) {
	value := h.Get(client.EpochHeader)
	if value == "" {
		return store.Fence{}, nil
	}
	epoch, err := client.ParseEpoch(value)
	if err != nil {
		return store.Fence{}, apierrors.NewBadRequest(err.Error())
	}
	if epoch.Resource != api.For[*coordinationv1.Lease]() || epoch.Namespace == "" || epoch.Name == "" {
		return store.Fence{}, apierrors.NewBadRequest(client.EpochHeader + ": an epoch is a lease")
	}
	revision, err := parseRevision(epoch.ResourceVersion)
	if err != nil {
		return store.Fence{}, err
	}
	return store.Fence{Key: epoch.Resource.Key(epoch.Namespace, epoch.Name), Revision: revision}, nil
}
