package apiserver

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"skiff/store"
)

// limit creates a quota with the status that the controller would give it.
func (w *writing) limit(name, spec, used string) {
	w.t.Helper()
	q := must[*corev1.ResourceQuota](w, "create", "v1/resourcequotas", "default", "",
		fmt.Sprintf(`{"metadata":{"name":%q},"spec":%s}`, name, spec))
	hard := spec[strings.Index(spec, `"hard":`)+len(`"hard":`):]
	hard = hard[:strings.Index(hard, "}")+1]
	w.must("update", "v1/resourcequotas", "default", name+"/status",
		fmt.Sprintf(`{"metadata":{"name":%q,"resourceVersion":%q},"status":{"hard":%s,"used":%s}}`, name, q.ResourceVersion, hard, used))
}

func (w *writing) used(quota, name string) string {
	w.t.Helper()
	q := must[*corev1.ResourceQuota](w, "get", "v1/resourcequotas", "default", quota, "")
	amount := q.Status.Used[corev1.ResourceName(name)]
	return amount.String()
}

// What a quota allows is what is created, however many ask at once and through
// however many servers: each charge is a comparison in the store.
func TestQuotaIsNeverExceeded(t *testing.T) {
	memory := store.OpenMemory(store.MemoryConfig{})
	first := startWriting(t, memory)
	second := startWriting(t, memory)
	t.Cleanup(func() { first.stop(); second.stop(); memory.Close() })
	first.must("create", "v1/serviceaccounts", "default", "", `{"metadata":{"name":"default"}}`)
	first.limit("maps", `{"hard":{"count/configmaps":"50","configmaps":"60"}}`, `{"count/configmaps":"0","configmaps":"0"}`)
	second.used("maps", "configmaps") // it has seen the quota

	var created atomic.Int64
	var wait sync.WaitGroup
	for i := range 200 {
		wait.Go(func() {
			w := []*writing{first, second}[i%2]
			_, _, err := w.do(w.request("create", "v1/configmaps", "default", "", fmt.Sprintf(`{"metadata":{"name":"m%d"}}`, i)))
			if err == nil {
				created.Add(1)
			}
		})
	}
	wait.Wait()
	if n := created.Load(); n != 50 {
		t.Errorf("%d config maps were created under a quota of 50", n)
	}
	if a, b := first.used("maps", "count/configmaps"), first.used("maps", "configmaps"); a != "50" || b != "50" {
		t.Errorf("used: %s and %s, want 50 and 50", a, b)
	}
	status := first.refused("create", "v1/configmaps", "default", "", `{"metadata":{"name":"more"}}`)
	want := `configmaps "more" is forbidden: exceeded quota: maps, requested: count/configmaps=1, used: count/configmaps=50, limited: count/configmaps=50`
	if status.Message != want || status.Code != 403 {
		t.Errorf("%d %s\nwant 403 %s", status.Code, status.Message, want)
	}
}

// What was charged for a write that then does not happen is given back, to every
// quota; a dry run is judged and not charged.
func TestQuotaIsGivenBack(t *testing.T) {
	w := newWriting(t)
	w.must("create", "v1/configmaps", "default", "", `{"metadata":{"name":"taken"}}`)
	w.limit("a", `{"hard":{"count/configmaps":"2"}}`, `{"count/configmaps":"1"}`)
	w.limit("b", `{"hard":{"configmaps":"2"}}`, `{"configmaps":"1"}`)
	used := func(when, want string) {
		t.Helper()
		if got := w.used("a", "count/configmaps") + " " + w.used("b", "configmaps"); got != want {
			t.Errorf("%s: used %s, want %s", when, got, want)
		}
	}
	w.refused("create", "v1/configmaps", "default", "", `{"metadata":{"name":"taken"}}`)
	used("a name that is taken", "1 1")
	dry := w.request("create", "v1/configmaps", "default", "", `{"metadata":{"name":"dry"}}`)
	dry.Write.DryRun = true
	if _, _, err := w.do(dry); err != nil {
		t.Error(err)
	}
	used("a dry run", "1 1")
	w.must("create", "v1/configmaps", "default", "", `{"metadata":{"name":"second"}}`)
	used("a create", "2 2")
	dry = w.request("create", "v1/configmaps", "default", "", `{"metadata":{"name":"dry"}}`)
	dry.Write.DryRun = true
	if _, _, err := w.do(dry); err == nil {
		t.Error("a dry run beyond the quota passes")
	}
	// Where one quota refuses, the other is not charged.
	w.limit("c", `{"hard":{"count/secrets":"5"}}`, `{"count/secrets":"0"}`)
	w.limit("d", `{"hard":{"secrets":"0"}}`, `{"secrets":"0"}`)
	w.refused("create", "v1/secrets", "default", "", `{"metadata":{"name":"s"}}`)
	if got := w.used("c", "count/secrets"); got != "0" {
		t.Errorf("a refused create leaves %s charged", got)
	}
}

