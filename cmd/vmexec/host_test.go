package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ublkremap/test/vmtest/kernel"
	"ublkremap/test/vmtest/proto"
	"ublkremap/test/vmtest/qemu"
)

// fakeQEMU puts a shell script in QEMU's place. Its file descriptors 3, 4 and
// 5 are the guest's stdout, stderr and result ports; $N counts the guests.
func fakeQEMU(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	body := "#!/bin/sh\necho x >>" + dir + "/count\nN=$(wc -l <" + dir + "/count)\n" + script + "\n"
	if err := os.WriteFile(filepath.Join(dir, qemu.Binary), []byte(body), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// fakeKernel is an unpacked kernel without any contents.
func fakeKernel(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	modules := filepath.Join(dir, "lib/modules/9.9.9")
	if err := os.MkdirAll(modules, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{filepath.Join(dir, "vmlinuz"), filepath.Join(modules, "modules.dep"),
		filepath.Join(modules, "modules.builtin"), filepath.Join(modules, "modules.alias")} {
		if err := os.WriteFile(f, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// vmexec runs the command line up to the program under a fake QEMU.
func vmexec(t *testing.T, ctx context.Context, boot time.Duration, flags ...string) (code int,
	stdout, stderr string) {
	t.Helper()
	cache := t.TempDir()
	t.Setenv(kernel.CacheEnv, cache)
	program := filepath.Join(t.TempDir(), "prog")
	if err := os.WriteFile(program, []byte("a program"), 0o755); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	o, err := parse(append(append([]string{"-accel", "tcg", "-kernel", fakeKernel(t)}, flags...),
		program), &errs)
	if err != nil {
		t.Fatal(err)
	}
	h, err := newHost(ctx, o, &out, &errs)
	if err != nil {
		t.Fatal(err)
	}
	if boot != 0 {
		h.boot = boot
	}
	code, err = h.runProgram(ctx)
	if err != nil {
		errs.WriteString(err.Error())
	}
	if left, _ := filepath.Glob(filepath.Join(cache, "run/*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	logs, _ := filepath.Glob(filepath.Join(cache, "console/*.log"))
	if kept := len(logs) > 0; kept != strings.Contains(errs.String(), "console: ") {
		t.Errorf("console logs %v, but it said %q", logs, errs.String())
	}
	return code, out.String(), errs.String()
}

const ok = `echo '{"kind":"exit","code":0}' >&5`

func TestOutcomes(t *testing.T) {
	for _, tc := range []struct {
		name, script string
		flags        []string
		code         int
		stdout       string
		stderr       string // part of it
		quiet        bool   // nothing on stderr
	}{
		{name: "passes", script: "echo hello >&3; " + ok, stdout: "hello\n", quiet: true},
		{name: "fails", script: `echo no >&4; echo '{"kind":"exit","code":7}' >&5`, code: 7,
			stderr: "no\n"},
		{name: "kernel warning", script: `echo '{"kind":"exit","code":0,"tainted":512}' >&5`,
			stderr: "printed a warning"},
		{name: "guest setup", script: `echo '{"kind":"exit","code":99,"error":"no module"}' >&5`,
			code: proto.ExitGuestSetup, stderr: "no module"},
		{name: "no result twice", script: "echo $N >&3", code: proto.ExitNoResult, stdout: "1\n2\n",
			stderr: "starting one more guest"},
		{name: "no result once", script: "echo $N >&3; [ $N = 1 ] || " + ok, stdout: "1\n2\n",
			stderr: "gave no result"},
		{name: "no retry", script: "echo $N >&3", flags: []string{"-no-retry"},
			code: proto.ExitNoResult, stdout: "1\n", stderr: "gave no result"},
		{name: "failed before it died", script: "echo '--- FAIL: TestX' >&3; [ $N = 1 ] || " + ok,
			code: proto.ExitNoResult, stdout: "--- FAIL: TestX\n", stderr: "gave no result"},
		{name: "QEMU refuses", script: "echo bad option >&2; exit 1", code: proto.ExitNoResult,
			stderr: "bad option"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			fakeQEMU(t, tc.script)
			code, stdout, stderr := vmexec(t, t.Context(), 0, tc.flags...)
			if code != tc.code || stdout != tc.stdout || !strings.Contains(stderr, tc.stderr) ||
				tc.quiet && stderr != "" {
				t.Errorf("code %d, stdout %q, stderr %q", code, stdout, stderr)
			}
		})
	}
}

func TestHang(t *testing.T) {
	fakeQEMU(t, "exec sleep 60")
	start := time.Now()
	code, _, stderr := vmexec(t, t.Context(), 100*time.Millisecond, "-timeout", "0s", "-no-retry")
	if code != proto.ExitNoResult || !strings.Contains(stderr, "did not end in time") {
		t.Errorf("code %d, stderr %q", code, stderr)
	}
	if d := time.Since(start); d > 30*time.Second {
		t.Errorf("it took %v", d)
	}
}

// A guest that has sent its result and does not power off delays the run only for a moment.
func TestHangAfterResult(t *testing.T) {
	fakeQEMU(t, ok+"; exec sleep 60")
	if code, _, stderr := vmexec(t, t.Context(), 0); code != 0 || stderr != "" {
		t.Errorf("code %d, stderr %q", code, stderr)
	}
}

func TestInterrupt(t *testing.T) {
	fakeQEMU(t, "exec sleep 60")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if code, _, stderr := vmexec(t, ctx, 0); code != proto.ExitSetup || !strings.Contains(stderr,
		"interrupted") {
		t.Errorf("code %d, stderr %q", code, stderr)
	}
}

// Files come back to the paths that were asked for, and to no others.
func TestCollect(t *testing.T) {
	dir := t.TempDir()
	evil := filepath.Join(dir, "evil")
	fakeQEMU(t, `printf '{"kind":"file","path":"/out","size":5}\n12345' >&5
printf '{"kind":"file","path":"`+evil+`","size":3}\nbad' >&5
`+ok)
	good := filepath.Join(dir, "good")
	if code, _, stderr := vmexec(t, t.Context(), 0, "-collect", "/out:"+good); code != 0 {
		t.Fatalf("code %d, %s", code, stderr)
	}
	if got, err := os.ReadFile(good); err != nil || string(got) != "12345" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := os.Stat(evil); err == nil {
		t.Error("the guest wrote where it was not asked to")
	}
}

func TestConsolesArePruned(t *testing.T) {
	cache := t.TempDir()
	for range keptConsoles + 5 {
		if _, err := newConsole(cache); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Millisecond) // the names have milliseconds
	}
	if logs, _ := filepath.Glob(filepath.Join(cache, "console/*")); len(logs) > keptConsoles+1 {
		t.Errorf("%d console logs", len(logs))
	}
}
