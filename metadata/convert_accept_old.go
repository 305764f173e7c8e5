package metadata

import (
	"math/bits"

	"github.com/cespare/xxhash/v2"
)

// A block may have no copy that reads, because its spare unit fails or because it is lost.
// Home may still hold an older copy, from when the block left it. Nothing tells whether the
// block was written since. So the older copy is accepted only if the operator asks for that.

// oldReads is how often home must read well, with the same data each time.
const oldReads = 3

// hintReads is how many blocks are tried if older copies are not accepted: a hint that there are
// some is enough then.
const hintReads = 1024

// findOld looks for blocks without a copy whose home can be read. If that is accepted they count as
// having one.
func (v *View) findOld(s *Survey, accepted bool) {
	var old, still blockList
	left := hintReads
	for _, r := range s.NoCopy {
		for b := r.Block; b < r.Block+r.Count && (accepted || left > 0); b++ {
			left--
			if v.livesElsewhere(b, accepted) && v.homeReads(b) {
				old.add(b)
			} else {
				still.add(b)
			}
		}
	}
	s.Old = old.ranges
	if accepted {
		s.NoCopy, s.More = still.ranges, s.More+still.more+old.more
	}
}

// livesElsewhere reports whether the table has a block in a spare unit or, with orLost, has it as
// lost.
func (v *View) livesElsewhere(block uint64, orLost bool) bool {
	per := uint64(UnitSize / v.layout.BlockSize())
	state, _, _ := v.table.Block(block/per, int(block%per))
	return state == StateMapped || state == StateLost && orLost
}

func (v *View) homeReads(block uint64) bool {
	d, at := v.layout.HomeOf(block)
	var first uint64
	for i := range oldReads {
		if _, err := v.devs[d].ReadAt(v.one, at); err != nil {
			return false
		}
		if sum := xxhash.Sum64(v.one); i == 0 {
			first = sum
		} else if sum != first {
			return false
		}
	}
	return true
}

// acceptOld puts blocks back home in the table that is about to be made durable, and returns the
// entries that say so.
func (v *View) acceptOld(blocks []BlockRange) (entries []Entry, err error) {
	per := uint64(UnitSize / v.layout.BlockSize())
	for _, r := range blocks {
		for b := r.Block; b < r.Block+r.Count; b++ {
			entries = addHome(entries, b/per, uint8(1)<<(b%per))
		}
	}
	for _, e := range entries {
		if err := v.table.Apply(e); err != nil {
			return nil, err
		}
	}
	return entries, nil
}

// notDisplaced counts the blocks of entries whose home is where they are exported.
func (v *View) notDisplaced(entries []Entry) (n uint64) {
	for _, e := range entries {
		if !v.layout.displaced(e.Unit * uint64(UnitSize/v.layout.BlockSize())) {
			n += uint64(e.Count) * uint64(bits.OnesCount8(e.Mask))
		}
	}
	return n
}

// Stuck returns why a revert is refused after that survey. accepted: older copies at home are
// accepted.
func Stuck(s *Survey, accepted bool) *StuckError {
	e := &StuckError{NoCopy: s.NoCopy, NoCopyMore: s.More}
	if !accepted {
		e.Old = countBlocks(s.Old)
	}
	return e
}
