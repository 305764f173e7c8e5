package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/control"
	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// TestSilentServer: a server that does not answer hides no other server. A request to it that was
// given up is not carried out when it runs again.
func TestSilentServer(t *testing.T) {
	vmtest.OnOneKernel(t)
	disk := newDisk(t, 512)
	other := vmtest.NewLoop(t, 64<<20, vmtest.LoopOptions{})
	rig.Want(t, 0, "create", other, "--name", "other", "--spare", "1MiB")
	dev := rig.StartDevice(t, disk)
	rig.StartDevice(t, other)
	pid := rig.StatusOf(t, "life").ServerPID
	must(t, syscall.Kill(pid, syscall.SIGSTOP))
	if it := listed(t, "other"); it.State != control.StateLive {
		t.Errorf("list: %+v", it)
	}
	if it := listed(t, "life"); it.State != control.StateUnreachable || it.ServerPID != pid {
		t.Errorf("list: %+v", it)
	}
	if st := rig.StatusOf(t, "life"); st.State != control.StateUnreachable ||
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
	rig.Until(t, "the server's going on", func() bool {
		return rig.StatusOf(t, "life").State == control.StateLive
	})
	// The server has done all of its work for that stop before it answers this.
	rig.Want(t, exit.Failed, "resume", "life")
	if st := rig.StatusOf(t, "life"); st.State != control.StateLive || st.ServerPID != pid {
		t.Errorf("it was stopped later: %+v", st)
	}
	rig.Want(t, 0, "stop", "life")
	rig.Want(t, 0, "stop", "other")
}

// TestServerInAContainer: a server of another pid namespace that is not visible here does not count
// as dead.
func TestServerInAContainer(t *testing.T) {
	vmtest.OnOneKernel(t)
	disk := newDisk(t, 512)
	inside := t.TempDir()
	container := rig.StartHelper(t, &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}, "contain", inside, vmtest.Binary(t),
		disk)
	nodes, err := filepath.Glob("/dev/ublkb*")
	if err != nil || len(nodes) != 1 {
		t.Fatalf("the container made %v, %v", nodes, err)
	}
	dev := nodes[0]
	id := strings.TrimPrefix(dev, "/dev/ublkb")
	if it := listed(t, "life"); it.State != control.StateUnreachable {
		t.Errorf("list: %+v", it)
	}
	if st := rig.StatusOf(t, id); st.State != control.StateUnreachable || st.Reason == "" ||
		st.Action == "" || st.SizeBlocks == 0 {
		t.Errorf("status: %+v", st)
	}
	rig.Want(t, 0, "doctor", "--fix")
	if r := rig.Want(t, exit.Refused, "stop", id); !strings.Contains(r.Stderr, "server") {
		t.Errorf("stop: %s", r.Stderr)
	}
	rig.Want(t, exit.Refused, "start", disk)
	if f, err := os.Open(dev); err != nil {
		t.Errorf("the device is gone: %v", err)
	} else {
		if _, err := f.Read(make([]byte, 4096)); err != nil {
			t.Errorf("the device does not read: %v", err)
		}
		f.Close()
	}
	// The same holds if an older record names another server, which is dead.
	text, err := os.ReadFile(filepath.Join(inside, "life.json"))
	must(t, err)
	var old control.Record
	must(t, json.Unmarshal(text, &old))
	old.PID, old.PIDNamespace = 1<<22+1, 0 // past the largest number of a process
	must(t, old.Write())
	if it := listed(t, "life"); it.State != control.StateUnreachable {
		t.Errorf("list, with an old record: %+v", it)
	}
	rig.Want(t, exit.Refused, "stop", "life")
	if _, err := os.Stat(dev); err != nil {
		t.Errorf("the device is gone: %v", err)
	}
	// When its first process ends, the container ends too, and kills the server.
	must(t, container.Cmd.Process.Kill())
	container.End()
	rig.Until(t, "the server's death", func() bool {
		return listed(t, "life").State == control.StateFailed
	})
	if again := strings.TrimSpace(rig.Want(t, 0, "start", disk).Stdout); again != dev {
		t.Errorf("%s became %s", dev, again)
	}
	rig.Want(t, 0, "stop", "life")
	rig.Want(t, 0, "metadata", "check", disk)
}
