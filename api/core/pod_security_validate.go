package core

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/component-helpers/node/util/sysctl"
)

func (c *podCheck) checkPodSecurity(p place) {
	sc := c.spec.SecurityContext
	if sc == nil {
		return
	}
	if sc.FSGroup != nil {
		p.invalidEach("fsGroup", *sc.FSGroup, validation.IsValidGroupID(*sc.FSGroup))
	}
	checkIDs(p, sc.RunAsUser, sc.RunAsGroup)
	for i, id := range sc.SupplementalGroups {
		p.child("supplementalGroups").index(i).invalidEach("", id, validation.IsValidGroupID(id))
	}
	c.checkSysctls(p.child("sysctls"), sc.Sysctls)
	if sc.FSGroupChangePolicy != nil {
		oneOf(p, "fsGroupChangePolicy", *sc.FSGroupChangePolicy, corev1.FSGroupChangeAlways, corev1.FSGroupChangeOnRootMismatch)
	}
	checkSeccomp(p.child("seccompProfile"), sc.SeccompProfile)
	checkWindowsOptions(p.child("windowsOptions"), sc.WindowsOptions)
	checkAppArmor(p.child("appArmorProfile"), sc.AppArmorProfile)
	if sc.SupplementalGroupsPolicy != nil {
		oneOf(p, "supplementalGroupsPolicy", *sc.SupplementalGroupsPolicy, corev1.SupplementalGroupsPolicyMerge, corev1.SupplementalGroupsPolicyStrict)
	}
	if sc.SELinuxChangePolicy != nil {
		oneOf(p, "seLinuxChangePolicy", *sc.SELinuxChangePolicy, corev1.SELinuxChangePolicyMountOption, corev1.SELinuxChangePolicyRecursive)
	}
}

func checkIDs(p place, user, group *int64) {
	checkUserID(p, "runAsUser", user)
	if group != nil {
		p.invalidEach("runAsGroup", *group, validation.IsValidGroupID(*group))
	}
}

// sysctlName takes dots and slashes between its parts.
var sysctlName = regexp.MustCompile(`^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$`)

func (c *podCheck) checkSysctls(p place, list []corev1.Sysctl) {
	for i, s := range list {
		at := p.index(i)
		switch {
		case s.Name == "":
			at.required("name", "")
		case len(s.Name) > 253 || !sysctlName.MatchString(s.Name):
			at.invalid("name", s.Name, "must have at most 253 characters and match regex "+sysctlName.String())
		case slices.ContainsFunc(list[:i], func(b corev1.Sysctl) bool { return b.Name == s.Name }):
			at.duplicate("name", s.Name)
		}
		if msg := hostSysctl(c.spec, s.Name); msg != "" && !c.lenient.hostSysctls {
			at.invalid("name", s.Name, msg)
		}
	}
}

// hostSysctl says why a pod that shares the host's namespaces may not set name.
func hostSysctl(s *corev1.PodSpec, name string) string {
	if !s.HostNetwork && !s.HostIPC {
		return ""
	}
	switch of, _, _ := sysctl.GetNamespace(name); {
	case s.HostNetwork && of == sysctl.NetNamespace:
		return "may not be specified when 'hostNetwork' is true"
	case s.HostIPC && of == sysctl.IPCNamespace:
		return "may not be specified when 'hostIPC' is true"
	}
	return ""
}

