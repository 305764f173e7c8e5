package remap

import (
	"math/bits"
	"unsafe"

	"ublkremap/metadata"
)

// The third form of a leaf is for few runs of many units: a dead zone, or units that were moved one
// after the other. Its size is the same for a run of 65 units and for a run of all 1,024. Leaves
// that say the same, and have nothing mapped, can be one leaf in memory. So the memory of a table
// grows with the entries that state it, and not with the units that these name.
//
//	leaf, with cells 0 and n the number of runs
//	[n]leafRun, in the order of their units, disjoint

// mostRuns is how many runs such a leaf has at most. They are few enough for a linear search.
const mostRuns = 16

// leafRun is a run of units that differ only in the spare unit. The spare unit grows with them.
type leafRun struct {
	cell  cell // of the first unit; never 0, never wide
	time  uint32
	first uint16 // unit, within the leaf
	n     uint16 // units, 1 to leafUnits
	cause metadata.Cause
	_     [7]byte
}

const runSize = 24

var _ [runSize]byte = [unsafe.Sizeof(leafRun{})]byte{}

// isRuns reports whether the leaf has the form of runs.
func (l *leaf) isRuns() bool { return l.cells == 0 && l.n != 0 }

// isParted reports whether the leaf is in parts.
func (l *leaf) isParted() bool { return l.cells == 0 && l.n == 0 }

// runs returns the runs of a leaf of that form.
func (l *leaf) runs() []leafRun {
	return unsafe.Slice((*leafRun)(unsafe.Add(unsafe.Pointer(l), leafHead)), int(l.n))
}

// end returns the unit behind the run.
func (r *leafRun) end() uint32 { return uint32(r.first) + uint32(r.n) }

// step returns by how much the cells of a run grow from unit to unit.
func (r *leafRun) step() cell {
	if r.cell.mapped() != 0 {
		return 1
	}
	return 0
}

// at returns the cell of a unit of the run.
func (r *leafRun) at(pos uint32) cell { return r.cell + r.step()*cell(pos-uint32(r.first)) }

// continues reports whether next continues the run r.
func (r *leafRun) continues(next *leafRun) bool {
	return r.end() == uint32(next.first) && r.time == next.time && r.cause == next.cause &&
		r.at(r.end()) == next.cell
}

// runCell is leaf.cell for a leaf of runs.
func (l *leaf) runCell(pos uint32) cell {
	for _, r := range l.runs() {
		if pos < r.end() {
			if pos < uint32(r.first) {
				break
			}
			return r.at(pos)
		}
	}
	return 0
}

// runInfo describes a unit of a leaf of runs.
func (l *leaf) runInfo(pos uint32, u *UnitInfo) {
	for _, r := range l.runs() {
		if uint32(r.first) <= pos && pos < r.end() {
			r.info(pos, u)
			return
		}
	}
}

// info describes a unit of the run.
func (r *leafRun) info(pos uint32, u *UnitInfo) {
	c := r.at(pos)
	u.Busy = c&cellBusy != 0
	u.Lost, u.Pending = c.lost(), c.pending()
	u.Cause, u.Time = r.cause, r.time
	if mask := c.mapped(); mask != 0 {
		u.Places[0] = Place{Spare: c.spare(), Mask: mask}
		u.N = 1
	}
}

// newRuns makes a leaf of runs. It returns nil if there are none.
func newRuns(runs []leafRun) *leaf {
	if len(runs) == 0 {
		return nil
	}
	l := (*leaf)(allocate(leafHead + runSize*len(runs)))
	l.n = uint32(len(runs))
	copy(l.runs(), runs)
	for i := range runs {
		l.summary |= summaryMask(uint32(runs[i].first), runs[i].end()-1)
	}
	return l
}

// runList collects runs, and joins runs that continue each other.
type runList struct {
	runs [mostRuns]leafRun
	n    int
	full bool // there are more runs than fit
}

