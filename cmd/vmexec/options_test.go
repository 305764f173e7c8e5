package main

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	t.Setenv(envMemory, "512")
	o, err := parse([]string{"-kernel", "6.12", "-tools", "all, strace", "-file", "/a", "-file",
		"b:/c", "-disk", "1G", "-disk", "8M:4096", "-disk", "96M:512:nvme",
		"-collect", "/out:here", "-timeout", "90s", "prog", "-kernel", "x"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if o.kernel != "6.12" || o.memoryMiB != 512 || o.timeout != 90*time.Second ||
		!slices.Equal(o.tools, []string{"all", "strace"}) ||
		!slices.Equal(o.files, []pair{{"/a", ""}, {"b", "/c"}}) ||
		!slices.Equal(o.collect, []pair{{"/out", "here"}}) ||
		!slices.Equal(o.disks, []diskSpec{{1 << 30, 512, ""}, {8 << 20, 4096, ""},
			{96 << 20, 512, "nvme"}}) ||
		!slices.Equal(o.args, []string{"prog", "-kernel", "x"}) {
		t.Errorf("%+v", o)
	}
	if o, err = parse([]string{"-v", "--", "s.sh", "1"}, io.Discard); err != nil ||
		!slices.Equal(o.args, []string{"s.sh", "1"}) {
		t.Errorf("after --: %v, %v", o, err)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, args := range [][]string{
		{}, {"-kernel"}, {"-accel", "hvf", "p"}, {"-mem", "10", "p"}, {"-smp", "0", "p"},
		{"-disk", "0", "p"}, {"-disk", "1x", "p"}, {"-disk", "1G:1024", "p"},
		{"-disk", "1000", "p"}, {"-disk", "1G:4096:ata", "p"}, {"-disk", "1G:512:usb", "p"},
		{"-disk", "9999999T", "p"}, {"-disk", "-1G", "p"}, {"-collect", "rel:x", "p"},
		{"-collect", "/x", "p"},
	} {
		if o, err := parse(args, io.Discard); err == nil {
			t.Errorf("%q: %+v", args, o)
		}
	}
	var usage bytes.Buffer
	if _, err := parse([]string{"-help"}, &usage); !errors.Is(err, flag.ErrHelp) ||
		!strings.Contains(usage.String(), "Exit codes") {
		t.Errorf("-help: %v, %q", err, usage.String())
	}
	t.Setenv(envCPUs, "many")
	if _, err := parse([]string{"p"}, io.Discard); err == nil {
		t.Error("a number of CPUs that is none was taken")
	}
}

func TestTestJob(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.WriteFile("x.test", []byte("binary"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("RAPID_SEED", "5")
	t.Setenv("SECRET", "not for the guest")
	o := &options{args: []string{"x.test", "-test.timeout=2m0s", "-test.coverprofile=c.out",
		"-test.cpuprofile=/abs/cpu", "-test.v=true"},
		env: []string{"A=b"}, timeout: time.Hour, kernel: "7.3"}
	job, fill, err := o.job()
	if err != nil || fill == nil {
		t.Fatal(err)
	}
	if job.Dir != dir || job.TimeoutSeconds != 150 || job.Args[0] != "/vmexec/x.test" ||
		len(job.Args) != 5 {
		t.Errorf("%+v", job)
	}
	if want := []string{filepath.Join(dir, "c.out"), "/abs/cpu"}; !slices.Equal(job.Collect, want) {
		t.Errorf("collects %v, want %v", job.Collect, want)
	}
	env := strings.Join(job.Env, "\n")
	if !strings.Contains(env, "RAPID_SEED=5") || !strings.Contains(env, "A=b") ||
		!strings.Contains(env, "UBLK_REMAP_GUEST=7.3") || strings.Contains(env, "SECRET") {
		t.Errorf("environment\n%s", env)
	}
}

func TestScriptJob(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("s.sh", []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	o := &options{args: []string{"s.sh", "-testing"}, timeout: time.Minute,
		disks: []diskSpec{{1 << 20, 512, ""}}, load: []string{"loop"}}
	job, _, err := o.job()
	if err != nil {
		t.Fatal(err)
	}
	if job.Dir != "/root" || job.TimeoutSeconds != 60 || len(job.Collect) != 0 ||
		!slices.Equal(job.Modules, []string{"loop", "virtio_blk"}) {
		t.Errorf("%+v", job)
	}
	if !slices.Equal(o.load, []string{"loop"}) {
		t.Error("the options were changed")
	}
	if _, _, err := (&options{args: []string{"missing"}}).job(); err == nil {
		t.Error("a missing program was taken")
	}
}

func TestFailureWatch(t *testing.T) {
	for out, want := range map[string]bool{
		"ok\n":                                   false,
		"=== RUN TestA\n--- PASS: TestA\nPASS\n": false,
		"--- FAIL: TestA (0.00s)\n":              true,
		"    --- FAIL: TestA/b\n":                true,
		"x\npanic: oh\n":                         true,
		"it says --- FAIL: in the middle\n":      false,
		"fatal error: all goroutines are asleep": true,
		"\x16--- FAIL: TestJSON\n":               true,
	} {
		// In pieces of every size, because a port may deliver any.
		for piece := 1; piece <= len(out); piece++ {
			var b bytes.Buffer
			w := &failureWatch{w: &b}
			for i := 0; i < len(out); i += piece {
				if _, err := io.WriteString(w, out[i:min(i+piece, len(out))]); err != nil {
					t.Fatal(err)
				}
			}
			if w.failed != want || b.String() != out {
				t.Errorf("%q in pieces of %d: failed %v, passed on %q", out, piece, w.failed,
					b.String())
			}
		}
	}
}
