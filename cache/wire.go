package cache

import (
	"encoding/binary"
	"errors"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Protobuf tags (field number and wire type) of runtime.Unknown, in which every
// stored and every sent message is wrapped.
const (
	tagTypeMeta        = 1<<3 | 2
	tagRaw             = 2<<3 | 2
	tagContentEncoding = 3<<3 | 2
	tagContentType     = 4<<3 | 2
)

// Tags of every built-in kind's metadata and, in there, of its resourceVersion.
const (
	tagMetadata        = 1<<3 | 2
	fieldVersion       = 6
	tagResourceVersion = fieldVersion<<3 | 2
)

var errMalformed = errors.New("malformed protobuf message")

// envelopeHead returns the beginning of a runtime.Unknown up to its raw field.
func envelopeHead(gvk schema.GroupVersionKind) []byte {
	apiVersion, kind := gvk.ToAPIVersionAndKind()
	meta := appendString(appendString(nil, 1<<3|2, apiVersion), 2<<3|2, kind)
	return appendString([]byte(magic), tagTypeMeta, string(meta))
}

func appendString(b []byte, tag byte, s string) []byte {
	b = append(b, tag)
	b = appendVarint(b, uint64(len(s)))
	return append(b, s...)
}

func appendVarint(b []byte, v uint64) []byte { return binary.AppendUvarint(b, v) }

func varintLen(v uint64) int {
	n := 1
	for ; v >= 0x80; v >>= 7 {
		n++
	}
	return n
}

// spliceResourceVersion returns a built-in object's message with another
// resourceVersion. Metadata is the first field of every built-in kind.
func spliceResourceVersion(raw []byte, version string) ([]byte, error) {
	if len(raw) == 0 || raw[0] != tagMetadata {
		return nil, errMalformed
	}
	size, n := binary.Uvarint(raw[1:])
	if n <= 0 || size > uint64(len(raw)-1-n) {
		return nil, errMalformed
	}
	meta, rest := raw[1+n:1+n+int(size)], raw[1+n+int(size):]
	from, to, err := findVersion(meta)
	if err != nil {
		return nil, err
	}
	field := 1 + varintLen(uint64(len(version))) + len(version)
	newSize := uint64(len(meta) - (to - from) + field)
	out := make([]byte, 0, 1+varintLen(newSize)+int(newSize)+len(rest))
	out = append(out, tagMetadata)
	out = appendVarint(out, newSize)
	out = append(out, meta[:from]...)
	out = appendString(out, tagResourceVersion, version)
	out = append(out, meta[to:]...)
	return append(out, rest...), nil
}

// findVersion returns where the resourceVersion of metadata begins and ends; if
// it has none, where it belongs.
func findVersion(meta []byte) (from, to int, err error) {
	for i := 0; i < len(meta); {
		tag, n := binary.Uvarint(meta[i:])
		if n <= 0 {
			return 0, 0, errMalformed
		}
		if tag>>3 > fieldVersion {
			return i, i, nil
		}
		end, err := skip(meta, i+n, tag&7)
		if err != nil {
			return 0, 0, err
		}
		if tag == tagResourceVersion {
			return i, end, nil
		}
		i = end
	}
	return len(meta), len(meta), nil
}

// skip returns where the value that begins at i ends.
func skip(b []byte, i int, wireType uint64) (int, error) {
	switch wireType {
	case 0:
		_, n := binary.Uvarint(b[i:])
		if n <= 0 {
			return 0, errMalformed
		}
		return i + n, nil
	case 2:
		size, n := binary.Uvarint(b[i:])
		if n <= 0 || size > uint64(len(b)-i-n) {
			return 0, errMalformed
		}
		return i + n + int(size), nil
	}
	return 0, errMalformed // metadata has no fields of other types
}
