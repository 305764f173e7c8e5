package remap

import (
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"ublkremap/metadata"
)

// mapModel is a plain model of the Map: the state of each block.
type mapModel struct {
	perUnit uint64
	units   uint64
	blocks  map[uint64]modelBlock // blocks that are not plain home
	busy    map[uint64]bool
	notes   map[uint64]note // of the last entry about a unit
	sorted  []uint64        // the result of live; nil after a change
}

type modelBlock struct {
	mapped, lost, pending bool
	spare                 uint64 // spare block
}

func newMapModel(units uint64, perUnit int) *mapModel {
	return &mapModel{units: units, perUnit: uint64(perUnit), blocks: map[uint64]modelBlock{},
		busy: map[uint64]bool{}, notes: map[uint64]note{}}
}

func (m *mapModel) apply(e metadata.Entry) {
	m.sorted = nil
	for i := uint64(0); i < uint64(e.Count); i++ {
		unit := e.Unit + i
		if unit >= m.units {
			break
		}
		touched := false
		for k := uint64(0); k < m.perUnit; k++ {
			if e.Mask>>k&1 == 0 {
				continue
			}
			touched = true
			b := unit*m.perUnit + k
			switch old := m.blocks[b]; e.State {
			case metadata.StateHome:
				delete(m.blocks, b)
			case metadata.StateMapped:
				m.blocks[b] = modelBlock{mapped: true, spare: (uint64(e.Spare)+i)*m.perUnit + k}
			case metadata.StateLost:
				m.blocks[b] = modelBlock{lost: true}
			case metadata.StatePending:
				if !old.lost {
					old.pending = true
					m.blocks[b] = old
				}
			}
		}
		if touched {
			m.notes[unit] = note{time: e.Time, cause: e.Cause}
		}
	}
}

func (m *mapModel) setBusy(unit, count uint64, busy bool) {
	m.sorted = nil
	if !busy {
		maps.DeleteFunc(m.busy, func(u uint64, _ bool) bool { return u >= unit && u < unit+count })
		return
	}
	for u := unit; u < min(unit+count, m.units); u++ {
		m.busy[u] = true
	}
}

// at returns the kind of a block and the spare block that holds it.
func (m *mapModel) at(block uint64) (k Kind, spare uint64) {
	b := m.blocks[block]
	if b.mapped {
		k |= KindMapped
	}
	if b.lost {
		k |= KindLost
	}
	if b.pending {
		k |= KindPending
	}
	if m.busy[block/m.perUnit] {
		k |= KindBusy
	}
	return k, b.spare
}

// live returns, in ascending order, the blocks within [lo, hi) that are not
// plain home.
func (m *mapModel) live(lo, hi uint64) []uint64 {
	if m.sorted == nil {
		m.sorted = slices.Collect(maps.Keys(m.blocks))
		for u := range m.busy {
			for k := uint64(0); k < m.perUnit; k++ {
				m.sorted = append(m.sorted, u*m.perUnit+k)
			}
		}
		slices.Sort(m.sorted)
		m.sorted = slices.Compact(m.sorted)
	}
	i, _ := slices.BinarySearch(m.sorted, lo)
	j, _ := slices.BinarySearch(m.sorted, hi)
	return m.sorted[i:max(i, j)]
}

func (m *mapModel) counts() Counts {
	var c Counts
	mapped := map[uint64]bool{}
	for b, s := range m.blocks {
		if s.mapped {
			mapped[b/m.perUnit] = true
		}
		if s.lost {
			c.Lost++
		}
		if s.pending {
			c.Pending++
		}
	}
	c.Mapped = uint64(len(mapped))
	return c
}

// unit is Map.Unit for the model.
func (m *mapModel) unit(unit uint64) UnitInfo {
	info := UnitInfo{Busy: m.busy[unit]}
	for k := uint64(0); k < m.perUnit; k++ {
		b, bit := m.blocks[unit*m.perUnit+k], uint8(1)<<k
		if b.lost {
			info.Lost |= bit
		}
		if b.pending {
			info.Pending |= bit
		}
		if !b.mapped {
			continue
		}
		spare := uint32(b.spare / m.perUnit)
		i := slices.IndexFunc(info.Places[:info.N], func(p Place) bool { return p.Spare == spare })
		if i < 0 {
			i = info.N
			info.N++
			info.Places[i].Spare = spare
		}
		info.Places[i].Mask |= bit
	}
	if info.Lost|info.Pending|info.Mapped() != 0 {
		n := m.notes[unit]
		info.Cause, info.Time = n.cause, n.time
	}
	return info
}

