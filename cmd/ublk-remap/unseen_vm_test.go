package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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

func listJSON(t *testing.T) map[string]control.Item {
	t.Helper()
	var items []control.Item
	if err := json.Unmarshal([]byte(want(t, 0, "list", "--json").out), &items); err != nil {
		t.Fatal(err)
	}
	byName := map[string]control.Item{}
	for _, it := range items {
		byName[it.Name] = it
	}
	return byName
}

// interrupted starts the program, interrupts it when when says so, and returns what it
// said. It must have failed.
func interrupted(t *testing.T, when func(said string) bool, args ...string) string {
	t.Helper()
	cmd := exec.Command(vmtest.Binary(t), args...)
	r, w, err := os.Pipe()
	must(t, err)
	defer r.Close()
	cmd.Stderr = w
	must(t, cmd.Start())
	must(t, w.Close())
	said, buf := "", make([]byte, 4096)
	sent := false
	for {
		if !sent && when(said) {
			sent = true
			must(t, cmd.Process.Signal(syscall.SIGINT))
		}
		must(t, r.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
		n, err := r.Read(buf)
		said += string(buf[:n])
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
	}
	var e *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &e) || e.ExitCode() != exit.Failed || !sent {
		t.Errorf("ublk-remap %s, interrupted: %v\n%s", strings.Join(args, " "), err, said)
	}
	return said
}

// TestSilentServer: a server that does not answer hides nobody else, and what was asked of
// it and given up does not happen when it wakes up.
func TestSilentServer(t *testing.T) {
	disk := newDisk(t, 512)
	other := vmtest.NewLoop(t, 64<<20, vmtest.LoopOptions{})
	want(t, 0, "create", other, "--name", "other", "--spare", "1MiB")
	dev := startDevice(t, disk)
	startDevice(t, other)
	pid := statusJSON(t, "life").ServerPID
	must(t, syscall.Kill(pid, syscall.SIGSTOP))
	items := listJSON(t)
	if items["other"].State != control.StateLive ||
		items["life"].State != control.StateUnreachable || items["life"].ServerPID != pid {
		t.Errorf("list: %+v", items)
	}
	if st := statusJSON(t, "life"); st.State != control.StateUnreachable ||
		!strings.Contains(st.Action, fmt.Sprintf("kill -CONT %d", pid)) {
		t.Errorf("status: %+v", st)
	}
	began := time.Now()
	said := interrupted(t, func(string) bool { return time.Since(began) > time.Second }, "stop",
		dev)
	if !strings.Contains(said, "nothing was stopped, and nothing will be") {
		t.Errorf("a stop that was given up: %s", said)
	}
	must(t, syscall.Kill(pid, syscall.SIGCONT))
	for deadline := time.Now().Add(3 * time.Minute); statusJSON(t,
		"life").State != control.StateLive; {
		if time.Now().After(deadline) {
			t.Fatal("it does not go on")
		}
	}
	// Whatever it still had to do about that stop is done before this is.
	want(t, exit.Failed, "resume", "life")
	if st := statusJSON(t, "life"); st.State != control.StateLive || st.ServerPID != pid {
		t.Errorf("it was stopped later: %+v", st)
	}
	want(t, 0, "stop", "life")
	want(t, 0, "stop", "other")
}

// slowPart is a disk that takes minutes over reads of the sectors from 100000 to 100007,
// until it is told to hurry.
func slowPart(t *testing.T) (path string, hurry func()) {
	t.Helper()
	vmtest.Modprobe(t, "dm-delay")
	lower := vmtest.NewLoop(t, 96<<20, vmtest.LoopOptions{})
	const from, n, ms = 100000, 8, 200_000
	disk := vmtest.NewDM(t, fmt.Sprintf("0 %d linear %s 0\n%d %d delay %s %d %d %s %d 0\n%d %d "+
		"linear %s %d\n",
		from, lower, from, n, lower, from, ms, lower, from, from+n, 96<<20/512-from-n, lower,
		from+n))
	// What a table delays ends at once when another one takes its place.
	return disk.Path, func() { disk.Swap(t, vmtest.LinearTable(t, lower)) }
}

// readSlow reads the slow sectors, in a process of its own.
func readSlow(t *testing.T, dev string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestHelper$", "-test.v")
	cmd.Env = append(os.Environ(), helperEnv+"=read "+dev)
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Wait() })
	stat := filepath.Join("/sys/block", filepath.Base(dev), "inflight")
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
		text, err := os.ReadFile(stat)
		must(t, err)
		if fields := strings.Fields(string(text)); len(fields) == 2 && fields[0] != "0" {
			return cmd
		}
		if time.Now().After(deadline) {
			t.Fatal("no read is under way")
		}
	}
}

