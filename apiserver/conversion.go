package apiserver

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/conversion"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/rest"

	"skiff/apiserver/crd"
	"skiff/apiserver/openapi"
)

// definitionConfig is what definitions of custom resources need of the server:
// the way to conversion webhooks, and the schemas of metadata.
func (s *Server) definitionConfig() crd.Config {
	converters := sync.OnceValues(func() (*conversion.CRConverterFactory, error) {
		return conversion.NewCRConverterFactory(anyService{}, func(of webhook.AuthenticationInfoResolver) webhook.AuthenticationInfoResolver {
			return toServices{of, s}
		})
	})
	return crd.Config{
		Converter: func(d *apiextensionsv1.CustomResourceDefinition) (runtime.ObjectConvertor, error) {
			factory, err := converters()
			if err != nil {
				return nil, fmt.Errorf("set up conversion: %w", err)
			}
			safe, _, err := factory.NewConverter(d)
			return safe, err
		},
		Meta: openapi.MetaSchemas,
	}
}

// anyService leaves it to the dialer to find out where a service is.
type anyService struct{}

// ResolveEndpoint implements webhook.ServiceResolver.
func (anyService) ResolveEndpoint(namespace, name string, port int32) (*url.URL, error) {
	return &url.URL{Scheme: "https", Host: net.JoinHostPort(name+"."+namespace+".svc", strconv.Itoa(int(port)))}, nil
}

// toServices makes the server's own way to services that of webhooks, too: it may
// stand outside of the pods' network, and does not need the service proxy.
type toServices struct {
	webhook.AuthenticationInfoResolver
	s *Server
}

// ClientConfigForService implements webhook.AuthenticationInfoResolver.
func (t toServices) ClientConfigForService(name, namespace string, port int) (*rest.Config, error) {
	config, err := t.AuthenticationInfoResolver.ClientConfigForService(name, namespace, port)
	if err != nil {
		return nil, err
	}
	config.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return t.s.dialService(ctx, namespace, name, port)
	}
	return config, nil
}

// dialService connects to a ready endpoint of a service.
func (s *Server) dialService(ctx context.Context, namespace, name string, port int) (net.Conn, error) {
	service, err := live[*corev1.Service](ctx, s, namespace, name)
	if err != nil {
		return nil, err
	}
	if service == nil {
		return nil, apierrors.NewNotFound(corev1.Resource("services"), name)
	}
	portName, err := servicePortName(service, strconv.Itoa(port))
	if err != nil {
		return nil, err
	}
	if pod, target := s.backend(namespace, name, portName); pod != nil {
		return s.nodes.dialer.DialPod(ctx, pod, target)
	}
	for _, slice := range s.endpointSlices(namespace, labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: name})) {
		target := slicePort(slice, portName)
		for _, e := range slice.Endpoints {
			if target != 0 && e.TargetRef == nil && len(e.Addresses) > 0 && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
				var d net.Dialer
				return d.DialContext(ctx, "tcp", net.JoinHostPort(e.Addresses[0], strconv.Itoa(int(target))))
			}
		}
	}
	return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", name))
}
