package remap

import "math/bits"

// maxRuns bounds how many free runs Allocate looks at in search of one that is
// long enough, so that a fragmented spare space cannot hold up a heal.
const maxRuns = 1024

// Allocate hands out up to count units in a row, all in one region, and marks
// them used. It searches upwards from hint, a spare unit, or with NoHint from
// where the last call stopped, and then from the bottom; the first run of count
// free units wins, else the longest of the first runs seen. It returns false
// if no unit is free. Suspect units are left out, unless no other is free.
func (a *Allocator) Allocate(count, hint uint32) (start, n uint32, ok bool) {
	if a.free == 0 || count == 0 {
		return 0, 0, false
	}
	from := uint64(a.cursor)
	if hint != NoHint {
		from = uint64(hint)
	}
	shut := a.shut()
	end := uint64(len(shut)) * 64
	runs := 0
	lo, size := a.longest(shut, from, end, uint64(count), &runs)
	if size < uint64(count) {
		// A run that passes over from was cut there. It is found whole now.
		if lo2, size2 := a.longest(shut, 0, min(end, from+uint64(count)), uint64(count),
			&runs); size2 > size {
			lo, size = lo2, size2
		}
	}
	if size == 0 {
		return 0, 0, false // not reached: a unit is free
	}
	a.use(lo, size)
	return uint32(lo), uint32(size), true
}

// shut is the set of what is not to be handed out now.
func (a *Allocator) shut() bitset {
	if a.unsuspected > 0 {
		return a.barred
	}
	return a.closed
}

// longest returns the first run of want units that are not shut, within [from, end) and
// one region, or the longest of the runs there.
func (a *Allocator) longest(shut bitset, from, end, want uint64, runs *int) (lo, size uint64) {
	for at := from; size < want && (*runs < maxRuns || size == 0); *runs++ {
		at = shut.nextClear(at, end)
		if at == end {
			break
		}
		r, _ := a.region(at)
		stop := shut.nextSet(at, min(end, r.end(), at+want))
		if stop-at > size {
			lo, size = at, stop-at
		}
		at = stop
	}
	return lo, size
}

// AllocateFar hands out one unit that is far away from the given ones, which
// failed, and marks it used: from another region if one has a free unit, else
// at least a quarter of the region away, else as far as can be had (the distance is halved
// until one is found). It never returns one of the given units, and a suspect one only
// if no other is free.
func (a *Allocator) AllocateFar(failed ...uint32) (unit uint32, ok bool) {
	if a.unsuspected > 0 {
		if unit, ok = a.far(a.barred, failed); ok {
			return unit, true
		}
	}
	if a.free > a.unsuspected {
		return a.far(a.closed, failed)
	}
	return 0, false
}

// AllocateSpread hands out one unit, and marks it used: a suspect one only if no other
// is free. The n-th place where it begins to look is spread over all spare units, unlike any
// pattern in which a medium fails. It returns false if no unit is free.
func (a *Allocator) AllocateSpread(n uint64) (unit uint32, ok bool) {
	if a.free == 0 {
		return 0, false
	}
	shut := a.shut()
	end := uint64(len(shut)) * 64
	// Multiples of the golden ratio, modulo one, as a fraction of the whole.
	from, _ := bits.Mul64(n*0x9e3779b97f4a7c15, end)
	u := shut.nextClear(from, end)
	if u == end {
		u = shut.nextClear(0, end)
	}
	a.use(u, 1)
	return uint32(u), true
}

func (a *Allocator) far(shut bitset, failed []uint32) (unit uint32, ok bool) {
	for _, r := range a.regions {
		if !touches(r, failed) {
			if u := shut.nextClear(uint64(r.First), r.end()); u < r.end() {
				a.use(u, 1)
				return uint32(u), true
			}
		}
	}
	var widest uint32
	for _, r := range a.regions {
		widest = max(widest, r.Count)
	}
	for part := uint32(4); ; part *= 2 {
		for _, r := range a.regions {
			if u, ok := away(shut, r, uint64(max(1, r.Count/part)), failed); ok {
				a.use(u, 1)
				return uint32(u), true
			}
		}
		if part >= widest || part >= 1<<31 {
			return 0, false
		}
	}
}

// touches reports whether one of the units lies in the region.
func touches(r SpareRegion, units []uint32) bool {
	for _, u := range units {
		if uint64(u) >= uint64(r.First) && uint64(u) < r.end() {
			return true
		}
	}
	return false
}

// away returns a free unit of the region that is at least that far from all of
// the failed ones.
func away(shut bitset, r SpareRegion, distance uint64, failed []uint32) (uint64, bool) {
	for u := uint64(r.First); ; {
		u = shut.nextClear(u, r.end())
		if u == r.end() {
			return 0, false
		}
		near := false
		for _, f := range failed {
			if f := uint64(f); u+distance > f && u < f+distance {
				u, near = f+distance, true
			}
		}
		if !near {
			return u, true
		}
	}
}

// use marks free units used and moves the cursor behind them.
func (a *Allocator) use(lo, n uint64) {
	a.unsuspected -= n - a.barred.count(lo, lo+n)
	a.closed.fill(lo, lo+n)
	a.barred.fill(lo, lo+n)
	a.used.fill(lo, lo+n)
	a.free -= n
	a.nUsed += n
	a.cursor = uint32(lo + n)
}
