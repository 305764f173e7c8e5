package remap

import (
	"fmt"
	"math/bits"
	"sync/atomic"

	"ublkremap/metadata"
)

// Kind is a set of flags: what the Map knows of a block. Zero is a block that lives at home, is
// readable as far as is known, and is not being relocated.
type Kind uint8

const (
	// KindMapped is a block that lives in a spare unit.
	KindMapped Kind = 1 << iota
	// KindLost is a block that has no copy anywhere. It is never mapped or
	// pending.
	KindLost
	// KindPending is a block that could not be read where it lives.
	KindPending
	// KindBusy is a block of a unit that is being relocated. It is the only flag that is not kept
	// on disk. It always covers whole units.
	KindBusy
)

// Run is a run of blocks of one kind.
type Run struct {
	Start uint64 // first exported block
	Count uint64 // blocks, at least 1
	Kind  Kind   // never 0
	// Spare is the spare block that holds block Start, if Kind has KindMapped: spare unit × blocks
	// per unit + slot. Block Start+i lives in spare block Spare+i. Spare units are numbered over
	// all spare regions, so a run may continue from the end of one region into the start of the
	// next.
	Spare uint64
}

// Place is where some blocks of a unit live.
type Place struct {
	Spare uint32 // spare unit
	Mask  uint8  // which blocks; never 0
}

// MaxPlaces is the largest number of spare units that one unit can live in: one for each of its
// blocks.
const MaxPlaces = 8

// UnitInfo is all that the Map knows of one unit. Its zero value is a unit at home with no flag
// set. It holds no references to the Map.
type UnitInfo struct {
	Busy    bool
	Lost    uint8            // blocks that have no copy; disjoint from Pending and all places
	Pending uint8            // blocks that could not be read where they live
	N       int              // how many of Places are used
	Places  [MaxPlaces]Place // ordered by their first block; the masks are disjoint

	// Cause and Time, in seconds since 1970, are of the last entry about this unit. They are zero
	// if all its blocks are plain home, also while it is busy: the table on disk has no entry for
	// such a unit.
	Cause metadata.Cause
	Time  uint32
}

// Mapped returns the mask of the blocks that live in spare units.
func (u *UnitInfo) Mapped() uint8 {
	var mask uint8
	for _, p := range u.Places[:u.N] {
		mask |= p.Mask
	}
	return mask
}

// SpareOf returns the spare unit that block i of the unit lives in, and false
// if it lives at home or is lost.
func (u *UnitInfo) SpareOf(i int) (spare uint32, ok bool) {
	for _, p := range u.Places[:u.N] {
		if p.Mask>>uint(i)&1 != 0 {
			return p.Spare, true
		}
	}
	return 0, false
}

// Counts are the sizes that status shows.
type Counts struct {
	Mapped  uint64 // units of which at least one block is mapped; the README calls them remaps
	Pending uint64 // blocks
	Lost    uint64 // blocks
}

// Map says for each exported block where it lives. Any goroutine may call Next, Unit, Entries,
// Counts and Bytes at any time. They are wait-free. They see each leaf (an aligned range of
// leafUnits units) either as it was before a change or as it is after it, never in between. Only
// one writer at a time may call Apply and SetBusy. A change that spans several leaves is published
// leaf by leaf, in ascending order.
type Map struct {
	units uint64
	shift uint8 // log2 of the blocks per unit
	all   uint8 // mask of all blocks of a unit
	root  []atomic.Pointer[dir]

	// Readers use the fields above for each request, and these do not change. The fields that the
	// writer changes lie on other cache lines. Otherwise each change would remove the readers' line
	// from the caches of all processors.
	_                     [cacheLine]byte
	mapped, pending, lost atomic.Uint64

	writer editor // the writer's scratch; readers never use it
}

// NewMap returns the map of a device of the given number of units, each of blocksPerUnit blocks (1,
// 2, 4 or 8), with every block at home. It panics on any other number of blocks, because the block
// size was checked long before.
func NewMap(units uint64, blocksPerUnit int) *Map {
	m := &Map{}
	m.init(units, blocksPerUnit)
	return m
}

func (m *Map) init(units uint64, blocksPerUnit int) {
	switch blocksPerUnit {
	case 1, 2, 4, 8:
	default:
		panic(fmt.Sprintf("remap: %d blocks per unit", blocksPerUnit))
	}
	m.units = units
	m.shift = uint8(bits.TrailingZeros(uint(blocksPerUnit)))
	m.all = uint8(1<<blocksPerUnit - 1)
	m.root = make([]atomic.Pointer[dir], (units+dirUnits-1)/dirUnits)
	m.writer.index = noLeaf
}

// Units returns how many units the map covers.
func (m *Map) Units() uint64 { return m.units }

// BlocksPerUnit returns 1, 2, 4 or 8.
func (m *Map) BlocksPerUnit() int { return 1 << m.shift }

// Counts returns the counters. They are read one after the other. While the writer is at work they
// may belong to different moments.
func (m *Map) Counts() Counts {
	return Counts{Mapped: m.mapped.Load(), Pending: m.pending.Load(), Lost: m.lost.Load()}
}

// Unit returns what is known of a unit. A unit past the end is at home.
func (m *Map) Unit(unit uint64) UnitInfo {
	var info UnitInfo
	l := m.leaf(unit >> leafShift)
	if l == nil {
		return info
	}
	if l.isRuns() {
		l.runInfo(uint32(unit&leafMask), &info)
		return info
	}
	g := l.group(uint32(unit & leafMask >> groupShift))
	if k := uint32(unit & (groupUnits - 1)); g.units>>k&1 != 0 {
		g.info(g.index(k), &info)
	}
	return info
}

// slot returns the slot of a leaf, or nil if its directory does not exist.
func (m *Map) slot(index uint64) *slot {
	i := index >> dirShift
	if i >= uint64(len(m.root)) {
		return nil
	}
	d := m.root[i].Load()
	if d == nil {
		return nil
	}
	return &d[index&(dirLeaves-1)]
}

// leaf returns the leaf of that index, or nil if all its units are at home.
func (m *Map) leaf(index uint64) *leaf {
	s := m.slot(index)
	if s == nil {
		return nil
	}
	return s.leaf.Load()
}

// cacheLine is how many bytes processors fetch and keep together. It is a pair of lines, because
// some processors fetch the neighbouring line as well.
const cacheLine = 128
