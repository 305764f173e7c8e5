package remap

import (
	"math/bits"
	"sync/atomic"
	"unsafe"

	"ublkremap/metadata"
)

// The Map is a tree of fixed depth:
//
//	root ─► directory ─► slot {summary, leaf} ─► leaf ─► cells
//	 one pointer per 4 GiB    1024 slots of 16 bytes     4 MiB of the device
//
// A group is 16 units (64 KiB). Bit g of a summary says that group g of the leaf holds a unit that
// is not plain home. The slot has a copy of the leaf's summary. So a reader whose blocks are all at
// home is done after three loads and never reads the leaf.
//
// A leaf has one record per unit that is not plain home. The records are packed. Popcounts lead
// from the unit to its record. A request needs only the cell of a record. Time and cause lie behind
// all cells. A leaf has one of three forms: these two, and the one of leaf_runs.go.
//
//   - Flat, for few records: one piece of memory without pointers. It begins with the
//     summary, then has a word for each group that is not empty, then the records. In a
//     table of scattered units a leaf is one or two cache lines. A lookup then waits for
//     memory twice: for the slot and for the leaf.
//   - Parted, for more: 16 parts of 64 units (256 KiB). Each part has a bitmap of its units
//     and a pointer to its records. A change copies one part and the list of parts, about
//     1 KiB, and not all of up to 1,024 records.
//
// The garbage collector does not scan memory without pointers.
const (
	groupShift = 4 // log2 of the units per group
	groupUnits = 1 << groupShift

	leafGroups = 64 // the bits of a summary
	leafShift  = groupShift + 6
	leafUnits  = 1 << leafShift
	leafMask   = leafUnits - 1

	partShift = 6 // log2 of the units per part: the bits of a bitmap
	partUnits = 1 << partShift
	leafParts = leafUnits / partUnits
	allParts  = 1<<leafParts - 1

	// flatRecords is how many records a flat leaf has at most. A flat leaf with that many is no
	// larger than what a change of a parted leaf copies.
	flatRecords = 64

	dirShift  = 10 // log2 of the slots per directory
	dirLeaves = 1 << dirShift
	dirUnits  = leafUnits * dirLeaves

	noLeaf = ^uint64(0)
)

// slot is where a leaf is published. The summary is a hint that never lacks a bit. The writer sets
// bits before it stores the leaf that needs them. It clears bits only after it has stored a leaf
// that does not need them. So a reader that finds its bits clear may treat its units as at home. A
// reader that finds one of them set must read the leaf.
type slot struct {
	summary atomic.Uint64
	leaf    atomic.Pointer[leaf]
}

// dir is made when the first leaf in its range is made. It is never removed.
type dir [dirLeaves]slot

// leaf is the common beginning of all forms. It is immutable once it is published, and so is
// everything that it points to. Only the functions of this file and of leaf_pack.go know the layout
// behind it (leaf_runs.go describes the third form):
//
//	parted: [leafParts]part, see parted
//	flat:   groups [bits in summary]uint32, padded to 8 bytes: the group's units
//	            in the low half, the index of its first record in the high half
//	        the records, see records
type leaf struct {
	summary uint64
	cells   uint32 // flat: bytes from here to the records; else 0
	n       uint32 // flat: records; runs: how many; parted: 0
}

// parted is a leaf in parts.
type parted struct {
	leaf
	parts [leafParts]part
}

// part is 64 units of a parted leaf.
type part struct {
	units uint64         // those that have a record
	at    unsafe.Pointer // the records, see records; nil if there are none
}

// records are those of a flat leaf or of a part, in the order of their units:
//
//	[n]cell, [n]uint32 times, [n]uint8 causes, padded to 8 bytes, wide units
//
// There is a wide unit for each cell that is flagged wide, and for no other.
type records struct {
	at unsafe.Pointer // the first cell
	n  int
}

// record is what the leaf says of one unit.
type record struct {
	cell  cell
	time  uint32
	cause metadata.Cause
}

// Sizes in bytes. The declarations below check them against the types, and check the alignment.
const (
	leafHead   = 16
	cellSize   = 8
	timeSize   = 4
	recordSize = cellSize + timeSize + 1
	wideSize   = 4 * MaxPlaces
)

var (
	_ [leafHead]byte                 = [unsafe.Sizeof(leaf{})]byte{}
	_ [leafHead + 16*leafParts]byte  = [unsafe.Sizeof(parted{})]byte{}
	_ [cellSize]byte                 = [unsafe.Sizeof(cell(0))]byte{}
	_ [wideSize]byte                 = [unsafe.Sizeof(wideUnit{})]byte{}
	_ [unsafe.Sizeof(uint64(0))]byte = [unsafe.Alignof(leaf{})]byte{}
)

// recordBytes is the size of n records without wide units.
func recordBytes(n int) int { return (n*recordSize + 7) &^ 7 }

// groupBytes is the size of the words of n groups.
func groupBytes(n int) int { return (n*4 + 7) &^ 7 }

// cell is the part of a record that a request needs. It is one word, so that comparing words finds
// a run of similar units:
//
//	bits  0–31  spare unit; 0 if nothing is mapped; in a wide cell the index of the wide unit
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

// wideUnit holds the spare unit of each mapped block of a unit whose blocks live in more than one
// spare unit.
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

// atHome reports whether all blocks of the unit are plain home. The unit may be busy.
func (c cell) atHome() bool { return c&^cellBusy == 0 }

// kind returns the kind of block i.
func (c cell) kind(i uint) Kind {
	at := c >> (i & 7)
	return Kind(at>>cellMapped&1) | Kind(
		at>>cellLost&1)<<1 | Kind(at>>cellPending&1)<<2 | Kind(c>>cellBusyBit&1)<<3
}

