package apiserver

import (
	"bytes"
	"encoding/json"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	"skiff/api"
	"skiff/store"
)

var (
	asJSON     = Output{MediaType: runtime.ContentTypeJSON}
	asProtobuf = Output{MediaType: runtime.ContentTypeProtobuf}
	asYAML     = Output{MediaType: runtime.ContentTypeYAML}
)

// somePod is a pod of the size that real ones have.
func somePod(namespace, name string) *corev1.Pod {
	raw := `{"metadata":{"labels":{"app":"web","pod-template-hash":"5d4f8c7b9","tier":"front"},"annotations":{"kubernetes.io/config.source":"api","note":"a < b & c"},
	"ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"web-5d4f8c7b9","uid":"b3f1c9f0-0000-4000-8000-000000000001","controller":true,"blockOwnerDeletion":true}],
	"creationTimestamp":"2026-01-02T03:04:05Z","uid":"0b9e7a52-0000-4000-8000-000000000002","generateName":"web-5d4f8c7b9-",
	"managedFields":[{"manager":"kube-controller-manager","operation":"Update","apiVersion":"v1","time":"2026-01-02T03:04:05Z","fieldsType":"FieldsV1","fieldsV1":{"f:metadata":{"f:generateName":{},"f:labels":{".":{},"f:app":{},"f:pod-template-hash":{}},"f:ownerReferences":{".":{},"k:{\"uid\":\"b3f1c9f0\"}":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"web\"}":{".":{},"f:image":{},"f:imagePullPolicy":{},"f:name":{},"f:ports":{".":{},"k:{\"containerPort\":8080,\"protocol\":\"TCP\"}":{".":{},"f:containerPort":{},"f:protocol":{}}},"f:resources":{".":{},"f:limits":{".":{},"f:cpu":{},"f:memory":{}},"f:requests":{".":{},"f:cpu":{},"f:memory":{}}}}},"f:dnsPolicy":{},"f:restartPolicy":{},"f:schedulerName":{}}}}]},
	"spec":{"nodeName":"node-7","restartPolicy":"Always","dnsPolicy":"ClusterFirst","schedulerName":"default-scheduler","serviceAccountName":"default","terminationGracePeriodSeconds":30,"enableServiceLinks":true,
	"tolerations":[{"key":"node.kubernetes.io/not-ready","operator":"Exists","effect":"NoExecute","tolerationSeconds":300},{"key":"node.kubernetes.io/unreachable","operator":"Exists","effect":"NoExecute","tolerationSeconds":300}],
	"volumes":[{"name":"kube-api-access-x","projected":{"defaultMode":420,"sources":[{"serviceAccountToken":{"expirationSeconds":3607,"path":"token"}},{"configMap":{"name":"kube-root-ca.crt","items":[{"key":"ca.crt","path":"ca.crt"}]}}]}}],
	"containers":[{"name":"web","image":"registry.example/web:1.2.3","imagePullPolicy":"IfNotPresent","ports":[{"containerPort":8080,"protocol":"TCP"}],"env":[{"name":"A","value":"1"},{"name":"B","valueFrom":{"fieldRef":{"apiVersion":"v1","fieldPath":"status.podIP"}}}],
	"resources":{"limits":{"cpu":"500m","memory":"256Mi"},"requests":{"cpu":"100m","memory":"128Mi"}},"volumeMounts":[{"name":"kube-api-access-x","mountPath":"/var/run/secrets/kubernetes.io/serviceaccount","readOnly":true}],"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File",
	"readinessProbe":{"httpGet":{"path":"/healthz","port":8080,"scheme":"HTTP"},"timeoutSeconds":1,"periodSeconds":10,"successThreshold":1,"failureThreshold":3}}]},
	"status":{"phase":"Running","podIP":"10.244.1.7","hostIP":"172.18.0.3","startTime":"2026-01-02T03:04:06Z","qosClass":"Burstable","podIPs":[{"ip":"10.244.1.7"}],"hostIPs":[{"ip":"172.18.0.3"}],
	"conditions":[{"type":"PodReadyToStartContainers","status":"True","lastTransitionTime":"2026-01-02T03:04:07Z"},{"type":"Initialized","status":"True","lastTransitionTime":"2026-01-02T03:04:06Z"},{"type":"Ready","status":"True","lastTransitionTime":"2026-01-02T03:04:08Z"},{"type":"ContainersReady","status":"True","lastTransitionTime":"2026-01-02T03:04:08Z"},{"type":"PodScheduled","status":"True","lastTransitionTime":"2026-01-02T03:04:06Z"}],
	"containerStatuses":[{"name":"web","ready":true,"started":true,"restartCount":0,"image":"registry.example/web:1.2.3","imageID":"registry.example/web@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef","containerID":"containerd://0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef","state":{"running":{"startedAt":"2026-01-02T03:04:07Z"}}}]}}`
	pod := &corev1.Pod{}
	if err := json.Unmarshal([]byte(raw), pod); err != nil {
		panic(err)
	}
	pod.Namespace, pod.Name = namespace, name
	return pod
}

