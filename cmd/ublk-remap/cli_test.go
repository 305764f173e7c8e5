package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/blockdev"
	"ublkremap/internal/control"
	"ublkremap/metadata"
)

// result is what a run of the command gave.
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
}

// diskFile makes a sparse file that can do direct I/O, or skips.
func diskFile(t *testing.T, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	d, err := blockdev.Open(context.Background(), path, blockdev.Options{})
	if errors.Is(err, blockdev.ErrNoDirectIO) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
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
	for want, args := range map[string][]string{
		"create: BACKING is missing; see: ublk-remap create --help":                                {"create"},
		"metadata restore: FILE|- is missing; see: ublk-remap metadata restore --help":             {"metadata", "restore", "x"},
		"remap add: DEV|NAME and BLOCK[+COUNT]… are missing; see: ublk-remap remap add --help":     {"remap", "add"},
		`list: "x" is too much: it takes no argument; see: ublk-remap list --help`:                 {"list", "x"},
		`metadata backup: "c" is too much: it takes BACKING|DEV FILE|-; see: ublk-remap metadata `: {"metadata", "backup", "a", "b", "c"},
	} {
		if r := ublkRemap(t, args...); !strings.Contains(r.err, want) {
			t.Errorf("%q: %q", args, r.err)
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

func TestEmptyLists(t *testing.T) {
	useRuntimeDir(t)
	for _, args := range [][]string{{"list", "--json"}, {"status", "--json"}} {
		if r := mustRun(t, 0, args...); strings.TrimSpace(r.out) != "[]" {
			t.Errorf("%v: %q", args, r.out)
		}
	}
	if r := mustRun(t, 0, "list"); r.out != "" {
		t.Error(r.out)
	}
}

func TestVersion(t *testing.T) {
	var v map[string]any
	if err := json.Unmarshal([]byte(mustRun(t, 0, "version", "--json").out), &v); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"version", "go", "os", "arch", "format"} {
		if v[name] == nil {
			t.Errorf("no %s in %v", name, v)
		}
	}
	if r := mustRun(t, 0, "version"); !strings.HasPrefix(r.out, "ublk-remap ") {
		t.Error(r.out)
	}
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if r := mustRun(t, 0, "completion", shell); !strings.Contains(r.out, "ublk-remap") {
			t.Errorf("%s: %.80q", shell, r.out)
		}
	}
}

func TestCreate(t *testing.T) {
	useRuntimeDir(t)
	disk := diskFile(t, 64<<20)
	check := func() {
		t.Helper()
		if r := mustRun(t, 0, "metadata", "check", disk); !strings.Contains(r.out, "no problems") {
			t.Error(r.out)
		}
	}

	// A dry run changes nothing.
	before, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	var plan created
	if err := json.Unmarshal([]byte(mustRun(t, 0, "create", disk, "--dry-run", "--json", "--name",
		"a", "--spare", "2MiB").out), &plan); err != nil {
		t.Fatal(err)
	}
	if !plan.DryRun || plan.Name != "a" || plan.SpareBytes != 2<<20 || plan.SpareUnits != 512 {
		t.Errorf("%+v", plan)
	}
	after, err := os.ReadFile(disk)
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("a dry run changed the disk (%v)", err)
	}

	// A blank disk needs no question.
	var c created
	if err := json.Unmarshal([]byte(mustRun(t, 0, "create", disk, "--json", "--name", "a",
		"--spare", "2MiB").out), &c); err != nil {
		t.Fatal(err)
	}
	if c.DryRun || c.SizeBlocks != plan.SizeBlocks || c.SpareUnits != 512 ||
		c.SizeBytes != int64(c.SizeBlocks)*int64(c.BlockSize) || len(c.Replaced) != 0 {
		t.Errorf("%+v", c)
	}
	check()

	// What is there is not overwritten unasked.
	if r := mustRun(t, exit.Refused, "create", disk); !strings.Contains(r.err, `"a"`) ||
		!strings.Contains(r.err, "--force") {
		t.Error(r.err)
	}
	if r := mustRun(t, exit.Refused, "create", disk, "--force"); !strings.Contains(r.err, "--yes") {
		t.Error(r.err)
	}
	mustRun(t, 0, "create", disk, "--force", "--dry-run")
	check()
	mustRun(t, 0, "create", disk, "--force", "--yes", "--name", "b", "--spare", "1%")
	check()
	if sb := mustRun(t, 0, "metadata", "dump", disk); !strings.Contains(sb.out, `"name": "b"`) {
		t.Errorf("%.300s", sb.out)
	}
}

