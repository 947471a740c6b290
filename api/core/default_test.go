package core

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"skiff/api/kind/kindtest"
)

func TestDefaults(t *testing.T) {
	kindtest.Defaults(t, Pod, plainPod, `
metadata: {name: web, namespace: default}
spec:
  containers:
  - {name: web, image: nginx, imagePullPolicy: Always, resources: {}, terminationMessagePath: /dev/termination-log, terminationMessagePolicy: File}
  dnsPolicy: ClusterFirst
  enableServiceLinks: true
  restartPolicy: Always
  schedulerName: default-scheduler
  securityContext: {}
  terminationGracePeriodSeconds: 30
`)
	kindtest.Defaults(t, Pod, `
metadata: {name: web}
spec:
  hostNetwork: true
  serviceAccount: old
  terminationGracePeriodSeconds: -5
  containers:
  - name: web
    image: nginx:1.2
    ports: [{containerPort: 80}]
    env: [{name: A, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
    resources: {limits: {cpu: 500m, memory: 10100u}, requests: {cpu: 100m}}
    livenessProbe: {httpGet: {port: 80}}
    readinessProbe: {grpc: {port: 80}}
  volumes:
  - {name: none}
  - {name: p, projected: {sources: [{serviceAccountToken: {path: t}}]}}
  - {name: i, image: {reference: a}}
`, `
metadata: {name: web}
spec:
  containers:
  - name: web
    image: nginx:1.2
    imagePullPolicy: IfNotPresent
    ports: [{containerPort: 80, hostPort: 80, protocol: TCP}]
    env: [{name: A, valueFrom: {fieldRef: {apiVersion: v1, fieldPath: metadata.name}}}]
    resources: {limits: {cpu: 500m, memory: 11m}, requests: {cpu: 100m, memory: 11m}}
    livenessProbe: {httpGet: {path: /, port: 80, scheme: HTTP}, timeoutSeconds: 1, periodSeconds: 10, successThreshold: 1, failureThreshold: 3}
    readinessProbe: {grpc: {port: 80, service: ""}, timeoutSeconds: 1, periodSeconds: 10, successThreshold: 1, failureThreshold: 3}
    terminationMessagePath: /dev/termination-log
    terminationMessagePolicy: File
  dnsPolicy: ClusterFirst
  enableServiceLinks: true
  hostNetwork: true
  restartPolicy: Always
  schedulerName: default-scheduler
  securityContext: {}
  serviceAccount: old
  serviceAccountName: old
  terminationGracePeriodSeconds: 1
  volumes:
  - {name: none, emptyDir: {}}
  - {name: p, projected: {defaultMode: 420, sources: [{serviceAccountToken: {path: t, expirationSeconds: 3600}}]}}
  - {name: i, image: {reference: a, pullPolicy: Always}}
`)
	kindtest.Defaults(t, Service, plainService, `
metadata: {name: web, namespace: default}
spec:
  internalTrafficPolicy: Cluster
  ports: [{port: 80, protocol: TCP, targetPort: 80}]
  selector: {app: web}
  sessionAffinity: None
  type: ClusterIP
`)
	kindtest.Defaults(t, Service, "{spec: {type: LoadBalancer, sessionAffinity: ClientIP, ports: [{port: 1, targetPort: x}]}, status: {loadBalancer: {ingress: [{ip: 1.2.3.4}]}}}", `
spec:
  allocateLoadBalancerNodePorts: true
  externalTrafficPolicy: Cluster
  internalTrafficPolicy: Cluster
  ports: [{port: 1, protocol: TCP, targetPort: x}]
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 10800}}
  type: LoadBalancer
status: {loadBalancer: {ingress: [{ip: 1.2.3.4, ipMode: VIP}]}}
`)
	kindtest.Defaults(t, Secret, "{data: {a: YQ==, b: Yg==}, stringData: {a: c}}", "{type: Opaque, data: {a: Yw==, b: Yg==}}")
	kindtest.Defaults(t, Namespace, plainNS, "{metadata: {name: prod, labels: {kubernetes.io/metadata.name: prod}}, status: {phase: Active}}")
	kindtest.Defaults(t, Node, "{spec: {podCIDR: 10.1.0.0/24}, status: {capacity: {cpu: '2'}}}",
		"{spec: {podCIDR: 10.1.0.0/24, podCIDRs: [10.1.0.0/24]}, status: {capacity: {cpu: '2'}, allocatable: {cpu: '2'}}}")
	kindtest.Defaults(t, LimitRange, "{spec: {limits: [{type: Container, max: {cpu: '2'}, min: {memory: 1Gi}}]}}",
		"{spec: {limits: [{type: Container, max: {cpu: '2'}, min: {memory: 1Gi}, default: {cpu: '2'}, defaultRequest: {cpu: '2', memory: 1Gi}}]}}")
	kindtest.Defaults(t, PersistentVolumeClaim, "{spec: {accessModes: [ReadWriteOnce]}}",
		"{spec: {accessModes: [ReadWriteOnce], volumeMode: Filesystem, resources: {}}, status: {phase: Pending}}")
}

func TestPullPolicy(t *testing.T) {
	for image, want := range map[string]corev1.PullPolicy{
		"nginx": corev1.PullAlways, "nginx:latest": corev1.PullAlways, "nginx:1": corev1.PullIfNotPresent,
		"host:5000/nginx": corev1.PullAlways, "Not An Image": corev1.PullIfNotPresent,
		"nginx@sha256:0123456789012345678901234567890123456789012345678901234567890123": corev1.PullIfNotPresent,
	} {
		if got := pullPolicy(image); got != want {
			t.Errorf("%s: %s, want %s", image, got, want)
		}
	}
}

// A whole pod costs nothing to default again: it is done at each read.
func BenchmarkDefaultAgain(b *testing.B) {
	p := kindtest.From[*corev1.Pod](b, Pod, fullPod)
	b.ReportAllocs()
	for b.Loop() {
		defaultPod(p)
	}
}

func BenchmarkValidatePod(b *testing.B) {
	p := kindtest.From[*corev1.Pod](b, Pod, fullPod)
	b.ReportAllocs()
	for b.Loop() {
		if errs := validateNewPod(p); len(errs) > 0 {
			b.Fatal(errs)
		}
	}
}
