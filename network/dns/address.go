//go:build linux

package dns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// holdAddresses gives the interface the addresses, and makes it if it is missing:
// a dummy, or where the kernel has none, a bridge without ports. Their scope is
// the host, so that no packet of the node's own takes them as its source.
func holdAddresses(name string, ips []netip.Addr) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		if netlink.LinkAdd(&netlink.Dummy{LinkAttrs: attrs}) != nil {
			if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil && !errors.Is(err, unix.EEXIST) {
				return fmt.Errorf("dns: make the interface %s: %w", name, err)
			}
		}
		if link, err = netlink.LinkByName(name); err != nil {
			return fmt.Errorf("dns: find the interface %s: %w", name, err)
		}
	}
	if err := errors.Join(netlink.LinkSetARPOff(link), netlink.LinkSetUp(link)); err != nil {
		return fmt.Errorf("dns: set the interface %s up: %w", name, err)
	}
	for _, ip := range ips {
		a := &netlink.Addr{IPNet: &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(ip.BitLen(), ip.BitLen())}}
		if ip.Is4() {
			a.Scope = int(netlink.SCOPE_HOST)
		} else {
			a.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrReplace(link, a); err != nil {
			return fmt.Errorf("dns: give %s the address %s: %w", name, ip, err)
		}
	}
	return nil
}
