package main

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/control"
	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// deviceUses are the ways in which a device can be in use. Each one takes the device into use. It
// returns the text that the message must contain, and a function that ends the use.
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
		return "mounted on " + dir, rig.MountElsewhere(t, dev, dir).End
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
		return "open in process", rig.HoldOpen(t, dev, "r").End
	}},
}

// TestStopAsksFirst: neither the verb nor a signal takes a device away from its users.
func TestStopAsksFirst(t *testing.T) {
	vmtest.OnOneKernel(t)
	disk := newDisk(t, 512)
	dev := rig.StartDevice(t, disk)
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
			if r := rig.Want(t, exit.Refused, "stop", dev); !strings.Contains(r.Stderr, says) ||
				!strings.Contains(r.Stderr, "stop --force life") {
				t.Errorf("it does not say who uses it (%s): %s", says, r.Stderr)
			}
			pid := rig.StatusOf(t, dev).ServerPID
			for n := range 2 { // a second signal does not force the stop
				must(t, syscall.Kill(pid, syscall.SIGTERM))
				awaitLog(t, n+1, "a signal asks this server to end, and it does not", says)
			}
			if st := rig.StatusOf(t, dev); st.State != control.StateLive || st.ServerPID != pid {
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
	// Without users it ends in order, also by a signal.
	must(t, syscall.Kill(rig.StatusOf(t, dev).ServerPID, syscall.SIGTERM))
	rig.Until(t, "the server's end", func() bool { return !control.Owned("life") })
	if _, err := os.Stat(dev); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", dev, err)
	}
	rig.Want(t, 0, "metadata", "check", disk)
}

// TestForcedStopOfAnOpenDevice goes on although processes have the device open, and does not fail
// because of them.
func TestForcedStopOfAnOpenDevice(t *testing.T) {
	vmtest.OnOneKernel(t)
	disk := newDisk(t, 512)
	dev := rig.StartDevice(t, disk)
	rig.HoldOpen(t, dev, "w")
	rig.Want(t, 0, "stop", "--force", "life")
	rig.Want(t, 0, "metadata", "check", disk)
}

func TestStopOfADeadServer(t *testing.T) {
	vmtest.OnOneKernel(t)
	disk := newDisk(t, 512)
	dev := rig.StartDevice(t, disk)
	writers := rig.StartFio(t, dev, "rw=randwrite", "bs=4k", "iodepth=32", "size=32M",
		"time_based", "runtime=3600")
	rig.Until(t, "a hundred writes", func() bool { return rig.StatusOf(t, dev).IO.Writes >= 100 })
	rig.Kill(t, dev)
	rig.Want(t, 0, "stop", "life")
	if _, err := os.Stat(dev); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", dev, err)
	}
	if r := writers.Wait(t, rig.Limit); r.Code == 0 {
		t.Errorf("fio saw no error though its device went away\n%s", writers.Brief())
	}
	rig.Want(t, exit.NotFound, "stop", "life")
	rig.Want(t, 0, "metadata", "check", disk)
	// The disk is usable as before.
	rig.StartDevice(t, disk)
	rig.Want(t, 0, "stop", "life")
}
