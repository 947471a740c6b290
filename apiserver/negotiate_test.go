package apiserver

import (
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
)

func TestAcceptable(t *testing.T) {
	const json, yaml, proto = runtime.ContentTypeJSON, runtime.ContentTypeYAML, runtime.ContentTypeProtobuf
	table := "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"
	for _, c := range []struct {
		header string
		watch  bool
		plain  bool // nothing to convert
		want   Output
		fails  bool
	}{
		{header: "", want: Output{MediaType: json}},
		{header: "*/*", want: Output{MediaType: json}},
		{header: "application/*", want: Output{MediaType: json}},
		{header: "application/yaml", want: Output{MediaType: yaml}},
		{header: "application/yaml", watch: true, fails: true},
		{header: "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", want: Output{MediaType: json}},
		{header: "application/json;q=0.1,application/vnd.kubernetes.protobuf", want: Output{MediaType: proto}},
		{header: "application/vnd.kubernetes.protobuf;stream=watch", watch: true, want: Output{MediaType: proto}},
		{header: "application/json;pretty=1", want: Output{MediaType: json, Pretty: true}},
		{header: table, want: Output{MediaType: json, As: "Table", AsVersion: "v1"}},
		{header: table, plain: true, want: Output{MediaType: json}},
		{header: "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io", fails: true},
		{header: "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", want: Output{MediaType: proto, As: "PartialObjectMetadata", AsVersion: "v1"}},
		{header: "application/json;as=Chair;v=v1;g=meta.k8s.io", fails: true},
		{header: "text/plain", fails: true},
		{header: "application/cbor", fails: true},
	} {
		got, err := acceptable(c.header, c.watch, !c.plain)
		if (err != nil) != c.fails || (err == nil && got != c.want) {
			t.Errorf("Accept: %s (watch %v): %+v, %v; want %+v", c.header, c.watch, got, err, c.want)
		}
	}
	_, err := acceptable("text/plain", false, true)
	if want := "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf"; err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
}
