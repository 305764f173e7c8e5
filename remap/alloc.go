package remap

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"ublkremap/metadata"
)

// Errors of the Allocator, wrapped with the spare units that they are about. An
// Allocator that returned one is as it was before the call.
var (
	// ErrSpareRange is returned for spare units that lie in no spare region.
	ErrSpareRange = errors.New("no such spare unit")
	// ErrSpareState is returned when a spare unit is not in the state that
	// the call starts from: it is taken twice, freed twice, retired twice.
	ErrSpareState = errors.New("spare unit is in the wrong state")
	// ErrSpareRegions is returned for spare regions that are empty, overlap or
	// reach past the last spare unit number.
	ErrSpareRegions = errors.New("bad spare regions")
)

// SpareRegion is a range of spare units that lie in a row on one device.
type SpareRegion struct {
	First uint32
	Count uint32
}

// NoHint makes Allocate go on where it last stopped.
const NoHint = ^uint32(0)

// Service says whether the Allocator may hand a spare unit out. It is what the
// entries about spare units state, and independent of whether the unit is in
// use: a unit that is retired while blocks live there keeps them, and is not
// handed out again when they have left.
type Service uint8

const (
	InService Service = iota
	Quarantined
	Retired
)

// Allocator knows the state of every spare unit. It belongs to one goroutine.
//
// A unit is free, used, or waits for a deferred free (no block lives in it, but I/O
// that uses an older Map may still be in flight to it). Independent of that, it is
// in service, quarantined or retired. Only a free unit in service is handed out. A
// suspect unit is handed out only while no other is free; that it is suspect is
// known in memory only.
type Allocator struct {
	regions     []SpareRegion // sorted by First, disjoint
	closed      bitset        // must not be handed out, or in no region
	barred      bitset        // closed, or suspect
	suspect     bitset
	used        bitset // used, or waiting for a deferred free
	deferred    bitset // waiting for a deferred free
	retired     bitset
	quarantined bitset
	notes       map[uint32]note // of the retired and the quarantined
	cursor      uint32

	total, free, nUsed, nDeferred, nRetired, nQuarantined uint64
	unsuspected                                           uint64 // free, and not suspect
}

// note says why and when a spare unit left service.
type note struct {
	time  uint32
	cause metadata.Cause
}

// NewAllocator returns an allocator for the regions, with every unit free and in
// service. The regions may come in any order and leave gaps.
func NewAllocator(regions []SpareRegion) (*Allocator, error) {
	a := &Allocator{regions: slices.Clone(regions), notes: map[uint32]note{}}
	slices.SortFunc(a.regions, func(x, y SpareRegion) int {
		if x.First < y.First {
			return -1
		}
		return 1
	})
	var end uint64
	for i, r := range a.regions {
		// The number 2³²-1 is NoHint.
		if r.Count == 0 || i > 0 && uint64(r.First) < end || r.end() > uint64(NoHint) {
			return nil, fmt.Errorf("%w: units %d+%d", ErrSpareRegions, r.First, r.Count)
		}
		end = r.end()
		a.total += uint64(r.Count)
	}
	a.free, a.unsuspected = a.total, a.total
	for _, b := range []*bitset{&a.closed, &a.barred, &a.suspect, &a.used, &a.deferred, &a.retired,
		&a.quarantined} {
		*b = newBitset(end)
	}
	for _, b := range []bitset{a.closed, a.barred} {
		b.fill(0, uint64(len(b))*64)
		for _, r := range a.regions {
			b.clear(uint64(r.First), r.end())
		}
	}
	return a, nil
}

func (r SpareRegion) end() uint64 { return uint64(r.First) + uint64(r.Count) }

// Total returns how many spare units there are.
func (a *Allocator) Total() uint64 { return a.total }

// FreeCount returns how many units can be handed out.
func (a *Allocator) FreeCount() uint64 { return a.free }

// Used returns how many units are in use, without those that wait for a deferred free.
func (a *Allocator) Used() uint64 { return a.nUsed }

// Deferred returns how many units wait for a deferred free.
func (a *Allocator) Deferred() uint64 { return a.nDeferred }

// Retired returns how many units are retired, whether in use or not.
func (a *Allocator) Retired() uint64 { return a.nRetired }

// Quarantined returns how many units are in quarantine, whether in use or not.
func (a *Allocator) Quarantined() uint64 { return a.nQuarantined }

// CountIn counts the units from lo on and before hi that are in use or wait for a deferred free,
// and those that are retired or in quarantine, used or not. Units that do not exist do not count.
func (a *Allocator) CountIn(lo, hi uint64) (used, bad uint64) {
	hi = min(hi, uint64(len(a.used))*64)
	return a.used.count(lo, hi), a.retired.count(lo, hi) + a.quarantined.count(lo, hi)
}

