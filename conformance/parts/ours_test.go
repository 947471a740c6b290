package parts

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"skiff/client"
	"skiff/conformance/upstream"
	"skiff/controllers"
	"skiff/node"
	"skiff/node/runtime/simulated"
	"skiff/scheduler"
)

// Skiff's scheduler, controllers and node agent do their work on upstream's kube-apiserver, over HTTP, with the rights that its own
// policy gives their place: a certificate for scheduler, manager and node, a token for each controller's service account.
func TestSkiffsComponentsOnUpstream(t *testing.T) {
	folder := programs(t, "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
	t.Parallel()
	plane, err := upstream.Start(t.Context(), upstream.Config{Bin: folder, Dir: t.TempDir(), NoControllers: true, NoScheduler: true})
	ok(t, err)
	t.Cleanup(plane.Stop)
	t.Logf("upstream's API server is ready after %.1f s", plane.APIReady.Seconds())

	o := &ours{t: t, plane: plane, log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))}
	o.controllers()
	o.scheduler()
	o.node("node-1", netip.MustParsePrefix("10.0.1.0/24"))
	admin, err := plane.Admin()
	ok(t, err)
	k := open(t, admin)
	k.account("default")
	k.tellsAStory("web")
	k.namespaceComesAndGoes("shop")

	// All connections are lost, again and again, while it is told once more: what is followed goes on.
	ctx, enough := context.WithCancel(t.Context())
	cutting := make(chan int)
	go func() { cutting <- o.cable.cutUntil(ctx, 100*time.Millisecond) }()
	k.tellsAStory("again")
	enough()
	t.Logf("%d connections were cut", <-cutting)
	for _, component := range []string{"kube-controller-manager", "kube-scheduler"} {
		if holder := k.leads(component); holder != "skiff" {
			t.Errorf("%s is led by %q", component, holder)
		}
	}
}

// ours are Skiff's components on upstream's API server. Each ends with the test.
type ours struct {
	t     *testing.T
	plane *upstream.ControlPlane
	log   *slog.Logger
	cable cable
}

// cable is what the components' connections go through.
type cable struct {
	mu    sync.Mutex
	conns []net.Conn // guarded by mu; some have ended by themselves
}

func (c *cable) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.conns = append(c.conns, conn)
	}
	return conn, err
}

// cutUntil closes all connections from time to time until ctx ends, and returns how many those were.
func (c *cable) cutUntil(ctx context.Context, every time.Duration) (cut int) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return cut
		case <-tick.C:
		}
		c.mu.Lock()
		for _, conn := range c.conns {
			conn.Close() // an error: it has ended already
		}
		cut, c.conns = cut+len(c.conns), nil
		c.mu.Unlock()
	}
}

// as is the client of a user with a certificate.
func (o *ours) as(component, user string, groups ...string) client.Client {
	o.t.Helper()
	config, err := o.plane.User(user, groups...)
	ok(o.t, err)
	return o.remote(config, component)
}

func (o *ours) remote(config *rest.Config, component string) client.Client {
	o.t.Helper()
	config = rest.CopyConfig(config)
	config.Dial = o.cable.dial
	c, err := client.NewRemote(config, component)
	ok(o.t, err)
	return c
}

// run runs a component until the test ends.
func (o *ours) run(name string, run func(context.Context) error) {
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	o.t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			o.t.Errorf("%s ended with: %v", name, err)
		}
	})
}

func (o *ours) scheduler() {
	s, err := scheduler.New(scheduler.Config{Client: o.as("kube-scheduler", "system:kube-scheduler"), Identity: "skiff", Logger: o.log})
	ok(o.t, err)
	o.run("scheduler", s.Run)
}

func (o *ours) controllers() {
	const manager = "system:kube-controller-manager"
	config, err := o.plane.User(manager)
	ok(o.t, err)
	asManager, err := kubernetes.NewForConfig(config)
	ok(o.t, err)
	ca, err := os.ReadFile(o.plane.CAFile())
	ok(o.t, err)
	accounts := map[string]client.Client{}
	c := controllers.Config{
		Manager: o.as("kube-controller-manager", manager), Identity: "skiff", RootCA: ca, Logger: o.log,
		// It is called while the controllers are set up, for one after another.
		As: func(controller string) client.Client {
			if accounts[controller] == nil {
				accounts[controller] = o.remote(o.withToken(asManager, config, controller), controller)
			}
			return accounts[controller]
		},
	}
	o.run("controllers", func(ctx context.Context) error { return controllers.Run(ctx, c) })
}

// withToken is how the service account of a controller reaches the server: the manager makes the account, and asks for a token,
// as upstream's does.
func (o *ours) withToken(manager *kubernetes.Clientset, config *rest.Config, controller string) *rest.Config {
	ctx, accounts := context.Background(), manager.CoreV1().ServiceAccounts("kube-system")
	_, err := accounts.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: controller}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		o.t.Errorf("make the account of %s: %v", controller, err)
	}
	token, err := accounts.CreateToken(ctx, controller, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		o.t.Errorf("ask for the token of %s: %v", controller, err)
		token = &authenticationv1.TokenRequest{}
	}
	with := rest.AnonymousClientConfig(config)
	with.BearerToken, with.QPS = token.Status.Token, -1
	return with
}

// node runs a node whose pods only pretend to run.
func (o *ours) node(name string, pods netip.Prefix) {
	agent, err := node.New(node.Config{
		NodeName: name, Client: o.as("skiff-agent", "system:node:"+name, "system:nodes"), Runtime: simulated.New(simulated.Config{Pods: pods}), Simulated: true,
		NoServiceEnv: true, PodCIDRs: []string{pods.String()}, Logger: o.log,
	})
	ok(o.t, err)
	o.run("node "+name, agent.Run)
}
