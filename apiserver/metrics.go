package apiserver

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"k8s.io/component-base/metrics/legacyregistry"

	"skiff/apiserver/flow"
)

// metrics are the server's own, under the names that Kubernetes gives them, in
// a registry of its own: several servers live in one process.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	refused  *prometheus.CounterVec
	watching prometheus.Gauge

	sli        *prometheus.HistogramVec
	sizes      *prometheus.HistogramVec
	events     *prometheus.CounterVec
	eventSizes *prometheus.HistogramVec
	long       *prometheus.GaugeVec
	deprecated *prometheus.GaugeVec
}

// requestLabels name a request in most metrics.
var requestLabels = []string{"verb", "group", "version", "resource", "subresource", "scope", "component"}

func newMetrics(l *limiter, f *flow.Controller, objects prometheus.Collector) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "apiserver_request_total",
			Help: "Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code."},
			[]string{"verb", "dry_run", "group", "version", "resource", "subresource", "scope", "component", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "apiserver_request_duration_seconds",
			Help:    "Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.",
			Buckets: []float64{0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60}},
			[]string{"verb", "dry_run", "group", "version", "resource", "subresource", "scope", "component"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "apiserver_request_terminations_total",
			Help: "Number of requests which apiserver terminated in self-defense."},
			[]string{"verb", "group", "version", "resource", "subresource", "scope", "component", "code"}),
		watching: prometheus.NewGauge(prometheus.GaugeOpts{Name: "apiserver_registered_watchers", Help: "Number of currently registered watchers."}),
	}
	inFlight := func(kind string, gates ...*gate) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "apiserver_current_inflight_requests",
			Help: "Number of requests in flight.", ConstLabels: prometheus.Labels{"request_kind": kind}}, func() float64 {
			var n int64
			for _, g := range gates {
				n += g.taken.Load()
			}
			return float64(n)
		})
	}
	m.addMore()
	m.registry.MustRegister(objects, flowMetrics{f}, m.requests, m.duration, m.refused, m.watching,
		inFlight("readOnly", &l.reads), inFlight("mutating", &l.writes), inFlight("system", &l.system),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// observe counts one request that is over.
func (m *metrics) observe(r *Request, code int, took time.Duration) {
	verb, scope, group, version, resource, sub := metricLabels(r)
	dry := ""
	if r.Write.DryRun {
		dry = "All"
	}
	m.requests.WithLabelValues(verb, dry, group, version, resource, sub, scope, "apiserver", codeLabel(code)).Inc()
	if !longRunning(r) {
		m.duration.WithLabelValues(verb, dry, group, version, resource, sub, scope, "apiserver").Observe(took.Seconds())
		m.sli.WithLabelValues(verb, group, version, resource, sub, scope, "apiserver").Observe(took.Seconds())
	}
	if code == http.StatusTooManyRequests || code == http.StatusGatewayTimeout {
		m.refused.WithLabelValues(verb, group, version, resource, sub, scope, "apiserver", codeLabel(code)).Inc()
	}
}

// metricLabels never takes a label from what a stranger can choose: the
// number of series stays bounded.
func metricLabels(r *Request) (verb, scope, group, version, resource, sub string) {
	verb = metricVerb(r.Verb)
	if r.Resource == nil || r.missing {
		return verb, "", "", "", "", ""
	}
	group, version, resource = r.Resource.Group, r.Resource.Version, r.Resource.Name
	if _, ok := subresourceVerbs(r.Resource, r.Subresource); ok {
		sub = r.Subresource
	}
	switch {
	case r.Name != "" || r.Verb == "create":
		scope = "resource"
	case r.Namespace != "":
		scope = "namespace"
	default:
		scope = "cluster"
	}
	return verb, scope, group, version, resource, sub
}

func metricVerb(verb string) string {
	switch verb {
	case "get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "post", "put", "head":
	default:
		return "other"
	}
	switch verb {
	case "create":
		return "POST"
	case "update":
		return "PUT"
	}
	return strings.ToUpper(verb)
}

// codeLabel spares an allocation for the codes that nearly all answers have.
func codeLabel(code int) string {
	switch code {
	case 200:
		return "200"
	case 201:
		return "201"
	}
	return strconv.Itoa(code)
}

// handler shows the server's metrics, and after them what libraries in the
// process (etcd, client-go) have in the registries that they share.
func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(firstOf{m.registry, legacyregistry.DefaultGatherer, prometheus.DefaultGatherer},
		promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
}

// firstOf gathers from several registries; of a metric that more than one has
// (the process's, Go's) it shows the first.
type firstOf []prometheus.Gatherer

func (f firstOf) Gather() ([]*dto.MetricFamily, error) {
	var all []*dto.MetricFamily
	seen := map[string]bool{}
	for _, g := range f {
		families, err := g.Gather()
		if err != nil {
			return all, err
		}
		for _, family := range families {
			if !seen[family.GetName()] {
				seen[family.GetName()] = true
				all = append(all, family)
			}
		}
	}
	slices.SortFunc(all, func(a, b *dto.MetricFamily) int { return strings.Compare(a.GetName(), b.GetName()) })
	return all, nil
}
