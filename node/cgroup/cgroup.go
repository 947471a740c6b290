// Package cgroup keeps the pods' control groups: one per pod, below one per
// quality-of-service class, below the node's own parent. It owns these groups
// and nothing above them. It speaks cgroup v1 and v2 through opencontainers/cgroups.
// Package pod calls it.
package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	corev1 "k8s.io/api/core/v1"

	"skiff/node/pod"
)

// Config says where the groups are.
type Config struct {
	// Parent is the node's own group, such as "/skiff/one/node-1"; empty: the root.
	Parent string
	// Systemd: systemd owns the tree, and groups are slices.
	Systemd bool
	// NodeMemory in bytes.
	NodeMemory int64
}

// Tree are the groups of one node.
type Tree struct {
	c         Config
	hugepages bool
}

var _ pod.Cgroups = (*Tree)(nil)

// New makes the groups of the classes.
func New(c Config) (*Tree, error) {
	t := &Tree{c: c, hugepages: hasHugepages()}
	for _, class := range []corev1.PodQOSClass{corev1.PodQOSGuaranteed, corev1.PodQOSBurstable, corev1.PodQOSBestEffort} {
		res := &cgroups.Resources{SkipDevices: true}
		if class == corev1.PodQOSBestEffort {
			res.CpuShares = 2
		}
		if err := t.ensure(t.class(class), res); err != nil {
			return nil, fmt.Errorf("cgroup of class %s: %w", class, err)
		}
	}
	return t, nil
}

func (t *Tree) Memory() int64   { return t.c.NodeMemory }
func (t *Tree) Hugepages() bool { return t.hugepages }

// class is the group of a class, as path elements below the parent.
func (t *Tree) class(q corev1.PodQOSClass) []string {
	switch q {
	case corev1.PodQOSBurstable:
		return []string{"kubepods", "burstable"}
	case corev1.PodQOSBestEffort:
		return []string{"kubepods", "besteffort"}
	}
	return []string{"kubepods"}
}

func (t *Tree) elements(p *corev1.Pod, q corev1.PodQOSClass) []string {
	return append(t.class(q), "pod"+string(p.UID))
}

// Parent is the pod's group as CRI wants it: a path, or under systemd a slice.
func (t *Tree) Parent(p *corev1.Pod) string {
	e := t.elements(p, pod.QOS(p))
	if t.c.Systemd {
		return t.slice(e)
	}
	return path.Join(append([]string{"/", t.c.Parent}, e...)...)
}

// slice is "kubepods-burstable-podUID.slice": systemd finds the parents in the name.
func (t *Tree) slice(elements []string) string {
	all := elements
	if t.c.Parent != "" {
		all = append(strings.Split(strings.Trim(t.c.Parent, "/"), "/"), elements...)
	}
	for i := range all {
		all[i] = strings.ReplaceAll(all[i], "-", "_")
	}
	return strings.Join(all, "-") + ".slice"
}

func (t *Tree) config(elements []string, r *cgroups.Resources) *cgroups.Cgroup {
	if t.c.Systemd {
		own := t.slice(append([]string(nil), elements...))
		parent := t.slice(append([]string(nil), elements[:len(elements)-1]...))
		if len(elements) == 1 {
			parent = "-.slice"
		}
		return &cgroups.Cgroup{Name: own, Parent: parent, Resources: r, Systemd: true}
	}
	return &cgroups.Cgroup{Path: path.Join(append([]string{"/", t.c.Parent}, elements...)...), Resources: r}
}

func (t *Tree) ensure(elements []string, r *cgroups.Resources) error {
	m, err := manager.New(t.config(elements, r))
	if err != nil {
		return err
	}
	if err := m.Apply(-1); err != nil {
		return err
	}
	return m.Set(r)
}

// Ensure makes the pod's group and sets its limits.
func (t *Tree) Ensure(p *corev1.Pod) error { return t.ensure(t.elements(p, pod.QOS(p)), limits(p)) }

// limits are the pod's as a whole.
func limits(p *corev1.Pod) *cgroups.Resources {
	r := &cgroups.Resources{SkipDevices: true}
	c := pod.Limits(p)
	r.CpuShares, r.CpuQuota, r.CpuPeriod, r.Memory = c.Shares, c.Quota, c.Period, c.Memory
	if cgroups.IsCgroup2UnifiedMode() {
		r.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(c.Shares)
	}
	return r
}

// Remove removes the pod's group in whatever class it is: of an orphan only the
// uid is known.
func (t *Tree) Remove(p *corev1.Pod) error {
	var errs []error
	for _, q := range []corev1.PodQOSClass{corev1.PodQOSGuaranteed, corev1.PodQOSBurstable, corev1.PodQOSBestEffort} {
		e := t.elements(p, q)
		if !t.c.Systemd && !t.exists(e) {
			continue
		}
		m, err := manager.New(t.config(e, &cgroups.Resources{SkipDevices: true}))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if !m.Exists() {
			continue
		}
		if err := t.destroy(m); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (t *Tree) exists(elements []string) bool {
	rel := path.Join(append([]string{t.c.Parent}, elements...)...)
	root := "/sys/fs/cgroup"
	if !cgroups.IsCgroup2UnifiedMode() {
		for _, controller := range []string{"memory", "cpu", "pids"} {
			if _, err := os.Stat(filepath.Join(root, controller, rel)); err == nil {
				return true
			}
		}
		return false
	}
	_, err := os.Stat(filepath.Join(root, rel))
	return err == nil
}

// destroy removes a group with the empty groups that a runtime left in it.
func (t *Tree) destroy(m cgroups.Manager) error {
	err := m.Destroy()
	for i := 0; i < 4 && err != nil; i++ {
		// The kernel needs a moment to let go of processes that were killed.
		time.Sleep(20 * time.Millisecond << i)
		err = m.Destroy()
	}
	return err
}

// RemoveAll removes the whole tree of the node: for one that is taken down.
func (t *Tree) RemoveAll() error {
	m, err := manager.New(t.config([]string{"kubepods"}, &cgroups.Resources{SkipDevices: true}))
	if err != nil {
		return err
	}
	return m.Destroy()
}

func hasHugepages() bool {
	if cgroups.IsCgroup2UnifiedMode() {
		data, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
		return err == nil && strings.Contains(string(data), "hugetlb")
	}
	_, err := os.Stat("/sys/fs/cgroup/hugetlb")
	return err == nil
}
