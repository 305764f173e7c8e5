package rig

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Process is a program that runs beside the test.
type Process struct {
	Cmd    *exec.Cmd
	dir    string // with the files out and err
	began  time.Time
	done   chan struct{}
	took   time.Duration // valid once done is closed
	last   Result        // what it said, once reaped
	reaped sync.Once
}

// Launch starts a program. It is killed when the test ends, if it still runs then.
func Launch(t testing.TB, name string, args ...string) *Process {
	t.Helper()
	return LaunchCmd(t, exec.Command(name, args...))
}

// LaunchCmd starts a command. Its output goes to files, not pipes: a server that
// it leaves behind would keep a pipe open. What the command has set already stays.
func LaunchCmd(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	needAlive(t)
	dir, err := os.MkdirTemp("", "rig-")
	if err != nil {
		t.Fatal(err)
	}
	p := &Process{Cmd: cmd, dir: dir, began: time.Now(), done: make(chan struct{})}
	stdout, err1 := os.Create(filepath.Join(dir, "out"))
	stderr, err2 := os.Create(filepath.Join(dir, "err"))
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = stdout.Close(), stderr.Close() }()
	if cmd.Dir == "" {
		cmd.Dir = dir
	}
	if cmd.Stdout == nil {
		cmd.Stdout = stdout
	}
	if cmd.Stderr == nil {
		cmd.Stderr = stderr
	}
	if err := cmd.Start(); err != nil {
		_ = os.RemoveAll(dir)
		t.Fatalf("%s: %v", cmd, err)
	}
	go func() {
		// An exit code is a result like any other.
		_ = cmd.Wait()
		p.took = time.Since(p.began)
		close(p.done)
	}()
	t.Cleanup(func() {
		if !p.Ended() {
			p.Kill(t)
		}
		if p.Ended() {
			p.reap()
		}
	})
	return p
}

// Ended says whether the program has ended.
func (p *Process) Ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Took is how long the program ran. It must have ended.
func (p *Process) Took() time.Duration { return p.took }

// Wait waits until the program has ended. One that does not within the limit fails
// the test, after the watchdog has said what everybody is doing.
func (p *Process) Wait(t testing.TB, limit time.Duration) Result {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(limit):
		DumpTasks(fmt.Sprintf("%s: %s still runs after %v", t.Name(), p.Cmd, limit))
		p.Kill(t)
		t.Fatalf("%s: still running after %v\n%s", p.Cmd, limit, p.Result())
	}
	return p.Result()
}

// Kill kills the program and waits for its end.
func (p *Process) Kill(t testing.TB) {
	t.Helper()
	_ = p.Cmd.Process.Kill()
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		hung.Store(true)
		DumpTasks(p.Cmd.String() + " cannot be killed")
		t.Errorf("%s: cannot be killed", p.Cmd)
	}
}

// Result is what the program has said so far, and its exit code if it has ended.
func (p *Process) Result() Result {
	if p.Ended() {
		p.reap()
		return p.last
	}
	return p.read()
}

func (p *Process) read() Result {
	out, _ := os.ReadFile(filepath.Join(p.dir, "out"))
	err, _ := os.ReadFile(filepath.Join(p.dir, "err"))
	return Result{Command: strings.Join(p.Cmd.Args, " "), Stdout: string(out), Stderr: string(err),
		Code: -1}
}

// reap keeps what an ended program said, and removes the files.
func (p *Process) reap() {
	p.reaped.Do(func() {
		p.last = p.read()
		p.last.Code = p.Cmd.ProcessState.ExitCode()
		_ = os.RemoveAll(p.dir)
	})
}

// Result is what a program had to say.
type Result struct {
	Command        string
	Stdout, Stderr string
	Code           int // -1: it has not ended, or by a signal
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
