package remap

import (
	"math/bits"
	"sync/atomic"

	"ublkremap/metadata"
)

// Apply makes the map say what the entry says. It ignores units past the end of the map and blocks
// that a unit does not have: the decoder of an entry checks it against the device first. It also
// ignores entries about spare units, which belong to the Allocator, and pending for a lost block: a
// lost block has no place from which it could be read.
func (m *Map) Apply(e metadata.Entry) {
	m.writer.apply(m, e)
	m.writer.close(m)
}

// SetBusy marks the count units from unit on as being relocated, or removes that mark.
func (m *Map) SetBusy(unit, count uint64, busy bool) {
	end := min(m.units, unit+min(count, m.units))
	for u := unit; u < end; u++ {
		m.writer.open(m, u>>leafShift)
		m.writer.setBusy(uint32(u&leafMask), busy)
	}
	m.writer.close(m)
}

// Builder makes a Map from many entries at once. It publishes a leaf only when an entry about
// another leaf comes. So it is fast for entries that come in the order of their units, and correct
// for any order.
type Builder struct{ m *Map }

// NewBuilder begins a map; the arguments are those of NewMap.
func NewBuilder(units uint64, blocksPerUnit int) *Builder {
	return &Builder{m: NewMap(units, blocksPerUnit)}
}

// Apply is Map.Apply.
func (b *Builder) Apply(e metadata.Entry) { b.m.writer.apply(b.m, e) }

// Map returns the finished map. The Builder must not be used any more.
func (b *Builder) Map() *Map {
	m := b.m
	b.m = nil
	m.writer.close(m)
	return m
}

// editor is one leaf, unpacked so that it can be changed in place.
type editor struct {
	index   uint64 // of the leaf, or noLeaf
	changed bool
	leaf    *leaf             // as it was
	loaded  uint16            // the parts whose records are in records
	dirty   uint16            // the parts that were changed
	units   [leafParts]uint64 // the units that have a record
	records [leafUnits]record // of those units, by their place in the leaf
	wide    []wideUnit        // what wide cells point to, and what no cell points to any more
	list    runList           // scratch

	mapped, pending, lost int64 // changes of the map's counters
}

// apply opens the leaves that the entry is about, one after the other, and
// leaves the last of them open.
func (ed *editor) apply(m *Map, e metadata.Entry) {
	if e.State.OfSpare() || !e.State.Valid() {
		return
	}
	mask := e.Mask & m.all
	if mask == 0 || e.Unit >= m.units {
		return
	}
	end := e.Unit + min(uint64(e.Count), m.units-e.Unit)
	var same whole
	for u := e.Unit; u < end; {
		stop := min(end, (u|leafMask)+1)
		if stop-u == leafUnits {
			if ed.index == u>>leafShift {
				ed.close(m)
			}
			if ed.applyWhole(m, u>>leafShift, mask, e.Spare+uint32(u-e.Unit), &e, &same) {
				u = stop
				continue
			}
		}
		ed.open(m, u>>leafShift)
		for ; u < stop; u++ {
			ed.set(uint32(u&leafMask), mask, e.Spare+uint32(u-e.Unit), &e)
		}
	}
}

// open unpacks a leaf. It closes the leaf that was open first.
func (ed *editor) open(m *Map, index uint64) {
	if ed.index == index {
		return
	}
	ed.close(m)
	ed.index = index
	ed.leaf = m.leaf(index)
	ed.units = [leafParts]uint64{}
	ed.loaded, ed.dirty = allParts, 0
	ed.wide = ed.wide[:0]
	switch l := ed.leaf; {
	case l == nil:
	case l.isRuns():
		ed.takeRuns(l)
	case l.isParted():
		ed.loaded = 0
		for i := range l.parted().parts {
			ed.units[i] = l.parted().parts[i].units
		}
	default:
		for sum := l.summary; sum != 0; sum &= sum - 1 {
			at := uint32(bits.TrailingZeros64(sum))
			g := l.group(at)
			pos := at << groupShift
			ed.units[pos>>partShift] |= uint64(g.units) << (pos & (partUnits - 1))
			ed.take(g.records, g.first, pos, uint64(g.units))
		}
	}
}

// load unpacks a part of a parted leaf, unless that was done already.
func (ed *editor) load(i uint32) {
	if ed.loaded>>i&1 != 0 {
		return
	}
	ed.loaded |= 1 << i
	p := &ed.leaf.parted().parts[i]
	ed.take(records{p.at, bits.OnesCount64(p.units)}, 0, i<<partShift, p.units)
}

// take copies the records from first on to the units from pos on whose bits are set.
func (ed *editor) take(from records, first int, pos uint32, units uint64) {
	cells, times, causes := from.cells(), from.times(), from.causes()
	for i := first; units != 0; units &= units - 1 {
		c := cells[i]
		if c&cellWide != 0 {
			ed.wide = append(ed.wide, *from.wide(c))
			c = c&^0xffffffff | cell(len(ed.wide)-1)
		}
		ed.records[pos+uint32(bits.TrailingZeros64(units))&(partUnits-1)] = record{c, times[i],
			causes[i]}
		i++
	}
}

