package rig

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"ublkremap/test/vmtest"
)

// Set is a set of metadata on a disk, and the device that serves it.
type Set struct {
	Path   string   // of the disk
	Spares []string // paths of the spare devices
	Name   string
	Dev    string // /dev/ublkbN; empty: not started
	args   []string
	// pid of the server while it is supposed to live, else 0.
	pid atomic.Int64
}

var sets atomic.Int64

// Unhurried is a flag of start. Past --isolate-time, two seconds by default, a
// server does not look for the bad blocks of a request one by one any more, and past
// eight times that it gives a read up: on a machine that stops for a moment good
// blocks count as bad, or fail.
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
	Remap(t, args...).Want(t, 0)
	return s
}

func (s *Set) spareFlags() []string {
	var out []string
	for _, p := range s.Spares {
		out = append(out, "--spare-device", p)
	}
	return out
}

// Start serves the set. When the test ends the device is stopped, if it is
// not by then.
func (s *Set) Start(t testing.TB, args ...string) {
	t.Helper()
	if args != nil {
		s.args = args
	}
	all := append([]string{"start", s.Path, Unhurried}, s.spareFlags()...)
	r := Remap(t, append(all, s.args...)...)
	if r.Code != 0 {
		t.Fatalf("start: want exit code 0\n%s%s", r, ServerLogs(s.Name))
	}
	s.Dev = r.Want(t, 0)
	if st, err := os.Stat(s.Dev); err != nil ||
		st.Mode()&(os.ModeDevice|os.ModeCharDevice) != os.ModeDevice {
		t.Fatalf("start printed %q, which is no block device (%v)", s.Dev, err)
	}
	pid := int64(s.Status(t).ServerPID)
	s.pid.Store(pid)
	quit := make(chan struct{})
	go s.watch(t, pid, quit)
	t.Cleanup(func() {
		s.pid.CompareAndSwap(pid, 0)
		close(quit)
		if s.Dev != "" {
			_ = Remap(t, "stop", "--force", s.Dev)
			s.Dev = ""
		}
		if t.Failed() {
			t.Logf("log of the server:\n%s", ServerLogs(s.Name))
		}
	})
}

// watch waits for the death of a server that is supposed to live. I/O to its
// device would wait for ever, so the device is taken away.
func (s *Set) watch(t testing.TB, pid int64, quit <-chan struct{}) {
	for {
		select {
		case <-quit:
			return
		case <-time.After(500 * time.Millisecond):
		}
		if syscall.Kill(int(pid), 0) == nil {
			continue
		}
		if !s.pid.CompareAndSwap(pid, 0) {
			return // it was to die
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
	if r := Remap(t, "stop", dev); r.Code != 0 {
		t.Errorf("stop\n%s", r)
		return
	}
	s.Dev = ""
	if _, err := os.Stat(dev); !os.IsNotExist(err) {
		t.Errorf("%s is still there after stop: %v", dev, err)
	}
}

// StopWithoutDisk stops a device whose disk is gone for good: stop tells, with
// exit code 1, that it could not be flushed, and the device is gone all the same.
func (s *Set) StopWithoutDisk(t testing.TB) {
	t.Helper()
	s.pid.Store(0)
	if r := Remap(t, "stop", s.Dev); r.Code > 1 {
		t.Errorf("stop without the disk\n%s", r)
	}
	if _, err := os.Stat(s.Dev); !os.IsNotExist(err) {
		t.Errorf("%s is still there after stop: %v", s.Dev, err)
	}
	s.Dev = ""
}

// LetDie says that the server is going to end by other means than Kill and Stop.
func (s *Set) LetDie() { s.pid.Store(0) }

// Kill sends SIGKILL to the server. The device stays.
func (s *Set) Kill(t testing.TB) {
	t.Helper()
	pid := s.Status(t).ServerPID
	if pid <= 1 || pid == os.Getpid() {
		t.Fatalf("server_pid is %d", pid)
	}
	s.pid.Store(0)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatalf("kill %d: %v", pid, err)
	}
}

// Check runs `metadata check` on the set, which must be content.
func (s *Set) Check(t testing.TB) {
	t.Helper()
	all := append([]string{"metadata", "check", s.Path}, s.spareFlags()...)
	if r := Remap(t, all...); r.Code != 0 {
		t.Errorf("metadata check\n%s", r)
	}
}

// Status is what the tests use of `status --json`.
type Status struct {
	State     string `json:"state"`
	UUID      string `json:"uuid"`
	BlockSize int64  `json:"block_size"`
	Spare     struct {
		Total int64 `json:"total"`
		Used  int64 `json:"used"`
		Free  int64 `json:"free"`
	} `json:"spare"`
	Remaps  int64 `json:"remaps"`
	Pending int64 `json:"pending"`
	Lost    int64 `json:"lost"`
	Errors  struct {
		Read      int64 `json:"read"`
		Write     int64 `json:"write"`
		Flush     int64 `json:"flush"`
		Transport int64 `json:"transport"`
	} `json:"errors"`
	Heals struct {
		Writes int64 `json:"writes"`
		Reads  int64 `json:"reads"`
		Failed int64 `json:"failed"`
	} `json:"heals"`
	IO struct {
		Reads      int64 `json:"reads"`
		Writes     int64 `json:"writes"`
		Flushes    int64 `json:"flushes"`
		ReadBytes  int64 `json:"read_bytes"`
		WriteBytes int64 `json:"write_bytes"`
	} `json:"io"`
	Metadata struct {
		Sequence int64 `json:"sequence"`
		Mirrors  []struct {
			Location string `json:"location"`
			State    string `json:"state"`
		} `json:"mirrors"`
		LogUsed int64 `json:"log_used"`
		LogSize int64 `json:"log_size"`
	} `json:"metadata"`
	Breaker struct {
		State  string `json:"state"`
		Reason string `json:"reason"`
	} `json:"breaker"`
	ServerPID int `json:"server_pid"`
}

// Status asks for the set's status.
func (s *Set) Status(t testing.TB) Status {
	t.Helper()
	var st Status
	Parse(t, Remap(t, "status", s.Dev, "--json"), &st)
	return st
}

// Extent is a run of bytes.
type Extent struct{ Start, Length int64 }

// End is the byte behind the extent.
func (e Extent) End() int64 { return e.Start + e.Length }

func (e Extent) String() string {
	return strings.Join([]string{fmt.Sprint(e.Start), fmt.Sprint(e.Length)}, "+")
}
