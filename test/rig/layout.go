package rig

import (
	"testing"

	"ublkremap/metadata"
)

// Layout is where things are on a disk with metadata and its spare device. In bytes.
type Layout struct {
	Exported int64
	Head     int64 // bytes below it are displaced; 0: none
	Tail     int64 // bytes from it on are displaced; 0: none
	Regions  []Region
	Atom     int64
	// LogAt is where a log begins in its mirror, LogBytes how long it is.
	LogAt, LogBytes int64
}

// Region is an entry of the region table.
type Region struct {
	Kind   metadata.RegionKind
	Device int // 0: the backing disk
	Extent
}

// LayoutOf reads the superblock of a disk that was just created.
func LayoutOf(t testing.TB, path string) Layout {
	t.Helper()
	d := Open(t, path)
	defer d.Close()
	sb, err := metadata.Probe(probed{d})
	if err != nil {
		t.Fatal(err)
	}
	lay := Layout{
		Exported: sb.ExportedBytes, Head: sb.HeadBytes, Tail: sb.TailStart,
		Atom:  int64(sb.AtomSize),
		LogAt: 2 * sb.SlotBytes, LogBytes: sb.LogBytes, // metadata/FORMAT.md
	}
	for _, r := range sb.Regions {
		lay.Regions = append(lay.Regions, Region{r.Kind, int(r.Device), Extent{r.Start, r.Length}})
	}
	return lay
}

// Of returns the regions of a kind on a device.
func (l Layout) Of(kind metadata.RegionKind, device int) []Extent {
	var out []Extent
	for _, r := range l.Regions {
		if r.Kind == kind && r.Device == device {
			out = append(out, r.Extent)
		}
	}
	return out
}

// Home turns a place on the exported device, which must not straddle the
// head's end nor the tail's beginning, into the device that holds it and the place
// there.
func (l Layout) Home(e Extent) (device int, at Extent) {
	kind, from := metadata.RegionDisplacedHead, int64(0)
	switch {
	case l.Tail != 0 && e.Start >= l.Tail:
		kind, from = metadata.RegionDisplacedTail, l.Tail
	case e.Start >= l.Head:
		return 0, e
	}
	for _, r := range l.Regions {
		if r.Kind == kind {
			return r.Device, Extent{r.Start + e.Start - from, e.Length}
		}
	}
	return 0, e
}

// probed is what package metadata wants of a disk.
type probed struct{ d *Direct }

func (p probed) ReadAt(b []byte, off int64) (int, error)  { return len(b), p.d.Read(b, off) }
func (p probed) WriteAt(b []byte, off int64) (int, error) { return len(b), p.d.Write(b, off) }
func (p probed) Sync() error                              { return p.d.Flush() }
func (p probed) Size() int64                              { return p.d.Size }
