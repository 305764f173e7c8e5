package remap

import (
	"math/bits"

	"ublkremap/metadata"
)

// This file fills bad blocks with what they held, from a backup. A fill is a Move to the spare
// region whose data comes from its caller and not from the old place. It never replaces what a user
// has written since, because each step is done while the unit is busy:
//
//  1. The unit is made busy, heals of it end, and a grace period passes. From now on no write to
//     the unit is under way, and none begins. A write that a queue had issued to the old place
//     before the block became pending has ended.
//  2. The Map says which blocks are pending or lost. All others are left alone: a write has healed
//     them meanwhile, or they were never bad. So are those that are bad in another way than the
//     caller has seen, if it says so. Users wait, so this stays true until the end.
//  3. Each pending block is read once, by itself, to the end of its physical block. What reads is
//     left alone. It may hold a write that was acknowledged before the block became pending, or the
//     block was noted only because there was no time to try it.
//  4. The data is written to a spare unit, with FUA, and read back.
//  5. The change is committed and published. The requests that waited go on at the new place.
//
// If the breaker opens meanwhile because a commit has an unknown outcome, and is closed again
// before 5, the fill fails: what the Map called lost may not be so (see mover.outdated).
//
// A crash before 5 leaves the blocks as they were: nothing names the spare unit. After 5 they hold
// the data. A commit of unknown outcome is treated as that of any Move.

// Fill says what a Move is to fill blocks with.
type Fill struct {
	// Data is what the blocks of the Move held. It and Outcome belong to the Arbiter until
	// ArbiterDriver.Moved was called.
	Data []byte
	// Outcome is set for each block of the Move.
	Outcome []FillOutcome
	// Seen, if not nil, is how each block of the Move was seen when it was decided what to fill it
	// with. One that is bad in another way now may hold what a user has written since, and that was
	// lost again. It is left alone.
	Seen []Seen
}

// Seen is how a block was seen. The zero value is that of a block that is not to be filled.
type Seen struct {
	State metadata.State // StatePending or StateLost
	// Of a pending block: whether it lived in a spare unit, and in which. A write makes a pending
	// block live in another spare unit.
	Mapped bool
	Spare  uint32
	// Of a lost block, which has no place: UnitInfo.Time.
	Time uint32
}

// same reports whether block i of a unit is still as it was seen.
func (s *Seen) same(info *UnitInfo, i int) bool {
	switch s.State {
	case metadata.StatePending:
		spare, mapped := info.SpareOf(i)
		return info.Pending&(1<<i) != 0 && mapped == s.Mapped && (!mapped || spare == s.Spare)
	case metadata.StateLost:
		return info.Lost&(1<<i) != 0 && info.Time == s.Time
	default:
		return false
	}
}

// FillOutcome says what a fill did to a block.
type FillOutcome uint8

const (
	// FillFailed: the block stays as it is, because no spare unit took the data, the commit is not
	// known to be durable, or the fill ended early.
	FillFailed  FillOutcome = iota
	FillDone                // it holds the data
	FillNotBad              // it is neither pending nor lost
	FillReads               // it is pending, and reads: it stays as it is
	FillChanged             // it is bad, and not as Fill.Seen says: it stays as it is
)

// valid reports whether the data is that of the blocks.
func (f *Fill) valid(m *Move, geo *Geometry) bool {
	return uint64(len(f.Outcome)) == m.Count &&
		(f.Seen == nil || uint64(len(f.Seen)) == m.Count) &&
		uint64(len(f.Data)) == m.Count*uint64(geo.BlockSize)
}

// tell sets the outcome of blocks of a unit.
func (v *mover) tell(a *Arbiter, i int, blocks uint8, o FillOutcome) {
	per := a.geo.BlocksPerUnit()
	for ; blocks != 0; blocks &= blocks - 1 {
		block := (v.first+uint64(i))*per + uint64(bits.TrailingZeros8(blocks))
		v.now.Fill.Outcome[block-v.now.Block] = o
	}
}

// nextFillPass picks what is done next with the current unit: pending blocks of one place are
// read, and in the end those that do not read, and the lost ones, are written to a spare unit.
func (v *mover) nextFillPass(a *Arbiter, u *moving) bool {
	info := a.m.Unit(v.first + uint64(v.i))
	good := u.left &^ (info.Pending | info.Lost)
	if plantedFillAll {
		good = 0
	}
	v.leave(a, u, good, FillNotBad)
	v.leave(a, u, v.changed(a, u, &info), FillChanged)
	u.fill |= u.left & info.Lost
	if u.left &^= info.Lost; plantedFillUnread {
		u.fill, u.left = u.fill|u.left, 0
	}
	if u.mask = u.left &^ info.Mapped(); u.mask != 0 {
		u.left, u.pass = u.left&^u.mask, passTryHome
		return true
	}
	for _, p := range info.Places[:info.N] {
		if u.mask = u.left & p.Mask; u.mask != 0 {
			u.left, u.pass, u.spare = u.left&^u.mask, passTrySpare, p.Spare
			return true
		}
	}
	if u.fill == 0 {
		return false
	}
	u.mask, u.fill, u.pass = u.fill, 0, passFill
	if !v.noSpare && v.pickSpareToFill(a, u, &info) {
		return true
	}
	v.fail(u, u.mask)
	if v.res.Err == nil && !v.noSpare {
		v.res.Err = ErrSpareFull
	}
	return false
}

