package rig

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"ublkremap/internal/control"
	"ublkremap/test/vmtest"
)

// Set is a set of metadata on a disk, and the device that serves it.
type Set struct {
	Path   string   // of the disk
	Spares []string // paths of the spare devices, if start needs them as arguments
	Name   string
	Dev    string // /dev/ublkbN; empty: not started
	args   []string
	// pid of the server while it is supposed to live, else 0.
	pid      atomic.Int64
	attended bool // until the test ends that has started it first
}

var sets atomic.Int64

// Unhurried is a flag of start. After --isolate-time, two seconds by default, a server no longer
// looks for the bad blocks of a request one by one. After eight times that it gives up a read. So
// on a machine that stops for a moment, good blocks would count as bad, or fail.
const Unhurried = "--isolate-time=10m"

// Create writes metadata on a disk, with the spare region on the device spare if
// it is not empty.
func Create(t testing.TB, path, spare string, args ...string) *Set {
	t.Helper()
	s := &Set{Path: path, Name: fmt.Sprintf("rig-%d-%d", os.Getpid(), sets.Add(1))}
	args = append([]string{"create", path, "--name", s.Name, "--yes"}, args...)
	if spare != "" {
		s.Spares = []string{spare}
		args = append(args, "--spare-device", spare)
	}
	Remap(t, args...).Want(t, ExitDone)
	return s
}

// Serve makes a good disk as NewDisk does, writes a set on it with a spare region of this size,
// such as 1MiB, and starts the set with the flags args. The set is checked when the test ends.
func Serve(t testing.TB, k Kind, sizeMiB int, blockSize int64, spare string,
	args ...string) (*Disk, *Set, Layout) {
	t.Helper()
	d := NewDisk(t, k, sizeMiB, blockSize)
	s := Create(t, d.Path, "", "--spare", spare)
	s.CheckAtEnd(t)
	lay := LayoutOf(t, d.Path)
	s.Start(t, args...)
	return d, s, lay
}

func (s *Set) spareFlags() []string {
	var out []string
	for _, p := range s.Spares {
		out = append(out, "--spare-device", p)
	}
	return out
}

// Start serves the set with the flags args, which later starts use again. When the test
// ends the device is stopped, if it is not by then.
func (s *Set) Start(t testing.TB, args ...string) {
	t.Helper()
	if args != nil {
		s.args = args
	}
	s.Started(t, Remap(t, s.StartLine()...))
}

// StartLine is what Start runs. Flags of the test itself come last, and override the others.
func (s *Set) StartLine() []string {
	return append(append([]string{"start", s.Path, Unhurried}, s.spareFlags()...), s.args...)
}

// Started notes a start, however it was made.
func (s *Set) Started(t testing.TB, r Result) {
	t.Helper()
	if r.Code != ExitDone {
		t.Fatalf("start: want exit code 0\n%s%s", r, ServerLogs(s.Name))
	}
	was := s.Dev
	s.Dev = r.Want(t, ExitDone)
	NeedBlockDevice(t, s.Dev)
	if was != "" && s.Dev != was {
		t.Fatalf("recovered as %s, was %s", s.Dev, was)
	}
	s.Attend(t)
}

// Attend says that the server that lives now is to stay alive: its death fails the test. When the
// test ends the device is stopped, if it is not by then.
func (s *Set) Attend(t testing.TB) {
	t.Helper()
	s.pid.Store(int64(s.Status(t).ServerPID))
	if s.attended {
		return
	}
	s.attended = true
	quit := make(chan struct{})
	go s.watch(t, quit)
	t.Cleanup(func() {
		close(quit)
		s.attended = false
		if t.Failed() {
			t.Logf("log of the server:\n%s", ServerLogs(s.Name))
		}
		if s.Dev == "" || Hung() {
			return
		}
		if t.Failed() {
			s.pid.Store(0)
			_ = Remap(t, "stop", "--force", s.Dev)
			s.Dev = ""
			return
		}
		s.Stop(t)
	})
}

