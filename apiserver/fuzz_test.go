package apiserver

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"skiff/api"
	"skiff/store"
)

// clientsFault tells whether an error is a Status that blames the client, as each
// must that bytes from outside bring about.
func clientsFault(err error) bool {
	var status *apierrors.StatusError
	return errors.As(err, &status) && status.ErrStatus.Code >= 400 && status.ErrStatus.Code < 500
}

// oneOf is the element that a number from the fuzzer names.
func oneOf[T any](n uint8, of []T) T { return of[int(n)%len(of)] }

var decodedRows = []*api.Resource{api.For[*corev1.Pod](), configMaps, api.For[*appsv1.Deployment](), api.For[*corev1.Service](), api.For[*corev1.Secret]()}

// FuzzDecode: whatever body is sent, in whatever form, it is an object or a bad
// request; and an object is the same one in each form.
func FuzzDecode(f *testing.F) {
	for _, text := range []string{
		podBody, oneMap, `{`, `null`, `[]`, `{"kind":"Pod","apiVersion":"v1"}`, `{"kind":"Secret","apiVersion":"v1"}`, `{"metadata":{"name":1}}`,
		"kind: ConfigMap\napiVersion: v1\ndata: {a: b, a: c}\n", "a: &a [*a]", "a: 1\na: 2", `{"apiVersion":"a/b/c"}`, "? {a: b}\n: c", "data: {a: !!binary eA==}", `{"data":{"a":"eA=="}}`,
		`{"spec":{"replicas":1e2,"template":{"spec":{"containers":[{"resources":{"limits":{"cpu":"1e-3","memory":12345678901234567890}}}]}}}}`,
		`{"spec":{"ports":[{"port":80,"targetPort":"http"},{"port":81,"targetPort":8080}]}}`, `{"metadata":{"creationTimestamp":"2026-01-02T03:04:05.678Z"}}`, "{\"data\":{\"a\":\"\x7f\u0080\u0085\ufeff\ufffe\uffff\u2028\U0001f600\"}}",
		"k8s\x00", "k8s\x00\n\x0f\n\x02v1\x12\tConfigMap\x12\x00",
	} {
		for media := range objectTypes {
			for row := range decodedRows {
				f.Add([]byte(text), uint8(media), uint8(row))
			}
		}
	}
	for row, obj := range []api.Object{
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}},
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "m"}, Data: map[string]string{"a": "b"}},
	} {
		body, err := appendProtobufObject(nil, withKind(obj, decodedRows[row].GVK()))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body, uint8(2), uint8(row))
	}
	f.Fuzz(func(t *testing.T, body []byte, media, kind uint8) {
		row := oneOf(kind, decodedRows)
		decode := func(media string, body []byte) (api.Object, error) {
			obj := row.Kind.New()
			r := &Request{Resource: row, Body: Body{ContentType: media, Bytes: body}}
			return obj, r.decodeInto(row.GVK(), obj)
		}
		obj, err := decode(oneOf(media, objectTypes), body)
		if err != nil {
			if !apierrors.IsBadRequest(err) {
				t.Fatalf("%s %q: %v", oneOf(media, objectTypes), body, err)
			}
			return
		}
		if !obj.GetObjectKind().GroupVersionKind().Empty() {
			t.Fatalf("%q: its kind was left in it", body)
		}
		if !utf8.Valid(body) {
			return // JSON has no form for it
		}
		for i, media := range objectTypes {
			var text bytes.Buffer
			if err := encodeObject(&text, withKind(obj, row.GVK()), Output{MediaType: media}); err != nil {
				t.Fatalf("%q is taken, and has no form as %s: %v", body, media, err)
			}
			again, err := decode(media, text.Bytes())
			if err != nil {
				t.Fatalf("%q is taken, but not in its form as %s %q: %v", body, media, text.Bytes(), err)
			}
			if i == 0 {
				obj = again // what JSON has no form for, as fractions of a second, is not kept
			}
			if !equality.Semantic.DeepEqual(obj, again) {
				t.Fatalf("%q\nis     %#v\nand is %#v\nin its form as %s %q", body, obj, again, media, text.Bytes())
			}
		}
	})
}

