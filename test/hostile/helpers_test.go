package hostile

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

const (
	diskSize = 24 << 20
	// whole is how long a test may take before it counts as hung.
	whole = 5 * time.Minute
)

func need(t *testing.T) {
	t.Helper()
	vmtest.NeedUblk(t)
	rig.Guard(t, whole)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// refusal makes sure that a run failed with this code, and said in one printable
// line all of that.
func refusal(t *testing.T, what string, r rig.Result, code int, says ...string) {
	t.Helper()
	line := strings.TrimSuffix(r.Stderr, "\n")
	t.Logf("%-36s %d  %s", what, r.Code, line)
	if r.Code != code || !strings.HasPrefix(line, "ublk-remap: ") || !utf8.ValidString(line) ||
		strings.ContainsFunc(line, func(c rune) bool { return !unicode.IsPrint(c) }) {
		t.Errorf("%s: want exit code %d and one printable line\n%s", what, code, r)
	}
	for _, s := range says {
		if !strings.Contains(line, s) {
			t.Errorf("%s: it does not say %q: %s", what, s, line)
		}
	}
}

// sh runs a shell script with the program's path as $1, and more arguments.
func sh(t *testing.T, script string, args ...string) rig.Result {
	t.Helper()
	return rig.Exec(t, "sh", append([]string{"-c", script, "sh", vmtest.Binary(t)}, args...)...)
}

// nothingLeft makes sure that a start that failed has left no device.
func nothingLeft(t *testing.T) {
	t.Helper()
	entries, err := os.ReadDir("/sys/class/ublk-char")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		t.Errorf("%s is left behind", e.Name())
	}
}

// run starts a program and gives what is to be known of it when it has ended.
func run(t *testing.T, stdout, stderr *os.File, args ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	cmd := exec.Command(vmtest.Binary(t), args...)
	var text bytes.Buffer
	if stdout != nil {
		cmd.Stdout = stdout
	}
	cmd.Stderr = &text
	if stderr != nil {
		cmd.Stderr = stderr
	}
	must(t, cmd.Start())
	return cmd, &text
}

// closedPipe is the write end of a pipe that has no reader any more.
func closedPipe(t *testing.T) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	must(t, err)
	must(t, r.Close())
	t.Cleanup(func() { _ = w.Close() })
	return w
}
