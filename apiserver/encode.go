package apiserver

import (
	"io"

	"k8s.io/apimachinery/pkg/runtime"

	"skiff/cache"
)

// encodeEntry writes one object of the cache, from bytes that are made once.
// Only for out.As "".
func encodeEntry(w io.Writer, e *cache.Entry, out Output) error { panic("being written") }

// encodeObject writes an answer that stands in no cache (a Status, a review, a
// Table); its apiVersion and kind must be set.
func encodeObject(w io.Writer, obj runtime.Object, out Output) error { panic("being written") }

// appendEvent appends the frame of one watch event in the form that out names
// (As "" only) to buf.
func appendEvent(buf []byte, w *Watch, e WatchEvent, out Output) ([]byte, error) {
	panic("being written")
}

// appendObjectEvent appends a watch frame around an object that stands in no
// cache: a Table, a PartialObjectMetadata.
func appendObjectEvent(buf []byte, eventType string, obj runtime.Object, out Output) ([]byte, error) {
	panic("being written")
}

// watchContentType is the Content-Type of a watch's answer.
func watchContentType(out Output) string { panic("being written") }
