package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Relay carries what a node sends to the outside, where the machine's own rules drop
// what is forwarded: connections and UDP packets to outside addresses come to sockets
// of the relay in the node's namespace (nftables tproxy), and go on from sockets in
// the machine's namespace, as if a program of the machine had sent them. Nothing of
// the machine is changed for it. Other protocols, ping among them, do not pass.
//
// Run is called in a process that stands in the node's namespaces.
type Relay struct {
	Machine *os.File // the machine's network namespace
	Ranges  Ranges
	Log     *slog.Logger
	// Every is the time between looks at the machine's rules. 0 means 10 s.
	Every time.Duration
}

// MachineNetwork opens the machine's network namespace, which is the supervisor's,
// for a process that the supervisor started in a node's.
func MachineNetwork() (*os.File, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", os.Getppid()))
	if err != nil {
		return nil, fmt.Errorf("find the machine's network namespace: %w", err)
	}
	return f, nil
}

const (
	relayTable = "skiff_relay"
	relayMark  = 0x10000000 // a bit that neither the service proxy nor Kubernetes' own tools use
	relayRoute = 7370       // the routing table by which marked packets stay
)

// Run watches the machine's rules, and relays while they make it necessary.
func (r *Relay) Run(ctx context.Context) error {
	every := r.Every
	if every == 0 {
		every = 10 * time.Second
	}
	_ = r.unlead(ctx) // what a process that was killed left behind; mostly nothing
	tick := time.NewTicker(every)
	defer tick.Stop()
	stop := func() error { return nil }
	relaying := false
	for {
		by, err := r.dropped(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			r.Log.Warn("the machine's rules cannot be read", "err", err)
		case err == nil && (by != "") != relaying:
			if err := stop(); err != nil {
				return err
			}
			relaying, stop = false, func() error { return nil }
			if by != "" {
				r.Log.Warn("the machine drops what is forwarded: TCP and UDP to the outside are relayed, ping does not pass", "by", by)
				if stop, err = r.start(ctx); err != nil {
					return err
				}
				relaying = true
			}
		}
		select {
		case <-ctx.Done():
			return stop()
		case <-tick.C:
		}
	}
}

func (r *Relay) dropped(ctx context.Context) (by string, err error) {
	err = r.onMachine(func() (err error) {
		by, err = ForwardingDropped(ctx)
		return err
	})
	return by, err
}

// onMachine runs f on a thread that stands in the machine's network namespace. f
// must not hand work to other goroutines.
func (r *Relay) onMachine(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Setns(int(r.Machine.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter the machine's network namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

// dial connects from the machine.
func (r *Relay) dial(ctx context.Context, network string, to netip.AddrPort) (conn net.Conn, err error) {
	err = r.onMachine(func() (err error) {
		// An address, not a name: the dialer stays on this thread.
		conn, err = (&net.Dialer{Timeout: 30 * time.Second}).DialContext(ctx, network, to.String())
		return err
	})
	return conn, err
}

// start opens the sockets and leads packets to them; stop undoes it and waits.
func (r *Relay) start(ctx context.Context) (stop func() error, err error) {
	ctx, cancel := context.WithCancel(ctx)
	group, ctx := errgroup.WithContext(ctx)
	config := net.ListenConfig{Control: transparent}
	l, err := config.Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		cancel()
		return nil, fmt.Errorf("relay: %w", err)
	}
	packets, err := config.ListenPacket(ctx, "udp4", l.Addr().String())
	if err != nil {
		cancel()
		return nil, errors.Join(fmt.Errorf("relay: %w", err), l.Close())
	}
	port := l.Addr().(*net.TCPAddr).Port
	group.Go(func() error { return r.serve(ctx, l) })
	group.Go(func() error { return r.servePackets(ctx, packets.(*net.UDPConn)) })
	stop = func() error {
		cancel()
		return errors.Join(r.unlead(context.Background()), l.Close(), packets.Close(), group.Wait())
	}
	if err := r.lead(ctx, port); err != nil {
		return nil, errors.Join(err, stop())
	}
	return stop, nil
}

// transparent sockets receive packets that were sent to anybody, and answer as that.
func transparent(network, _ string, c syscall.RawConn) (err error) {
	control := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TRANSPARENT, 1)
		if err == nil && strings.HasPrefix(network, "udp") {
			err = errors.Join(
				unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_RECVORIGDSTADDR, 1),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
		}
	})
	return errors.Join(control, err)
}

