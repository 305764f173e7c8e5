package remap

import (
	"math/bits"
	"unsafe"
)

// walk calls f for each unit that has a record, in ascending order, until f returns an error. It
// leaves out runs of units of which no block lives in a spare unit. f must not keep info.
func (m *Map) walk(f func(unit uint64, info *UnitInfo) error) error {
	var info UnitInfo
	return m.eachLeaf(func(index uint64, l *leaf) error {
		if l.isRuns() {
			return l.walkRuns(index<<leafShift, &info, f)
		}
		for sum := l.summary; sum != 0; sum &= sum - 1 {
			at := uint64(bits.TrailingZeros64(sum))
			g := l.group(uint32(at))
			next := g.first
			for units := g.units; units != 0; units &= units - 1 {
				info = UnitInfo{}
				g.info(next, &info)
				next++
				unit := index<<leafShift | at<<groupShift | uint64(bits.TrailingZeros32(units))
				if err := f(unit, &info); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func (l *leaf) walkRuns(base uint64, info *UnitInfo,
	f func(unit uint64, info *UnitInfo) error) error {
	for _, r := range l.runs() {
		if r.cell.mapped() == 0 {
			continue
		}
		for pos := uint32(r.first); pos < r.end(); pos++ {
			*info = UnitInfo{}
			r.info(pos, info)
			if err := f(base+uint64(pos), info); err != nil {
				return err
			}
		}
	}
	return nil
}

// eachLeaf calls f for each leaf, in ascending order, until f returns an error. Most slots of a
// table of scattered units are empty, so most of the time goes to examining slots.
func (m *Map) eachLeaf(f func(index uint64, l *leaf) error) error {
	for i := range m.root {
		d := m.root[i].Load()
		if d == nil {
			continue
		}
		for j := range d {
			if l := d[j].leaf.Load(); l != nil {
				if err := f(uint64(i)<<dirShift|uint64(j), l); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// Bytes returns how much memory the map takes, computed from its structure. It visits every leaf. A
// leaf that is in several consecutive places is counted once.
func (m *Map) Bytes() uint64 {
	total := uint64(unsafe.Sizeof(*m)) + uint64(len(m.root))*uint64(unsafe.Sizeof(m.root[0]))
	for i := range m.root {
		if m.root[i].Load() != nil {
			total += uint64(unsafe.Sizeof(dir{}))
		}
	}
	var last *leaf
	_ = m.eachLeaf(func(_ uint64, l *leaf) error { // f never fails
		if l == last {
			return nil
		}
		last = l
		if l.isRuns() {
			total += leafHead + uint64(l.n)*runSize
			return nil
		}
		if l.cells != 0 {
			total += uint64(l.cells) + uint64(l.flat().bytes())
			return nil
		}
		total += uint64(unsafe.Sizeof(parted{}))
		for _, p := range l.parted().parts {
			total += uint64(records{p.at, bits.OnesCount64(p.units)}.bytes())
		}
		return nil
	})
	return total
}
