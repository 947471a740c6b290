package core

import (
	"encoding/json"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Annotations that older versions used before there were fields, and the words
// of their values.
const (
	tolerationsAnnotation = "scheduler.alpha.kubernetes.io/tolerations"
	appArmorPrefix        = corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix
	seccompPrefix         = corev1.SeccompContainerAnnotationKeyPrefix
)

func checkPodAnnotations(p place, annotations map[string]string, s *corev1.PodSpec, lenient podLeniency) {
	if len(annotations) == 0 {
		return
	}
	if v, ok := annotations[corev1.MirrorPodAnnotationKey]; ok && s.NodeName == "" {
		p.key(corev1.MirrorPodAnnotationKey).invalid("", v, "must set spec.nodeName if mirror pod annotation is set")
	}
	if text := annotations[tolerationsAnnotation]; text != "" {
		var list []corev1.Toleration
		if err := json.Unmarshal([]byte(text), &list); err != nil {
			p.invalid("", tolerationsAnnotation, err.Error())
		}
		checkTolerations(p.child(tolerationsAnnotation), list, lenient.tolerationOperators)
	}
	if !validDeletionCost(annotations) && !lenient.deletionCost {
		p.key(corev1.PodDeletionCost).invalid("", annotations[corev1.PodDeletionCost], "must be a 32bit integer")
	}
	for _, k := range sortedKeys(annotations) {
		v := annotations[k]
		if k == corev1.SeccompPodAnnotationKey || strings.HasPrefix(k, seccompPrefix) {
			checkSeccompAnnotation(p, k, v)
		}
		ctr, ok := strings.CutPrefix(k, appArmorPrefix)
		if !ok {
			continue
		}
		if !podHasContainer(s, ctr) {
			p.key(k).invalid("", ctr, "container not found")
		}
		if v != "" && v != corev1.DeprecatedAppArmorBetaProfileRuntimeDefault && v != corev1.DeprecatedAppArmorBetaProfileNameUnconfined &&
			!strings.HasPrefix(v, corev1.DeprecatedAppArmorBetaProfileNamePrefix) {
			p.key(k).invalid("", v, "invalid AppArmor profile name: "+strconv.Quote(v))
		}
	}
}

// validDeletionCost: the annotation is a number as strconv writes it, if it is there.
func validDeletionCost(annotations map[string]string) bool {
	v, ok := annotations[corev1.PodDeletionCost]
	if !ok {
		return true
	}
	n, err := strconv.ParseInt(v, 10, 32)
	return err == nil && v[0] != '+' && (v[0] != '0' || n == 0 && v == "0")
}

func podHasContainer(s *corev1.PodSpec, name string) bool {
	for c := range containersOf(s) {
		if c.Name == name {
			return true
		}
	}
	return false
}

func checkSeccompAnnotation(p place, name, value string) {
	switch file, local := strings.CutPrefix(value, corev1.SeccompLocalhostProfileNamePrefix); {
	case value == corev1.SeccompProfileRuntimeDefault, value == corev1.DeprecatedSeccompProfileDockerDefault, value == corev1.SeccompProfileNameUnconfined:
	case local:
		checkBelow(p, name, file)
	default:
		p.invalid(name, value, "must be a valid seccomp profile")
	}
}

// checkProfilesAgree: where a profile is given as an annotation and as a field,
// they say the same.
func checkProfilesAgree(p place, annotations map[string]string, s *corev1.PodSpec) {
	if len(annotations) == 0 {
		return
	}
	agree := func(at func() place, key string, f *corev1.SeccompProfile) {
		if text, ok := annotations[key]; ok && f != nil {
			checkProfileAgrees(at().child("securityContext").child("seccompProfile"), "seccomp", text, string(f.Type), f.LocalhostProfile,
				map[string][]string{"Unconfined": {"unconfined"}, "RuntimeDefault": {"runtime/default", "docker/default"}})
		}
	}
	var ofPod *corev1.AppArmorProfile
	if sc := s.SecurityContext; sc != nil {
		agree(func() place { return p }, corev1.SeccompPodAnnotationKey, sc.SeccompProfile)
		ofPod = sc.AppArmorProfile
	}
	windows := s.OS != nil && s.OS.Name == corev1.Windows
	for at, ctr := range containersAt(s, p) {
		armor := ofPod
		if sc := ctr.SecurityContext; sc != nil {
			agree(at, seccompPrefix+ctr.Name, sc.SeccompProfile)
			if sc.AppArmorProfile != nil {
				armor = sc.AppArmorProfile
			}
		}
		if text, ok := annotations[appArmorPrefix+ctr.Name]; ok && armor != nil && !windows {
			checkProfileAgrees(at().child("securityContext").child("appArmorProfile"), "apparmor", text, string(armor.Type), armor.LocalhostProfile,
				map[string][]string{"Unconfined": {"unconfined"}, "RuntimeDefault": {"runtime/default"}})
		}
	}
}

// checkProfileAgrees compares an annotation with a field; words are the values
// that stand for each type but Localhost.
func checkProfileAgrees(p place, what, text, kind string, file *string, words map[string][]string) {
	if kind != "Localhost" {
		allowed, known := words[kind]
		for _, w := range allowed {
			known = known && text != w
		}
		if known {
			p.forbidden("type", what+" type in annotation and field must match")
		}
		return
	}
	name, ok := strings.CutPrefix(text, "localhost/")
	switch {
	case !ok:
		p.forbidden("type", what+" type in annotation and field must match")
	case file == nil || *file != name:
		p.forbidden("localhostProfile", what+" profile in annotation and field must match")
	}
}

// checkAnnotationChanges refuses changes of what the node read when the pod came.
func checkAnnotationChanges(p place, now, old map[string]string) {
	for _, k := range sortedKeys(old) {
		if v, ok := now[k]; ok && v == old[k] {
			continue
		}
		switch {
		case strings.HasPrefix(k, appArmorPrefix):
			p.key(k).forbidden("", "may not remove or update AppArmor annotations")
		case k == corev1.MirrorPodAnnotationKey:
			p.key(k).forbidden("", "may not remove or update mirror pod annotation")
		}
	}
	for _, k := range sortedKeys(now) {
		if _, ok := old[k]; ok {
			continue
		}
		switch {
		case strings.HasPrefix(k, appArmorPrefix):
			p.key(k).forbidden("", "may not add AppArmor annotations")
		case k == corev1.MirrorPodAnnotationKey:
			p.key(k).forbidden("", "may not add mirror pod annotation")
		}
	}
}
