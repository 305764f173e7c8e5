package remap

import (
	"math/bits"
	"sync/atomic"

	"ublkremap/metadata"
)

// The Map is a tree of fixed depth:
//
//	root ─► directory ─► slot {summary, leaf} ─► leaf {summary, groups, records}
//	 one pointer per 4 GiB    1024 slots of 16 bytes     4 MiB of the device
//
// A group is 16 units (64 KiB). Bit g of a summary says that group g of the
// leaf holds a unit that is not plain home. The slot carries a copy of the
// leaf's summary, so that a reader whose blocks are all at home is done after
// three loads and never touches the leaf. The leaf keeps one 32-bit word per
// group that is not empty, and one record per unit that is not plain home,
// both packed: popcounts lead from the unit to the record.
const (
	groupShift = 4 // log2 of the units per group
	groupUnits = 1 << groupShift

	leafGroups = 64 // the bits of a summary
	leafShift  = groupShift + 6
	leafUnits  = 1 << leafShift
	leafMask   = leafUnits - 1

	dirShift  = 10 // log2 of the slots per directory
	dirLeaves = 1 << dirShift
	dirUnits  = leafUnits * dirLeaves

	noLeaf = ^uint64(0)
)

// slot is where a leaf is published. The summary is a hint that is never too
// small: the writer sets bits before it stores the leaf that needs them and
// clears bits only after it has stored a leaf that does not. So a reader that
// finds its bits clear may take its units to be at home, and a reader that finds
// one set must ask the leaf.
type slot struct {
	summary atomic.Uint64
	leaf    atomic.Pointer[leaf]
}

// dir is made when the first leaf in its range is, and stays.
type dir [dirLeaves]slot

// leaf is immutable once published. It has exactly 64 bytes: one cache line.
type leaf struct {
	summary uint64
	groups  []uint32 // per bit of summary: the group's units in the low half, the index of its first record in the high half
	records []record
	wide    *[]wideUnit // of the units whose cell is flagged wide
}

// record is what is kept of a unit.
type record struct {
	cell  cell
	time  uint32
	cause metadata.Cause
}

// cell is the part of a record that a request needs, in one word so that a run
// of like units is found by comparing words:
//
//	bits  0–31  spare unit; 0 if nothing is mapped; for a wide unit its index in leaf.wide
//	bits 32–39  mask of the mapped blocks
//	bits 40–47  mask of the lost blocks
//	bits 48–55  mask of the pending blocks
//	bits 56–63  flags
type cell uint64

const (
	cellMapped  = 32
	cellLost    = 40
	cellPending = 48
	cellBusyBit = 56

	cellBusy cell = 1 << cellBusyBit // the unit is being relocated
	cellWide cell = 1 << 57          // its blocks live in more than one spare unit
)

// wideUnit holds the spare unit of each mapped block of a unit whose blocks
// live in more than one.
type wideUnit [MaxPlaces]uint32

func (c cell) spare() uint32  { return uint32(c) }
func (c cell) mapped() uint8  { return uint8(c >> cellMapped) }
func (c cell) lost() uint8    { return uint8(c >> cellLost) }
func (c cell) pending() uint8 { return uint8(c >> cellPending) }

// blocks returns the mask of the blocks that are not plain home.
func (c cell) blocks(all uint8) uint8 {
	if c&cellBusy != 0 {
		return all
	}
	return c.mapped() | c.lost() | c.pending()
}

// kind returns the kind of block i.
func (c cell) kind(i uint) Kind {
	at := c >> (i & 7)
	return Kind(at>>cellMapped&1) | Kind(at>>cellLost&1)<<1 | Kind(at>>cellPending&1)<<2 | Kind(c>>cellBusyBit&1)<<3
}

// alike returns the mask of the blocks that are of kind k. Bits of blocks that
// the unit does not have may be set.
func (c cell) alike(k Kind) uint8 {
	// Each -(flag) is all ones if the flag is set.
	unlike := (c.mapped() ^ -uint8(k&1)) | (c.lost() ^ -uint8(k>>1&1)) | (c.pending() ^ -uint8(k>>2&1))
	if (c&cellBusy != 0) != (k&KindBusy != 0) {
		return 0
	}
	return ^unlike
}

// uniform returns the cell of a unit of which all blocks are of kind k, in
// spare unit spare if that is a mapped kind.
func uniform(k Kind, all uint8, spare uint32) cell {
	var c cell
	if k&KindMapped != 0 {
		c = cell(all)<<cellMapped | cell(spare)
	}
	if k&KindLost != 0 {
		c |= cell(all) << cellLost
	}
	if k&KindPending != 0 {
		c |= cell(all) << cellPending
	}
	if k&KindBusy != 0 {
		c |= cellBusy
	}
	return c
}

// summaryMask returns the summary bits of the units from lo to hi, both
// counted within one leaf.
func summaryMask(lo, hi uint32) uint64 {
	return ^uint64(0) << (lo >> groupShift & 63) & (^uint64(0) >> (63 - hi>>groupShift&63))
}

// group returns the word of group g and its place in groups. The group must be
// in the summary.
func (l *leaf) group(g uint32) (word uint32, at int) {
	at = bits.OnesCount64(l.summary & (1<<(g&63) - 1))
	return l.groups[at], at
}

// rank returns the index of the record of the k-th unit of a group.
func rank(word uint32, k uint32) int {
	return int(word>>16) + bits.OnesCount32(word&(1<<(k&15)-1))
}

// find returns the record of a unit, counted within the leaf.
func (l *leaf) find(pos uint32) (*record, bool) {
	g, k := pos>>groupShift, pos&(groupUnits-1)
	if l.summary>>(g&63)&1 == 0 {
		return nil, false
	}
	word, _ := l.group(g)
	if word>>k&1 == 0 {
		return nil, false
	}
	return &l.records[rank(word, k)], true
}

// spareOf returns the spare unit of block i, which must be mapped.
func (l *leaf) spareOf(c cell, i uint) uint32 {
	if c&cellWide != 0 {
		return (*l.wide)[c.spare()][i]
	}
	return c.spare()
}

// info describes a record of the leaf.
func (l *leaf) info(r *record, all uint8, u *UnitInfo) {
	c := r.cell
	u.Busy = c&cellBusy != 0
	u.Lost, u.Pending = c.lost(), c.pending()
	u.Cause, u.Time = r.cause, r.time
	for left := c.mapped(); left != 0; {
		p := l.place(c, left)
		u.Places[u.N] = p
		u.N++
		left &^= p.Mask
	}
}

// place returns the place of the first block in left, with all blocks in left
// that share its spare unit. All of left must be mapped.
func (l *leaf) place(c cell, left uint8) Place {
	if c&cellWide == 0 {
		return Place{Spare: c.spare(), Mask: left}
	}
	spares := &(*l.wide)[c.spare()]
	p := Place{Spare: spares[bits.TrailingZeros8(left)]}
	for rest := left; rest != 0; rest &= rest - 1 {
		i := bits.TrailingZeros8(rest)
		if spares[i] == p.Spare {
			p.Mask |= 1 << i
		}
	}
	return p
}
