package metadata

import (
	"fmt"
	"math"
	"math/bits"
	"slices"
)

// Extent is a run of units in the same state. The masks are of the blocks of
// each unit; a block is in at most one of Mapped and Lost, and never both Lost
// and Pending.
type Extent struct {
	Unit  uint64
	Count uint64
	// where bit i of Mapped is set: the spare unit of the first unit's block i; else 0
	Spare   [8]uint32
	Time    uint32 // of the newest entry about them
	Cause   Cause  // of the newest entry about them
	Mapped  uint8  // blocks that live in a spare unit
	Lost    uint8  // blocks without any copy
	Pending uint8  // blocks that cannot be read where they live
}

func (x *Extent) end() uint64 { return x.Unit + x.Count }

// tail returns the part of x from unit on.
func (x *Extent) tail(unit uint64) Extent {
	t, by := *x, unit-x.Unit
	t.Unit, t.Count = unit, x.Count-by
	for m := t.Mapped; m != 0; m &= m - 1 {
		t.Spare[bits.TrailingZeros8(m)] += uint32(by)
	}
	return t
}

// follows reports whether y goes on where x ends, in the same state.
func (x *Extent) follows(y *Extent) bool {
	if x.end() != y.Unit || x.Mapped != y.Mapped || x.Lost != y.Lost || x.Pending != y.Pending ||
		x.Time != y.Time || x.Cause != y.Cause {
		return false
	}
	for m := x.Mapped; m != 0; m &= m - 1 {
		if i := bits.TrailingZeros8(m); uint64(x.Spare[i])+x.Count != uint64(y.Spare[i]) {
			return false
		}
	}
	return x.Count+y.Count <= math.MaxUint32 // an Entry must be able to say it
}

// SpareExtent is a run of spare units out of service.
type SpareExtent struct {
	Spare uint32
	Count uint32
	State State // StateRetired or StateQuarantined
	Time  uint32
	Cause Cause
}

// segments is an ordered set of extents that do not overlap: a list of short
// lists, so that neither a sorted load nor a random change costs much.
type segments struct{ leaves [][]Extent }

const leafMax = 512

// find returns the place of the first extent that ends behind unit.
func (s *segments) find(unit uint64) (leaf, at int) {
	behind := func(x Extent, u uint64) int {
		if x.end() > u {
			return 1
		}
		return -1
	}
	leaf, _ = slices.BinarySearchFunc(s.leaves, unit,
		func(l []Extent, u uint64) int { return behind(l[len(l)-1], u) })
	if leaf < len(s.leaves) {
		at, _ = slices.BinarySearchFunc(s.leaves[leaf], unit, behind)
	}
	return leaf, at
}

// insert returns where x is, until the next change.
func (s *segments) insert(leaf, at int, x Extent) *Extent {
	if leaf == len(s.leaves) {
		if leaf == 0 || len(s.leaves[leaf-1]) == leafMax {
			s.leaves = append(s.leaves, append(make([]Extent, 0, 8), x))
			return &s.leaves[leaf][0]
		}
		leaf--
		at = len(s.leaves[leaf])
	}
	l := slices.Insert(s.leaves[leaf], at, x)
	if half := len(l) / 2; len(l) > leafMax {
		s.leaves = slices.Insert(s.leaves, leaf+1, slices.Clone(l[half:]))
		l = l[:half:half]
		if at >= half {
			s.leaves[leaf] = l
			return &s.leaves[leaf+1][at-half]
		}
	}
	s.leaves[leaf] = l
	return &l[at]
}

func (s *segments) remove(leaf, at int) {
	l := slices.Delete(s.leaves[leaf], at, at+1)
	s.leaves[leaf] = l
	if len(l) == 0 {
		s.leaves = slices.Delete(s.leaves, leaf, leaf+1)
	}
}

// update calls f for every run of units in [unit, end) that is in one state,
// also those without any extent if fill is set; f changes it in place.
func (s *segments) update(unit, end uint64, fill bool, f func(*Extent)) {
	for unit < end {
		leaf, at := s.find(unit)
		gap := end
		if leaf < len(s.leaves) {
			x := &s.leaves[leaf][at]
			switch {
			case x.Unit < unit, x.Unit == unit && x.end() > end:
				cut := unit
				if x.Unit == unit {
					cut = end
				}
				t := x.tail(cut)
				x.Count = cut - x.Unit
				s.insert(leaf, at+1, t)
				continue
			case x.Unit == unit:
				unit = x.end()
				f(x)
				if x.Mapped|x.Lost|x.Pending == 0 {
					s.remove(leaf, at)
				}
				continue
			}
			gap = min(gap, x.Unit)
		}
		if fill {
			f(s.insert(leaf, at, Extent{Unit: unit, Count: gap - unit}))
		}
		unit = gap
	}
}

