package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/clientcmd"

	"skiff/api"
	"skiff/client"
	"skiff/cluster"
	"skiff/cluster/local"
	"skiff/cluster/pki"
	"skiff/image"
	"skiff/store"
)

// asProgram makes the test's own binary skiff, so that what runs on the machines is
// what is tested.
const asProgram = "SKIFF_TEST_PROGRAM"

func TestMain(m *testing.M) {
	switch os.Getenv(asProgram) {
	case "skiff":
		main()
		os.Exit(0)
	case "etcd":
		if err := serveEtcd(os.Args[1], os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// hall is a hall of machines: network and mount namespaces, joined by a switch that
// stands in a namespace of its own. Nothing leads out of it.
type hall struct {
	t    *testing.T
	ctx  context.Context
	dir  string
	self string // this program, under the name skiff, with what belongs beside it
	wire local.Namespaces
}

// box is one machine.
type box struct {
	h    *hall
	name string
	ip   netip.Addr
	ns   local.Namespaces

	process *process // what was started last; nil: nothing yet
}

// process is a running skiff.
type process struct {
	cmd   *exec.Cmd
	log   *logBuffer
	ended chan struct{} // closed at its end
	err   error         // how it ended; to be read after that
}

// logBuffer keeps what a process writes. Safe for concurrent use.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func newHall(t *testing.T, machines int) (*hall, []*box) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("skipped: machines are network namespaces, which need root")
	}
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("skipped: needs nft (package nftables)")
	}
	dir, err := os.MkdirTemp("", "sk") // a short path: unix sockets lie below it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	h := &hall{t: t, ctx: ctx, dir: dir, self: filepath.Join(dir, "bin", "skiff"), wire: local.Dirs(dir).Namespaces("wire")}
	h.install()
	must(t, h.wire.Create())
	t.Cleanup(func() { must(t, h.wire.Remove()) })
	must(t, h.wire.In(func() error {
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "switch"}}); err != nil {
			return err
		}
		return linkUp("switch")
	}))
	var all []*box
	for i := range machines {
		all = append(all, h.newBox(i+1))
	}
	return h, all
}

