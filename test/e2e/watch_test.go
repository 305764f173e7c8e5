package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublkremap/test/vmtest"
)

// hung is set once something outlived its limit and could not be killed.
// Whatever follows would only wait for the same thing.
var hung atomic.Bool

func needAlive(t testing.TB) {
	t.Helper()
	if hung.Load() {
		t.Fatal("an earlier test left a process that cannot be killed")
	}
}

// process is a program that runs beside the test.
type process struct {
	cmd  *exec.Cmd
	out  string // file with its standard output
	err  string // file with its standard error
	done chan struct{}
	code int
}

// launch starts a program. Its output goes to files, not pipes: a server that it
// leaves behind would keep a pipe open.
func launch(t testing.TB, name string, args ...string) *process {
	t.Helper()
	needAlive(t)
	dir, err := os.MkdirTemp("", "e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := &process{out: filepath.Join(dir, "out"), err: filepath.Join(dir, "err"),
		done: make(chan struct{})}
	stdout, err1 := os.Create(p.out)
	stderr, err2 := os.Create(p.err)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = stdout.Close(), stderr.Close() }()
	p.cmd = exec.Command(name, args...)
	p.cmd.Dir = dir
	p.cmd.Stdout, p.cmd.Stderr = stdout, stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	go func() {
		// An exit code is a result like any other.
		_ = p.cmd.Wait()
		p.code = p.cmd.ProcessState.ExitCode()
		close(p.done)
	}()
	t.Cleanup(func() {
		if !p.ended() {
			p.kill(t)
		}
	})
	return p
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// wait waits until the program has ended. One that does not within the limit
// fails the test, after the watchdog has said what everybody is doing.
func (p *process) wait(t testing.TB, limit time.Duration) result {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(limit):
		dumpTasks(t.Name() + ": " + p.cmd.String() + " still runs after " + limit.String())
		p.kill(t)
		t.Fatalf("%s: still running after %v\n%s", p.cmd, limit, p.result())
	}
	return p.result()
}

func (p *process) kill(t testing.TB) {
	t.Helper()
	_ = p.cmd.Process.Kill()
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		hung.Store(true)
		dumpTasks(p.cmd.String() + " cannot be killed")
		t.Errorf("%s: cannot be killed", p.cmd)
	}
}

// result is what a program had to say.
type result struct {
	command        string
	stdout, stderr string
	code           int // -1: it has not ended, or by a signal
}

func (p *process) result() result {
	out, _ := os.ReadFile(p.out)
	err, _ := os.ReadFile(p.err)
	r := result{command: strings.Join(p.cmd.Args, " "), stdout: string(out), stderr: string(err),
		code: -1}
	if p.ended() {
		r.code = p.code
	}
	return r
}

func (r result) String() string {
	return fmt.Sprintf("%s: exit code %d\n%s%s", r.command, r.code, r.stdout, r.stderr)
}

// dumpTasks prints what a person needs who wonders why something hangs: all
// blocked tasks and all tasks (sysrq w and t), and the kernel stacks of what
// this test runs. To standard error at once, since the test may never end.
func dumpTasks(why string) {
	var b bytes.Buffer
	_, _ = fmt.Fprintf(&b, "\n==== watchdog: %s\n", why)
	stacks, _ := filepath.Glob("/proc/[0-9]*/task/[0-9]*/stack")
	for _, path := range stacks {
		dir := filepath.Dir(path)
		stack, err := os.ReadFile(path)
		// Kernel threads that wait for work are many and say nothing.
		if err != nil || len(stack) == 0 || bytes.Contains(stack, []byte("worker_thread")) {
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
	for _, key := range []string{"w", "t"} {
		_ = os.WriteFile("/proc/sysrq-trigger", []byte(key), 0)
		time.Sleep(time.Second)
	}
	log := make([]byte, 1<<20)
	// 3 is SYSLOG_ACTION_READ_ALL, see syslog(2).
	if n, err := unix.Klogctl(3, log); err == nil {
		_, _ = fmt.Fprintf(&b, "-- kernel log\n%s", log[:n])
	}
	b.WriteString(serverLogs("*"))
	_, _ = fmt.Fprintf(&b, "==== end of watchdog\n")
	_, _ = os.Stderr.Write(b.Bytes())
}

// waitFor waits for a channel that is closed when something is done.
func waitFor(t testing.TB, done <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(limit):
		hung.Store(true)
		dumpTasks(what + " has not ended after " + limit.String())
		t.Fatalf("%s: not done after %v", what, limit)
	}
}

// guard sets a limit for a whole test. Past it the watchdog prints what
// everybody is doing, and all devices are taken away so that I/O ends; if even
// that does not end the test, the test program ends.
func guard(t testing.TB, most time.Duration) {
	t.Helper()
	needAlive(t)
	name := t.Name()
	bin := vmtest.Binary(t)
	done := make(chan struct{})
	go func() {
		select {
		case <-done:
			return
		case <-time.After(most):
		}
		hung.Store(true)
		dumpTasks(fmt.Sprintf("%s has not ended after %v", name, most))
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
		if hung.Load() {
			t.Errorf("the watchdog has barked")
		}
	})
}