// next returns the first extent that ends behind unit, cut to begin no earlier
// than that, together with those that continue it.
func (s *segments) next(unit uint64) (Extent, bool) {
	leaf, at := s.find(unit)
	if leaf == len(s.leaves) {
		return Extent{}, false
	}
	x := s.leaves[leaf][at]
	if x.Unit < unit {
		x = x.tail(unit)
	}
	for {
		if at++; at == len(s.leaves[leaf]) {
			if leaf, at = leaf+1, 0; leaf == len(s.leaves) {
				return x, true
			}
		}
		if y := &s.leaves[leaf][at]; !x.follows(y) {
			return x, true
		} else {
			x.Count += y.Count
		}
	}
}

// Table is the remap table as entries state it: for offline work and tests.
// The server keeps its own. Its size follows the number of entries, not the
// number of units that they span.
type Table struct {
	lim    limits
	units  segments
	spares segments // Lost: retired; Pending: quarantined
	dense  Density  // how Entries states it
}

// NewTable returns an empty table for a layout.
func NewTable(l *Layout) *Table { return &Table{lim: l.lim} }

// Apply states an entry. The error is ErrInvalidEntry.
func (t *Table) Apply(e Entry) error {
	if err := t.lim.validate(&e); err != nil {
		return err
	}
	if e.State.OfSpare() {
		t.spares.update(uint64(e.Spare), uint64(e.Spare)+uint64(e.Count), e.State != StateAvailable,
			func(x *Extent) {
				x.Lost, x.Pending, x.Time, x.Cause = 0, 0, e.Time, e.Cause
				switch e.State {
				case StateRetired:
					x.Lost = 1
				case StateQuarantined:
					x.Pending = 1
				}
			})
		return nil
	}
	t.units.update(e.Unit, e.Unit+uint64(e.Count), e.State != StateHome, func(x *Extent) {
		x.Time, x.Cause = e.Time, e.Cause
		if e.State == StatePending {
			x.Pending |= e.Mask &^ x.Lost
			return
		}
		for m := x.Mapped & e.Mask; m != 0; m &= m - 1 {
			x.Spare[bits.TrailingZeros8(m)] = 0
		}
		x.Mapped &^= e.Mask
		x.Lost &^= e.Mask
		x.Pending &^= e.Mask
		switch e.State {
		case StateLost:
			x.Lost |= e.Mask
		case StateMapped:
			x.Mapped |= e.Mask
			for m := e.Mask; m != 0; m &= m - 1 {
				x.Spare[bits.TrailingZeros8(m)] = e.Spare + uint32(x.Unit-e.Unit)
			}
		}
	})
	if e.State == StateMapped {
		// An entry that puts blocks there is a later entry about the unit: it
		// ends a quarantine. Retired is for good.
		t.spares.update(uint64(e.Spare), uint64(e.Spare)+uint64(e.Count), false,
			func(x *Extent) { x.Pending = 0 })
	}
	return nil
}

// Extents calls f with the units that are not plainly at home, in order, until
// it returns false.
func (t *Table) Extents(f func(Extent) bool) {
	for x, ok := t.units.next(0); ok && f(x); x, ok = t.units.next(x.end()) {
	}
}

// SpareExtents calls f with the spare units out of service, in order, until it
// returns false.
func (t *Table) SpareExtents(f func(SpareExtent) bool) {
	for x, ok := t.spares.next(0); ok; x, ok = t.spares.next(x.end()) {
		s := SpareExtent{Spare: uint32(x.Unit), Count: uint32(x.Count), State: StateRetired,
			Time: x.Time, Cause: x.Cause}
		if x.Pending != 0 {
			s.State = StateQuarantined
		}
		if !f(s) {
			return
		}
	}
}

// Block returns the state of one block of a unit: where it lives (spare is
// meaningful for StateMapped), and whether it is pending there.
func (t *Table) Block(unit uint64, block int) (state State, spare uint32, pending bool) {
	bit := uint8(1) << block
	x, ok := t.units.next(unit)
	switch {
	case !ok || x.Unit > unit:
		return StateHome, 0, false
	case x.Lost&bit != 0:
		return StateLost, 0, false
	case x.Mapped&bit != 0:
		return StateMapped, x.Spare[block], x.Pending&bit != 0
	}
	return StateHome, 0, x.Pending&bit != 0
}

// owned is a run of spare units that units own.
type owned struct {
	spare, count uint64
	unit         uint64
}

// owners lists the spare units in use, by spare unit.
func (t *Table) owners() []owned {
	var out []owned
	t.Extents(func(x Extent) bool {
		for m := x.Mapped; m != 0; {
			i := bits.TrailingZeros8(m)
			out = append(out, owned{uint64(x.Spare[i]), x.Count, x.Unit})
			m &^= sameSpare(&x, i)
		}
		return true
	})
	slices.SortFunc(out, func(a, b owned) int {
		if a.spare != b.spare {
			if a.spare < b.spare {
				return -1
			}
			return 1
		}
		return 0
	})
	return out
}

