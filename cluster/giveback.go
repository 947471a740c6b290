package cluster

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// settled is how long after it is ready a process has done what starting leaves to do.
const settled = 5 * time.Second

// giveBack returns to the system, once, the memory that starting took and running
// does not need. The collector would come to its part after minutes of idleness.
// The program's own pages, of which starting reads most and running some, the
// kernel would keep for as long as it has room; those that are used are back at
// the next touch, from the page cache. ready nil: it is ready already.
func giveBack(ctx context.Context, ready <-chan struct{}) {
	if ready != nil {
		select {
		case <-ready:
		case <-ctx.Done():
			return
		}
	}
	if !sleep(ctx, settled) {
		return
	}
	debug.FreeOSMemory()
	unmapProgram()
}

// unmapProgram drops the pages of the program's file that cannot have been written.
// It changes nothing but what is resident: where it fails, that stays as it is.
func unmapProgram() {
	program, err := os.Executable()
	if err != nil {
		return
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return
	}
	defer maps.Close()
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var from, to uintptr
		var rights string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &rights); err != nil || !strings.HasSuffix(lines.Text(), " "+program) {
			continue
		}
		if rights == "r-xp" || rights == "r--p" {
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED)
		}
	}
}
