package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/alert/settings"
	"ublkremap/internal/blockdev"
	"ublkremap/internal/control"
	"ublkremap/metadata"
	"ublkremap/test/diskfile"
)

// result is the result of one run of the command.
type result struct {
	code     int
	out, err string
}

// ublkRemap runs the command in this process.
func ublkRemap(t *testing.T, args ...string) result {
	t.Helper()
	var out, errs bytes.Buffer
	code := run(context.Background(), args, stdio{in: strings.NewReader(""), out: &out, err: &errs})
	r := result{code, out.String(), errs.String()}
	if code != 0 && strings.Count(strings.TrimRight(r.err, "\n"), "\n") > 0 {
		t.Errorf("%v: an error is one line: %q", args, r.err)
	}
	return r
}

// runSeparately is run for a command that may print several lines of errors.
func runSeparately(args []string) (code int, out, errs string) {
	var o, e bytes.Buffer
	code = run(context.Background(), args, stdio{in: strings.NewReader(""), out: &o, err: &e})
	return code, o.String(), e.String()
}

// mustRun fails the test unless the command exits with code.
func mustRun(t *testing.T, code int, args ...string) result {
	t.Helper()
	r := ublkRemap(t, args...)
	if r.code != code {
		t.Fatalf("ublk-remap %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), r.code,
			code, r.out, r.err)
	}
	return r
}

func useRuntimeDir(t *testing.T) {
	t.Helper()
	dir, err := os.MkdirTemp("", "ur")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Setenv(control.DirEnv, dir)
	t.Setenv(settings.StateDirEnv, filepath.Join(dir, "state"))
}

// diskFile makes a sparse file that can do direct I/O, or skips.
func diskFile(t *testing.T, size int64) string {
	t.Helper()
	path := diskfile.New(t, size)
	diskfile.Open(t, path).Close()
	return path
}

func TestUsage(t *testing.T) {
	useRuntimeDir(t)
	for _, args := range [][]string{
		{}, {"frob"}, {"create"}, {"create", "a", "b"}, {"start"}, {"stop"}, {"remap"},
		{"remap", "frob"}, {"remap", "add", "x"},
		{"metadata"}, {"metadata", "frob", "x"}, {"status", "a", "b"}, {"list", "x"},
		{"--log-level", "loud", "list"},
		{"--log-format", "xml", "list"}, {"list", "--frob"}, {"start", "--queues", "x", "y"},
		{"status", "--watch", "0"},
		{"start", "--zero-copy", "maybe", "x"}, {"start", "--batch-io", "maybe", "x"},
		{"start", "--batch-io", "on", "--depth", "1", "x"}, {"start", "--depth", "0", "x"},
		{"start", "--poll", "1s", "x"}, {"start", "--max-io", "100KiB", "x"},
		{"start", "--max-io", "1%", "x"}, {"start", "--id", "-7", "x"}, {"start", "--remap-budget",
			"0", "x"}, {"start", "--isolate-time", "0", "x"}, {"start", "--fail-fast=-1s", "x"},
	} {
		r := ublkRemap(t, args...)
		if r.code != exit.Usage {
			t.Errorf("%q: exit code %d, %q", args, r.code, r.err)
		}
		if r.err != "" && (!strings.Contains(r.err, "--help") ||
			strings.Count(r.err, "--help") > 1) {
			t.Errorf("%q: where is the help? %q", args, r.err)
		}
	}
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"create"},
			"create: BACKING is missing; see: ublk-remap create --help"},
		{[]string{"metadata", "restore", "x"},
			"metadata restore: FILE|- is missing; see: ublk-remap metadata restore --help"},
		{[]string{"remap", "add"},
			"remap add: DEV|NAME and BLOCK[+COUNT]… are missing; see: ublk-remap remap add --help"},
		{[]string{"list", "x"},
			`list: "x" is too much: it takes no argument; see: ublk-remap list --help`},
		{[]string{"metadata", "backup", "a", "b", "c"},
			`metadata backup: "c" is too much: it takes BACKING|DEV FILE|-; see: ublk-remap `},
	} {
		if r := ublkRemap(t, c.args...); !strings.Contains(r.err, c.says) {
			t.Errorf("%q: %q", c.args, r.err)
		}
	}
}

