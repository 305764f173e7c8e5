package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/control"
	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
	"ublkremap/ublk"
)

func TestLifeCycle(t *testing.T) {
	for _, blockSize := range []uint32{512, 4096} {
		t.Run(fmt.Sprint(blockSize), func(t *testing.T) {
			rng := rig.Random(t)
			disk := newDisk(t, blockSize)
			dev := rig.StartDevice(t, disk, "--zero-copy=off", "--queues", "2")
			vmtest.Mkfs(t, "ext4", dev)
			dir := vmtest.Mount(t, "ext4", dev)
			tree := rig.PlantTree(t, dir, rng)

			st := rig.StatusOf(t, "life")
			if st.State != control.StateLive || st.Device != dev || st.Backing != disk ||
				st.BlockSize != int64(blockSize) || st.Features.ZeroCopy ||
				!st.Features.Recovery || st.ServerPID <= 0 || st.Spare.Total != 512 ||
				len(st.Metadata.Mirrors) != 2 || st.IO.Writes == 0 {
				t.Errorf("%+v", st)
			}
			if items := rig.List(t); len(items) != 1 || items[0].Name != "life" {
				t.Errorf("list: %+v", items)
			}
			if r := rig.Want(t, exit.Refused, "stop", dev); !strings.Contains(r.Stderr, dir) {
				t.Errorf("stop of a mounted device: %s", r.Stderr)
			}
			rig.Want(t, exit.Refused, "start", disk)
			rig.Want(t, exit.Refused, "create", disk, "--force", "--yes")
			rig.Want(t, exit.Refused, "metadata", "check", disk)
			rig.Want(t, 0, "metadata", "dump", disk)

			vmtest.Unmount(t, dir)
			vmtest.Fsck(t, "ext4", dev)
			rig.Want(t, 0, "stop", "life")
			if _, err := os.Stat(dev); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is still there: %v", dev, err)
			}
			rig.Want(t, exit.NotFound, "status", "life")
			rig.Want(t, 0, "metadata", "check", disk)

			// Everything is there again, also by name.
			dev = rig.StartDevice(t, "life", "--id", "7")
			if dev != "/dev/ublkb7" {
				t.Errorf("asked for number 7, got %s", dev)
			}
			dir = vmtest.Mount(t, "ext4", dev)
			tree.Verify(t, dir)
			vmtest.Unmount(t, dir)
			rig.Want(t, 0, "stop", "7")
		})
	}
}

func TestDeadServerIsReplaced(t *testing.T) {
	rng := rig.Random(t)
	disk := newDisk(t, 512)
	dev := rig.StartDevice(t, disk)
	vmtest.Mkfs(t, "ext4", dev)
	dir := vmtest.Mount(t, "ext4", dev)
	tree := rig.PlantTree(t, dir, rng)
	stop, stopped := make(chan struct{}), make(chan error, 1)
	go func() { stopped <- writeUntil(stop, filepath.Join(dir, "busy")) }()
	for range 3 {
		time.Sleep(time.Duration(rng.IntN(400)) * time.Millisecond)
		before := rig.StatusOf(t, dev)
		rig.Kill(t, dev)
		if st := awaitFailed(t); st.ServerPID != 0 {
			t.Errorf("without a server: %+v", st)
		}
		if r := rig.Want(t, 0, "doctor"); !strings.Contains(r.Stdout, "life") {
			t.Errorf("doctor does not see it:\n%s", r.Stdout)
		}
		// The device cannot change this.
		if before.Features.ZeroCopy {
			rig.Want(t, exit.Refused, "start", disk, "--zero-copy=off")
		}
		rig.Want(t, exit.Refused, "start", disk, "--id", "99")
		if again := strings.TrimSpace(rig.Want(t, 0, "start", disk).Stdout); again != dev {
			t.Errorf("%s became %s", dev, again)
		}
		if after := rig.StatusOf(t, dev); after.State != control.StateLive ||
			after.ServerPID == before.ServerPID {
			t.Errorf("after: %+v", after)
		}
	}
	close(stop)
	if err := <-stopped; err != nil {
		t.Errorf("somebody noticed: %v", err)
	}
	tree.Verify(t, dir)
	vmtest.Unmount(t, dir)
	vmtest.Fsck(t, "ext4", dev)
	rig.Want(t, 0, "stop", dev)
	rig.Want(t, 0, "metadata", "check", disk)
}

