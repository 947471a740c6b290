//go:build linux

package main

import (
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// isLoopback tells whether the program was called by the name of the plugin that older
// runtimes (containerd 1.6) start before the pod's own: it only sets the interface lo
// up. Machines without the package containernetworking-plugins lack it.
func isLoopback() bool { return filepath.Base(os.Args[0]) == "loopback" }

// loopback carries out the command; what a pod's namespace has goes with it, so there
// is nothing to do but for ADD.
func loopback(command string, input []byte) {
	if command != "ADD" {
		return
	}
	netns := os.Getenv("CNI_NETNS")
	if err := loUp(netns); err != nil {
		fail(11, "set up lo in "+netns+": "+err.Error())
	}
	version := text(input, "cniVersion")
	if version == "" {
		version = "0.3.1"
	}
	write(1, []byte(`{"cniVersion":"`+version+`","interfaces":[{"name":"lo","mac":"00:00:00:00:00:00","sandbox":"`+netns+`"}]}`+"\n"))
}

// loUp sets lo up in a network namespace.
func loUp(netns string) error {
	runtime.LockOSThread() // the process ends soon: it need not come back
	ns, err := unix.Open(netns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
		return err
	}
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(socket, unix.SIOCGIFFLAGS, lo); err != nil {
		return err
	}
	lo.SetUint16(lo.Uint16() | unix.IFF_UP)
	return unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, lo)
}
