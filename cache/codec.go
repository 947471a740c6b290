package cache

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sort"
	"unique"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/api"
)

// codec turns the objects of one row into bytes and back.
type codec struct {
	row    *api.Resource // whose version the entries have
	stored *api.Resource // under whose prefix they are stored: row, or what row is a view of
	custom bool          // stored as JSON, decoded as unstructured
	views  []*codec      // of the rows that are views of this one
	shows  *shows        // of the rows that show custom resources that are stored here; else nil

	fields     []string // selectable fields but metadata's, sorted
	fieldIndex map[string]int
	envelope   []byte // of a stored value, up to the length of the message
}

// message is what the generated code of every built-in type offers.
type message interface {
	Marshal() ([]byte, error)
	Unmarshal([]byte) error
}

// magic begins every value that holds a protobuf message.
const magic = "k8s\x00"

func newCodec(row, stored *api.Resource) *codec {
	c := &codec{row: row, stored: stored, fieldIndex: map[string]int{}}
	example := row.Kind.New()
	_, builtIn := example.(message)
	c.custom = !builtIn
	if c.custom && row == stored {
		c.shows = &shows{}
	}
	if row.Kind.Fields != nil {
		for name := range row.Kind.Fields(example) {
			if name != "metadata.name" && name != "metadata.namespace" {
				c.fields = append(c.fields, name)
			}
		}
		sort.Strings(c.fields)
		for i, name := range c.fields {
			c.fieldIndex[name] = i
		}
	}
	c.envelope = envelopeHead(row.GVK())
	return c
}

// marshal returns the bytes of obj without a resourceVersion, as they are
// stored but for the envelope. It leaves obj canonical, without resourceVersion.
func (c *codec) marshal(obj api.Object) ([]byte, error) {
	obj.SetResourceVersion("")
	if c.custom {
		return encodeCustom(obj)
	}
	obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	if canonicalize(obj) {
		// Who decodes it will find nothing where something empty was, and fill in
		// the defaults; so they are filled in now.
		c.row.Kind.Default(obj)
		canonicalize(obj)
	}
	return obj.(message).Marshal()
}

// wrap returns what is stored for the bytes that marshal gave.
func (c *codec) wrap(raw []byte) []byte {
	if c.custom {
		return raw
	}
	value := make([]byte, 0, len(c.envelope)+len(raw)+16)
	value = append(value, c.envelope...)
	value = append(value, tagRaw)
	value = appendVarint(value, uint64(len(raw)))
	value = append(value, raw...)
	return append(value, tagContentEncoding, 0, tagContentType, 0)
}

// decode reads a stored value: whatever version of Kubernetes wrote it, the
// result has today's defaults and is canonical.
func (c *codec) decode(value []byte, revision int64) (api.Object, error) {
	obj, err := c.decodeAny(value)
	if err != nil {
		return nil, err
	}
	obj.SetResourceVersion(formatRevision(revision))
	if !c.custom {
		c.row.Kind.Default(obj)
		obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
		canonicalize(obj)
	}
	return obj, nil
}

func (c *codec) decodeAny(value []byte) (api.Object, error) {
	trimmed := bytes.TrimLeft(value, " \t\r\n")
	switch {
	case c.custom:
		obj := &unstructured.Unstructured{}
		if err := obj.UnmarshalJSON(value); err != nil {
			return nil, fmt.Errorf("decode stored JSON: %w", err)
		}
		return obj, nil
	case bytes.HasPrefix(value, []byte(magic)):
		return c.decodeProtobuf(value[len(magic):])
	case len(trimmed) > 0 && trimmed[0] == '{':
		return c.decodeJSON(trimmed)
	}
	return nil, fmt.Errorf("the stored value is neither protobuf nor JSON")
}

func (c *codec) decodeProtobuf(value []byte) (api.Object, error) {
	var unknown runtime.Unknown
	if err := unknown.Unmarshal(value); err != nil {
		return nil, fmt.Errorf("decode the envelope: %w", err)
	}
	return c.of(unknown.APIVersion, unknown.Kind, func(obj api.Object) error {
		return obj.(message).Unmarshal(unknown.Raw)
	})
}

func (c *codec) decodeJSON(value []byte) (api.Object, error) {
	var kind struct{ APIVersion, Kind string }
	if err := json.Unmarshal(value, &kind); err != nil {
		return nil, fmt.Errorf("decode stored JSON: %w", err)
	}
	return c.of(kind.APIVersion, kind.Kind, func(obj api.Object) error { return json.Unmarshal(value, obj) })
}