// FuzzDeleteOptions: the body of a delete is options or a bad request.
func FuzzDeleteOptions(f *testing.F) {
	for _, text := range []string{``, `{}`, `null`, `{"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":-1}`, `{"kind":"Pod","apiVersion":"v1"}`,
		`{"preconditions":{"uid":"u"},"propagationPolicy":"Orphan","dryRun":["All"]}`, "gracePeriodSeconds: 1", "k8s\x00\n\x13\n\x02v1\x12\rDeleteOptions"} {
		for media := range objectTypes {
			f.Add([]byte(text), uint8(media))
		}
	}
	f.Fuzz(func(t *testing.T, body []byte, media uint8) {
		req := httptest.NewRequest("DELETE", "/api/v1/namespaces/n/configmaps/m", bytes.NewReader(body))
		req.Header.Set("Content-Type", oneOf(media, objectTypes))
		if err := (&Request{Verb: "delete", Resource: configMaps, Namespace: "n", Name: "m"}).readDelete(req); err != nil && !clientsFault(err) {
			t.Errorf("%s %q: %v", oneOf(media, objectTypes), body, err)
		}
	})
}

// FuzzPatch: whatever patch is sent, it is applied, or refused with a Status that
// blames it.
func FuzzPatch(f *testing.F) {
	kinds := []string{"merge", "strategic", "json", "apply"}
	for _, p := range []string{
		`{"metadata":{"labels":{"a":"b"}}}`, `{"spec":null}`, `[]`, `null`, `{`, `"x"`, `{"kind":null}`, `{"apiVersion":"a/b/c"}`,
		`[{"op":"test","path":"/metadata/name","value":"web"}]`, `[{"op":"copy","from":"/spec","path":"/spec/x"}]`, `[{"op":"move","from":"/metadata","path":"/spec"}]`,
		`[{"op":"remove","path":"/spec/containers/0"}]`, `[{"op":"add","path":"/spec/containers/-1","value":{}}]`, `[{"op":"add","path":"/spec/containers/-","value":null}]`,
		`{"spec":{"containers":[{"name":"web","$patch":"delete"}]}}`, `{"$patch":"replace"}`, `{"spec":{"$setElementOrder/containers":[{"name":"x"}]}}`,
		`{"metadata":{"$deleteFromPrimitiveList/finalizers":["x"]}}`, `{"spec":{"$retainKeys":["containers"]}}`,
		`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web"},"spec":{"containers":[{"name":"web","image":"x"}]}}`, "a: &a [*a]",
	} {
		for kind := range kinds {
			f.Add([]byte(p), uint8(kind))
		}
	}
	w := newWriting(f)
	w.must("create", "v1/pods", "default", "", podBody)
	f.Fuzz(func(t *testing.T, body []byte, kind uint8) {
		w := &writing{Server: w.Server, t: t}
		r := w.request("patch:"+oneOf(kind, kinds), "v1/pods?dryRun=All&manager=fuzz&force=true", "default", "web", string(body))
		_, err := w.serve(t.Context(), r)
		if err != nil && strings.Contains(err.Error(), "failed to create typed patch object") {
			return // a field that the kind does not have: Kubernetes has 500 for it, which clients know
		}
		if err != nil && !clientsFault(err) {
			t.Errorf("%s patch %q: %v", oneOf(kind, kinds), body, err)
		}
	})
}

