package core

import (
	"testing"

	"skiff/api/kind"
	"skiff/api/kind/kindtest"
)

// A valid object of each kind, rich enough that its defaults have work to do.
const (
	plainPod = `
metadata: {name: web, namespace: default}
spec:
  containers:
  - {name: web, image: nginx}
`
	fullPod = `
metadata: {name: web, namespace: default, labels: {app: web}}
spec:
  hostNetwork: true
  nodeSelector: {disk: ssd}
  overhead: {cpu: 250m}
  affinity:
    nodeAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        nodeSelectorTerms: [{matchExpressions: [{key: disk, operator: In, values: [ssd]}]}]
    podAntiAffinity:
      preferredDuringSchedulingIgnoredDuringExecution:
      - {weight: 5, podAffinityTerm: {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: web}}}}
  topologySpreadConstraints:
  - {maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}
  tolerations: [{key: a, operator: Exists, effect: NoExecute, tolerationSeconds: 30}]
  initContainers:
  - name: sidecar
    image: "proxy:v1"
    restartPolicy: Always
    readinessProbe: {grpc: {port: 80}}
  containers:
  - name: web
    image: nginx@sha256:0123456789012345678901234567890123456789012345678901234567890123
    ports: [{containerPort: 80, name: http}]
    env:
    - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: CPU, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: 1m}}}
    envFrom: [{configMapRef: {name: settings}}]
    resources: {limits: {cpu: 500m, memory: 64Mi}}
    livenessProbe: {httpGet: {port: http}}
    lifecycle: {preStop: {sleep: {seconds: 5}}}
    securityContext: {runAsUser: 1000, allowPrivilegeEscalation: false, seccompProfile: {type: RuntimeDefault}}
    volumeMounts: [{name: data, mountPath: /data}, {name: all, mountPath: /all, readOnly: true}]
  volumes:
  - {name: data}
  - {name: host, hostPath: {path: /var}}
  - {name: secret, secret: {secretName: s, items: [{key: a, path: b}]}}
  - {name: claim, persistentVolumeClaim: {claimName: c}}
  - {name: own, ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}}}
  - name: all
    projected:
      sources:
      - configMap: {name: c}
      - downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}
`
	plainService  = "{metadata: {name: web, namespace: default}, spec: {selector: {app: web}, ports: [{port: 80}]}}"
	plainTemplate = "{metadata: {name: web, namespace: default}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: web, image: nginx}]}}}"
	plainRC       = "{metadata: {name: web, namespace: default}, spec: {template: {metadata: {labels: {app: web}}, spec: {containers: [{name: web, image: nginx}]}}}}"
	plainEnds     = "{metadata: {name: web, namespace: default}, subsets: [{addresses: [{ip: 10.1.2.3, nodeName: n1}], ports: [{port: 80}]}]}"
	plainNode     = "{metadata: {name: n1}, spec: {podCIDR: 10.1.0.0/24, taints: [{key: a, effect: NoSchedule}]}, status: {capacity: {cpu: '2', memory: 1Gi}}}"
	plainNS       = "{metadata: {name: prod}}"
	plainSecret   = "{metadata: {name: s, namespace: default}, stringData: {a: b}}"
	plainCM       = "{metadata: {name: c, namespace: default}, data: {a: b}, binaryData: {c: ZA==}}"
	plainPV       = "{metadata: {name: v}, spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], local: {path: /d}, nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}}}}"
	plainPVC      = "{metadata: {name: c, namespace: default, resourceVersion: '1'}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}"
	plainLimits   = "{metadata: {name: l, namespace: default}, spec: {limits: [{type: Container, max: {cpu: '2'}, min: {cpu: 100m}}]}}"
	plainQuota    = "{metadata: {name: q, namespace: default, resourceVersion: '1'}, spec: {hard: {pods: '10', limits.cpu: '4'}}, status: {hard: {pods: '10', limits.cpu: '4'}, used: {pods: '1'}}}"
	plainEvent    = "{metadata: {name: e, namespace: default}, involvedObject: {kind: Pod, name: web, namespace: default}, reason: Started, message: it runs}"
)

func TestEveryKindHolds(t *testing.T) {
	for name, c := range map[string]struct {
		kind  kind.Kind
		valid []string
	}{
		"Pod":                   {Pod, []string{plainPod, fullPod}},
		"PodTemplate":           {PodTemplate, []string{plainTemplate}},
		"ReplicationController": {ReplicationController, []string{plainRC}},
		"Service":               {Service, []string{plainService, "{metadata: {name: x, namespace: default}, spec: {type: ExternalName, externalName: a.b.}}"}},
		"Endpoints":             {Endpoints, []string{plainEnds}},
		"Node":                  {Node, []string{plainNode}},
		"Namespace":             {Namespace, []string{plainNS}},
		"Secret":                {Secret, []string{plainSecret}},
		"ConfigMap":             {ConfigMap, []string{plainCM}},
		"ServiceAccount":        {ServiceAccount, []string{"{metadata: {name: s, namespace: default}}"}},
		"PersistentVolume":      {PersistentVolume, []string{"{metadata: {name: v, resourceVersion: '1'}, spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], hostPath: {path: /d}}}"}},
		"PersistentVolumeClaim": {PersistentVolumeClaim, []string{plainPVC}},
		"LimitRange":            {LimitRange, []string{plainLimits}},
		"ResourceQuota":         {ResourceQuota, []string{plainQuota}},
		"Event":                 {Event, []string{plainEvent}},
		"Binding":               {Binding, []string{"{metadata: {name: web, namespace: default}, target: {kind: Node, name: n1}}"}},
		"ComponentStatus":       {ComponentStatus, []string{"{metadata: {name: etcd-0}, conditions: [{type: Healthy, status: 'True', message: ok}]}"}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, valid := range c.valid {
				kindtest.Holds(t, c.kind, valid)
			}
		})
	}
}