// install puts this program where the others that it needs are beside it.
func (h *hall) install() {
	h.t.Helper()
	program, err := os.Executable()
	must(h.t, err)
	built, err := filepath.Abs("../../bin")
	must(h.t, err)
	must(h.t, os.Mkdir(filepath.Dir(h.self), 0o755))
	if os.Link(program, h.self) != nil { // another file system
		from, err := os.Open(program)
		must(h.t, err)
		defer from.Close()
		to, err := os.OpenFile(h.self, os.O_CREATE|os.O_WRONLY, 0o755)
		must(h.t, err)
		_, err = io.Copy(to, from)
		must(h.t, errors.Join(err, to.Close()))
	}
	for _, name := range []string{"runtime", "skiff-cni"} {
		must(h.t, os.Symlink(filepath.Join(built, name), filepath.Join(h.dir, "bin", name)))
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func linkUp(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

// newBox makes a machine with one network card, plugged into the switch.
func (h *hall) newBox(number int) *box {
	h.t.Helper()
	b := &box{h: h, name: fmt.Sprintf("m%d", number), ip: netip.AddrFrom4([4]byte{10, 91, 0, byte(number)})}
	b.ns = local.Dirs(h.dir).Namespaces(b.name)
	must(h.t, b.ns.Create())
	h.t.Cleanup(func() { must(h.t, b.ns.Remove()) })
	port := fmt.Sprintf("p%d", number)
	// Made in the machine's namespace, and the other end is put into the switch's.
	wire, err := os.Open(filepath.Join(h.dir, "run", "ns", "wire", "net"))
	must(h.t, err)
	defer wire.Close()
	must(h.t, b.ns.In(func() error {
		card := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: port, PeerNamespace: netlink.NsFd(int(wire.Fd()))}
		if err := netlink.LinkAdd(card); err != nil {
			return err
		}
		address := &netlink.Addr{IPNet: &net.IPNet{IP: b.ip.AsSlice(), Mask: net.CIDRMask(24, 32)}}
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return errors.Join(netlink.AddrAdd(link, address), linkUp("eth0"), linkUp("lo"))
	}))
	must(h.t, h.wire.In(func() error {
		at, err := netlink.LinkByName("switch")
		if err != nil {
			return err
		}
		link, err := netlink.LinkByName(port)
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetMaster(link, at), netlink.LinkSetUp(link))
	}))
	return b
}

func (b *box) data() string { return filepath.Join(b.h.dir, b.name) }
func (b *box) url() string  { return fmt.Sprintf("https://%s:6443", b.ip) }

// skiff runs a command on the machine until it ends.
func (b *box) skiff(args ...string) (string, error) {
	cmd := exec.CommandContext(b.h.ctx, b.h.self, args...)
	cmd.Env = append(os.Environ(), asProgram+"=skiff")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := b.ns.RunIn(cmd, func() {})
	return strings.TrimSpace(out.String()), err
}

// start runs skiff on the machine as a service manager would, and returns when it
// says that it is ready.
func (b *box) start(args ...string) {
	b.h.t.Helper()
	if err := b.launch("skiff", args...); err != nil {
		b.h.t.Fatalf("%s: skiff %s: %v\n%s", b.name, strings.Join(args, " "), err, b.process.log)
	}
}

func (b *box) launch(program string, args ...string) error {
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(b.h.dir, b.name+".notify"), Net: "unixgram"})
	if err != nil {
		return err
	}
	defer os.Remove(manager.LocalAddr().String())
	defer manager.Close()
	p := &process{cmd: exec.Command(b.h.self, args...), log: &logBuffer{}, ended: make(chan struct{})}
	b.process = p
	p.cmd.Env = append(os.Environ(), asProgram+"="+program, "NOTIFY_SOCKET="+manager.LocalAddr().String())
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan struct{})
	go func() {
		defer close(p.ended)
		p.err = b.ns.RunIn(p.cmd, func() { close(started) })
	}()
	select {
	case <-p.ended:
		return p.err
	case <-started:
	}
	b.h.t.Cleanup(p.kill)
	return p.awaitReady(b.h.ctx, manager)
}

// awaitReady returns when the process has said so, or has ended.
func (p *process) awaitReady(ctx context.Context, manager *net.UnixConn) error {
	said := make(chan struct{})
	defer close(said)
	go func() {
		select {
		case <-p.ended:
		case <-ctx.Done():
		case <-said:
			return
		}
		manager.SetReadDeadline(time.Now())
	}()
	state := make([]byte, 64)
	for {
		n, err := manager.Read(state)
		if err != nil {
			return fmt.Errorf("not ready: %w", err)
		}
		if string(state[:n]) == "READY=1" {
			return nil
		}
	}
}

// kill ends it as a power cut does.
func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.ended
}

// stop ends the machine's process as a service manager does.
func (b *box) stop() {
	b.h.t.Helper()
	must(b.h.t, b.process.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-b.process.ended:
		if b.process.err != nil {
			b.h.t.Fatalf("%s did not end in order: %v\n%s", b.name, b.process.err, b.process.log)
		}
	case <-b.h.ctx.Done():
		b.h.t.Fatalf("%s did not end\n%s", b.name, b.process.log)
	}
}

// dial connects from the machine.
func (b *box) dial(_ context.Context, network, address string) (conn net.Conn, err error) {
	failed := b.ns.In(func() error {
		conn, err = (&net.Dialer{Timeout: 5 * time.Second}).Dial(network, address)
		return nil
	})
	return conn, errors.Join(failed, err)
}

// admin is a client with the administrator's rights, on a server.
func (b *box) admin() client.Client {
	b.h.t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", cluster.AdminKubeconfig(b.data()))
	must(b.h.t, err)
	config.Dial = b.dial
	c, err := client.NewRemote(config, "test")
	must(b.h.t, err)
	return c
}

// server starts a server on the machine.
func (b *box) server(more ...string) {
	b.h.t.Helper()
	b.start(append([]string{"server", "--data-dir", b.data(), "--node-name", b.name}, more...)...)
}

// agent starts an agent on the machine.
func (b *box) agent(more ...string) {
	b.h.t.Helper()
	b.start(append([]string{"agent", "--data-dir", b.data(), "--node-name", b.name}, more...)...)
}

