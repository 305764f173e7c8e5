package remap

import (
	"math/bits"

	"ublkremap/metadata"
)

// entriesBudget is how many units Entries looks at before it returns, so that
// a table that coalesces well does not hold its caller up. A variable, for the
// tests.
var entriesBudget = 1 << 15

// Entries writes the table into dst as entries in the order of their units,
// from cursor on, and returns how many they are, the cursor to go on from, and
// whether that was the end. The first cursor is 0. It may return fewer entries
// than fit, even before the end, but then at least one, provided that dst has room for
// one. Applied in this order to an empty map they give the same table, but for
// busy, which is not in it.
//
// Units in a row are one entry if they differ in nothing but the spare unit
// and that grows with them. A unit needs several entries if its blocks live in
// several places or differ in state; pending comes last, because mapped clears
// it.
//
// The writer may go on between calls. What is returned then is fuzzy: each
// entry was true of its blocks at some time since the first call, and each
// block that is not at home and has not changed since the first call is in it.
// That is what a checkpoint needs that has the log behind it.
func (m *Map) Entries(cursor uint64, dst []metadata.Entry) (n int, next uint64, done bool) {
	// A cursor is unit × 16 + phase. Phases 0 to 7 state where the blocks
	// from that one on live; phase 8 states which are pending. It names blocks
	// rather than entries, because a unit's entries may change in between.
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
				if phase, ok = out.unit(g.records, g.index(k), unit, phase); !ok {
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
}

// unit states the unit of record i from a phase on. If dst is full it returns false and the
// phase to go on from.
func (w *entryWriter) unit(r records, i int, unit uint64, phase uint) (uint, bool) {
	c := r.cells()[i]
	e := metadata.Entry{Unit: unit, Count: 1, Cause: r.causes()[i], Time: r.times()[i]}
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

// put adds an entry about one unit, to the entry before it if that can be.
func (w *entryWriter) put(e metadata.Entry) bool {
	if w.n > 0 {
		p := &w.dst[w.n-1]
		spare := p.Spare
		if e.State == metadata.StateMapped {
			spare += p.Count
		}
		if p.State == e.State && p.Mask == e.Mask && p.Unit+uint64(p.Count) == e.Unit && spare == e.Spare &&
			p.Cause == e.Cause && p.Time == e.Time && p.Count != ^uint32(0) {
			p.Count++
			return true
		}
	}
	if w.n == len(w.dst) {
		return false
	}
	w.dst[w.n] = e
	w.n++
	return true
}
