package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"skiff/client"
)

// emptyDir makes a directory that lives as long as the pod: on disk, or in memory.
func (m *Manager) emptyDir(p *corev1.Pod, vol *corev1.Volume) (string, error) {
	dir := m.dir(p, "empty-dir", vol.Name)
	_, statErr := os.Stat(dir)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return "", err
	}
	switch vol.EmptyDir.Medium {
	case corev1.StorageMediumMemory:
		if err := tmpfs(dir, m.memorySize(p, vol.EmptyDir)); err != nil {
			return "", err
		}
	case corev1.StorageMediumDefault:
	default:
		return "", fmt.Errorf("unknown storage medium %q", vol.EmptyDir.Medium)
	}
	if statErr == nil {
		return dir, nil // it was there: its content and modes are the pod's own
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		return "", err
	}
	return dir, own(dir, fsGroup(p), nil)
}

// memorySize bounds a memory volume: by its limit, by the pod's memory, by the node's.
func (m *Manager) memorySize(p *corev1.Pod, e *corev1.EmptyDirVolumeSource) int64 {
	allocatable := m.c.Facts(p).Allocatable
	size := allocatable.Memory().Value()
	limits, all := int64(0), true
	for _, c := range p.Spec.Containers {
		l := c.Resources.Limits.Memory().Value()
		all = all && l > 0
		limits += l
	}
	if all && limits > 0 && (size == 0 || limits < size) {
		size = limits
	}
	if e.SizeLimit != nil && e.SizeLimit.Value() > 0 && (size == 0 || e.SizeLimit.Value() < size) {
		size = e.SizeLimit.Value()
	}
	return size
}

// tmpfs mounts memory at dir unless something is mounted there. size 0: no bound.
func tmpfs(dir string, size int64) error {
	if on, err := mountinfo.Mounted(dir); err != nil || on {
		return err
	}
	options := ""
	if size > 0 {
		options = fmt.Sprintf("size=%d", size)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("mount tmpfs at %s: %w", dir, err)
	}
	return nil
}

// unmountBelow unmounts everything below dir, the deepest first.
func unmountBelow(dir string) error {
	if dir == "" || dir == "/" {
		return errors.New("refuse to unmount everything")
	}
	real, err := filepath.EvalSymlinks(dir)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(real))
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	slices.SortFunc(mounts, func(a, b *mountinfo.Info) int { return len(b.Mountpoint) - len(a.Mountpoint) })
	var errs []error
	for _, mt := range mounts {
		if err := unix.Unmount(mt.Mountpoint, unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			if err = unix.Unmount(mt.Mountpoint, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH); err != nil {
				errs = append(errs, fmt.Errorf("unmount %s: %w", mt.Mountpoint, err))
			}
		}
	}
	return errors.Join(errs...)
}

// checkHostPath holds a path against its type, and makes it where the type says so.
func checkHostPath(h *corev1.HostPathVolumeSource) error {
	kind := corev1.HostPathUnset
	if h.Type != nil {
		kind = *h.Type
	}
	switch kind {
	case corev1.HostPathUnset:
		return nil
	case corev1.HostPathDirectoryOrCreate:
		if _, err := os.Stat(h.Path); os.IsNotExist(err) {
			return os.MkdirAll(h.Path, 0o755)
		}
	case corev1.HostPathFileOrCreate:
		f, err := os.OpenFile(h.Path, os.O_CREATE|os.O_EXCL, 0o644)
		if err == nil {
			return f.Close()
		}
		if !os.IsExist(err) {
			return err
		}
	}
	info, err := os.Stat(h.Path)
	is := func(bits os.FileMode) bool { return err == nil && info.Mode()&os.ModeType == bits }
	ok, noun := false, ""
	switch kind {
	case corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate:
		ok, noun = is(os.ModeDir), "directory"
	case corev1.HostPathFile, corev1.HostPathFileOrCreate:
		ok, noun = is(0), "file"
	case corev1.HostPathSocket:
		ok, noun = is(os.ModeSocket), "socket file"
	case corev1.HostPathCharDev:
		ok, noun = is(os.ModeDevice|os.ModeCharDevice), "character device"
	case corev1.HostPathBlockDev:
		ok, noun = is(os.ModeDevice), "block device"
	default:
		return fmt.Errorf("%s is an invalid volume type", kind)
	}
	if !ok {
		return fmt.Errorf("hostPath type check failed: %s is not a %s", h.Path, noun)
	}
	return nil
}

