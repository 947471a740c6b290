package core

import (
	"crypto/tls"
	"encoding/json"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api/column"
	"skiff/api/kind"
)

// Secret is the kind of configuration that is not for everyone's eyes.
var Secret = kind.Of(kind.Spec[*corev1.Secret]{
	NameOnUpdate: true,
	New:          func() *corev1.Secret { return &corev1.Secret{} },
	NewList:      func() runtime.Object { return &corev1.SecretList{} },
	Default: func(s *corev1.Secret) {
		setDefault(&s.Type, corev1.SecretTypeOpaque)
		if len(s.StringData) == 0 {
			return
		}
		// stringData is only for writing: it is stored as data.
		if s.Data == nil {
			s.Data = make(map[string][]byte, len(s.StringData))
		}
		for k, v := range s.StringData {
			s.Data[k] = []byte(v)
		}
		s.StringData = nil
	},
	Validate:       func(s *corev1.Secret) field.ErrorList { return collect(nil, func(root place) { checkSecret(root, s) }) },
	ValidateUpdate: validateSecretUpdate,
	Warn: func(s, _ *corev1.Secret) []string {
		if s.Type != corev1.SecretTypeTLS {
			return nil
		}
		if _, err := tls.X509KeyPair(s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey]); err != nil {
			return []string{err.Error()}
		}
		return nil
	},
	Fields: func(s *corev1.Secret) fields.Set { return fields.Set{"type": string(s.Type)} },
	Columns: []metav1.TableColumnDefinition{
		column.Name,
		column.String("Type", corev1.Secret{}.SwaggerDoc()["type"]),
		column.String("Data", corev1.Secret{}.SwaggerDoc()["data"]),
		column.Age,
	},
	Row: func(s *corev1.Secret) []any {
		return []any{s.Name, string(s.Type), int64(len(s.Data)), column.Since(s.CreationTimestamp)}
	},
})

func checkSecret(root place, s *corev1.Secret) {
	p := root.child("data")
	size := 0
	for _, k := range sortedKeys(s.Data) {
		if msgs := utilvalidation.IsConfigMapKey(k); len(msgs) > 0 {
			p.key(k).invalidEach("", k, msgs)
		}
		size += len(s.Data[k])
	}
	if size > corev1.MaxSecretSize {
		p.tooLong("", corev1.MaxSecretSize)
	}
	wants := func(k string) bool {
		if _, ok := s.Data[k]; ok {
			return true
		}
		p.key(k).required("", "")
		return false
	}
	document := func(k string) {
		if !wants(k) {
			return
		}
		if err := json.Unmarshal(s.Data[k], &map[string]any{}); err != nil {
			p.key(k).invalid("", "<secret contents redacted>", err.Error())
		}
	}
	switch s.Type {
	case corev1.SecretTypeServiceAccountToken:
		if s.Annotations[corev1.ServiceAccountNameKey] == "" {
			root.child("metadata").child("annotations").key(corev1.ServiceAccountNameKey).required("", "")
		}
	case corev1.SecretTypeDockercfg:
		document(corev1.DockerConfigKey)
	case corev1.SecretTypeDockerConfigJson:
		document(corev1.DockerConfigJsonKey)
	case corev1.SecretTypeBasicAuth: // one of the two will do
		_, user := s.Data[corev1.BasicAuthUsernameKey]
		_, password := s.Data[corev1.BasicAuthPasswordKey]
		if !user && !password {
			wants(corev1.BasicAuthUsernameKey)
			wants(corev1.BasicAuthPasswordKey)
		}
	case corev1.SecretTypeSSHAuth:
		if len(s.Data[corev1.SSHAuthPrivateKey]) == 0 {
			p.key(corev1.SSHAuthPrivateKey).required("", "")
		}
	case corev1.SecretTypeTLS:
		wants(corev1.TLSCertKey)
		wants(corev1.TLSPrivateKeyKey)
	}
}

const immutableSet = "field is immutable when `immutable` is set"

func validateSecretUpdate(s, old *corev1.Secret) field.ErrorList {
	return collect(nil, func(root place) {
		root.add(validation.ValidateImmutableField(s.Type, old.Type, field.NewPath("type"))...)
		if isTrue(old.Immutable) {
			if !isTrue(s.Immutable) {
				root.forbidden("immutable", immutableSet)
			}
			if !reflect.DeepEqual(s.Data, old.Data) {
				root.forbidden("data", immutableSet)
			}
		}
		checkSecret(root, s)
	})
}
