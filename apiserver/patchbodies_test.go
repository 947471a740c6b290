package apiserver

import (
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Patches that are no patches are answered as kube-apiserver 1.37.2 answers them.
func TestPatchesThatAreNone(t *testing.T) {
	const decoding = "error decoding patch: json: cannot unmarshal "
	const intoMap = " into Go value of type map[string]interface {}"
	const noName = "the name of the object (web based on URL) was undeterminable: name must be provided"
	w := newWriting(t)
	w.must("create", "v1/pods", "default", "", podBody)
	for _, c := range []struct {
		kinds, body  string // of patches
		warn, ignore string // what is said under fieldValidation Warn and Ignore; "": it is taken, and changes nothing
	}{
		{"json merge strategic", ``, "invalid JSON patch", "invalid JSON patch"},
		{"json merge strategic", ` `, "invalid JSON patch", "invalid JSON patch"},
		{"json", `null`, "", ""},
		{"json", `[]`, "", ""},
		{"json", `""`, decoding + "string into Go value of type []handlers.jsonPatchOp", "json: cannot unmarshal string into Go value of type jsonpatch.Patch"},
		{"json", `1`, decoding + "number into Go value of type []handlers.jsonPatchOp", "json: cannot unmarshal number into Go value of type jsonpatch.Patch"},
		{"json", `{}`, decoding + "object into Go value of type []handlers.jsonPatchOp", "json: cannot unmarshal object into Go value of type jsonpatch.Patch"},
		{"json", `[1]`, decoding + "number into Go value of type handlers.jsonPatchOp", "json: cannot unmarshal number into Go value of type jsonpatch.Operation"},
		{"json", `[null]`, rejected, rejected},
		{"json", `[{}]`, rejected, rejected},
		{"json", `[{"op":"replace","path":"","value":null}]`, rejected, rejected},
		{"merge", `null`, "Invalid JSON Patch", "Invalid JSON Patch"},
		{"merge", `""`, decoding + "string" + intoMap, "Invalid JSON Patch"},
		{"merge", `1`, decoding + "number" + intoMap, "Invalid JSON Patch"},
		{"merge", `[]`, decoding + "array" + intoMap, ` "" is invalid: patch: Invalid value: "[]": couldn't get version/kind; json parse error: json: cannot unmarshal array into Go value of type`},
		{"strategic", `null`, "", ""},
		{"strategic", `[]`, "json: cannot unmarshal array" + intoMap, "json: cannot unmarshal array" + intoMap},
		{"strategic", `""`, "json: cannot unmarshal string" + intoMap, "json: cannot unmarshal string" + intoMap},
		{"strategic", `1`, "json: cannot unmarshal number" + intoMap, "json: cannot unmarshal number" + intoMap},
		{"merge strategic", `{}`, "", ""},
		{"merge strategic", `{"kind":null}`, "", ""},
		{"merge strategic", `{"metadata":null}`, noName, noName},
		{"apply", ``, "invalid object type: /, Kind=", "invalid object type: /, Kind="},
		{"apply", ` `, "invalid object type: /, Kind=", "invalid object type: /, Kind="},
		{"apply", `null`, "invalid object type: /, Kind=", "invalid object type: /, Kind="},
		{"apply", `{}`, "invalid object type: /, Kind=", "invalid object type: /, Kind="},
		{"apply", `[]`, unmarshalling + "array" + intoMap, unmarshalling + "array" + intoMap},
		{"apply", `""`, unmarshalling + "string" + intoMap, unmarshalling + "string" + intoMap},
		{"apply", `1`, unmarshalling + "number" + intoMap, unmarshalling + "number" + intoMap},
	} {
		for kind := range strings.FieldsSeq(c.kinds) {
			for options, want := range map[string]string{"": c.warn, "&ignore": c.ignore} {
				before := w.must("get", "v1/pods", "default", "web", "")
				result, err := w.serve(t.Context(), w.request("patch:"+kind, "v1/pods?manager=m&force"+options, "default", "web", c.body))
				switch {
				case err == nil && (want != "" || result.Entry.Object() != before):
					t.Errorf("%s patch %q (%s) was taken, want %q", kind, c.body, options, want)
				case err != nil && (want == "" || !strings.HasPrefix(err.Error(), want)):
					t.Errorf("%s patch %q (%s):\n got %q\nwant %q", kind, c.body, options, err, want)
				case err != nil && !apierrors.IsBadRequest(err) && !apierrors.IsInvalid(err) && want != rejected:
					t.Errorf("%s patch %q (%s): %v", kind, c.body, options, err)
				}
			}
		}
	}
}

// What the client of an operation that cannot be applied is told: the words come
// from the code alone.
const (
	rejected      = "the server rejected our request due to an error in our request"
	unmarshalling = "error decoding patch: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal "
)

// A request that panics is counted, too.
func TestCodeOfAPanic(t *testing.T) {
	if got := codeOf(nil, nil); got != 500 {
		t.Errorf("neither answer nor error is counted as %d", got)
	}
}
