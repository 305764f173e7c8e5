package peer

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Usage is what the threads of a device's server have used since they began.
type Usage struct {
	// User and System are seconds of CPU time, in steps of 10 ms.
	User   float64 `json:"user_seconds"`
	System float64 `json:"system_seconds"`
	// Voluntary and Involuntary count context switches. A thread that wakes up from
	// waiting makes a voluntary one when it waits again.
	Voluntary   int64 `json:"voluntary_switches"`
	Involuntary int64 `json:"involuntary_switches"`
}

// Sub is what was used since an earlier reading.
func (u Usage) Sub(o Usage) Usage {
	return Usage{u.User - o.User, u.System - o.System, u.Voluntary - o.Voluntary, u.Involuntary - o.Involuntary}
}

// holders returns the processes that were given a disk as an argument, and have
// ublk in their name.
func holders(disk string) ([]int, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var out []int
	for _, dir := range dirs {
		line, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil {
			continue // it has ended
		}
		args := strings.Split(string(line), "\x00")
		if !strings.Contains(filepath.Base(args[0]), "ublk") || !slices.Contains(args[1:], disk) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			return nil, err
		}
		out = append(out, pid)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no process serves %s: %w", disk, os.ErrNotExist)
	}
	return out, nil
}

// Served says whether a server of its own makes the device work.
func (v *Device) Served() bool { return len(v.pids) > 0 }

// Usage sums up all threads of the device's server; zero for devices of the kernel.
func (v *Device) Usage() (Usage, error) {
	var sum Usage
	for _, pid := range v.pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return sum, err
		}
		user, system, err := parseStat(string(stat))
		if err != nil {
			return sum, err
		}
		sum.User += user
		sum.System += system
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
		if err != nil {
			return sum, err
		}
		for _, path := range tasks {
			status, err := os.ReadFile(path)
			if err != nil {
				continue // the thread has ended
			}
			v, i, err := parseStatus(string(status))
			if err != nil {
				return sum, err
			}
			sum.Voluntary += v
			sum.Involuntary += i
		}
	}
	return sum, nil
}

// parseStat returns the CPU time of a line of /proc/PID/stat, in seconds. USER_HZ
// is 100 on all of Linux's common platforms.
func parseStat(line string) (user, system float64, err error) {
	// The program's name may contain anything, also blanks and brackets.
	end := strings.LastIndexByte(line, ')')
	fields := strings.Fields(line[end+1:])
	if end < 0 || len(fields) < 13 {
		return 0, 0, fmt.Errorf("/proc/PID/stat: %q", line)
	}
	if user, err = strconv.ParseFloat(fields[11], 64); err != nil {
		return 0, 0, err
	}
	system, err = strconv.ParseFloat(fields[12], 64)
	return user / 100, system / 100, err
}

// parseStatus returns the context switches that /proc/PID/task/TID/status counts.
func parseStatus(text string) (voluntary, involuntary int64, err error) {
	found := 0
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(line, ":")
		var to *int64
		switch key {
		case "voluntary_ctxt_switches":
			to = &voluntary
		case "nonvoluntary_ctxt_switches":
			to = &involuntary
		default:
			continue
		}
		if *to, err = strconv.ParseInt(strings.TrimSpace(value), 10, 64); err != nil {
			return 0, 0, err
		}
		found++
	}
	if found != 2 {
		return 0, 0, fmt.Errorf("/proc/PID/status counts no context switches")
	}
	return voluntary, involuntary, nil
}
