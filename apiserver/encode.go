package apiserver

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/yaml"

	"skiff/api"
	"skiff/cache"
)

// chunk is how many bytes of a list are written at a time.
const chunk = 128 << 10

// encodeEntry writes one object of the cache, from bytes that are made once.
// Only for out.As "".
func encodeEntry(w io.Writer, e *cache.Entry, out Output) error {
	if out.MediaType == runtime.ContentTypeProtobuf {
		buf, err := appendProtobufEntry(nil, e)
		if err != nil {
			return err
		}
		_, err = w.Write(buf)
		return err
	}
	buf, err := appendJSONEntry(nil, e)
	if err != nil {
		return err
	}
	return writeText(w, append(buf, '\n'), out)
}

// encodeObject writes an answer that stands in no cache (a Status, a review, a
// Table); its apiVersion and kind must be set.
func encodeObject(w io.Writer, obj runtime.Object, out Output) error {
	if out.MediaType == runtime.ContentTypeProtobuf {
		buf, err := appendProtobufObject(nil, obj)
		if err != nil {
			return err
		}
		_, err = w.Write(buf)
		return err
	}
	body, err := json.Marshal(obj)
	if err != nil {
		return fmt.Errorf("encode %T: %w", obj, err)
	}
	return writeText(w, append(body, '\n'), out)
}

// writeText writes a JSON document in the form of text that out names.
func writeText(w io.Writer, doc []byte, out Output) error {
	switch {
	case out.MediaType == runtime.ContentTypeYAML:
		text, err := yaml.JSONToYAML(escapeForYAML(doc))
		if err != nil {
			return fmt.Errorf("turn JSON into YAML: %w", err)
		}
		doc = text
	case out.Pretty:
		var indented bytes.Buffer
		if err := json.Indent(&indented, bytes.TrimSuffix(doc, []byte("\n")), "", "  "); err != nil {
			return fmt.Errorf("indent JSON: %w", err)
		}
		indented.WriteByte('\n')
		doc = indented.Bytes()
	}
	_, err := w.Write(doc)
	return err
}

// escapeForYAML escapes in a JSON document the characters that JSON allows in a
// string as they are, and YAML does not, or takes for the end of a line.
func escapeForYAML(doc []byte) []byte {
	forbidden := func(r rune) bool {
		return r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029 || r == 0xfeff || r == 0xfffe || r == 0xffff
	}
	if !bytes.ContainsFunc(doc, forbidden) {
		return doc
	}
	var escaped bytes.Buffer
	for _, r := range string(doc) {
		if forbidden(r) {
			fmt.Fprintf(&escaped, `\u%04x`, r)
		} else {
			escaped.WriteRune(r)
		}
	}
	return escaped.Bytes()
}

// Encode writes the list in the form that out names (As "" only: tables and
// partial metadata are table.go's).
func (l *List) Encode(w io.Writer, out Output) error {
	if out.MediaType == runtime.ContentTypeProtobuf {
		return l.encodeProtobuf(w)
	}
	if out.Pretty && out.MediaType == runtime.ContentTypeJSON {
		return l.encodePretty(w)
	}
	if out.MediaType == runtime.ContentTypeYAML {
		var doc bytes.Buffer
		if err := l.encodeJSON(&doc); err != nil {
			return err
		}
		return writeText(w, doc.Bytes(), out)
	}
	return l.encodeJSON(w)
}

// encodeJSON writes a head, the items' bytes, and a tail.
func (l *List) encodeJSON(w io.Writer) error {
	meta, err := json.Marshal(l.meta())
	if err != nil {
		return err
	}
	size := chunk
	if l.long == nil {
		size = len(meta) + 128
		for _, e := range l.Entries {
			body, err := e.JSON()
			if err != nil {
				return err // before the first byte is written
			}
			size += len(body) + 1
		}
	}
	b := newChunks(w, size)
	head := appendKind(b.buf, l.Resource.List(), l.Resource)
	head = append(head, `"metadata":`...)
	head = append(head, meta...)
	b.buf = append(head, `,"items":[`...)
	first := true
	for e := range l.All() {
		body, err := e.JSON()
		if err != nil {
			return err
		}
		if !first {
			b.buf = append(b.buf, ',')
		}
		first = false
		if err := b.add(body); err != nil {
			return err
		}
	}
	b.buf = append(b.buf, "]}\n"...)
	return b.flush()
}