func (l *runList) add(r leafRun) {
	switch {
	case r.cell == 0 || r.n == 0 || l.full:
	case l.n > 0 && l.runs[l.n-1].continues(&r):
		l.runs[l.n-1].n += r.n
	case l.n == mostRuns:
		l.full = true
	default:
		l.runs[l.n] = r
		l.n++
	}
}

// packRuns makes a leaf of runs of the open leaf. It returns nil if that would mean to load parts
// that the change does not affect.
func (ed *editor) packRuns() *leaf {
	if ed.loaded != allParts || len(ed.wide) > 0 {
		return nil
	}
	list := &ed.list
	list.n, list.full = 0, false
	for i, units := range ed.units {
		for ; units != 0 && !list.full; units &= units - 1 {
			pos := uint16(i<<partShift | bits.TrailingZeros64(units))
			r := &ed.records[pos]
			list.add(leafRun{cell: r.cell, time: r.time, first: pos, n: 1, cause: r.cause})
		}
	}
	if list.full {
		return nil
	}
	return newRuns(list.runs[:list.n])
}

// takeRuns unpacks a leaf of runs into the editor.
func (ed *editor) takeRuns(l *leaf) {
	for _, r := range l.runs() {
		for pos := uint32(r.first); pos < r.end(); pos++ {
			ed.units[pos>>partShift] |= 1 << (pos & (partUnits - 1))
			ed.records[pos] = record{r.at(pos), r.time, r.cause}
		}
	}
}

// whole is the result of an entry for a leaf that the entry covers as a whole.
type whole struct {
	from, to              *leaf
	mapped, pending, lost int64 // changes of the map's counters
	ok                    bool
}

// applyWhole applies an entry to all units of a leaf at once, in the time that its runs take. It
// reports whether it could. It cannot if the leaf has another form, or would need another form.
// before is the result for the leaf before: leaves that were the same leaf before the entry are the
// same leaf after it.
func (ed *editor) applyWhole(m *Map, index uint64, mask uint8, spare uint32, e *metadata.Entry,
	before *whole) bool {
	old := m.leaf(index)
	if old != nil && !old.isRuns() {
		return false
	}
	if !before.ok || before.from != old || e.State == metadata.StateMapped || before.to != nil &&
		before.to.anyMapped() {
		if *before = ed.change(old, mask, spare, e); !before.ok {
			return false
		}
	}
	if before.from != before.to {
		publish(m, index, before.to)
	}
	addTo(&m.mapped, before.mapped)
	addTo(&m.pending, before.pending)
	addTo(&m.lost, before.lost)
	return true
}

// anyMapped reports whether a block of a leaf of runs lives in a spare unit.
func (l *leaf) anyMapped() bool {
	for _, r := range l.runs() {
		if r.cell.mapped() != 0 {
			return true
		}
	}
	return false
}

// change works out the result of an entry for a leaf of runs, or for nil. The entry covers the
// leaf.
func (ed *editor) change(old *leaf, mask uint8, spare uint32, e *metadata.Entry) whole {
	w := whole{from: old}
	list := &ed.list
	list.n, list.full = 0, false
	step := func(r leafRun) bool {
		if r.n == 0 {
			return true
		}
		c, ok := r.cell.change(mask, spare+uint32(r.first), e.State)
		if !ok || uint64(spare)+leafUnits > 1<<32 {
			return false
		}
		n := int64(r.n)
		w.pending += n * int64(bits.OnesCount8(c.pending())-bits.OnesCount8(r.cell.pending()))
		w.lost += n * int64(bits.OnesCount8(c.lost())-bits.OnesCount8(r.cell.lost()))
		w.mapped += n * (anyBit(c.mapped()) - anyBit(r.cell.mapped()))
		next := leafRun{cell: c, time: e.Time, first: r.first, n: r.n, cause: e.Cause}
		if c.atHome() {
			next.time, next.cause = 0, metadata.CauseNone // as put does
		}
		list.add(next)
		return !list.full
	}
	at := uint32(0)
	if old != nil {
		for _, r := range old.runs() {
			if !step(leafRun{first: uint16(at), n: uint16(uint32(r.first) - at)}) || !step(r) {
				return w
			}
			at = r.end()
		}
	}
	if !step(leafRun{first: uint16(at), n: uint16(leafUnits - at)}) {
		return w
	}
	w.to, w.ok = newRuns(list.runs[:list.n]), true
	return w
}

