package host

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	pfExiting = 0x4          // PF_EXITING, include/linux/sched.h
	sigkill   = 1 << (9 - 1) // in a mask of signals
)

// dying reports whether a process is ending: one of its threads has died and has not been waited
// for, is about to die, or has a SIGKILL pending. It returns true if there is no such process.
func dying(pid int) bool {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/[0-9]*", pid))
	if err != nil || len(tasks) == 0 {
		return true
	}
	for _, dir := range tasks {
		// proc_pid_stat(5): after the name in parentheses come state (3), …, flags (9).
		stat, err := os.ReadFile(filepath.Join(dir, "stat"))
		if err != nil {
			continue // a thread that has just ended
		}
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(fields) < 7 {
			continue
		}
		flags, err := strconv.ParseUint(fields[9-3], 10, 64)
		if fields[0] == "Z" || fields[0] == "X" || err == nil && flags&pfExiting != 0 {
			return true
		}
		status, err := os.ReadFile(filepath.Join(dir, "status"))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(status)) {
			name, mask, _ := strings.Cut(line, ":")
			if name != "SigPnd" && name != "ShdPnd" {
				continue
			}
			if pending, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64); err == nil &&
				pending&sigkill != 0 {
				return true
			}
		}
	}
	return false
}

// serves reports whether the process has the server's end of a device open, or is this program. A
// descriptor that was passed to a ring does not show in /proc.
func serves(pid int, char string) bool {
	if pid <= 0 {
		return false
	}
	proc := fmt.Sprintf("/proc/%d", pid)
	fds, _ := filepath.Glob(proc + "/fd/*")
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && to == char {
			return true
		}
	}
	comm, err := os.ReadFile(proc + "/comm")
	if err != nil || strings.TrimSpace(string(comm)) != "ublk-remap" {
		return false
	}
	// A process that is dead and was not waited for is no server.
	exe, err := os.Readlink(proc + "/exe")
	return err == nil && exe != ""
}

// processState is the state of a process by proc_pid_stat(5), or 0 if it cannot be seen.
func processState(pid int) byte {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, ok := strings.Cut(string(stat), ") ")
	if !ok || rest == "" {
		return 0
	}
	return rest[0]
}