func TestQuotaOfPodsAndServices(t *testing.T) {
	w := newWriting(t)
	w.limit("q", `{"hard":{"pods":"3","requests.cpu":"1","limits.memory":"1Gi","services.nodeports":"2","services.loadbalancers":"1","requests.example.com/gpu":"1"}}`,
		`{"pods":"0","requests.cpu":"0","limits.memory":"0","services.nodeports":"0","services.loadbalancers":"0","requests.example.com/gpu":"0"}`)
	pod := func(name, resources string) string {
		return fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"containers":[{"name":"c","image":"i","resources":%s}]}}`, name, resources)
	}
	refused := func(resource, body, want string) {
		t.Helper()
		if got := w.refused("create", resource, "default", "", body).Message; got != want {
			t.Errorf("refused with\n%s\nwant\n%s", got, want)
		}
	}
	refused("v1/pods", pod("silent", `{}`), `pods "silent" is forbidden: failed quota: q: must specify limits.memory for: c; requests.cpu for: c`)
	w.must("create", "v1/pods", "default", "", pod("one", `{"requests":{"cpu":"600m"},"limits":{"memory":"512Mi","cpu":"1"}}`))
	refused("v1/pods", pod("two", `{"requests":{"cpu":"600m"},"limits":{"memory":"768Mi","cpu":"1"}}`),
		`pods "two" is forbidden: exceeded quota: q, requested: limits.memory=768Mi,requests.cpu=600m, used: limits.memory=512Mi,requests.cpu=600m, limited: limits.memory=1Gi,requests.cpu=1`)
	refused("v1/pods", pod("gpu", `{"requests":{"cpu":"1m","example.com/gpu":"2"},"limits":{"memory":"1Mi","example.com/gpu":"2"}}`),
		`pods "gpu" is forbidden: exceeded quota: q, requested: requests.example.com/gpu=2, used: requests.example.com/gpu=0, limited: requests.example.com/gpu=1`)

	w.must("create", "v1/services", "default", "", `{"metadata":{"name":"a"},"spec":{"type":"NodePort","ports":[{"port":80}]}}`)
	refused("v1/services", `{"metadata":{"name":"b"},"spec":{"type":"LoadBalancer","ports":[{"name":"x","port":80},{"name":"y","port":81}]}}`,
		`services "b" is forbidden: exceeded quota: q, requested: services.nodeports=2, used: services.nodeports=1, limited: services.nodeports=2`)
	w.must("patch:merge", "v1/services", "default", "a", `{"spec":{"type":"LoadBalancer"}}`)
	if got := w.used("q", "services.loadbalancers") + w.used("q", "services.nodeports"); got != "11" {
		t.Errorf("a service that became a load balancer counts %s, want one balancer, one port", got)
	}
	// A name that the controller has not counted yet admits nothing.
	q := must[*corev1.ResourceQuota](w, "create", "v1/resourcequotas", "default", "", `{"metadata":{"name":"new"},"spec":{"hard":{"secrets":"1"}}}`)
	w.must("update", "v1/resourcequotas", "default", "new/status", fmt.Sprintf(`{"metadata":{"name":"new","resourceVersion":%q},"status":{"hard":{"secrets":"1"}}}`, q.ResourceVersion))
	refused("v1/secrets", `{"metadata":{"name":"s"}}`, `secrets "s" is forbidden: status unknown for quota: new, resources: secrets`)
}
