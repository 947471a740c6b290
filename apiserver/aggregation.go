package apiserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/transport"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"skiff/api"
	"skiff/cache"
)

// Aggregation: an APIService that names a service hands a group and version over to
// another API server in the cluster. Requests for it are authenticated and
// authorized here, and passed on with the name of who asks, which that server
// believes because of the certificate that this one shows it. What is served there
// is part of discovery here.

var apiServiceRow = api.For[*apiregistrationv1.APIService]()

// aggregation is what the server knows of the API servers behind APIServices.
type aggregation struct {
	mu sync.Mutex
	// transports by APIService; one whose object has changed is made anew.
	transports map[string]*serviceTransport
	// found is what discovery found behind each APIService lately.
	found  map[string]*metav1.APIResourceList
	stale  map[schema.GroupVersion]bool // found once, but not now
	merged *discoverySet                // discovery with what was found; nil: to be made
	of     *documents                   // what merged was made from
}

type serviceTransport struct {
	revision int64
	*http.Transport
}

func newAggregation() *aggregation {
	return &aggregation{transports: map[string]*serviceTransport{}, found: map[string]*metav1.APIResourceList{}, stale: map[schema.GroupVersion]bool{}}
}

// handedOver returns the APIService that a request is for; nil: it is for this server.
func (s *Server) handedOver(r *Request) (*apiregistrationv1.APIService, *cache.Entry) {
	if r.HTTP == nil || r.Resource != nil && !r.missing {
		return nil, nil
	}
	var group, version string
	if r.Resource != nil {
		group, version = r.Resource.Group, r.Resource.Version
	} else {
		parts := strings.Split(strings.Trim(r.Path, "/"), "/")
		if len(parts) > 2 && parts[0] == "openapi" && parts[1] == "v3" {
			parts = parts[2:] // /openapi/v3/apis/GROUP/VERSION
		}
		if len(parts) != 3 || parts[0] != "apis" {
			return nil, nil
		}
		group, version = parts[1], parts[2]
	}
	table := s.table(apiServiceRow)
	if table == nil || group == "" {
		return nil, nil
	}
	entry, ok := table.Get("", version+"."+group)
	if !ok || entry.Err() != nil {
		return nil, nil
	}
	service := entry.Object().(*apiregistrationv1.APIService)
	if service.Spec.Service == nil {
		return nil, nil
	}
	return service, entry
}

// handOver passes a request on to the API server behind an APIService.
func (s *Server) handOver(r *Request, service *apiregistrationv1.APIService, entry *cache.Entry) (*Result, error) {
	if !available(service) {
		return nil, apierrors.NewServiceUnavailable("service unavailable")
	}
	rt, err := s.aggregation.transport(s, service, entry)
	if err != nil {
		return nil, err
	}
	return s.streaming(r, func(w http.ResponseWriter, req *http.Request) {
		out := req.Clone(req.Context())
		out.Header.Del("Authorization")
		transport.SetAuthProxyHeaders(out, r.User.GetName(), r.User.GetUID(), r.User.GetGroups(), r.User.GetExtra())
		h := proxy.NewUpgradeAwareHandler(&url.URL{Scheme: "https", Host: hostOf(service.Spec.Service), Path: req.URL.Path, RawQuery: req.URL.RawQuery}, rt, false, false, s.responder(r))
		h.UseRequestLocation, h.UseLocationHost = true, true
		out.URL.Scheme, out.URL.Host = "https", hostOf(service.Spec.Service)
		h.ServeHTTP(w, out)
	}), nil
}

func available(service *apiregistrationv1.APIService) bool {
	return slices.ContainsFunc(service.Status.Conditions, func(c apiregistrationv1.APIServiceCondition) bool {
		return c.Type == apiregistrationv1.Available && c.Status == apiregistrationv1.ConditionTrue
	})
}

// hostOf is the name that the server's certificate must be for.
func hostOf(ref *apiregistrationv1.ServiceReference) string {
	return net.JoinHostPort(ref.Name+"."+ref.Namespace+".svc", strconv.Itoa(portOf(ref)))
}

func portOf(ref *apiregistrationv1.ServiceReference) int {
	if ref.Port == nil {
		return 443
	}
	return int(*ref.Port)
}

