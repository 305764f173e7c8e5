package remap

import (
	"math/bits"
	"unsafe"
)

// walk calls f for each unit that has a record, in ascending order, until f
// returns an error. f must not keep info.
func (m *Map) walk(f func(unit uint64, info *UnitInfo) error) error {
	var info UnitInfo
	for index := range m.leaves() {
		l := m.leaf(index)
		if l == nil {
			continue
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
	}
	return nil
}

// leaves yields the indices of the leaves of all directories that exist.
func (m *Map) leaves() func(yield func(index uint64) bool) {
	return func(yield func(uint64) bool) {
		for i := range m.root {
			if m.root[i].Load() == nil {
				continue
			}
			for j := uint64(0); j < dirLeaves; j++ {
				if !yield(uint64(i)<<dirShift | j) {
					return
				}
			}
		}
	}
}

// Bytes returns how much memory the map takes, counted from its structure. It
// visits every leaf.
func (m *Map) Bytes() uint64 {
	total := uint64(unsafe.Sizeof(*m)) + uint64(len(m.root))*uint64(unsafe.Sizeof(m.root[0]))
	for i := range m.root {
		if m.root[i].Load() != nil {
			total += uint64(unsafe.Sizeof(dir{}))
		}
	}
	for index := range m.leaves() {
		l := m.leaf(index)
		if l == nil {
			continue
		}
		if l.cells != 0 {
			total += uint64(l.cells) + uint64(l.flat().bytes())
			continue
		}
		total += uint64(unsafe.Sizeof(parted{}))
		for _, p := range l.parted().parts {
			total += uint64(records{p.at, bits.OnesCount64(p.units)}.bytes())
		}
	}
	return total
}
