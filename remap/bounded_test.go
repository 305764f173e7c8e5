package remap

import (
	"testing"

	"ublkremap/metadata"
)

// TestRunsStayRuns: entries that name all units of a large disk, or a dead zone of it, cost
// memory and time for each 4 MiB at most, and as little in a checkpoint as they came in.
func TestRunsStayRuns(t *testing.T) {
	l, err := metadata.Plan(metadata.PlanParams{BackingSize: 1 << 40, BlockSize: 512,
		SpareBytes: 64 << 20, Name: "large"})
	if err != nil {
		t.Fatal(err)
	}
	units := l.Units()
	entry := func(s metadata.State, unit, count uint64, mask uint8) metadata.Entry {
		return metadata.Entry{Unit: unit, Count: uint32(count), Mask: mask, State: s,
			Cause: metadata.CauseImport, Time: 7}
	}
	mapped := entry(metadata.StateMapped, 5000, l.SpareUnits(), 0xff)
	dead := uint64(200<<30) / metadata.UnitSize
	for name, entries := range map[string][]metadata.Entry{
		"a dead zone":    {entry(metadata.StateLost, 1<<20+77, dead, 0xff)},
		"pending":        {entry(metadata.StatePending, 1<<20+77, dead, 0xff)},
		"all lost":       {entry(metadata.StateLost, 0, units, 0xff)},
		"one block each": {entry(metadata.StateLost, 0, units, 0x10)},
		"lost and pending": {entry(metadata.StateLost, 0, units, 0x0f), entry(metadata.StatePending,
			0, units, 0xf0)},
		"mapped": {mapped},
		"over each other": {entry(metadata.StateLost, 0, units, 0xff), mapped,
			entry(metadata.StatePending, 0, units, 0xff), entry(metadata.StateHome, 9000, 7000,
				0x3c)},
	} {
		var m *Map
		allocs := testing.AllocsPerRun(1, func() {
			r, err := Restore(l, func(f func(metadata.Entry) error) error {
				for _, e := range entries {
					if err := f(e); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			m = r.Map
		})
		// A directory each 4 GiB, and leaves that are the same one.
		dirs := float64(units / dirUnits)
		if most := 3*dirs + 100; allocs > most {
			t.Errorf("%s: %v pieces of memory, want at most %v", name, allocs, most)
		}
		if got := m.Bytes(); got > 6<<20 {
			t.Errorf("%s: %d bytes", name, got)
		}
		page := make([]metadata.Entry, 336)
		n, calls := 0, 0
		again := NewBuilder(units, 8)
		for cursor, done := uint64(0), false; !done; calls++ {
			var k int
			k, cursor, done = m.Entries(cursor, page)
			n += k
			for _, e := range page[:k] {
				again.Apply(e)
			}
		}
		if n > 4*len(entries)+3*calls {
			t.Errorf("%s: %d entries in %d calls state what %d did", name, n, calls, len(entries))
		}
		if got, want := again.Map().Counts(), m.Counts(); got != want {
			t.Errorf("%s: stated again it is %+v, was %+v", name, got, want)
		}
	}
}
