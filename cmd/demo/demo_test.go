package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func TestParseRuns(t *testing.T) {
	got, err := parseRuns("3 1\n10 3\n")
	if err != nil || !slices.Equal(got, []int64{3, 10, 11, 12}) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"3\n", "3 0\n", "-1 2\n", "x 1\n", "\n"} {
		if got, err := parseRuns(bad); err == nil {
			t.Errorf("%q gave %v", bad, got)
		}
	}
}

func TestSampleIsSpread(t *testing.T) {
	all := make([]int64, 1000)
	for i := range all {
		all[i] = int64(i)
	}
	got := sample(all, 10)
	if len(got) != 10 || got[0] != 0 || got[9] != 900 {
		t.Errorf("%v", got)
	}
	if got := sample(all[:7], 10); len(got) != 7 {
		t.Errorf("%v", got)
	}
}

func TestCensus(t *testing.T) {
	// The head is 8 sectors; data to sector 100; then the displaced head,
	// spare units, and a mirror.
	const doc = `{"superblocks": [{"error": "x"}, {"superblock": {
		"head_bytes": 4096, "exported_bytes": 51200, "regions": [
		{"kind": "mirror", "start": 1024, "length": 3072},
		{"kind": "displaced-head", "start": 51200, "length": 4096},
		{"kind": "spare", "start": 55296, "length": 4096},
		{"kind": "mirror", "start": 59392, "length": 3072}]}}]}`
	var d dump
	if err := json.Unmarshal([]byte(doc), &d); err != nil {
		t.Fatal(err)
	}
	sb, err := d.superblock()
	if err != nil {
		t.Fatal(err)
	}
	c, err := sb.sort([]int64{0, 3, 8, 99, 100, 107, 108, 115, 116, 125}, 512)
	if err != nil {
		t.Fatal(err)
	}
	want := map[int64]int64{8 * 512: 8, 99 * 512: 99, 0: 100, 7 * 512: 107}
	if fmt.Sprint(c.exported) != fmt.Sprint(want) || c.spare != 2 || c.management != 4 {
		t.Errorf("%+v, not %v, 2 spare, 4 under records", c, want)
	}
	if _, err := (&dump{}).superblock(); err == nil {
		t.Error("a dump without a superblock has one")
	}
}

func TestSpareForCountsUnits(t *testing.T) {
	// Sectors 1, 2 and 7 share a unit; 8 has the next one.
	if got := spareFor([]int64{1, 2, 7, 8}, 512); got != 3*unitSize {
		t.Errorf("%d bytes", got)
	}
	if got := spareFor([]int64{1, 2, 7, 8}, 4096); got != 6*unitSize {
		t.Errorf("%d bytes", got)
	}
}

func TestOneWayToChooseBadSectors(t *testing.T) {
	if o, err := parse(nil); err != nil || o.count != "100" {
		t.Errorf("%+v, %v", o, err)
	}
	if o, err := parse([]string{"-p", "1"}); err != nil || o.count != "" {
		t.Errorf("%+v, %v", o, err)
	}
	for _, args := range [][]string{{"-c", "1", "-p", "1"}, {"-f", "x", "-p", "1"}, {"stray"},
		{"-c"}} {
		if _, err := parse(args); err == nil {
			t.Errorf("%q were accepted", args)
		}
	}
}

func TestInventedTreeRepeats(t *testing.T) {
	const total = 4 << 20
	take := func(seed uint64) []document {
		dir := t.TempDir()
		if err := inventTree(dir, total, seed); err != nil {
			t.Fatal(err)
		}
		docs, err := takeStock(dir)
		if err != nil {
			t.Fatal(err)
		}
		return docs
	}
	one := take(1)
	if n := bytesIn(one); n > total || n < total/2 {
		t.Errorf("%d bytes in %d files, %d were asked for", n, len(one), total)
	}
	if !slices.Equal(one, take(1)) {
		t.Error("the same seed gave another tree")
	}
	if slices.Equal(one, take(2)) {
		t.Error("another seed gave the same tree")
	}
}

func TestCompareFindsWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	if err := inventTree(dir, 1<<20, 1); err != nil {
		t.Fatal(err)
	}
	docs, err := takeStock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if good, wrong := compare(dir, docs); good != len(docs) || len(wrong) != 0 {
		t.Fatalf("%d of %d good, %v", good, len(docs), wrong)
	}
	largest := slices.MaxFunc(docs, func(a, b document) int { return int(a.size - b.size) })
	path := filepath.Join(dir, largest.path)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := rand.IntN(len(b))
	t.Logf("changing byte %d of %s", at, largest.path)
	b[at] ^= 1
	for _, spoil := range []struct {
		how string
		do  func() error
	}{
		{"other contents", func() error { return os.WriteFile(path, b, 0o600) }},
		{"bytes instead of", func() error { return os.Truncate(path, largest.size-1) }},
		{"no such file", func() error { return os.Remove(path) }},
	} {
		if err := spoil.do(); err != nil {
			t.Fatal(err)
		}
		good, wrong := compare(dir, docs)
		if good != len(docs)-1 || len(wrong) != 1 || !strings.Contains(wrong[0], spoil.how) {
			t.Errorf("%s: %d of %d good, %v", spoil.how, good, len(docs), wrong)
		}
	}
}

// smallDisk takes so many bytes, and then none.
type smallDisk struct {
	bytes.Buffer
	room int
	then error
}

func (d *smallDisk) Write(p []byte) (int, error) {
	n := min(len(p), d.room)
	d.room -= n
	_, _ = d.Buffer.Write(p[:n])
	if n < len(p) {
		return n, d.then
	}
	return n, nil
}

func TestPourHashesWhatWasTaken(t *testing.T) {
	const room = 3<<20 + 777
	calls := 0
	count := func() { calls++ }
	disk := &smallDisk{room: room, then: &os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}}
	h := sha256.New()
	n, err := pour(disk, h, contents(1, "x"), count)
	if err != nil || n != room || calls != 3 ||
		sha256.Sum256(disk.Bytes()) != [sha256.Size]byte(h.Sum(nil)) {
		t.Errorf("%d bytes in %d pieces, %v, hash %x", n, calls, err, h.Sum(nil))
	}
	disk = &smallDisk{room: 10, then: syscall.EIO}
	if _, err := pour(disk, sha256.New(), contents(1, "x"), count); !errors.Is(err, syscall.EIO) {
		t.Errorf("an I/O error was taken for a full disk: %v", err)
	}
	disk = &smallDisk{room: 9 << 20}
	const length = 5<<20 + 3
	n, err = pour(disk, sha256.New(), io.LimitReader(contents(1, "x"), length), count)
	if err != nil || n != length || disk.Len() != length {
		t.Errorf("%d of %d bytes, %v", n, length, err)
	}
}

func TestWriteReturnsWhatIsInTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	doc, err := write(path, os.O_SYNC, io.LimitReader(contents(1, "file"), 2<<20+5), func() {})
	if err != nil {
		t.Fatal(err)
	}
	if good, wrong := compare(filepath.Dir(path), []document{doc}); good != 1 || doc.size != 2<<20+
		5 {
		t.Errorf("%d bytes, %v", doc.size, wrong)
	}
	if _, err := write(path, 0, contents(1, "file"), func() {}); !errors.Is(err, os.ErrExist) {
		t.Errorf("a file that was there: %v", err)
	}
}

// What the file system says about a file must cover it.
func TestExtentsCoverTheFile(t *testing.T) {
	f, err := os.CreateTemp(".", "extents-*.tmp")
	if err != nil {
		t.Skipf("the package's directory cannot be written: %v", err)
	}
	defer func() { _ = os.Remove(f.Name()) }()
	if _, err := f.Write(bytes.Repeat([]byte{1}, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	extents, err := extentsOf(f.Name())
	if errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.ENOTTY) {
		t.Skipf("this file system has no extent map: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	var n int64
	for _, x := range extents {
		n += x.length
	}
	if n < 1<<20 {
		t.Errorf("%v: %d bytes", extents, n)
	}
}

func TestChecksAreCounted(t *testing.T) {
	var out bytes.Buffer
	d := newShow(t.Context(), options{}, &out)
	d.census = &census{}
	d.check(true, "one")
	if !d.conclude() {
		t.Error("failed though every check passed")
	}
	d.later(func(context.Context) error { return errors.New("stuck") })
	d.undo()
	if d.conclude() || !strings.Contains(out.String(), "[FAILED] clearing up: stuck") {
		t.Errorf("passed though clearing up failed: %s", out.String())
	}
}

func TestCommandReportsWhatWentWrong(t *testing.T) {
	out, _, err := command(t.Context(), "sh", "-c", "echo yes; echo why >&2; exit 3")
	if out != "yes\n" || err == nil || !strings.Contains(err.Error(), "why") ||
		!strings.Contains(err.Error(), "3") {
		t.Errorf("%q, %v", out, err)
	}
	if _, _, err := command(t.Context(), "sh", "-c", "sleep 8 & exit 0"); err == nil ||
		!strings.Contains(err.Error(), "holds its output") {
		t.Errorf("a command that left its output open: %v", err)
	}
}