func TestForeground(t *testing.T) {
	disk := newDisk(t, 512)
	notified, err := net.ListenUnixgram("unixgram",
		&net.UnixAddr{Name: filepath.Join(control.Dir(), "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notified.Close()
	for _, sig := range []os.Signal{syscall.SIGTERM, syscall.SIGINT} {
		cmd := exec.Command(vmtest.Binary(t), "start", disk, "--foreground", "--json",
			"--log-format", "json")
		cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+notified.LocalAddr().String())
		var errs bytes.Buffer
		cmd.Stderr = &errs
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var s started
		if err := json.NewDecoder(out).Decode(&s); err != nil {
			t.Fatalf("%v: %s", err, errs.String())
		}
		if _, err := os.Stat(s.Device); err != nil || s.Name != "life" {
			t.Errorf("%+v: %v", s, err)
		}
		expect := func(state string) {
			t.Helper()
			buf := make([]byte, 100)
			if err := notified.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			for {
				n, err := notified.Read(buf)
				if err == nil && bytes.HasPrefix(buf[:n], []byte("EXTEND_TIMEOUT_USEC=")) {
					continue // it may take longer on a busy machine
				}
				if err != nil || string(buf[:n]) != state {
					t.Errorf("notified %q, %v; want %q", buf[:n], err, state)
				}
				return
			}
		}
		expect("READY=1")
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %v\n%s", sig, err, errs.String())
		}
		expect("STOPPING=1")
		if _, err := os.Stat(s.Device); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", s.Device, err)
		}
	}
}

// kernelHas asks the kernel directly.
func kernelHas(t *testing.T, what ublk.Features) bool {
	t.Helper()
	ctl, err := ublk.OpenControl()
	must(t, err)
	have, err := ctl.Features(context.Background())
	must(t, errors.Join(err, ctl.Close()))
	return have.Has(what)
}

func TestZeroCopyIsForced(t *testing.T) {
	disk := newDisk(t, 512)
	rig.StartDevice(t, disk, "--zero-copy=off")
	if rig.StatusOf(t, "life").Features.ZeroCopy {
		t.Error("off is on")
	}
	rig.Want(t, 0, "stop", "life")
	if !kernelHas(t, ublk.FeatureAutoBufReg) {
		if !vmtest.KernelVersion().Less(vmtest.V(6, 16)) {
			t.Error("a kernel that should have zero copy lacks it")
		}
		for _, args := range [][]string{{"start", disk, "--zero-copy=on"},
			{"start", disk, "--zero-copy=on", "--foreground"}} {
			if r := rig.Want(t, exit.Unsupported, args...); !strings.Contains(r.Stderr, "6.16") {
				t.Error(r.Stderr)
			}
		}
		rig.Want(t, exit.NotFound, "status", "life")
		return
	}
	rig.StartDevice(t, disk, "--zero-copy=on")
	if f := rig.StatusOf(t, "life").Features; !f.ZeroCopy || !f.AutoBufReg {
		t.Errorf("on is off: %+v", f)
	}
	rig.Want(t, 0, "stop", "life")
}

// TestBatchIOIsForced: the flag decides, the device keeps the setting over servers, and the error
// on a kernel without it names the kernel.
func TestBatchIOIsForced(t *testing.T) {
	disk := newDisk(t, 512)
	rig.StartDevice(t, disk)
	if rig.StatusOf(t, "life").Features.BatchIO {
		t.Error("it is on though nobody asked")
	}
	rig.Want(t, 0, "stop", "life")
	if !kernelHas(t, ublk.FeatureBatchIO) {
		if !vmtest.KernelVersion().Less(vmtest.V(7, 0)) {
			t.Error("a kernel that should have batch I/O lacks it")
		}
		for _, args := range [][]string{{"start", disk, "--batch-io=on"},
			{"start", disk, "--batch-io=on", "--foreground"}} {
			if r := rig.Want(t, exit.Unsupported, args...); !strings.Contains(r.Stderr, "7.0") {
				t.Error(r.Stderr)
			}
		}
		rig.Want(t, exit.NotFound, "status", "life")
		return
	}
	for _, zeroCopy := range []string{"off", "on"} {
		rig.StartDevice(t, disk, "--batch-io=on", "--zero-copy="+zeroCopy)
		wantBatch(t, true, zeroCopy == "on")
		before := rig.StatusOf(t, "life").ServerPID
		rig.Want(t, 0, "upgrade", "life")
		if rig.StatusOf(t, "life").ServerPID == before {
			t.Error("upgraded to the same server")
		}
		wantBatch(t, true, zeroCopy == "on")
		if r := rig.Want(t, 0, "status", "life"); !strings.Contains(r.Stdout, "batch I/O") {
			t.Error(r.Stdout)
		}
		rig.Want(t, 0, "stop", "life")
	}
	if vmtest.UserMode() {
		return // it panics when a server with batch I/O is killed at a bad time
	}
	for _, c := range []struct {
		made, contradicts string
		batch             bool
	}{{"--batch-io=on", "--batch-io=off", true}, {"--batch-io=off", "--batch-io=on", false}} {
		rig.Kill(t, rig.StartDevice(t, disk, c.made, "--zero-copy=off"))
		if st := awaitFailed(t); st.Features.BatchIO != c.batch {
			t.Errorf("without a server: %+v", st)
		}
		rig.Want(t, exit.Refused, "start", disk, c.contradicts)
		rig.Want(t, 0, "start", disk)
		wantBatch(t, c.batch, false)
		rig.Want(t, 0, "stop", "life")
	}
	rig.Want(t, 0, "metadata", "check", disk)
}

