package rig

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// stateIn is the letter of a task's state in its stat file: pid (name) state ...; a
// name may have blanks and parentheses.
func stateIn(stat []byte) string {
	_, rest, ok := strings.Cut(string(stat[bytes.LastIndexByte(stat, ')')+1:]), " ")
	if !ok || rest == "" {
		return "?"
	}
	return rest[:1]
}

// Alive says whether a process runs. A dead process that was not waited for does not. Its
// first thread can be dead while others still wait for their I/O to end, and as long
// as one of them lives the process has its files and locks.
func Alive(pid int) bool {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/[0-9]*/stat", pid))
	for _, path := range tasks {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		if state := stateIn(stat); state != "Z" && state != "X" {
			return true
		}
	}
	return false
}

// Blocked lists the tasks in uninterruptible sleep. Kernel threads that are idle are in
// another state.
func Blocked() []string {
	var all []string
	tasks, _ := filepath.Glob("/proc/[0-9]*/task/[0-9]*/stat")
	for _, path := range tasks {
		stat, err := os.ReadFile(path)
		if err == nil && stateIn(stat) == "D" {
			all = append(all, strings.SplitAfter(string(stat), ")")[0])
		}
	}
	return all
}

// KiB reads a line "name: N kB" of a file, or without a name a file that is a number.
func KiB(t testing.TB, path, name string) int64 {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for s := bufio.NewScanner(f); s.Scan(); {
		text := s.Text()
		if name != "" {
			rest, ok := strings.CutPrefix(text, name+":")
			if !ok {
				continue
			}
			text = strings.Fields(rest)[0]
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	t.Fatalf("%s does not tell %s", path, name)
	return 0
}

// ProcessKiB reads a line of a process's status, such as VmRSS.
func ProcessKiB(t testing.TB, pid int, name string) int64 {
	t.Helper()
	return KiB(t, fmt.Sprintf("/proc/%d/status", pid), name)
}

// InFlight is how many reads and writes of a block device are under way.
func InFlight(t testing.TB, dev string) (reads, writes int) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(dev), "inflight"))
	if err == nil {
		_, err = fmt.Sscan(string(text), &reads, &writes)
	}
	if err != nil {
		t.Fatal(err)
	}
	return reads, writes
}