// close publishes the open leaf if it was changed.
func (ed *editor) close(m *Map) {
	if ed.index == noLeaf {
		return
	}
	index := ed.index
	ed.index = noLeaf
	if ed.changed {
		publish(m, index, ed.pack())
	}
	ed.leaf = nil
	if !ed.changed {
		return
	}
	ed.changed = false
	addTo(&m.mapped, ed.mapped)
	addTo(&m.pending, ed.pending)
	addTo(&m.lost, ed.lost)
	ed.mapped, ed.pending, ed.lost = 0, 0, 0
}

// addTo changes a counter. A negative change wraps round, so that it subtracts. It skips a change
// of zero, because an atomic addition takes as long as some twenty instructions.
func addTo(sum *atomic.Uint64, by int64) {
	if by != 0 {
		sum.Add(uint64(by))
	}
}

// publish replaces a leaf. Readers can trust a clear bit of the summary because of the order of the
// three stores.
func publish(m *Map, index uint64, l *leaf) {
	at := &m.root[index>>dirShift]
	d := at.Load()
	if d == nil {
		if l == nil {
			return
		}
		d = new(dir)
		at.Store(d)
	}
	s := &d[index&(dirLeaves-1)]
	var summary uint64
	if l != nil {
		summary = l.summary
	}
	old := s.summary.Load()
	if old|summary != old {
		s.summary.Store(old | summary)
	}
	s.leaf.Store(l)
	if old|summary != summary {
		s.summary.Store(summary)
	}
}

// set applies an entry to one unit of the open leaf.
func (ed *editor) set(pos uint32, mask uint8, spare uint32, e *metadata.Entry) {
	r := ed.get(pos)
	mapped, lost, pending := r.cell.masks(mask, e.State)
	c := r.cell&cellBusy | cell(
		mapped)<<cellMapped | cell(lost)<<cellLost | cell(pending)<<cellPending
	if e.State == metadata.StateMapped {
		c |= ed.places(r.cell, mapped, mask, spare)
	} else {
		c |= ed.places(r.cell, mapped, 0, 0)
	}
	ed.put(pos, record{cell: c, time: e.Time, cause: e.Cause})
}

// places returns the new place of a unit: a spare unit, or a wide unit with its flag. old is the
// unit's cell before the change, mapped are its mapped blocks after it, and moved are the blocks
// that now live in spare.
func (ed *editor) places(old cell, mapped, moved uint8, spare uint32) cell {
	stayed := mapped &^ moved
	if old&cellWide == 0 {
		switch {
		case mapped == 0:
			return 0
		case stayed == 0:
			return cell(spare)
		case moved == 0:
			return cell(old.spare())
		}
	}
	var w wideUnit
	one, several := uint32(0), false
	for rest, first := mapped, true; rest != 0; rest, first = rest&(rest-1), false {
		i := bits.TrailingZeros8(rest)
		switch {
		case moved>>i&1 != 0:
			w[i] = spare
		case old&cellWide != 0:
			w[i] = ed.wide[old.spare()][i]
		default:
			w[i] = old.spare()
		}
		if first {
			one = w[i]
		}
		several = several || w[i] != one
	}
	if !several {
		return cell(one) // 0 if nothing is mapped
	}
	if old&cellWide != 0 {
		ed.wide[old.spare()] = w
		return cell(old.spare()) | cellWide
	}
	ed.wide = append(ed.wide, w)
	return cell(len(ed.wide)-1) | cellWide
}

// setBusy sets or clears the flag of one unit of the open leaf.
func (ed *editor) setBusy(pos uint32, busy bool) {
	r := ed.get(pos)
	r.cell &^= cellBusy
	if busy {
		r.cell |= cellBusy
	}
	ed.put(pos, r)
}

// get returns the record of a unit of the open leaf.
func (ed *editor) get(pos uint32) record {
	i := pos >> partShift
	if ed.units[i]>>(pos&(partUnits-1))&1 == 0 {
		return record{}
	}
	ed.load(i)
	return ed.records[pos]
}

// put replaces the record of a unit of the open leaf. It drops a record that says nothing.
func (ed *editor) put(pos uint32, r record) {
	if r.cell.atHome() {
		r.time, r.cause = 0, metadata.CauseNone // no table keeps them
	}
	old := ed.get(pos)
	i, bit := pos>>partShift, uint64(1)<<(pos&(partUnits-1))
	ed.load(i) // what the leaf says of its other units
	if r.cell == 0 {
		ed.units[i] &^= bit
	} else {
		ed.units[i] |= bit
		ed.records[pos] = r
	}
	ed.changed = true
	ed.dirty |= 1 << i
	ed.pending += int64(bits.OnesCount8(
		r.cell.pending())) - int64(bits.OnesCount8(old.cell.pending()))
	ed.lost += int64(bits.OnesCount8(r.cell.lost())) - int64(bits.OnesCount8(old.cell.lost()))
	if r.cell.mapped() != 0 {
		ed.mapped++
	}
	if old.cell.mapped() != 0 {
		ed.mapped--
	}
}