func wantBatch(t *testing.T, batch, zeroCopy bool) {
	t.Helper()
	if f := rig.StatusOf(t, "life").Features; f.BatchIO != batch || f.ZeroCopy != zeroCopy {
		t.Errorf("features %+v, want batch I/O %v and zero copy %v", f, batch, zeroCopy)
	}
}

// TestStartBesideLoops: an unused loop device over the disk does not prevent a start, neither the
// first one nor a recovery.
func TestStartBesideLoops(t *testing.T) {
	disk := newDisk(t, 512)
	loop := vmtest.NewLoop(t, 0, vmtest.LoopOptions{File: disk})
	dev := rig.StartDevice(t, disk)
	rig.Kill(t, dev)
	if again := strings.TrimSpace(rig.Want(t, 0, "start", disk).Stdout); again != dev {
		t.Errorf("%s became %s", dev, again)
	}
	rig.Want(t, 0, "stop", "life")
	// A driver on top of the loop device does prevent it.
	top := vmtest.NewDM(t, fmt.Sprintf("0 8 linear %s 0\n", loop))
	if r := rig.Want(t, exit.Refused, "start", disk); !strings.Contains(r.Stderr,
		"held by /dev/dm-") {
		t.Errorf("with %s on top: %s", top.Path, r.Stderr)
	}
}

// TestSlowDisk: status says since when nothing comes back. A start waits for the last I/O of a
// server that was killed, however long that takes. It says so, and can be given up meanwhile. The
// same holds for a stop.
func TestSlowDisk(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedUblk(t)
	useRuntimeDir(t)
	disk, hurry := slowPart(t)
	rig.Want(t, 0, "create", disk, "--name", "life", "--spare", "2MiB")
	dev := rig.StartDevice(t, disk)
	if st := rig.StatusOf(t, "life"); st.WaitingSince != nil {
		t.Errorf("nothing is under way: %+v", st)
	}
	read := readSlow(t, dev)
	var st rig.Status
	rig.Until(t, "a status that says since when", func() bool {
		st = rig.StatusOf(t, "life")
		return st.WaitingSince != nil
	})
	if st.WaitingSince.After(time.Now()) || !strings.Contains(st.Reason,
		"nothing has come back") {
		t.Errorf("waiting since %v: %+v", st.WaitingSince, st)
	}
	rig.Kill(t, dev)
	waits := func(said string) bool {
		return strings.Contains(said, "waiting for the last I/O of the dead server")
	}
	if said := interrupted(t, waits, "start", disk); !strings.Contains(said,
		"nothing was started") {
		t.Errorf("a start that was given up: %s", said)
	}
	interrupted(t, waits, "stop", dev)
	if _, err := os.Stat(dev); err != nil {
		t.Errorf("a stop that was given up: %v", err)
	}
	started := make(chan rig.Result, 1)
	go func() { started <- rig.Remap(t, "start", disk) }()
	time.Sleep(time.Second) // or it has less to wait for
	hurry()
	if r := <-started; r.Code != 0 || strings.TrimSpace(r.Stdout) != dev {
		t.Errorf("%s became %+v", dev, r)
	}
	if r := read.Wait(t, rig.Limit); r.Code != 0 {
		t.Errorf("the read failed: %s", r)
	}
	rig.Want(t, 0, "stop", "life")
	rig.Want(t, 0, "metadata", "check", disk)
}