// encodePretty writes what indenting the whole would give, item by item: people
// look at lists that are as long as any.
func (l *List) encodePretty(w io.Writer) error {
	meta, err := json.Marshal(l.meta())
	if err != nil {
		return err
	}
	head := appendKind(nil, l.Resource.List(), l.Resource)
	head = append(append(append(head, `"metadata":`...), meta...), `,"items":[]}`...)
	var text bytes.Buffer
	if err := json.Indent(&text, head, "", "  "); err != nil {
		return fmt.Errorf("indent JSON: %w", err)
	}
	b := newChunks(w, chunk)
	b.buf = append(b.buf, bytes.TrimSuffix(text.Bytes(), []byte("]\n}"))...)
	first := true
	for e := range l.All() {
		body, err := e.JSON()
		if err != nil {
			return err
		}
		text.Reset()
		if !first {
			text.WriteByte(',')
		}
		first = false
		text.WriteString("\n    ")
		if err := json.Indent(&text, body, "    ", "  "); err != nil {
			return fmt.Errorf("indent JSON: %w", err)
		}
		if err := b.add(text.Bytes()); err != nil {
			return err
		}
	}
	if !first {
		b.buf = append(b.buf, "\n  "...)
	}
	b.buf = append(b.buf, "]\n}\n"...)
	return b.flush()
}

func (l *List) meta() *metav1.ListMeta {
	return &metav1.ListMeta{ResourceVersion: strconv.FormatInt(l.Revision, 10), Continue: l.Continue, RemainingItemCount: l.Remaining}
}

// encodeProtobuf writes the envelope of a list whose items are field 2, as they
// are in every built-in list kind.
func (l *List) encodeProtobuf(w io.Writer) error {
	meta, err := l.meta().Marshal()
	if err != nil {
		return err
	}
	size := fieldSize(len(meta))
	for e := range l.All() {
		if e.Custom() {
			return errNoProtobuf(e.Resource())
		}
		size += fieldSize(len(e.Protobuf()))
	}
	b := newChunks(w, size+128)
	b.buf = appendEnvelope(b.buf, apiVersionOf(l.Resource), l.Resource.List(), size)
	b.buf = appendField(b.buf, 1, meta)
	for e := range l.All() {
		raw := e.Protobuf()
		b.buf = append(b.buf, 2<<3|2)
		b.buf = binary.AppendUvarint(b.buf, uint64(len(raw)))
		if err := b.add(raw); err != nil {
			return err
		}
	}
	b.buf = append(b.buf, envelopeTail...)
	return b.flush()
}

// chunks collects bytes and writes them when there are enough.
type chunks struct {
	w   io.Writer
	buf []byte
}

func newChunks(w io.Writer, size int) *chunks {
	return &chunks{w: w, buf: make([]byte, 0, min(size, chunk+chunk/8))}
}

func (c *chunks) add(b []byte) error {
	if len(c.buf) > 0 && len(c.buf)+len(b) > cap(c.buf) {
		if err := c.flush(); err != nil {
			return err
		}
	}
	c.buf = append(c.buf, b...)
	if len(c.buf) >= chunk {
		return c.flush()
	}
	return nil
}

func (c *chunks) flush() error {
	if len(c.buf) == 0 {
		return nil
	}
	_, err := c.w.Write(c.buf)
	c.buf = c.buf[:0]
	return err
}

// appendKind begins a JSON object with kind and apiVersion, and a comma.
func appendKind(buf []byte, kind string, r *api.Resource) []byte {
	buf = append(buf, `{"kind":"`...)
	buf = append(buf, kind...)
	buf = append(buf, `","apiVersion":"`...)
	buf = append(buf, apiVersionOf(r)...)
	return append(buf, `",`...)
}

func apiVersionOf(r *api.Resource) string {
	if r.Group == "" {
		return r.Version
	}
	return r.Group + "/" + r.Version
}

// appendJSONEntry appends the entry as a JSON object with kind and apiVersion.
func appendJSONEntry(buf []byte, e *cache.Entry) ([]byte, error) {
	body, err := e.JSON()
	if err != nil || e.Custom() {
		return append(buf, body...), err
	}
	buf = slices.Grow(buf, len(body)+96)
	buf = appendKind(buf, e.Resource().KindName, e.Resource())
	return append(buf, body[1:]...), nil
}

// The wrapping of protobuf messages, runtime.Unknown: type, message, and two
// empty strings.
const (
	envelopeMagic = "k8s\x00"
	envelopeTail  = "\x1a\x00\x22\x00"
)

// appendEnvelope appends all that stands before a message of that size.
func appendEnvelope(buf []byte, apiVersion, kind string, size int) []byte {
	buf = append(buf, envelopeMagic...)
	meta := fieldSize(len(apiVersion)) + fieldSize(len(kind))
	buf = append(buf, 1<<3|2)
	buf = binary.AppendUvarint(buf, uint64(meta))
	buf = appendField(buf, 1, apiVersion)
	buf = appendField(buf, 2, kind)
	buf = append(buf, 2<<3|2)
	return binary.AppendUvarint(buf, uint64(size))
}

func envelopeSize(apiVersion, kind string, size int) int {
	return len(envelopeMagic) + fieldSize(fieldSize(len(apiVersion))+fieldSize(len(kind))) + fieldSize(size) + len(envelopeTail)
}

// fieldSize is the size of a length-delimited field with a small number.
func fieldSize(size int) int {
	n := 2
	for v := size; v >= 0x80; v >>= 7 {
		n++
	}
	return n + size
}

