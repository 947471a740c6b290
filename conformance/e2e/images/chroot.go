package images

import (
	"runtime"
	"syscall"
)

const architecture = runtime.GOARCH // images are for the machine that they are made on: so are Debian's packages

// chroot runs a program inside a root file system; it needs root, as clusters with containers do.
func chroot(root string) *syscall.SysProcAttr { return &syscall.SysProcAttr{Chroot: root} }
