package cluster

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// upper answers packets in capitals.
func upper(t *testing.T) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		buffer := make([]byte, 2000)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			conn.WriteTo([]byte(strings.ToUpper(string(buffer[:n]))), from)
		}
	}()
	return conn.LocalAddr().String()
}

// say sends a packet and returns the answer; empty: none came.
func say(t *testing.T, conn net.Conn, text string) string {
	t.Helper()
	if _, err := conn.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(2 * time.Second))
	buffer := make([]byte, 2000)
	n, _ := conn.Read(buffer)
	return string(buffer[:n])
}

func TestPacketsGoThereAndAnswersBack(t *testing.T) {
	o, serve, err := openLocal(corev1.ProtocolUDP, 0)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); serve(context.Background()) }()
	o.to = []string{upper(t)}
	if !strings.HasSuffix(o.String(), "/udp") {
		t.Errorf("a UDP port calls itself %s", o)
	}
	for _, client := range []string{"one", "two"} {
		conn, err := net.Dial("udp", o.addr.String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for _, text := range []string{client, client + " again"} {
			if got := say(t, conn, text); got != strings.ToUpper(text) {
				t.Errorf("%q was answered with %q", text, got)
			}
		}
	}
	o.closer.Close()
	<-done // the flows end with the port
}

// A node that refuses is left for the next one.
func TestPacketsFindAnotherNode(t *testing.T) {
	o, serve, err := openLocal(corev1.ProtocolUDP, 0)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); serve(context.Background()) }()
	defer func() { o.closer.Close(); <-done }()
	gone, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	o.to = []string{gone.LocalAddr().String(), upper(t)}
	conn, err := net.Dial("udp", o.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range 5 {
		if say(t, conn, "hello") == "HELLO" {
			return
		}
	}
	t.Error("no answer, though the second node would")
}

func TestWantedPorts(t *testing.T) {
	s := &corev1.Service{}
	s.Spec.Type = corev1.ServiceTypeLoadBalancer
	s.Spec.Ports = []corev1.ServicePort{
		{Protocol: corev1.ProtocolTCP, Port: 53, NodePort: 30053},
		{Protocol: corev1.ProtocolUDP, Port: 53, NodePort: 30054},
		{Protocol: corev1.ProtocolSCTP, Port: 53, NodePort: 30055},
	}
	got := wantedPorts(s)
	for key, to := range map[portKey]int32{
		{protocol: corev1.ProtocolTCP, port: 53}: 30053, {protocol: corev1.ProtocolTCP, port: 30053}: 30053,
		{protocol: corev1.ProtocolUDP, port: 53}: 30054, {protocol: corev1.ProtocolUDP, port: 30054}: 30054,
	} {
		if got[key] != to {
			t.Errorf("%v leads to %d, want %d", key, got[key], to)
		}
		delete(got, key)
	}
	if len(got) > 0 {
		t.Errorf("too many: %v", got)
	}
	s.Spec.Type = corev1.ServiceTypeClusterIP
	if got := wantedPorts(s); len(got) > 0 {
		t.Errorf("a service of the cluster alone wants %v", got)
	}
}
