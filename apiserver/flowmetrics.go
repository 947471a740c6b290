package apiserver

import (
	"github.com/prometheus/client_golang/prometheus"

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
