//go:build checkmutations

package cache

import (
	"bytes"
	"fmt"
)

// mustBeUnchanged panics if somebody has changed the object that the cache
// handed out: encoded again, it must give the entry's bytes.
func (e *Entry) mustBeUnchanged() {
	p := e.object.Load()
	if p == nil {
		return
	}
	var now []byte
	var err error
	if e.codec.custom {
		now, err = encodeCustom(*p)
	} else {
		now, err = (*p).(message).Marshal()
	}
	if err != nil || !bytes.Equal(now, e.message) {
		panic(fmt.Sprintf("cache: %s at revision %d was changed by somebody who reads it:\n%q\nit was\n%q (%v)", e, e.revision, now, e.message, err))
	}
}
