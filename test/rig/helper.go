package rig

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// helperEnv makes a test program one of its own helpers: a name and words, with tabs
// between them.
const helperEnv = "UBLK_REMAP_TEST_HELPER"

// Helper registers a function f that the test program runs when it is started as a helper: as a
// process of its own, with the words of StartHelper or HelperCommand. An init function of the tests
// calls Helper.
func Helper(name string, f func(words []string) error) {
	is, rest, _ := strings.Cut(os.Getenv(helperEnv), "\t")
	if is != name {
		return
	}
	_ = os.Unsetenv(helperEnv) // processes that it starts are no helpers
	if err := f(strings.Split(rest, "\t")); err != nil {
		_, _ = fmt.Fprintf(os.Stderr, "helper %s: %v\n", name, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Ready is called by a helper once it has reached the state that the test needs. It passes the
// words to the test. It returns when the test wants the helper to end.
func Ready(words ...string) {
	fmt.Println(strings.Join(append([]string{"ready"}, words...), "\t"))
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// HelperCommand is a command that becomes a helper.
func HelperCommand(name string, words ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(),
		helperEnv+"="+strings.Join(append([]string{name}, words...), "\t"))
	return cmd
}

// HelperProcess is a helper that is ready.
type HelperProcess struct {
	Cmd   *exec.Cmd
	Words []string // what it said when it was ready
	end   func()
}

// End ends the helper; more than once does no harm. The test's end does it as well.
func (h *HelperProcess) End() { h.end() }

// StartHelper starts a helper with these attributes and waits until it is ready. Where
// it lacks a permission the test is skipped.
func StartHelper(t testing.TB, attr *syscall.SysProcAttr, name string,
	words ...string) *HelperProcess {
	t.Helper()
	cmd := HelperCommand(name, words...)
	cmd.SysProcAttr = attr
	var errs strings.Builder
	cmd.Stderr = &errs
	cmd.WaitDelay = 5 * time.Second // for what it has started itself
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Skipf("no process of this kind here: %v", err)
	}
	h := &HelperProcess{Cmd: cmd, end: sync.OnceFunc(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})}
	t.Cleanup(h.end)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if is, rest, _ := strings.Cut(lines.Text(), "\t"); is == "ready" {
			h.Words = strings.Split(rest, "\t")
			return h
		}
	}
	h.end()
	if strings.Contains(errs.String(), "operation not permitted") {
		t.Skip(errs.String())
	}
	t.Fatalf("helper %s ended before it was ready: %s", name, errs.String())
	return nil
}

// mountHelper mounts an ext4 DEVICE on DIR, in a mount namespace of its own;
// openHelper has PATH open to read ("r") or to read and write ("w").
const (
	mountHelper = "rig-mount"
	openHelper  = "rig-open"
)

func init() {
	Helper(mountHelper, func(w []string) error {
		if err := errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount(w[0], w[1], "ext4", 0, "")); err != nil {
			return err
		}
		Ready()
		return nil
	})
	Helper(openHelper, func(w []string) error {
		flag := map[string]int{"r": os.O_RDONLY, "w": os.O_RDWR}[w[1]]
		f, err := os.OpenFile(w[0], flag, 0)
		if err != nil {
			return err
		}
		Ready()
		return f.Close()
	})
}

// MountElsewhere mounts an ext4 device where only a helper can see it.
func MountElsewhere(t testing.TB, dev, dir string) *HelperProcess {
	t.Helper()
	return StartHelper(t, &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}, mountHelper, dev, dir)
}

// HoldOpen has a helper open a path, to read ("r") or also to write ("w").
func HoldOpen(t testing.TB, path, how string) *HelperProcess {
	t.Helper()
	return StartHelper(t, nil, openHelper, path, how)
}
