package remap

import (
	"slices"

	"github.com/cespare/xxhash/v2"

	"ublkremap/metadata"
)

// Proofs is what a retest knows of the blocks that it tests: which are still under test, and what
// was last written to their homes. It belongs to its Moves while one of them is under way.
type Proofs struct {
	units  []proof // in the order of their units
	apart  bool    // the first test of a block was made by another retest: see AddTested
	failed uint64  // see TakeFailed
}

// proof is one unit of Proofs.
type proof struct {
	unit    uint64
	asked   uint8 // blocks under test
	written uint8 // blocks that have a sum
	copied  uint8 // those of them that were written home; the others were read there
	tested  uint8 // blocks that were copied and then read well, once
	before  uint8 // blocks that passed a test of another retest: see AddTested
	// sums of what was written to the home of each block, or of what was read there if the block
	// has no other place
	sums [metadata.UnitSize / 512]uint64
}

// NewProofs returns Proofs with room for a number of units, for Add.
func NewProofs(units int) *Proofs { return &Proofs{units: make([]proof, 0, units)} }

// Add puts blocks of a unit under test. It returns false if there is no room for another unit.
// Units must come in ascending order; a unit may come several times in a row.
func (p *Proofs) Add(unit uint64, blocks uint8) bool {
	if n := len(p.units); n > 0 && p.units[n-1].unit == unit {
		p.units[n-1].asked |= blocks
		return true
	}
	if len(p.units) == cap(p.units) {
		return false
	}
	p.units = append(p.units, proof{unit: unit, asked: blocks})
	return true
}

// AddTested is as Add, for blocks whose two tests are made by two retests. before are those that
// have passed the first one. A TryTake is about these only.
func (p *Proofs) AddTested(unit uint64, blocks, before uint8) bool {
	p.apart = true
	if plantedOnePass {
		before = blocks
	}
	if !p.Add(unit, blocks) {
		return false
	}
	p.units[len(p.units)-1].before |= before & blocks
	return true
}

// NextTested is as Next, for units with blocks that have passed the first test.
func (p *Proofs) NextTested(unit, max uint64) (first, count uint64, ok bool) {
	return p.next(unit, max, func(x *proof) uint8 { return x.asked & x.before })
}

// EachPassed calls f for each unit with blocks whose homes have passed a test.
func (p *Proofs) EachPassed(f func(unit uint64, blocks uint8)) {
	for i := range p.units {
		x := &p.units[i]
		if passed := x.asked & x.tested & x.copied; passed != 0 {
			f(x.unit, passed)
		}
	}
}

// Each calls f for each unit with blocks that are under test, or were.
func (p *Proofs) Each(f func(unit uint64)) {
	for i := range p.units {
		f(p.units[i].unit)
	}
}

// Reset removes all units.
func (p *Proofs) Reset() { p.units = p.units[:0] }

// Blocks returns how many blocks are under test.
func (p *Proofs) Blocks() (n uint64) {
	for i := range p.units {
		n += uint64(popcount(p.units[i].asked))
	}
	return n
}

// Next returns the first units in a row, from the given unit on, that have blocks under test: at
// most max of them. It returns false if there are none.
func (p *Proofs) Next(unit, max uint64) (first, count uint64, ok bool) {
	return p.next(unit, max, func(x *proof) uint8 { return x.asked })
}

func (p *Proofs) next(unit, max uint64, of func(*proof) uint8) (first, count uint64, ok bool) {
	for i := p.search(unit); i < len(p.units) && count < max; i++ {
		x := &p.units[i]
		switch {
		case count > 0 && (of(x) == 0 || x.unit != first+count):
			return first, count, true
		case of(x) != 0 && count == 0:
			first, count = x.unit, 1
		case of(x) != 0:
			count++
		}
	}
	return first, count, count > 0
}

// search returns the index of a unit, or of the one that would follow it.
func (p *Proofs) search(unit uint64) int {
	i, _ := slices.BinarySearchFunc(p.units, unit, func(x proof, unit uint64) int {
		switch {
		case x.unit < unit:
			return -1
		case x.unit > unit:
			return 1
		}
		return 0
	})
	return i
}

// of returns a unit's proof; nil: it is not under test.
func (p *Proofs) of(unit uint64) *proof {
	if i := p.search(unit); i < len(p.units) && p.units[i].unit == unit {
		return &p.units[i]
	}
	return nil
}

// record notes what the blocks from one on hold at home, and whether they were written there.
func (x *proof) record(from uint, data []byte, blockSize int, copied bool) {
	for i := 0; i < len(data); i += blockSize {
		b := from + uint(i/blockSize)
		x.written |= 1 << b
		if x.copied &^= 1 << b; copied {
			x.copied |= 1 << b
		}
		x.sums[b] = xxhash.Sum64(data[i : i+blockSize])
	}
}

// holds reports whether data is what the blocks from one on held when that was noted.
func (x *proof) holds(from uint, data []byte, blockSize int) bool {
	for i := 0; i < len(data); i += blockSize {
		b := from + uint(i/blockSize)
		if x.written>>b&1 == 0 || x.sums[b] != xxhash.Sum64(data[i:i+blockSize]) {
			return false
		}
	}
	return true
}