// token makes a token on a server.
func (b *box) token(more ...string) string {
	b.h.t.Helper()
	out, err := b.skiff(append([]string{"token", "create", "--data-dir", b.data()}, more...)...)
	if err != nil {
		b.h.t.Fatalf("token create: %v\n%s", err, out)
	}
	return out
}

// until follows a source until it looks as wanted.
func (h *hall) until(c client.Client, what string, source client.Source, done func(*client.View) bool) {
	h.t.Helper()
	if err := waitFor(h.ctx, c, source, done); err != nil {
		h.t.Fatalf("%s: %v", what, err)
	}
}

// running tells whether a pod of that name runs and is ready.
func running(name string) func(*client.View) bool {
	return func(v *client.View) bool {
		p, ok := client.Find[*corev1.Pod](v, "default", name)
		if !ok || p.Status.Phase != corev1.PodRunning {
			return false
		}
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodReady {
				return c.Status == corev1.ConditionTrue
			}
		}
		return false
	}
}

// pod makes a pod for a node.
func pod(name, node string, container corev1.Container) *corev1.Pod {
	p := &corev1.Pod{}
	p.Namespace, p.Name, p.Labels = "default", name, map[string]string{"app": name}
	p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: node}
	p.Spec.Containers = []corev1.Container{container}
	return p
}

// refused runs a command that must fail, and say why.
func (b *box) refused(because string, args ...string) {
	b.h.t.Helper()
	out, err := b.skiff(args...)
	if err == nil || !strings.Contains(out, because) {
		b.h.t.Errorf("skiff %s: %v, want %q in\n%s", strings.Join(args, " "), err, because, out)
	}
}

// A server, a node with containers and one without: what joins and what does not,
// and what goes on while parts are away.
func TestMachines(t *testing.T) {
	t.Parallel()
	h, m := newHall(t, 3)
	first, real, pretended := m[0], m[1], m[2]
	for _, needed := range []string{"runtime/containerd", "runtime/runc", "skiff-cni"} {
		if _, err := os.Stat(filepath.Join(h.dir, "bin", needed)); err != nil {
			t.Skipf("skipped: bin/%s is not built (make build)", needed)
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("skipped: busybox-static is not installed")
	}
	first.server("--no-agent")
	admin := first.admin()
	token := first.token()

	agent := func(b *box, token string) []string {
		return []string{"agent", "--data-dir", b.data(), "--node-name", b.name, "--runtime", "simulated", "--server", first.url(), "--token", token}
	}
	id, rest, _ := strings.Cut(token, ".")
	secret, pin, _ := strings.Cut(rest, ".")
	pretended.refused("is not of the cluster that the token pins", agent(pretended, id+"."+secret+"."+strings.Repeat("0", 64))...)
	pretended.refused("does not know the token", agent(pretended, id+".aaaaaaaaaaaaaaaa."+pin)...)
	expired, err := cluster.CreateToken(h.ctx, admin, pin, time.Millisecond, false)
	must(t, err)
	pretended.refused("or it has expired", agent(pretended, expired.String())...)
	pretended.refused("ID.SECRET.PIN", agent(pretended, "nonsense")...)
	pretended.refused("is not a server's", "server", "--data-dir", filepath.Join(h.dir, "x"), "--node-name", "x", "--no-agent", "--join", first.url(), "--token", token)

	pretended.agent("--runtime", "simulated", "--server", first.url(), "--token", token, "--node-labels", "kind=pretended")
	real.agent("--server", first.url(), "--token", token)
	t.Cleanup(func() {
		real.process.kill()
		if out, err := real.skiff("agent", "--end", "--data-dir", real.data(), "--node-name", real.name); err != nil {
			t.Errorf("agent --end: %v\n%s", err, out)
		}
	})
	h.until(admin, "nodes are ready", client.Source{Resource: api.For[*corev1.Node]()}, func(v *client.View) bool { return readyNodes(v) == 2 })
	_, err = client.Create(h.ctx, admin, pod("pretended", pretended.name, corev1.Container{Name: "c", Image: "any"}))
	must(t, err)
	web := serveFiles(t, h, admin, real.name, busybox)
	h.until(admin, "pods run", client.Source{Resource: api.For[*corev1.Pod](), Namespace: "default"}, func(v *client.View) bool {
		return running("pretended")(v) && running("web")(v)
	})
	h.until(admin, "the service is served", client.Source{Resource: api.For[*discoveryv1.EndpointSlice](), Namespace: "default"}, func(v *client.View) bool {
		return slices.ContainsFunc(slices.Collect(client.All[*discoveryv1.EndpointSlice](v, "default")), func(s *discoveryv1.EndpointSlice) bool {
			return s.Labels[discoveryv1.LabelServiceName] == "web" && len(s.Endpoints) == 1
		})
	})
	h.eventually("the service answers", func() error { return h.answers(real, web) })
	h.eventually("the service has a name", func() error { return h.named(real, web) })
	before := h.containerOf(admin, "web")

	// The control plane goes; what runs goes on.
	first.stop()
	must(t, h.answers(real, web))
	must(t, h.named(real, web))
	// The agent dies meanwhile, and the next one has nobody to ask: it waits, and what
	// runs goes on under it.
	real.process.kill()
	ready := make(chan error, 1)
	go func() {
		ready <- real.launch("skiff", "agent", "--data-dir", real.data(), "--node-name", real.name)
	}()
	socket := filepath.Join(real.data(), "agent", "run", "containerd.sock")
	h.eventually("its containerd is there again", func() error {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			conn.Close()
		}
		return err
	})
	must(t, h.answers(real, web))
	select {
	case err := <-ready:
		t.Fatalf("the agent is ready without a server (%v)\n%s", err, real.process.log)
	default:
	}
	first.server("--no-agent")
	must(t, <-ready)
	h.eventually("the service has a name again", func() error { return h.named(real, web) })
	// And when all are there, the agent of the containers goes.
	real.stop()
	must(t, h.answers(real, web))
	real.agent()
	admin = first.admin()
	if after := h.containerOf(admin, "web"); after != before {
		t.Errorf("the container was started anew: %s became %s", before, after)
	}
	_, err = client.Create(h.ctx, admin, pod("later", pretended.name, corev1.Container{Name: "c", Image: "any"}))
	must(t, err)
	h.until(admin, "a later pod runs", client.Source{Resource: api.For[*corev1.Pod](), Namespace: "default"}, running("later"))
}

