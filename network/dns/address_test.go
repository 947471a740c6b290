//go:build linux

package dns

import (
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestHoldAddresses(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes a network namespace")
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its namespace
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return err
			}
			for range 2 { // it may be there already
				if err := holdAddresses("skiff-svc", []netip.Addr{netip.MustParseAddr("10.128.0.10")}); err != nil {
					return err
				}
			}
			addresses, err := netlink.AddrList(nil, netlink.FAMILY_V4)
			if err != nil {
				return err
			}
			if len(addresses) != 1 || addresses[0].Scope != int(netlink.SCOPE_HOST) {
				t.Errorf("addresses %v, want one of the host's scope", addresses)
			}
			conn, err := net.ListenPacket("udp", "10.128.0.10:53")
			if err != nil {
				return err
			}
			return conn.Close()
		}()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
