package remap

import (
	"slices"

	"ublkremap/metadata"
)

// This file is about claims: which spare unit each heal gets, and when it is free again.

// claimState says what a request's claim waits for.
type claimState uint8

const (
	claimNone claimState = iota
	// for a unit that is being relocated, or for another claim to the same blocks; also a report
	claimWaiting
	claimHeld       // spare units are granted, the engine writes to them
	claimCommitting // the change is with the journal
	claimReporting  // a pending mark is with the journal
	claimRetest     // no spare unit is free: for its pending blocks to be read again
	claimSearching  // a spare unit failed: for a good one
	claimAsking     // for an answer of the device on which blocks did not read
)

// claim is what the Arbiter knows of one request that heals: at most one span
// of units, and the spare units that it was granted.
type claim struct {
	id     int // its number
	state  claimState
	tested bool    // spare was found by a search, and is the claim's to use or to free
	home   bool    // it holds no spare units, but writes to its blocks in place
	msg    Message // the request's last message
	spare  uint32  // first spare unit granted, for claimHeld and later
	count  uint32
	time   uint32 // of the commit, seconds since 1970
	since  int64  // of claimRetest: monotonic ns
	space  uint64 // entries that are reserved for it
}

// failed reports whether a spare unit failed for the request. A pending block in a spare unit
// failed before the request.
func (c *claim) failed() bool {
	known := uint8(0)
	if c.msg.Mapped && c.msg.Untried {
		known = 1
	}
	return c.msg.Tries > known
}

// spareOf returns the spare unit that the claim gives a unit.
func (c *claim) spareOf(unit uint64) (uint32, bool) {
	if c.state != claimHeld && c.state != claimCommitting || unit < c.msg.Unit ||
		unit-c.msg.Unit >= uint64(c.count) {
		return 0, false
	}
	if c.home {
		return noSpare, true
	}
	return c.spare + uint32(unit-c.msg.Unit), true
}

// noSpare is the spare unit of a claim that writes in place.
const noSpare = ^uint32(0)

// maskOf returns which blocks of one of its units the claim is about.
func (c *claim) maskOf(unit uint64) uint8 { return c.msg.maskOf(unit) }

func (a *Arbiter) answer(c *claim, kind MessageKind) {
	a.out = Message{
		Kind: kind, Queue: c.msg.Queue, Tag: c.msg.Tag, Unit: c.msg.Unit, Count: c.count,
		Spare: c.spare,
	}
	a.drv.Send(c.msg.Queue, &a.out)
}

// refuse ends a claim with an answer that grants nothing.
func (a *Arbiter) refuse(c *claim, kind MessageKind) {
	if kind != MsgRetry {
		a.recordClaim(metadata.EventHealFailed, metadata.EventNothing, c)
	}
	a.endClaim(c)
	a.answer(c, kind)
}

// reserve grants spare units to a claim, or lets it wait, or refuses.
func (a *Arbiter) reserve(c *claim) {
	spare, tested := c.spare, c.tested
	c.tested = false
	if first := a.m.Unit(c.msg.Unit); !a.waits(c, &first) && a.spaceForClaim(c) {
		if joined, ok := a.join(c, &first); ok {
			a.grant(c, joined, 1)
		} else if tested {
			a.take(c, spare, 1)
			return
		} else {
			a.allocate(c, &first)
		}
	}
	if tested {
		a.free(spare, 1) // the claim does not use what the search found
	}
}

// waits reports whether a claim cannot be granted anything now: it waits, or it was
// answered.
func (a *Arbiter) waits(c *claim, first *UnitInfo) bool {
	m := &c.msg
	switch {
	case a.shared.Tripped():
		a.refuse(c, MsgRefused)
	case first.Busy:
		// The claim holds no spare unit any more. A relocation waits for claims that hold
		// spare units, so a claim that waits for the relocation must not hold any.
		a.set(c, claimWaiting)
		a.returnSpace(c)
	case !livesWhereSeen(m, first) || m.Untried && (first.Pending|first.Lost)&m.First != m.First:
		a.refuse(c, MsgRetry)
	case a.healConflicts(c) && !plantedNoTurns:
		a.set(c, claimWaiting)
		a.returnSpace(c)
	default:
		return false
	}
	return true
}