// decoded is what client-go makes of an answer.
func decoded(t *testing.T, body []byte) runtime.Object {
	t.Helper()
	obj, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, nil)
	if err != nil {
		t.Fatalf("decode %.200q: %v", body, err)
	}
	return obj
}

// What clients decode from every form is the stored object, with its kind.
func TestFormsOfAnObject(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newReading(t, 0)
		defer s.end()
		pods := api.For[*corev1.Pod]()
		e, err := s.put(s.ctx, pods, somePod("n", "a"), store.Condition{})
		if err != nil {
			t.Fatal(err)
		}
		want := somePod("n", "a")
		want.ResourceVersion = rv(e.Revision())
		want.SetGroupVersionKind(pods.GVK())
		for _, out := range []Output{asJSON, asProtobuf, asYAML, {MediaType: runtime.ContentTypeJSON, Pretty: true}} {
			var body bytes.Buffer
			if err := encodeEntry(&body, e, out); err != nil {
				t.Fatal(err)
			}
			text := body.Bytes()
			if out == asYAML {
				if text, err = yaml.YAMLToJSON(text); err != nil {
					t.Fatal(err)
				}
			}
			got := decoded(t, text)
			got.GetObjectKind().SetGroupVersionKind(pods.GVK())
			if a, b := jsonOf(t, got), jsonOf(t, want); a != b {
				t.Errorf("%+v: decoded\n%s\nwant\n%s", out, a, b)
			}
		}
		var ours, theirs bytes.Buffer
		if err := encodeEntry(&ours, e, asJSON); err != nil {
			t.Fatal(err)
		}
		json.NewEncoder(&theirs).Encode(want)
		if ours.String() != theirs.String() {
			t.Errorf("JSON is\n%s\nbut encoding the object gives\n%s", ours.String(), theirs.String())
		}
		ours.Reset()
		theirs.Reset()
		if err := encodeEntry(&ours, e, asProtobuf); err != nil {
			t.Fatal(err)
		}
		if err := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme).Encode(want, &theirs); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(ours.Bytes(), theirs.Bytes()) {
			t.Errorf("protobuf is\n%q\nbut encoding the object gives\n%q", ours.Bytes(), theirs.Bytes())
		}
	})
}

func jsonOf(t *testing.T, obj any) string {
	t.Helper()
	b, err := json.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// pieces is a writer that notes the size of each write.
type pieces struct {
	bytes.Buffer
	sizes []int
}

func (p *pieces) Write(b []byte) (int, error) {
	p.sizes = append(p.sizes, len(b))
	return p.Buffer.Write(b)
}

func TestFormsOfAList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newReading(t, 0)
		defer s.end()
		remaining := int64(7)
		pods := api.For[*corev1.Pod]()
		for _, n := range []int{0, 1, 300} {
			l := &List{Resource: pods, Revision: 42}
			want := &corev1.PodList{ListMeta: metav1.ListMeta{ResourceVersion: "42"}, Items: []corev1.Pod{}}
			want.SetGroupVersionKind(pods.GVK().GroupVersion().WithKind("PodList"))
			if n > 1 {
				l.Continue, l.Remaining = "token", &remaining
				want.Continue, want.RemainingItemCount = "token", &remaining
			}
			for i := range n {
				name := "p" + rv(int64(i))
				e, err := s.put(s.ctx, pods, somePod("n", name), store.Condition{Revision: store.Any})
				if err != nil {
					t.Fatal(err)
				}
				l.Entries = append(l.Entries, e)
				pod := somePod("n", name)
				pod.ResourceVersion = rv(e.Revision())
				want.Items = append(want.Items, *pod)
			}
			var ours pieces
			var theirs bytes.Buffer
			if err := l.Encode(&ours, asJSON); err != nil {
				t.Fatal(err)
			}
			json.NewEncoder(&theirs).Encode(want)
			if ours.String() != theirs.String() {
				t.Errorf("JSON of %d is\n%.2000s\nwant\n%.2000s", n, ours.String(), theirs.String())
			}
			for i, size := range ours.sizes {
				if size < chunk/2 && i < len(ours.sizes)-1 || size > 2*chunk {
					t.Errorf("the list was written in pieces of %v bytes", ours.sizes)
					break
				}
			}
			ours.Reset()
			theirs.Reset()
			if err := l.Encode(&ours, asProtobuf); err != nil {
				t.Fatal(err)
			}
			if err := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme).Encode(want, &theirs); err != nil {
				t.Fatal(err)
			}
			if ours.String() != theirs.String() {
				t.Errorf("protobuf of %d is\n%.500q\nwant\n%.500q", n, ours.String(), theirs.String())
			}
		}
	})
}

