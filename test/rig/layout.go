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

// Place is an extent of one of a set's devices.
type Place struct {
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

// one is the first region of a kind on the backing disk; empty if there is none.
func (l Layout) one(kind metadata.RegionKind) Extent {
	for _, e := range l.Of(kind, 0) {
		return e
	}
	return Extent{}
}

// HeadAt is where the displaced head is on the backing disk.
func (l Layout) HeadAt() Extent { return l.one(metadata.RegionDisplacedHead) }

// Spare is the spare region on the backing disk.
func (l Layout) Spare() Extent { return l.one(metadata.RegionSpare) }

// Mirrors are the mirrors on the backing disk.
func (l Layout) Mirrors() []Extent { return l.Of(metadata.RegionMirror, 0) }

// Logs are the logs of the mirrors on a device.
func (l Layout) Logs(device int) []Extent {
	mirrors := l.Of(metadata.RegionMirror, device)
	for i, m := range mirrors {
		mirrors[i] = Extent{m.Start + l.LogAt, l.LogBytes}
	}
	return mirrors
}

// ExportedOf turns places on the backing disk into places on the exported device,
// as far as they hold data.
func (l Layout) ExportedOf(places []Extent) []Extent {
	end := l.Exported
	if l.Tail != 0 {
		end = l.Tail
	}
	head := l.HeadAt()
	var out []Extent
	for _, e := range places {
		if in := e.Cut(l.Head, end); in.Length > 0 {
			out = append(out, in)
		}
		if in := e.Cut(head.Start, head.End()); in.Length > 0 {
			out = append(out, Extent{in.Start - head.Start, in.Length})
		}
	}
	return Merge(out)
}

// Homes turns a place on the exported device into places on the disks: what straddles
// the end of the displaced head, or where the tail begins, is in two of them.
func (l Layout) Homes(e Extent) []Place {
	var out []Place
	for _, end := range []int64{l.Head, l.Tail, e.End()} {
		if in := e.Cut(e.Start, end); in.Length > 0 {
			out = append(out, l.home(in))
			e = e.Cut(end, e.End())
		}
	}
	return out
}

// HomesOnBacking are those of Homes that are on the backing disk.
func (l Layout) HomesOnBacking(e Extent) []Extent {
	var out []Extent
	for _, p := range l.Homes(e) {
		if p.Device == 0 {
			out = append(out, p.Extent)
		}
	}
	return out
}

// home is Homes of a place that straddles nothing.
func (l Layout) home(e Extent) Place {
	kind, from := metadata.RegionDisplacedHead, int64(0)
	switch {
	case l.Tail != 0 && e.Start >= l.Tail:
		kind, from = metadata.RegionDisplacedTail, l.Tail
	case e.Start >= l.Head:
		return Place{0, e}
	}
	for _, r := range l.Regions {
		if r.Kind == kind {
			return Place{r.Device, Extent{r.Start + e.Start - from, e.Length}}
		}
	}
	return Place{0, e}
}

// probed is what package metadata needs of a disk.
type probed struct{ d *Direct }

func (p probed) ReadAt(b []byte, off int64) (int, error)  { return len(b), p.d.Read(b, off) }
func (p probed) WriteAt(b []byte, off int64) (int, error) { return len(b), p.d.Write(b, off) }
func (p probed) Sync() error                              { return p.d.Flush() }
func (p probed) Size() int64                              { return p.d.Size }
