package remap

import (
	"math/bits"

	"ublkremap/metadata"
)

// SurfaceCell counts the blocks of a range that are not plain home. Each is counted once: a block
// that lives in a spare unit and does not read counts as pending.
type SurfaceCell struct {
	Cell                  uint64 // number of the range
	Mapped, Pending, Lost uint64 // blocks

	// Time, in seconds since 1970, and Cause are of the newest entry about a unit of which the
	// cell has such blocks. Of several of that time it is the first one's.
	Time  uint32
	Cause metadata.Cause
}

// Surface divides the blocks from start on and before end into cells of perCell blocks, the last of
// which may have fewer. It calls f for each cell that has blocks that are not plain home, in
// ascending order, until f returns an error. It returns that error.
//
// It takes no lock and keeps nothing, so its cost is that of a walk over the records of the range.
// Changes of the Map during the walk are seen in part. perCell must not be 0.
func (m *Map) Surface(start, end, perCell uint64, f func(SurfaceCell) error) error {
	end = min(end, m.units<<m.shift)
	w := surfaceWalk{start: start, end: end, per: perCell, blocks: 1 << m.shift, f: f}
	if start >= end {
		return nil
	}
	for u, last := start>>m.shift, (end-1)>>m.shift; u <= last && w.err == nil; {
		d := m.root[u/dirUnits].Load()
		if d == nil {
			u = (u/dirUnits + 1) * dirUnits
			continue
		}
		base := u &^ leafMask
		if l := d[u>>leafShift&(dirLeaves-1)].leaf.Load(); l != nil {
			w.leaf(l, base<<m.shift)
		}
		u = base + leafUnits
	}
	w.flush()
	return w.err
}

// surfaceWalk adds blocks up, cell by cell.
type surfaceWalk struct {
	start, end, per uint64
	blocks          uint64 // of a unit
	f               func(SurfaceCell) error
	err             error

	now    SurfaceCell
	lo, hi uint64 // blocks of the cell now; none: there is no cell yet
}

// leaf adds the records of a leaf, whose first block is base.
func (w *surfaceWalk) leaf(l *leaf, base uint64) {
	if l.isRuns() {
		for _, r := range l.runs() {
			w.run(base+uint64(r.first)*w.blocks, uint64(r.n), r.cell, note{r.time, r.cause})
		}
		return
	}
	for sum := l.summary; sum != 0; sum &= sum - 1 {
		at := uint32(bits.TrailingZeros64(sum))
		g := l.group(at)
		next := g.first
		for units := g.units; units != 0; units &= units - 1 {
			pos := uint64(at<<groupShift) | uint64(bits.TrailingZeros32(units))
			w.run(base+pos*w.blocks, 1, g.cells()[next], note{g.times()[next], g.causes()[next]})
			next++
		}
	}
}

// run adds units that are alike but for their spare units. The first begins with block first.
func (w *surfaceWalk) run(first, units uint64, c cell, why note) {
	if c.atHome() {
		return
	}
	for units > 0 && first < w.end {
		n := uint64(0) // units that lie in one cell as a whole
		if w.enter(first) {
			n = min(units, (w.hi-first)/w.blocks)
		}
		if n == 0 {
			w.unit(first, c, why)
			n = 1
		} else {
			w.add(c, 0xff, n, why)
		}
		first, units = first+n*w.blocks, units-n
	}
}

// unit adds the blocks of one unit, one by one.
func (w *surfaceWalk) unit(first uint64, c cell, why note) {
	for i := range w.blocks {
		if w.enter(first + i) {
			w.add(c, 1<<i, 1, why)
		}
	}
}

// add counts so many units with that cell, of which only the blocks of mask are meant.
func (w *surfaceWalk) add(c cell, mask uint8, units uint64, why note) {
	if why.time > w.now.Time && (c.lost()|c.pending()|c.mapped())&mask != 0 {
		w.now.Time, w.now.Cause = why.time, why.cause
	}
	count := func(blocks uint8) uint64 { return units * uint64(bits.OnesCount8(blocks&mask)) }
	w.now.Lost += count(c.lost())
	w.now.Pending += count(c.pending())
	w.now.Mapped += count(c.mapped() &^ c.pending())
}

// enter makes the cell of a block the one that is counted. It returns false if the block is not in
// the range.
func (w *surfaceWalk) enter(block uint64) bool {
	switch {
	case block < w.start || block >= w.end:
		return false
	case w.lo <= block && block < w.hi:
		return true
	}
	w.flush()
	n := (block - w.start) / w.per
	w.now = SurfaceCell{Cell: n}
	w.lo = w.start + n*w.per
	w.hi = w.lo + min(w.per, w.end-w.lo)
	return true
}

// flush passes the cell on that was counted.
func (w *surfaceWalk) flush() {
	if w.err == nil && w.now.Mapped+w.now.Pending+w.now.Lost > 0 {
		w.err = w.f(w.now)
	}
	w.now = SurfaceCell{}
}