// transport returns the connections to the server behind an APIService.
func (a *aggregation) transport(s *Server, service *apiregistrationv1.APIService, entry *cache.Entry) (*http.Transport, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if have := a.transports[service.Name]; have != nil {
		if have.revision == entry.Revision() {
			return have.Transport, nil
		}
		have.CloseIdleConnections()
	}
	ref := service.Spec.Service
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: ref.Name + "." + ref.Namespace + ".svc", InsecureSkipVerify: service.Spec.InsecureSkipTLSVerify}
	if len(service.Spec.CABundle) > 0 {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(service.Spec.CABundle) {
			return nil, apierrors.NewServiceUnavailable("the caBundle of APIService " + service.Name + " has no certificate")
		}
	}
	if own := s.frontConfig.ProxyCertificate; own != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own() }
	}
	t := &http.Transport{
		TLSClientConfig: config, MaxIdleConnsPerHost: 25,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return s.dialService(ctx, ref.Namespace, ref.Name, portOf(ref))
		},
	}
	a.transports[service.Name] = &serviceTransport{entry.Revision(), t}
	return t, nil
}

// close ends idle connections.
func (a *aggregation) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, t := range a.transports {
		t.CloseIdleConnections()
	}
}

// get asks the server behind an APIService, as a member of system:masters.
func (s *Server) getBehind(ctx context.Context, service *apiregistrationv1.APIService, entry *cache.Entry, path string) (*http.Response, error) {
	t, err := s.aggregation.transport(s, service, entry)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+hostOf(service.Spec.Service)+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	transport.SetAuthProxyHeaders(req, "system:kube-aggregator", "", []string{user.SystemPrivilegedGroup}, nil)
	return (&http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("redirects are not followed") }}).Do(req)
}

// discovery is what there is, here and behind APIServices.
func (s *Server) discovery() *discoverySet {
	own := s.customs.served().documents
	a := s.aggregation
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.found) == 0 {
		return own.get()
	}
	if a.merged == nil || a.of != own {
		rows := slices.Clone(own.rows)
		for _, list := range a.found {
			rows = append(rows, rowsOf(list)...)
		}
		set := newDiscoverySet(rows)
		set.stale = make(map[schema.GroupVersion]bool, len(a.stale))
		for gv := range a.stale {
			set.stale[gv] = true
		}
		a.merged, a.of = &set, own
	}
	return a.merged
}

// note takes in what discovery found behind an APIService; nil: nothing answered.
func (a *aggregation) note(service *apiregistrationv1.APIService, found *metav1.APIResourceList) {
	gv := schema.GroupVersion{Group: service.Spec.Group, Version: service.Spec.Version}
	a.mu.Lock()
	defer a.mu.Unlock()
	if found != nil {
		a.found[service.Name] = found
		delete(a.stale, gv)
	} else if a.found[service.Name] != nil {
		a.stale[gv] = true
	}
	a.merged = nil
}

// forget drops what is known of APIServices that are gone.
func (a *aggregation) forget(there func(name string) bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for name, t := range a.transports {
		if !there(name) {
			t.CloseIdleConnections()
			delete(a.transports, name)
		}
	}
	for name, list := range a.found {
		if there(name) {
			continue
		}
		if gv, err := schema.ParseGroupVersion(list.GroupVersion); err == nil {
			delete(a.stale, gv)
		}
		delete(a.found, name)
		a.merged = nil
	}
}

// rowsOf makes of another server's discovery rows that ours is made from.
func rowsOf(list *metav1.APIResourceList) (rows []*api.Resource) {
	gv, err := schema.ParseGroupVersion(list.GroupVersion)
	if err != nil {
		return nil
	}
	byName := map[string]*api.Resource{}
	for _, r := range list.APIResources {
		if strings.Contains(r.Name, "/") {
			continue
		}
		row := &api.Resource{Group: gv.Group, Version: gv.Version, Name: r.Name, KindName: r.Kind, Singular: r.SingularName,
			Short: r.ShortNames, Categories: r.Categories, Namespaced: r.Namespaced, Verbs: sortedVerbs(r.Verbs)}
		byName[r.Name] = row
		rows = append(rows, row)
	}
	for _, r := range list.APIResources {
		name, sub, ok := strings.Cut(r.Name, "/")
		if row := byName[name]; ok && row != nil {
			kind := schema.GroupVersionKind{Group: r.Group, Version: r.Version, Kind: r.Kind}
			if kind.Version == "" {
				kind = gv.WithKind(r.Kind)
			}
			row.Actions = append(row.Actions, api.Action{Name: sub, Kind: kind, Verbs: sortedVerbs(r.Verbs)})
		}
	}
	return rows
}

func sortedVerbs(verbs []string) []string {
	out := slices.Sorted(slices.Values(verbs))
	if out == nil {
		out = []string{} // nil would mean all
	}
	return out
}

// aggregatedOpenAPI are the paths of documents that other servers have, by the
// hash that changes with them.
func (s *Server) aggregatedOpenAPI() map[string]string {
	a := s.aggregation
	a.mu.Lock()
	defer a.mu.Unlock()
	paths := map[string]string{}
	for _, list := range a.found {
		paths["apis/"+list.GroupVersion] = fmt.Sprint(list)
	}
	return paths
}