// changed returns which of the blocks that are left are not as they were seen.
func (v *mover) changed(a *Arbiter, u *moving, info *UnitInfo) (blocks uint8) {
	if v.now.Fill.Seen == nil {
		return 0
	}
	unit := (v.first + uint64(v.i)) * a.geo.BlocksPerUnit()
	for left := u.left; left != 0; left &= left - 1 {
		i := bits.TrailingZeros8(left)
		if !v.now.Fill.Seen[unit+uint64(i)-v.now.Block].same(info, i) {
			blocks |= 1 << i
		}
	}
	return blocks
}

// leave leaves blocks as they are.
func (v *mover) leave(a *Arbiter, u *moving, blocks uint8, why FillOutcome) {
	u.left &^= blocks
	u.mask &^= blocks
	v.res.Skipped += uint64(popcount(blocks))
	v.tell(a, v.i, blocks, why)
}

// pickSpareToFill finds a spare unit for blocks. Those that live in one and do not read there go to
// another one. A unit that a commit of unknown outcome is about may hold what a user has written to
// these blocks, and the breaker's end makes that visible again.
func (v *mover) pickSpareToFill(a *Arbiter, u *moving, info *UnitInfo) bool {
	for _, p := range info.Places[:info.N] {
		if p.Mask&u.mask == 0 && a.alloc.Service(p.Spare) == InService &&
			!a.alloc.Suspected(p.Spare) && !a.inDoubt(p.Spare) && !a.spoilt(info, p) {
			u.spare, u.taken = p.Spare, true
			return true
		}
	}
	u.spare, _, u.taken = a.alloc.Allocate(1, NoHint)
	return u.taken
}

// tryRun is how many blocks from one on are read together: to the end of the physical block, which
// reads or fails as one. A unit is not read as a whole first, because a drive may take seconds for
// each failure.
func (a *Arbiter) tryRun(from uint) (to uint) {
	size := uint(min(a.geo.physicalBlocks(), a.geo.BlocksPerUnit()))
	return (from/size + 1) * size
}

// startFill starts the first operation of a run of a fill.
func (v *mover) startFill(a *Arbiter, u *moving) {
	if u.pass != passFill {
		v.reading = true
		v.start(a, OpRead, u.pass == passTryHome, v.data)
		return
	}
	bs := uint64(a.geo.BlockSize)
	per := a.geo.BlocksPerUnit()
	at := ((v.first+uint64(v.i))*per + uint64(v.from) - v.now.Block) * bs
	copy(v.data, v.now.Fill.Data[at:at+uint64(v.to-v.from)*bs])
	v.reading = false
	v.start(a, OpWrite, false, v.data)
}

// fillTransferred takes the end of a transfer of a fill.
func (v *mover) fillTransferred(a *Arbiter, ok, medium bool) {
	u := &v.units[v.i]
	run := v.run()
	switch {
	case !ok && !medium:
		v.fail(u, run) // as every Move
	case v.reading && ok:
		v.leave(a, u, run, FillReads)
	case v.reading:
		u.mask &^= run
		u.fill |= run
		if u.pass == passTryHome {
			a.homeFailed(v.first+uint64(v.i), run)
		}
		// A spare device that is away is asked for before the commit.
		if device, _ := v.place(a, u.pass == passTryHome); device != 0 {
			v.toAsk |= 1 << device
		}
	case ok && !v.verifying:
		v.verifying = true
		clear(v.copy)
		v.start(a, OpRead, false, v.copy)
		return
	case ok && v.sameAgain(a):
		device, _ := a.geo.SpareOffset(u.spare)
		a.deviceReads(device)
	default:
		v.anotherSpare(a)
		return
	}
	v.goOn(a)
}

// cutShort ends a batch of a fill, or of a test of homes, after the current unit, which is done, if
// the batch has taken long. So users do not wait for the units of a whole batch while a drive tries
// each of its bad sectors.
func (v *mover) cutShort(a *Arbiter) {
	next := v.i + 1
	if v.now.Fill == nil && v.now.Try == TryNone || next == v.n ||
		a.drv.Now()-v.began < int64(a.cfg.Policy.IsolateFor) {
		return
	}
	rest := v.first + uint64(next)
	a.m.SetBusy(rest, uint64(v.n-next), false)
	a.wake(rest, uint64(v.n-next))
	v.n, v.at = next, rest*a.geo.BlocksPerUnit()
}

// filled tells what became of the blocks that a durable commit was about.
func (v *mover) filled(a *Arbiter) {
	for i := range v.units[:v.n] {
		v.tell(a, i, v.units[i].done, FillDone)
	}
}

// fillOnAway gives up blocks whose device is away: they do not read, and their medium may be good.
func (v *mover) fillOnAway(a *Arbiter, device uint8) {
	for i := range v.units[:v.n] {
		u := &v.units[i]
		unit := v.first + uint64(i)
		info := a.m.Unit(unit)
		lost := u.done & a.livesOn(unit, &info, device) &^ info.Lost
		u.done &^= lost
		v.res.Failed += uint64(popcount(lost))
	}
}

// fillCause is the cause of what a fill changes: it is an operator's word.
const fillCause = metadata.CauseOperator