// allocate takes free spare units for a claim.
func (a *Arbiter) allocate(c *claim, first *UnitInfo) {
	m := &c.msg
	want := a.unmappedUnits(c, first)
	var spare, n uint32
	var ok bool
	switch {
	case c.failed():
		// A spare unit has failed. The next one is tested before it is granted.
		a.suspectTried(c)
		device, _ := a.geo.SpareOffset(m.Tried[m.Tries-1])
		a.set(c, claimSearching)
		a.search.add(a, job{kind: jobClaim, claim: c.id, device: device})
		return
	case m.Tries > 0:
		spare, ok = a.alloc.AllocateFar(m.Tried[:m.Tries]...)
		n = 1
	default:
		spare, n, ok = a.alloc.Allocate(want, NoHint)
	}
	if ok {
		a.take(c, spare, n)
		return
	}
	a.spareAlert()
	if first.Pending&m.First == m.First {
		c.since = a.drv.Now()
		a.set(c, claimRetest)
		return
	}
	a.refuse(c, MsgRefused)
}

// take grants a claim spare units that were allocated, unless the budget is used up.
func (a *Arbiter) take(c *claim, spare, n uint32) {
	if !a.bucket.take(uint64(n), a.drv.Now()) {
		a.free(spare, n)
		a.refuse(c, MsgRefused)
		a.trip(TripBudget, "blocks are remapped faster than the budget allows")
		return
	}
	a.grant(c, spare, n)
	a.spareAlert()
}

func (a *Arbiter) grant(c *claim, spare, n uint32) {
	c.spare, c.count = spare, n
	a.set(c, claimHeld)
	a.answer(c, MsgReserved)
}

// healConflicts reports whether another claim writes to a spare unit for one of the blocks of the
// claim's first unit. Heals of a block run one after the other. If two wrote to the same place and
// one of them failed and was answered, the other would publish the failed data, over later writes.
func (a *Arbiter) healConflicts(c *claim) (yes bool) {
	a.index.held.each(c.msg.Unit, func(i int) bool {
		o := &a.claims[i]
		_, holds := o.spareOf(c.msg.Unit)
		yes = o != c && holds && o.maskOf(c.msg.Unit)&c.msg.First != 0
		return !yes
	})
	return yes
}

// livesWhereSeen reports whether the blocks of a message's first unit live where the
// engine saw them fail.
func livesWhereSeen(m *Message, first *UnitInfo) bool {
	for _, p := range first.Places[:first.N] {
		if m.Mapped && p.Spare == m.Spare {
			return p.Mask&m.First == m.First
		}
		if !m.Mapped && p.Mask&m.First != 0 {
			return false
		}
	}
	return !m.Mapped
}

// join finds a spare unit that already serves the claim's first unit, so that
// two queues that meet in one unit share it.
func (a *Arbiter) join(c *claim, first *UnitInfo) (uint32, bool) {
	usable := func(spare uint32) bool {
		if a.alloc.Service(spare) != InService || slices.Contains(c.msg.Tried[:c.msg.Tries],
			spare) {
			return false
		}
		for _, p := range first.Places[:first.N] {
			if p.Spare == spare && (p.Mask&c.msg.First != 0 || a.spoilt(first, p)) {
				return false
			}
		}
		return true
	}
	for _, p := range first.Places[:first.N] {
		if usable(p.Spare) {
			return p.Spare, true
		}
	}
	var found uint32
	var ok bool
	a.index.held.each(c.msg.Unit, func(i int) bool {
		if o := &a.claims[i]; o != c && !o.home {
			if found, ok = o.spareOf(c.msg.Unit); ok {
				ok = usable(found)
			}
		}
		return !ok
	})
	return found, ok
}

// spoilt reports whether a place of a unit is in a spare unit in which a block did not read. No
// others should join it. If no spare unit is free, it is better than none.
func (a *Arbiter) spoilt(info *UnitInfo, p Place) bool {
	return p.Mask&info.Pending != 0 && a.alloc.FreeCount() > 0
}

