package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// Exit codes of the program, DESIGN.md section 5.
const (
	exitDone = iota
	exitFailed
	exitUsage
	exitRefused
	exitNotFound
	exitKernel
	exitDamaged
)

// limit is how long any verb may take before the watchdog calls it hung. On
// 6.12 the kernel itself notices only after 30 s that a saturated server is
// dead; the rest is for slow machines.
const limit = 90 * time.Second

// remap runs the program under test to its end.
func remap(t testing.TB, args ...string) result {
	t.Helper()
	return launch(t, vmtest.Binary(t), args...).wait(t, limit)
}

// want fails the test unless the exit code is this one, and returns the
// standard output without its final newline.
func (r result) want(t testing.TB, code int) string {
	t.Helper()
	if r.code != code {
		t.Fatalf("want exit code %d\n%s", code, r)
	}
	return strings.TrimRight(r.stdout, "\n")
}

// serverLogs is the end of what detached servers have logged whose name
// matches the pattern.
func serverLogs(names string) string {
	var b strings.Builder
	files, _ := filepath.Glob("/run/ublk-remap/" + names + ".log")
	for _, f := range files {
		text, _ := os.ReadFile(f)
		const most = 6 << 10
		if len(text) > most {
			text = append([]byte("...\n"), text[len(text)-most:]...)
		}
		_, _ = fmt.Fprintf(&b, "-- %s\n%s", f, text)
	}
	return b.String()
}

// set is a set of metadata on a disk, and the device that serves it.
type set struct {
	disk *disk
	name string
	dev  string // /dev/ublkbN; empty: not started
	args []string
	// pid of the server while it is supposed to live, else 0.
	pid atomic.Int64
}

var sets atomic.Int64

// create writes metadata on the disk. When the test ends the device is
// stopped, and the metadata must be sound.
func create(t testing.TB, d *disk, args ...string) *set {
	t.Helper()
	s := &set{disk: d, name: fmt.Sprintf("e2e-%d-%d", os.Getpid(), sets.Add(1))}
	remap(t, append([]string{"create", d.path, "--name", s.name, "--yes"}, args...)...).want(t,
		exitDone)
	quit := make(chan struct{})
	go s.watchServer(t, quit)
	t.Cleanup(func() {
		close(quit)
		if s.dev != "" && !hung.Load() {
			s.stop(t)
		}
		if !hung.Load() {
			s.check(t)
		}
		if t.Failed() {
			t.Logf("log of the server:\n%s", serverLogs(s.name))
		}
	})
	return s
}

// start serves the set with the flags args, which later starts use again.
func (s *set) start(t testing.TB, args ...string) {
	t.Helper()
	if args != nil {
		s.args = args
	}
	s.startAs(t, remap(t, s.startLine()...))
}

// startLine is what start is run with. Flags of the test itself come last, and win.
func (s *set) startLine() []string {
	return append([]string{"start", s.disk.path, rig.Unhurried}, s.args...)
}

func (s *set) startAs(t testing.TB, r result) {
	t.Helper()
	was := s.dev
	s.dev = r.want(t, exitDone)
	if !strings.HasPrefix(s.dev, "/dev/ublkb") || strings.ContainsAny(s.dev, "\n ") {
		t.Fatalf("start is to print the device's path and nothing else\n%s", r)
	}
	if was != "" && s.dev != was {
		t.Fatalf("recovered as %s, was %s", s.dev, was)
	}
	needBlockDevice(t, s.dev)
	s.pid.Store(int64(s.status(t).ServerPID))
}

// watchServer waits for the death of a server that is supposed to live. I/O to
// its device would wait for ever, so the device is taken away.
func (s *set) watchServer(t testing.TB, quit chan struct{}) {
	for {
		select {
		case <-quit:
			return
		case <-time.After(500 * time.Millisecond):
		}
		pid := s.pid.Load()
		if pid == 0 || syscall.Kill(int(pid), 0) == nil || s.pid.Load() != pid {
			continue
		}
		t.Errorf("the server, process %d, has died; its log:\n%s", pid, serverLogs(s.name))
		out, err := exec.Command(vmtest.Binary(t), "stop", s.name).CombinedOutput()
		t.Logf("stop after the server's death: %v\n%s", err, out)
		return
	}
}

