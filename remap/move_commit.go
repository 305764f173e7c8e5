package remap

import (
	"math/bits"

	"ublkremap/metadata"
)

// This file ends a batch: it commits the blocks that were moved, and marks those pending that did
// not read.

// askLater notes that the device on which the current run did not read must be asked before the
// commit. For the backing disk the commit itself shows whether it is present.
func (v *mover) askLater(a *Arbiter) {
	if device, _ := v.place(a, v.now.ToSpare); device != 0 {
		v.toAsk |= 1 << device
	}
}

// askDevices asks the devices on which blocks did not read, one after the other, and then commits.
func (v *mover) askDevices(a *Arbiter) {
	if v.toAsk == 0 {
		v.commit(a)
		return
	}
	v.step = moveAsk
	a.search.add(a, job{kind: jobMoved, device: uint8(bits.TrailingZeros32(v.toAsk))})
}

// asked takes a device's answer. If the device is missing, its blocks do not become pending.
func (v *mover) asked(a *Arbiter, device uint8, there bool) {
	v.toAsk &^= 1 << device
	if !there && v.now.Fill != nil {
		v.fillOnAway(a, device)
	}
	for i := range v.units[:v.n] {
		if u := &v.units[i]; !there && u.bad != 0 {
			info := a.m.Unit(v.first + uint64(i))
			u.bad &^= a.livesOn(v.first+uint64(i), &info, device)
		}
	}
	v.askDevices(a)
}

// livesOn returns which blocks of a unit live on a device.
func (a *Arbiter) livesOn(unit uint64, info *UnitInfo, device uint8) (mask uint8) {
	if d, _ := a.geo.HomeOffset(unit * a.geo.BlocksPerUnit()); d == device {
		mask = ^info.Mapped()
	}
	for _, p := range info.Places[:info.N] {
		if d, _ := a.geo.SpareOffset(p.Spare); d == device {
			mask |= p.Mask
		}
	}
	return mask
}

// commit hands the batch's changes to the journal.
func (v *mover) commit(a *Arbiter) {
	v.time = a.drv.WallClock()
	v.buildEntries(a)
	v.step = moveCommit
	if len(v.entries) == 0 {
		v.freeBatch(a)
		v.release(a)
	} else if v.outdated(a) || !a.journalCommit(commitMove, 0, v.entries) {
		v.res.Failed += v.blocks()
		v.freeBatch(a)
		v.release(a)
	}
}

// outdated reports whether the batch took blocks for lost that may not be so. The Map calls blocks
// lost while a commit about them has an unknown outcome. Once the breaker is closed they are where
// that commit has put them, with what a user has written. A fill, or a move home that accepts old
// data, would replace that. While the batch's units are busy no other commit concerns them, except
// the one that closes the breaker.
func (v *mover) outdated(a *Arbiter) bool {
	return len(a.unknown) > 0 || v.restated != a.restated
}

// buildEntries says what the batch changes, units in a row as one entry.
func (v *mover) buildEntries(a *Arbiter) {
	v.entries = v.entries[:0]
	marked := uint64(0)
	for i, u := range v.units[:v.n] {
		unit := v.first + uint64(i)
		if u.done != 0 {
			e := metadata.Entry{Unit: unit, Count: 1, Mask: u.done, State: metadata.StateHome,
				Cause: v.now.Cause, Time: v.time}
			if v.now.ToSpare || u.pass == passRead {
				e.State, e.Spare = metadata.StateMapped, u.spare
			}
			v.add(e)
		}
		if n := uint64(popcount(u.bad)); n > 0 && a.mayBePending(marked, n) {
			marked += n
			v.add(metadata.Entry{Unit: unit, Count: 1, Mask: u.bad, State: metadata.StatePending,
				Cause: metadata.CauseRead, Time: v.time})
		}
	}
	v.retireLeft(a)
}

// add adds an entry, to the last one if they go on from each other.
func (v *mover) add(e metadata.Entry) {
	if n := len(v.entries); n > 0 {
		p := &v.entries[n-1]
		if p.State == e.State && !e.State.OfSpare() && p.Mask == e.Mask &&
			p.Unit+uint64(p.Count) == e.Unit &&
			(e.State != metadata.StateMapped || p.Spare+p.Count == e.Spare) {
			p.Count++
			return
		}
	}
	v.entries = append(v.entries, e)
}

func (v *mover) blocks() (n uint64) {
	for _, u := range v.units[:v.n] {
		n += uint64(popcount(u.done))
	}
	return n
}

// freeBatch frees the spare units that were allocated for the batch.
func (v *mover) freeBatch(a *Arbiter) {
	for i, u := range v.units[:v.n] {
		if u.taken {
			a.freeUnused(v.first+uint64(i), u.spare)
		}
	}
}

func (v *mover) committed(a *Arbiter, durable bool) {
	if durable {
		a.recordRetired(v.entries)
		a.publish(v.entries)
		v.res.Moved += v.blocks()
		if v.now.Fill != nil {
			v.filled(a)
		}
		for i := range v.units[:v.n] {
			u := &v.units[i]
			v.res.Old += uint64(popcount(u.old))
			v.tookHome(v.first+uint64(i), u.done)
			if u.taken && u.done != 0 {
				a.spareHolds(u.spare)
			}
		}
	} else {
		a.outcomeUnknown(v.entries)
		v.res.Failed += v.blocks()
	}
	v.freeBatch(a) // units that were tried and are not in use
	v.release(a)
}

// holds reports whether blocks of the unit live in the spare unit.
func holds(info *UnitInfo, spare uint32) bool {
	for _, p := range info.Places[:info.N] {
		if p.Spare == spare {
			return true
		}
	}
	return false
}

// release lets the requests and the heals that wait for the batch go on.
func (v *mover) release(a *Arbiter) {
	a.m.SetBusy(v.first, uint64(v.n), false)
	a.space.reserved -= v.space
	v.space = 0
	for q := range a.cfg.Queues {
		a.out = Message{Kind: MsgWake, Queue: uint16(q)}
		a.drv.Send(uint16(q), &a.out)
	}
	v.step = moveNext
	a.wake(v.first, uint64(v.n))
	if v.claim >= 0 {
		v.endRetest(a)
	}
}
