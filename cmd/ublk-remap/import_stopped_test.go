package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/control"
)

// writeList writes a list to a file.
func writeList(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "list")
	must(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// TestImportStopped takes over a list for a set that nobody serves, alone and with a spare device.
func TestImportStopped(t *testing.T) {
	useRuntimeDir(t)
	for _, pair := range []bool{false, true} {
		disk := diskFile(t, 64<<20)
		create := []string{"create", disk, "--name", fmt.Sprint("stopped-", pair)}
		var more []string
		if pair {
			more = []string{"--spare-device", diskFile(t, 24<<20)}
		}
		var c created
		parseJSON(t, mustRun(t, 0, append(append(create, more...), "--json")...).out, &c)
		list := writeList(t, "# bad\n1000\n1001\n1003\n3000\n")
		run := func(code int, args ...string) result {
			t.Helper()
			return mustRun(t, code, append(append([]string{"import", disk}, args...), more...)...)
		}
		before := content(t, disk, 64<<20)
		var out imported
		parseJSON(t, run(0, list, "--format", "badblocks", "--block-size", "4096", "--dry-run",
			"--json").out, &out)
		per := uint64(4096 / c.BlockSize)
		if out.Listed != 4*per || out.Marked != 4*per || !out.DryRun || out.Device != disk {
			t.Errorf("%+v", out)
		}
		for _, c := range []struct {
			text, format string
			code         int
		}{
			{"1\nx\n", "badblocks", exit.Usage}, {"1\n99999999\n", "badblocks", exit.Usage},
			{"0 +\n0 1 -\n2 1 +\n", "ddrescue", exit.Usage},
		} {
			r := run(c.code, writeList(t, c.text), "--format", c.format)
			if strings.Count(r.err, "\n") != 1 || !strings.Contains(r.err, "list:") {
				t.Errorf("%q", r.err)
			}
		}
		if !bytes.Equal(before, content(t, disk, 64<<20)) {
			t.Fatal("a dry run, or a refusal, changed something")
		}
		text := run(0, list, "--format", "badblocks", "--block-size", "4096").out
		if !strings.Contains(text, fmt.Sprintf("of %d listed blocks %d are pending now", 4*per,
			4*per)) || !strings.Contains(text, "ublk-remap start "+disk+", and run this again") {
			t.Errorf("%s", text)
		}
		parseJSON(t, run(0, list, "--format", "badblocks", "--block-size", "4096", "--json").out,
			&out)
		if out.Known != 4*per || out.Marked != 0 || out.Moved+out.Stay+out.Unreadable != 0 {
			t.Errorf("again: %+v", out)
		}
		text = run(0, list, "--format", "badblocks", "--block-size", "4096", "--dry-run").out
		if want := fmt.Sprintf("0 would become pending, %d are known", 4*per); !strings.Contains(
			text, want) || strings.Contains(text, "would read") {
			t.Errorf("%s", text)
		}
		var rows []control.Remap
		parseJSON(t, mustRun(t, 0, append([]string{"export", disk, "--format", "json"},
			more...)...).out, &rows)
		if len(rows) != 3 || rows[0].State != "pending" || rows[0].Cause != "import" {
			t.Errorf("%+v", rows)
		}
		mustRun(t, 0, append([]string{"metadata", "check", disk}, more...)...)
	}
}

// TestImportStoppedRefused: a disk that is in use, or is no set, is refused in one line.
func TestImportStoppedRefused(t *testing.T) {
	useRuntimeDir(t)
	disk := diskFile(t, 64<<20)
	list := writeList(t, "1000\n")
	refused := func(code int, want string, args ...string) {
		t.Helper()
		r := mustRun(t, code, append([]string{"import"}, args...)...)
		if strings.Count(r.err, "\n") != 1 || !strings.Contains(r.err, want) {
			t.Errorf("%q, want %q", r.err, want)
		}
	}
	refused(exit.NotFound, "metadata", disk, list, "--format", "badblocks")
	refused(exit.NotFound, disk+"x", disk+"x", list, "--format", "badblocks")
	mustRun(t, 0, "create", disk, "--name", "held")
	refused(exit.Usage, "--of", disk, list, "--format", "badblocks", "--of", "me")
	f, err := os.Open(disk)
	must(t, err)
	defer f.Close()
	must(t, unix.Flock(int(f.Fd()), unix.LOCK_EX))
	refused(exit.Refused, "in use", disk, list, "--format", "badblocks")
	must(t, unix.Flock(int(f.Fd()), unix.LOCK_UN))
	mustRun(t, 0, "import", disk, list, "--format", "badblocks")
}

// TestInputOfNobody: an interrupt ends a verb that waits for a list from a pipe that nobody writes
// to. A directory, no file at all, and no format are usage errors.
func TestInputOfNobody(t *testing.T) {
	useRuntimeDir(t)
	disk := diskFile(t, 64<<20)
	mustRun(t, 0, "create", disk, "--name", "nobody")
	before := content(t, disk, 64<<20)
	pipe := filepath.Join(t.TempDir(), "pipe")
	must(t, unix.Mkfifo(pipe, 0o600))
	for _, args := range [][]string{
		{"import", disk, pipe, "--format", "badblocks"},
		{"metadata", "restore", disk, pipe},
		{"create", disk, "--force", "--yes", "--badblocks", pipe},
	} {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		var out, stderr bytes.Buffer
		if code := run(ctx, args, stdio{strings.NewReader(""), &out, &stderr}); code !=
			exit.Failed || strings.Count(stderr.String(), "\n") != 1 {
			t.Errorf("%v: exit code %d, %q", args, code, &stderr)
		}
	}
	for _, args := range [][]string{
		{"import", disk, t.TempDir(), "--format", "smart"}, {"import", disk, pipe},
		{"import", disk, "", "--format", "badblocks"}, {"metadata", "restore", disk, t.TempDir()},
	} {
		if r := mustRun(t, exit.Usage, args...); strings.Count(r.err, "\n") != 1 {
			t.Errorf("%v: %q", args, r.err)
		}
	}
	if !bytes.Equal(before, content(t, disk, 64<<20)) {
		t.Error("something was changed")
	}
}
