package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/control"
	"ublkremap/test/vmtest"
	"ublkremap/ublk"
)

// program runs the built program, as a user would, and returns its exit code.
func program(t *testing.T, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, vmtest.Binary(t), args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var e *exec.ExitError
	if err != nil && !errors.As(err, &e) {
		t.Fatalf("ublk-remap %v: %v", args, err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// want runs the program and fails the test unless it exits with code.
func want(t *testing.T, code int, args ...string) result {
	t.Helper()
	r := program(t, args...)
	if r.code != code {
		logs, _ := filepath.Glob(filepath.Join(control.Dir(), "*.log"))
		for _, l := range logs {
			text, _ := os.ReadFile(l)
			t.Logf("%s:\n%s", l, text)
		}
		t.Fatalf("ublk-remap %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), r.code,
			code, r.out, r.err)
	}
	return r
}

// startDevice starts a device, and stops it when the test ends.
func startDevice(t *testing.T, args ...string) string {
	t.Helper()
	dev := strings.TrimSpace(want(t, 0, append([]string{"start"}, args...)...).out)
	st, err := os.Stat(dev)
	if err != nil || st.Mode()&os.ModeDevice == 0 {
		t.Fatalf("start printed %q: %v", dev, err)
	}
	t.Cleanup(func() {
		if r, err := control.Records(); err == nil && len(r) > 0 {
			want(t, 0, "stop", "--force", dev)
		}
	})
	return dev
}

func statusJSON(t *testing.T, dev string) control.Status {
	t.Helper()
	var st control.Status
	if err := json.Unmarshal([]byte(want(t, 0, "status", dev, "--json").out), &st); err != nil {
		t.Fatal(err)
	}
	return st
}

func kill(t *testing.T, dev string) {
	t.Helper()
	if err := syscall.Kill(statusJSON(t, dev).ServerPID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// newDisk prepares a disk called "life" and checks its metadata in the end.
func newDisk(t *testing.T, blockSize uint32, args ...string) string {
	t.Helper()
	vmtest.NeedUblk(t)
	useRuntimeDir(t)
	disk := vmtest.NewLoop(t, 96<<20, vmtest.LoopOptions{BlockSize: blockSize})
	want(t, 0, append([]string{"create", disk, "--name", "life", "--spare", "2MiB"}, args...)...)
	return disk
}

// plant writes files with random content and returns their checksums.
func plant(t *testing.T, dir string, rng *rand.Rand) map[string][32]byte {
	t.Helper()
	sums := map[string][32]byte{}
	for i := range 20 {
		data := make([]byte, rng.IntN(1<<20))
		for j := range data {
			data[j] = byte(rng.Uint32())
		}
		path := filepath.Join(dir, fmt.Sprintf("file%d-%d", i, rng.Uint32()))
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		sums[filepath.Base(path)] = sha256.Sum256(data)
	}
	return sums
}

func verify(t *testing.T, dir string, sums map[string][32]byte) {
	t.Helper()
	for name, sum := range sums {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if sha256.Sum256(data) != sum {
			t.Errorf("%s has other content", name)
		}
	}
}

func seeded(t *testing.T) *rand.Rand {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

func TestLifeCycle(t *testing.T) {
	for _, blockSize := range []uint32{512, 4096} {
		t.Run(fmt.Sprint(blockSize), func(t *testing.T) {
			rng := seeded(t)
			disk := newDisk(t, blockSize)
			dev := startDevice(t, disk, "--zero-copy=off", "--queues", "2")
			vmtest.Mkfs(t, "ext4", dev)
			dir := vmtest.Mount(t, "ext4", dev)
			sums := plant(t, dir, rng)

			st := statusJSON(t, "life")
			if st.State != control.StateLive || st.Device != dev || st.Backing != disk ||
				st.BlockSize != int(blockSize) || st.Features.ZeroCopy ||
				!st.Features.Recovery || st.ServerPID <= 0 || st.Spare.Total != 512 ||
				len(st.Metadata.Mirrors) != 2 || st.IO.Writes == 0 {
				t.Errorf("%+v", st)
			}
			var items []control.Item
			if err := json.Unmarshal([]byte(want(t, 0, "list", "--json").out),
				&items); err != nil || len(items) != 1 || items[0].Name != "life" {
				t.Errorf("list: %+v, %v", items, err)
			}
			if r := want(t, exit.Refused, "stop", dev); !strings.Contains(r.err, dir) {
				t.Errorf("stop of a mounted device: %s", r.err)
			}
			want(t, exit.Refused, "start", disk)
			want(t, exit.Refused, "create", disk, "--force", "--yes")
			want(t, exit.Refused, "metadata", "check", disk)
			want(t, 0, "metadata", "dump", disk)

			vmtest.Unmount(t, dir)
			vmtest.Fsck(t, "ext4", dev)
			want(t, 0, "stop", "life")
			if _, err := os.Stat(dev); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is still there: %v", dev, err)
			}
			want(t, exit.NotFound, "status", "life")
			want(t, 0, "metadata", "check", disk)

			// Everything is there again, by name too.
			dev = startDevice(t, "life", "--id", "7")
			if dev != "/dev/ublkb7" {
				t.Errorf("asked for number 7, got %s", dev)
			}
			dir = vmtest.Mount(t, "ext4", dev)
			verify(t, dir, sums)
			vmtest.Unmount(t, dir)
			want(t, 0, "stop", "7")
		})
	}
}

func TestDeadServerIsReplaced(t *testing.T) {
	rng := seeded(t)
	disk := newDisk(t, 512)
	dev := startDevice(t, disk)
	vmtest.Mkfs(t, "ext4", dev)
	dir := vmtest.Mount(t, "ext4", dev)
	sums := plant(t, dir, rng)
	stop, stopped := make(chan struct{}), make(chan error, 1)
	go func() { stopped <- writeUntil(stop, filepath.Join(dir, "busy")) }()
	for range 3 {
		time.Sleep(time.Duration(rng.IntN(400)) * time.Millisecond)
		before := statusJSON(t, dev)
		kill(t, dev)
		// While it dies it neither answers nor lets its name go.
		st := statusJSON(t, "life")
		for deadline := time.Now().Add(
			3 * time.Minute); st.State != control.StateFailed &&
			time.Now().Before(deadline); st = statusJSON(t, "life") {
			time.Sleep(10 * time.Millisecond)
		}
		if st.State != control.StateFailed || st.ServerPID != 0 {
			t.Errorf("without a server: %+v", st)
		}
		if r := want(t, 0, "doctor"); !strings.Contains(r.out, "life") {
			t.Errorf("doctor does not see it:\n%s", r.out)
		}
		// It cannot become what it is not.
		if before.Features.ZeroCopy {
			want(t, exit.Refused, "start", disk, "--zero-copy=off")
		}
		want(t, exit.Refused, "start", disk, "--id", "99")
		if again := strings.TrimSpace(want(t, 0, "start", disk).out); again != dev {
			t.Errorf("%s became %s", dev, again)
		}
		if after := statusJSON(t, dev); after.State != control.StateLive ||
			after.ServerPID == before.ServerPID {
			t.Errorf("after: %+v", after)
		}
	}
	close(stop)
	if err := <-stopped; err != nil {
		t.Errorf("somebody noticed: %v", err)
	}
	verify(t, dir, sums)
	vmtest.Unmount(t, dir)
	vmtest.Fsck(t, "ext4", dev)
	want(t, 0, "stop", dev)
	want(t, 0, "metadata", "check", disk)
}

// writeUntil writes and syncs until it is told to stop.
func writeUntil(stop <-chan struct{}, path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	data := make([]byte, 256<<10)
	for i := int64(0); ; i++ {
		select {
		case <-stop:
			return f.Sync()
		default:
		}
		if _, err := f.WriteAt(data, i%32*int64(len(data))); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
	}
}

func TestStopOfADeadServer(t *testing.T) {
	disk := newDisk(t, 512)
	vmtest.NeedTools(t, "fio")
	dev := startDevice(t, disk)
	// Without a device fio would make a file of its name.
	writers := exec.Command("fio", "--name=w", "--filename="+dev, "--allow_file_create=0",
		"--rw=randwrite", "--bs=4k", "--direct=1", "--ioengine=libaio", "--iodepth=32",
		"--size=32M",
		"--time_based", "--runtime=3600")
	if err := writers.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(3 * time.Minute); statusJSON(t,
		dev).IO.Writes < 100; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("fio does not write")
		}
	}
	kill(t, dev)
	want(t, 0, "stop", "life")
	if _, err := os.Stat(dev); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", dev, err)
	}
	if err := writers.Wait(); err == nil {
		t.Error("fio saw no error though its device went away")
	}
	want(t, exit.NotFound, "stop", "life")
	want(t, 0, "metadata", "check", disk)
	// The disk is as good as before.
	startDevice(t, disk)
	want(t, 0, "stop", "life")
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
			if n, err := notified.Read(buf); err != nil || string(buf[:n]) != state {
				t.Errorf("notified %q, %v; want %q", buf[:n], err, state)
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

func TestZeroCopyIsForced(t *testing.T) {
	disk := newDisk(t, 512)
	ctl, err := ublk.OpenControl()
	if err != nil {
		t.Fatal(err)
	}
	have, err := ctl.Features(context.Background())
	if err := errors.Join(err, ctl.Close()); err != nil {
		t.Fatal(err)
	}
	startDevice(t, disk, "--zero-copy=off")
	if statusJSON(t, "life").Features.ZeroCopy {
		t.Error("off is on")
	}
	want(t, 0, "stop", "life")
	if !have.Has(ublk.FeatureAutoBufReg) {
		if !vmtest.KernelVersion().Less(vmtest.V(6, 16)) {
			t.Error("a kernel that should have zero copy lacks it")
		}
		for _, args := range [][]string{{"start", disk, "--zero-copy=on"},
			{"start", disk, "--zero-copy=on", "--foreground"}} {
			if r := want(t, exit.Unsupported, args...); !strings.Contains(r.err, "6.16") {
				t.Error(r.err)
			}
		}
		want(t, exit.NotFound, "status", "life")
		return
	}
	startDevice(t, disk, "--zero-copy=on")
	if f := statusJSON(t, "life").Features; !f.ZeroCopy || !f.AutoBufReg {
		t.Errorf("on is off: %+v", f)
	}
	want(t, 0, "stop", "life")
}

func TestSpareDeviceLife(t *testing.T) {
	vmtest.NeedUblk(t)
	useRuntimeDir(t)
	rng := seeded(t)
	disk := vmtest.NewLoop(t, 96<<20, vmtest.LoopOptions{})
	spare := vmtest.NewLoop(t, 16<<20, vmtest.LoopOptions{})
	want(t, 0, "create", disk, "--name", "life", "--spare-device", spare)
	// The spare device is found by itself.
	dev := startDevice(t, disk)
	if st := statusJSON(t, dev); st.SizeBlocks*uint64(st.BlockSize) != 96<<20 ||
		len(st.Spare.Devices) != 1 || st.Spare.Devices[0].Device != spare ||
		len(st.Metadata.Mirrors) != 3 {
		t.Errorf("%+v", st)
	}
	vmtest.Mkfs(t, "ext4", dev)
	dir := vmtest.Mount(t, "ext4", dev)
	sums := plant(t, dir, rng)
	want(t, 0, "remap", "add", "life", "0+64", "70000+100")
	want(t, exit.Usage, "remap", "add", "life", "999999999")
	verify(t, dir, sums)
	kill(t, dev)
	want(t, 0, "start", "life")
	want(t, 0, "remap", "remove", "life", "0+64")
	vmtest.Unmount(t, dir)
	want(t, 0, "stop", "life")
	want(t, 0, "metadata", "check", disk)
	dev = startDevice(t, disk, "--spare-device", spare)
	dir = vmtest.Mount(t, "ext4", dev)
	verify(t, dir, sums)
	vmtest.Unmount(t, dir)
	var list []control.Remap
	if err := json.Unmarshal([]byte(want(t, 0, "remap", "list", "life", "--json").out),
		&list); err != nil {
		t.Fatal(err)
	}
	var blocks uint64
	for _, r := range list {
		blocks += r.Count
	}
	if blocks != 100 {
		t.Errorf("%d blocks remapped, want 100: %+v", blocks, list)
	}
	want(t, 0, "stop", "life")
}