// checkNext compares one call of Next with the model. The run must begin at the first block that is
// not plain home. It may end only where the next block does not continue it, or at the end of a
// leaf.
func (m *mapModel) checkNext(t interface{ Fatalf(string, ...any) }, got *Map, block,
	end uint64) (Run, bool) {
	r, ok := got.Next(block, end)
	live := m.live(block, end)
	if !ok {
		if len(live) > 0 {
			t.Fatalf("Next(%d, %d) found nothing, block %d is not home", block, end, live[0])
		}
		return r, false
	}
	if len(live) == 0 || r.Start != live[0] || r.Count == 0 || r.Start+r.Count > end {
		t.Fatalf("Next(%d, %d) = %+v, not home there: %v", block, end, r, live)
	}
	goesOn := func(i uint64) bool {
		k, spare := m.at(r.Start + i)
		return k == r.Kind && (k&KindMapped == 0 || spare == r.Spare+i)
	}
	for i := uint64(0); i < r.Count; i++ {
		if !goesOn(i) {
			k, spare := m.at(r.Start + i)
			t.Fatalf("Next(%d, %d) = %+v, but block %d is %v in spare block %d", block, end, r,
				r.Start+i, k, spare)
		}
	}
	if stop := r.Start + r.Count; stop < end && stop%(leafUnits*m.perUnit) != 0 && goesOn(r.Count) {
		t.Fatalf("Next(%d, %d) = %+v ends too early", block, end, r)
	}
	if r.Kind&KindMapped == 0 && r.Spare != 0 {
		t.Fatalf("Next(%d, %d) = %+v names a spare block", block, end, r)
	}
	return r, true
}

// checkAll compares everything that can be read with the model.
func (m *mapModel) checkAll(t interface{ Fatalf(string, ...any) }, got *Map) {
	end := m.units * m.perUnit
	for at := uint64(0); at < end; {
		r, ok := m.checkNext(t, got, at, end)
		if !ok {
			break
		}
		at = r.Start + r.Count
	}
	if g, w := got.Counts(), m.counts(); g != w {
		t.Fatalf("counts are %+v, want %+v", g, w)
	}
	seen := map[uint64]bool{}
	for b := range m.blocks {
		seen[b/m.perUnit] = true
	}
	for u := range m.busy {
		seen[u] = true
	}
	for u := range m.notes {
		seen[u] = true // units that have gone home count as well
	}
	for u := range seen {
		if g, want := got.Unit(u), m.unit(u); g != want {
			t.Fatalf("unit %d is %+v, want %+v", u, g, want)
		}
	}
}

// readEntries reads the table through Entries, with room for n entries at a time.
func readEntries(t interface{ Fatalf(string, ...any) }, m *Map, n int) []metadata.Entry {
	var out []metadata.Entry
	page := make([]metadata.Entry, n)
	for cursor := uint64(0); ; {
		got, next, done := m.Entries(cursor, page)
		if got == 0 && !done {
			t.Fatalf("Entries(%d) made no progress", cursor)
		}
		out = append(out, page[:got]...)
		if done {
			return out
		}
		cursor = next
	}
}

// modelUnits is more than one directory, and ends within a leaf.
const modelUnits = dirUnits + 3*leafUnits + 37

// drawUnit draws from a few neighbourhoods, so that entries overlap: the start, the bounds of a
// group, a leaf and a directory, and the end.
func drawUnit(t *rapid.T) uint64 {
	base := rapid.SampledFrom([]uint64{0, groupUnits, leafUnits - 20, dirUnits - 12,
		modelUnits - 24}).Draw(t, "base")
	return base + rapid.Uint64Range(0, 24).Draw(t, "off")
}

func drawEntry(t *rapid.T) metadata.Entry {
	e := metadata.Entry{
		Unit: drawUnit(t),
		// Mostly one unit. Sometimes the entry reaches past the end of a group or a leaf.
		Count: rapid.OneOf(rapid.Just(uint32(1)), rapid.Uint32Range(1, 40),
			rapid.Uint32Range(1, 40), rapid.SampledFrom([]uint32{1, 3, 20, leafUnits + 30})).Draw(t,
			"count"),
		Mask: rapid.OneOf(rapid.Just(uint8(0xff)), rapid.Uint8()).Draw(t, "mask"),
		State: rapid.SampledFrom([]metadata.State{
			metadata.StateHome, metadata.StateMapped, metadata.StateMapped, metadata.StateLost,
			metadata.StatePending,
		}).Draw(t, "state"),
		Cause: metadata.Cause(rapid.IntRange(0, 2).Draw(t, "cause")),
		Time:  rapid.Uint32Range(0, 2).Draw(t, "time"),
	}
	if e.State == metadata.StateMapped {
		// Few spare units, so that blocks of a unit often live in one spare unit again, and spare
		// units that continue those of the neighbour.
		e.Spare = rapid.OneOf(rapid.Uint32Range(0, 3),
			rapid.Just(uint32(1000+e.Unit&0xffff))).Draw(t, "spare")
	}
	return e
}

