package campaign

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ublkremap/internal/control"
	"ublkremap/test/rig"
)

// runDir is where the servers keep their files.
var runDir = control.Dir()

// wantLive fails the test unless exactly one device is here, and lives.
func wantLive(t *testing.T, dev string) {
	t.Helper()
	items := rig.List(t)
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
	if items := rig.List(t); len(items) != 0 {
		t.Errorf("list shows %+v after the last device was stopped", items)
	}
	wantHealthy(t)
	for _, pattern := range []string{"/dev/ublkb*", "/dev/ublkc*", "/sys/class/ublk-char/*",
		runDir + "/*.json", runDir + "/*.sock", runDir + "/.record-*"} {
		if left, _ := filepath.Glob(pattern); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
	}
	// A server closes everything first. After that the kernel takes a while to free its memory.
	rig.Await(t, "servers are left", func() error {
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
	rig.Await(t, "a task stays in D state", func() error {
		if all := rig.Blocked(); len(all) > 0 {
			return fmt.Errorf("%q", all)
		}
		return nil
	})
}

// servers lists the detached servers whose command line has the word; empty:
// all of them.
func servers(word string) []int {
	var pids []int
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		raw, err := os.ReadFile(dir + "/cmdline")
		args := strings.Split(string(raw), "\x00")
		if err != nil || !slices.Contains(args, "--detached") || word != "" &&
			!slices.Contains(args, word) {
			continue
		}
		var pid int
		if _, err := fmt.Sscan(filepath.Base(dir), &pid); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}
