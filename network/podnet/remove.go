//go:build linux

package podnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"sigs.k8s.io/knftables"
)

// Release agrees to everything that a container runtime asks at the socket, where no
// Network runs any more: else it would not let its pods go. Remove is to follow.
func Release(socket string) (stop func(), err error) {
	l, err := listen(socket)
	if err != nil {
		return nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed
			}
			agree(conn)
		}
	}()
	return func() { l.Close(); <-done }, nil
}

func agree(conn net.Conn) {
	defer conn.Close()
	if conn.SetDeadline(time.Now().Add(exchangeTimeout)) != nil {
		return
	}
	if _, err := io.Copy(io.Discard, io.LimitReader(conn, largestRequest)); err == nil {
		conn.Write([]byte{0})
	}
}

// Remove takes everything away that a Network with this prefix ("": skiff) has
// made in this network namespace: pods' interfaces, routes, tables. It is for a
// machine that leaves its cluster; nothing may run.
func Remove(ctx context.Context, prefix string) error {
	setDefault(&prefix, "skiff")
	var failed []error
	links, err := whole(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	for _, l := range links {
		name := l.Attrs().Name
		ours := name == prefix+"-svc" || name == prefix+"-vxlan" ||
			l.Type() == "veth" && strings.HasPrefix(name, hostPrefix) && len(name) == len(hostName("", ""))
		if !ours {
			continue
		}
		if err := netlink.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
			failed = append(failed, fmt.Errorf("remove the interface %s: %w", name, err))
		}
	}
	for _, f := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		for _, protocol := range []netlink.RouteProtocol{podRoutes, nodeRoutes} {
			failed = append(failed, removeRoutes(f, protocol))
		}
	}
	for _, family := range []knftables.Family{knftables.IPv4Family, knftables.IPv6Family} {
		nft, err := knftables.New(family, prefix+"-podnet")
		if err != nil {
			continue // without nftables there is no table
		}
		tx := nft.NewTransaction()
		tx.Add(&knftables.Table{})
		tx.Delete(&knftables.Table{})
		if err := nft.Run(ctx, tx); err != nil {
			failed = append(failed, fmt.Errorf("remove the pod network's %s table: %w", family, err))
		}
	}
	return errors.Join(failed...)
}

func removeRoutes(family int, protocol netlink.RouteProtocol) error {
	routes, err := whole(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(family, &netlink.Route{Protocol: protocol}, netlink.RT_FILTER_PROTOCOL)
	})
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	var failed []error
	for _, r := range routes {
		if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			failed = append(failed, fmt.Errorf("remove the route to %s: %w", r.Dst, err))
		}
	}
	return errors.Join(failed...)
}
