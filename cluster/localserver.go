package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apiserver/pkg/authentication/user"

	"skiff/apiserver"
	"skiff/client"
	"skiff/cluster/local"
	"skiff/cluster/pki"
	"skiff/registry"
	"skiff/store"
)

// RegistryName is the host that means the cluster's own registry in image references.
const RegistryName = "registry.skiff.local"

// RunLocalServer runs the server process of a local cluster until ctx ends:
// store, control plane, registry, and with the simulated runtime the nodes too.
// ready is called when clients can use it.
func RunLocalServer(ctx context.Context, dir string, log *slog.Logger, ready func()) error {
	dirs := local.Dirs(dir)
	spec, err := local.Load(dir)
	if err != nil {
		return err
	}
	keys, err := LoadKeys(dirs.Keys())
	if err != nil {
		return err
	}
	listeners, err := listenLocal(spec, spec.APIPort)
	if err != nil {
		return err
	}
	backing, err := store.OpenEmbedded(ctx, store.EmbeddedConfig{Dir: dirs.Store(), Logger: log})
	if err != nil {
		return err
	}
	defer func() {
		if err := backing.Close(); err != nil {
			log.Error("the store did not close", "error", err)
		}
	}()
	config := ControlPlaneConfig{
		Store: backing, Keys: keys, Listeners: listeners,
		ServiceCIDRs: []string{spec.Ranges().Services.String()},
		// The lock on the data directory makes sure that an earlier process of this
		// identity is dead.
		Identity: spec.Name + "_server", Logger: log,
	}
	var simulated *SimulatedNodes
	if onBridge(spec) {
		host := spec.Ranges().Host()
		config.IPs = []net.IP{host.AsSlice()}
		config.Advertise = apiserver.Advertise{IP: host.String(), Port: int32(spec.APIPort)}
	}
	if spec.Runtime == local.Simulated {
		simulated = NewSimulatedNodes()
		config.Nodes = simulated
	}
	plane, err := NewControlPlane(config)
	if err != nil {
		return err
	}
	compactor, err := store.NewCompactor(store.CompactorConfig{Store: backing, Logger: log})
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return plane.Run(ctx) })
	group.Go(func() error { return compactor.Run(ctx) })
	group.Go(func() error { giveBack(ctx, plane.Ready()); return nil })
	if spec.Runtime == local.Containerd {
		group.Go(func() error { return runRegistry(ctx, dirs, spec, log) })
	}
	group.Go(func() error {
		select {
		case <-plane.Ready():
		case <-ctx.Done():
			return nil
		}
		if err := ensureNameService(ctx, plane.Client(operator, "skiff"), spec.Ranges().DNS()); err != nil {
			return fmt.Errorf("service kube-dns: %w", err)
		}
		if onBridge(spec) {
			operator := plane.Client(operator, "skiff")
			events := client.NewRecorder(client.RecorderConfig{Client: operator, Component: "skiff", Logger: log})
			ports := &localPorts{client: operator, record: events, log: log}
			group.Go(func() error { return events.Run(ctx) })
			group.Go(func() error { return ports.run(ctx) })
		}
		if simulated != nil {
			if err := simulated.Start(ctx, plane, len(spec.Nodes), log); err != nil {
				return err
			}
		}
		ready()
		return nil
	})
	err = group.Wait()
	if simulated != nil {
		err = errors.Join(err, simulated.Wait())
	}
	return err
}

// operator is who the cluster's own objects are written by.
var operator = &user.DefaultInfo{Name: "skiff", Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated}}

// onBridge tells whether the cluster's nodes stand on a bridge of this machine.
func onBridge(spec *local.Spec) bool { return spec.Runtime == local.Containerd && len(spec.Nodes) > 0 }

// listenLocal listens on loopback, and on the bridge where nodes are.
func listenLocal(spec *local.Spec, port int) (listeners []net.Listener, err error) {
	hosts := []string{"127.0.0.1"}
	if onBridge(spec) {
		hosts = append(hosts, spec.Ranges().Host().String())
	}
	for _, host := range hosts {
		l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err != nil {
			for _, open := range listeners {
				open.Close()
			}
			return nil, fmt.Errorf("listen for the API: %w", err)
		}
		listeners = append(listeners, l)
	}
	return listeners, nil
}

// runRegistry serves images: pushed from this machine only, pulled by nodes too.
func runRegistry(ctx context.Context, dirs local.Dirs, spec *local.Spec, log *slog.Logger) error {
	images, err := registry.New(registry.Config{
		Dir: dirs.Registry(), Names: []string{RegistryName}, Logger: log,
		MayPush: func(r *http.Request) bool {
			host, _, err := net.SplitHostPort(r.RemoteAddr)
			return err == nil && net.ParseIP(host).IsLoopback()
		},
	})
	if err != nil {
		return err
	}
	defer images.Close()
	listeners, err := listenLocal(spec, spec.RegistryPort)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: images, ReadHeaderTimeout: 10 * time.Second}
	group, ctx := errgroup.WithContext(ctx)
	context.AfterFunc(ctx, func() { server.Close() })
	for _, l := range listeners {
		group.Go(func() error {
			if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve registry: %w", err)
			}
			return nil
		})
	}
	group.Go(func() error { return images.Run(ctx) })
	return group.Wait()
}

// ensureNameService writes the service by which pods know the cluster's DNS. It
// has no selector: each node's agent answers at the address itself.
func ensureNameService(ctx context.Context, c client.Client, addresses ...netip.Addr) error {
	if _, err := client.Get[*corev1.Service](ctx, c, metav1.NamespaceSystem, "kube-dns"); !apierrors.IsNotFound(err) {
		return err
	}
	families := corev1.IPFamilyPolicySingleStack
	if len(addresses) > 1 {
		families = corev1.IPFamilyPolicyRequireDualStack
	}
	_, err := client.Create(ctx, c, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: metav1.NamespaceSystem, Name: "kube-dns",
			Labels: map[string]string{"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"},
		},
		Spec: corev1.ServiceSpec{
			ClusterIP: addresses[0].String(), ClusterIPs: texts(addresses), IPFamilyPolicy: &families,
			Ports: []corev1.ServicePort{
				{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP, TargetPort: intstr.FromInt32(53)},
				{Name: "dns-tcp", Port: 53, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(53)},
			},
		},
	})
	if apierrors.IsAlreadyExists(err) {
		return nil // another server was faster
	}
	return err
}

// AdminAccess issues a certificate of the cluster's administrator.
func AdminAccess(dir string) (local.Access, error) {
	spec, err := local.Load(dir)
	if err != nil {
		return local.Access{}, err
	}
	keys, err := LoadKeys(local.Dirs(dir).Keys())
	if err != nil {
		return local.Access{}, err
	}
	cert, err := keys.CA.Issue(pki.Leaf{CommonName: "kubernetes-admin", Organizations: []string{user.SystemPrivilegedGroup}, Client: true}, time.Now())
	if err != nil {
		return local.Access{}, err
	}
	key, err := pki.EncodeTLSKey(cert)
	if err != nil {
		return local.Access{}, err
	}
	return local.Access{
		Server: fmt.Sprintf("https://127.0.0.1:%d", spec.APIPort),
		CA:     keys.CA.PEM(), Certificate: pki.EncodeCertificate(cert.Certificate[0]), Key: key,
	}, nil
}