// FuzzSelectors: whatever selectors are sent, a list has exactly the objects that
// they match, however the cache looks for them; or they are a bad request.
func FuzzSelectors(f *testing.F) {
	for _, s := range []string{"", "a=b", "a in (b,c)", "!a", "a notin ()", "a>1", "a==b,", "metadata.name=a", "metadata.name!=a,metadata.namespace=n", `metadata.name=a\,b`, "=,=",
		"metadata.namespace=", "metadata.name=a,metadata.name=b", "metadata.name=a,metadata.namespace!=n"} {
		for _, namespace := range []string{"", "n"} {
			f.Add(s, "", namespace)
			f.Add("", s, namespace)
			f.Add(s, s, namespace)
		}
	}
	s := newReading(f, 0)
	f.Cleanup(s.end)
	var all []*corev1.ConfigMap
	for _, namespace := range []string{"n", "n-1", "o"} {
		all = append(all, labelled(namespace, "a", "a", "b"), labelled(namespace, "b", "a", "c", "d", ""), labelled(namespace, "c", "a", "2"), labelled(namespace, "d"))
	}
	for _, cm := range all {
		s.write(f, cm.DeepCopy(), 0)
	}
	f.Fuzz(func(t *testing.T, label, field, namespace string) {
		byLabel, labelErr := labels.Parse(label)
		byField, fieldErr := fields.ParseSelector(field)
		r := s.locate(&http.Request{Method: "GET", URL: &url.URL{Path: "/api/v1/configmaps", RawQuery: url.Values{"labelSelector": {label}, "fieldSelector": {field}}.Encode()}})
		if namespace != "" {
			r.Namespace = "n"
		}
		err := r.readList()
		var result *Result
		if err == nil {
			result, err = s.list(s.ctx, r)
		}
		if err != nil {
			known := fieldErr == nil && knownFields(configMaps, byField) == nil
			if !apierrors.IsBadRequest(err) || labelErr == nil && known {
				t.Fatalf("%q %q: %v", label, field, err)
			}
			return
		}
		var want []string
		for _, cm := range all {
			if (namespace == "" || cm.Namespace == "n") && byLabel.Matches(labels.Set(cm.Labels)) &&
				byField.Matches(fields.Set{"metadata.name": cm.Name, "metadata.namespace": cm.Namespace}) {
				want = append(want, cm.Namespace+"/"+cm.Name)
			}
		}
		slices.SortFunc(want, func(a, b string) int { return strings.Compare(configMaps.Key("", a), configMaps.Key("", b)) })
		if got := names(result.List); got != strings.Join(want, " ") {
			t.Fatalf("%q %q in %q:\n got %s\nwant %s", label, field, r.Namespace, got, want)
		}
	})
}

// FuzzContinue: whatever token is sent, it goes on within the list that the request
// is of, or is refused.
func FuzzContinue(f *testing.F) {
	s := newReading(f, 0)
	f.Cleanup(s.end)
	for _, namespace := range []string{"m", "n", "n-1"} {
		for _, name := range []string{"a", "b", "c"} {
			s.write(f, labelled(namespace, name), 0)
		}
	}
	for _, start := range []string{"b", "n/b", "../m/a", "m/../n", "/b", "b\x00", "n/b\x00", "n/", "/../../", "/", "\xff", "n/b/c"} {
		for _, revision := range []int64{-1, 0, 1, 5, 9, 10, math.MaxInt64, math.MinInt64} {
			f.Add(encodeContinue(revision, start), "n")
			f.Add(encodeContinue(revision, start), "")
		}
	}
	f.Add(continueToken{Version: continueVersion, Revision: -1, Start: "b", Left: -1}.encode(), "")
	f.Add(continueToken{Version: continueVersion, Revision: 9, Start: "n/b", Left: math.MaxInt64}.encode(), "")
	f.Add("eyJ2", "n")
	f.Add("", "")
	f.Fuzz(func(t *testing.T, token, namespace string) {
		if namespace != "" {
			namespace = "n"
		}
		if _, revision, err := decodeContinue(token, configMaps, namespace); err == nil && revision > s.cache.Revision() {
			return // a state that may come yet is waited for
		}
		list, err := s.listOf(namespace, metav1.ListOptions{Continue: token, Limit: 2})
		if err != nil {
			if !clientsFault(err) {
				t.Fatalf("%q: %v", token, err)
			}
			return
		}
		for _, e := range list.Entries {
			if namespace != "" && e.Namespace() != namespace {
				t.Fatalf("%q in %q shows %s", token, namespace, e.Key())
			}
		}
		if len(list.Entries) > 2 {
			t.Fatalf("%q: %d entries, want 2 at most", token, len(list.Entries))
		}
	})
}

