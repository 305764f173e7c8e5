package campaign

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// death is a way for a server to die, or nearly.
type death string

const (
	bySIGKILL  death = "SIGKILL"
	bySIGSEGV  death = "SIGSEGV"
	bySIGBUS   death = "SIGBUS"
	bySIGABRT  death = "SIGABRT"
	byOOM      death = "OOM"
	byStopKill death = "SIGSTOP+SIGKILL"
	byStop     death = "SIGSTOP+SIGCONT" // it lives on
)

var deaths = []death{bySIGKILL, bySIGSEGV, bySIGBUS, bySIGABRT, byOOM, byStopKill, byStop}

var signals = map[death]syscall.Signal{bySIGKILL: syscall.SIGKILL, bySIGSEGV: syscall.SIGSEGV,
	bySIGBUS: syscall.SIGBUS, bySIGABRT: syscall.SIGABRT}

// memcg is the memory control group that servers live in, so that one can run
// out of memory alone.
type memcg string

func newMemcg(t *testing.T) memcg {
	t.Helper()
	const root = "/sys/fs/cgroup"
	if err := os.WriteFile(root+"/cgroup.subtree_control", []byte("+memory"), 0); err != nil {
		t.Fatalf("no memory control group: %v", err)
	}
	dir := filepath.Join(root, fmt.Sprintf("campaign-%d", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil && !os.IsExist(err) {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(dir) })
	return memcg(dir)
}

// set writes to a file of the group. It does not use package os, which opens files that can be
// polled with O_NONBLOCK. Since Linux 6.16 a limit that is set that way waits for the next
// allocation, and a server at work makes none.
func (m memcg) set(t *testing.T, file, value string) {
	t.Helper()
	fd, err := unix.Open(filepath.Join(string(m), file), unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	_, err = unix.Write(fd, []byte(value))
	if err := errors.Join(err, unix.Close(fd)); err != nil && !errors.Is(err, unix.EINTR) {
		t.Fatalf("%s: %v", file, err)
	}
}

// kills is how often a process of the group was killed for lack of memory.
func (m memcg) kills(t *testing.T) int {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(string(m), "memory.events"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		var n int
		if _, err := fmt.Sscanf(line, "oom_kill %d", &n); err == nil {
			return n
		}
	}
	t.Fatalf("memory.events has no oom_kill:\n%s", raw)
	return 0
}

// start runs `start` within the group.
func (m memcg) start(t *testing.T, args ...string) rig.Result {
	t.Helper()
	script := `echo $$ >"$1/cgroup.procs" && shift && exec "$@"`
	return rig.Exec(t, "sh", append([]string{"-c", script, "sh", string(m), vmtest.Binary(t),
		"start"}, args...)...)
}

// kill ends a process in the given way and returns whether it is dead now. It returns at once when
// the process cannot run any more; it may take a while until the kernel has freed everything.
func (m memcg) kill(t *testing.T, rng *rand.Rand, how death, pid int) (dead bool) {
	t.Helper()
	signal := func(s syscall.Signal) {
		if err := syscall.Kill(pid, s); err != nil {
			t.Fatalf("%v to the server, process %d: %v; logs:\n%s", s, pid, err, crashes())
		}
	}
	pause := time.Duration(rng.IntN(1500)) * time.Millisecond
	if long() && rng.IntN(8) == 0 {
		pause = time.Minute
	}
	switch how {
	case byOOM:
		before := m.kills(t)
		// The server has protected itself, as it should have.
		adj := fmt.Sprintf("/proc/%d/oom_score_adj", pid)
		if raw, err := os.ReadFile(adj); err != nil || strings.TrimSpace(string(raw)) != "-1000" {
			t.Errorf("oom_score_adj is %q (%v), want -1000", raw, err)
		}
		if err := os.WriteFile(adj, []byte("0"), 0); err != nil {
			t.Fatal(err)
		}
		// The server's memory is locked, so only its death can meet a lower limit. The kernel gives
		// up on that when the writer gets a signal.
		rig.Await(t, "no OOM kill", func() error {
			m.set(t, "memory.max", "1M")
			if m.kills(t) == before {
				current, _ := os.ReadFile(filepath.Join(string(m), "memory.current"))
				return fmt.Errorf("oom_kill is %d still, memory.current %s", before, current)
			}
			return nil
		})
		m.set(t, "memory.max", "max")
	case byStop, byStopKill:
		signal(syscall.SIGSTOP)
		time.Sleep(pause)
		if how == byStop {
			signal(syscall.SIGCONT)
			return false
		}
		signal(syscall.SIGKILL)
	default:
		signal(signals[how])
	}
	rig.Until(t, "the server's death", func() bool { return !rig.Alive(pid) })
	return true
}

// crashes is how each crash in the servers' logs begins: the cause and the first
// lines of who was running.
func crashes() string {
	var b strings.Builder
	files, _ := filepath.Glob(runDir + "/*.log")
	for _, f := range files {
		text, _ := os.ReadFile(f)
		left := 0
		for line := range strings.Lines(string(text)) {
			for _, mark := range []string{"SIG", "panic:", "fatal error:", "unexpected fault"} {
				if strings.HasPrefix(line, mark) {
					left = 40
				}
			}
			if left > 0 || strings.HasPrefix(line, "{") {
				b.WriteString(line)
				left--
			}
		}
	}
	return b.String()
}