// spareUses is how many spare units the units own, counted once for each that does.
func (t *Table) spareUses() (n uint64) {
	for _, o := range t.owners() {
		n += o.count
	}
	return n
}

// sameSpare returns the mapped blocks that live in the same spare unit as
// block i.
func sameSpare(x *Extent, i int) (mask uint8) {
	for m := x.Mapped; m != 0; m &= m - 1 {
		if j := bits.TrailingZeros8(m); x.Spare[j] == x.Spare[i] {
			mask |= 1 << j
		}
	}
	return mask
}

// Validate checks that no two units own one spare unit; the error is
// ErrDamaged.
func (t *Table) Validate() error {
	var last owned
	for i, o := range t.owners() {
		if i > 0 && last.spare+last.count > o.spare {
			return fmt.Errorf("%w: spare unit %d is owned by unit %d and by unit %d", ErrDamaged,
				o.spare,
				last.unit+o.spare-last.spare, o.unit)
		}
		if i == 0 || o.spare+o.count > last.spare+last.count {
			last = o
		}
	}
	return nil
}

// TableCounts sums a table up.
type TableCounts struct {
	Mapped      uint64 `json:"mapped"`      // units with a block in a spare unit
	Lost        uint64 `json:"lost"`        // blocks
	Pending     uint64 `json:"pending"`     // blocks
	SparesUsed  uint64 `json:"spares_used"` // spare units
	Retired     uint64 `json:"retired"`     // spare units, also those still in use
	Quarantined uint64 `json:"quarantined"` // spare units
	Entries     uint64 `json:"entries"`     // what a checkpoint of it has
}

// Counts sums the table up.
func (t *Table) Counts() (c TableCounts) {
	t.Extents(func(x Extent) bool {
		if x.Mapped != 0 {
			c.Mapped += x.Count
		}
		c.Lost += x.Count * uint64(bits.OnesCount8(x.Lost))
		c.Pending += x.Count * uint64(bits.OnesCount8(x.Pending))
		return true
	})
	c.Entries = CountEntries(t)
	c.SparesUsed = t.spareUses()
	t.SpareExtents(func(x SpareExtent) bool {
		if x.State == StateRetired {
			c.Retired += uint64(x.Count)
		} else {
			c.Quarantined += uint64(x.Count)
		}
		return true
	})
	return c
}

// maxPerExtent is how many entries it takes, at most, to state an extent:
// eight blocks in eight spare units, lost, pending.
const maxPerExtent = 10

func (x *Extent) appendEntries(dst []Entry) []Entry {
	e := Entry{Unit: x.Unit, Count: uint32(x.Count), Time: x.Time, Cause: x.Cause}
	for m := x.Mapped; m != 0; {
		i := bits.TrailingZeros8(m)
		same := sameSpare(x, i)
		e.State, e.Mask, e.Spare = StateMapped, same, x.Spare[i]
		dst = append(dst, e)
		m &^= same
	}
	e.Spare = 0
	if x.Lost != 0 {
		e.State, e.Mask = StateLost, x.Lost
		dst = append(dst, e)
	}
	if x.Pending != 0 {
		e.State, e.Mask = StatePending, x.Pending
		dst = append(dst, e)
	}
	return dst
}

const sparesCursor = 1 << 63 // a cursor into the spare units

// Entries makes a Table a Source. dst must have room for ten entries.
func (t *Table) Entries(cursor uint64, dst []Entry) (n int, next uint64, done bool) {
	n, next, done = t.plain(cursor, dst)
	return Condense(dst[:n], t.dense), next, done
}

// fit has Entries state the table so that a checkpoint holds it.
func (t *Table) fit(l *Layout) {
	t.dense = DensityFor(l, func(d Density) Source {
		denser := *t
		denser.dense = d
		return &denser
	})
}

// plain is Entries at density 0.
func (t *Table) plain(cursor uint64, dst []Entry) (n int, next uint64, done bool) {
	out := dst[:0]
	for cursor&sparesCursor == 0 {
		x, ok := t.units.next(cursor)
		if !ok {
			cursor = sparesCursor
			break
		}
		if len(dst)-len(out) < maxPerExtent {
			return len(out), cursor, false
		}
		out = x.appendEntries(out)
		cursor = x.end()
	}
	for {
		x, ok := t.spares.next(cursor &^ sparesCursor)
		if !ok {
			return len(out), cursor, true
		}
		if len(out) == len(dst) {
			return len(out), cursor, false
		}
		e := Entry{Spare: uint32(x.Unit), Count: uint32(x.Count), Time: x.Time, Cause: x.Cause,
			State: StateRetired}
		if x.Pending != 0 {
			e.State = StateQuarantined
		}
		out = append(out, e)
		cursor = sparesCursor | x.end()
	}
}