// stop stops the device, which must then be gone.
func (s *set) stop(t testing.TB) {
	t.Helper()
	s.pid.Store(0)
	r := remap(t, "stop", s.dev)
	if r.code != exitDone {
		t.Errorf("stop\n%s", r)
		return
	}
	if _, err := os.Stat(s.dev); !os.IsNotExist(err) {
		t.Errorf("%s is still there after stop: %v", s.dev, err)
	}
	s.dev = ""
}

// restart stops and starts.
func (s *set) restart(t testing.TB) { t.Helper(); s.stop(t); s.start(t) }

// kill sends SIGKILL to the server and returns its process id. The device stays.
func (s *set) kill(t testing.TB) int {
	t.Helper()
	pid := s.status(t).ServerPID
	s.pid.Store(0)
	if pid <= 1 || pid == os.Getpid() {
		t.Fatalf("server_pid is %d", pid)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatalf("kill %d: %v", pid, err)
	}
	return pid
}

// check runs `metadata check`, which must be content.
func (s *set) check(t testing.TB) {
	t.Helper()
	if r := remap(t, "metadata", "check", s.disk.path); r.code != exitDone {
		t.Errorf("metadata check\n%s", r)
	}
}

// status is what the tests use of `status --json`.
type status struct {
	Device     string `json:"device"`
	ID         int    `json:"id"`
	Name       string `json:"name"`
	UUID       string `json:"uuid"`
	State      string `json:"state"`
	Backing    string `json:"backing"`
	BlockSize  int64  `json:"block_size"`
	SizeBlocks int64  `json:"size_blocks"`
	Spare      struct {
		Total int64 `json:"total"`
		Used  int64 `json:"used"`
		Free  int64 `json:"free"`
	} `json:"spare"`
	Remaps  int64 `json:"remaps"`
	Pending int64 `json:"pending"`
	Lost    int64 `json:"lost"`
	Errors  struct {
		Read       int64 `json:"read"`
		Write      int64 `json:"write"`
		Flush      int64 `json:"flush"`
		Transport  int64 `json:"transport"`
		FailedFast int64 `json:"failed_fast"`
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
		Discards   int64 `json:"discards"`
		ReadBytes  int64 `json:"read_bytes"`
		WriteBytes int64 `json:"write_bytes"`
	} `json:"io"`
	Metadata struct {
		Version  int   `json:"version"`
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
	Features struct {
		ZeroCopy   bool `json:"zero_copy"`
		AutoBufReg bool `json:"auto_buf_reg"`
		BatchIO    bool `json:"batch_io"`
		Recovery   bool `json:"recovery"`
	} `json:"features"`
	ServerPID int `json:"server_pid"`
}

func (s *set) status(t testing.TB) status {
	t.Helper()
	var st status
	parse(t, remap(t, "status", s.dev, "--json"), &st)
	return st
}

// row is an element of `remap list --json`.
type row struct {
	Block int64  `json:"block"`
	Count int64  `json:"count"`
	Spare *int64 `json:"spare"`
	State string `json:"state"`
	Cause string `json:"cause"`
	Time  string `json:"time"`
}

func (s *set) remaps(t testing.TB) []row {
	t.Helper()
	var rows []row
	parse(t, remap(t, "remap", "list", s.dev, "--json"), &rows)
	return rows
}

// parse reads the one JSON value that a verb has printed.
func parse(t testing.TB, r result, to any) {
	t.Helper()
	out := r.want(t, exitDone)
	if err := json.Unmarshal([]byte(out), to); err != nil {
		t.Fatalf("JSON: %v\n%s", err, r)
	}
}