// FuzzKeys: the key that a request reaches in the store is of the resource,
// namespace and name that were authorized, and of no other.
func FuzzKeys(f *testing.F) {
	for _, c := range paths {
		f.Add(c.method, c.path)
	}
	for _, path := range []string{
		"/api/v1/namespaces/a/pods/..%2f..%2fsecrets/s", "/api/v1/namespaces/a/pods/p%2F..%2F..%2Fsecrets%2Fs", "/api/v1/namespaces/a/pods/..", "/api/v1/namespaces/../secrets/s",
		"/api/v1/namespaces/a/pods/%2e%2e", "/api/v1/namespaces/a%2Fb/secrets/s", "/api/v1/namespaces/a/services/s/proxy/../../x", "/api/v1/nodes/n", "/api/v1/watch/namespaces/a/secrets",
		"/apis/autoscaling/v1/namespaces/a/horizontalpodautoscalers/h", "/apis/events.k8s.io/v1/namespaces/a/events/e", "/api/v1/namespaces/a/events/e", "/api/v1/namespaces/a/namespaces/b",
		"/api/v1/secrets?fieldSelector=metadata.name=x", "/api/v1/namespaces/a/secrets?fieldSelector=metadata.name%3Dx", "/api/v1/namespaces/%00/pods/x", "/apis/apps/v1/namespaces/a/deployments/d/scale",
	} {
		for _, method := range []string{"GET", "PUT", "DELETE", "POST", "PATCH"} {
			f.Add(method, path)
		}
	}
	s, err := New(Config{Store: store.OpenMemory(store.MemoryConfig{})})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, method, path string) {
		u, err := url.ParseRequestURI(path)
		if err != nil || method == "" || u.Host != "" {
			return // no server would see it
		}
		r := s.locate(&http.Request{Method: method, URL: u})
		at := attributes(r)
		if r.Resource == nil || served(r) != nil || r.checkNames() != nil {
			return
		}
		if !r.Resource.Namespaced {
			r.Namespace = "" // as serve does
		}
		kept := stored(r.Resource)
		if kept.Prefix == "" {
			return // reviews and the like are answered, not kept
		}
		key := kept.Key(r.Namespace, r.Name)
		row, namespace, name, err := whose(key)
		if err != nil {
			t.Fatalf("%s %q reaches %s: %v", method, path, key, err)
		}
		sameKind := at.APIGroup == row.Group && at.Resource == row.Name || stored(r.Resource) == stored(row)
		sameNamespace := at.Namespace == namespace || !row.Namespaced && at.Name == name && at.Namespace == name
		if !at.ResourceRequest || !sameKind || !sameNamespace || at.Name != name {
			t.Fatalf("%s %q reaches %s (%s %q %q), and was authorized as %s %q %q", method, path, key, row, namespace, name, at.Resource, at.Namespace, at.Name)
		}
	})
}

// whose reads a key of the store without the help of who made it.
func whose(key string) (row *api.Resource, namespace, name string, err error) {
	for _, candidate := range api.Catalogue {
		rest, ok := strings.CutPrefix(key, "/registry/"+candidate.Prefix+"/")
		if !ok || candidate.Prefix == "" || row != nil && len(row.Prefix) >= len(candidate.Prefix) {
			continue
		}
		parts := strings.Split(rest, "/")
		row, namespace, name = candidate, "", parts[len(parts)-1]
		deepest := 1
		if candidate.Namespaced {
			deepest = 2
		}
		if len(parts) > deepest || slices.Contains(parts[:len(parts)-1], "") || slices.Contains(parts, "..") || slices.Contains(parts, ".") {
			err = fmt.Errorf("it is not %s, a namespace and a name", candidate.Prefix)
			continue
		}
		err = nil
		if len(parts) == 2 {
			namespace = parts[0]
		}
	}
	if row == nil {
		err = errors.New("it is no resource's")
	}
	return row, namespace, name, err
}
