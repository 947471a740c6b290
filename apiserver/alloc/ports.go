package alloc

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/store"
)

const (
	firstPort = 30000
	lastPort  = 32767
	portRange = "30000-32767"
	// staticPorts at the beginning of the range are left for services that name
	// theirs, as long as others are free (KEP-3668).
	staticPorts = 86
	// portsKey is where Kubernetes keeps its bitmap of node ports.
	portsKey = "/registry/ranges/servicenodeports"
)

// ports is the node ports that are taken, a bit for each, under one key. Writers
// in this process take turns; writers elsewhere are seen by the comparison.
type ports struct {
	store store.Store

	mu       sync.Mutex
	known    bool // taken and revision are what some read or write saw
	revision int64
	taken    *big.Int
}

// change lets f change the bitmap, and stores what it made of it. f may be
// called several times, each time on newer bits; its error ends the change. That
// f refuses, or has nothing to change, counts only on bits read in this call:
// another server may have written since.
func (p *ports) change(ctx context.Context, f func(taken *big.Int) error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		read := !p.known
		if read {
			if err := p.readLocked(ctx); err != nil {
				return err
			}
		}
		next := new(big.Int).Set(p.taken)
		err := f(next)
		if err != nil || next.Cmp(p.taken) == 0 {
			if read {
				return err
			}
			p.known = false
			continue
		}
		revision, err := p.store.Put(ctx, portsKey, encodePorts(next), store.Condition{Revision: p.revision})
		p.known = err == nil
		if err == nil {
			p.revision, p.taken = revision, next
			return nil
		}
		if !errors.Is(err, store.ErrConflict) {
			return fmt.Errorf("take node ports: %w", err)
		}
	}
}

func (p *ports) readLocked(ctx context.Context) error {
	entry, err := p.store.Get(ctx, portsKey)
	if errors.Is(err, store.ErrNotFound) {
		p.known, p.revision, p.taken = true, 0, new(big.Int)
		return nil
	}
	if err != nil {
		return fmt.Errorf("read node ports: %w", err)
	}
	taken, err := decodePorts(entry.Value)
	if err != nil {
		return err
	}
	p.known, p.revision, p.taken = true, entry.Revision, taken
	return nil
}

// encodePorts returns the stored form: a RangeAllocation, whose data are the
// bits as one big number.
func encodePorts(taken *big.Int) []byte {
	r := corev1.RangeAllocation{Range: portRange, Data: taken.Bytes()}
	raw, err := r.Marshal()
	if err != nil {
		panic(fmt.Sprintf("alloc: a RangeAllocation cannot be encoded: %v", err))
	}
	envelope := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: "v1", Kind: "RangeAllocation"}, Raw: raw}
	value, err := envelope.Marshal()
	if err != nil {
		panic(fmt.Sprintf("alloc: an envelope cannot be encoded: %v", err))
	}
	return append([]byte(magic), value...)
}

// magic begins every stored protobuf message.
const magic = "k8s\x00"

func decodePorts(value []byte) (*big.Int, error) {
	var envelope runtime.Unknown
	var r corev1.RangeAllocation
	if len(value) < len(magic) || string(value[:len(magic)]) != magic {
		return nil, fmt.Errorf("read node ports: %s holds no protobuf message", portsKey)
	}
	if err := envelope.Unmarshal(value[len(magic):]); err != nil {
		return nil, fmt.Errorf("read node ports: %w", err)
	}
	if err := r.Unmarshal(envelope.Raw); err != nil {
		return nil, fmt.Errorf("read node ports: %w", err)
	}
	taken := new(big.Int)
	if r.Range == portRange || r.Range == "" {
		return taken.SetBytes(r.Data), nil
	}
	// The range was another one; Repair marks again what services have.
	return taken, nil
}

// takePorts takes the node ports that a service needs or names, all of them in
// one write of the bitmap.
func (s *Services) takePorts(ctx context.Context, h *Hold, svc, old *corev1.Service) error {
	if svc.Spec.HealthCheckNodePort != 0 && !needsHealthPort(svc) && old != nil && needsHealthPort(old) {
		svc.Spec.HealthCheckNodePort = 0
	}
	if !mayHavePorts(svc) {
		return nil
	}
	var held []int32
	if old != nil {
		held = portsOf(old)
	}
	var filled *corev1.Service
	var took []int32
	err := s.ports.change(ctx, func(taken *big.Int) error {
		filled, took = svc.DeepCopy(), nil
		return fillPorts(filled, held, taken, &took)
	})
	if err != nil {
		return err
	}
	svc.Spec.Ports, svc.Spec.HealthCheckNodePort = filled.Spec.Ports, filled.Spec.HealthCheckNodePort
	h.ports = took
	return nil
}