// TestSlowDisk: a status says since when nothing comes back. A start waits for the last I/O
// of a server that was killed, however long that takes, says so, and can be given up
// meanwhile; so does a stop.
func TestSlowDisk(t *testing.T) {
	vmtest.NeedUblk(t)
	useRuntimeDir(t)
	disk, hurry := slowPart(t)
	want(t, 0, "create", disk, "--name", "life", "--spare", "2MiB")
	dev := startDevice(t, disk)
	if st := statusJSON(t, "life"); st.WaitingSince != nil {
		t.Errorf("nothing is under way: %+v", st)
	}
	read := readSlow(t, dev)
	st := statusJSON(t, "life")
	for deadline := time.Now().Add(
		time.Minute); st.WaitingSince == nil && time.Now().Before(deadline); st = statusJSON(t,
		"life") {
		time.Sleep(100 * time.Millisecond)
	}
	if st.WaitingSince == nil || st.WaitingSince.After(time.Now()) || !strings.Contains(st.Reason,
		"nothing has come back") {
		t.Errorf("waiting since %v: %+v", st.WaitingSince, st)
	}
	kill(t, dev)
	waits := func(said string) bool {
		return strings.Contains(said, "waiting for the last I/O of "+
			"the dead server")
	}
	if said := interrupted(t, waits, "start", disk); !strings.Contains(said,
		"nothing was started") {
		t.Errorf("a start that was given up: %s", said)
	}
	interrupted(t, waits, "stop", dev)
	if _, err := os.Stat(dev); err != nil {
		t.Errorf("a stop that was given up: %v", err)
	}
	started := make(chan result, 1)
	go func() { started <- program(t, "start", disk) }()
	time.Sleep(time.Second) // or it has less to wait for
	hurry()
	if r := <-started; r.code != 0 || strings.TrimSpace(r.out) != dev {
		t.Errorf("%s became %+v", dev, r)
	}
	if err := read.Wait(); err != nil {
		t.Errorf("the read failed: %v", err)
	}
	want(t, 0, "stop", "life")
	want(t, 0, "metadata", "check", disk)
}

// TestServerInAContainer: a server of another pid namespace, of which nothing shows here,
// is not taken for dead.
func TestServerInAContainer(t *testing.T) {
	disk := newDisk(t, 512)
	inside := t.TempDir()
	pid, end := helper(t, unix.CLONE_NEWPID|unix.CLONE_NEWNS, "contain", inside, vmtest.Binary(t),
		disk)
	nodes, err := filepath.Glob("/dev/ublkb*")
	if err != nil || len(nodes) != 1 {
		t.Fatalf("the container made %v, %v", nodes, err)
	}
	dev := nodes[0]
	id := strings.TrimPrefix(dev, "/dev/ublkb")
	if it := listJSON(t)["life"]; it.State != control.StateUnreachable {
		t.Errorf("list: %+v", it)
	}
	if st := statusJSON(t, id); st.State != control.StateUnreachable || st.Reason == "" ||
		st.Action == "" || st.SizeBlocks == 0 {
		t.Errorf("status: %+v", st)
	}
	want(t, 0, "doctor", "--fix")
	if r := want(t, exit.Refused, "stop", id); !strings.Contains(r.err, "server") {
		t.Errorf("stop: %s", r.err)
	}
	want(t, exit.Refused, "start", disk)
	if f, err := os.Open(dev); err != nil {
		t.Errorf("the device is gone: %v", err)
	} else {
		if _, err := f.Read(make([]byte, 4096)); err != nil {
			t.Errorf("the device does not read: %v", err)
		}
		f.Close()
	}
	// Nor if a record from before tells of another server, which is dead.
	text, err := os.ReadFile(filepath.Join(inside, "life.json"))
	must(t, err)
	var old control.Record
	must(t, json.Unmarshal(text, &old))
	old.PID, old.PIDNamespace = 1<<22+1, 0 // past the largest number of a process
	must(t, old.Write())
	if it := listJSON(t)["life"]; it.State != control.StateUnreachable {
		t.Errorf("list, with an old record: %+v", it)
	}
	want(t, exit.Refused, "stop", "life")
	if _, err := os.Stat(dev); err != nil {
		t.Errorf("the device is gone: %v", err)
	}
	// With its first process the container ends, and kills the server.
	must(t, syscall.Kill(pid, syscall.SIGKILL))
	end()
	for deadline := time.Now().Add(
		3 * time.Minute); listJSON(t)["life"].State != control.StateFailed; {
		if time.Now().After(deadline) {
			t.Fatalf("the server's death does not show: %+v", listJSON(t))
		}
	}
	if again := strings.TrimSpace(want(t, 0, "start", disk).out); again != dev {
		t.Errorf("%s became %s", dev, again)
	}
	want(t, 0, "stop", "life")
	want(t, 0, "metadata", "check", disk)
}

