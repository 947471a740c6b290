package core

import (
	"regexp"

	corev1 "k8s.io/api/core/v1"
)

const longISCSIName = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified."

// The three forms of a qualified name, by their first three letters.
var iscsiNames = map[string]*regexp.Regexp{
	"iqn": regexp.MustCompile(`iqn\.\d{4}-\d{2}\.([[:alnum:]-.]+)(:[^,;*&$|\s]+)$`),
	"eui": regexp.MustCompile(`^eui.[[:alnum:]]{16}$`),
	"naa": regexp.MustCompile(`^naa.[[:alnum:]]{32}$`),
}

// checkISCSIName checks a qualified name; unknown is said of one of no known form.
func checkISCSIName(p place, field, name, unknown string) {
	form := iscsiNames[name[:min(3, len(name))]]
	switch {
	case form == nil:
		p.invalid(field, name, unknown)
	case !form.MatchString(name):
		p.invalid(field, name, "must be valid format")
	}
}

func checkISCSI(p place, v *corev1.ISCSIVolumeSource) {
	const unknown = "must be valid format starting with iqn, eui, or naa"
	p.wants("targetPortal", v.TargetPortal)
	if p.wants("iqn", v.IQN) {
		checkISCSIName(p, "iqn", v.IQN, unknown)
	}
	checkLun(p, v.Lun)
	if (v.DiscoveryCHAPAuth || v.SessionCHAPAuth) && v.SecretRef == nil {
		p.required("secretRef", "")
	}
	if v.InitiatorName != nil {
		checkISCSIName(p, "initiatorname", *v.InitiatorName, unknown)
	}
}

func checkPersistentISCSI(p place, v *corev1.ISCSIPersistentVolumeSource, volume string) {
	const unknown = "must be valid format"
	p.wants("targetPortal", v.TargetPortal)
	if v.InitiatorName != nil && len(volume+":"+v.TargetPortal) > 64 {
		p.invalid("targetportal", v.TargetPortal, longISCSIName)
	}
	if p.wants("iqn", v.IQN) {
		checkISCSIName(p, "iqn", v.IQN, unknown)
	}
	checkLun(p, v.Lun)
	if (v.DiscoveryCHAPAuth || v.SessionCHAPAuth) && v.SecretRef == nil {
		p.required("secretRef", "")
	}
	if v.SecretRef != nil {
		p.child("secretRef").wants("name", v.SecretRef.Name)
	}
	if v.InitiatorName != nil {
		checkISCSIName(p, "initiatorname", *v.InitiatorName, unknown)
	}
}