// fillPorts sets the node ports of a service, marking in taken those that are
// not among held and noting them in took.
func fillPorts(svc *corev1.Service, held []int32, taken *big.Int, took *[]int32) error {
	mark := func(port int32) error {
		switch {
		case slices.Contains(held, port) || slices.Contains(*took, port):
			return nil
		case port < firstPort || port > lastPort:
			return errPortBeyond
		case taken.Bit(int(port)-firstPort) == 1:
			return errPortTaken
		}
		taken.SetBit(taken, int(port)-firstPort, 1)
		*took = append(*took, port)
		return nil
	}
	// Those that are named come first, so that none of them is given to another.
	for i := range svc.Spec.Ports {
		if port := svc.Spec.Ports[i].NodePort; port != 0 {
			if err := mark(port); err != nil {
				return invalid(svc, field.Invalid(field.NewPath("spec", "ports").Index(i).Child("nodePort"), port, err.Error()))
			}
		}
	}
	health := needsHealthPort(svc)
	if port := svc.Spec.HealthCheckNodePort; health && port != 0 {
		if err := mark(port); err != nil {
			return apierrors.NewInternalError(fmt.Errorf("failed to allocate requested HealthCheck NodePort %v: %v", port, err))
		}
	}
	for i := range svc.Spec.Ports {
		p := &svc.Spec.Ports[i]
		if p.NodePort != 0 || !needsPorts(svc) {
			continue
		}
		if p.NodePort = sharedPort(svc, i); p.NodePort != 0 {
			continue
		}
		port, err := anyPort(taken)
		if err != nil {
			return apierrors.NewInternalError(fmt.Errorf("failed to allocate a nodePort: %w", err))
		}
		p.NodePort = port
		*took = append(*took, port)
	}
	if health && svc.Spec.HealthCheckNodePort == 0 {
		port, err := anyPort(taken)
		if err != nil {
			return apierrors.NewInternalError(fmt.Errorf("failed to allocate a HealthCheck NodePort %v: %v", 0, err))
		}
		svc.Spec.HealthCheckNodePort = port
		*took = append(*took, port)
	}
	return nil
}

// sharedPort returns the node port of another port with the same number and
// another protocol (DNS over TCP and UDP); 0: there is none.
func sharedPort(svc *corev1.Service, i int) int32 {
	mine := &svc.Spec.Ports[i]
	for j := range svc.Spec.Ports {
		theirs := &svc.Spec.Ports[j]
		if j == i || theirs.Port != mine.Port || theirs.NodePort == 0 || theirs.Protocol == mine.Protocol {
			continue
		}
		clash := slices.ContainsFunc(svc.Spec.Ports, func(p corev1.ServicePort) bool {
			return p.NodePort == theirs.NodePort && p.Protocol == mine.Protocol
		})
		if !clash {
			return theirs.NodePort
		}
	}
	return 0
}

// anyPort marks a random free port and returns it.
func anyPort(taken *big.Int) (int32, error) {
	const size = lastPort - firstPort + 1
	for _, part := range []struct{ from, to int }{{staticPorts, size}, {0, staticPorts}} {
		start, n := rand.IntN(part.to-part.from), part.to-part.from
		for i := range n {
			bit := part.from + (start+i)%n
			if taken.Bit(bit) == 0 {
				taken.SetBit(taken, bit, 1)
				return int32(firstPort + bit), nil
			}
		}
	}
	return 0, errFull
}

// freePorts gives ports back.
func (s *Services) freePorts(ctx context.Context, free []int32, svc *corev1.Service) {
	if len(free) == 0 {
		return
	}
	err := s.ports.change(ctx, func(taken *big.Int) error {
		clearBits(taken, free)
		return nil
	})
	if err != nil {
		s.log.Error("node ports not given back", "ports", free, "service", svc.Namespace+"/"+svc.Name, "err", err)
	}
}

func clearBits(taken *big.Int, free []int32) {
	for _, port := range free {
		if port >= firstPort && port <= lastPort {
			taken.SetBit(taken, int(port)-firstPort, 0)
		}
	}
}
