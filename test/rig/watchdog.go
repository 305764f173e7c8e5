package rig

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublkremap/internal/control"
	"ublkremap/test/vmtest"
)

// hung is set once something has exceeded its limit. Later steps would only wait for the same
// thing.
var hung atomic.Bool

// Hung says whether something has exceeded its limit. In that case no caller should wait for a
// device.
func Hung() bool { return hung.Load() }

func needAlive(t testing.TB) {
	t.Helper()
	if hung.Load() {
		t.Fatal("an earlier test left something that hangs")
	}
}

// DumpTasks prints what shows why something hangs: the kernel stacks of all processes, the end of
// the kernel's log with its blocked tasks, and the servers' logs. It prints to standard error at
// once, because the test may never end.
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
		_, _ = fmt.Fprintf(&b, "-- %s %s (%s)\n%s", strings.TrimPrefix(dir, "/proc/"),
			bytes.TrimSpace(comm), stateIn(stat), stack)
	}
	_ = os.WriteFile("/proc/sysrq-trigger", []byte("w"), 0)
	_, _ = fmt.Fprintf(&b, "-- kernel log\n%s%s==== end of watchdog\n", KernelLog(400),
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
	files, _ := filepath.Glob(filepath.Join(control.Dir(), names+".log"))
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

// WaitFor waits for a channel that is closed when something is done.
func WaitFor(t testing.TB, done <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(Limit):
		hung.Store(true)
		DumpTasks(what + " has not ended after " + Limit.String())
		t.Fatalf("%s: not done after %v", what, Limit)
	}
}

// Guard sets a limit for a whole test. Past it the watchdog prints what
// everybody is doing, and all devices are taken away so that I/O ends; if even
// that does not end the test, the test program ends.
func Guard(t testing.TB, most time.Duration) {
	t.Helper()
	needAlive(t)
	name, bin := t.Name(), vmtest.Binary(t)
	done := make(chan struct{})
	go func() {
		select {
		case <-done:
			return
		case <-time.After(most):
		}
		hung.Store(true)
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
			if vmtest.InGuest() {
				// This process cannot exit while a thread of it waits for a device.
				_ = unix.Kill(1, unix.SIGUSR1)
			}
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