func TestCreateRefusesWhatIsThere(t *testing.T) {
	useRuntimeDir(t)
	for _, c := range []struct {
		what string
		at   int64
		mark string
	}{
		{"btrfs", 65600, "_BHRfS_M"}, {"xfs", 0, "XFSB"}, {"gpt backup", 64<<20 - 512, "EFI PART"},
		{"linux_raid_member 1.0", 64<<20 - 8192, "\xfc\x4e\x2b\xa9\x01\x00\x00\x00"},
	} {
		disk := diskFile(t, 64<<20)
		f, err := os.OpenFile(disk, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte(c.mark), c.at); err != nil {
			t.Fatal(err)
		}
		if r := mustRun(t, exit.Refused, "create", disk); !strings.Contains(r.err, c.what) {
			t.Error(r.err)
		}
		mustRun(t, 0, "create", disk, "--force", "--yes")
		if found := blockdev.Detect(f, 64<<20); len(found.Signatures) != 0 {
			t.Errorf("%s: left behind: %v", c.what, found.Signatures)
		}
		f.Close()
		mustRun(t, 0, "metadata", "check", disk)
	}
}

func TestCreateArguments(t *testing.T) {
	useRuntimeDir(t)
	disk := diskFile(t, 64<<20)
	list := filepath.Join(t.TempDir(), "bad")
	if err := os.WriteFile(list, []byte("12\nx\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"--spare", "x"}, {"--spare", "0"}, {"--spare", "1%1"}, {"--spare", "5000"},
		{"--spare", "1GiB"}, {"--name", "a b"},
		{"--name", strings.Repeat("x", 65)}, {"--name", "../x"}, {"--badblocks", list},
		{"--badblocks-size", "77", "--badblocks", list},
	} {
		if r := mustRun(t, exit.Usage, append([]string{"create", disk}, args...)...); r.out != "" {
			t.Errorf("%v: %s", args, r.out)
		}
	}
	mustRun(t, exit.Usage, "create", diskFile(t, 1<<20))
	mustRun(t, exit.Usage, "create", "/dev/null")
	mustRun(t, exit.NotFound, "metadata", "check", disk)
}

func TestCreateWithSpareDevice(t *testing.T) {
	useRuntimeDir(t)
	disk, spare, other := diskFile(t, 64<<20), diskFile(t, 16<<20), diskFile(t, 16<<20)
	var c created
	if err := json.Unmarshal([]byte(mustRun(t, 0, "create", disk, "--spare-device", spare,
		"--json").out), &c); err != nil {
		t.Fatal(err)
	}
	if c.SizeBytes != 64<<20 || c.SpareDevice != spare {
		t.Errorf("%+v", c)
	}
	mustRun(t, 0, "metadata", "check", disk, "--spare-device", spare)
	// The spare device is no backing, and an unknown one no spare device.
	mustRun(t, exit.Refused, "metadata", "check", spare)
	mustRun(t, exit.NotFound, "metadata", "check", disk, "--spare-device", other)
	mustRun(t, exit.Refused, "create", disk, "--spare-device", spare)
}

func TestCreateWithBadBlocks(t *testing.T) {
	useRuntimeDir(t)
	disk := diskFile(t, 64<<20)
	list := filepath.Join(t.TempDir(), "bad")
	// In blocks of 4 KiB: two in the data, one in the head (metadata).
	if err := os.WriteFile(list, []byte("# found by badblocks\n1000\n1001\n40\n"),
		0o600); err != nil {
		t.Fatal(err)
	}
	var c created
	if err := json.Unmarshal([]byte(mustRun(t, 0, "create", disk, "--badblocks", list,
		"--badblocks-size", "4096", "--json").out), &c); err != nil {
		t.Fatal(err)
	}
	if c.BadBlocks != uint64(8192/c.BlockSize) {
		t.Errorf("%+v", c)
	}
	var r struct{ Table metadata.TableCounts }
	if err := json.Unmarshal([]byte(mustRun(t, 0, "metadata", "check", disk, "--json").out),
		&r); err != nil {
		t.Fatal(err)
	}
	if r.Table.Pending != c.BadBlocks {
		t.Errorf("%+v", r.Table)
	}
}

// TestCreateRefusesBeforeItChanges: whatever a list is refused for, the disk is
// as it was, also with --force.
func TestCreateRefusesBeforeItChanges(t *testing.T) {
	useRuntimeDir(t)
	disk, spare := diskFile(t, 64<<20), diskFile(t, 32<<20)
	for i, path := range []string{disk, spare} {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		text := bytes.Repeat([]byte{byte(i + 1), 0x5a}, 1<<20)
		for at := int64(0); at < 32<<20; at += 2 << 20 {
			if _, err := f.WriteAt(text, at); err != nil {
				t.Fatal(err)
			}
		}
		f.Close()
	}
	list := func(step, count int) string {
		var b strings.Builder
		for i := range count {
			fmt.Fprintln(&b, 4096+i*step)
		}
		path := filepath.Join(t.TempDir(), "bad")
		if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	sum := func() (sums [2][32]byte) {
		for i, path := range []string{disk, spare} {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			sums[i] = sha256.Sum256(b)
		}
		return sums
	}
	before := sum()
	for _, args := range [][]string{
		// more entries than a checkpoint holds
		{"--badblocks", list(17, 5000), "--badblocks-size", "512"},
		{"--badblocks", list(1, 20), "--badblocks-size", "65536"}, // past the end
		{"--badblocks", filepath.Join(t.TempDir(), "no-such-list")},
		{"--spare", "63MiB"},
		{"--spare-device", spare, "--spare", "1GiB"},
		{"--name", "a b"},
	} {
		r := ublkRemap(t, append([]string{"create", disk, "--force", "--yes"}, args...)...)
		if r.code != exit.Usage && r.code != exit.NotFound {
			t.Errorf("%v: exit code %d: %s", args, r.code, r.err)
		}
		if sum() != before {
			t.Fatalf("%v: refused, and the disks were changed", args)
		}
	}
}

// TestCreateWithADeadZone: a disk with more bad units than spare units can be used, and it is
// said what that means; what is advised helps.
func TestCreateWithADeadZone(t *testing.T) {
	useRuntimeDir(t)
	disk, zone := diskFile(t, 64<<20), filepath.Join(t.TempDir(), "bad")
	if err := os.WriteFile(zone, []byte("4096-6000\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"create", disk, "--force", "--yes", "--badblocks", zone, "--badblocks-size",
		"4096"}
	r := mustRun(t, 0, args...)
	_, rest, ok := strings.Cut(r.err, "--spare ")
	advised, _, _ := strings.Cut(rest, ",")
	if !ok || !strings.Contains(r.err, "will fail") {
		t.Fatal(r.err)
	}
	mustRun(t, 0, "metadata", "check", disk)
	if r := mustRun(t, 0, append(args, "--spare", advised)...); strings.Contains(r.err,
		"will fail") {
		t.Error(r.err)
	}
	mustRun(t, 0, "metadata", "check", disk)
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
	// Both mirrors, behind the superblocks that name them.
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
	// A record as a crash leaves it, of a device that a reboot took away.
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
	// It is not there, so it is not listed, and cannot be asked.
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

func TestParseRanges(t *testing.T) {
	got, err := parseRanges([]string{"0", "5+3", "99"}, 100)
	want := []control.Range{{Block: 0, Count: 1}, {Block: 5, Count: 3}, {Block: 99, Count: 1}}
	if err != nil || len(got) != 3 || got[0] != want[0] || got[1] != want[1] || got[2] != want[2] {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "x", "-1", "1+", "+1", "1+0", "100", "99+2", "0+101",
		"1+18446744073709551615", "18446744073709551616", "1 +2"} {
		if got, err := parseRanges([]string{bad}, 100); !errors.Is(err, exit.ErrUsage) {
			t.Errorf("%q: %v, %v", bad, got, err)
		}
	}
}

func TestWithFlag(t *testing.T) {
	for _, c := range [][2]string{
		{"start x", "start x --f"}, {"--log-level info start x", "--log-level info start x --f"},
		{"start -- -x", "start --f -- -x"},
	} {
		args := strings.Fields(c[0])
		if got := strings.Join(withFlag(args, "--f"), " "); got != c[1] ||
			strings.Join(args, " ") != c[0] {
			t.Errorf("%q became %q", c[0], got)
		}
	}
}
