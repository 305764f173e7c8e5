package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/blockdev"
	"ublkremap/metadata"
	"ublkremap/test/vmtest"
)

// patch writes bytes into a file.
func patch(t *testing.T, path string, at int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

func contents(t *testing.T, paths ...string) []byte {
	t.Helper()
	var all []byte
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
	return all
}

func copyFile(t *testing.T, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.WriteFile(to, contents(t, from), 0o600); err != nil {
		t.Fatal(err)
	}
	return to
}

// used starts a set once, and commits units as mapped, each in a record of its own. It returns
// where the records are: for each, its offsets on the backing.
func used(t *testing.T, paths []string, units ...uint64) [][]int64 {
	t.Helper()
	var devs []metadata.Device
	for _, p := range paths {
		d, err := blockdev.Open(context.Background(), p, blockdev.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		devs = append(devs, d)
	}
	img, err := metadata.Load(devs)
	if err != nil {
		t.Fatal(err)
	}
	table, err := img.Table()
	if err != nil {
		t.Fatal(err)
	}
	c, err := metadata.NewCommitter(img, table, metadata.Options{Session: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Open(1_700_000_000); err != nil {
		t.Fatal(err)
	}
	metadata.RunOps(c, devs, nil)
	var places [][]int64
	for _, u := range units {
		e := metadata.Entry{Unit: u, Spare: uint32(u), Count: 1, Mask: 1,
			State: metadata.StateMapped, Cause: metadata.CauseWrite}
		if _, err := c.Commit([]metadata.Entry{e}); err != nil {
			t.Fatal(err)
		}
		var at []int64
		for ops := c.Ops(); len(ops) > 0; ops = c.Ops() {
			for _, op := range ops {
				_, err := devs[op.Device].WriteAt(op.Data, op.Offset)
				c.Done(op.ID, err)
				if op.Device == 0 {
					at = append(at, op.Offset)
				}
			}
		}
		for _, r := range c.Results() {
			if r.Outcome != metadata.OutcomeDurable {
				t.Fatal(r)
			}
		}
		places = append(places, at)
		if err := table.Apply(e); err != nil {
			t.Fatal(err)
		}
	}
	return places
}

// mendedText is the part of mended that can be read back.
type mendedText struct {
	Steps, Risks  []string
	Before, After *struct {
		Table    metadata.TableCounts
		Problems []metadata.Problem
	}
	DryRun bool `json:"dry_run"`
}

func mapped(t *testing.T, args ...string) uint64 {
	t.Helper()
	var r struct{ Table metadata.TableCounts }
	if err := json.Unmarshal([]byte(mustRun(t, 0, append([]string{"metadata", "check", "--json"},
		args...)...).out), &r); err != nil {
		t.Fatal(err)
	}
	return r.Table.Mapped
}

func TestMetadataRepair(t *testing.T) {
	useRuntimeDir(t)
	disk := diskFile(t, 24<<20)
	mustRun(t, 0, "create", disk, "--name", "a")
	used(t, []string{disk}, 1, 2, 3)
	if r := mustRun(t, 0, "metadata", "repair", disk); !strings.Contains(r.out, "no problems") ||
		strings.Contains(r.out, "will") {
		t.Error(r.out)
	}
	patch(t, disk, 0, make([]byte, 4096))
	patch(t, disk, metadataRegions(t, disk)[0].Start, bytes.Repeat([]byte{7}, 1<<20))
	before := contents(t, disk)
	if r := mustRun(t, 0, "metadata", "repair", disk, "--dry-run"); !strings.Contains(r.out,
		"would: ") ||
		!strings.Contains(r.out, "warning: superblock at 0 of "+disk+" (backing)") ||
		!strings.Contains(r.out, "mirror at "+fmt.Sprint(metadataRegions(t, disk)[0].Start)+" of "+
			disk) || strings.Contains(r.out, "device 0") {
		t.Error(r.out)
	}
	if r := mustRun(t, exit.Refused, "metadata", "repair", disk); !strings.Contains(r.err,
		"--yes") {
		t.Error(r.err)
	}
	if !bytes.Equal(before, contents(t, disk)) {
		t.Fatal("it was written to")
	}
	var m mendedText
	if err := json.Unmarshal([]byte(mustRun(t, 0, "metadata", "repair", disk, "--yes",
		"--json").out), &m); err != nil {
		t.Fatal(err)
	}
	if len(m.Steps) < 3 || m.After == nil || len(m.After.Problems) != 0 || m.Before == nil ||
		len(m.Before.Problems) == 0 || m.DryRun || m.Risks == nil {
		t.Errorf("%+v", m)
	}
	if r := mustRun(t, 0, "metadata", "check", disk); !strings.Contains(r.out, "no problems") {
		t.Error(r.out)
	}
	if n := mapped(t, disk); n != 3 {
		t.Errorf("%d units are mapped", n)
	}
}

func TestMetadataRepairMissing(t *testing.T) {
	useRuntimeDir(t)
	disk := diskFile(t, 24<<20)
	mustRun(t, 0, "create", disk, "--name", "a")
	places := used(t, []string{disk}, 1, 2, 3, 4)
	for _, at := range places[1] {
		patch(t, disk, at, make([]byte, 4096))
	}
	before := contents(t, disk)
	if r := mustRun(t, exit.Damaged, "metadata", "repair", disk, "--yes"); !strings.Contains(r.err,
		"missing") || !strings.Contains(r.err, "restore") {
		t.Error(r.err)
	}
	if r := mustRun(t, exit.Refused, "metadata", "repair", disk,
		"--accept-loss"); !strings.Contains(r.err, "may read old data") ||
		!strings.Contains(r.err, "--yes") {
		t.Error(r.err)
	}
	mustRun(t, 0, "metadata", "repair", disk, "--accept-loss", "--dry-run")
	if !bytes.Equal(before, contents(t, disk)) {
		t.Fatal("it was written to")
	}
	if r := mustRun(t, 0, "metadata", "repair", disk, "--accept-loss",
		"--yes"); !strings.Contains(r.out, "risk: records after") {
		t.Error(r.out)
	}
	if n := mapped(t, disk); n != 3 {
		t.Errorf("%d units are mapped", n)
	}
}

// TestMetadataRepairMovedDisk: the image of a disk was copied to a larger disk.
func TestMetadataRepairMovedDisk(t *testing.T) {
	useRuntimeDir(t)
	disk := diskFile(t, 24<<20)
	mustRun(t, 0, "create", disk, "--name", "a")
	used(t, []string{disk}, 1, 2)
	patch(t, disk, 0, make([]byte, 128<<10))
	if err := os.Truncate(disk, 30<<20); err != nil {
		t.Fatal(err)
	}
	mustRun(t, exit.NotFound, "metadata", "check", disk)
	if r := mustRun(t, exit.NotFound, "metadata", "repair", disk); !strings.Contains(r.err,
		"--search") {
		t.Error(r.err)
	}
	mustRun(t, exit.NotFound, "metadata", "repair", "--search", diskFile(t, 8<<20))
	mustRun(t, 0, "metadata", "repair", disk, "--search", "--yes")
	if n := mapped(t, disk); n != 2 {
		t.Errorf("%d units are mapped", n)
	}
}

// TestMetadataOtherUse: a disk on which a file system was made since is left alone.
func TestMetadataOtherUse(t *testing.T) {
	useRuntimeDir(t)
	disk, file := diskFile(t, 24<<20), filepath.Join(t.TempDir(), "b")
	mustRun(t, 0, "create", disk, "--name", "a")
	mustRun(t, 0, "metadata", "backup", disk, file)
	patch(t, disk, 0, make([]byte, 128<<10))
	patch(t, disk, 0, []byte("XFSB"))
	before := contents(t, disk)
	for _, args := range [][]string{
		{"check", disk}, {"repair", disk, "--yes"}, {"backup", disk, file + "2"},
	} {
		if r := mustRun(t, exit.Refused, append([]string{"metadata"},
			args...)...); !strings.Contains(r.err, "xfs") {
			t.Error(r.err)
		}
	}
	if !bytes.Equal(before, contents(t, disk)) {
		t.Fatal("it was written to")
	}
}

func TestMetadataBackup(t *testing.T) {
	vmtest.OnOneKernel(t)
	useRuntimeDir(t)
	disk, spare, other := diskFile(t, 24<<20), diskFile(t, 16<<20), diskFile(t, 24<<20)
	dir := t.TempDir()
	file := filepath.Join(dir, "a.backup")
	mustRun(t, 0, "create", disk, "--spare-device", spare, "--name", "a")
	mustRun(t, 0, "create", other, "--name", "b")
	used(t, []string{disk, spare}, 1, 2)
	before := contents(t, disk, spare)
	var b struct {
		Name, File string
		Devices    []struct{ UUID string }
		Table      metadata.TableCounts
		Live       bool
		Bytes      int64
		Position   metadata.Position
	}
	if err := json.Unmarshal([]byte(mustRun(t, 0, "metadata", "backup", disk, file,
		"--spare-device", spare, "--json").out), &b); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(file)
	if err != nil || st.Mode().Perm() != 0o600 || st.Size() != b.Bytes {
		t.Error(st, err)
	}
	if b.Name != "a" || len(b.Devices) != 2 || b.Table.Mapped != 2 || b.Live || b.File != file ||
		b.Position == (metadata.Position{}) {
		t.Errorf("%+v", b)
	}
	if r := mustRun(t, 0, "metadata", "backup", disk, "-", "--spare-device",
		spare); int64(len(r.out)) != b.Bytes {
		t.Errorf("%d bytes", len(r.out))
	}
	// a newer one takes its place
	mustRun(t, 0, "metadata", "backup", disk, file, "--spare-device", spare)
	if !bytes.Equal(before, contents(t, disk, spare)) {
		t.Fatal("a backup wrote to the disk")
	}
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte("something"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		code int
		args []string
		text string
	}{
		{exit.Usage, []string{disk, "-", "--json"}, "standard output"},
		{exit.Refused, []string{other, file}, "another set"},
		{exit.Refused, []string{other, text}, "no backup"},
		{exit.Refused, []string{other, other}, "device of the set"},
		{exit.Refused, []string{other, dir}, "regular"},
		{exit.Refused, []string{other, "/dev/null"}, "regular"},
		{exit.NotFound, []string{other, "/no/such/dir/file"}, "/no/such/dir"},
		{exit.NotFound, []string{"/no/such/disk", file}, "/no/such/disk"},
		{exit.NotFound, []string{disk, file}, "spare device " + b.Devices[1].UUID},
		{exit.NotFound, []string{text, file}, "text"},
	} {
		if r := mustRun(t, c.code, append([]string{"metadata", "backup"},
			c.args...)...); !strings.Contains(r.err, c.text) {
			t.Errorf("%v: %s", c.args, r.err)
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 2 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestMetadataRestore(t *testing.T) {
	vmtest.OnOneKernel(t)
	useRuntimeDir(t)
	disk, other := diskFile(t, 24<<20), diskFile(t, 24<<20)
	file := filepath.Join(t.TempDir(), "backup")
	mustRun(t, 0, "create", disk, "--name", "a")
	mustRun(t, 0, "create", other, "--name", "a")
	used(t, []string{disk}, 1, 2)
	mustRun(t, 0, "metadata", "backup", disk, file)
	if r := mustRun(t, 0, "metadata", "restore", disk, file, "--yes"); strings.Contains(r.out,
		"did") || !strings.Contains(r.out, "nothing to restore") {
		t.Error(r.out)
	}
	used(t, []string{disk}, 3)
	before := contents(t, disk, other)
	for _, c := range []struct {
		code int
		args []string
		text string
	}{
		{exit.Refused, []string{disk, file}, "out of date"},
		{exit.Refused, []string{other, file}, "backing of \"a\""},
		{exit.Refused, []string{other, file, "--force", "--yes"}, "another set"},
		{exit.Damaged, []string{disk, disk}, "not a whole backup"},
		{exit.NotFound, []string{disk, file + "x"}, "no such file"},
		{exit.NotFound, []string{disk + "x", file}, "no such file"},
	} {
		if r := mustRun(t, c.code, append([]string{"metadata", "restore"},
			c.args...)...); !strings.Contains(r.err, c.text) {
			t.Errorf("%v: %s", c.args, r.err)
		}
	}
	if !bytes.Equal(before, contents(t, disk, other)) {
		t.Fatal("it was written to")
	}

	// All checkpoints are damaged. The backup and the log have everything.
	regions := metadataRegions(t, disk)
	sb := superblockOf(t, disk)
	for _, r := range regions {
		patch(t, disk, r.Start, make([]byte, 2*sb.SlotBytes))
	}
	mustRun(t, exit.Damaged, "metadata", "check", disk)
	mustRun(t, exit.Damaged, "metadata", "repair", disk, "--yes")
	mustRun(t, 0, "metadata", "restore", disk, file, "--dry-run")
	mustRun(t, exit.Refused, "metadata", "restore", disk, file)
	if r := mustRun(t, 0, "metadata", "restore", disk, file, "--yes"); !strings.Contains(r.out,
		"no problems") || strings.Contains(r.out, "risk") {
		t.Error(r.out)
	}
	if n := mapped(t, disk); n != 3 {
		t.Errorf("%d units are mapped", n)
	}

	// Everything is gone, including the superblocks.
	for _, r := range regions {
		patch(t, disk, r.Start, make([]byte, r.Length))
	}
	patch(t, disk, 0, make([]byte, 128<<10))
	patch(t, disk, 24<<20-64<<10, make([]byte, 64<<10))
	if r := mustRun(t, exit.Refused, "metadata", "restore", disk, file,
		"--dry-run"); !strings.Contains(r.out, "would: ") || !strings.Contains(r.out, "risk: ") ||
		!strings.Contains(r.err, "--force") {
		t.Error(r.out, r.err)
	}
	if r := mustRun(t, 0, "metadata", "restore", disk, file, "--dry-run",
		"--force"); !strings.Contains(r.out, "would: ") {
		t.Error(r.out)
	}
	if r := mustRun(t, exit.Refused, "metadata", "restore", disk, file,
		"--yes"); !strings.Contains(r.err, "nothing on it says") ||
		!strings.Contains(r.err, "--force") {
		t.Error(r.err)
	}
	if r := mustRun(t, exit.Refused, "metadata", "restore", disk, file,
		"--force"); !strings.Contains(r.err, "--yes") {
		t.Error(r.err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out, errs bytes.Buffer
	if code := run(context.Background(), []string{"metadata", "restore", disk, "-", "--force",
		"--yes", "--json"}, stdio{in: f, out: &out, err: &errs}); code != 0 {
		t.Fatal(code, errs.String())
	}
	var m mendedText
	if err := json.Unmarshal(out.Bytes(), &m); err != nil || len(m.Risks) == 0 || m.After == nil ||
		m.After.Table.Mapped != 2 {
		t.Errorf("%v, %+v", err, m)
	}
	if n := mapped(t, disk); n != 2 {
		t.Errorf("%d units are mapped", n)
	}
}

// TestMetadataRestoreDump: the output of dump is restored as a backup is.
func TestMetadataRestoreDump(t *testing.T) {
	useRuntimeDir(t)
	disk, other := diskFile(t, 24<<20), diskFile(t, 24<<20)
	mustRun(t, 0, "create", disk, "--name", "a")
	mustRun(t, 0, "create", other, "--name", "b")
	used(t, []string{disk}, 1, 2)
	old := filepath.Join(t.TempDir(), "old")
	keep := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	keep(old, mustRun(t, 0, "metadata", "dump", disk).out)
	used(t, []string{disk}, 3)
	file, cut := old+".new", old+".cut"
	dump := mustRun(t, 0, "metadata", "dump", disk).out
	keep(file, dump)
	keep(cut, dump[:len(dump)-9])
	before := contents(t, disk, other)
	for _, c := range []struct {
		code int
		args []string
		text string
	}{
		{exit.Refused, []string{disk, old}, "out of date"},
		{exit.Refused, []string{other, file, "--force", "--yes"}, "another set"},
		{exit.Damaged, []string{disk, cut}, "cut off"},
	} {
		if r := mustRun(t, c.code, append([]string{"metadata", "restore"},
			c.args...)...); !strings.Contains(r.err, c.text) {
			t.Errorf("%v: %s", c.args, r.err)
		}
	}
	if r := mustRun(t, 0, "metadata", "restore", disk, file, "--yes"); strings.Contains(r.out,
		"did") {
		t.Error(r.out)
	}
	if !bytes.Equal(before, contents(t, disk, other)) {
		t.Fatal("it was written to")
	}
	sb := superblockOf(t, disk)
	for _, r := range metadataRegions(t, disk) {
		patch(t, disk, r.Start, make([]byte, r.Length))
	}
	patch(t, disk, 0, make([]byte, 128<<10))
	patch(t, disk, sb.Devices[0].Size-64<<10, make([]byte, 64<<10))
	mustRun(t, exit.NotFound, "metadata", "check", disk)
	if r := mustRun(t, exit.Refused, "metadata", "restore", disk, file,
		"--yes"); !strings.Contains(r.err, "--force") {
		t.Error(r.err)
	}
	var out, errs bytes.Buffer
	if code := run(context.Background(), []string{"metadata", "restore", disk, "-", "--force",
		"--yes"}, stdio{in: strings.NewReader(dump), out: &out, err: &errs}); code != 0 {
		t.Fatal(code, errs.String())
	}
	if n := mapped(t, disk); n != 3 {
		t.Errorf("%d units are mapped", n)
	}
}

func superblockOf(t *testing.T, path string) *metadata.Superblock {
	t.Helper()
	d, err := blockdev.Open(context.Background(), path, blockdev.Options{ReadOnly: true,
		Shared: true})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	sb, err := metadata.Probe(d)
	if err != nil {
		t.Fatal(err)
	}
	return sb
}

// TestMetadataBusy: nothing is read or written while another process uses the disk.
func TestMetadataBusy(t *testing.T) {
	useRuntimeDir(t)
	disk, file := diskFile(t, 24<<20), filepath.Join(t.TempDir(), "backup")
	mustRun(t, 0, "create", disk, "--name", "a")
	mustRun(t, 0, "metadata", "backup", disk, file)
	d, err := blockdev.Open(context.Background(), disk, blockdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, args := range [][]string{{"repair", disk, "--yes"}, {"repair", disk, "--dry-run"},
		{"restore", disk, file, "--yes"}, {"backup", disk, file}} {
		if r := mustRun(t, exit.Refused, append([]string{"metadata"},
			args...)...); !strings.Contains(r.err, "in use") {
			t.Error(r.err)
		}
	}
}

// TestMetadataSpareDevices: every verb refuses a wrong spare device, says why, and writes nothing.
func TestMetadataSpareDevices(t *testing.T) {
	vmtest.Long(t)
	useRuntimeDir(t)
	disk, spare := diskFile(t, 24<<20), diskFile(t, 16<<20)
	disk2, spare2 := diskFile(t, 24<<20), diskFile(t, 16<<20)
	file := filepath.Join(t.TempDir(), "backup")
	mustRun(t, 0, "create", disk, "--spare-device", spare, "--name", "a")
	mustRun(t, 0, "create", disk2, "--spare-device", spare2, "--name", "b")
	used(t, []string{disk, spare}, 1)
	oldDisk, oldSpare := copyFile(t, disk), copyFile(t, spare)
	used(t, []string{disk, spare}, 2)
	mustRun(t, 0, "metadata", "backup", disk, file, "--spare-device", spare)
	used(t, []string{disk, spare}, 3)
	clone, formatted, blank := copyFile(t, spare), copyFile(t, spare), diskFile(t, 16<<20)
	patch(t, formatted, 0, make([]byte, 128<<10))
	patch(t, formatted, 0, []byte("XFSB"))
	small := copyFile(t, spare)
	if err := os.Truncate(small, 12<<20); err != nil {
		t.Fatal(err)
	}
	id := superblockOf(t, spare).Devices[1].UUID.String()
	backing := superblockOf(t, disk).Devices[0].UUID.String()
	all := []string{disk, spare, disk2, spare2, oldDisk, oldSpare, clone, formatted, blank, small}
	before := contents(t, all...)
	for _, c := range []struct {
		what   string
		disk   string
		spares []string
		code   int
		texts  []string
		verbs  []string // empty: all
	}{
		{"missing", disk, nil, exit.NotFound, []string{id, "16 MiB", "--spare-device"}, nil},
		{"another set's", disk, []string{spare2}, exit.Refused,
			[]string{id, "belongs to another set", `"b"`, spare2}, nil},
		{"another set's backing", disk, []string{disk2}, exit.Refused,
			[]string{id, "the backing of", `"b"`}, nil},
		{"swapped", disk2, []string{spare}, exit.Refused, []string{id, `"a"`, `"b"`},
			[]string{"check", "repair"}},
		{"the wrong way round", spare, []string{disk}, exit.Refused,
			[]string{"spare device of \"a\"", "which is " + disk}, nil},
		{"stale", disk, []string{oldSpare}, exit.Refused, []string{id, "out of date", "epoch 2",
			"epoch 4", oldSpare, "last started 2023"}, nil},
		{"a backing that was put back", oldDisk, []string{spare}, exit.Refused,
			[]string{backing, "epoch 2", "epoch 4"}, []string{"check", "repair"}},
		{"given with its clone", disk, []string{spare, clone}, exit.Refused, []string{clone}, nil},
		{"given twice", disk, []string{disk}, exit.Refused, []string{disk}, nil},
		{"formatted", disk, []string{formatted}, exit.NotFound, []string{id, "xfs"},
			[]string{"check"}},
		{"formatted", disk, []string{formatted}, exit.Refused, []string{"xfs"}, []string{"repair"}},
		{"blank", disk, []string{blank}, exit.NotFound, []string{id, "blank"}, []string{"check"}},
		{"blank", disk, []string{blank}, exit.Damaged, []string{id, "lacks the newest record"},
			[]string{"repair"}},
		{"too small", disk, []string{small}, exit.Refused, []string{id, "16 MiB", "12,582,912"},
			nil},
		{"one too many", disk, []string{spare, blank}, exit.Refused,
			[]string{"2 spare devices were given"}, nil},
	} {
		for _, verb := range []string{"check", "repair", "restore"} {
			if len(c.verbs) > 0 && !slices.Contains(c.verbs, verb) {
				continue
			}
			args := []string{"metadata", verb, c.disk}
			if verb == "restore" {
				args = append(args, file)
			}
			if verb != "check" {
				args = append(args, "--yes")
			}
			for _, s := range c.spares {
				args = append(args, "--spare-device", s)
			}
			r := ublkRemap(t, args...)
			if r.code != c.code {
				t.Errorf("%s: %s: exit code %d, want %d: %s", c.what, verb, r.code, c.code, r.err)
			}
			for _, text := range c.texts {
				if !strings.Contains(r.err, text) {
					t.Errorf("%s: %s: %q does not say %q", c.what, verb, r.err, text)
				}
			}
		}
	}
	if !bytes.Equal(before, contents(t, all...)) {
		t.Fatal("something was written to")
	}
	// A spare device that lost its superblocks, and nothing else.
	patch(t, spare, 0, make([]byte, 128<<10))
	mustRun(t, exit.NotFound, "metadata", "check", disk, "--spare-device", spare)
	mustRun(t, 0, "metadata", "repair", disk, "--spare-device", spare, "--yes")
	patch(t, disk, 0, make([]byte, 128<<10))
	mustRun(t, 0, "metadata", "repair", disk, "--spare-device", spare, "--yes")
	if n := mapped(t, disk, "--spare-device", spare); n != 3 {
		t.Errorf("%d units are mapped", n)
	}
}
