package remap

import "math/bits"

// bitset is a set of small numbers. What lies past its end is in no set.
type bitset []uint64

func newBitset(n uint64) bitset { return make(bitset, (n+63)/64) }

func (s bitset) has(i uint64) bool { return i/64 < uint64(len(s)) && s[i/64]>>(i%64)&1 != 0 }

// wordMask returns the bits of the word that holds lo which stand for numbers
// from lo on and below hi.
func wordMask(lo, hi uint64) uint64 {
	mask := ^uint64(0) << (lo % 64)
	if rest := hi - lo&^63; rest < 64 {
		mask &= 1<<rest - 1
	}
	return mask
}

// fill adds [lo, hi).
func (s bitset) fill(lo, hi uint64) {
	for ; lo < hi; lo = (lo | 63) + 1 {
		s[lo/64] |= wordMask(lo, hi)
	}
}

// clear removes [lo, hi).
func (s bitset) clear(lo, hi uint64) {
	for ; lo < hi; lo = (lo | 63) + 1 {
		s[lo/64] &^= wordMask(lo, hi)
	}
}

// count returns how many of [lo, hi) are in the set.
func (s bitset) count(lo, hi uint64) (n uint64) {
	for ; lo < hi; lo = (lo | 63) + 1 {
		n += uint64(bits.OnesCount64(s[lo/64] & wordMask(lo, hi)))
	}
	return n
}

// nextSet returns the first member in [lo, hi), or hi.
func (s bitset) nextSet(lo, hi uint64) uint64 {
	for ; lo < hi; lo = (lo | 63) + 1 {
		if w := s[lo/64] >> (lo % 64); w != 0 {
			return min(hi, lo+uint64(bits.TrailingZeros64(w)))
		}
	}
	return hi
}

// nextClear returns the first number in [lo, hi) that is not in the set, or hi.
func (s bitset) nextClear(lo, hi uint64) uint64 {
	for ; lo < hi; lo = (lo | 63) + 1 {
		if w := ^s[lo/64] >> (lo % 64); w != 0 {
			return min(hi, lo+uint64(bits.TrailingZeros64(w)))
		}
	}
	return hi
}
