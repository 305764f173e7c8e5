package remap

import (
	"math/bits"

	"ublkremap/metadata"
)

// entriesBudget is how many units Entries examines before it returns, so that a table that
// coalesces well does not block its caller. It is a variable for the tests.
var entriesBudget = 1 << 15

// Entries writes the table into dst as entries in the order of their units, starting at cursor. It
// returns how many entries there are, the cursor to continue from, and whether that was the end.
// The first cursor is 0. It may return fewer entries than fit, even before the end. It then returns
// at least one, provided that dst has room for one. The entries, applied in this order to an empty
// map, give the same table except for busy, which is not in it.
//
// Consecutive units are one entry if they differ only in the spare unit and the spare unit grows
// with them. A unit needs several entries if its blocks live in several places or differ in state.
// Pending comes last, because mapped clears it. Consecutive units that need several entries each
// need no more entries together than one of them does, as long as these are few.
//
// The writer may go on between calls. The result is fuzzy then: each entry was true of its blocks
// at some time since the first call, and each block that is not at home and has not changed since
// the first call is in it. A checkpoint needs no more than that, because it has the log behind it.
func (m *Map) Entries(cursor uint64, dst []metadata.Entry) (n int, next uint64, done bool) {
	// A cursor is unit × 16 + phase. Phases 0 to 7 state where the blocks from that one on live.
	// Phase 8 states which are pending. A cursor names blocks and not entries, because a unit's
	// entries may change between calls.
	out := entryWriter{dst: dst}
	unit, phase := cursor>>cursorPhase, uint(cursor&(1<<cursorPhase-1))
	if len(dst) == 0 {
		return 0, cursor, unit >= m.units
	}
	for left := entriesBudget; unit < m.units; {
		i := unit / dirUnits
		d := m.root[i].Load()
		if d == nil {
			unit, phase = (i+1)*dirUnits, 0
			continue
		}
		base := unit &^ leafMask
		l := d[base>>leafShift&(dirLeaves-1)].leaf.Load()
		if l == nil {
			unit, phase = base+leafUnits, 0
			continue
		}
		if l.isRuns() {
			var ok bool
			if unit, phase, ok = out.runs(l, base, unit, phase, &left); !ok {
				return out.n, unit<<cursorPhase | uint64(phase), false
			}
			continue
		}
		for sum := l.summary & summaryMask(uint32(unit-base), leafMask); sum != 0; sum &= sum - 1 {
			at := uint32(bits.TrailingZeros64(sum))
			g := l.group(at)
			for units := g.units; units != 0; units &= units - 1 {
				k := uint32(bits.TrailingZeros32(units))
				u := base + uint64(at<<groupShift|k)
				if u < unit {
					continue
				}
				if u > unit {
					unit, phase = u, 0
				}
				if left <= 0 && out.n > 0 {
					return out.n, unit<<cursorPhase | uint64(phase), false
				}
				left--
				var ok bool
				r := g.index(k)
				if phase, ok = out.unit(g.records, g.cells()[r], metadata.Entry{Unit: unit,
					Count: 1, Cause: g.causes()[r], Time: g.times()[r]}, phase); !ok {
					return out.n, unit<<cursorPhase | uint64(phase), false
				}
				unit, phase = unit+1, 0
			}
		}
		unit, phase = base+leafUnits, 0
	}
	return out.n, m.units << cursorPhase, true
}

const (
	cursorPhase  = 4 // bits of a cursor that hold the phase
	pendingPhase = MaxPlaces
)

// entryWriter fills dst.
type entryWriter struct {
	dst []metadata.Entry
	n   int
	// after: the next entry comes behind the entries before this one, of the same unit.
	after int
}

// maxPerRun is how many entries a run of units takes: mapped, lost, pending.
const maxPerRun = 3

// runs states a leaf of runs, from a unit and a phase on, and returns where to continue. It returns
// false if dst is full or the budget is used up.
func (w *entryWriter) runs(l *leaf, base, unit uint64, phase uint, left *int) (uint64, uint, bool) {
	for _, r := range l.runs() {
		for unit < base+uint64(r.end()) {
			if start := base + uint64(r.first); unit < start {
				unit, phase = start, 0
			}
			if *left <= 0 && w.n > 0 {
				return unit, phase, false
			}
			*left--
			// State all of a run at once, or nothing of it. A cursor names one unit, and what lies
			// behind that unit may have become another run before the next call.
			n := base + uint64(r.end()) - unit
			if phase != 0 || len(w.dst)-w.n < maxPerRun {
				if phase == 0 && w.n > 0 && len(w.dst) >= maxPerRun {
					return unit, 0, false
				}
				n = 1
			}
			e := metadata.Entry{Unit: unit, Count: uint32(n), Cause: r.cause, Time: r.time}
			var ok bool
			if phase, ok = w.unit(records{}, r.at(uint32(unit-base)), e, phase); !ok {
				return unit, phase, false
			}
			unit, phase = unit+n, 0
		}
	}
	return base + leafUnits, 0, true
}

// unit states units with that cell, as many as e says, from a phase on. If dst is full it returns
// false and the phase to continue from.
func (w *entryWriter) unit(r records, c cell, e metadata.Entry, phase uint) (uint, bool) {
	w.after = max(0, w.n-maxPerRun)
	if phase < pendingPhase {
		left := (c.mapped() | c.lost()) & (0xff << phase)
		for left != 0 {
			i := uint(bits.TrailingZeros8(left))
			if c.lost()>>i&1 != 0 {
				e.State, e.Spare, e.Mask = metadata.StateLost, 0, c.lost()&left
			} else {
				p := r.place(c, c.mapped()&left)
				e.State, e.Spare, e.Mask = metadata.StateMapped, p.Spare, p.Mask
			}
			if !w.put(e) {
				return i, false
			}
			left &^= e.Mask
		}
	}
	if c.pending() != 0 {
		e.State, e.Spare, e.Mask = metadata.StatePending, 0, c.pending()
		if !w.put(e) {
			return pendingPhase, false
		}
	}
	return 0, true
}

// put adds an entry. It extends one of the last entries before it if that is possible: an entry of
// the units directly before, with what else is stated of those units behind it.
func (w *entryWriter) put(e metadata.Entry) bool {
	for i := w.after; i < w.n; i++ {
		p := &w.dst[i]
		spare := p.Spare
		if e.State == metadata.StateMapped {
			spare += p.Count
		}
		if p.Unit+uint64(p.Count) == e.Unit && p.State == e.State && p.Mask == e.Mask &&
			spare == e.Spare &&
			p.Cause == e.Cause && p.Time == e.Time && e.Count <= ^uint32(0)-p.Count {
			p.Count += e.Count
			w.after = i + 1
			return true
		}
	}
	if w.n == len(w.dst) {
		return false
	}
	w.dst[w.n] = e
	w.n++
	w.after = w.n
	return true
}