// alike returns the mask of the blocks that are of kind k. It may set bits of blocks that the unit
// does not have.
func (c cell) alike(k Kind) uint8 {
	// Each -(flag) is all ones if the flag is set.
	unlike := (c.mapped() ^ -uint8(
		k&1)) | (c.lost() ^ -uint8(k>>1&1)) | (c.pending() ^ -uint8(k>>2&1))
	if (c&cellBusy != 0) != (k&KindBusy != 0) {
		return 0
	}
	return ^unlike
}

// uniform returns the cell of a unit whose blocks are all of kind k. If k is a mapped kind they
// live in spare unit spare.
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

// parted returns the leaf as a parted one. isParted must be true.
func (l *leaf) parted() *parted { return (*parted)(unsafe.Pointer(l)) }

// word returns the word of group g of a flat leaf, which must be in the summary.
func (l *leaf) word(g uint32) uint32 {
	at := bits.OnesCount64(l.summary & (1<<(g&63) - 1))
	return *(*uint32)(unsafe.Add(unsafe.Pointer(l), leafHead+4*at))
}

// cell returns the cell of a unit, or 0 if the unit is plain home. pos counts within the leaf.
func (l *leaf) cell(pos uint32) cell {
	if l.cells == 0 {
		if l.n != 0 {
			return l.runCell(pos)
		}
		p := &l.parted().parts[pos>>partShift&(leafParts-1)]
		k := pos & (partUnits - 1)
		if p.units>>k&1 == 0 {
			return 0
		}
		return *(*cell)(unsafe.Add(p.at, cellSize*bits.OnesCount64(p.units&(1<<k-1))))
	}
	g, k := pos>>groupShift, pos&(groupUnits-1)
	if l.summary>>(g&63)&1 == 0 {
		return 0
	}
	word := l.word(g)
	if word>>k&1 == 0 {
		return 0
	}
	return *(*cell)(unsafe.Add(unsafe.Pointer(l), uintptr(l.cells)+cellSize*uintptr(rank(word, k))))
}

// rank returns the index of the record of the k-th unit of a group.
func rank(word uint32, k uint32) int {
	return int(word>>16) + bits.OnesCount32(word&(1<<(k&15)-1))
}

// group is a group of a leaf: the units that have a record, and where the records are.
type group struct {
	units uint32 // bits 0–15
	first int    // index of the first unit's record
	records
}

// group returns group g. The result has no units if the group is not in the summary. The leaf must
// not be one of runs.
func (l *leaf) group(g uint32) group {
	if l.cells == 0 {
		p := &l.parted().parts[g>>(partShift-groupShift)&(leafParts-1)]
		k := g << groupShift & (partUnits - 1)
		return group{
			units: uint32(p.units >> k & 0xffff), first: bits.OnesCount64(p.units & (1<<k - 1)),
			records: records{p.at, bits.OnesCount64(p.units)},
		}
	}
	if l.summary>>(g&63)&1 == 0 {
		return group{}
	}
	word := l.word(g)
	return group{units: word & 0xffff, first: int(word >> 16), records: l.flat()}
}

// flat returns the records of a flat leaf.
func (l *leaf) flat() records { return records{unsafe.Add(unsafe.Pointer(l), l.cells), int(l.n)} }

// index returns the index of the record of the k-th unit of the group. That unit must have a
// record.
func (g *group) index(k uint32) int {
	return g.first + bits.OnesCount32(g.units&(1<<(k&15)-1))
}

// cells returns the cells of all records.
func (r records) cells() []cell { return unsafe.Slice((*cell)(r.at), r.n) }

// times returns the times of all records, in seconds since 1970.
func (r records) times() []uint32 {
	return unsafe.Slice((*uint32)(unsafe.Add(r.at, r.n*cellSize)), r.n)
}

// causes returns the causes of all records.
func (r records) causes() []metadata.Cause {
	return unsafe.Slice((*metadata.Cause)(unsafe.Add(r.at, r.n*(cellSize+timeSize))), r.n)
}

// wide returns the wide unit of a cell that is flagged wide.
func (r records) wide(c cell) *wideUnit {
	return (*wideUnit)(unsafe.Add(r.at, recordBytes(r.n)+int(c.spare())*wideSize))
}

// wides returns how many wide units there are.
func (r records) wides() (n int) {
	for _, c := range r.cells() {
		if c&cellWide != 0 {
			n++
		}
	}
	return n
}

// bytes returns how much memory the records take.
func (r records) bytes() int { return recordBytes(r.n) + r.wides()*wideSize }

// spareOf returns the spare unit of block i, which must be mapped.
func (r records) spareOf(c cell, i uint) uint32 {
	if c&cellWide != 0 {
		return r.wide(c)[i&7]
	}
	return c.spare()
}

// info describes record i.
func (r records) info(i int, u *UnitInfo) {
	c := r.cells()[i]
	u.Busy = c&cellBusy != 0
	u.Lost, u.Pending = c.lost(), c.pending()
	u.Cause, u.Time = r.causes()[i], r.times()[i]
	for left := c.mapped(); left != 0; {
		p := r.place(c, left)
		u.Places[u.N] = p
		u.N++
		left &^= p.Mask
	}
}

// place returns the place of the first block in left, with all blocks in left that share its spare
// unit. All blocks in left must be mapped.
func (r records) place(c cell, left uint8) Place {
	if c&cellWide == 0 {
		return Place{Spare: c.spare(), Mask: left}
	}
	spares := r.wide(c)
	p := Place{Spare: spares[bits.TrailingZeros8(left)]}
	for rest := left; rest != 0; rest &= rest - 1 {
		i := bits.TrailingZeros8(rest)
		if spares[i] == p.Spare {
			p.Mask |= 1 << i
		}
	}
	return p
}
