package remap

import (
	"slices"

	"ublkremap/metadata"
)

// This file moves blocks out of spare units in use that went bad: that read only on a retry, or of
// which some blocks do not read any more, or that are slow. Each unit is a batch of its own. All
// blocks that the spare unit holds and that read go to another one, far away. What does not read
// any more becomes, or stays, pending there.
//
// The same record names the new place and retires the old spare unit, so no crash leaves a bad unit
// that may be given out. On a spare device the unit becomes suspect instead (suspect.go), because
// a record on the backing disk does not show that the device was there.
//
// A scrub asks for such Moves. So does a read of a user that has found bad blocks in a spare unit,
// and a write that failed there: units fail block by block, and what still reads may not do so
// later. That Move begins once the pending mark, or the new place of what was written, is durable.
// A crash before its record leaves all blocks where they were, the bad ones pending, and the next
// pass of the scrub moves the others: only a read that failed makes a block pending that lives in a
// spare unit. After a write that failed, they stay until they are seen to fail. A crash after the
// record finds them at the new place, where they were read back.

// AgainWhy says why blocks are to go to other spare units.
type AgainWhy uint8

const (
	AgainNot  AgainWhy = iota // they are not
	AgainBad                  // the spare unit Move.From failed
	AgainSlow                 // their spare units are slow: they become suspect
)

// moveTries is how often a block that leaves a bad place is read before it counts as unreadable.
const moveTries = 4

// saveOthers has the blocks of a unit moved that are not known as bad, and live in a spare unit in
// which a report has found bad ones. The same goes for those that refused a write, whose own blocks
// are in another one now. The scrub asks for that by itself, after its burst.
func (a *Arbiter) saveOthers(unit uint64, cause metadata.Cause, refused []uint32) {
	if cause == metadata.CauseScrub || plantedOthersStay {
		return
	}
	info := a.m.Unit(unit)
	for _, p := range info.Places[:info.N] {
		if info.ReadsBeside(p) ||
			slices.Contains(refused, p.Spare) && p.Mask&^(info.Pending|info.Lost) != 0 {
			a.drv.SpareFailed(BadSpare{Spare: p.Spare, Block: unit * a.geo.BlocksPerUnit()})
		}
	}
}

// ReadsBeside reports whether blocks of a place of the unit are not known as bad, and another one
// there is pending.
func (u *UnitInfo) ReadsBeside(p Place) bool {
	return p.Mask&u.Pending != 0 && p.Mask&^(u.Pending|u.Lost) != 0
}

// pickAgain picks the blocks of one spare unit that the Move is about.
func (v *mover) pickAgain(a *Arbiter, u *moving, info *UnitInfo) {
	for _, p := range info.Places[:info.N] {
		if p.Mask&u.left == 0 || v.now.Again == AgainBad && p.Spare != v.now.From {
			continue
		}
		u.left &^= p.Mask
		v.leaving = append(v.leaving, p.Spare)
		u.mask = p.Mask &^ (info.Pending | info.Lost)
		if u.mask == 0 {
			continue
		}
		v.source, u.pass = p.Spare, passCopy
		err := ErrSpareFull
		switch {
		case u.taken || v.noSpare || v.joinsPlace(a, u, info):
		case v.now.Cause == metadata.CauseSpare && !a.bucket.take(1, a.drv.Now()):
			err = ErrBudget // nobody waits for it, so the breaker stays closed
		default:
			u.spare, u.taken = a.alloc.AllocateFar(v.leaving...)
		}
		if u.taken {
			return
		}
		v.fail(u, u.mask)
		if v.res.Err == nil {
			v.res.Err = err
		}
	}
	v.res.Skipped += uint64(popcount(u.left))
	u.left = 0
}

// joinsPlace takes another spare unit in which the unit lives already, if that is not known as bad.
func (v *mover) joinsPlace(a *Arbiter, u *moving, info *UnitInfo) bool {
	for _, p := range info.Places[:info.N] {
		if v.now.Again == AgainBad && p.Spare != v.now.From && !a.spoilt(info, p) &&
			a.alloc.Service(p.Spare) == InService && !a.alloc.Suspected(p.Spare) {
			u.spare, u.taken = p.Spare, true
			return true
		}
	}
	return false
}

// retireLeft says in the batch's record what becomes of the spare units that blocks have left.
func (v *mover) retireLeft(a *Arbiter) {
	for _, spare := range v.leaving {
		device, _ := a.geo.SpareOffset(spare)
		switch {
		case plantedSpareStays, a.alloc.Service(spare) != InService:
		case v.now.Again == AgainBad && device == 0:
			v.add(metadata.Entry{Spare: spare, Count: 1, State: metadata.StateRetired,
				Cause: metadata.CauseSpare, Time: v.time})
		case !a.alloc.Suspected(spare):
			a.suspect(spare)
			if v.now.Again == AgainSlow {
				a.suspects.isSlow(spare)
			}
		}
	}
}

// readsAgain reads the current run once more, if it leaves a bad place and is a single block: what
// is moved because it reads badly may read at the next try. The scrub takes its time for that.
// After a user's read there is as much as for a request, because its sender may wait for the unit.
func (v *mover) readsAgain(a *Arbiter) bool {
	switch v.now.Cause {
	case metadata.CauseScrub:
	case metadata.CauseSpare:
		if a.drv.Now()-v.began > int64(a.cfg.Policy.IsolateFor) {
			return false
		}
	default:
		return false
	}
	if v.tries >= moveTries {
		return false
	}
	v.tries++
	v.start(a, OpRead, v.now.ToSpare, v.data)
	return true
}

// hurries leaves the rest of the current unit where it is, after a user's read, once more than one
// block did not read and the time for that is up. The scrub comes back to it.
func (v *mover) hurries(a *Arbiter) {
	if v.now.Cause == metadata.CauseSpare && v.misses > 1 &&
		a.drv.Now()-v.began > giveUp*int64(a.cfg.Policy.IsolateFor) {
		u := &v.units[v.i]
		v.fail(u, u.mask&^uint8(1<<v.to-1))
	}
}