func appendField[T []byte | string](buf []byte, number byte, value T) []byte {
	buf = append(buf, number<<3|2)
	buf = binary.AppendUvarint(buf, uint64(len(value)))
	return append(buf, value...)
}

func errNoProtobuf(r *api.Resource) error {
	return fmt.Errorf("%s are custom resources, which have no protobuf form", r)
}

func appendProtobufEntry(buf []byte, e *cache.Entry) ([]byte, error) {
	if e.Custom() {
		return buf, errNoProtobuf(e.Resource())
	}
	raw, apiVersion, kind := e.Protobuf(), apiVersionOf(e.Resource()), e.Resource().KindName
	if buf == nil {
		buf = make([]byte, 0, envelopeSize(apiVersion, kind, len(raw)))
	}
	buf = appendEnvelope(buf, apiVersion, kind, len(raw))
	buf = append(buf, raw...)
	return append(buf, envelopeTail...), nil
}

// appendProtobufObject encodes an object of a built-in type.
func appendProtobufObject(buf []byte, obj runtime.Object) ([]byte, error) {
	m, ok := obj.(interface{ Marshal() ([]byte, error) })
	if !ok {
		return buf, fmt.Errorf("a %T has no protobuf form", obj)
	}
	raw, err := m.Marshal()
	if err != nil {
		return buf, fmt.Errorf("encode %T: %w", obj, err)
	}
	apiVersion, kind := obj.GetObjectKind().GroupVersionKind().ToAPIVersionAndKind()
	buf = appendEnvelope(buf, apiVersion, kind, len(raw))
	buf = append(buf, raw...)
	return append(buf, envelopeTail...), nil
}

// appendEvent appends the frame of one watch event in the form that out names
// (As "" only) to buf.
func appendEvent(buf []byte, w *Watch, e WatchEvent, out Output) ([]byte, error) {
	switch {
	case e.Status != nil:
		return appendObjectEvent(buf, string(e.Type), e.Status, out)
	case e.Entry == nil:
		return appendObjectEvent(buf, string(watch.Bookmark), bookmark(w.Resource, e), out)
	case out.MediaType == runtime.ContentTypeProtobuf:
		if e.Entry.Custom() {
			return buf, errNoProtobuf(e.Entry.Resource())
		}
		raw, apiVersion, kind := e.Entry.Protobuf(), apiVersionOf(w.Resource), w.Resource.KindName
		size := envelopeSize(apiVersion, kind, len(raw))
		buf = appendFrameHead(buf, string(e.Type), size)
		buf = appendEnvelope(buf, apiVersion, kind, len(raw))
		buf = append(buf, raw...)
		return append(buf, envelopeTail...), nil
	}
	buf = appendEventHead(buf, string(e.Type))
	buf, err := appendJSONEntry(buf, e.Entry)
	return append(buf, "}\n"...), err
}

// appendObjectEvent appends a watch frame around an object that stands in no
// cache: a Table, a PartialObjectMetadata.
func appendObjectEvent(buf []byte, eventType string, obj runtime.Object, out Output) ([]byte, error) {
	if out.MediaType == runtime.ContentTypeProtobuf {
		body, err := appendProtobufObject(nil, obj)
		if err != nil {
			return buf, err
		}
		return append(appendFrameHead(buf, eventType, len(body)), body...), nil
	}
	body, err := json.Marshal(obj)
	if err != nil {
		return buf, fmt.Errorf("encode %T: %w", obj, err)
	}
	buf = append(appendEventHead(buf, eventType), body...)
	return append(buf, "}\n"...), nil
}

func appendEventHead(buf []byte, eventType string) []byte {
	buf = append(buf, `{"type":"`...)
	buf = append(buf, eventType...)
	return append(buf, `","object":`...)
}

// appendFrameHead appends all that stands before an enveloped object of that
// size: the frame's length, and the beginning of a metav1.WatchEvent.
func appendFrameHead(buf []byte, eventType string, size int) []byte {
	raw := fieldSize(size)
	buf = binary.BigEndian.AppendUint32(buf, uint32(fieldSize(len(eventType))+fieldSize(raw)))
	buf = appendField(buf, 1, eventType)
	buf = append(buf, 2<<3|2)
	buf = binary.AppendUvarint(buf, uint64(raw))
	buf = append(buf, 1<<3|2)
	return binary.AppendUvarint(buf, uint64(size))
}

// bookmark is an object of the kind with nothing but a resourceVersion.
func bookmark(r *api.Resource, e WatchEvent) runtime.Object {
	obj := r.Kind.New()
	obj.GetObjectKind().SetGroupVersionKind(r.GVK())
	obj.SetResourceVersion(strconv.FormatInt(e.Revision, 10))
	if e.Initial {
		obj.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	}
	return obj
}

// watchContentType is the Content-Type of a watch's answer.
func watchContentType(out Output) string {
	if out.MediaType == runtime.ContentTypeJSON {
		return out.MediaType
	}
	return out.MediaType + ";stream=watch"
}
