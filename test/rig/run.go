package rig

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublkremap/test/vmtest"
)

// Limit is how long a program may take before it counts as hung. On 6.12 the
// kernel itself notices only after 30 s that a saturated server is dead; the
// rest is for slow machines.
const Limit = 90 * time.Second

// Result is what a program had to say.
type Result struct {
	Command        string
	Stdout, Stderr string
	Code           int // -1: ended by a signal
}

func (r Result) String() string {
	return fmt.Sprintf("%s: exit code %d\n%s%s", r.Command, r.Code, r.Stdout, r.Stderr)
}

// Want fails the test unless the exit code is this one, and returns the
// standard output without its final newline.
func (r Result) Want(t testing.TB, code int) string {
	t.Helper()
	if r.Code != code {
		t.Fatalf("want exit code %d\n%s", code, r)
	}
	return strings.TrimRight(r.Stdout, "\n")
}

// Exec runs a program to its end. Its output goes to files, not pipes: a server
// that it leaves behind would keep a pipe open.
func Exec(t testing.TB, name string, args ...string) Result {
	t.Helper()
	dir, err := os.MkdirTemp("", "rig-")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	stdout, err1 := os.Create(filepath.Join(dir, "out"))
	stderr, err2 := os.Create(filepath.Join(dir, "err"))
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = stdout.Close(), stderr.Close() }()
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if err := cmd.Start(); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err = <-done:
	case <-time.After(Limit):
		DumpTasks(fmt.Sprintf("%s: %s still runs after %v", t.Name(), cmd, Limit))
		_ = cmd.Process.Kill()
		t.Fatalf("%s: still running after %v", cmd, Limit)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v", name, err)
	}
	r := Result{Command: strings.Join(cmd.Args, " "), Code: cmd.ProcessState.ExitCode()}
	out, err1 := os.ReadFile(stdout.Name())
	msg, err2 := os.ReadFile(stderr.Name())
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	r.Stdout, r.Stderr = string(out), string(msg)
	return r
}

// Run runs a program, which must exit with 0.
func Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	return Exec(t, name, args...).Want(t, 0)
}

// Remap runs the program under test to its end.
func Remap(t testing.TB, args ...string) Result {
	t.Helper()
	return Exec(t, vmtest.Binary(t), args...)
}

// Parse reads the one JSON value that a verb has printed.
func Parse(t testing.TB, r Result, to any) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.Want(t, 0)), to); err != nil {
		t.Fatalf("JSON: %v\n%s", err, r)
	}
}

// SeedEnv names the environment variable that repeats a run's random choices.
const SeedEnv = "UBLK_REMAP_SEED"

// Random is a source of random choices whose seed is in the test's log.
func Random(t testing.TB) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv(SeedEnv); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("%s: %v", SeedEnv, err)
		}
	}
	t.Logf("seed: %s=%d", SeedEnv, seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// DumpTasks prints what a person needs who wonders why something hangs: the
// kernel stacks of all processes, the end of the kernel's log with its blocked tasks, and
// the servers' logs. To standard error at once, since the test may never end.
func DumpTasks(why string) {
	var b bytes.Buffer
	_, _ = fmt.Fprintf(&b, "\n==== watchdog: %s\n", why)
	stacks, _ := filepath.Glob("/proc/[0-9]*/task/[0-9]*/stack")
	for _, path := range stacks {
		dir := filepath.Dir(path)
		stack, err := os.ReadFile(path)
		// Kernel threads that wait for work are many and say nothing.
		if err != nil || len(stack) == 0 || bytes.Contains(stack, []byte("worker_thread")) ||
			bytes.Contains(stack, []byte("kthread+")) {
			continue
		}
		comm, _ := os.ReadFile(filepath.Join(dir, "comm"))
		stat, _ := os.ReadFile(filepath.Join(dir, "stat"))
		state := "?"
		if _, rest, ok := strings.Cut(string(stat), ") "); ok {
			state = rest[:1]
		}
		_, _ = fmt.Fprintf(&b, "-- %s %s (%s)\n%s", strings.TrimPrefix(dir, "/proc/"),
			bytes.TrimSpace(comm), state, stack)
	}
	_ = os.WriteFile("/proc/sysrq-trigger", []byte("w"), 0)
	_, _ = fmt.Fprintf(&b, "-- kernel log\n%s%s==== end of watchdog\n", KernelLog(100),
		ServerLogs("*"))
	_, _ = os.Stderr.Write(b.Bytes())
}

// KernelLog is the last lines of the kernel's log.
func KernelLog(lines int) string {
	log := make([]byte, 1<<20)
	// 3 is SYSLOG_ACTION_READ_ALL, see syslog(2).
	n, err := unix.Klogctl(3, log)
	if err != nil {
		return "kernel log: " + err.Error() + "\n"
	}
	all := strings.SplitAfter(string(log[:n]), "\n")
	return strings.Join(all[max(0, len(all)-lines-1):], "")
}

// ServerLogs is the end of what detached servers have logged whose name
// matches the pattern.
func ServerLogs(names string) string {
	var b strings.Builder
	files, _ := filepath.Glob("/run/ublk-remap/" + names + ".log")
	for _, f := range files {
		text, _ := os.ReadFile(f)
		const most = 2 << 10
		if len(text) > most {
			text = append([]byte("...\n"), text[len(text)-most:]...)
		}
		_, _ = fmt.Fprintf(&b, "-- %s\n%s", f, text)
	}
	return b.String()
}

// Guard sets a limit for a whole test. Past it the watchdog prints what
// everybody is doing and all devices are taken away so that I/O ends; if even that
// does not end the test, the test program ends.
func Guard(t testing.TB, most time.Duration) {
	t.Helper()
	name, bin := t.Name(), vmtest.Binary(t)
	var barked atomic.Bool
	done := make(chan struct{})
	go func() {
		select {
		case <-done:
			return
		case <-time.After(most):
		}
		barked.Store(true)
		DumpTasks(fmt.Sprintf("%s has not ended after %v", name, most))
		devs, _ := filepath.Glob("/dev/ublkb*")
		for _, d := range devs {
			out, err := exec.Command("timeout", "60", bin, "stop", "--force", d).CombinedOutput()
			_, _ = fmt.Fprintf(os.Stderr, "watchdog: stop %s: %v\n%s", d, err, out)
		}
		select {
		case <-done:
		case <-time.After(time.Minute):
			_, _ = fmt.Fprintf(os.Stderr, "watchdog: %s hangs for good\n", name)
			os.Exit(3)
		}
	}()
	t.Cleanup(func() {
		close(done)
		if barked.Load() {
			t.Errorf("the watchdog has barked")
		}
	})
}