// IsUsed reports whether a unit is in use or waits for a deferred free.
func (a *Allocator) IsUsed(unit uint32) bool { return a.used.has(uint64(unit)) }

// FreeDeferred reports whether a unit waits for a deferred free.
func (a *Allocator) FreeDeferred(unit uint32) bool { return a.deferred.has(uint64(unit)) }

// Service returns whether a unit may be handed out once it is free.
func (a *Allocator) Service(unit uint32) Service {
	switch {
	case a.retired.has(uint64(unit)):
		return Retired
	case a.quarantined.has(uint64(unit)):
		return Quarantined
	}
	return InService
}

// Take marks free units as used: what a loaded table says of them. Units that are
// retired or quarantined can be taken, because blocks may live there.
func (a *Allocator) Take(start, count uint32) error {
	return a.move("take", start, count, func(u uint64) bool { return !a.used.has(u) },
		func(lo, hi uint64) {
			a.used.fill(lo, hi)
			a.nUsed += hi - lo
		})
}

// TakeMap takes every spare unit that blocks live in. An error means that two
// units of the table claim the same spare unit, or one that does not exist: the
// metadata is damaged, and the allocator must not be used.
func (a *Allocator) TakeMap(m *Map) error {
	return m.walk(func(unit uint64, info *UnitInfo) error {
		for _, p := range info.Places[:info.N] {
			if u := uint64(p.Spare); u < uint64(len(a.closed))*64 && !a.closed.has(u) {
				// Nearly all units are free and in service. For such a unit this is all that Take
				// does.
				a.used.fill(u, u+1)
				a.closed.fill(u, u+1)
				a.barred.fill(u, u+1)
				a.nUsed++
				a.free--
				a.unsuspected--
			} else if err := a.Take(p.Spare, 1); err != nil {
				return fmt.Errorf("unit %d: %w", unit, err)
			}
		}
		return nil
	})
}

// DeferFree takes used units that no block lives in any more. They are handed out again only after
// Free.
func (a *Allocator) DeferFree(start, count uint32) error {
	return a.move("set aside", start, count, func(u uint64) bool {
		return a.used.has(u) &&
			!a.deferred.has(u)
	}, func(lo, hi uint64) {
		a.deferred.fill(lo, hi)
		a.nUsed -= hi - lo
		a.nDeferred += hi - lo
	})
}

// Free makes units free that were used or waited for a deferred free.
func (a *Allocator) Free(start, count uint32) error {
	return a.move("free", start, count, a.used.has, func(lo, hi uint64) {
		waiting := a.deferred.count(lo, hi)
		a.deferred.clear(lo, hi)
		a.used.clear(lo, hi)
		a.nDeferred -= waiting
		a.nUsed -= hi - lo - waiting
	})
}

// Retire takes units out of service for good, used or not, in quarantine or not.
func (a *Allocator) Retire(start, count uint32, cause metadata.Cause, time uint32) error {
	return a.move("retire", start, count, func(u uint64) bool { return !a.retired.has(u) },
		a.serve(Retired, note{cause: cause, time: time}))
}

// Quarantine takes units out of service that were in service, used or not.
func (a *Allocator) Quarantine(start, count uint32, cause metadata.Cause, time uint32) error {
	return a.move("quarantine", start, count,
		func(u uint64) bool { return a.Service(uint32(u)) == InService },
		a.serve(Quarantined, note{cause: cause, time: time}))
}

// Unretire puts units back into service that were retired or quarantined.
func (a *Allocator) Unretire(start, count uint32) error {
	return a.move("put back", start, count,
		func(u uint64) bool { return a.Service(uint32(u)) != InService },
		a.serve(InService, note{}))
}

// Apply makes the allocator say what an entry about spare units says, whatever it said before:
// replay is idempotent. An entry that puts blocks into spare units ends the quarantine of these
// units. Other entries about exported units are ignored.
func (a *Allocator) Apply(e metadata.Entry) error {
	var s Service
	switch e.State {
	case metadata.StateMapped:
		for u := uint64(e.Spare); a.nQuarantined > 0 && u < uint64(e.Spare)+uint64(e.Count); u++ {
			if a.quarantined.has(u) {
				if err := a.Unretire(uint32(u), 1); err != nil {
					return err
				}
			}
		}
		return nil
	case metadata.StateRetired:
		s = Retired
	case metadata.StateQuarantined:
		s = Quarantined
	case metadata.StateAvailable:
		s = InService
	default:
		return nil
	}
	return a.move(e.State.String(), e.Spare, e.Count, func(uint64) bool { return true },
		a.serve(s, note{cause: e.Cause, time: e.Time}))
}

