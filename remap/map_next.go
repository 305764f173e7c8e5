package remap

import "math/bits"

// Next returns the first run of blocks at or after block and before end that is not plain home,
// clipped to that range. It returns false if all of the range is plain home. It neither waits nor
// allocates. All blocks of a run have the same kind. If they are mapped they are consecutive in the
// spare space. The run that follows may be of the same kind (runs end with their leaf, at each 4
// MiB).
//
// Two calls may see different states of the Map. A caller that needs one answer for a request keeps
// the result.
func (m *Map) Next(block, end uint64) (r Run, ok bool) {
	if block >= end {
		return Run{}, false
	}
	first, last := block>>(m.shift&7), (end-1)>>(m.shift&7)
	if first>>leafShift == last>>leafShift {
		// Nearly all requests end here: one leaf with nothing in it.
		s := m.slot(first >> leafShift)
		if s == nil {
			return Run{}, false
		}
		summary := s.summary.Load()
		if first == last {
			if summary>>(first>>groupShift&63)&1 == 0 {
				return Run{}, false
			}
			return m.one(s.leaf.Load(), block, end)
		}
		if summary&summaryMask(uint32(first&leafMask), uint32(last&leafMask)) == 0 {
			return Run{}, false
		}
	}
	return m.next(block, end)
}

// one is Next for a range within one unit of the leaf. It answers most of the requests that Next
// has not answered: the unit is mapped as a whole, or is at home after all.
func (m *Map) one(l *leaf, block, end uint64) (Run, bool) {
	if l == nil {
		return Run{}, false
	}
	c := l.cell(uint32(block >> (m.shift & 7) & leafMask))
	in := uint(block & (1<<(m.shift&7) - 1))
	want := ^(^uint8(0) << ((end - block) & 15)) << (in & 7)
	switch {
	case c>>cellLost == 0 && c.mapped()&want == want:
		return Run{Start: block, Count: end - block, Kind: KindMapped,
			Spare: uint64(c.spare())<<(m.shift&7) + uint64(in)}, true
	case c.blocks(m.all)&want == 0:
		return Run{}, false
	}
	return m.next(block, end)
}

// next is Next for a range that is not known to be at home.
func (m *Map) next(block, end uint64) (Run, bool) {
	first, last := block>>(m.shift&7), (end-1)>>(m.shift&7)
	for u := first; u <= last; {
		i := u / dirUnits
		if i >= uint64(len(m.root)) {
			break
		}
		d := m.root[i].Load()
		if d == nil {
			u = (i + 1) * dirUnits
			continue
		}
		hi := min(last, u|leafMask)
		s := &d[u>>leafShift&(dirLeaves-1)]
		if s.summary.Load()&summaryMask(uint32(u&leafMask), uint32(hi&leafMask)) != 0 {
			if l := s.leaf.Load(); l != nil {
				if r, ok := l.next(m, u&^leafMask, block, end); ok {
					return r, true
				}
			}
		}
		u = hi + 1
	}
	return Run{}, false
}

// next is Map.Next within one leaf, whose first unit is base.
func (l *leaf) next(m *Map, base, block, end uint64) (Run, bool) {
	shift := m.shift & 7
	first, last := block>>shift, (end-1)>>shift
	lo, hi := uint32(0), uint32(leafMask)
	if first > base {
		lo = uint32(first - base)
	}
	if last < base+leafMask {
		hi = uint32(last - base)
	}
	if l.isRuns() {
		return l.nextRun(m, base, block, end, lo, hi)
	}
	for sum := l.summary & summaryMask(lo, hi); sum != 0; sum &= sum - 1 {
		at := uint32(bits.TrailingZeros64(sum))
		g := l.group(at)
		units := g.units
		if at == lo>>groupShift {
			units &= 0xffff << (lo & (groupUnits - 1))
		}
		if at == hi>>groupShift {
			units &= 0xffff >> (groupUnits - 1 - hi&(groupUnits-1))
		}
		for ; units != 0; units &= units - 1 {
			k := uint32(bits.TrailingZeros32(units))
			pos := at<<groupShift | k
			unit, index := base+uint64(pos), g.index(k)
			live := g.cells()[index].blocks(m.all)
			if unit == first {
				live &= 0xff << (block & (1<<shift - 1))
			}
			if unit == last {
				live &= 0xff >> (7 - (end-1)&(1<<shift-1))
			}
			if live != 0 {
				c := cursor{group: g, pos: pos, at: index}
				return c.run(l, m, unit<<shift, end, uint(bits.TrailingZeros8(live))), true
			}
		}
	}
	return Run{}, false
}

// cursor is a unit of a leaf that has a record.
type cursor struct {
	group        // the group of the unit
	pos   uint32 // the unit, within the leaf
	at    int    // its record
}

// forward moves to the next unit. It returns false if that unit has no record or lies in another
// leaf.
func (c *cursor) forward(l *leaf) bool {
	c.pos++
	c.at++
	k := c.pos & (groupUnits - 1)
	if k == 0 {
		g := c.pos >> groupShift
		if g == leafGroups {
			return false
		}
		c.group = l.group(g)
		c.at = c.first
	}
	return c.units>>k&1 != 0
}

// row returns the cells of the consecutive units from the cursor to the end of its group at most.
// It moves to the last of them.
func (c *cursor) row() []cell {
	n := bits.TrailingZeros32(^(c.units >> (c.pos & (groupUnits - 1))))
	row := c.cells()[c.at : c.at+n]
	c.pos += uint32(n - 1)
	c.at += n - 1
	return row
}

// run returns the run that begins with block i of the cursor's unit. The first block of the unit is
// start. Block i must not be plain home.
func (c *cursor) run(l *leaf, m *Map, start, end uint64, i uint) Run {
	perUnit := uint(1) << (m.shift & 7)
	ce := c.cells()[c.at]
	r := Run{Start: start + uint64(i), Kind: ce.kind(i)}
	var spare uint32
	if r.Kind&KindMapped != 0 {
		spare = c.spareOf(ce, i)
		r.Spare = uint64(spare)<<(m.shift&7) + uint64(i)
	}
	n := c.same(ce, r.Kind, spare, i, perUnit)
	r.Count = uint64(n - i)
	if n == perUnit {
		// A unit that continues the run as a whole has exactly this cell. The first unit with
		// another cell may still continue the run with its first blocks.
		var step cell
		if r.Kind&KindMapped != 0 {
			step = 1
		}
		want := uniform(r.Kind, m.all, spare) + step
	rows:
		for r.Start+r.Count < end && c.forward(l) {
			for _, next := range c.row() {
				if next != want {
					r.Count += uint64(c.same(next, r.Kind, want.spare(), 0, perUnit))
					break rows
				}
				r.Count += uint64(perUnit)
				want += step
			}
		}
	}
	r.Count = min(r.Count, end-r.Start)
	return r
}

// same returns the first block of the unit, at or after i, that is not of kind k or not in that
// spare unit.
func (r records) same(c cell, k Kind, spare uint32, i, perUnit uint) uint {
	n := min(perUnit, i+uint(bits.TrailingZeros8(^(c.alike(k)>>(i&7)))))
	if k&KindMapped == 0 {
		return n
	}
	if c&cellWide == 0 {
		if c.spare() != spare {
			return i
		}
		return n
	}
	for spares := r.wide(c); i < n && spares[i&7] == spare; {
		i++
	}
	return i
}
