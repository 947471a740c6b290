package core

import (
	"maps"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/column"
	"skiff/api/kind"
)

// ConfigMap is the kind of configuration in the clear.
var ConfigMap = kind.Of(kind.Spec[*corev1.ConfigMap]{
	NameOnUpdate: true,
	New:          func() *corev1.ConfigMap { return &corev1.ConfigMap{} },
	NewList:      func() runtime.Object { return &corev1.ConfigMapList{} },
	Validate: func(c *corev1.ConfigMap) field.ErrorList {
		return collect(nil, func(root place) { checkConfigMap(root, c) })
	},
	ValidateUpdate: func(c, old *corev1.ConfigMap) field.ErrorList {
		return collect(nil, func(root place) {
			if isTrue(old.Immutable) {
				if !isTrue(c.Immutable) {
					root.forbidden("immutable", immutableSet)
				}
				if !maps.Equal(c.Data, old.Data) {
					root.forbidden("data", immutableSet)
				}
				if !reflect.DeepEqual(c.BinaryData, old.BinaryData) {
					root.forbidden("binaryData", immutableSet)
				}
			}
			checkConfigMap(root, c)
		})
	},
	Columns: []metav1.TableColumnDefinition{column.Name, column.String("Data", corev1.ConfigMap{}.SwaggerDoc()["data"]), column.Age},
	Row: func(c *corev1.ConfigMap) []any {
		return []any{c.Name, int64(len(c.Data) + len(c.BinaryData)), column.Since(c.CreationTimestamp)}
	},
})

func checkConfigMap(root place, c *corev1.ConfigMap) {
	size := 0
	name := func(p place, k string) {
		if msgs := validation.IsConfigMapKey(k); len(msgs) > 0 {
			p.key(k).invalidEach("", k, msgs)
		}
	}
	for _, k := range sortedKeys(c.Data) {
		name(root.child("data"), k)
		if _, ok := c.BinaryData[k]; ok {
			root.child("data").key(k).invalid("", k, "duplicate of key present in binaryData")
		}
		size += len(c.Data[k])
	}
	for _, k := range sortedKeys(c.BinaryData) {
		name(root.child("binaryData"), k)
		size += len(c.BinaryData[k])
	}
	if size > corev1.MaxSecretSize { // the whole object is meant: the path is empty
		root.add(field.TooLong(field.NewPath(""), "", corev1.MaxSecretSize))
	}
}