func anyBit(mask uint8) int64 {
	if mask != 0 {
		return 1
	}
	return 0
}

// change returns the cell of a unit after the blocks of mask have got a state. It returns false if
// that needs a wide cell.
func (c cell) change(mask uint8, spare uint32, s metadata.State) (cell, bool) {
	mapped, lost, pending := c.masks(mask, s)
	out := c&cellBusy | cell(mapped)<<cellMapped | cell(lost)<<cellLost | cell(pending)<<cellPending
	switch {
	case mapped == 0:
	case s != metadata.StateMapped:
		out |= cell(c.spare())
	case mapped&^mask != 0 && c.spare() != spare:
		return 0, false
	default:
		out |= cell(spare)
	}
	return out, true
}

// masks returns the masks of a unit after the blocks of mask have got a state.
func (c cell) masks(mask uint8, s metadata.State) (mapped, lost, pending uint8) {
	mapped, lost, pending = c.mapped(), c.lost(), c.pending()
	switch s {
	case metadata.StateHome:
		return mapped &^ mask, lost &^ mask, pending &^ mask
	case metadata.StateMapped:
		return mapped | mask, lost &^ mask, pending &^ mask
	case metadata.StateLost:
		return mapped &^ mask, lost | mask, pending &^ mask
	case metadata.StatePending:
		pending |= mask &^ lost
	}
	return mapped, lost, pending
}

// nextRun is leaf.next for a leaf of runs. The range asked about covers the units from lo to hi.
func (l *leaf) nextRun(m *Map, base, block, end uint64, lo, hi uint32) (Run, bool) {
	shift := m.shift & 7
	first, last := block>>shift, (end-1)>>shift
	runs := l.runs()
	for i := range runs {
		r := &runs[i]
		// The range may exclude the run's blocks in its first and in its last unit.
		for pos := max(uint32(r.first), lo); pos < r.end() && pos <= hi; pos++ {
			unit := base + uint64(pos)
			live := r.at(pos).blocks(m.all)
			if unit == first {
				live &= 0xff << (block & (1<<shift - 1))
			}
			if unit == last {
				live &= 0xff >> (7 - (end-1)&(1<<shift-1))
			}
			if live != 0 {
				return m.along(runs[i:], pos, unit<<shift, end, uint(bits.TrailingZeros8(live))),
					true
			}
		}
	}
	return Run{}, false
}

// along returns the run of blocks that begins with block i of a unit. The unit's first block is
// start. The unit is in the first of these runs of units.
func (m *Map) along(runs []leafRun, pos uint32, start, end uint64, i uint) Run {
	perUnit := uint(1) << (m.shift & 7)
	ce := runs[0].at(pos)
	r := Run{Start: start + uint64(i), Kind: ce.kind(i)}
	if r.Kind&KindMapped != 0 {
		r.Spare = uint64(ce.spare())<<(m.shift&7) + uint64(i)
	}
	n := records{}.same(ce, r.Kind, ce.spare(), i, perUnit)
	r.Count = uint64(n - i)
	if n == perUnit {
		var step cell
		if r.Kind&KindMapped != 0 {
			step = 1
		}
		want := uniform(r.Kind, m.all, ce.spare()) + step
		pos++
		for j := range runs {
			now := &runs[j]
			if j > 0 && uint32(now.first) != pos {
				break
			}
			if pos == now.end() {
				continue
			}
			if c := now.at(pos); c != want {
				r.Count += uint64(records{}.same(c, r.Kind, want.spare(), 0, perUnit))
				break
			}
			// The other units of this run continue it as this unit does.
			left := now.end() - pos
			r.Count += uint64(left) * uint64(perUnit)
			want += step * cell(left)
			pos = now.end()
		}
	}
	r.Count = min(r.Count, end-r.Start)
	return r
}