// serveFiles makes a pod that serves HTTP, and a service before it, and returns
// the service's address.
func serveFiles(t *testing.T, h *hall, admin client.Client, node, busybox string) string {
	t.Helper()
	pause, err := image.Pause("")
	must(t, err)
	reference, err := image.PauseReference(pause)
	must(t, err)
	file := corev1.HostPathFile
	p := pod("web", node, corev1.Container{
		Name: "c", Image: reference, ImagePullPolicy: corev1.PullNever, Command: []string{"/busybox", "httpd", "-f", "-p", "8080", "-h", "/"},
		VolumeMounts:   []corev1.VolumeMount{{Name: "busybox", MountPath: "/busybox"}},
		ReadinessProbe: &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(8080)}}},
	})
	p.Spec.Volumes = []corev1.Volume{{Name: "busybox", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: busybox, Type: &file}}}}
	_, err = client.Create(h.ctx, admin, p)
	must(t, err)
	service, err := client.Create(h.ctx, admin, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}},
	})
	must(t, err)
	return service.Spec.ClusterIP
}

// eventually tries until it works: what writes a node's tables tells nobody when it has.
func (h *hall) eventually(what string, try func() error) {
	h.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("%s: %v", what, err)
		}
	}
}

// named asks the cluster's name service, on the machine, for the service's address.
func (h *hall) named(b *box, ip string) error {
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return b.dial(ctx, network, "10.96.0.10:53")
	}}
	found, err := resolver.LookupHost(h.ctx, "web.default.svc.cluster.local.")
	if err == nil && !slices.Contains(found, ip) {
		err = fmt.Errorf("its name is %v, want %s", found, ip)
	}
	return err
}

