package server

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metricsOf serves collectors that are made by the first request: of thousands of
// simulated nodes hardly any is asked.
func metricsOf(make func() []prometheus.Collector) http.Handler {
	handler := sync.OnceValue(func() http.Handler {
		r := prometheus.NewRegistry()
		r.MustRegister(make()...)
		return promhttp.HandlerFor(r, promhttp.HandlerOpts{})
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler().ServeHTTP(w, r) })
}

// podGauge counts the node's pods by state.
type podGauge struct{ pods Pods }

var runningPods = prometheus.NewDesc("skiff_node_pods", "Pods on the node by the state of their machine.", []string{"state"}, nil)

func (g podGauge) Describe(ch chan<- *prometheus.Desc) { ch <- runningPods }

func (g podGauge) Collect(ch chan<- prometheus.Metric) {
	count := map[string]int{}
	for _, v := range g.pods.Views() {
		count[string(v.State)]++
	}
	for state, n := range count {
		ch <- prometheus.MustNewConstMetric(runningPods, prometheus.GaugeValue, float64(n), state)
	}
}

// usage is /metrics/resource: the names that metrics-server reads.
type usage struct{ stats Stats }

var (
	podLabels       = []string{"namespace", "pod"}
	containerLabels = []string{"container", "namespace", "pod"}

	nodeCPU         = prometheus.NewDesc("node_cpu_usage_seconds_total", "Cumulative cpu time consumed by the node in core-seconds", nil, nil)
	nodeMemory      = prometheus.NewDesc("node_memory_working_set_bytes", "Current working set of the node in bytes", nil, nil)
	podCPU          = prometheus.NewDesc("pod_cpu_usage_seconds_total", "Cumulative cpu time consumed by the pod in core-seconds", podLabels, nil)
	podMemory       = prometheus.NewDesc("pod_memory_working_set_bytes", "Current working set of the pod in bytes", podLabels, nil)
	containerCPU    = prometheus.NewDesc("container_cpu_usage_seconds_total", "Cumulative cpu time consumed by the container in core-seconds", containerLabels, nil)
	containerMemory = prometheus.NewDesc("container_memory_working_set_bytes", "Current working set of the container in bytes", containerLabels, nil)
	containerStart  = prometheus.NewDesc("container_start_time_seconds", "Start time of the container since unix epoch in seconds", containerLabels, nil)
	scrapeError     = prometheus.NewDesc("resource_scrape_error", "1 if there was an error while getting container metrics, 0 otherwise", nil, nil)
)

func (u usage) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{nodeCPU, nodeMemory, podCPU, podMemory, containerCPU, containerMemory, containerStart, scrapeError} {
		ch <- d
	}
}

func (u usage) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	sum, err := u.stats.Summary(ctx)
	if err != nil {
		ch <- prometheus.MustNewConstMetric(scrapeError, prometheus.GaugeValue, 1)
		return
	}
	ch <- prometheus.MustNewConstMetric(scrapeError, prometheus.GaugeValue, 0)
	send := func(d *prometheus.Desc, t prometheus.ValueType, at time.Time, v *uint64, scale float64, labels ...string) {
		if v != nil {
			ch <- prometheus.NewMetricWithTimestamp(at, prometheus.MustNewConstMetric(d, t, float64(*v)/scale, labels...))
		}
	}
	n := &sum.Node
	send(nodeCPU, prometheus.CounterValue, n.CPU.Time.Time, n.CPU.UsageCoreNanoSeconds, 1e9)
	send(nodeMemory, prometheus.GaugeValue, n.Memory.Time.Time, n.Memory.WorkingSetBytes, 1)
	for i := range sum.Pods {
		p := &sum.Pods[i]
		send(podCPU, prometheus.CounterValue, p.CPU.Time.Time, p.CPU.UsageCoreNanoSeconds, 1e9, p.PodRef.Namespace, p.PodRef.Name)
		send(podMemory, prometheus.GaugeValue, p.Memory.Time.Time, p.Memory.WorkingSetBytes, 1, p.PodRef.Namespace, p.PodRef.Name)
		for j := range p.Containers {
			c := &p.Containers[j]
			labels := []string{c.Name, p.PodRef.Namespace, p.PodRef.Name}
			send(containerCPU, prometheus.CounterValue, c.CPU.Time.Time, c.CPU.UsageCoreNanoSeconds, 1e9, labels...)
			send(containerMemory, prometheus.GaugeValue, c.Memory.Time.Time, c.Memory.WorkingSetBytes, 1, labels...)
			start := uint64(c.StartTime.Unix())
			send(containerStart, prometheus.GaugeValue, c.StartTime.Time, &start, 1, labels...)
		}
	}
}
