package core

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// checkNoBacksteps refuses file paths with an element "..".
func checkNoBacksteps(p place, name, file string) {
	if hasBackstep(file) {
		p.invalid(name, file, "must not contain '..'")
	}
}

func hasBackstep(file string) bool {
	return strings.Contains(file, "..") && slices.Contains(strings.Split(file, "/"), "..")
}

// checkBelow wants a relative file path that stays below where it starts.
func checkBelow(p place, name, file string) {
	if path.IsAbs(file) {
		p.invalid(name, file, "must be a relative path")
	}
	checkNoBacksteps(p, name, file)
}

// checkProjectedPath wants a path in a volume whose files the node writes: names
// that start with ".." are its own.
func checkProjectedPath(p place, name, file string) {
	checkBelow(p, name, file)
	if strings.HasPrefix(file, "..") && !strings.HasPrefix(file, "../") {
		p.invalid(name, file, "must not start with '..'")
	}
}

// ValidateLegacyIP checks an IP address of a field that once took sloppy ones
// (leading zeros); those in old, the stored values, are still taken.
func ValidateLegacyIP(path *field.Path, value string, old []string) field.ErrorList {
	return validation.IsValidIPForLegacyField(path, value, true, old)
}

// ValidateLegacyCIDR is ValidateLegacyIP for address ranges.
func ValidateLegacyCIDR(path *field.Path, value string, old []string) field.ErrorList {
	return validation.IsValidCIDRForLegacyField(path, value, true, old)
}

// ValidateEndpointIP forbids addresses that no endpoint can have: unspecified,
// loopback, link-local.
func ValidateEndpointIP(ip string, path *field.Path) field.ErrorList {
	return collect(path, func(p place) {
		parsed := netutils.ParseIPSloppy(ip)
		switch {
		case parsed == nil:
			p.invalid("", ip, "must be a valid IP address")
		case parsed.IsUnspecified():
			p.invalid("", ip, "may not be unspecified ("+ip+")")
		case parsed.IsLoopback():
			p.invalid("", ip, "may not be in the loopback range (127.0.0.0/8, ::1/128)")
		case parsed.IsLinkLocalUnicast():
			p.invalid("", ip, "may not be in the link-local range (169.254.0.0/16, fe80::/10)")
		case parsed.IsLinkLocalMulticast():
			p.invalid("", ip, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")
		}
	})
}

// checkFamilies wants at most one address of each family, where there are several.
func checkFamilies(p place, name string, value any, addresses []string) {
	if len(addresses) < 2 {
		return
	}
	both, err := netutils.IsDualStackIPStrings(addresses)
	if err != nil {
		p.add(field.InternalError(p.at(name), fmt.Errorf("failed to check for dual stack with error:%w", err)))
	}
	if !both || len(addresses) > 2 {
		p.invalid(name, value, "may specify no more than one IP for each IP family")
	}
}