// answers asks the service at its address, on the machine.
func (h *hall) answers(b *box, ip string) error {
	conn, err := b.dial(h.ctx, "tcp", net.JoinHostPort(ip, "80"))
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	fmt.Fprintf(conn, "GET /none HTTP/1.0\r\n\r\n")
	answer, err := io.ReadAll(conn)
	if !bytes.Contains(answer, []byte("404")) {
		return fmt.Errorf("it answered %q (%v)", answer, err)
	}
	return nil
}

// containerOf is the id of a pod's container.
func (h *hall) containerOf(c client.Client, name string) string {
	h.t.Helper()
	p, err := client.Get[*corev1.Pod](h.ctx, c, "default", name)
	must(h.t, err)
	if len(p.Status.ContainerStatuses) == 0 {
		return ""
	}
	return fmt.Sprint(p.Status.ContainerStatuses[0].ContainerID, " restarted ", p.Status.ContainerStatuses[0].RestartCount)
}

// serveEtcd is an etcd of its own process, at a URL, with certificates in dir, until
// it is asked to end.
func serveEtcd(dir, url string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	s, err := store.OpenEmbedded(ctx, store.EmbeddedConfig{
		Dir: filepath.Join(dir, "data"), ClientURLs: []string{url},
		ClientTLS: &store.TLSFiles{Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key"), CA: filepath.Join(dir, "ca.crt")},
	})
	if err != nil {
		return err
	}
	notify("READY=1")
	<-ctx.Done()
	return s.Close()
}

// leader names the server that leads etcd now, as another tells.
func (h *hall) leader(asked *box) string {
	h.t.Helper()
	out, err := asked.skiff("server", "list", "--data-dir", asked.data())
	if err != nil || strings.Count(out, "voter") != 2 {
		h.t.Fatalf("server list: %v\n%s", err, out)
	}
	for line := range strings.Lines(out) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[1] == "leader" {
			return fields[0]
		}
	}
	h.t.Fatalf("nobody leads:\n%s", out)
	return ""
}

// Three servers: the one that leads is killed while others write. Every write that
// was acknowledged is there, the others go on, and it comes back.
func TestThreeServers(t *testing.T) {
	t.Parallel()
	h, m := newHall(t, 4)
	quick := []string{"--no-agent", "--leader-elect-lease-duration", "4s"}
	m[0].server(quick...)
	token := m[0].token("--server")
	for _, b := range m[1:3] {
		b.server(append([]string{"--join", m[0].url(), "--token", token}, quick...)...)
	}
	m[3].agent("--runtime", "simulated", "--server", m[0].url(), "--token", m[0].token())
	admin := m[1].admin()
	endpoints := func(n int) func(*client.View) bool {
		return func(v *client.View) bool {
			e, ok := client.Find[*corev1.Endpoints](v, "default", "kubernetes")
			return ok && len(e.Subsets) == 1 && len(e.Subsets[0].Addresses) == n
		}
	}
	source := client.Source{Resource: api.For[*corev1.Endpoints](), Namespace: "default"}
	h.until(admin, "all servers are endpoints", source, endpoints(3))

	// Controllers and scheduler are led by m1, which was first; who leads etcd is asked.
	// The one who writes speaks to a server that stays.
	leads := h.leader(m[1])
	dead := m[slices.IndexFunc(m, func(b *box) bool { return b.name == leads })]
	rest := slices.DeleteFunc(slices.Clone(m[:3]), func(b *box) bool { return b == dead })
	admin = rest[0].admin()
	written := make(chan []string)
	enough := make(chan struct{})
	go func() { written <- h.write(admin, enough) }()
	<-enough
	dead.process.kill()
	acknowledged := <-written
	for _, b := range rest {
		h.has(b.admin(), acknowledged)
	}
	if now := h.leader(rest[0]); now == dead.name {
		t.Errorf("%s is dead and leads", now)
	}
	// Leases end in 4 s at most: then others lead, and know that it is gone.
	_, err := client.Create(h.ctx, admin, pod("after", m[3].name, corev1.Container{Name: "c", Image: "any"}))
	must(t, err)
	h.until(admin, "a pod is scheduled and runs", client.Source{Resource: api.For[*corev1.Pod](), Namespace: "default"}, running("after"))
	h.until(admin, "the dead server is no endpoint", source, endpoints(2))
	dead.server(quick...) // it remembers that it is a member
	h.has(dead.admin(), acknowledged)
	h.until(dead.admin(), "it is an endpoint again", source, endpoints(3))
	if out, err := rest[0].skiff("server", "remove", rest[1].name, "--data-dir", rest[0].data()); err != nil {
		t.Errorf("server remove: %v\n%s", err, out)
	}
	select { // it is none any more, and ends
	case <-rest[1].process.ended:
	case <-h.ctx.Done():
		t.Error("the server that was removed goes on")
	}
}