// move changes the state of units, provided that all of them exist and start
// from the right one.
func (a *Allocator) move(what string, start, count uint32, from func(unit uint64) bool,
	change func(lo, hi uint64)) error {
	lo, hi := uint64(start), uint64(start)+uint64(count)
	for at := lo; at < hi; {
		r, ok := a.region(at)
		if !ok {
			return fmt.Errorf("%s spare units %d+%d: %w: %d", what, start, count, ErrSpareRange, at)
		}
		at = r.end()
	}
	for u := lo; u < hi; u++ {
		if !from(u) {
			return fmt.Errorf("%s spare units %d+%d: %w: %d", what, start, count, ErrSpareState, u)
		}
	}
	change(lo, hi)
	for u := lo; u < hi; u++ {
		open := !a.used.has(u) && !a.retired.has(u) && !a.quarantined.has(u)
		switch was := !a.closed.has(u); {
		case open && !was:
			a.closed.clear(u, u+1)
			a.free++
		case !open && was:
			a.closed.fill(u, u+1)
			a.free--
		}
		a.bar(u)
	}
	return nil
}

// Suspect marks a unit as suspect, or removes the mark. The unit must exist.
func (a *Allocator) Suspect(unit uint32, is bool) {
	u := uint64(unit)
	a.suspect.clear(u, u+1)
	if is {
		a.suspect.fill(u, u+1)
	}
	a.bar(u)
}

// Suspected reports whether a unit is suspect.
func (a *Allocator) Suspected(unit uint32) bool { return a.suspect.has(uint64(unit)) }

// bar makes barred say what closed and suspect do.
func (a *Allocator) bar(u uint64) {
	switch is, was := a.closed.has(u) || a.suspect.has(u), a.barred.has(u); {
	case is && !was:
		a.barred.fill(u, u+1)
		a.unsuspected--
	case !is && was:
		a.barred.clear(u, u+1)
		a.unsuspected++
	}
}

// serve returns the change that brings units into a state of service.
func (a *Allocator) serve(s Service, n note) func(lo, hi uint64) {
	return func(lo, hi uint64) {
		a.nRetired -= a.retired.count(lo, hi)
		a.nQuarantined -= a.quarantined.count(lo, hi)
		a.retired.clear(lo, hi)
		a.quarantined.clear(lo, hi)
		switch s {
		case Retired:
			a.retired.fill(lo, hi)
			a.nRetired += hi - lo
		case Quarantined:
			a.quarantined.fill(lo, hi)
			a.nQuarantined += hi - lo
		}
		for u := lo; u < hi; u++ {
			if s == InService {
				delete(a.notes, uint32(u))
			} else {
				a.notes[uint32(u)] = n
			}
		}
	}
}

// region returns the region that a unit lies in.
func (a *Allocator) region(unit uint64) (SpareRegion, bool) {
	i, _ := slices.BinarySearchFunc(a.regions, unit, func(r SpareRegion, unit uint64) int {
		if r.end() <= unit {
			return -1
		}
		return 1
	})
	if i == len(a.regions) || unit < uint64(a.regions[i].First) {
		return SpareRegion{}, false
	}
	return a.regions[i], true
}

// Entries writes the retired and the quarantined units into dst, in ascending
// order from cursor on, and returns how many entries they are, the cursor to go
// on from, and whether that was the end. The first cursor is 0. Units in a row
// that left service for one reason at one time are one entry.
func (a *Allocator) Entries(cursor uint64, dst []metadata.Entry) (n int, next uint64, done bool) {
	u := cursor
	for ; ; u++ {
		u = nextOfEither(a.retired, a.quarantined, u)
		if u == uint64(len(a.closed))*64 {
			return n, u, true
		}
		s, why := metadata.StateQuarantined, a.notes[uint32(u)]
		if a.retired.has(u) {
			s = metadata.StateRetired
		}
		if n > 0 {
			if p := &dst[n-1]; uint64(p.Spare)+uint64(p.Count) == u && p.State == s &&
				p.Cause == why.cause && p.Time == why.time {
				p.Count++
				continue
			}
		}
		if n == len(dst) {
			return n, u, false
		}
		dst[n] = metadata.Entry{State: s, Spare: uint32(u), Count: 1, Cause: why.cause,
			Time: why.time}
		n++
	}
}

// nextOfEither returns the first member of x or y at or after i, or where
// they end.
func nextOfEither(x, y bitset, i uint64) uint64 {
	for at := i / 64; at < uint64(len(x)); at++ {
		w := x[at] | y[at]
		if at == i/64 {
			w &= ^uint64(0) << (i % 64)
		}
		if w != 0 {
			return at*64 + uint64(bits.TrailingZeros64(w))
		}
	}
	return uint64(len(x)) * 64
}