// StartDevice runs start with exactly these arguments and returns the device. When the
// test ends it is stopped by force, if it is still there.
func StartDevice(t testing.TB, args ...string) string {
	t.Helper()
	r := Want(t, ExitDone, append([]string{"start"}, args...)...)
	dev := strings.TrimSuffix(r.Stdout, "\n")
	NeedBlockDevice(t, dev)
	t.Cleanup(func() {
		if _, err := os.Stat(dev); err == nil && !Hung() {
			Want(t, ExitDone, "stop", "--force", dev)
		}
	})
	return dev
}

// PID is the server that is to live; 0: there is none.
func (s *Set) PID() int { return int(s.pid.Load()) }

// watch waits for the death of a server that is supposed to live. I/O to its
// device would wait for ever, so the device is taken away.
func (s *Set) watch(t testing.TB, quit <-chan struct{}) {
	for {
		select {
		case <-quit:
			return
		case <-time.After(500 * time.Millisecond):
		}
		pid := s.pid.Load()
		if pid == 0 || syscall.Kill(int(pid), 0) == nil || !s.pid.CompareAndSwap(pid, 0) {
			continue // it lives, or was to die
		}
		t.Errorf("the server, process %d, has died; its log:\n%s%s", pid, ServerLogs(s.Name),
			KernelLog(20))
		out, err := exec.Command(vmtest.Binary(t), "stop", "--force", s.Name).CombinedOutput()
		t.Logf("stop after the server's death: %v\n%s", err, out)
		return
	}
}

// Stop stops the device, which must then be gone.
func (s *Set) Stop(t testing.TB) {
	t.Helper()
	s.pid.Store(0)
	dev := s.Dev
	if r := Remap(t, "stop", dev); r.Code != ExitDone {
		t.Errorf("stop\n%s", r)
		return
	}
	s.Dev = ""
	if _, err := os.Stat(dev); !os.IsNotExist(err) {
		t.Errorf("%s is still there after stop: %v", dev, err)
	}
}

// Restart stops and starts.
func (s *Set) Restart(t testing.TB) {
	t.Helper()
	s.Stop(t)
	s.Start(t)
}

// StopWithoutDisk stops a device whose disk is gone for good: stop reports, with exit code 1, that
// the disk could not be flushed, and the device is gone anyway.
func (s *Set) StopWithoutDisk(t testing.TB) {
	t.Helper()
	s.pid.Store(0)
	if r := Remap(t, "stop", s.Dev); r.Code > ExitFailed {
		t.Errorf("stop without the disk\n%s", r)
	}
	if _, err := os.Stat(s.Dev); !os.IsNotExist(err) {
		t.Errorf("%s is still there after stop: %v", s.Dev, err)
	}
	s.Dev = ""
}

// LetDie says that the server is going to end by other means than Kill and Stop.
func (s *Set) LetDie() { s.pid.Store(0) }

// Kill sends SIGKILL to the server and returns its process id. The device stays.
func (s *Set) Kill(t testing.TB) int {
	t.Helper()
	s.pid.Store(0)
	return Kill(t, s.Dev)
}

// Check runs `metadata check` on the set, which must find nothing wrong.
func (s *Set) Check(t testing.TB) {
	t.Helper()
	all := append([]string{"metadata", "check", s.Path}, s.spareFlags()...)
	if r := Remap(t, all...); r.Code != ExitDone {
		t.Errorf("metadata check\n%s", r)
	}
}

// CheckAtEnd checks the set when the test ends. It is called before the first start, so
// that the device is stopped by then.
func (s *Set) CheckAtEnd(t testing.TB) {
	t.Cleanup(func() {
		if !Hung() {
			s.Check(t)
		}
	})
}

// RunFile is the path of a file that the set's server keeps in the runtime directory.
func (s *Set) RunFile(suffix string) string {
	return filepath.Join(control.Dir(), s.Name+suffix)
}