// Watch frames are what client-go's decoders take apart.
func TestFormsOfWatchEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newReading(t, 0)
		defer s.end()
		pods := api.For[*corev1.Pod]()
		e, err := s.put(s.ctx, pods, somePod("n", "a"), store.Condition{})
		if err != nil {
			t.Fatal(err)
		}
		w := &Watch{Resource: pods}
		events := []WatchEvent{
			{Type: watch.Added, Entry: e},
			{Type: watch.Deleted, Entry: e.At(99)},
			{Type: watch.Bookmark, Revision: 100, Initial: true},
			{Type: watch.Error, Status: statusOf(expiredWatch(io.EOF))},
		}
		for _, out := range []Output{asJSON, asProtobuf} {
			var stream []byte
			for _, event := range events {
				if stream, err = appendEvent(stream, w, event, out); err != nil {
					t.Fatal(err)
				}
			}
			info, _ := runtime.SerializerInfoForMediaType(scheme.Codecs.SupportedMediaTypes(), out.MediaType)
			frames := info.StreamSerializer.Framer.NewFrameReader(io.NopCloser(bytes.NewReader(stream)))
			for _, event := range events {
				frame := make([]byte, 1<<20)
				n, err := frames.Read(frame)
				if err != nil {
					t.Fatal(err)
				}
				var got metav1.WatchEvent
				if _, _, err := info.StreamSerializer.Serializer.Decode(frame[:n], nil, &got); err != nil {
					t.Fatal(err)
				}
				if got.Type != string(event.Type) {
					t.Errorf("%s: type %q, want %q", out.MediaType, got.Type, event.Type)
				}
				switch obj := decoded(t, got.Object.Raw).(type) {
				case *corev1.Pod:
					want := event.Revision
					if event.Entry != nil {
						want = event.Entry.Revision()
					}
					if obj.ResourceVersion != rv(want) || (obj.Annotations[metav1.InitialEventsAnnotationKey] == "true") != event.Initial {
						t.Errorf("%s: %s has the metadata %+v, want revision %d", out.MediaType, got.Type, obj.ObjectMeta, want)
					}
				case *metav1.Status:
					if event.Status == nil || obj.Code != event.Status.Code {
						t.Errorf("%s: status %+v", out.MediaType, obj)
					}
				default:
					t.Errorf("%s: %T", out.MediaType, obj)
				}
			}
		}
	})
}

// A row that is a view is served from the bytes of its own version, made once.
func TestViewsOfEntries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newReading(t, 0)
		defer s.end()
		stored, shown := api.For[*corev1.Event](), api.For[*eventsv1.Event]()
		event := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "a"}, Message: "hello", Reason: "Because"}
		e, err := s.put(s.ctx, stored, event, store.Condition{})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.fresh(s.ctx); err != nil {
			t.Fatal(err)
		}
		result, err := s.get(s.ctx, &Request{Verb: "get", Resource: shown, Namespace: "n", Name: "a"})
		if err != nil {
			t.Fatal(err)
		}
		var body bytes.Buffer
		if err := encodeEntry(&body, result.Entry, asJSON); err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(body.String(), `{"kind":"Event","apiVersion":"events.k8s.io/v1",`) {
			t.Errorf("the view is %s", body.String())
		}
		if got := result.Entry.Object().GetResourceVersion(); got != rv(e.Revision()) {
			t.Errorf("the view's resourceVersion is %s", got)
		}
		if again := e.As(shown); again != result.Entry {
			t.Error("the view is made anew for each reader")
		}
		if _, ok := e.Object().(*corev1.Event); !ok || reflect.TypeOf(result.Entry.Object()) == reflect.TypeOf(e.Object()) {
			t.Error("the stored entry's type has changed")
		}
	})
}
