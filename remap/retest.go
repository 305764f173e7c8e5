package remap

import "ublkremap/metadata"

// This file retests pending blocks when no spare unit is free. A write to a pending block
// must go to a spare unit, because a drive may keep a write to a bad sector in its cache
// only. But the block may be readable again, for example if the errors were those of the
// path. So it is read several times. If every read succeeds, the block counts as home, or
// as mapped, as before it became pending. Only the record about that is written, so a crash
// does not change what the block reads. The mover does the retest in batches of busy units,
// so no write to them is under way.
//
// If the blocks do not read, the claim may write them in place: see in_place.go.

// retestReads is how often a pending block must be read successfully.
const retestReads = 3

// nextRetest begins the retest of a claim that waits for one, and reports false if there is none.
func (v *mover) nextRetest(a *Arbiter) bool {
	for i := range a.claims {
		c := &a.claims[i]
		if a.index.retests == 0 {
			return false
		}
		if c.state != claimRetest {
			continue
		}
		v.suspended, v.suspendedRes, v.suspendedStep = v.now, v.res, v.step
		v.now, v.res = Move{Retest: true, Cause: metadata.CauseRetest}, MoveResult{}
		v.claim = i
		v.first, v.n = c.msg.Unit, int(min(MoveBatch, c.msg.Count))
		for u := range v.n {
			v.units[u] = moving{left: c.maskOf(v.first + uint64(u))}
		}
		v.busy(a)
		return true
	}
	return false
}

// endRetest goes back to the Move that a claim's retest came between, and answers the
// claims that something has changed for.
func (v *mover) endRetest(a *Arbiter) {
	tested := v.claim
	v.now, v.res, v.step, v.claim = v.suspended, v.suspendedRes, v.suspendedStep, -1
	failed := false
	for i := range a.claims {
		c := &a.claims[i]
		if c.state != claimRetest {
			continue
		}
		info := a.m.Unit(c.msg.Unit)
		if !livesWhereSeen(&c.msg, &info) || info.Pending&c.msg.First != c.msg.First {
			a.refuse(c, MsgRetry)
		} else if i == tested && !a.grantInPlace(c, &info) {
			a.refuse(c, MsgRefused)
			failed = true
		}
	}
	if !failed {
		return
	}
	// The disk still fails, and each try may take seconds. Claims that have waited for long
	// are refused, as without a retest.
	late := a.drv.Now() - int64(a.cfg.Policy.IsolateFor)
	for i := range a.claims {
		if c := &a.claims[i]; c.state == claimRetest && c.since < late {
			a.refuse(c, MsgRefused)
		}
	}
}

// grantInPlace lets a claim write to its pending blocks where they are: no spare unit is free, and
// they do not read. See in_place.go. It returns false for blocks in spare units, and while the
// breaker is open.
func (a *Arbiter) grantInPlace(c *claim, first *UnitInfo) bool {
	if c.msg.Mapped || a.shared.Tripped() || a.healConflicts(c) {
		return false
	}
	n := uint32(1)
	for ; n < c.msg.Count; n++ {
		unit := c.msg.Unit + uint64(n)
		info := a.m.Unit(unit)
		mask := c.maskOf(unit)
		if info.Busy || info.N > 0 || info.Lost&mask != 0 || info.Pending&mask != mask ||
			a.claimed(unit) {
			break
		}
	}
	if first.Lost&c.msg.First != 0 || first.Mapped()&c.msg.First != 0 {
		return false
	}
	c.home, c.spare, c.count = true, noSpare, n
	a.set(c, claimHeld)
	a.answer(c, MsgInPlace)
	return true
}

// pickPending picks a unit's blocks that are pending at one place, home first.
func (v *mover) pickPending(u *moving, info *UnitInfo) {
	asked := u.left & info.Pending &^ info.Lost
	u.pass, u.mask = passHome, asked&^info.Mapped()
	for _, p := range info.Places[:info.N] {
		if u.mask == 0 && p.Mask&asked != 0 {
			u.pass, u.mask, u.spare = passRead, p.Mask&asked, p.Spare
		}
	}
	v.res.Skipped += uint64(popcount(u.left &^ u.mask))
	u.left = 0
}

// retested takes the end of a read of the current run, which is to be read well several
// times, and the same each time.
func (v *mover) retested(a *Arbiter, ok, medium bool) {
	u := &v.units[v.i]
	run := v.run()
	if ok && v.reads > 0 {
		ok = v.sameAgain(a)
	}
	switch {
	case ok && v.reads+1 < retestReads:
		v.reads++
		clear(v.copy)
		v.start(a, OpRead, u.pass != passRead, v.copy)
		return
	case ok && u.pass == passOld:
		u.old |= run
		u.bad &^= run
	case !ok && medium && v.to-v.from > 1:
		v.single, v.to = true, v.from
	case !ok:
		v.fail(u, run)
		if medium && u.pass != passRead {
			a.homeFailed(v.first+uint64(v.i), run)
		}
		if u.pass == passOld {
			v.res.NoCopy += uint64(popcount(run))
		}
	}
	v.reads = 0
	v.goOn(a)
}