func TestNotFound(t *testing.T) {
	useRuntimeDir(t)
	for _, args := range [][]string{
		{"stop", "nosuch"}, {"status", "nosuch"}, {"status", "77"},
		{"remap", "list", "/dev/ublkb77"}, {"remap", "add", "nosuch", "1"}, {"resume", "nosuch"},
		{"create", "/no/such/disk"}, {"start", "/no/such/disk"},
		{"metadata", "check", "/no/such/disk"},
	} {
		if r := ublkRemap(t, args...); r.code != exit.NotFound || !strings.HasPrefix(r.err,
			"ublk-remap: ") {
			t.Errorf("%q: exit code %d, %q", args, r.code, r.err)
		}
	}
	disk := diskFile(t, 8<<20)
	for _, args := range [][]string{{"metadata", "check", disk}, {"metadata", "dump", disk},
		{"start", disk}} {
		if r := ublkRemap(t, args...); r.code != exit.NotFound || !strings.Contains(r.err, disk) ||
			!strings.Contains(r.err, "create") {
			t.Errorf("%q: exit code %d, %q", args, r.code, r.err)
		}
	}
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if r := mustRun(t, 0, "completion", shell); !strings.Contains(r.out, "ublk-remap") {
			t.Errorf("%s: %.80q", shell, r.out)
		}
	}
}

func TestDamagedMetadata(t *testing.T) {
	useRuntimeDir(t)
	disk := diskFile(t, 64<<20)
	mustRun(t, 0, "create", disk, "--name", "a")
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// Both mirrors, which lie behind the superblocks that name them.
	devs := metadataRegions(t, disk)
	for _, r := range devs {
		if _, err := f.WriteAt(make([]byte, r.Length), r.Start); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"metadata", "check", disk}, {"metadata", "check", disk,
		"--json"}} {
		if r := mustRun(t, exit.Damaged, args...); r.out == "" {
			t.Errorf("%v prints no report", args)
		}
	}
}

func metadataRegions(t *testing.T, disk string) []metadata.Region {
	t.Helper()
	d, err := blockdev.Open(context.Background(), disk, blockdev.Options{ReadOnly: true,
		Shared: true})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	sb, err := metadata.Probe(d)
	if err != nil {
		t.Fatal(err)
	}
	var mirrors []metadata.Region
	for _, r := range sb.Regions {
		if r.Kind == metadata.RegionMirror {
			mirrors = append(mirrors, r)
		}
	}
	return mirrors
}

func TestBusyDisk(t *testing.T) {
	useRuntimeDir(t)
	disk := diskFile(t, 64<<20)
	d, err := blockdev.Open(context.Background(), disk, blockdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if r := mustRun(t, exit.Refused, "create", disk); !strings.Contains(r.err, "in use") {
		t.Error(r.err)
	}
}

func TestDeadServer(t *testing.T) {
	useRuntimeDir(t)
	// A record that a crash leaves, of a device that a reboot removed.
	r := control.Record{Name: "disk", UUID: "0-1", ID: 12345, Device: "/dev/ublkb12345",
		Backing: "/dev/nosuch", BlockSize: 512, Blocks: 100}
	if err := r.Write(); err != nil {
		t.Fatal(err)
	}
	var st control.Status
	if err := json.Unmarshal([]byte(mustRun(t, 0, "status", "disk", "--json").out),
		&st); err != nil {
		t.Fatal(err)
	}
	if st.State != control.StateFailed || st.ServerPID != 0 || st.Spare.Devices == nil ||
		st.Metadata.Mirrors == nil {
		t.Errorf("%+v", st)
	}
	for _, dev := range []string{"12345", "ublkb12345", "/dev/ublkb12345", "0-1", "/dev/nosuch"} {
		mustRun(t, 0, "status", dev)
	}
	// The device does not exist, so it is not listed and has no status.
	if out := mustRun(t, 0, "list", "--json").out; strings.TrimSpace(out) != "[]" {
		t.Error(out)
	}
	if res := mustRun(t, exit.Failed, "remap", "list", "disk"); !strings.Contains(res.err,
		"start") {
		t.Error(res.err)
	}
	mustRun(t, exit.Failed, "resume", "disk")
	mustRun(t, exit.Usage, "remap", "add", "disk", "99+2")
}

// TestFlagValues: what a flag cannot take is told in words of the command line.
func TestFlagValues(t *testing.T) {
	for args, want := range map[string]string{
		"import d f --block-size 4K":        `--block-size "4K": want a whole number`,
		"remap retest d --pause 1":          `--pause "1": want a time such as 30s`,
		"scrub start d --interval 9999999h": `--interval "9999999h": want a time such as 30s`,
		"scrub start d --idle=x":            `--idle "x": want true or false`,
	} {
		r := mustRun(t, exit.Usage, strings.Fields(args)...)
		if !strings.Contains(r.err, want) || strings.Count(r.err, "\n") != 1 {
			t.Errorf("%s: %q", args, r.err)
		}
	}
	r := mustRun(t, 3, "check", "--spare-warning", "300")
	if want := `UBLK-REMAP UNKNOWN - --spare-warning "300": want a whole number`; !strings.
		HasPrefix(r.out, want) || r.err != "" {
		t.Errorf("%q %q", r.out, r.err)
	}
}