// of decodes an object of the named kind and, where another row shows it,
// converts it to the kind that is stored here.
func (c *codec) of(apiVersion, kind string, into func(api.Object) error) (api.Object, error) {
	gvk := schema.FromAPIVersionAndKind(apiVersion, kind)
	if gvk == c.row.GVK() {
		obj := c.row.Kind.New()
		if err := into(obj); err != nil {
			return nil, fmt.Errorf("decode %s: %w", gvk, err)
		}
		return obj, nil
	}
	other := api.FindKind(gvk)
	if other == nil || other.View == nil || other.View.Of != c.row.GVR() {
		return nil, fmt.Errorf("the stored value is a %s, which is not served as %s", gvk, c.row.GVK())
	}
	obj := other.Kind.New()
	if err := into(obj); err != nil {
		return nil, fmt.Errorf("decode %s: %w", gvk, err)
	}
	return other.View.ToStored(obj), nil
}

// unmarshal reads the bytes of an entry.
func (c *codec) unmarshal(raw []byte) (api.Object, error) {
	if c.custom {
		obj := &unstructured.Unstructured{}
		return obj, obj.UnmarshalJSON(raw)
	}
	obj := c.row.Kind.New()
	if err := obj.(message).Unmarshal(raw); err != nil {
		return nil, err
	}
	canonicalize(obj)
	return obj, nil
}

// stamp returns the bytes of an object with another resourceVersion.
func (c *codec) stamp(raw []byte, revision int64) ([]byte, error) {
	version := formatRevision(revision)
	if !c.custom {
		return spliceResourceVersion(raw, version)
	}
	obj := &unstructured.Unstructured{}
	if err := obj.UnmarshalJSON(raw); err != nil {
		return nil, err
	}
	obj.SetResourceVersion(version)
	return encodeCustom(obj)
}

// entry makes the entry of obj, whose bytes raw are, resourceVersion included.
func (c *codec) entry(namespace, name string, obj api.Object, raw []byte, revision int64) *Entry {
	e := &Entry{codec: c, namespace: intern(namespace), name: name, uid: obj.GetUID(),
		revision: revision, message: raw, labels: newPairs(obj.GetLabels())}
	if len(c.fields) > 0 {
		set := c.row.Kind.Fields(obj)
		e.values = make([]unique.Handle[string], len(c.fields))
		for i, field := range c.fields {
			e.values[i] = unique.Make(set[field])
		}
	}
	return e
}

// read makes the entry of a stored value; it is broken if that cannot be decoded.
func (c *codec) read(namespace, name string, value []byte, revision int64) *Entry {
	obj, err := c.decode(value, revision)
	if err == nil {
		var raw []byte
		if c.custom {
			raw, err = encodeCustom(obj)
		} else {
			raw, err = obj.(message).Marshal()
		}
		if err == nil {
			e := c.entry(namespace, name, obj, raw, revision)
			if followed[c.row.Name] && c.row.Group == "" {
				e.object.Store(&obj)
			}
			e.stale = !c.custom && !bytes.HasPrefix(value, c.envelope)
			return e
		}
	}
	return &Entry{codec: c, namespace: intern(namespace), name: name, revision: revision, broken: err}
}

// show makes the entry that the view c.row has of a stored entry.
func (c *codec) show(of *Entry) (*Entry, error) {
	stored, err := of.decoded()
	if err != nil {
		return nil, err
	}
	obj := c.row.View.FromStored(stored)
	// FromStored may share parts with the stored object, whose quantities and
	// times are canonical already; only what it made itself still has to be.
	if obj == stored {
		return nil, fmt.Errorf("show %s as %s: the view returned the stored object", of, c.row)
	}
	obj = obj.DeepCopyObject().(api.Object)
	obj.SetResourceVersion(formatRevision(of.revision))
	obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	canonicalize(obj)
	raw, err := obj.(message).Marshal()
	if err != nil {
		return nil, fmt.Errorf("show %s as %s: %w", of, c.row, err)
	}
	return c.entry(of.namespace, of.name, obj, raw, of.revision), nil
}

// view returns the codec of a row that is a view of this one's.
func (c *codec) view(row *api.Resource) *codec {
	for _, v := range c.views {
		if v.row == row {
			return v
		}
	}
	panic(fmt.Sprintf("cache: %s is no view of %s", row, c.row))
}

// intern returns s from a place shared by all entries with an equal string.
func intern(s string) string { return unique.Make(s).Value() }