// unmappedUnits returns how many units, from the claim's first, have no spare unit yet and can be
// granted spare units in a row.
func (a *Arbiter) unmappedUnits(c *claim, first *UnitInfo) uint32 {
	if first.N > 0 {
		return 1
	}
	n := uint32(1)
	for ; n < c.msg.Count; n++ {
		unit := c.msg.Unit + uint64(n)
		if info := a.m.Unit(unit); info.Busy || info.N > 0 {
			break
		}
		if a.claimed(unit) {
			break
		}
	}
	return n
}

// healing returns which blocks of a unit claims write to spare units.
func (a *Arbiter) healing(unit uint64) (mask uint8) {
	a.index.held.each(unit, func(i int) bool {
		if c := &a.claims[i]; c.state != claimNone {
			if _, ok := c.spareOf(unit); ok {
				mask |= c.maskOf(unit)
			}
		}
		return true
	})
	return mask
}

// claimed reports whether any claim gives the unit a spare unit.
func (a *Arbiter) claimed(unit uint64) (yes bool) {
	a.index.held.each(unit, func(i int) bool {
		_, yes = a.claims[i].spareOf(unit)
		return !yes
	})
	return yes
}

// endClaim ends a claim and frees the spare units that nothing else uses.
func (a *Arbiter) endClaim(c *claim) {
	held := (c.state == claimHeld || c.state == claimCommitting) && !c.home
	a.set(c, claimNone)
	c.home = false
	a.returnSpace(c)
	if held {
		for i := range c.count {
			a.freeUnused(c.msg.Unit+uint64(i), c.spare+i)
		}
	}
	for _, spare := range c.msg.Tried[:c.msg.Tries] {
		a.freeUnused(c.msg.Unit, spare)
	}
	c.msg.Tries = 0
}

// freeUnused frees a spare unit that served a unit, unless blocks live there or another
// claim uses it. It is freed after a grace period, because blocks may have lived there
// while the claim held it.
func (a *Arbiter) freeUnused(unit uint64, spare uint32) {
	if info := a.m.Unit(unit); holds(&info, spare) || a.inDoubt(spare) {
		return
	}
	if a.claimFrees(unit, spare) {
		return
	}
	if a.alloc.IsUsed(spare) && !a.alloc.FreeDeferred(spare) && !a.search.has(spare) {
		a.grace.deferFree(a, spare)
	}
}

// claimFrees reports whether a claim will free a spare unit that served a unit: the claim writes
// there, or has tried it. If it were freed earlier and given to another unit, the claim would later
// free it under that unit.
func (a *Arbiter) claimFrees(unit uint64, spare uint32) (yes bool) {
	if a.index.tried[spare] > 0 {
		return true
	}
	a.index.held.each(unit, func(i int) bool {
		s, ok := a.claims[i].spareOf(unit)
		yes = ok && s == spare
		return !yes
	})
	return yes
}

// free frees spare units that the arbiter knows to be in use.
func (a *Arbiter) free(spare, count uint32) { must(a.alloc.Free(spare, count)) }

// must stops the server on a broken invariant of the allocator: otherwise one spare unit could
// serve two units.
func must(err error) {
	if err != nil {
		panic("remap: " + err.Error())
	}
}

// shortage says how few spare units are free.
type shortage uint8

const (
	shortNone shortage = iota
	shortLow           // less than a tenth of them
	shortFull          // none
)

// spareAlert alerts once when the spare region runs low, and once when it is full. It alerts again
// only after enough units were free in between.
func (a *Arbiter) spareAlert() {
	now := shortNone
	switch free, total := a.alloc.FreeCount(), a.alloc.Total(); {
	case free == 0:
		now = shortFull
	case free <= total/10:
		now = shortLow
	}
	told := a.shortage
	switch {
	case now == shortNone:
		a.shortage = now
	case now > told:
		a.shortage = now
		a.drv.Alert(AlertSpareLow + Alert(now-shortLow))
	}
}

// suspectTried notes the spare units that failed for a claim's request.
func (a *Arbiter) suspectTried(c *claim) {
	if c.failed() {
		for _, spare := range c.msg.Tried[:c.msg.Tries] {
			a.suspect(spare)
		}
	}
}
