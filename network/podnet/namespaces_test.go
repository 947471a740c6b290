//go:build linux

package podnet

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// As root, the tests run in a network and a mount namespace of their own: the
// machine's interfaces and rules are never touched.
func TestMain(m *testing.M) {
	const inside = "SKIFF_TEST_IN_NAMESPACE"
	if os.Geteuid() != 0 || os.Getenv(inside) != "" {
		os.Exit(m.Run())
	}
	again := exec.Command("/proc/self/exe", os.Args[1:]...)
	again.Env = append(os.Environ(), inside+"=1")
	again.Stdin, again.Stdout, again.Stderr = os.Stdin, os.Stdout, os.Stderr
	again.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := again.Run(); err != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

func needNamespaces(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes network namespaces")
	}
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs nft")
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	up(t, "lo")
}

func up(t testing.TB, name string) {
	t.Helper()
	link, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		t.Fatal(err)
	}
}

// newNamespace makes a network namespace with a path, as a runtime does.
func newNamespace(t testing.TB) (path string, remove func()) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "netns")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	onThread(t, func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		return unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), path, "", unix.MS_BIND, "")
	})
	gone := false
	remove = func() {
		if gone {
			return
		}
		gone = true
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", path, err)
		}
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(remove)
	return path, remove
}

// onThread runs f on a thread that ends afterwards.
func onThread(t testing.TB, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its namespace
		done <- f()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// within runs f in the namespace.
func within(t *testing.T, path string, f func() error) {
	t.Helper()
	onThread(t, func() error {
		ns, err := netns.GetFromPath(path)
		if err != nil {
			return err
		}
		defer ns.Close()
		if err := netns.Set(ns); err != nil {
			return err
		}
		return f()
	})
}

// outside is a machine that shares a link with this node (10.63.0.2): 10.63.0.9.
func outside(t *testing.T) (path string) {
	t.Helper()
	path, _ = newNamespace(t)
	ns, err := netns.GetFromPath(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "up0"
	pair := netlink.NewVeth(attrs)
	pair.PeerName, pair.PeerNamespace = "eth0", netlink.NsFd(int(ns))
	if err := netlink.LinkAdd(pair); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netlink.LinkDel(pair); err != nil {
			t.Error(err)
		}
	})
	address(t, "up0", "10.63.0.2/24")
	within(t, path, func() error {
		address(t, "eth0", "10.63.0.9/24")
		up(t, "lo")
		return nil
	})
	return path
}

func address(t *testing.T, name, cidr string) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		t.Error(err)
		return
	}
	a, err := netlink.ParseAddr(cidr)
	if err != nil {
		t.Error(err)
		return
	}
	if err := netlink.AddrAdd(link, a); err != nil {
		t.Error(err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		t.Error(err)
	}
}

// greeter answers each connection with the address that it came from.
func greeter(t *testing.T, path, at string) {
	t.Helper()
	var l net.Listener
	serve := func() (err error) {
		l, err = net.Listen("tcp", at)
		return err
	}
	if path == "" {
		if err := serve(); err != nil {
			t.Fatal(err)
		}
	} else {
		within(t, path, serve)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, netip.MustParseAddrPort(c.RemoteAddr().String()).Addr())
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
}

// visit connects from a namespace ("": the node's) and returns what it is told.
func visit(t *testing.T, path, to string) (answer string, err error) {
	t.Helper()
	call := func() error {
		var c net.Conn
		if c, err = net.DialTimeout("tcp", to, time.Second); err != nil {
			return nil
		}
		defer c.Close()
		b := make([]byte, 100)
		var k int
		k, err = c.Read(b)
		answer = string(b[:k])
		return nil
	}
	if path == "" {
		if e := call(); e != nil {
			t.Fatal(e)
		}
		return answer, err
	}
	within(t, path, call)
	return answer, err
}