func (c *podCheck) checkContainerSecurity(p place, sc *corev1.SecurityContext) {
	if sc == nil {
		return
	}
	checkIDs(p, sc.RunAsUser, sc.RunAsGroup)
	if sc.ProcMount != nil {
		oneOf(p, "procMount", *sc.ProcMount, corev1.DefaultProcMount, corev1.UnmaskedProcMount)
		if *sc.ProcMount == corev1.UnmaskedProcMount && (c.spec.HostUsers == nil || *c.spec.HostUsers) {
			p.invalid("procMount", *sc.ProcMount, "`hostUsers` must be false to use `Unmasked`")
		}
	}
	checkSeccomp(p.child("seccompProfile"), sc.SeccompProfile)
	if e := sc.AllowPrivilegeEscalation; e != nil && !*e {
		if isTrue(sc.Privileged) {
			p.invalid("", sc, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true")
		}
		if addsSysAdmin(sc) && !c.lenient.sysAdminWithoutEscalation {
			p.invalid("", sc, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN")
		}
	}
	checkWindowsOptions(p.child("windowsOptions"), sc.WindowsOptions)
	checkAppArmor(p.child("appArmorProfile"), sc.AppArmorProfile)
}

func addsSysAdmin(sc *corev1.SecurityContext) bool {
	return sc.Capabilities != nil && slices.Contains(sc.Capabilities.Add, "CAP_SYS_ADMIN")
}

func checkSeccomp(p place, s *corev1.SeccompProfile) {
	if s == nil {
		return
	}
	if s.Type == "" {
		p.required("type", "type is required when seccompProfile is set")
	} else {
		oneOf(p, "type", s.Type, corev1.SeccompProfileTypeLocalhost, corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined)
	}
	switch local := s.Type == corev1.SeccompProfileTypeLocalhost; {
	case local && s.LocalhostProfile == nil:
		p.required("localhostProfile", "must be set when seccomp type is Localhost")
	case local:
		checkBelow(p, "localhostProfile", *s.LocalhostProfile)
	case s.LocalhostProfile != nil:
		p.invalid("localhostProfile", s, "can only be set when seccomp type is Localhost")
	}
}

func checkAppArmor(p place, a *corev1.AppArmorProfile) {
	if a == nil {
		return
	}
	const wanted = "must be set when AppArmor type is Localhost"
	switch a.Type {
	case corev1.AppArmorProfileTypeLocalhost:
		switch name := a.LocalhostProfile; {
		case name == nil:
			p.required("localhostProfile", wanted)
			return
		case strings.TrimSpace(*name) != *name:
			p.invalid("localhostProfile", *name, "must not be padded with whitespace")
		case *name == "":
			p.required("localhostProfile", wanted)
		}
		if len(*a.LocalhostProfile) > 4095 { // the longest path of Linux
			p.tooLong("localhostProfile", 4095)
		}
	case corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined:
		if a.LocalhostProfile != nil {
			p.invalid("localhostProfile", a.LocalhostProfile, "can only be set when AppArmor type is Localhost")
		}
	case "":
		p.required("type", "type is required when appArmorProfile is set")
	default:
		oneOf(p, "type", a.Type, corev1.AppArmorProfileTypeLocalhost, corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined)
	}
}

// The parts of a Windows user name, DOMAIN\user.
var (
	controlChars  = regexp.MustCompile(`[[:cntrl:]]+`)
	netBIOSDomain = regexp.MustCompile(`^[^\\/:\*\?"<>|\.][^\\/:\*\?"<>|]{0,14}$`)
	dnsDomain     = regexp.MustCompile(`^[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*$`)
)

func checkWindowsOptions(p place, w *corev1.WindowsSecurityContextOptions) {
	if w == nil {
		return
	}
	if w.GMSACredentialSpecName != nil {
		p.dnsSubdomain("gmsaCredentialSpecName", *w.GMSACredentialSpecName)
	}
	if s := w.GMSACredentialSpec; s != nil && *s == "" {
		p.invalid("gmsaCredentialSpec", *s, "gmsaCredentialSpec cannot be an empty string")
	} else if s != nil && len(*s) > 64<<10 {
		p.invalid("gmsaCredentialSpec", *s, "gmsaCredentialSpec size must be under 64 KiB")
	}
	if w.RunAsUserName != nil {
		checkWindowsUser(p, *w.RunAsUserName)
	}
}

func checkWindowsUser(p place, name string) {
	bad := func(msg string) { p.invalid("runAsUserName", name, msg) }
	switch {
	case name == "":
		bad("runAsUserName cannot be an empty string")
		return
	case controlChars.MatchString(name):
		bad("runAsUserName cannot contain control characters")
		return
	case strings.Count(name, `\`) > 1:
		bad("runAsUserName cannot contain more than one backslash")
		return
	}
	domain, user, ok := strings.Cut(name, `\`)
	if !ok {
		user = name
	} else {
		if len(domain) >= 256 {
			bad("runAsUserName's Domain length must be under 256 characters")
		}
		if !netBIOSDomain.MatchString(domain) && !dnsDomain.MatchString(domain) {
			bad("runAsUserName's Domain doesn't match the NetBios nor the DNS format")
		}
	}
	switch {
	case user == "":
		bad("runAsUserName's User cannot be empty")
	case len(user) > 104:
		bad("runAsUserName's User length must not be longer than 104 characters")
	}
	if user != "" && strings.Trim(user, ". ") == "" {
		bad("runAsUserName's User cannot contain only periods or spaces")
	}
	if strings.ContainsAny(user, `"/\:;|=,+*?<>@[]`) {
		bad(`runAsUserName's User cannot contain the following characters: "/\:;|=,+*?<>@[]`)
	}
}

// checkHostProcess: either all containers of a Windows pod are processes of the
// host, or none is.
func (c *podCheck) checkHostProcess(p place) {
	var ofPod *bool
	if sc := c.spec.SecurityContext; sc != nil && sc.WindowsOptions != nil {
		ofPod = sc.WindowsOptions.HostProcess
	}
	all, host := 0, 0
	for at, ctr := range containersAt(c.spec, p) {
		all++
		var own *bool
		if sc := ctr.SecurityContext; sc != nil && sc.WindowsOptions != nil {
			own = sc.WindowsOptions.HostProcess
		}
		if ofPod != nil && own != nil && *ofPod != *own {
			at().child("securityContext").child("windowsOptions").invalid("hostProcess", *own,
				"pod hostProcess value must be identical if both are specified, was "+strconv.FormatBool(*ofPod))
		}
		if isTrue(own) || own == nil && isTrue(ofPod) {
			host++
		}
	}
	if host == 0 {
		return
	}
	if host != all {
		p.invalid("", "", "If pod contains any hostProcess containers then all containers must be HostProcess containers")
	}
	if !c.spec.HostNetwork {
		p.invalid("hostNetwork", false, "hostNetwork must be true if pod contains any hostProcess containers")
	}
}

// checkOS checks the system that the pod is for, and that it sets nothing of the
// other one.
func (c *podCheck) checkOS(p place) {
	if c.spec.OS == nil {
		return
	}
	switch c.spec.OS.Name {
	case "":
		p.child("os").required("name", "")
	case corev1.Linux:
		c.checkLinux(p)
	case corev1.Windows:
		c.checkWindows(p)
	default:
		oneOf(p, "os", c.spec.OS.Name, corev1.Linux, corev1.Windows)
	}
}

func (c *podCheck) checkLinux(p place) {
	const why = "windows options cannot be set for a linux pod"
	if sc := c.spec.SecurityContext; sc != nil && sc.WindowsOptions != nil {
		p.child("securityContext").forbidden("windowsOptions", why)
	}
	for at, ctr := range containersAt(c.spec, p) {
		if sc := ctr.SecurityContext; sc != nil && sc.WindowsOptions != nil {
			at().child("securityContext").forbidden("windowsOptions", why)
		}
	}
}

func (c *podCheck) checkWindows(p place) {
	type unset struct {
		name string
		set  bool
	}
	refuse := func(at place, fields ...unset) {
		for _, f := range fields {
			if f.set {
				at.forbidden(f.name, "cannot be set for a windows pod")
			}
		}
	}
	s := c.spec
	if sc := s.SecurityContext; sc != nil {
		refuse(p.child("securityContext"),
			unset{"appArmorProfile", sc.AppArmorProfile != nil}, unset{"seLinuxOptions", sc.SELinuxOptions != nil},
			unset{"seccompProfile", sc.SeccompProfile != nil}, unset{"fsGroup", sc.FSGroup != nil},
			unset{"fsGroupChangePolicy", sc.FSGroupChangePolicy != nil}, unset{"sysctls", len(sc.Sysctls) > 0},
			unset{"runAsUser", sc.RunAsUser != nil}, unset{"runAsGroup", sc.RunAsGroup != nil},
			unset{"supplementalGroups", sc.SupplementalGroups != nil}, unset{"supplementalGroupsPolicy", sc.SupplementalGroupsPolicy != nil},
			unset{"seLinuxChangePolicy", sc.SELinuxChangePolicy != nil})
	}
	refuse(p, unset{"hostUsers", s.HostUsers != nil}, unset{"hostPID", s.HostPID}, unset{"hostIPC", s.HostIPC},
		unset{"shareProcessNamespace", s.ShareProcessNamespace != nil})
	for at, ctr := range containersAt(s, p) {
		sc := ctr.SecurityContext
		if sc == nil {
			continue
		}
		refuse(at().child("securityContext"),
			unset{"appArmorProfile", sc.AppArmorProfile != nil}, unset{"seLinuxOptions", sc.SELinuxOptions != nil},
			unset{"seccompProfile", sc.SeccompProfile != nil}, unset{"capabilities", sc.Capabilities != nil},
			unset{"readOnlyRootFilesystem", sc.ReadOnlyRootFilesystem != nil}, unset{"privileged", sc.Privileged != nil},
			unset{"allowPrivilegeEscalation", sc.AllowPrivilegeEscalation != nil}, unset{"procMount", sc.ProcMount != nil},
			unset{"runAsUser", sc.RunAsUser != nil}, unset{"runAsGroup", sc.RunAsGroup != nil})
	}
}
