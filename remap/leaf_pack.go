package remap

import (
	"math/bits"
	"unsafe"

	"ublkremap/metadata"
)

// pack makes an immutable leaf of the open one. It returns nil if that is empty.
func (ed *editor) pack() *leaf {
	n := 0
	var summary uint64
	var present uint16 // parts
	for i, units := range ed.units {
		if units != 0 {
			n += bits.OnesCount64(units)
			summary |= groupsOf(units) << (i * partUnits / groupUnits)
			present |= 1 << i
		}
	}
	switch {
	case n == 0:
		return nil
	case n <= flatRecords:
		return ed.packFlat(summary, present, n)
	}
	if l := ed.packRuns(); l != nil {
		return l
	}
	return ed.packParted(summary)
}

// groupsOf returns which of the four groups of a part have units.
func groupsOf(units uint64) (groups uint64) {
	for g := 0; units != 0; g++ {
		if units&(1<<groupUnits-1) != 0 {
			groups |= 1 << g
		}
		units >>= groupUnits
	}
	return groups
}

// allocate returns memory without pointers, zeroed and aligned to 8 bytes. Both unsafe pointers and
// typed pointers lead to it. Either sort keeps it alive.
func allocate(bytes int) unsafe.Pointer {
	return unsafe.Pointer(unsafe.SliceData(make([]uint64, bytes/8)))
}

func (ed *editor) packFlat(summary uint64, present uint16, n int) *leaf {
	wides := 0
	for p := present; p != 0; p &= p - 1 {
		i := uint32(bits.TrailingZeros16(p))
		ed.load(i)
		wides += ed.wides(i)
	}
	cells := leafHead + groupBytes(bits.OnesCount64(summary))
	l := (*leaf)(allocate(cells + recordBytes(n) + wides*wideSize))
	l.summary, l.cells, l.n = summary, uint32(cells), uint32(n)
	words := unsafe.Slice((*uint32)(unsafe.Add(unsafe.Pointer(l), leafHead)),
		bits.OnesCount64(summary))
	at := 0
	for sum := summary; sum != 0; sum &= sum - 1 {
		pos := bits.TrailingZeros64(sum) * groupUnits
		units := ed.units[pos>>partShift] >> (pos & (partUnits - 1)) & (1<<groupUnits - 1)
		words[0] = uint32(at)<<16 | uint32(units)
		words = words[1:]
		at += bits.OnesCount64(units)
	}
	w := packer{records: l.flat()}
	for p := present; p != 0; p &= p - 1 {
		ed.give(&w, uint32(bits.TrailingZeros16(p)))
	}
	return l
}

// packParted reuses the parts that were not changed.
func (ed *editor) packParted(summary uint64) *leaf {
	l := &parted{leaf: leaf{summary: summary}}
	for i := range uint32(leafParts) {
		if ed.dirty>>i&1 == 0 && ed.leaf != nil && ed.leaf.isParted() {
			l.parts[i] = ed.leaf.parted().parts[i]
			continue
		}
		n := bits.OnesCount64(ed.units[i])
		if n == 0 {
			continue
		}
		at := allocate(recordBytes(n) + ed.wides(i)*wideSize)
		l.parts[i] = part{units: ed.units[i], at: at}
		ed.give(&packer{records: records{at, n}}, i)
	}
	return &l.leaf
}

// wides returns how many of a part's units are wide. The part must be loaded.
func (ed *editor) wides(i uint32) (n int) {
	if len(ed.wide) == 0 {
		return 0
	}
	for units := ed.units[i]; units != 0; units &= units - 1 {
		if ed.records[i<<partShift|uint32(bits.TrailingZeros64(units))].cell&cellWide != 0 {
			n++
		}
	}
	return n
}

// packer writes the records of a leaf that is not published yet, one after the other.
type packer struct {
	records
	next, wides int
}

// give packs the records of a part. The part must be loaded.
func (ed *editor) give(w *packer, i uint32) {
	cells, times, causes := w.cells(), w.times(), w.causes()
	for units := ed.units[i]; units != 0; units &= units - 1 {
		r := &ed.records[i<<partShift|uint32(bits.TrailingZeros64(units))]
		c := r.cell
		if c&cellWide != 0 {
			from := &ed.wide[c.spare()]
			c = c&^0xffffffff | cell(w.wides)
			*w.wide(c) = *from
			w.wides++
		}
		cells[w.next], times[w.next], causes[w.next] = c, r.time, r.cause
		w.next++
	}
}

var _ [1]byte = [unsafe.Sizeof(metadata.Cause(0))]byte{}
