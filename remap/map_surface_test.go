package remap

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"ublkremap/metadata"
)

// cells collects what Surface says.
func (m *Map) cells(t interface{ Fatalf(string, ...any) }, start, end, per uint64) []SurfaceCell {
	var got []SurfaceCell
	if err := m.Surface(start, end, per, func(c SurfaceCell) error {
		got = append(got, c)
		return nil
	}); err != nil {
		t.Fatalf("surface of %d to %d: %v", start, end, err)
	}
	return got
}

// TestSurface: whatever the range and the size of cells, the sums are those of a plain model.
func TestSurface(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		perUnit := rapid.SampledFrom([]int{1, 2, 4, 8}).Draw(t, "blocks per unit")
		m, model := NewMap(modelUnits, perUnit), newMapModel(modelUnits, perUnit)
		for range rapid.IntRange(0, 60).Draw(t, "entries") {
			e := drawEntry(t)
			e.Mask &= m.all
			if e.Mask == 0 {
				continue
			}
			m.Apply(e)
			model.apply(e)
			if rapid.IntRange(0, 9).Draw(t, "busy") == 0 {
				m.SetBusy(e.Unit, 1, true)
			}
		}
		blocks := uint64(modelUnits * perUnit)
		start := rapid.Uint64Range(0, blocks-1).Draw(t, "start")
		end := rapid.Uint64Range(start, blocks+100).Draw(t, "end")
		per := rapid.SampledFrom([]uint64{1, 3, 8, 100, 8192, 8195, blocks,
			^uint64(0)}).Draw(t, "blocks per cell")
		want := map[uint64]SurfaceCell{}
		notes := map[uint64][]note{}
		for b, x := range model.blocks {
			if b < start || b >= end {
				continue
			}
			c := want[(b-start)/per]
			c.Cell = (b - start) / per
			switch {
			case x.lost:
				c.Lost++
			case x.pending:
				c.Pending++
			default:
				c.Mapped++
			}
			want[c.Cell] = c
			notes[c.Cell] = append(notes[c.Cell], model.notes[b/uint64(perUnit)])
		}
		got := m.cells(t, start, end, per)
		for i := range got {
			c := &got[i]
			newest := slices.MaxFunc(notes[c.Cell], func(x, y note) int {
				return cmp.Compare(x.time, y.time)
			})
			// Cause is that of one of the newest entries. One of the second 0 is none.
			if c.Time != newest.time || c.Time > 0 &&
				!slices.Contains(notes[c.Cell], note{c.Time, c.Cause}) {
				t.Fatalf("cell %d: %d, %v; notes %v", c.Cell, c.Time, c.Cause, notes[c.Cell])
			}
			c.Time, c.Cause = 0, 0
		}
		sorted := make([]SurfaceCell, 0, len(want))
		for _, n := range slices.Sorted(maps.Keys(want)) {
			sorted = append(sorted, want[n])
		}
		if !slices.Equal(got, sorted) {
			t.Fatalf("blocks %d to %d in cells of %d: got %+v, want %+v", start, end, per, got,
				sorted)
		}
	})
}

// TestSurfaceEnds: the walk ends with the error of whoever takes the cells, and a range behind the
// end is empty.
func TestSurfaceEnds(t *testing.T) {
	m := NewMap(1<<20, 8)
	m.Apply(metadata.Entry{Unit: 3, Count: 1000, Mask: 0xff, State: metadata.StatePending})
	calls, stop := 0, errors.New("enough")
	err := m.Surface(0, 1<<23, 8, func(SurfaceCell) error { calls++; return stop })
	if !errors.Is(err, stop) || calls != 1 {
		t.Errorf("%d calls, error %v", calls, err)
	}
	for _, r := range [][2]uint64{{1 << 23, 1 << 24}, {5, 5}, {9, 2}, {1 << 62, 1 << 63}} {
		if got := m.cells(t, r[0], r[1], 1); len(got) > 0 {
			t.Errorf("blocks %d to %d: %+v", r[0], r[1], got)
		}
	}
}

// TestSurfaceOfALargeDisk: a disk of 16 TiB with a million scattered remaps, and a dead zone of a
// TiB, is summed up without memory of its own.
func TestSurfaceOfALargeDisk(t *testing.T) {
	const units, remaps, zone = 16 << 28, 1 << 20, 1 << 28
	b := NewBuilder(units, 8)
	for i := range uint64(remaps) {
		b.Apply(metadata.Entry{Unit: zone + i*3800, Count: 1, Mask: 1, State: metadata.StateMapped,
			Spare: uint32(i)})
	}
	b.Apply(metadata.Entry{Unit: 0, Count: zone, Mask: 0xff, State: metadata.StatePending})
	m := b.Map()
	var sum SurfaceCell
	allocs := testing.AllocsPerRun(1, func() {
		sum = SurfaceCell{}
		_ = m.Surface(0, units*8, units*8/4096, func(c SurfaceCell) error {
			sum.Mapped += c.Mapped
			sum.Pending += c.Pending
			return nil
		})
	})
	if sum.Mapped != remaps || sum.Pending != zone*8 || allocs > 8 {
		t.Errorf("%+v with %v allocations", sum, allocs)
	}
}

func BenchmarkSurface(b *testing.B) {
	const units, remaps = 16 << 28, 1 << 20
	f := NewBuilder(units, 8)
	for i := range uint64(remaps) {
		f.Apply(metadata.Entry{Unit: i * 4000, Count: 1, Mask: 1, State: metadata.StateMapped,
			Spare: uint32(i)})
	}
	m := f.Map()
	for b.Loop() {
		_ = m.Surface(0, units*8, units*8/4096, func(SurfaceCell) error { return nil })
	}
}
