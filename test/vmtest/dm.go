package vmtest

import (
	"cmp"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// Extent is a run of sectors of 512 bytes.
type Extent struct{ Start, Count int64 }

// DM is a device-mapper device.
type DM struct {
	Name string
	// Path is /dev/mapper/NAME.
	Path    string
	removed bool
}

var dmCount atomic.Int64

// NewDM makes a device-mapper device with this table (see dmsetup(8)).
func NewDM(t testing.TB, table string) *DM {
	t.Helper()
	return newDM(t, table)
}

// NewReadOnlyDM makes one that cannot be written.
func NewReadOnlyDM(t testing.TB, table string) *DM {
	t.Helper()
	return newDM(t, table, "--readonly")
}

func newDM(t testing.TB, table string, flags ...string) *DM {
	t.Helper()
	NeedRoot(t)
	NeedTools(t, "dmsetup")
	_ = modprobe("dm_mod")
	if out, err := exec.Command("dmsetup", "version").CombinedOutput(); err != nil {
		lacking(t, "no device mapper (%s)", strings.TrimSpace(string(out)))
	}
	name := fmt.Sprintf("vmtest-%d-%d", pid, dmCount.Add(1))
	dmsetup(t, table, append([]string{"create", name}, flags...)...)
	d := &DM{Name: name, Path: filepath.Join("/dev/mapper", name)}
	t.Cleanup(func() {
		if err := d.remove(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// remove takes the device down, if it is there still.
func (d *DM) remove() error {
	if d.removed {
		return nil
	}
	// A suspended device would keep its openers for ever.
	_ = exec.Command("dmsetup", "resume", d.Name).Run()
	err := retry(10*time.Second, func() error {
		out, err := exec.Command("dmsetup", "remove", "--retry", d.Name).CombinedOutput()
		if err != nil {
			return fmt.Errorf("dmsetup remove %s: %w: %s", d.Name, err, out)
		}
		return nil
	})
	d.removed = err == nil
	return err
}

func dmsetup(t testing.TB, stdin string, args ...string) string {
	t.Helper()
	cmd := exec.Command("dmsetup", args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("dmsetup %s: %v: %s%s", strings.Join(args, " "), err, out, stdin)
	}
	return strings.TrimSpace(string(out))
}

// Swap replaces the table of the live device. I/O that has begun ends under the old table; I/O that
// comes meanwhile waits.
func (d *DM) Swap(t testing.TB, table string) {
	t.Helper()
	dmsetup(t, table, "load", d.Name)
	// noflush and nolockfs: a file system above may have its last writes
	// stuck in a server that is being tested.
	dmsetup(t, "", "suspend", "--noflush", "--nolockfs", d.Name)
	dmsetup(t, "", "resume", d.Name)
}

// Message sends a message to the target at a sector, as dmsetup message does.
func (d *DM) Message(t testing.TB, sector int64, words ...string) string {
	t.Helper()
	return dmsetup(t, "", append([]string{"message", d.Name, fmt.Sprint(sector)}, words...)...)
}

// ErrorTable is a table that passes everything to dev except the bad extents,
// which answer EIO to reads and writes. Extents may overlap and come in any order.
func ErrorTable(t testing.TB, dev string, bad ...Extent) string {
	t.Helper()
	table, err := errorTable(dev, Sectors(t, dev), bad)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func errorTable(dev string, sectors int64, bad []Extent) (string, error) {
	bad = slices.Clone(bad)
	slices.SortFunc(bad, func(a, b Extent) int { return cmp.Compare(a.Start, b.Start) })
	var b strings.Builder
	pos := int64(0)
	for _, e := range bad {
		end := e.Start + e.Count
		if e.Start < 0 || e.Count <= 0 || end > sectors {
			return "", fmt.Errorf("extent %d+%d is not on a disk of %d sectors", e.Start, e.Count,
				sectors)
		}
		if e.Start > pos {
			_, _ = fmt.Fprintf(&b, "%d %d linear %s %d\n", pos, e.Start-pos, dev, pos)
			pos = e.Start
		}
		if end > pos {
			_, _ = fmt.Fprintf(&b, "%d %d error\n", pos, end-pos)
			pos = end
		}
	}
	if pos < sectors {
		_, _ = fmt.Fprintf(&b, "%d %d linear %s %d\n", pos, sectors-pos, dev, pos)
	}
	return b.String(), nil
}

// LinearTable is a table that passes everything to dev.
func LinearTable(t testing.TB, dev string) string { t.Helper(); return ErrorTable(t, dev) }

// GoneTable is the table of a disk that has vanished: every sector of a
// device as large as dev answers EIO.
func GoneTable(t testing.TB, dev string) string {
	t.Helper()
	return fmt.Sprintf("0 %d error\n", Sectors(t, dev))
}

// FlakeyTable is dm-flakey's table over dev: up seconds well, down seconds
// with the features (such as "error_writes" or "drop_writes"); up 0 is bad all the time.
func FlakeyTable(t testing.TB, dev string, up, down int, features ...string) string {
	t.Helper()
	return fmt.Sprintf("0 %d flakey %s 0 %d %d %d %s\n", Sectors(t, dev), dev, up, down,
		len(features), strings.Join(features, " "))
}

// DelayTable is dm-delay's table over dev: reads and writes take that many
// milliseconds longer.
func DelayTable(t testing.TB, dev string, readMS, writeMS int) string {
	t.Helper()
	return fmt.Sprintf("0 %d delay %s 0 %d %s 0 %d\n", Sectors(t, dev), dev, readMS, dev, writeMS)
}