// claim finds the directory behind a claim that is bound to a volume on this node.
func (m *Manager) claim(ctx context.Context, p *corev1.Pod, name string) (string, error) {
	pvc, err := client.Get[*corev1.PersistentVolumeClaim](ctx, m.c.Client, p.Namespace, name)
	if err != nil {
		return "", err
	}
	if pvc.Spec.VolumeName == "" || pvc.Status.Phase != corev1.ClaimBound {
		return "", fmt.Errorf("PVC %s/%s is not bound", p.Namespace, name)
	}
	pv, err := client.Get[*corev1.PersistentVolume](ctx, m.c.Client, "", pvc.Spec.VolumeName)
	if err != nil {
		return "", err
	}
	if ref := pv.Spec.ClaimRef; ref == nil || ref.UID != pvc.UID {
		return "", fmt.Errorf("volume %s is not bound to PVC %s/%s", pv.Name, p.Namespace, name)
	}
	path := ""
	switch {
	case pv.Spec.HostPath != nil:
		path = pv.Spec.HostPath.Path
		err = checkHostPath(pv.Spec.HostPath)
	case pv.Spec.Local != nil:
		path = pv.Spec.Local.Path
		_, err = os.Stat(path)
	default:
		err = fmt.Errorf("volume %s is of a kind that this node cannot mount: only hostPath and local are", pv.Name)
	}
	if err != nil {
		return "", err
	}
	var policy *corev1.PodFSGroupChangePolicy
	if s := p.Spec.SecurityContext; s != nil {
		policy = s.FSGroupChangePolicy
	}
	if pv.Spec.Local != nil || strings.EqualFold(pv.Annotations["pv.kubernetes.io/provisioned-by"], "skiff.dev/local-path") {
		err = own(path, fsGroup(p), policy)
	}
	return path, err
}

func ownedBy(path string, group int) bool {
	info, err := os.Stat(path)
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Gid) == group && info.Mode()&os.ModeSetgid != 0
}

// bindSubPath mounts a path below a volume at target. The path is opened so that
// no symbolic link in it can lead out of the volume; it is made as a directory if
// it is missing.
func bindSubPath(root, sub, target string) error {
	info, err := os.Stat(root)
	if err != nil {
		return err
	}
	fd, err := openBeneath(root, sub)
	if errors.Is(err, unix.ENOENT) {
		if err := mkdirBeneath(root, sub, info.Mode().Perm()); err != nil {
			return err
		}
		fd, err = openBeneath(root, sub)
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if err := makeTarget(target, st.Mode&unix.S_IFMT == unix.S_IFDIR); err != nil {
		return err
	}
	if on, err := mountinfo.Mounted(target); err != nil {
		return err
	} else if on {
		// A restarted container gets the path as it is now.
		if err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount %s: %w", target, err)
		}
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", fd), target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s to %s: %w", sub, target, err)
	}
	return nil
}

func makeTarget(target string, dir bool) error {
	if dir {
		return os.MkdirAll(target, 0o750)
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return err
	}
	f, err := os.OpenFile(target, os.O_CREATE, 0o640)
	if err != nil {
		return err
	}
	return f.Close()
}

func openBeneath(root, sub string) (int, error) {
	base, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", root, err)
	}
	defer unix.Close(base)
	fd, err := unix.Openat2(base, filepath.Clean(sub), &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return -1, fmt.Errorf("open %s below %s: %w", sub, root, err)
	}
	return fd, nil
}

// mkdirBeneath makes the missing directories of sub, each step below root.
func mkdirBeneath(root, sub string, mode os.FileMode) error {
	done := ""
	for _, part := range strings.Split(filepath.Clean(sub), string(filepath.Separator)) {
		parent := "."
		if done != "" {
			parent = done
		}
		fd, err := openBeneath(root, parent)
		if err != nil {
			return err
		}
		err = unix.Mkdirat(fd, part, uint32(mode))
		if err == nil {
			err = unix.Fchmodat(fd, part, uint32(mode), 0) // whatever the umask
		}
		unix.Close(fd)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("make %s below %s: %w", sub, root, err)
		}
		done = filepath.Join(done, part)
	}
	return nil
}
