package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/control"
	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// TestBelow: sets below other drivers are found for the initramfs, and no other sets are.
func TestBelow(t *testing.T) {
	vmtest.OnOneKernel(t)
	disk := newDisk(t, 512)
	dev := rig.StartDevice(t, disk)
	dm := vmtest.NewDM(t, vmtest.LinearTable(t, dev))
	vmtest.Mkfs(t, "ext4", dm.Path)
	dir := vmtest.Mount(t, "ext4", dm.Path)
	want := fmt.Sprintf("%s life %s\n", rig.StatusOf(t, "life").UUID, disk)
	got := rig.Want(t, 0, "below", "/proc", dir, filepath.Join(dir, "lost+found")).Stdout
	if got != want {
		t.Errorf("below a file system on device-mapper: %q, want %q", got, want)
	}
	if got := rig.Want(t, 0, "below", "/proc", "/not/there").Stdout; got != "" {
		t.Errorf("below a file system elsewhere: %q", got)
	}
}

// TestAdopt: a server in the foreground replaces a server without a supervisor, but not one that
// has another supervisor.
func TestAdopt(t *testing.T) {
	vmtest.OnOneKernel(t)
	disk := newDisk(t, 512)
	dev := rig.StartDevice(t, disk)
	old := rig.StatusOf(t, "life").ServerPID
	cmd := exec.Command(vmtest.Binary(t), "start", "--foreground", "--adopt", "life")
	must(t, cmd.Start())
	rig.Until(t, "the new server", func() bool {
		st := rig.StatusOf(t, "life")
		return st.ServerPID == cmd.Process.Pid && st.State == control.StateLive
	})
	if syscall.Kill(old, 0) == nil && control.OwnedBy("life", old) {
		t.Errorf("the old server, process %d, serves", old)
	}
	r := rig.Want(t, exit.Refused, "start", "--foreground", "--adopt", "life")
	if !strings.Contains(r.Stderr, "supervisor") {
		t.Errorf("the server of a supervisor: %s", r.Stderr)
	}
	f, err := os.Open(dev)
	must(t, err)
	if _, err := f.Read(make([]byte, 4096)); err != nil {
		t.Errorf("the device does not read: %v", err)
	}
	must(t, f.Close())
	must(t, cmd.Process.Signal(syscall.SIGTERM))
	must(t, cmd.Wait())
	rig.Want(t, 0, "metadata", "check", disk)
}

// TestRootStorage: the server of the root file system is marked for systemd. So is the server that
// its guard starts after it was killed. The guard ends with the device.
func TestRootStorage(t *testing.T) {
	vmtest.OnOneKernel(t)
	disk := newDisk(t, 512)
	dev := rig.StartDevice(t, disk, "--root-storage")
	old := rig.StatusOf(t, "life").ServerPID
	for range 2 {
		marked(t, old)
		must(t, syscall.Kill(old, syscall.SIGKILL))
		rig.Until(t, "the guard's server", func() bool {
			st := rig.StatusOf(t, "life")
			return st.ServerPID != old && st.State == control.StateLive
		})
		old = rig.StatusOf(t, "life").ServerPID
	}
	marked(t, old)
	rig.Want(t, 0, "stop", dev)
	rig.Until(t, "the guard's end", func() bool { return guards(t) == 0 })
	rig.Want(t, 0, "metadata", "check", disk)
}

// marked checks the command line of a server.
func marked(t *testing.T, pid int) {
	t.Helper()
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	must(t, err)
	if !strings.HasPrefix(string(line), "@ublk-remap\x00") {
		t.Errorf("process %d is called %q", pid, line)
	}
	rig.Until(t, "its guard", func() bool { return guards(t) == 1 })
}

// guards counts the living guards.
func guards(t *testing.T) (n int) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(t, err)
	for _, path := range all {
		line, _ := os.ReadFile(path) // it may have ended
		if strings.HasPrefix(string(line), "@ublk-remap\x00guard\x00") {
			n++
		}
	}
	return n
}
