package remap

import (
	"math/bits"

	"ublkremap/metadata"
)

// Apply makes the map say what the entry says. Units past the end of the map
// and blocks that a unit does not have are ignored: whoever decodes an entry
// checks it against the device first. So are entries about spare units, which
// are the Allocator's, and pending for a block that is lost: it has no place
// where it could be read.
func (m *Map) Apply(e metadata.Entry) {
	m.writer.apply(m, e)
	m.writer.close(m)
}

// SetBusy marks the units from unit on as being relocated, or no longer so.
func (m *Map) SetBusy(unit, count uint64, busy bool) {
	end := min(m.units, unit+min(count, m.units))
	for u := unit; u < end; u++ {
		m.writer.open(m, u>>leafShift)
		m.writer.setBusy(uint32(u&leafMask), busy)
	}
	m.writer.close(m)
}

// Builder makes a Map from many entries in one go. It publishes a leaf only
// when an entry about another one comes, so it is fast for entries that
// come in the order of their units and right for any order.
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

// editor is one leaf taken apart, so that it can be changed in place.
type editor struct {
	index   uint64 // of the leaf, or noLeaf
	changed bool
	groups  [leafGroups]uint16 // the units that have a record
	records [leafUnits]record  // of those units, by their place in the leaf
	wide    []wideUnit         // what wide cells point to, and what no cell points to any more

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
	for u := e.Unit; u < end; {
		ed.open(m, u>>leafShift)
		stop := min(end, (u|leafMask)+1)
		for ; u < stop; u++ {
			ed.set(uint32(u&leafMask), mask, e.Spare+uint32(u-e.Unit), &e)
		}
	}
}

// open takes a leaf apart, after it has closed the one that was open.
func (ed *editor) open(m *Map, index uint64) {
	if ed.index == index {
		return
	}
	ed.close(m)
	ed.index = index
	ed.groups = [leafGroups]uint16{}
	ed.wide = ed.wide[:0]
	l := m.leaf(index)
	if l == nil {
		return
	}
	if l.wide != nil {
		ed.wide = append(ed.wide, *l.wide...)
	}
	from := l.records
	at := 0
	for sum := l.summary; sum != 0; sum &= sum - 1 {
		g := bits.TrailingZeros64(sum)
		units := uint16(l.groups[at])
		at++
		ed.groups[g] = units
		to := ed.records[g<<groupShift:][:groupUnits]
		if units == 1<<groupUnits-1 {
			copy(to, from)
			from = from[groupUnits:]
			continue
		}
		for ; units != 0; units &= units - 1 {
			to[bits.TrailingZeros16(units)] = from[0]
			from = from[1:]
		}
	}
}

// close publishes the open leaf, if it was changed.
func (ed *editor) close(m *Map) {
	if ed.index == noLeaf {
		return
	}
	index := ed.index
	ed.index = noLeaf
	if !ed.changed {
		return
	}
	ed.changed = false
	publish(m, index, ed.pack())
	// A negative change wraps round to what subtracts.
	m.mapped.Add(uint64(ed.mapped))
	m.pending.Add(uint64(ed.pending))
	m.lost.Add(uint64(ed.lost))
	ed.mapped, ed.pending, ed.lost = 0, 0, 0
}

// publish replaces a leaf. The order of the three stores is what lets readers
// trust a clear bit of the summary.
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
	s.summary.Store(s.summary.Load() | summary)
	s.leaf.Store(l)
	s.summary.Store(summary)
}

// pack makes an immutable leaf of what is open, or nil if that is empty.
func (ed *editor) pack() *leaf {
	var summary uint64
	n := 0
	for g, units := range ed.groups {
		if units != 0 {
			summary |= 1 << g
			n += bits.OnesCount16(units)
		}
	}
	if n == 0 {
		return nil
	}
	l := &leaf{
		summary: summary,
		groups:  make([]uint32, 0, bits.OnesCount64(summary)),
		records: make([]record, 0, n),
	}
	for sum := summary; sum != 0; sum &= sum - 1 {
		g := bits.TrailingZeros64(sum)
		units := ed.groups[g]
		l.groups = append(l.groups, uint32(len(l.records))<<16|uint32(units))
		from := ed.records[g<<groupShift:][:groupUnits]
		if units == 1<<groupUnits-1 {
			l.records = append(l.records, from...)
			continue
		}
		for ; units != 0; units &= units - 1 {
			l.records = append(l.records, from[bits.TrailingZeros16(units)])
		}
	}
	if len(ed.wide) > 0 {
		l.packWide(ed.wide)
	}
	return l
}

// packWide gives the leaf those of the wide units that its cells point to.
func (l *leaf) packWide(all []wideUnit) {
	var kept []wideUnit
	for i := range l.records {
		c := &l.records[i].cell
		if *c&cellWide == 0 {
			continue
		}
		kept = append(kept, all[c.spare()])
		*c = *c&^0xffffffff | cell(len(kept)-1)
	}
	if kept != nil {
		l.wide = &kept
	}
}

// set applies an entry to one unit of the open leaf.
func (ed *editor) set(pos uint32, mask uint8, spare uint32, e *metadata.Entry) {
	r := ed.get(pos)
	mapped, lost, pending := r.cell.mapped(), r.cell.lost(), r.cell.pending()
	switch e.State {
	case metadata.StateHome:
		mapped, lost, pending = mapped&^mask, lost&^mask, pending&^mask
	case metadata.StateMapped:
		mapped, lost, pending = mapped|mask, lost&^mask, pending&^mask
	case metadata.StateLost:
		mapped, lost, pending = mapped&^mask, lost|mask, pending&^mask
	case metadata.StatePending:
		pending |= mask &^ lost
	}
	c := r.cell&cellBusy | cell(mapped)<<cellMapped | cell(lost)<<cellLost | cell(pending)<<cellPending
	if e.State == metadata.StateMapped {
		c |= ed.places(r.cell, mapped, mask, spare)
	} else {
		c |= ed.places(r.cell, mapped, 0, 0)
	}
	ed.put(pos, record{cell: c, time: e.Time, cause: e.Cause})
}

// places returns the spare unit, or the wide unit and its flag, of a unit
// whose cell was old, whose mapped blocks are now those of mapped, and of which
// those of moved now live in spare.
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
	if ed.groups[pos>>groupShift]>>(pos&(groupUnits-1))&1 == 0 {
		return record{}
	}
	return ed.records[pos]
}

// put replaces the record of a unit of the open leaf, and drops it if it says
// nothing.
func (ed *editor) put(pos uint32, r record) {
	old := ed.get(pos)
	g, bit := &ed.groups[pos>>groupShift], uint16(1)<<(pos&(groupUnits-1))
	if r.cell == 0 {
		*g &^= bit
	} else {
		*g |= bit
		ed.records[pos] = r
	}
	ed.changed = true
	ed.pending += int64(bits.OnesCount8(r.cell.pending())) - int64(bits.OnesCount8(old.cell.pending()))
	ed.lost += int64(bits.OnesCount8(r.cell.lost())) - int64(bits.OnesCount8(old.cell.lost()))
	if r.cell.mapped() != 0 {
		ed.mapped++
	}
	if old.cell.mapped() != 0 {
		ed.mapped--
	}
}