// TestRingsForbiddenLater: the setting that forbids io_uring to all processes is turned on while a
// device is live.
func TestRingsForbiddenLater(t *testing.T) {
	vmtest.OnOneKernel(t)
	disk := newDisk(t, 512)
	set := func(value string) {
		must(t, os.WriteFile("/proc/sys/kernel/io_uring_disabled", []byte(value), 0))
	}
	if !vmtest.InGuest() {
		t.Skip("changes the machine; make test-vm runs this test in a guest")
	}
	t.Cleanup(func() { set("0") })
	dev := rig.StartDevice(t, disk)
	set("2")
	if it := listed(t, "life"); it.State != control.StateLive {
		t.Errorf("list: %+v", it)
	}
	rig.Want(t, 0, "status", dev)
	rig.Want(t, 0, "stop", dev)
	const says = "sysctl kernel.io_uring_disabled=0"
	if r := rig.Want(t, exit.Unsupported, "start", disk); !strings.Contains(r.Stderr, says) {
		t.Errorf("start: %s", r.Stderr)
	}
	set("0")
	dev = rig.StartDevice(t, disk)
	rig.Kill(t, dev)
	awaitFailed(t)
	set("2")
	for _, args := range [][]string{{"stop", dev}, {"start", disk}} {
		if r := rig.Want(t, exit.Unsupported, args...); !strings.Contains(r.Stderr, says) {
			t.Errorf("%s: %s", args[0], r.Stderr)
		}
	}
	if it := listed(t, "life"); it.State != control.StateFailed {
		t.Errorf("list: %+v", it)
	}
	set("0")
	rig.Want(t, 0, "stop", dev)
}

// TestNamesLeaveNothing: an orderly stop leaves no files of a name in the runtime directory. A
// second set with the same name is reported as such. A refused start writes nothing into the log of
// the living server.
func TestNamesLeaveNothing(t *testing.T) {
	vmtest.OnOneKernel(t)
	disk := newDisk(t, 512)
	twin := vmtest.NewLoop(t, 64<<20, vmtest.LoopOptions{})
	rig.Want(t, 0, "create", twin, "--name", "life", "--spare", "1MiB")
	dev := rig.StartDevice(t, disk)
	log, err := os.ReadFile(control.LogPath("life"))
	must(t, err)
	if r := rig.Want(t, exit.Refused, "start", twin); !strings.Contains(r.Stderr,
		"that of another disk") || strings.Contains(r.Stderr, "served already") {
		t.Errorf("a second set of the name: %s", r.Stderr)
	}
	rig.Want(t, exit.Refused, "start", disk)
	now, err := os.ReadFile(control.LogPath("life"))
	must(t, err)
	if !bytes.Equal(now, log) {
		t.Errorf("refused starts are in the log of the server:\n%s", now[len(log):])
	}
	rig.Want(t, 0, "stop", dev)
	if left := runtimeFiles(t); len(left) != 0 {
		t.Errorf("left after the stop: %v", left)
	}
	// The log of a server that died stays, because it says why. doctor --fix removes it.
	dev = rig.StartDevice(t, disk)
	rig.Kill(t, dev)
	rig.Want(t, 0, "stop", dev)
	if left := runtimeFiles(t); !slices.Equal(left, []string{"life.log"}) {
		t.Errorf("left after a death: %v", left)
	}
	rig.Want(t, 0, "doctor", "--fix")
	if left := runtimeFiles(t); len(left) != 0 {
		t.Errorf("left after the sweep: %v", left)
	}
	// A log is not written through a link.
	victim := filepath.Join(t.TempDir(), "victim")
	must(t, os.WriteFile(victim, []byte("precious"), 0o600))
	must(t, os.Symlink(victim, control.LogPath("life")))
	if r := rig.Want(t, exit.Refused, "start", disk); !strings.Contains(r.Stderr, "symbolic link") {
		t.Errorf("with a link for a log: %s", r.Stderr)
	}
	if text, err := os.ReadFile(victim); err != nil || string(text) != "precious" {
		t.Errorf("the link was followed: %q, %v", text, err)
	}
	must(t, os.Remove(control.LogPath("life")))
	rig.Want(t, exit.Usage, "start", disk, "--id", "4294967297")
	rig.Want(t, exit.Usage, "start", disk, "--id", "1048576")
}

// TestOldEndIsToldAtStart: for a set that an older version made, start and the log of the server
// name the marks at the end of its disk.
func TestOldEndIsToldAtStart(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedUblk(t)
	useRuntimeDir(t)
	const size = 96 << 20
	disk := vmtest.NewLoop(t, size, vmtest.LoopOptions{})
	spare := vmtest.NewLoop(t, 16<<20, vmtest.LoopOptions{})
	oldSet(t, disk, spare, 512)
	const told = "at the end of the disk itself"
	for _, marked := range []bool{false, true} {
		r := rig.Want(t, 0, "start", disk)
		if strings.Contains(r.Stderr, told) != marked {
			t.Errorf("marked %v: %s", marked, r.Stderr)
		}
		log, err := os.ReadFile(filepath.Join(control.Dir(), "old.log"))
		if err != nil || strings.Contains(string(log), told) != marked {
			t.Errorf("marked %v, %v: %s", marked, err, log)
		}
		dev := strings.TrimSpace(r.Stdout)
		f, err := os.OpenFile(dev, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		for at, b := range endMarks(size) {
			if _, err := f.WriteAt(b, at); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		f.Close()
		rig.Want(t, 0, "stop", "old")
	}
}