// write writes three hundred config maps and returns the names of those whose writes
// were acknowledged. enough is closed after the first twenty.
func (h *hall) write(c client.Client, enough chan struct{}) (acknowledged []string) {
	for i := 0; i < 300; i++ {
		name := fmt.Sprintf("written-%d", i)
		ctx, cancel := context.WithTimeout(h.ctx, 5*time.Second)
		_, err := client.Create(ctx, c, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}})
		cancel()
		if err == nil {
			acknowledged = append(acknowledged, name)
		}
		if i == 20 {
			close(enough)
		}
	}
	return acknowledged
}

// has fails unless all config maps of those names are there.
func (h *hall) has(c client.Client, names []string) {
	h.t.Helper()
	found, err := client.List[*corev1.ConfigMap](h.ctx, c, client.ListOptions{Namespace: "default"})
	must(h.t, err)
	there := map[string]bool{}
	for _, m := range found {
		there[m.Name] = true
	}
	if len(names) < 50 {
		h.t.Errorf("only %d writes were acknowledged", len(names))
	}
	for _, name := range names {
		if !there[name] {
			h.t.Errorf("%s was acknowledged and is not there", name)
		}
	}
}

// Two servers on an etcd that is a program of its own.
func TestExternalEtcd(t *testing.T) {
	t.Parallel()
	h, m := newHall(t, 3)
	dir := filepath.Join(h.dir, "etcd")
	ca, err := pki.NewAuthority("etcd", time.Now())
	must(t, err)
	must(t, os.Mkdir(dir, 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "ca.crt"), ca.PEM(), 0o600))
	cert, err := ca.Issue(pki.Leaf{CommonName: "etcd", IPs: []net.IP{m[0].ip.AsSlice()}, Client: true, Server: true}, time.Now())
	must(t, err)
	key, err := pki.EncodeTLSKey(cert)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "tls.crt"), pki.EncodeCertificate(cert.Certificate[0]), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "tls.key"), key, 0o600))
	url := fmt.Sprintf("https://%s:2379", m[0].ip)
	must(t, m[0].launch("etcd", dir, url))

	etcd := []string{"--no-agent", "--etcd-endpoints", url, "--etcd-cafile", filepath.Join(dir, "ca.crt"),
		"--etcd-certfile", filepath.Join(dir, "tls.crt"), "--etcd-keyfile", filepath.Join(dir, "tls.key")}
	m[1].server(etcd...)
	// A server with keys of its own would be a stranger in the cluster.
	m[2].refused("other keys", append([]string{"server", "--data-dir", filepath.Join(h.dir, "x"), "--node-name", "x"}, etcd...)...)
	m[2].server(append(etcd, "--join", m[1].url(), "--token", m[1].token("--server"))...)

	_, err = client.Create(h.ctx, m[1].admin(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "here"}})
	must(t, err)
	h.until(m[2].admin(), "the other server shows it, with what controllers add", client.Source{Resource: api.For[*corev1.ServiceAccount](), Namespace: "here"}, func(v *client.View) bool {
		_, ok := client.Find[*corev1.ServiceAccount](v, "here", "default")
		return ok
	})
	m[1].stop() // in order: the other takes over at once
	_, err = client.Create(h.ctx, m[2].admin(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "there"}})
	must(t, err)
	h.until(m[2].admin(), "the other server leads", client.Source{Resource: api.For[*corev1.ServiceAccount](), Namespace: "there"}, func(v *client.View) bool {
		_, ok := client.Find[*corev1.ServiceAccount](v, "there", "default")
		return ok
	})
}