// TestMapModel does what an Arbiter might do, to a Map and to a model. It compares all that can be
// read from them.
func TestMapModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		perUnit := rapid.SampledFrom([]int{1, 2, 4, 8}).Draw(t, "blocks per unit")
		m, model := NewMap(modelUnits, perUnit), newMapModel(modelUnits, perUnit)
		var log []metadata.Entry
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			if rapid.IntRange(0, 4).Draw(t, "busy?") == 0 {
				u, n := drawUnit(t), rapid.Uint64Range(1, 30).Draw(t, "count")
				on := rapid.Bool().Draw(t, "on")
				m.SetBusy(u, n, on)
				model.setBusy(u, n, on)
			} else {
				e := drawEntry(t)
				m.Apply(e)
				model.apply(e)
				log = append(log, e)
			}
			lo := drawUnit(t)*uint64(perUnit) + rapid.Uint64Range(0, 7).Draw(t, "block")
			model.checkNext(t, m, lo, lo+rapid.Uint64Range(0, 400).Draw(t, "length"))
		}
		model.checkAll(t, m)

		// The same through a Builder, and through the table's own entries. Busy is not kept on
		// disk.
		model.setBusy(0, modelUnits, false)
		b := NewBuilder(modelUnits, perUnit)
		for _, e := range log {
			b.Apply(e)
		}
		model.checkAll(t, b.Map())
		room := rapid.IntRange(1, 5).Draw(t, "room")
		again := NewBuilder(modelUnits, perUnit)
		for _, e := range readEntries(t, m, room) {
			if !e.State.Valid() || e.Mask == 0 || e.Mask&^m.all != 0 || e.Count == 0 ||
				e.Unit+uint64(e.Count) > modelUnits {
				t.Fatalf("entry out of range: %+v", e)
			}
			again.Apply(e)
		}
		model.checkAll(t, again.Map())
	})
}

// TestMapReplay checks the property that a fuzzy checkpoint needs: its pages and the log since its
// start give the table, whatever moments the pages are from.
func TestMapReplay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		perUnit := rapid.SampledFrom([]int{1, 8}).Draw(t, "blocks per unit")
		m, model := NewMap(modelUnits, perUnit), newMapModel(modelUnits, perUnit)
		step := func() metadata.Entry {
			e := drawEntry(t)
			m.Apply(e)
			model.apply(e)
			return e
		}
		for range rapid.IntRange(0, 8).Draw(t, "before") {
			step()
		}
		entriesBudget = rapid.IntRange(1, 3).Draw(t, "budget")
		defer func() { entriesBudget = 1 << 15 }()
		var checkpoint, log []metadata.Entry
		page := make([]metadata.Entry, rapid.IntRange(1, 4).Draw(t, "room"))
		for cursor, done := uint64(0), false; !done; {
			var n int
			n, cursor, done = m.Entries(cursor, page)
			checkpoint = append(checkpoint, page[:n]...)
			if len(log) < 12 && rapid.Bool().Draw(t, "meanwhile") {
				log = append(log, step())
			}
		}
		loaded := NewBuilder(modelUnits, perUnit)
		for _, e := range append(checkpoint, log...) {
			loaded.Apply(e)
		}
		model.checkBlocks(t, loaded.Map())
	})
}

// checkBlocks compares the blocks, but not the notes. The notes of a unit that changed while a
// checkpoint was made may be newer than its last entry.
func (m *mapModel) checkBlocks(t interface{ Fatalf(string, ...any) }, got *Map) {
	end := m.units * m.perUnit
	for at := uint64(0); at < end; {
		r, ok := m.checkNext(t, got, at, end)
		if !ok {
			break
		}
		at = r.Start + r.Count
	}
	if g, w := got.Counts(), m.counts(); g != w {
		t.Fatalf("counts are %+v, want %+v", g, w)
	}
}
