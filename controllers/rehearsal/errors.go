package rehearsal

import (
	"cmp"
	"errors"
	"maps"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"skiff/api"
	"skiff/controllers/loop"
)

func alreadyExists(r *api.Resource, obj api.Object) error {
	return apierrors.NewAlreadyExists(r.GroupResource(), obj.GetName())
}

func notFound(r *api.Resource, obj api.Object) error {
	return apierrors.NewNotFound(r.GroupResource(), obj.GetName())
}

func conflict(r *api.Resource, obj api.Object) error {
	return apierrors.NewConflict(r.GroupResource(), obj.GetName(), errors.New("it has changed"))
}

// sorted returns the keys of a queue in a fixed order.
func sorted(queue map[loop.Key]bool) []loop.Key {
	return slices.SortedFunc(maps.Keys(queue), func(a, b loop.Key) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
}
