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
	return Usage{u.User - o.User, u.System - o.System, u.Voluntary - o.Voluntary,
		u.Involuntary - o.Involuntary}
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

// Thread is one thread of a server.
type Thread struct {
	ID   int    `json:"tid"`
	Name string `json:"name"`
	// Voluntary and Involuntary count its context switches.
	Voluntary   int64 `json:"voluntary_switches"`
	Involuntary int64 `json:"involuntary_switches"`
}

// Usage sums up all threads of the device's server; zero for devices of the kernel.
func (v *Device) Usage() (Usage, error) {
	threads, err := v.Threads()
	if err != nil {
		return Usage{}, err
	}
	var sum Usage
	for _, t := range threads {
		sum.Voluntary += t.Voluntary
		sum.Involuntary += t.Involuntary
	}
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
	}
	return sum, nil
}

// Threads are those of the device's server.
func (v *Device) Threads() ([]Thread, error) {
	var out []Thread
	for _, pid := range v.pids {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
		if err != nil {
			return nil, err
		}
		if len(tasks) == 0 {
			return nil, fmt.Errorf("server, process %d: %w", pid, os.ErrNotExist)
		}
		for _, dir := range tasks {
			text, err := os.ReadFile(filepath.Join(dir, "status"))
			if err != nil {
				continue // the thread has ended
			}
			t, err := parseStatus(string(text))
			if err != nil {
				return nil, err
			}
			if t.ID, err = strconv.Atoi(filepath.Base(dir)); err != nil {
				return nil, err
			}
			out = append(out, t)
		}
	}
	return out, nil
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

// parseStatus reads the name and the context switches in /proc/PID/task/TID/status.
func parseStatus(text string) (t Thread, err error) {
	found := 0
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch key {
		case "Name":
			t.Name = value
			continue
		case "voluntary_ctxt_switches":
			t.Voluntary, err = strconv.ParseInt(value, 10, 64)
		case "nonvoluntary_ctxt_switches":
			t.Involuntary, err = strconv.ParseInt(value, 10, 64)
		default:
			continue
		}
		if err != nil {
			return t, err
		}
		found++
	}
	if found != 2 {
		return t, fmt.Errorf("/proc/PID/status counts no context switches")
	}
	return t, nil
}
