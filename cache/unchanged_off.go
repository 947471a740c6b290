//go:build !checkmutations

package cache

// mustBeUnchanged does nothing but in builds with the tag checkmutations.
func (e *Entry) mustBeUnchanged() {}
