package server

import (
	"errors"
	"testing"
	"time"

	"ublkremap/internal/control"
	"ublkremap/metadata"
)

// TestSurfaceOfADevice: moved blocks are in their cells, the cells cover the range that was asked
// for, and the regions are where the layout says.
func TestSurfaceOfADevice(t *testing.T) {
	d := newSet(t)
	s := newKeeperOf(t, d)
	ctx := t.Context()
	geo := s.shared.Geometry()
	if _, err := s.AddRemaps(ctx, []control.Range{{Block: 1000, Count: 5},
		{Block: geo.Blocks - 2, Count: 2}}); err != nil {
		t.Fatal(err)
	}
	got, err := s.Surface(ctx, 0, ^uint64(0), 10)
	if err != nil {
		t.Fatal(err)
	}
	if got.From != 0 || got.To != geo.Blocks || got.PerCell*10 < geo.Blocks ||
		got.PerCell*9 >= geo.Blocks || got.SizeBlocks != geo.Blocks {
		t.Errorf("from %d to %d in cells of %d", got.From, got.To, got.PerCell)
	}
	for i := range got.Cells {
		c := &got.Cells[i]
		if _, err := time.Parse(time.RFC3339, c.Time); err != nil || c.Cause != "operator" {
			t.Errorf("%+v: %v", c, err)
		}
		c.Time, c.Cause = "", ""
	}
	if sc := got.Scrub; sc == nil || sc.State != "idle" || sc.Started != nil ||
		sc.LastFinished != nil {
		t.Errorf("scrub %+v", sc)
	}
	want := []control.SurfaceCell{{Cell: 1000 / got.PerCell, Mapped: 5}, {Cell: 9, Mapped: 2}}
	if len(got.Cells) != 2 || got.Cells[0] != want[0] || got.Cells[1] != want[1] {
		t.Errorf("cells %+v, want %+v", got.Cells, want)
	}
	one, err := s.Surface(ctx, 1003, 1010, control.MaxSurface)
	if err != nil || one.PerCell != 1 || one.To != 1010 || len(one.Cells) != 2 ||
		one.Cells[1].Cell != 1 || one.Cells[1].Mapped != 1 {
		t.Errorf("%+v, %v", one, err)
	}
	beyond, err := s.Surface(ctx, geo.Blocks-100, geo.Blocks+412, 16)
	if err != nil || beyond.PerCell != 32 || beyond.To != geo.Blocks+412 ||
		len(beyond.Cells) != 1 || beyond.Cells[0].Cell != 3 || beyond.Cells[0].Mapped != 2 {
		t.Errorf("beyond the end: %+v, %v", beyond, err)
	}
	if _, err := s.Surface(ctx, geo.Blocks, control.SurfaceEnd, 1); !errors.Is(err,
		control.ErrInvalid) {
		t.Errorf("behind the end of the device: %v", err)
	}
	disk := uint64(testSize / got.BlockSize)
	if _, err := s.Surface(ctx, disk, disk+1, 1); !errors.Is(err, control.ErrInvalid) {
		t.Errorf("behind the end of the disk: %v", err)
	}
	kinds := map[string]int{}
	for _, r := range got.Regions {
		kinds[r.Kind]++
		if !r.Backing || r.Device != d.Path() || r.Length <= 0 || r.Start < 0 ||
			r.Start+r.Length > testSize || (r.Kind == "mirror") != (r.State == "good") {
			t.Errorf("%+v", r)
		}
	}
	if kinds["head"] != 1 || kinds["superblock"] < 3 || kinds["mirror"] != 2 ||
		kinds["spare"] != 1 || kinds["displaced-head"] != 1 {
		t.Errorf("regions %v", kinds)
	}
}

// TestSurfaceOfSpares: behind the device the cells say how many spare units are in use and bad,
// whatever their size, and every unit is in one of them.
func TestSurfaceOfSpares(t *testing.T) {
	d := newSet(t)
	s := newKeeperOf(t, d)
	ctx := t.Context()
	geo := s.shared.Geometry()
	unit := uint64(metadata.UnitSize / geo.BlockSize)
	if _, err := s.AddRemaps(ctx, []control.Range{{Block: 100 * unit,
		Count: 30 * unit}}); err != nil {
		t.Fatal(err)
	}
	if err := s.keeper.call(ctx, func() {
		if err := s.alloc.Retire(200, 3, metadata.CauseSpare, 1); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	spare := s.image.Layout().SpareRegions()[0]
	total := uint64(spare.Length / metadata.UnitSize)
	start := uint64(spare.Start) / uint64(geo.BlockSize)
	end := start + total*unit
	for _, per := range []uint64{unit, 3 * unit, 16 * unit, (end - start)} {
		got, err := s.Surface(ctx, start, end+per, int((end+per-start-1)/per+1))
		if err != nil || got.PerCell != per {
			t.Fatalf("in cells of %d, not %d: %v", got.PerCell, per, err)
		}
		var units, used, bad uint64
		for i, c := range got.Spares {
			if i > 0 && c.Cell <= got.Spares[i-1].Cell || c.Units > per/unit {
				t.Errorf("%+v after %+v", c, got.Spares[max(i, 1)-1])
			}
			units, used, bad = units+c.Units, used+c.Used, bad+c.Bad
		}
		if units != total || used != 30 || bad != 3 {
			t.Errorf("in cells of %d: %d units of %d, %d used, %d bad", per, units, total, used,
				bad)
		}
	}
	// A part of a unit is that unit.
	one, err := s.Surface(ctx, start+200*unit, start+201*unit, int(unit))
	if err != nil || len(one.Spares) != int(unit) {
		t.Fatalf("%+v, %v", one, err)
	}
	for i, c := range one.Spares {
		if c != (control.SurfaceSpares{Cell: uint64(i), Units: 1, Bad: 1}) {
			t.Errorf("block %d of a retired unit: %+v", i, c)
		}
	}
	whole, err := s.Surface(ctx, 0, control.SurfaceEnd, 10)
	if err != nil || len(whole.Spares) != 0 {
		t.Errorf("the device alone: %+v, %v", whole.Spares, err)
	}
}
