//go:build linux

package podnet

import (
	"errors"

	"github.com/vishvananda/netlink"
)

// mostLists bounds how often a listing is repeated.
const mostLists = 16

// whole repeats a listing that something changed while the kernel was making it:
// netlink says so, and entries may be missing from it.
func whole[T any](list func() ([]T, error)) ([]T, error) {
	for range mostLists - 1 {
		if out, err := list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return out, err
		}
	}
	return list()
}
