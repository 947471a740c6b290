// Package upstream runs upstream's programs and etcd on this machine's loopback: a whole control plane, to compare with, or one of
// its components against another API server, to show that they are interchangeable. build.sh makes the programs. All data lies in
// a folder that the caller gives and removes, and no process outlives its caller.
package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Config says what is run.
type Config struct {
	Bin string // the folder with the programs. Required.
	Dir string // an empty folder for keys, data and logs. Required.
	// NoControllers and NoScheduler leave kube-controller-manager and kube-scheduler out, for others to take their place.
	NoControllers, NoScheduler bool
}

// ControlPlane is etcd and upstream's control plane.
type ControlPlane struct {
	c         Config
	keys      *keys
	server    string // https://127.0.0.1:port
	processes []*Process
	// How long it took from the start of the first process.
	APIReady, Ready time.Duration
}

// Start starts a control plane on empty data, and returns when it is ready: the API server says so, and where controllers run, the
// service account that pods need is there.
func Start(ctx context.Context, c Config) (*ControlPlane, error) {
	p := &ControlPlane{c: c}
	var err error
	if p.keys, err = newKeys(c.Dir); err != nil {
		return nil, err
	}
	if err := p.start(ctx); err != nil {
		p.Stop()
		return nil, err
	}
	return p, nil
}

func (p *ControlPlane) start(ctx context.Context) error {
	ports, err := FreePorts(4)
	if err != nil {
		return err
	}
	p.server = "https://127.0.0.1:" + strconv.Itoa(ports[0])
	began := time.Now()
	api, err := p.startAPI(ports)
	if err != nil {
		return err
	}
	admin, err := p.Admin()
	if err != nil {
		return err
	}
	if err := api.Until(ctx, Readyz(admin)); err != nil {
		return err
	}
	p.APIReady = time.Since(began)
	// Not earlier: without the roles that the API server makes first, kube-controller-manager ends.
	if !p.c.NoControllers {
		if err := p.startControllers(); err != nil {
			return err
		}
	}
	if !p.c.NoScheduler {
		if err := p.startScheduler(); err != nil {
			return err
		}
	}
	if !p.c.NoControllers {
		if err := api.Until(ctx, DefaultAccount(admin)); err != nil {
			return err
		}
	}
	p.Ready = time.Since(began)
	return nil
}

// startAPI starts etcd and kube-apiserver.
func (p *ControlPlane) startAPI(ports []int) (*Process, error) {
	etcd := "http://127.0.0.1:" + strconv.Itoa(ports[1])
	peers := "http://127.0.0.1:" + strconv.Itoa(ports[2])
	if _, err := p.run("etcd",
		"--data-dir="+filepath.Join(p.c.Dir, "etcd"), "--listen-client-urls="+etcd, "--advertise-client-urls="+etcd,
		"--listen-peer-urls="+peers, "--initial-advertise-peer-urls="+peers, "--initial-cluster=default="+peers, "--log-level=error",
	); err != nil {
		return nil, err
	}
	k := p.keys.path
	return p.run("kube-apiserver",
		"--etcd-servers="+etcd, "--bind-address=127.0.0.1", "--secure-port="+strconv.Itoa(ports[0]), "--cert-dir="+p.c.Dir,
		"--endpoint-reconciler-type=none", // a loopback address is none that pods could use
		"--tls-cert-file="+k("apiserver.crt"), "--tls-private-key-file="+k("apiserver.key"), "--client-ca-file="+k("ca.crt"),
		"--kubelet-client-certificate="+k("to-nodes.crt"), "--kubelet-client-key="+k("to-nodes.key"), "--kubelet-certificate-authority="+k("ca.crt"),
		"--proxy-client-cert-file="+k("front-proxy.crt"), "--proxy-client-key-file="+k("front-proxy.key"),
		"--requestheader-client-ca-file="+k("front-proxy-ca.crt"), "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group", "--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local", "--service-account-key-file="+k("sa.pub"), "--service-account-signing-key-file="+k("sa.key"),
		"--service-cluster-ip-range=10.96.0.0/16", "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
	)
}

func (p *ControlPlane) startControllers() error {
	user, err := p.keys.config(p.server, "system:kube-controller-manager")
	if err != nil {
		return err
	}
	process, err := RunControllers(p.c, user, p.keys.path("ca.crt"), p.keys.path("ca.key"), p.keys.path("sa.key"))
	return p.keep(process, err)
}

func (p *ControlPlane) startScheduler() error {
	user, err := p.keys.config(p.server, "system:kube-scheduler")
	if err != nil {
		return err
	}
	process, err := RunScheduler(p.c, user)
	return p.keep(process, err)
}

