package remap

import "ublkremap/metadata"

// This file moves blocks out of spare units in use that went bad: that read only on a retry, or of
// which some blocks do not read any more, or that are slow. Each unit is a batch of its own. All
// blocks that the spare unit holds and that read go to another one, far away. What does not read
// any more becomes, or stays, pending there.
//
// The same record names the new place and retires the old spare unit, so no crash leaves a bad unit
// that may be given out. On a spare device the unit becomes suspect instead (suspect.go), because
// a record on the backing disk does not show that the device was there.

// AgainWhy says why blocks are to go to other spare units.
type AgainWhy uint8

const (
	AgainNot  AgainWhy = iota // they are not
	AgainBad                  // the spare unit Move.From failed
	AgainSlow                 // their spare units are slow: they become suspect
)

// moveTries is how often a block that a scrub moves is read before it counts as unreadable.
const moveTries = 4

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
		if !u.taken && !v.noSpare {
			u.spare, u.taken = a.alloc.AllocateFar(v.leaving...)
		}
		if u.taken {
			return
		}
		v.fail(u, u.mask)
		if v.res.Err == nil {
			v.res.Err = ErrSpareFull
		}
	}
	v.res.Skipped += uint64(popcount(u.left))
	u.left = 0
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

// readsAgain reads the current run once more, if a scrub moves it and it is a single block: what
// is moved because it reads badly may read at the next try.
func (v *mover) readsAgain(a *Arbiter) bool {
	if v.now.Cause != metadata.CauseScrub || v.tries >= moveTries {
		return false
	}
	v.tries++
	v.start(a, OpRead, v.now.ToSpare, v.data)
	return true
}
