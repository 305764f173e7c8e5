package metadata

import (
	"errors"
	"slices"
	"testing"
)

// fewEntries is a source of entries that may say anything.
type fewEntries []Entry

func (s fewEntries) Entries(cursor uint64, dst []Entry) (int, uint64, bool) {
	n := copy(dst, s[cursor:])
	return n, cursor + uint64(n), cursor+uint64(n) == uint64(len(s))
}

// fine is a disk that takes reads of single blocks.
type fine struct{ *memDisk }

func (d fine) ReadAt(b []byte, off int64) (int, error) {
	if len(b)%PageSize == 0 && off%PageSize == 0 {
		return d.memDisk.ReadAt(b, off)
	}
	page := AlignedBytes(PageSize)
	if _, err := d.memDisk.ReadAt(page, roundDown(off, PageSize)); err != nil {
		return 0, err
	}
	return copy(b, page[off%PageSize:]), nil
}

// crafted is a set of a large disk whose first checkpoint states those entries, with all its
// checksums right.
func crafted(t *testing.T, size int64, src fewEntries) fine {
	t.Helper()
	plan, err := Plan(PlanParams{BackingSize: size, BlockSize: 512, SpareBytes: 64 << 20,
		Name: "crafted"})
	if err != nil {
		t.Fatal(err)
	}
	d := newMemDisk(size)
	if err := Create([]Device{d}, plan, nil); err != nil {
		t.Fatal(err)
	}
	buf := AlignedBytes(1 << 20)
	for _, m := range plan.mirrorsAt() {
		var w pageWriter
		w.begin(&plan.sb.UUID, &plan.lim, src, checkpointID{epoch: creation.Epoch, generation: 1},
			m.pages())
		for !w.finished() {
			first := w.pages
			n, err := w.fill(buf)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := d.WriteAt(buf[:n], m.pageOffset(0, first)); err != nil {
				t.Fatal(err)
			}
		}
		h := w.header(creation, 0)
		h.encode(buf, &plan.sb.UUID)
		if _, err := d.WriteAt(buf[:PageSize], m.headerOffset(0)); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	return fine{d}
}

// TestHugeEntries: a page of entries that name all units of a large disk is read, checked and
// repaired with the effort for a page, because no form of the table has more parts than there are
// entries.
func TestHugeEntries(t *testing.T) {
	const size = 4 << 40
	plan, err := Plan(PlanParams{BackingSize: size, BlockSize: 512, SpareBytes: 64 << 20,
		Name: "large"})
	if err != nil {
		t.Fatal(err)
	}
	units := plan.Units()
	all := func(unit uint64, s State, mask uint8) Entry {
		return Entry{Unit: unit, Count: uint32(min(units-unit, 1<<32-1)), Mask: mask, State: s,
			Cause: CauseImport, Time: 1}
	}
	for name, src := range map[string]fewEntries{
		"lost":             {all(0, StateLost, 0xff)},
		"one block each":   {all(0, StateLost, 0x55)},
		"pending":          {all(0, StatePending, 0xff)},
		"lost and pending": {all(0, StateLost, 0x0f), all(0, StatePending, 0xf0)},
		"steps": {all(0, StateLost, 1), all(1000, StateLost, 2), all(2000, StateLost, 4),
			all(3000, StatePending, 8)},
	} {
		d := crafted(t, size, src)
		img, err := Load([]Device{d})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		table, err := img.Table()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		parts := 0
		for _, l := range table.units.leaves {
			parts += len(l)
		}
		if parts > 2*len(src) {
			t.Errorf("%s: a table of %d extents for %d entries", name, parts, len(src))
		}
		if n := table.Counts().Entries; n > uint64(3*len(src)) {
			t.Errorf("%s: %d entries state what %d did", name, n, len(src))
		}
		if _, err := Check([]Device{d}); err != nil {
			t.Errorf("%s: check: %v", name, err)
		}
		if dump, err := Dump([]Device{d}); err != nil || len(listed(dump.table)) > 3*len(src) {
			t.Errorf("%s: dump: %v, %d entries", name, err, len(listed(dump.table)))
		}
		s, err := SurveyRevert(img, ConvertOptions{})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		want := table.Counts().Lost
		if got := countBlocks(s.NoCopy) + s.More; got != want || len(s.NoCopy) > 2*maxRanges {
			t.Errorf("%s: a release would give up %d blocks in %d ranges, want %d blocks", name,
				got, len(s.NoCopy), want)
		}
		if s.Pending != table.Counts().Pending {
			t.Errorf("%s: %d pending, want %d", name, s.Pending, table.Counts().Pending)
		}
		repair, err := PlanRepair([]Device{d}, nil)
		if err == nil {
			_, err = repair.Run(RunOptions{Now: 1, Session: 1})
		}
		if err != nil {
			t.Errorf("%s: repair: %v", name, err)
		}
		if have, err := tableOf([]Device{d}); err != nil || !slices.Equal(have, listed(table)) {
			t.Errorf("%s: after the repair: %v, %v", name, err, have)
		}
	}
}

// TestEntriesOverAndOver: entries that name the same units more often than any server does count as
// damage. The load ends before it has gone through all of them.
func TestEntriesOverAndOver(t *testing.T) {
	const size = 8 << 40
	var src fewEntries
	for i := range 1000 {
		src = append(src, Entry{Unit: uint64(i % 7), Count: 1 << 31 >> 1, Mask: 1 + uint8(i%8),
			State: StateLost, Cause: CauseImport})
	}
	d := crafted(t, size, src)
	img, err := Load([]Device{d})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	if err := img.Replay(func(Entry) error { n++; return nil }); !errors.Is(err, ErrDamaged) ||
		n > 200 {
		t.Errorf("%d entries, then %v", n, err)
	}
	if _, err := PlanSalvage([]Device{d}); !errors.Is(err, ErrDamaged) {
		t.Errorf("salvage: %v", err)
	}
}
