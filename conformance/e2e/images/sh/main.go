// Sh is /bin/sh of the images with Debian's busybox. That shell drops variables whose names no shell could read, such as data-1, where
// upstream's passes them on; bash passes them on, but words its errors otherwise. So it is bash only where such variables are.
package main

import (
	"fmt"
	"os"
	"regexp"
	"syscall"
)

var readable = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*=`)

func main() {
	shell := "/bin/busybox" // which is what it is called: sh
	for _, variable := range os.Environ() {
		if !readable.MatchString(variable) {
			shell = "/bin/bash"
		}
	}
	err := syscall.Exec(shell, os.Args, os.Environ())
	fmt.Fprintf(os.Stderr, "sh: start %s: %v\n", shell, err)
	os.Exit(127)
}
