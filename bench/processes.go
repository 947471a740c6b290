package bench

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// processes are the server's, by id.
type processes []int

// usage is what they have used, all together.
type usage struct {
	cpu      time.Duration // since they began
	resident int64         // bytes of memory now
}

// clockTick is the unit of processor time in /proc: Linux has had 100 of them in
// a second on every architecture that Go knows.
const clockTick = time.Second / 100

// usage sums; a process that is gone counts as nothing.
func (p processes) usage() (sum usage) {
	for _, pid := range p {
		u, err := usageOf(pid)
		if err != nil {
			continue
		}
		sum.cpu += u.cpu
		sum.resident += u.resident
	}
	return sum
}

// Used is what processes have used since they began, and the memory that they
// have now. What is gone counts as nothing.
func Used(pids ...int) (cpu time.Duration, resident int64) {
	u := processes(pids).usage()
	return u.cpu, u.resident
}

// CheckProcess tells whether a process is there to be measured.
func CheckProcess(pid int) error {
	_, err := usageOf(pid)
	return err
}

func usageOf(pid int) (usage, error) {
	dir := "/proc/" + strconv.Itoa(pid)
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return usage{}, fmt.Errorf("process %d: %w", pid, err)
	}
	cpu, err := parseStat(stat)
	if err != nil {
		return usage{}, fmt.Errorf("process %d: %w", pid, err)
	}
	memory, err := os.ReadFile(dir + "/statm")
	if err != nil {
		return usage{}, fmt.Errorf("process %d: %w", pid, err)
	}
	fields := strings.Fields(string(memory))
	if len(fields) < 2 {
		return usage{}, fmt.Errorf("process %d: %q is not a statm", pid, memory)
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return usage{}, fmt.Errorf("process %d: %w", pid, err)
	}
	return usage{cpu: cpu, resident: pages * int64(os.Getpagesize())}, nil
}

// parseStat reads user and system time from /proc/PID/stat (proc(5)): fields 14
// and 15, counted behind the program's name, which may hold anything.
func parseStat(stat []byte) (time.Duration, error) {
	_, rest, ok := bytes.Cut(stat[max(bytes.LastIndexByte(stat, ')'), 0):], []byte(") "))
	fields := bytes.Fields(rest)
	if !ok || len(fields) < 13 {
		return 0, fmt.Errorf("%q is not a stat", stat)
	}
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(string(f), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%q is not a stat: %w", stat, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick, nil
}
