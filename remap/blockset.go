package remap

import "math/bits"

// blockset is a set of a request's blocks, counted from its first block.
type blockset []uint64

func newBlockset(blocks int) blockset { return make(blockset, (blocks+63)/64) }

func (s blockset) add(from, to uint64) {
	for from < to {
		n := min(64-from%64, to-from)
		s[from/64] |= (^uint64(0) >> (64 - n)) << (from % 64)
		from += n
	}
}

// remove reports whether any of the blocks was in the set before.
func (s blockset) remove(from, to uint64) (any bool) {
	for from < to {
		n := min(64-from%64, to-from)
		mask := (^uint64(0) >> (64 - n)) << (from % 64)
		any = any || s[from/64]&mask != 0
		s[from/64] &^= mask
		from += n
	}
	return any
}

func (s blockset) clear() {
	for i := range s {
		s[i] = 0
	}
}

// alike returns up to where the blocks from one on are all in the set, or all not in it.
func (s blockset) alike(from, to uint64) (upto uint64, in bool) {
	in = s[from/64]>>(from%64)&1 != 0
	for upto = from + 1; upto < to && (s[upto/64]>>(upto%64)&1 != 0) == in; {
		upto++
	}
	return upto, in
}

// run returns the first run of blocks in the set.
func (s blockset) run() (from, to uint64, ok bool) {
	for i := range s {
		if s[i] == 0 {
			continue
		}
		from = uint64(i)*64 + uint64(bits.TrailingZeros64(s[i]))
		for to = from; to < uint64(len(s))*64; {
			rest := ^s[to/64] >> (to % 64)
			if rest != 0 {
				return from, to + uint64(bits.TrailingZeros64(rest)), true
			}
			to = (to/64 + 1) * 64
		}
		return from, to, true
	}
	return 0, 0, false
}

func popcount(mask uint8) int { return bits.OnesCount8(mask) }

// empty reports whether no block is in the set.
func (s blockset) empty() bool {
	_, _, ok := s.run()
	return !ok
}
