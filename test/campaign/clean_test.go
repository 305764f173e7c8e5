package campaign

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ublkremap/test/rig"
)

// patience is how long something that must end by itself may take. Only a hang
// reaches it: Linux 6.12 notices some deaths after 30 seconds.
const patience = 90 * time.Second

// poll calls f until it has no complaint, and fails the test with the last one
// if that never happens.
func poll(t *testing.T, what string, f func() error) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			rig.DumpTasks(what)
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// item is an element of `list --json`.
type item struct {
	Device    string `json:"device"`
	ID        int    `json:"id"`
	Name      string `json:"name"`
	State     string `json:"state"`
	ServerPID int    `json:"server_pid"`
}

func list(t *testing.T) []item {
	t.Helper()
	var items []item
	rig.Parse(t, rig.Remap(t, "list", "--json"), &items)
	return items
}

// wantLive fails the test unless exactly one device is here, and lives.
func wantLive(t *testing.T, dev string) {
	t.Helper()
	items := list(t)
	if len(items) != 1 || items[0].Device != dev || items[0].State == "failed" ||
		items[0].State == "recovering" || items[0].ServerPID == 0 {
		t.Errorf("list shows %+v, want %s alone and alive", items, dev)
	}
	wantHealthy(t)
}

// wantHealthy fails the test if doctor has found something that was left behind.
func wantHealthy(t *testing.T) {
	t.Helper()
	var report struct {
		Checks []struct{ Name, State, What, Do string }
	}
	rig.Parse(t, rig.Remap(t, "doctor", "--json"), &report)
	for _, c := range report.Checks {
		if (c.Name == "device" || c.Name == "devices" || c.Name == "left over" ||
			c.Name == "runtime records") && c.State != "ok" {
			t.Errorf("doctor: %+v", c)
		}
	}
}

// wantNothing fails the test if anything is left after the last device was
// stopped: a device, a number, a record, a socket, a process, a blocked task.
func wantNothing(t *testing.T) {
	t.Helper()
	if items := list(t); len(items) != 0 {
		t.Errorf("list shows %+v after the last device was stopped", items)
	}
	wantHealthy(t)
	for _, pattern := range []string{"/dev/ublkb*", "/dev/ublkc*", "/sys/class/ublk-char/*",
		"/run/ublk-remap/*.json", "/run/ublk-remap/*.sock", "/run/ublk-remap/.record-*"} {
		if left, _ := filepath.Glob(pattern); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
	}
	// A server lets go of everything first, and then has its memory to give back.
	poll(t, "servers are left", func() error {
		if pids := servers(""); len(pids) > 0 {
			return fmt.Errorf("processes %v", pids)
		}
		return nil
	})
	wantNoneBlocked(t)
}

// wantNoneBlocked waits until no task is in uninterruptible sleep.
func wantNoneBlocked(t *testing.T) {
	t.Helper()
	poll(t, "a task stays in D state", func() error {
		if all := blocked(); len(all) > 0 {
			return fmt.Errorf("%q", all)
		}
		return nil
	})
}

// blocked lists the tasks in uninterruptible sleep: not those that a kernel
// thread spends idle, which is another state.
func blocked() []string {
	var all []string
	tasks, _ := filepath.Glob("/proc/[0-9]*/task/[0-9]*/stat")
	for _, path := range tasks {
		raw, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// pid (name) state ...; a name may have blanks and parentheses.
		_, rest, ok := strings.Cut(string(raw[strings.LastIndexByte(string(raw), ')')+1:]), " ")
		if ok && strings.HasPrefix(rest, "D") {
			all = append(all, strings.SplitAfter(string(raw), ")")[0])
		}
	}
	return all
}

// servers lists the detached servers whose command line has the word; empty:
// all of them.
func servers(word string) []int {
	var pids []int
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		raw, err := os.ReadFile(dir + "/cmdline")
		args := strings.Split(string(raw), "\x00")
		if err != nil || !contains(args, "--detached") || word != "" && !contains(args, word) {
			continue
		}
		var pid int
		if _, err := fmt.Sscan(filepath.Base(dir), &pid); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

func contains(args []string, word string) bool {
	for _, a := range args {
		if a == word {
			return true
		}
	}
	return false
}
