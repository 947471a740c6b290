package store

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"skiff/store/powercut"
)

// The crash tests start this test binary again as a writer, which does nothing but
// write to an embedded store as fast as it can, and prints each write after it was
// acknowledged. The writer is killed, or its disk's power is cut, at a random
// moment; then every write that it printed must be in the store.

const (
	crashDirEnv   = "SKIFF_STORE_CRASH_DIR"   // makes this binary a writer to that directory
	crashRoundEnv = "SKIFF_STORE_CRASH_ROUND" // and says in which round
	// powerCutsEnv is how many times the power is cut: "50" takes a minute or two.
	powerCutsEnv = "SKIFF_STORE_POWER_CUTS"

	crashWriters, crashKeys = 8, 10
)

// crashOp is the nth write of a writer: its key's state after it is known from n.
func crashOp(round, writer, n int) (key string, value []byte) {
	key = fmt.Sprintf("/registry/crash/%d/%d/%d", round, writer, n%crashKeys)
	if n%7 == 6 && n >= crashKeys {
		return key, nil // a deletion
	}
	return key, append([]byte(strconv.Itoa(n)+" "), bytes.Repeat([]byte{'x'}, n*131%3000)...)
}

// crashWriter is the writer's main. It ends only if it is killed, or by itself when
// etcd finds that it cannot write.
func crashWriter(dir string) int {
	round, _ := strconv.Atoi(os.Getenv(crashRoundEnv))
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	s, err := OpenEmbedded(context.Background(), EmbeddedConfig{Dir: dir, Logger: logger})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var mu sync.Mutex
	var group sync.WaitGroup
	for writer := range crashWriters {
		group.Go(func() {
			for n := 0; ; n++ {
				key, value := crashOp(round, writer, n)
				var err error
				if value == nil {
					_, err = s.Delete(context.Background(), key, Condition{Revision: Any})
				} else {
					_, err = s.Put(context.Background(), key, value, Condition{Revision: Any})
				}
				if err != nil && !errors.Is(err, ErrNotFound) {
					fmt.Fprintln(os.Stderr, err)
					return
				}
				mu.Lock()
				fmt.Printf("%d %d %d\n", writer, n, monotonic())
				mu.Unlock()
			}
		})
	}
	group.Wait()
	return 2
}

// monotonic is a clock, in nanoseconds, that all processes of the machine share.
func monotonic() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		panic(err)
	}
	return t.Nano()
}

// crashed is what a writer said before it ended.
type crashed struct {
	acked  [crashWriters]int // how many writes of each were acknowledged before the end began
	said   [crashWriters]int // and how many in all
	total  int               // acknowledged
	stderr string
	state  *os.ProcessState
}

// ack is a line of a writer: which of its writes was acknowledged, and when.
type ack struct {
	writer, n int
	at        int64
}

// crash runs a writer and calls end at a random moment of the first while of it, which
// may be while it still starts; end must make it end. What is acknowledged after that began does not count: where
// the power really fails, nobody is there any more to say so (and ext4 can answer an
// fsync that its shutdown overtakes as if all were well).
func crash(t *testing.T, dir string, round int, while time.Duration, end func(*os.Process)) crashed {
	t.Helper()
	self, err := os.Executable()
	check(t, err)
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), crashDirEnv+"="+dir, fmt.Sprint(crashRoundEnv, "=", round))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	var c crashed
	var acks []ack
	var began int64
	var ender sync.WaitGroup
	ender.Go(func() {
		time.Sleep(time.Duration(rand.Int64N(int64(while))))
		began = monotonic()
		end(cmd.Process)
	})
	lines := bufio.NewReader(stdout)
	for {
		line, err := lines.ReadString('\n')
		if err == io.EOF {
			break // the last line may be cut off: it says nothing
		}
		check(t, err)
		var a ack
		if _, err := fmt.Sscan(line, &a.writer, &a.n, &a.at); err != nil {
			t.Fatalf("the writer says %q", line)
		}
		acks = append(acks, a)
	}
	ender.Wait()
	for _, a := range acks {
		c.said[a.writer] = a.n + 1
		if a.at < began {
			c.acked[a.writer] = a.n + 1
			c.total++
		}
	}
	_ = cmd.Wait() // it does not end well
	c.stderr, c.state = stderr.String(), cmd.ProcessState
	return c
}

// survived checks that the store has every acknowledged write of the round, from
// the first moment on: each key is as its last acknowledged write left it, or as one
// after that did, whose acknowledgement came too late or not at all.
func survived(t *testing.T, s Store, round int, c crashed) {
	t.Helper()
	page, err := s.List(t.Context(), fmt.Sprintf("/registry/crash/%d/", round), "", 0, 0)
	check(t, err)
	got := map[string]string{}
	for _, e := range page.Entries {
		got[e.Key] = string(e.Value)
	}
	for writer, acked := range c.acked {
		for k := range crashKeys {
			key, may := "", []string{""} // before the first write there is nothing
			for n := k; n <= max(k, c.said[writer]); n += crashKeys {
				var value []byte
				key, value = crashOp(round, writer, n)
				if n < acked {
					may = may[:0] // what was before is known to be over
				}
				may = append(may, string(value))
			}
			if !slices.Contains(may, got[key]) {
				t.Fatalf("%s is %.20q after %d acknowledged writes; it may be one of %.60q", key, got[key], acked, may)
			}
		}
	}
}

func TestKilled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for round := range 10 {
		c := crash(t, dir, round, 400*time.Millisecond, func(p *os.Process) { _ = p.Kill() })
		if status := c.state.Sys().(syscall.WaitStatus); status.Signal() != syscall.SIGKILL {
			t.Fatalf("the writer ended before it was killed: %v: %s", c.state, c.stderr)
		}
		reopen(t, dir, round, c)
	}
}

func reopen(t *testing.T, dir string, round int, c crashed) {
	t.Helper()
	s, err := OpenEmbedded(t.Context(), EmbeddedConfig{Dir: dir, Logger: testLogger(t)})
	check(t, err)
	defer func() { check(t, s.Close()) }()
	survived(t, s, round, c)
	t.Logf("round %d: %d acknowledged writes survived", round, c.total)
}

// "A 2xx to a write survives power loss. After a failed fsync the process stops."
func TestPowerCut(t *testing.T) {
	t.Parallel()
	if !powercut.Alone(t) {
		return
	}
	rounds := 5
	if s := os.Getenv(powerCutsEnv); s != "" {
		var err error
		rounds, err = strconv.Atoi(s)
		check(t, err)
	}
	disk := powercut.New(t, 512<<20)
	for round := range rounds {
		// Now a store that lives on, now the first moments of a new one.
		dir, while := filepath.Join(disk.Dir, "store"), 400*time.Millisecond
		if round%2 == 1 {
			dir, while = filepath.Join(disk.Dir, "new"), 60*time.Millisecond
		}
		disk.Mount(t)
		c := crash(t, dir, round, while, func(*os.Process) { disk.Cut(t) })
		if c.state.Success() || !strings.Contains(c.stderr, "input/output error") {
			t.Fatalf("the writer did not stop by itself: %v: %s", c.state, c.stderr)
		}
		disk.Unmount(t)
		disk.Repair(t)
		disk.Mount(t)
		reopen(t, dir, round, c)
		check(t, os.RemoveAll(filepath.Join(disk.Dir, "new")))
		disk.Unmount(t)
	}
}