func (p *ControlPlane) keep(process *Process, err error) error {
	if err == nil {
		p.processes = append(p.processes, process)
	}
	return err
}

func (p *ControlPlane) run(program string, args ...string) (*Process, error) {
	process, err := Run(p.c.Dir, filepath.Join(p.c.Bin, program), args...)
	return process, p.keep(process, err)
}

// RunControllers runs kube-controller-manager as this user of any API server. Its limits on requests are off. The files are the
// authority that signs certificates, with its key, and the key of service account tokens; empty names leave that work undone.
func RunControllers(c Config, as *rest.Config, caFile, caKeyFile, accountsKeyFile string) (*Process, error) {
	args, err := asUser(c, "kube-controller-manager", as)
	if err != nil {
		return nil, err
	}
	args = append(args, "--use-service-account-credentials=true", "--controllers=*,bootstrapsigner,tokencleaner", "--allocate-node-cidrs=false")
	for flag, file := range map[string]string{
		"--root-ca-file=": caFile, "--cluster-signing-cert-file=": caFile, "--cluster-signing-key-file=": caKeyFile, "--service-account-private-key-file=": accountsKeyFile,
	} {
		if file != "" {
			args = append(args, flag+file)
		}
	}
	return Run(c.Dir, filepath.Join(c.Bin, "kube-controller-manager"), args...)
}

// RunScheduler runs kube-scheduler as this user of any API server. Its limits on requests are off.
func RunScheduler(c Config, as *rest.Config) (*Process, error) {
	args, err := asUser(c, "kube-scheduler", as)
	if err != nil {
		return nil, err
	}
	return Run(c.Dir, filepath.Join(c.Bin, "kube-scheduler"), args...)
}

// asUser is what both need to know.
func asUser(c Config, program string, as *rest.Config) ([]string, error) {
	kubeconfig := filepath.Join(c.Dir, program+".kubeconfig")
	if err := WriteKubeconfig(kubeconfig, as); err != nil {
		return nil, err
	}
	ports, err := FreePorts(1)
	if err != nil {
		return nil, err
	}
	return []string{
		"--kubeconfig=" + kubeconfig, "--authentication-kubeconfig=" + kubeconfig, "--authorization-kubeconfig=" + kubeconfig,
		"--bind-address=127.0.0.1", "--secure-port=" + strconv.Itoa(ports[0]), "--cert-dir=" + c.Dir,
		"--kube-api-qps=10000", "--kube-api-burst=10000",
	}, nil
}

// Admin is how the administrator reaches the API server.
func (p *ControlPlane) Admin() (*rest.Config, error) {
	return p.keys.config(p.server, "kubernetes-admin", "system:masters")
}

// User is how somebody else does.
func (p *ControlPlane) User(name string, groups ...string) (*rest.Config, error) {
	return p.keys.config(p.server, name, groups...)
}

// CAFile and CAKeyFile are the authority that signs the certificates of users and nodes.
func (p *ControlPlane) CAFile() string    { return p.keys.path("ca.crt") }
func (p *ControlPlane) CAKeyFile() string { return p.keys.path("ca.key") }

// Processes are those that run, etcd first.
func (p *ControlPlane) Processes() []*Process { return p.processes }

// Stop ends all processes, in reverse order.
func (p *ControlPlane) Stop() {
	for i := len(p.processes) - 1; i >= 0; i-- {
		p.processes[i].Stop()
	}
}

// Readyz asks an API server whether it is ready.
func Readyz(config *rest.Config) func(context.Context) error {
	return func(ctx context.Context) error {
		client, err := rest.HTTPClientFor(config)
		if err != nil {
			return err
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, config.Host+"/readyz", nil)
		if err != nil {
			return err
		}
		res, err := client.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			said, _ := io.ReadAll(io.LimitReader(res.Body, 4<<10)) // what of it came will do for a message
			return fmt.Errorf("/readyz says %s: %s", res.Status, said)
		}
		return nil
	}
}

// DefaultAccount asks whether pods can be created in the namespace default.
func DefaultAccount(config *rest.Config) func(context.Context) error {
	return func(ctx context.Context) error {
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			return err
		}
		_, err = client.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return errors.New("there is no service account default yet")
		}
		return err
	}
}

// FreePorts finds ports of 127.0.0.1 on which nobody listens.
func FreePorts(n int) (ports []int, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

// Check tells which programs are missing.
func Check(bin string, programs ...string) error {
	for _, p := range programs {
		if _, err := os.Stat(filepath.Join(bin, p)); err != nil {
			return fmt.Errorf("%w; `make upstream` builds it", err)
		}
	}
	return nil
}

func lockThread() { runtime.LockOSThread() }
