package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/control"
	"ublkremap/test/vmtest"
)

// deviceUses are the ways in which a device can be in use. Each brings it into use and
// returns what is said of it and what ends the use.
var deviceUses = []struct {
	what string
	use  func(t *testing.T, dev string) (says string, end func())
}{
	{"mounted", func(t *testing.T, dev string) (string, func()) {
		dir := vmtest.Mount(t, "ext4", dev)
		return "mounted on " + dir, func() { vmtest.Unmount(t, dir) }
	}},
	{"mounted in another namespace", func(t *testing.T, dev string) (string, func()) {
		dir := t.TempDir()
		_, end := helper(t, unix.CLONE_NEWNS, "mount", dev, dir)
		return "mounted on " + dir, end
	}},
	{"mounted by way of a loop device", func(t *testing.T, dev string) (string, func()) {
		loop := vmtest.NewLoop(t, 0, vmtest.LoopOptions{File: dev})
		dir := vmtest.Mount(t, "ext4", loop)
		return loop + ", which is mounted on " + dir, func() {
			vmtest.Unmount(t, dir)
			vmtest.DetachLoop(t, loop)
		}
	}},
	{"open to read", func(t *testing.T, dev string) (string, func()) {
		_, end := helper(t, 0, "open", dev, "r")
		return "open in process", end
	}},
}

// TestStopAsksFirst: neither the verb nor a signal takes a device from under its users.
func TestStopAsksFirst(t *testing.T) {
	disk := newDisk(t, 512)
	dev := startDevice(t, disk)
	vmtest.Mkfs(t, "ext4", dev)
	for _, u := range deviceUses {
		t.Run(u.what, func(t *testing.T) {
			says, end := u.use(t, dev)
			ended := false
			defer func() {
				if !ended {
					end()
				}
			}()
			if r := want(t, exit.Refused, "stop", dev); !strings.Contains(r.err, says) ||
				!strings.Contains(r.err, "stop --force life") {
				t.Errorf("it does not say who uses it (%s): %s", says, r.err)
			}
			pid := statusJSON(t, dev).ServerPID
			for n := range 2 { // once more is no force
				must(t, syscall.Kill(pid, syscall.SIGTERM))
				awaitLog(t, n+1, "asked to end by a signal; serving on", says)
			}
			if st := statusJSON(t, dev); st.State != control.StateLive || st.ServerPID != pid {
				t.Errorf("after two signals: %+v", st)
			}
			f, err := os.OpenFile(dev, os.O_RDONLY, 0)
			must(t, err)
			if _, err := f.Read(make([]byte, 4096)); err != nil {
				t.Errorf("the device does not read any more: %v", err)
			}
			must(t, f.Close())
			end()
			ended = true
		})
	}
	// Unused it ends in order, by a signal too.
	must(t, syscall.Kill(statusJSON(t, dev).ServerPID, syscall.SIGTERM))
	for deadline := time.Now().Add(
		3 * time.Minute); control.Owned("life"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the server does not end")
		}
	}
	if _, err := os.Stat(dev); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", dev, err)
	}
	want(t, 0, "metadata", "check", disk)
}

// TestForcedStopOfAnOpenDevice goes on whoever has it open, and does not fail because of them.
func TestForcedStopOfAnOpenDevice(t *testing.T) {
	disk := newDisk(t, 512)
	dev := startDevice(t, disk)
	helper(t, 0, "open", dev, "w")
	want(t, 0, "stop", "--force", "life")
	want(t, 0, "metadata", "check", disk)
}

// awaitLog waits until the server's log has n lines that hold all of that.
func awaitLog(t *testing.T, n int, parts ...string) {
	t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
		text, err := os.ReadFile(control.LogPath("life"))
		must(t, err)
		found := 0
		for line := range strings.Lines(string(text)) {
			if !slices.ContainsFunc(parts, func(p string) bool {
				return !strings.Contains(line,
					p)
			}) {
				found++
			}
		}
		if found >= n {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the log has %d lines that say %q, want %d:\n%s", found, parts, n, text)
		}
	}
}

// TestStartBesideLoops: a loop device over the disk keeps no server away, be it the first
// or one that takes a device over, as long as nobody uses it.
func TestStartBesideLoops(t *testing.T) {
	disk := newDisk(t, 512)
	loop := vmtest.NewLoop(t, 0, vmtest.LoopOptions{File: disk})
	dev := startDevice(t, disk)
	kill(t, dev)
	if again := strings.TrimSpace(want(t, 0, "start", disk).out); again != dev {
		t.Errorf("%s became %s", dev, again)
	}
	want(t, 0, "stop", "life")
	// A driver on top of it does keep it away.
	top := vmtest.NewDM(t, fmt.Sprintf("0 8 linear %s 0\n", loop))
	if r := want(t, exit.Refused, "start", disk); !strings.Contains(r.err, "held by /dev/dm-") {
		t.Errorf("with %s on top: %s", top.Path, r.err)
	}
}
