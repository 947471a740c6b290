package core

import (
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func hasContainer(list []corev1.Container, name string) bool {
	return slices.ContainsFunc(list, func(c corev1.Container) bool { return c.Name == name })
}

func (c *podCheck) checkContainers(p place) {
	list := c.spec.Containers
	if len(list) == 0 {
		p.required("", "")
		return
	}
	ports := sets.New[string]()
	for i := range list {
		ctr, at := &list[i], p.index(i)
		c.checkContainer(at, ctr)
		if hasContainer(list[:i], ctr.Name) {
			at.duplicate("name", ctr.Name)
		}
		c.checkLifecycleAndProbes(at, ctr)
		checkRestartRules(at, ctr)
		checkHostPorts(p.index(i), ctr, ports)
	}
}

func (c *podCheck) checkInitContainers(p place) {
	list := c.spec.InitContainers
	for i := range list {
		ctr, at := &list[i], p.index(i)
		c.checkContainer(at, ctr)
		if ctr.RestartPolicy != nil {
			checkRestartRules(at, ctr)
		} else if len(ctr.RestartPolicyRules) > 0 {
			at.required("restartPolicy", restartPolicyWanted)
		}
		if ctr.Name != "" && hasContainer(list[:i], ctr.Name) || hasContainer(c.spec.Containers, ctr.Name) {
			at.duplicate("name", ctr.Name)
		}
		checkHostPorts(p.index(0), ctr, sets.New[string]()) // init containers run one by one
		if isSidecar(ctr) {
			c.checkLifecycleAndProbes(at, ctr)
			continue
		}
		const sidecarOnly = "may not be set for init containers without restartPolicy=Always"
		if ctr.Lifecycle != nil {
			at.forbidden("lifecycle", sidecarOnly)
		}
		for name, probe := range probesOf(ctr) {
			if probe != nil {
				at.forbidden(name, sidecarOnly)
			}
		}
		for j, r := range ctr.ResizePolicy {
			if restartsToResize(r) && !c.lenient.restartToResizeInit {
				at.child("resizePolicy").index(j).invalid("restartPolicy", r.RestartPolicy,
					"must not be set to 'RestartContainer' for non-sidecar initContainers")
			}
		}
	}
}

// checkEphemeralContainers checks the containers added to debug a pod: no fields
// that the pod's duties could come to depend on.
func (c *podCheck) checkEphemeralContainers(p place) {
	s := c.spec
	for i := range s.EphemeralContainers {
		e, at := &s.EphemeralContainers[i], p.index(i)
		ctr := (*corev1.Container)(&e.EphemeralContainerCommon)
		c.checkContainer(at, ctr)
		checkTrimmedImage(at, ctr.Image)
		earlier := slices.ContainsFunc(s.EphemeralContainers[:i], func(b corev1.EphemeralContainer) bool { return b.Name == e.Name })
		if earlier || hasContainer(s.Containers, e.Name) || hasContainer(s.InitContainers, e.Name) {
			at.duplicate("name", e.Name)
		}
		if t := e.TargetContainerName; t != "" && !hasContainer(s.Containers, t) && !hasContainer(s.InitContainers, t) {
			at.notFound("targetContainerName", t)
		}
		for _, f := range []struct {
			name string
			set  bool
		}{
			{"ports", ctr.Ports != nil},
			{"resources", ctr.Resources.Limits != nil || ctr.Resources.Requests != nil || ctr.Resources.Claims != nil},
			{"resizePolicy", ctr.ResizePolicy != nil},
			{"restartPolicy", ctr.RestartPolicy != nil},
			{"restartPolicyRules", ctr.RestartPolicyRules != nil},
			{"livenessProbe", ctr.LivenessProbe != nil},
			{"readinessProbe", ctr.ReadinessProbe != nil},
			{"startupProbe", ctr.StartupProbe != nil},
			{"lifecycle", ctr.Lifecycle != nil},
		} {
			if f.set {
				at.forbidden(f.name, "cannot be set for an Ephemeral Container")
			}
		}
		for j, m := range ctr.VolumeMounts {
			if m.SubPath != "" {
				at.child("volumeMounts").index(j).forbidden("subPath", "cannot be set for an Ephemeral Container")
			}
			if m.SubPathExpr != "" {
				at.child("volumeMounts").index(j).forbidden("subPathExpr", "cannot be set for an Ephemeral Container")
			}
		}
	}
}

// checkContainer checks what all kinds of containers share.
func (c *podCheck) checkContainer(p place, ctr *corev1.Container) {
	if p.wants("name", ctr.Name) {
		p.dnsLabel("name", ctr.Name)
	}
	p.wants("image", ctr.Image)
	setOneOf(p, "terminationMessagePolicy", ctr.TerminationMessagePolicy, corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError)
	checkContainerPorts(p, ctr.Ports)
	for i := range ctr.Env {
		checkEnvVar(p.child("env").index(i), &ctr.Env[i])
	}
	for i := range ctr.EnvFrom {
		checkEnvFrom(p.child("envFrom"), i, &ctr.EnvFrom[i])
	}
	c.checkMounts(p, ctr)
	checkPullPolicy(p, "imagePullPolicy", ctr.ImagePullPolicy)
	c.requirements(checkContainerResourceName).run(p.child("resources"), &ctr.Resources)
	c.checkResizePolicy(p.child("resizePolicy"), ctr.ResizePolicy)
	c.checkContainerSecurity(p.child("securityContext"), ctr.SecurityContext)
}

func checkContainerPorts(p place, ports []corev1.ContainerPort) {
	for i, port := range ports {
		at := p.child("ports").index(i)
		if port.Name != "" {
			msgs := validation.IsValidPortName(port.Name)
			at.invalidEach("name", port.Name, msgs)
			if len(msgs) == 0 && slices.ContainsFunc(ports[:i], func(b corev1.ContainerPort) bool { return b.Name == port.Name }) {
				at.duplicate("name", port.Name)
			}
		}
		if port.ContainerPort == 0 {
			at.required("containerPort", "")
		} else {
			at.invalidEach("containerPort", port.ContainerPort, validation.IsValidPortNum(int(port.ContainerPort)))
		}
		if port.HostPort != 0 {
			at.invalidEach("hostPort", port.HostPort, validation.IsValidPortNum(int(port.HostPort)))
		}
		checkProtocol(at, port.Protocol)
	}
}

func checkProtocol(p place, protocol corev1.Protocol) {
	setOneOf(p, "protocol", protocol, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)
}

// checkHostPorts refuses a host port that is among taken, and adds the others to it.
func checkHostPorts(p place, ctr *corev1.Container, taken sets.Set[string]) {
	for i, port := range ctr.Ports {
		if port.HostPort == 0 {
			continue
		}
		k := string(port.Protocol) + "/" + port.HostIP + "/" + strconv.Itoa(int(port.HostPort))
		if taken.Has(k) {
			p.child("ports").index(i).duplicate("hostPort", k)
		}
		taken.Insert(k)
	}
}

func checkEnvVar(p place, v *corev1.EnvVar) {
	if p.wants("name", v.Name) {
		p.invalidEach("name", v.Name, validation.IsRelaxedEnvVarName(v.Name))
	}
	from := v.ValueFrom
	if from == nil {
		return
	}
	at, sources := p.child("valueFrom"), 0
	if from.FieldRef != nil {
		sources++
		checkFieldRef(at.child("fieldRef"), from.FieldRef, envFields)
	}
	if from.ResourceFieldRef != nil {
		sources++
		checkResourceFieldRef(at.child("resourceFieldRef"), from.ResourceFieldRef, false)
	}
	if r := from.ConfigMapKeyRef; r != nil {
		sources++
		checkKeyRef(at.child("configMapKeyRef"), r.Name, r.Key)
	}
	if r := from.SecretKeyRef; r != nil {
		sources++
		checkKeyRef(at.child("secretKeyRef"), r.Name, r.Key)
	}
	if from.FileKeyRef != nil {
		sources++
		checkFileKeyRef(at.child("fileKeyRef"), from.FileKeyRef)
	}
	switch {
	case sources == 0:
		at.invalid("", "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`")
	case v.Value != "":
		at.invalid("", "", "may not be specified when `value` is not empty")
	case sources > 1:
		at.invalid("", "", "may not have more than one field specified at a time")
	}
}

func checkEnvFrom(list place, i int, e *corev1.EnvFromSource) {
	p := list.index(i)
	if e.Prefix != "" {
		p.invalidEach("prefix", e.Prefix, validation.IsRelaxedEnvVarName(e.Prefix))
	}
	name := func(at place, name string) {
		if at.wants("name", name) {
			at.invalidEach("name", name, apivalidation.NameIsDNSSubdomain(name, true))
		}
	}
	if e.ConfigMapRef != nil {
		name(p.child("configMapRef"), e.ConfigMapRef.Name)
	}
	if e.SecretRef != nil {
		name(p.child("secretRef"), e.SecretRef.Name)
	}
	switch {
	case e.ConfigMapRef == nil && e.SecretRef == nil:
		list.invalid("", "", "must specify one of: `configMapRef` or `secretRef`")
	case e.ConfigMapRef != nil && e.SecretRef != nil:
		list.invalid("", "", "may not have more than one field specified at a time")
	}
}

func checkKeyRef(p place, name, key string) {
	p.dnsSubdomain("name", name)
	if p.wants("key", key) {
		p.invalidEach("key", key, validation.IsConfigMapKey(key))
	}
}

func checkFileKeyRef(p place, r *corev1.FileKeySelector) {
	if p.wants("key", r.Key) {
		p.invalidEach("key", r.Key, validation.IsRelaxedEnvVarName(r.Key))
	}
	if p.wants("volumeName", r.VolumeName) {
		p.dnsLabel("volumeName", r.VolumeName)
	}
	if p.wants("path", r.Path) {
		checkNoBacksteps(p, "path", r.Path)
	}
}

// What the downward API can put into volumes and into variables, sorted.
var (
	volumeFields = []string{"metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"}
	envFields    = []string{"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
		"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"}
	resourceFields = []string{"limits.cpu", "limits.ephemeral-storage", "limits.memory",
		"requests.cpu", "requests.ephemeral-storage", "requests.memory"}
	// knownFields are those that pods have at all.
	knownFields = append([]string{"metadata.annotations", "metadata.labels", "spec.restartPolicy", "spec.schedulerName", "status.phase"}, envFields...)
)

func checkFieldRef(p place, r *corev1.ObjectFieldSelector, allowed []string) {
	if !p.wants("apiVersion", r.APIVersion) || !p.wants("fieldPath", r.FieldPath) {
		return
	}
	bad := func(msg string) { p.invalid("fieldPath", r.FieldPath, "error converting fieldPath: "+msg) }
	if r.APIVersion != "v1" {
		bad("unsupported pod version: " + r.APIVersion)
		return
	}
	// metadata.labels['key']: one value of a map
	if of, key, ok := strings.Cut(strings.TrimSuffix(r.FieldPath, "']"), "['"); ok && of != "" && strings.HasSuffix(r.FieldPath, "']") {
		switch of {
		case "metadata.annotations":
			p.qualifiedName("", strings.ToLower(key))
		case "metadata.labels":
			p.qualifiedName("", key)
		default:
			bad("field label does not support subscript: " + r.FieldPath)
		}
		return
	}
	name := r.FieldPath
	if name == "spec.host" { // the name in the first version of the API
		name = "spec.nodeName"
	}
	if !slices.Contains(knownFields, name) {
		bad("field label not supported: " + name)
		return
	}
	oneOf(p, "fieldPath", name, allowed...)
}

func checkResourceFieldRef(p place, r *corev1.ResourceFieldSelector, volume bool) {
	hugePages := strings.HasPrefix(r.Resource, "limits.hugepages-") || strings.HasPrefix(r.Resource, "requests.hugepages-")
	switch {
	case volume && r.ContainerName == "":
		p.required("containerName", "")
	case r.Resource == "":
		p.required("resource", "")
	case !hugePages:
		oneOf(p, "resource", r.Resource, resourceFields...)
	}
	checkDivisor(p, r.Resource, r.Divisor)
}

// checkDivisor: the units in which an amount may be given. q is a copy.
func checkDivisor(p place, name string, q resource.Quantity) {
	if q.IsZero() {
		return
	}
	const units = "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei"
	allowed, of := units, ""
	switch _, what, _ := strings.Cut(name, "."); {
	case what == "cpu":
		if q.String() != "1" && q.String() != "1m" {
			p.invalid("divisor", name, "only divisor's values 1m and 1 are supported with the cpu resource")
		}
		return
	case what == "memory":
		of = "memory"
	case what == "ephemeral-storage":
		of = "local ephemeral storage"
	case strings.HasPrefix(what, "hugepages-"):
		of = "hugepages"
	default:
		return
	}
	if !slices.Contains(strings.Split(allowed, ", "), q.String()) {
		p.invalid("divisor", name, "only divisor's values "+units+" are supported with the "+of+" resource")
	}
}

// probesOf goes through a container's probes by the names of their fields.
func probesOf(ctr *corev1.Container) func(func(string, *corev1.Probe) bool) {
	return func(yield func(string, *corev1.Probe) bool) {
		_ = yield("livenessProbe", ctr.LivenessProbe) && yield("readinessProbe", ctr.ReadinessProbe) && yield("startupProbe", ctr.StartupProbe)
	}
}

func (c *podCheck) checkLifecycleAndProbes(p place, ctr *corev1.Container) {
	if l := ctr.Lifecycle; l != nil {
		at := p.child("lifecycle")
		if l.PostStart != nil {
			c.checkHook(at.child("postStart"), l.PostStart)
		}
		if l.PreStop != nil {
			c.checkHook(at.child("preStop"), l.PreStop)
		}
		if l.StopSignal != nil {
			c.checkStopSignal(at, *l.StopSignal)
		}
	}
	for name, probe := range probesOf(ctr) {
		if probe == nil {
			continue
		}
		at := p.child(name)
		c.checkProbe(at, probe)
		switch readiness := name == "readinessProbe"; {
		case !readiness && probe.SuccessThreshold != 1:
			at.invalid("successThreshold", probe.SuccessThreshold, "must be 1")
		case readiness && probe.TerminationGracePeriodSeconds != nil:
			at.invalid("terminationGracePeriodSeconds", probe.TerminationGracePeriodSeconds, "must not be set for readinessProbes")
		}
	}
}

func (c *podCheck) checkProbe(p place, probe *corev1.Probe) {
	h := &probe.ProbeHandler
	one := union{place: p, tooMany: oneHandler}
	checkActions(&one, h.Exec, h.HTTPGet, h.TCPSocket)
	if at, ok := one.take(h.GRPC != nil, "grpc"); ok {
		at.invalidEach("port", int(h.GRPC.Port), validation.IsValidPortNum(int(h.GRPC.Port)))
		if h.GRPC.Mode != nil {
			oneOf(at, "mode", *h.GRPC.Mode, corev1.GRPCProbeModePlaintext, corev1.GRPCProbeModeTLS)
		}
	}
	if one.count == 0 {
		p.required("", "must specify a handler type")
	}
	p.notNegative("initialDelaySeconds", int64(probe.InitialDelaySeconds))
	p.notNegative("timeoutSeconds", int64(probe.TimeoutSeconds))
	p.notNegative("periodSeconds", int64(probe.PeriodSeconds))
	p.notNegative("successThreshold", int64(probe.SuccessThreshold))
	p.notNegative("failureThreshold", int64(probe.FailureThreshold))
	if g := probe.TerminationGracePeriodSeconds; g != nil && *g <= 0 {
		p.invalid("terminationGracePeriodSeconds", *g, "must be greater than 0")
	}
}

func (c *podCheck) checkHook(p place, h *corev1.LifecycleHandler) {
	one := union{place: p, tooMany: oneHandler}
	checkActions(&one, h.Exec, h.HTTPGet, h.TCPSocket)
	if at, ok := one.take(h.Sleep != nil, "sleep"); ok {
		if g := c.spec.TerminationGracePeriodSeconds; g != nil && (h.Sleep.Seconds < 0 || h.Sleep.Seconds > *g) {
			at.invalid("", h.Sleep.Seconds, "must be non-negative and less than terminationGracePeriodSeconds ("+strconv.FormatInt(*g, 10)+")")
		}
	}
	if one.count == 0 {
		p.required("", "must specify a handler type")
	}
}

const oneHandler = "may not specify more than 1 handler type"

// checkActions checks what probes and hooks share.
func checkActions(one *union, exec *corev1.ExecAction, get *corev1.HTTPGetAction, tcp *corev1.TCPSocketAction) {
	if at, ok := one.take(exec != nil, "exec"); ok && len(exec.Command) == 0 {
		at.required("command", "")
	}
	if at, ok := one.take(get != nil, "httpGet"); ok {
		checkHTTPGet(at, get)
	}
	if at, ok := one.take(tcp != nil, "tcpSocket"); ok {
		checkPort(at, "port", tcp.Port)
	}
}

func checkHTTPGet(p place, a *corev1.HTTPGetAction) {
	p.wants("path", a.Path)
	checkPort(p, "port", a.Port)
	oneOf(p, "scheme", a.Scheme, corev1.URISchemeHTTP, corev1.URISchemeHTTPS)
	for _, h := range a.HTTPHeaders {
		p.invalidEach("httpHeaders", h.Name, validation.IsHTTPHeaderName(h.Name))
	}
	if a.Protocol == nil {
		return
	}
	oneOf(p, "protocol", *a.Protocol, corev1.HTTPProtocolHTTP1, corev1.HTTPProtocolHTTP2)
	if *a.Protocol == corev1.HTTPProtocolHTTP2 {
		if a.Scheme != corev1.URISchemeHTTP {
			p.invalid("protocol", *a.Protocol, "is only supported with HTTP (H2C)")
		} else if a.Host != "" {
			p.invalid("host", a.Host, "must be empty when `protocol` is \"HTTP2\"")
		}
	}
}

// checkPort checks a port given as a number or as the name of a container's port.
func checkPort(p place, name string, port intstr.IntOrString) {
	switch port.Type {
	case intstr.Int:
		p.invalidEach(name, port.IntValue(), validation.IsValidPortNum(port.IntValue()))
	case intstr.String:
		p.invalidEach(name, port.StrVal, validation.IsValidPortName(port.StrVal))
	}
}

func (c *podCheck) checkStopSignal(p place, signal corev1.Signal) {
	switch os := c.spec.OS; {
	case os == nil:
		p.forbidden("stopSignal", "may not be set for containers with empty `spec.os.name`")
	case os.Name == corev1.Windows:
		oneOf(p, "stopSignal", signal, corev1.SIGKILL, corev1.SIGTERM)
	case os.Name == corev1.Linux:
		oneOf(p, "stopSignal", signal, linuxSignals...)
	}
}

// linuxSignals are the signals of Linux, sorted by name.
var linuxSignals = []corev1.Signal{
	"SIGABRT", "SIGALRM", "SIGBUS", "SIGCHLD", "SIGCLD", "SIGCONT", "SIGFPE", "SIGHUP", "SIGILL", "SIGINT", "SIGIO", "SIGIOT",
	"SIGKILL", "SIGPIPE", "SIGPOLL", "SIGPROF", "SIGPWR", "SIGQUIT", "SIGRTMAX", "SIGRTMAX-1", "SIGRTMAX-10", "SIGRTMAX-11",
	"SIGRTMAX-12", "SIGRTMAX-13", "SIGRTMAX-14", "SIGRTMAX-2", "SIGRTMAX-3", "SIGRTMAX-4", "SIGRTMAX-5", "SIGRTMAX-6", "SIGRTMAX-7",
	"SIGRTMAX-8", "SIGRTMAX-9", "SIGRTMIN", "SIGRTMIN+1", "SIGRTMIN+10", "SIGRTMIN+11", "SIGRTMIN+12", "SIGRTMIN+13", "SIGRTMIN+14",
	"SIGRTMIN+15", "SIGRTMIN+2", "SIGRTMIN+3", "SIGRTMIN+4", "SIGRTMIN+5", "SIGRTMIN+6", "SIGRTMIN+7", "SIGRTMIN+8", "SIGRTMIN+9",
	"SIGSEGV", "SIGSTKFLT", "SIGSTOP", "SIGSYS", "SIGTERM", "SIGTRAP", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG", "SIGUSR1",
	"SIGUSR2", "SIGVTALRM", "SIGWINCH", "SIGXCPU", "SIGXFSZ",
}

func (c *podCheck) checkResizePolicy(p place, policies []corev1.ContainerResizePolicy) {
	for i, r := range policies {
		if slices.ContainsFunc(policies[:i], func(b corev1.ContainerResizePolicy) bool { return b.ResourceName == r.ResourceName }) {
			p.index(i).duplicate("", r.ResourceName)
		}
		setOneOf(p, "", r.ResourceName, corev1.ResourceCPU, corev1.ResourceMemory)
		setOneOf(p, "", r.RestartPolicy, corev1.NotRequired, corev1.RestartContainer)
		if c.spec.RestartPolicy == corev1.RestartPolicyNever && r.RestartPolicy != corev1.NotRequired {
			p.invalid("", r.RestartPolicy, "must be 'NotRequired' when pod `restartPolicy` is 'Never'")
		}
	}
}

const restartPolicyWanted = "must specify restartPolicy when restart rules are used"

// checkRestartRules checks a container's own restart policy.
func checkRestartRules(p place, ctr *corev1.Container) {
	rules := ctr.RestartPolicyRules
	switch {
	case ctr.RestartPolicy != nil:
		oneOf(p, "restartPolicy", *ctr.RestartPolicy, corev1.ContainerRestartPolicyAlways, corev1.ContainerRestartPolicyNever, corev1.ContainerRestartPolicyOnFailure)
	case len(rules) > 0:
		p.required("restartPolicy", restartPolicyWanted)
	}
	if len(rules) > 20 {
		p.add(field.TooMany(p.at("restartPolicyRules"), len(rules), 20))
	}
	for i := range rules {
		r, at := &rules[i], p.child("restartPolicyRules").index(i)
		oneOf(at, "action", r.Action, corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleActionRestartAllContainers)
		if r.ExitCodes == nil {
			at.required("exitCodes", "must be specified")
			continue
		}
		oneOf(at.child("exitCodes"), "operator", r.ExitCodes.Operator, corev1.ContainerRestartRuleOnExitCodesOpIn, corev1.ContainerRestartRuleOnExitCodesOpNotIn)
		if n := len(r.ExitCodes.Values); n > 255 {
			at.add(field.TooMany(at.path.Child("exitCodes", "values"), n, 255))
		}
	}
}
