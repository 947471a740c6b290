package apiserver

import (
	"github.com/prometheus/client_golang/prometheus"

	"skiff/api"
	"skiff/apiserver/flow"
)

// flowMetrics shows what flow control counts, under Kubernetes' names. Nothing is
// computed until somebody looks.
type flowMetrics struct{ controller *flow.Controller }

func flowDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("apiserver_flowcontrol_"+name, help, labels, nil)
}

// The descriptions of the metrics; constants, as far as Go has such.
var (
	descExecuting  = flowDesc("current_executing_requests", "Number of requests in initial (for a WATCH) or any (for a non-WATCH) execution stage in the API Priority and Fairness subsystem", "flow_schema", "priority_level")
	descQueued     = flowDesc("current_inqueue_requests", "Number of requests currently pending in queues of the API Priority and Fairness subsystem", "flow_schema", "priority_level")
	descDispatched = flowDesc("dispatched_requests_total", "Number of requests executed by API Priority and Fairness subsystem", "flow_schema", "priority_level")
	descRejected   = flowDesc("rejected_requests_total", "Number of requests rejected by API Priority and Fairness subsystem", "flow_schema", "priority_level", "reason")
	descWait       = flowDesc("request_wait_duration_seconds", "Length of time a request spent waiting in its queue", "flow_schema", "priority_level", "execute")
	descSeats      = flowDesc("current_executing_seats", "Concurrency (number of seats) occupied by the currently executing (initial stage for a WATCH, any stage otherwise) requests in the API Priority and Fairness subsystem", "priority_level")
	descNominal    = flowDesc("nominal_limit_seats", "Nominal number of execution seats configured for each priority level", "priority_level")
	descLower      = flowDesc("lower_limit_seats", "Configured lower bound on number of execution seats available to each priority level", "priority_level")
	descUpper      = flowDesc("upper_limit_seats", "Configured upper bound on number of execution seats available to each priority level", "priority_level")
)

// Describe implements prometheus.Collector.
func (flowMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descExecuting, descQueued, descDispatched, descRejected, descWait, descSeats, descNominal, descLower, descUpper} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (m flowMetrics) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, n int, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), labels...)
	}
	count := func(d *prometheus.Desc, n int64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	for _, l := range m.controller.Report() {
		gauge(descSeats, l.Taken, l.Name)
		gauge(descNominal, l.Nominal, l.Name)
		gauge(descLower, l.Least, l.Name)
		gauge(descUpper, l.Most, l.Name)
		for _, f := range l.Schemas {
			gauge(descExecuting, f.Executing, f.Name, l.Name)
			gauge(descQueued, f.Waiting, f.Name, l.Name)
			count(descDispatched, f.Dispatched, f.Name, l.Name)
			for why, n := range f.Rejected {
				count(descRejected, n, f.Name, l.Name, string(why))
			}
			out <- prometheus.MustNewConstHistogram(descWait, uint64(f.Waits), f.Waited.Seconds(), nil, f.Name, l.Name, "true")
		}
	}
}

// addMore makes the metrics that only answers over HTTP have.
func (m *metrics) addMore() {
	m.sli = prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "apiserver_request_sli_duration_seconds",
		Help:    "Response latency distribution (not counting webhook duration and priority & fairness queue wait times) in seconds for each verb, group, version, resource, subresource, scope and component.",
		Buckets: []float64{0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60}}, requestLabels)
	m.sizes = prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "apiserver_response_sizes",
		Help: "Response size distribution in bytes for each group, version, verb, resource, subresource, scope and component.", Buckets: prometheus.ExponentialBuckets(1000, 10, 7)}, requestLabels)
	m.events = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "apiserver_watch_events_total", Help: "Number of events sent in watch clients"}, []string{"group", "version", "resource"})
	m.eventSizes = prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "apiserver_watch_events_sizes",
		Help: "Watch event size distribution in bytes", Buckets: prometheus.ExponentialBuckets(1024, 2, 8)}, []string{"group", "version", "resource"})
	m.long = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "apiserver_longrunning_requests",
		Help: "Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component. Not all requests are tracked this way."}, requestLabels)
	m.deprecated = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "apiserver_requested_deprecated_apis",
		Help: "Gauge of deprecated APIs that have been requested, broken out by API group, version, resource, subresource, and removed_release."},
		[]string{"group", "version", "resource", "subresource", "removed_release"})
	m.registry.MustRegister(m.sli, m.sizes, m.events, m.eventSizes, m.long, m.deprecated)
}

// stays counts a request that stays until what it returns is called.
func (m *metrics) stays(r *Request) (gone func()) {
	verb, scope, group, version, resource, sub := metricLabels(r)
	gauge := m.long.WithLabelValues(verb, group, version, resource, sub, scope, "apiserver")
	gauge.Inc()
	return gauge.Dec
}

// watch returns what counts the events that a watch of the row sends: how many, and
// how many bytes they are together.
func (m *metrics) watch(row *api.Resource) func(events, bytes int) {
	number := m.events.WithLabelValues(row.Group, row.Version, row.Name)
	sizes := m.eventSizes.WithLabelValues(row.Group, row.Version, row.Name)
	return func(events, bytes int) {
		number.Add(float64(events))
		for range events {
			sizes.Observe(float64(bytes / events))
		}
	}
}

// answered counts the size of an answer to a get or a list.
func (m *metrics) answered(r *Request, bytes int) {
	if r.Resource == nil || r.Verb != "get" && r.Verb != "list" {
		return
	}
	verb, scope, group, version, resource, sub := metricLabels(r)
	m.sizes.WithLabelValues(verb, group, version, resource, sub, scope, "apiserver").Observe(float64(bytes))
}

// objectCounts shows how many objects are stored, counted when somebody looks.
type objectCounts struct{ s *Server }

var (
	descObjects = prometheus.NewDesc("apiserver_resource_objects", "Number of stored objects at the time of last check split by kind. In case of a fetching error, the value will be -1.", []string{"group", "resource"}, nil)
	descStored  = prometheus.NewDesc("apiserver_storage_objects", "[DEPRECATED, consider using apiserver_resource_objects instead] Number of stored objects at the time of last check split by kind. In case of a fetching error, the value will be -1.", []string{"resource"}, nil)
)

// Describe implements prometheus.Collector.
func (objectCounts) Describe(out chan<- *prometheus.Desc) {
	out <- descObjects
	out <- descStored
}

// Collect implements prometheus.Collector.
func (c objectCounts) Collect(out chan<- prometheus.Metric) {
	rows, _ := c.s.Resources()
	for _, r := range rows {
		t := c.s.table(r)
		if r.View != nil {
			continue
		}
		if t == nil {
			continue
		}
		n := float64(t.Snapshot().Len())
		out <- prometheus.MustNewConstMetric(descObjects, prometheus.GaugeValue, n, r.Group, r.Name)
		out <- prometheus.MustNewConstMetric(descStored, prometheus.GaugeValue, n, r.String())
	}
}