// TestRingsForbiddenLater: the switch that takes io_uring from everybody is turned while a
// device lives.
func TestRingsForbiddenLater(t *testing.T) {
	disk := newDisk(t, 512)
	set := func(value string) {
		must(t, os.WriteFile("/proc/sys/kernel/io_uring_disabled",
			[]byte(value), 0))
	}
	if !vmtest.InGuest() {
		t.Skip("changes the machine; make test-vm runs this test in a guest")
	}
	t.Cleanup(func() { set("0") })
	dev := startDevice(t, disk)
	set("2")
	if it := listJSON(t)["life"]; it.State != control.StateLive {
		t.Errorf("list: %+v", it)
	}
	want(t, 0, "status", dev)
	want(t, 0, "stop", dev)
	const says = "sysctl kernel.io_uring_disabled=0"
	if r := want(t, exit.Unsupported, "start", disk); !strings.Contains(r.err, says) {
		t.Errorf("start: %s", r.err)
	}
	set("0")
	dev = startDevice(t, disk)
	kill(t, dev)
	for deadline := time.Now().Add(3 * time.Minute); statusJSON(t,
		"life").State != control.StateFailed && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	set("2")
	for _, args := range [][]string{{"stop", dev}, {"start", disk}} {
		if r := want(t, exit.Unsupported, args...); !strings.Contains(r.err, says) {
			t.Errorf("%s: %s", args[0], r.err)
		}
	}
	if it := listJSON(t)["life"]; it.State != control.StateFailed {
		t.Errorf("list: %+v", it)
	}
	set("0")
	want(t, 0, "stop", dev)
}

// TestNamesLeaveNothing: an orderly stop leaves nothing of a name in the runtime directory,
// a second set of one name is told as that, and a refused start writes nothing into the log
// of the server that lives.
func TestNamesLeaveNothing(t *testing.T) {
	disk := newDisk(t, 512)
	twin := vmtest.NewLoop(t, 64<<20, vmtest.LoopOptions{})
	want(t, 0, "create", twin, "--name", "life", "--spare", "1MiB")
	dev := startDevice(t, disk)
	log, err := os.ReadFile(control.LogPath("life"))
	must(t, err)
	if r := want(t, exit.Refused, "start", twin); !strings.Contains(r.err,
		"that of another disk") || strings.Contains(r.err, "served already") {
		t.Errorf("a second set of the name: %s", r.err)
	}
	want(t, exit.Refused, "start", disk)
	now, err := os.ReadFile(control.LogPath("life"))
	must(t, err)
	if !bytes.Equal(now, log) {
		t.Errorf("refused starts are in the log of the server:\n%s", now[len(log):])
	}
	want(t, 0, "stop", dev)
	if left := runtimeFiles(t); len(left) != 0 {
		t.Errorf("left after the stop: %v", left)
	}
	// Of a server that died its log stays, to say why, until somebody sweeps.
	dev = startDevice(t, disk)
	kill(t, dev)
	want(t, 0, "stop", dev)
	if left := runtimeFiles(t); !slices.Equal(left, []string{"life.log"}) {
		t.Errorf("left after a death: %v", left)
	}
	want(t, 0, "doctor", "--fix")
	if left := runtimeFiles(t); len(left) != 0 {
		t.Errorf("left after the sweep: %v", left)
	}
	// No log is written by way of a link.
	victim := filepath.Join(t.TempDir(), "victim")
	must(t, os.WriteFile(victim, []byte("precious"), 0o600))
	must(t, os.Symlink(victim, control.LogPath("life")))
	if r := want(t, exit.Refused, "start", disk); !strings.Contains(r.err, "symbolic link") {
		t.Errorf("with a link for a log: %s", r.err)
	}
	if text, err := os.ReadFile(victim); err != nil || string(text) != "precious" {
		t.Errorf("the link was followed: %q, %v", text, err)
	}
	must(t, os.Remove(control.LogPath("life")))
	want(t, exit.Usage, "start", disk, "--id", "4294967297")
	want(t, exit.Usage, "start", disk, "--id", "1048576")
}

func runtimeFiles(t *testing.T) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(control.Dir())
	must(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
