package cluster

import (
	"context"
	"net"
	"sync"
	"time"
)

// A client's packets go through one socket to one node, so that their answers find
// back and the service proxy sees one flow, until nothing passed for packetIdle. The
// socket bears packetFlows of them at a time; what more come is dropped, as UDP may.
const (
	packetIdle  = time.Minute
	packetFlows = 1024
)

// packetRelay are the flows of one port.
type packetRelay struct {
	o    *openPort
	here net.PacketConn

	mu    sync.Mutex
	flows map[string]net.Conn // to a node, by the client's address; guarded by mu
	next  int                 // where the next flow goes, among the targets; guarded by mu
	group sync.WaitGroup
}

// servePackets passes on packets until the port is closed.
func (o *openPort) servePackets(ctx context.Context, here net.PacketConn) {
	r := &packetRelay{o: o, here: here, flows: map[string]net.Conn{}}
	defer r.group.Wait()
	defer r.closeAll()
	buffer := make([]byte, 1<<16)
	for {
		n, client, err := here.ReadFrom(buffer)
		if err != nil {
			return
		}
		if there := r.flow(ctx, client); there != nil {
			// Refused or not: the next packet, or the next flow, does better.
			_, _ = there.Write(buffer[:n])
		}
	}
}

// flow finds or makes the way of a client's packets; nil: there is none.
func (r *packetRelay) flow(ctx context.Context, client net.Addr) net.Conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	there := r.flows[client.String()]
	if there == nil {
		targets := r.o.targets()
		if len(targets) == 0 || len(r.flows) >= packetFlows {
			return nil
		}
		var err error
		if there, err = (&net.Dialer{}).DialContext(ctx, "udp", targets[r.next%len(targets)]); err != nil {
			r.next++
			return nil
		}
		r.flows[client.String()] = there
		r.group.Go(func() { r.answer(client, there) })
	}
	if there.SetReadDeadline(time.Now().Add(packetIdle)) != nil {
		return nil // it ends just now
	}
	return there
}

// answer passes back what the node sends, until the flow is idle or refused.
func (r *packetRelay) answer(client net.Addr, there net.Conn) {
	buffer := make([]byte, 1<<16)
	for {
		n, err := there.Read(buffer)
		if err == nil {
			_, err = r.here.WriteTo(buffer[:n], client)
		}
		if err == nil {
			err = there.SetReadDeadline(time.Now().Add(packetIdle))
		}
		if err != nil {
			break
		}
	}
	there.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.flows, client.String())
	r.next++ // another node may do
}

func (r *packetRelay) closeAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, there := range r.flows {
		there.Close()
	}
}
