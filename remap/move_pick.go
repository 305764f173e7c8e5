package remap

// This file picks which blocks of a unit a Move copies next, and where they go.

// movePass says what is done with the blocks of a pass.
type movePass uint8

const (
	passCopy     movePass = iota // read them, write them to their new place, and read that
	passHome                     // they are at home, and pending: read them there several times
	passRead                     // of a retest: they are in a spare unit, and pending: the same
	passOld                      // read what home holds several times
	passTryHome                  // of a fill: they are at home, and pending: read them once
	passTrySpare                 // of a fill: they are in a spare unit, and pending: the same there
	passFill                     // of a fill: write its data to a spare unit, and read that
	passTest                     // of a test of homes: they live in a spare unit
	passTestHome                 // the same: their home is read, and nothing else
)

// nextPass picks the blocks of the current unit's next pass; false if there is none.
func (v *mover) nextPass(a *Arbiter) bool {
	u := &v.units[v.i]
	u.done |= u.mask
	u.mask = 0
	if v.now.Fill != nil {
		return v.nextFillPass(a, u)
	}
	if u.left == 0 && (v.now.ToSpare || v.now.Retest || v.now.Try != TryNone || u.bad == 0) {
		return false
	}
	info := a.m.Unit(v.first + uint64(v.i))
	switch {
	case v.now.Try != TryNone:
		v.pickTest(u, &info)
	case v.now.Retest:
		v.pickPending(u, &info)
	case v.now.Again != AgainNot:
		v.pickAgain(a, u, &info)
	case v.now.ToSpare:
		v.pickHome(a, u, &info)
	default:
		v.pickSpared(u, &info)
	}
	return u.mask != 0
}

// pickHome picks the blocks that are at home, and a spare unit for them.
func (v *mover) pickHome(a *Arbiter, u *moving, info *UnitInfo) {
	u.mask = u.left &^ (info.Mapped() | info.Lost)
	v.res.Skipped += uint64(popcount(u.left &^ u.mask))
	u.left, u.pass = 0, passCopy
	if u.mask == 0 || !v.noSpare && v.pickSpare(a, info) {
		return
	}
	v.fail(u, u.mask)
	if v.res.Err == nil && !v.noSpare {
		v.res.Err = ErrSpareFull
	}
}

// pickSpared picks the blocks of one spare unit, or when there are none left those that are pending
// at home, or else those that have no readable copy.
func (v *mover) pickSpared(u *moving, info *UnitInfo) {
	for _, p := range info.Places[:info.N] {
		if p.Mask&u.left != 0 {
			u.mask, u.spare, u.pass = p.Mask&u.left, p.Spare, passCopy
			u.left &^= u.mask
			return
		}
	}
	if u.mask = u.left & info.Pending; u.mask != 0 {
		u.left, u.pass = u.left&^u.mask, passHome
		return
	}
	noCopy := u.bad&info.Mapped() | u.left&info.Lost
	v.res.Skipped += uint64(popcount(u.left &^ noCopy))
	u.left = 0
	switch {
	case u.pass == passOld: // there is no further pass
	case v.now.AcceptOld:
		u.mask, u.pass = noCopy, passOld
		v.res.Failed -= uint64(popcount(noCopy & u.bad)) // until the pass shows which of them fail
	default:
		v.res.Skipped += uint64(popcount(noCopy & info.Lost))
		v.res.NoCopy += uint64(popcount(noCopy))
	}
}

// fail leaves blocks of a pass where they are.
func (v *mover) fail(u *moving, blocks uint8) {
	u.mask &^= blocks
	v.res.Failed += uint64(popcount(blocks))
}

// pickSpare finds a spare unit for the current unit's blocks.
func (v *mover) pickSpare(a *Arbiter, info *UnitInfo) bool {
	u := &v.units[v.i]
	for _, p := range info.Places[:info.N] {
		if a.alloc.Service(p.Spare) == InService && !a.alloc.Suspected(p.Spare) &&
			!a.spoilt(info, p) {
			u.spare, u.taken = p.Spare, true
			return true
		}
	}
	u.spare, _, u.taken = a.alloc.Allocate(1, NoHint)
	return u.taken
}

// anotherSpare looks for another spare unit for the current unit, after its first
// one did not take what was written to it, or did not hold it.
func (v *mover) anotherSpare(a *Arbiter) {
	u := &v.units[v.i]
	a.suspect(u.spare)
	u.taken = false
	a.freeUnused(v.first+uint64(v.i), u.spare)
	device, _ := a.geo.SpareOffset(u.spare)
	v.step = moveSearch
	a.search.add(a, job{kind: jobMove, device: device})
}

// found begins the current unit again with a good spare unit, if there is one.
func (v *mover) found(a *Arbiter, spare uint32, ok bool) {
	u := &v.units[v.i]
	v.step = moveCopy
	if ok {
		u.spare, u.taken = spare, true
		v.to = 0
	} else {
		v.noSpare = true
		v.res.Err = ErrSpareBad
		v.fail(u, u.mask)
	}
	v.goOn(a)
}