// lead makes the rules: from pods and from the node itself, packets for the outside
// are marked, stay on the node, and come to the relay's port.
func (r *Relay) lead(ctx context.Context, port int) error {
	rule, route, err := relayRouting()
	if err != nil {
		return err
	}
	if err := netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("relay: route: %w", err)
	}
	if err := netlink.RuleAdd(rule); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("relay: rule: %w", err)
	}
	return nft(ctx, fmt.Sprintf(`table ip %[1]s
delete table ip %[1]s
table ip %[1]s {
	set inside {
		type ipv4_addr; flags interval
		elements = { %[2]s, %[3]s, %[4]s, 127.0.0.0/8, 169.254.0.0/16, 224.0.0.0/3 }
	}
	chain arrive {
		type filter hook prerouting priority mangle; policy accept;
		ip daddr @inside return
		fib daddr type local return
		meta l4proto { tcp, udp } tproxy to 127.0.0.1:%[5]d meta mark set meta mark or 0x%[6]x accept
	}
	chain leave {
		type route hook output priority mangle; policy accept;
		ip daddr @inside return
		fib daddr type local return
		meta l4proto { tcp, udp } meta mark set meta mark or 0x%[6]x
	}
}
`, relayTable, r.Ranges.Nodes, r.Ranges.Pods, r.Ranges.Services, port, relayMark))
}

// unlead takes the rules away.
func (r *Relay) unlead(ctx context.Context) error {
	err := nft(ctx, fmt.Sprintf("table ip %[1]s\ndelete table ip %[1]s\n", relayTable))
	rule, route, routingErr := relayRouting()
	if routingErr == nil {
		routingErr = errors.Join(netlink.RuleDel(rule), netlink.RouteDel(route))
	}
	return errors.Join(err, routingErr)
}

// relayRouting: what is marked is taken for the node's own.
func relayRouting() (*netlink.Rule, *netlink.Route, error) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, nil, fmt.Errorf("relay: %w", err)
	}
	mask := uint32(relayMark)
	rule := netlink.NewRule()
	rule.Family, rule.Priority, rule.Table, rule.Mark, rule.Mask = unix.AF_INET, 99, relayRoute, relayMark, &mask
	everything := &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	return rule, &netlink.Route{Dst: everything, LinkIndex: lo.Attrs().Index, Table: relayRoute, Type: unix.RTN_LOCAL, Scope: unix.RT_SCOPE_HOST}, nil
}

// serve relays connections until the listener is closed.
func (r *Relay) serve(ctx context.Context, l net.Listener) error {
	var group sync.WaitGroup
	defer group.Wait()
	for {
		conn, err := l.Accept()
		if err != nil {
			return nil // closed: somebody stops the relay
		}
		group.Go(func() { r.pass(ctx, conn.(*net.TCPConn)) })
	}
}

// pass connects to whom the connection was meant for, which is what its own end bears.
func (r *Relay) pass(ctx context.Context, here *net.TCPConn) {
	defer here.Close()
	to := here.LocalAddr().(*net.TCPAddr).AddrPort()
	conn, err := r.dial(ctx, "tcp4", to)
	if err != nil {
		_ = here.SetLinger(0) // a reset is the nearest to what happened there
		r.Log.Debug("relay: no connection", "to", to, "err", err)
		return
	}
	there := conn.(*net.TCPConn)
	defer there.Close()
	defer context.AfterFunc(ctx, func() { here.Close(); there.Close() })()
	var group sync.WaitGroup
	copyOne := func(to, from *net.TCPConn) {
		if _, err := io.Copy(to, from); err != nil {
			to.Close()
			return
		}
		_ = to.CloseWrite() // fails where the other side is gone, which its copy sees
	}
	group.Go(func() { copyOne(there, here) })
	group.Go(func() { copyOne(here, there) })
	group.Wait()
}
