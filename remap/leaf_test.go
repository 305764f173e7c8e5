package remap

import (
	"testing"

	"pgregory.net/rapid"

	"ublkremap/metadata"
)

// TestMapLeafForms fills and empties two leaves in small steps. They change from flat to parted or
// runs and back, with records of all kinds in them. It compares all that can be read with the
// model.
func TestMapLeafForms(t *testing.T) {
	const units = 3*leafUnits + 5
	forms := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		perUnit := rapid.SampledFrom([]int{1, 8}).Draw(t, "blocks per unit")
		m, model := NewMap(units, perUnit), newMapModel(units, perUnit)
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			e := metadata.Entry{
				// Errors are most likely at the ends of parts and of leaves.
				Unit: uint64(rapid.SampledFrom([]int{0, 0, leafUnits - 3, partUnits - 5,
					3*partUnits - 9, leafUnits - 40, leafUnits + partUnits - 3}).Draw(t, "base") +
					rapid.SampledFrom([]int{0, 0, 0, 1, 2, 3, 7, 12}).Draw(t, "off")),
				Count: uint32(rapid.SampledFrom([]int{1, 1, 1, 7, flatRecords - 12, flatRecords,
					flatRecords + 1, 3 * partUnits, leafUnits, 2*leafUnits + 9}).Draw(t, "count")),
				Mask:  rapid.SampledFrom([]uint8{0xff, 0xff, 0x01, 0x81, 0x7e}).Draw(t, "mask"),
				Cause: metadata.CauseWrite, Time: rapid.Uint32Range(0, 2).Draw(t, "time"),
				State: rapid.SampledFrom([]metadata.State{
					metadata.StateMapped, metadata.StateMapped, metadata.StateMapped,
					metadata.StateHome, metadata.StateHome, metadata.StateLost,
					metadata.StatePending,
				}).Draw(t, "state"),
			}
			if e.State == metadata.StateMapped {
				// Each of the two places continues that of the neighbours: many units live in both.
				e.Spare = uint32(e.Unit) + rapid.SampledFrom([]uint32{0, 5000}).Draw(t, "spare")
			}
			m.Apply(e)
			model.apply(e)
			if l := m.leaf(0); l != nil {
				switch {
				case l.isRuns():
					forms["runs"]++
				case l.isParted():
					forms["parted"]++
				default:
					forms["flat"]++
				}
			}
			model.checkAll(t, m)
			// Every request of one unit, through the short path of Next.
			for u := e.Unit; u < min(e.Unit+4, units); u++ {
				lo := rapid.IntRange(0, perUnit-1).Draw(t, "lo")
				hi := rapid.IntRange(lo+1, perUnit).Draw(t, "hi")
				model.checkNext(t, m, u*uint64(perUnit)+uint64(lo), u*uint64(perUnit)+uint64(hi))
			}
		}
		again := NewMap(units, perUnit)
		for _, e := range readEntries(t, m, 3) {
			again.Apply(e)
		}
		model.checkAll(t, again)
	})
	if len(forms) != 3 {
		t.Errorf("leaves seen: %v", forms)
	}
}

// TestMapChangeCopiesLittle checks how much a change copies: in a leaf full of records one part and
// the list of parts, in a leaf with few records the leaf.
func TestMapChangeCopiesLittle(t *testing.T) {
	m := NewMap(dirUnits, 8)
	for u := range uint64(leafUnits) {
		m.Apply(entryOf(metadata.StateMapped, u, 1, 0xff, uint32(9000-2*u)))
	}
	before := m.leaf(0).parted().parts
	m.Apply(entryOf(metadata.StateMapped, 5*partUnits+3, 1, 0xff, 9999))
	for i, p := range m.leaf(0).parted().parts {
		if changed := p.at != before[i].at; changed != (i == 5) {
			t.Errorf("part %d: changed is %v", i, changed)
		}
	}
	few := uint64(10 * leafUnits)
	m.Apply(entryOf(metadata.StateMapped, few, flatRecords, 0xff, 100))
	spare := uint32(1)
	for name, c := range map[string]struct {
		unit   uint64
		allocs float64
	}{"parted": {5*partUnits + 3, 2}, "flat": {few, 1}} {
		if n := testing.AllocsPerRun(100, func() {
			spare++
			m.Apply(entryOf(metadata.StateMapped, c.unit, 1, 0xff, spare<<8))
		}); n != c.allocs {
			t.Errorf("%s: %v allocations for a change, want %v", name, n, c.allocs)
		}
	}
}
