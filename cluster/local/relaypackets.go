package local

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A flow is what one program of the node sends to one address outside. It ends when
// nothing passed for relayIdle; beyond relayFlows, packets are dropped, as UDP may.
const (
	relayIdle  = time.Minute
	relayFlows = 4096
)

type flowKey struct{ from, to netip.AddrPort }

// flows are the UDP flows that are relayed.
type flows struct {
	relay *Relay

	mu    sync.Mutex
	open  map[flowKey]net.Conn // from the machine to the outside; guarded by mu
	group sync.WaitGroup
}

// servePackets relays packets until the socket is closed.
func (r *Relay) servePackets(ctx context.Context, here *net.UDPConn) error {
	f := &flows{relay: r, open: map[flowKey]net.Conn{}}
	defer f.group.Wait()
	defer f.closeAll()
	buffer, oob := make([]byte, 1<<16), make([]byte, 128)
	for {
		n, m, _, from, err := here.ReadMsgUDPAddrPort(buffer, oob)
		if err != nil {
			return nil // closed: somebody stops the relay
		}
		to, err := originalDestination(oob[:m])
		if err != nil {
			r.Log.Debug("relay: packet dropped", "from", from, "err", err)
			continue
		}
		conn, err := f.find(ctx, flowKey{from, to})
		if err == nil {
			_, err = conn.Write(buffer[:n])
		}
		if err != nil {
			r.Log.Debug("relay: packet dropped", "from", from, "to", to, "err", err)
		}
	}
}

// originalDestination reads whom a packet was sent to.
func originalDestination(oob []byte) (netip.AddrPort, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return netip.AddrPort{}, err
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_IP && m.Header.Type == unix.IP_RECVORIGDSTADDR && len(m.Data) >= 8 { // a sockaddr_in
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte(m.Data[4:8])), binary.BigEndian.Uint16(m.Data[2:4])), nil
		}
	}
	return netip.AddrPort{}, errors.New("the packet does not say whom it was sent to")
}

// find returns a flow's way to the outside, and makes it if it is new.
func (f *flows) find(ctx context.Context, key flowKey) (net.Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	conn := f.open[key]
	if conn == nil {
		if len(f.open) >= relayFlows {
			return nil, fmt.Errorf("there are %d flows already", relayFlows)
		}
		// It answers as the one who was asked.
		back, err := (&net.ListenConfig{Control: transparent}).ListenPacket(ctx, "udp4", key.to.String())
		if err != nil {
			return nil, err
		}
		if conn, err = f.relay.dial(ctx, "udp4", key.to); err != nil {
			back.Close()
			return nil, err
		}
		f.open[key] = conn
		f.group.Go(func() { f.answer(key, conn, back.(*net.UDPConn)) })
	}
	return conn, conn.SetReadDeadline(time.Now().Add(relayIdle))
}

// answer passes back what comes, until the flow is idle or refused.
func (f *flows) answer(key flowKey, conn net.Conn, back *net.UDPConn) {
	defer back.Close()
	buffer := make([]byte, 1<<16)
	for {
		n, err := conn.Read(buffer)
		if err == nil {
			_, err = back.WriteToUDPAddrPort(buffer[:n], key.from)
		}
		if err == nil {
			err = conn.SetReadDeadline(time.Now().Add(relayIdle))
		}
		if err != nil {
			break
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	conn.Close()
	delete(f.open, key)
}

func (f *flows) closeAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, conn := range f.open {
		conn.Close()
	}
}
