package remap

import (
	"bytes"
	"syscall"

	"ublkremap/metadata"
)

// Move asks for blocks to be moved to the spare region, or home again, without
// an error seen by anyone.
type Move struct {
	ID      uint64 // the driver's own
	Block   uint64
	Count   uint64 // blocks
	ToSpare bool
	// Retest: nothing is moved. Pending blocks that read well again, several times, are
	// no longer pending.
	Retest bool
	Cause  metadata.Cause
}

// MoveResult is how a Move ended.
type MoveResult struct {
	ID      uint64
	Moved   uint64 // blocks; of a retest those that are no longer pending
	Skipped uint64 // blocks that were there already, or that are lost, or of a retest not pending
	Failed  uint64 // blocks that could not be read, or not be written where they should go; they stay where they are
	Err     error  // why it ended early: ErrTripped, ErrSpareFull; else nil
}

// moveStep says what the mover waits for.
type moveStep uint8

const (
	moveIdle   moveStep = iota // for a Move
	moveNext                   // for nothing: the next batch is due
	moveClaims                 // for heals of the busy units to end
	moveGrace                  // for I/O that looked at the Map before the units were busy
	moveCopy                   // for a transfer
	moveCommit                 // for the journal
)

const (
	moveBatch    = 32 // units that are busy at once
	moveMaxQueue = 64 // Moves that may wait
	moveTries    = 3  // spare units that are tried for one unit
)

// What happens to a batch must fit one commit: a place and a pending mark for
// each unit, and the spare units that failed.
const _ = uint(metadata.MaxEntries - (2+moveTries)*moveBatch)

// moving is one unit of the batch.
type moving struct {
	mask  uint8  // blocks to move: what is left of them once the unit was copied
	bad   uint8  // blocks that could not be read: they become pending
	spare uint32 // where they go, or come from
	taken bool   // spare was found for this move
	home  bool   // of a retest: the blocks are at home
}

// failedSpare is a spare unit that could not be written.
type failedSpare struct {
	unit  uint64 // for which it was tried
	spare uint32
}

// mover carries out Moves, one batch of units after the other. The units of a
// batch are busy: requests that meet them wait, and heals of them too. A grace
// period makes sure that no queue has I/O in flight that looked at an older
// Map: it could be a write to the source behind the copy's back.
type mover struct {
	step  moveStep
	queue []Move
	now   Move
	res   MoveResult
	at    uint64 // next block of the Move

	first      uint64 // first unit of the batch
	units      [moveBatch]moving
	n          int // units in the batch
	i          int // unit that is being copied
	reading    bool
	verifying  bool
	from, to   uint // blocks of the unit that are being copied
	single     bool // block by block: a read of several failed
	tries      int
	data, copy []byte
	transfer   uint64
	failed     []failedSpare

	entries []metadata.Entry
	time    uint32

	reads int // of a retest: how often the run was read well
	// A claim's retest comes between two batches of a Move.
	claim    int // for which it is; -1: none
	aside    Move
	asideRes MoveResult
	back     moveStep
}

func (v *mover) init(cfg ArbiterConfig) {
	v.queue = make([]Move, 0, moveMaxQueue)
	v.failed = make([]failedSpare, 0, moveBatch*moveTries)
	v.entries = make([]metadata.Entry, 0, (2+moveTries)*moveBatch)
	v.data = cfg.Buffer[:metadata.UnitSize]
	v.copy = cfg.Buffer[metadata.UnitSize : 2*metadata.UnitSize]
	v.claim = -1
}

// Move asks for blocks to be moved. Its end is told by ArbiterDriver.Moved.
func (a *Arbiter) Move(m Move) error {
	switch {
	case m.Count == 0 || m.Block+m.Count < m.Block || m.Block+m.Count > a.geo.Blocks:
		return ErrRange
	case a.shared.Tripped():
		return ErrTripped
	case len(a.move.queue) == cap(a.move.queue):
		return ErrBusy
	}
	a.move.queue = append(a.move.queue, m)
	a.advance()
	return nil
}

// Advance goes on with what waited for commits. A driver calls it after it has handed
// over a batch of outcomes by Committed.
func (a *Arbiter) Advance() { a.advance() }

// advance takes the steps that need no answer from outside.
func (v *mover) advance(a *Arbiter) {
	for {
		switch v.step {
		case moveIdle:
			if v.nextRetest(a) {
				continue
			}
			if len(v.queue) == 0 {
				if len(a.grace.limbo) > 0 && a.grace.waiting == 0 {
					a.grace.begin(a)
				}
				return
			}
			v.now = v.queue[0]
			v.queue = append(v.queue[:0], v.queue[1:]...)
			v.res = MoveResult{ID: v.now.ID}
			v.at = v.now.Block
			v.step = moveNext
		case moveNext:
			if v.nextRetest(a) {
				continue
			}
			v.nextBatch(a)
		case moveClaims:
			if a.grace.waiting > 0 {
				return // for limbo; it began before the units were busy
			}
			for u := range uint64(v.n) {
				if a.claimed(v.first + u) {
					return
				}
			}
			v.step = moveGrace
			a.grace.begin(a)
		case moveGrace:
			if a.grace.waiting > 0 {
				return
			}
			v.i, v.step = 0, moveCopy
			v.failed = v.failed[:0]
			v.beginUnit(a)
		default:
			return // a transfer or a commit is under way
		}
	}
}

// nextBatch makes the next units of the Move busy, or ends it.
func (v *mover) nextBatch(a *Arbiter) {
	per := a.geo.BlocksPerUnit()
	end := v.now.Block + v.now.Count
	switch {
	case a.shared.Tripped():
		v.end(a, ErrTripped)
		return
	case v.at >= end:
		v.end(a, nil)
		return
	}
	v.first = v.at / per
	v.n = int(min(moveBatch, (end-1)/per-v.first+1))
	for i := range v.n {
		unit := v.first + uint64(i)
		lo, hi := max(v.at, unit*per), min(end, (unit+1)*per)
		v.units[i] = moving{mask: uint8(1<<(hi-unit*per)-1) &^ uint8(1<<(lo-unit*per)-1)}
	}
	v.at = min(end, (v.first+uint64(v.n))*per)
	v.busy(a)
}

// busy begins a batch.
func (v *mover) busy(a *Arbiter) {
	a.m.SetBusy(v.first, uint64(v.n), true)
	v.step = moveClaims
}

func (v *mover) end(a *Arbiter, err error) {
	if err != nil {
		v.res.Err = err
	}
	v.step = moveIdle
	a.drv.Moved(v.res)
}

// beginUnit decides which blocks of the current unit move and starts copying
// the first of them; past the last unit it commits.
func (v *mover) beginUnit(a *Arbiter) {
	for ; v.i < v.n; v.i++ {
		u := &v.units[v.i]
		if u.mask == 0 {
			continue
		}
		info := a.m.Unit(v.first + uint64(v.i))
		asked := u.mask
		if v.now.Retest {
			u.pickPending(&info)
		} else if v.now.ToSpare {
			u.mask &^= info.Mapped() | info.Lost
		} else {
			// The blocks of one place at a time; more than one is rare.
			u.mask = 0
			for _, p := range info.Places[:info.N] {
				if p.Mask&asked != 0 {
					u.mask, u.spare = p.Mask&asked, p.Spare
					break
				}
			}
			if rest := asked & info.Mapped() &^ u.mask; rest != 0 {
				asked &^= rest
				v.res.Failed += uint64(popcount(rest))
			}
		}
		v.res.Skipped += uint64(popcount(asked &^ u.mask))
		if u.mask == 0 {
			continue
		}
		v.tries = 0
		if v.now.ToSpare && !v.pickSpare(a, &info) {
			v.res.Failed += uint64(popcount(u.mask))
			v.res.Err = ErrSpareFull
			u.mask = 0
			continue
		}
		v.from, v.to, v.single = 0, 0, false
		if v.nextRun(a) {
			return
		}
	}
	v.commit(a)
}

// pickSpare finds a spare unit for the current unit's blocks.
func (v *mover) pickSpare(a *Arbiter, info *UnitInfo) bool {
	u := &v.units[v.i]
	if v.tries == 0 {
		for _, p := range info.Places[:info.N] {
			if a.alloc.Service(p.Spare) == InService {
				u.spare, u.taken = p.Spare, true
				return true
			}
		}
		u.spare, _, u.taken = a.alloc.Allocate(1, NoHint)
	} else {
		u.spare, u.taken = a.alloc.AllocateFar(u.spare)
	}
	return u.taken
}

// nextRun starts to copy the next run of the current unit's blocks, from v.to
// on; false if there is none.
func (v *mover) nextRun(a *Arbiter) bool {
	u := &v.units[v.i]
	per := uint(a.geo.BlocksPerUnit())
	v.from = v.to
	for v.from < per && u.mask>>v.from&1 == 0 {
		v.from++
	}
	if v.from == per {
		return false
	}
	v.to = v.from + 1
	for !v.single && v.to < per && u.mask>>v.to&1 != 0 {
		v.to++
	}
	v.reading, v.verifying = true, false
	v.start(a, OpRead, v.now.ToSpare || u.home, v.data)
	return true
}

// start transfers the current run between the buffer and its home or its spare unit.
func (v *mover) start(a *Arbiter, op Op, home bool, buf []byte) {
	per := a.geo.BlocksPerUnit()
	unit := v.first + uint64(v.i)
	var device uint8
	var offset int64
	if home {
		device, offset = a.geo.HomeOffset(unit*per + uint64(v.from))
	} else {
		device, offset = a.geo.SpareOffset(v.units[v.i].spare)
		offset += int64(v.from) * int64(a.geo.BlockSize)
	}
	v.transfer++
	t := &a.outTransfer
	*t = Transfer{
		ID: v.transfer, Op: op, FUA: op == OpWrite, Device: device, Offset: offset,
		Data: buf[:int(v.to-v.from)*a.geo.BlockSize],
	}
	a.drv.Transfer(t)
}

// Transferred takes the end of a Transfer: its whole length, or a negative errno.
// A short result says nothing of the medium: the driver goes on after one, and
// reports what it could not finish.
func (a *Arbiter) Transferred(id uint64, res int32) {
	v := &a.move
	if v.step != moveCopy || id != v.transfer {
		return
	}
	end := v.transferred
	if v.now.Retest {
		end = v.retested
	}
	end(a, int(res) == int(v.to-v.from)*a.geo.BlockSize, res < 0 && Classify(res) == ClassMedium)
	a.advance()
}

// TransferUnflushed takes the end of a Transfer whose data was written and whose flush, or
// another one meanwhile, failed. That says nothing of the medium.
func (a *Arbiter) TransferUnflushed(id uint64) { a.Transferred(id, -int32(syscall.ENOLINK)) }

// transferred takes the end of a transfer of the current run: well done, or failed, for
// its medium or for another reason.
func (v *mover) transferred(a *Arbiter, ok, medium bool) {
	u := &v.units[v.i]
	run := uint8(1<<v.to-1) &^ uint8(1<<v.from-1)
	switch {
	case !ok && !medium:
		// The path is at fault, or resources are short: nothing is pending, no
		// spare unit is bad, and the blocks stay where they are.
		u.mask &^= run
		v.res.Failed += uint64(popcount(run))
	case v.reading && !ok && v.to-v.from > 1:
		v.single, v.to = true, v.from
	case v.reading && !ok:
		u.mask &^= run
		u.bad |= run
		v.res.Failed++
	case v.reading:
		v.reading = false
		v.start(a, OpWrite, !v.now.ToSpare, v.data)
		return
	case v.verifying:
		if !ok || !bytes.Equal(v.data[:int(v.to-v.from)*a.geo.BlockSize], v.copy[:int(v.to-v.from)*a.geo.BlockSize]) {
			u.mask &^= run
			v.res.Failed += uint64(popcount(run))
		}
	case !ok && v.now.ToSpare:
		if !v.anotherSpare(a) {
			v.res.Failed += uint64(popcount(u.mask))
			u.mask = 0
		}
	case !ok:
		u.mask &^= run // it stays in its spare unit
		v.res.Failed += uint64(popcount(run))
	case !v.now.ToSpare:
		// A home that once failed must be read back before anything relies on it.
		v.verifying = true
		v.start(a, OpRead, true, v.copy)
		return
	}
	if u.mask != 0 && v.nextRun(a) {
		return
	}
	v.i++
	v.beginUnit(a)
}

// anotherSpare begins the current unit again with another spare unit, after a
// write to the first one failed.
func (v *mover) anotherSpare(a *Arbiter) bool {
	u := &v.units[v.i]
	v.failed = append(v.failed, failedSpare{v.first + uint64(v.i), u.spare})
	u.taken = false
	v.to = 0
	v.tries++
	return v.tries < moveTries && v.pickSpare(a, nil)
}

// commit hands the batch's changes to the journal.
func (v *mover) commit(a *Arbiter) {
	v.time = a.drv.WallClock()
	v.buildEntries(a)
	v.step = moveCommit
	if len(v.entries) == 0 {
		v.giveUp(a)
		v.release(a)
	} else if !a.journalCommit(commitMove, 0, v.entries) {
		v.res.Failed += v.blocks()
		v.giveUp(a)
		v.release(a)
	}
}

// buildEntries says what the batch changes, units in a row as one entry.
func (v *mover) buildEntries(a *Arbiter) {
	v.entries = v.entries[:0]
	for i, u := range v.units[:v.n] {
		unit := v.first + uint64(i)
		if u.mask != 0 {
			e := metadata.Entry{Unit: unit, Count: 1, Mask: u.mask, State: metadata.StateHome, Cause: v.now.Cause, Time: v.time}
			if v.now.ToSpare || v.now.Retest && !u.home {
				e.State, e.Spare = metadata.StateMapped, u.spare
			}
			v.add(e)
		}
		if u.bad != 0 {
			v.add(metadata.Entry{Unit: unit, Count: 1, Mask: u.bad, State: metadata.StatePending, Cause: metadata.CauseRead, Time: v.time})
		}
	}
	if v.blocks() == 0 {
		return // every spare unit that was tried failed: that says more of the path than of them
	}
	for _, f := range v.failed {
		if a.alloc.Service(f.spare) == InService {
			v.entries = append(v.entries, metadata.Entry{
				Spare: f.spare, Count: 1, State: metadata.StateRetired, Cause: metadata.CauseSpare, Time: v.time,
			})
		}
	}
}

func (v *mover) add(e metadata.Entry) {
	if n := len(v.entries); n > 0 {
		p := &v.entries[n-1]
		if p.State == e.State && p.Mask == e.Mask && p.Unit+uint64(p.Count) == e.Unit &&
			(e.State != metadata.StateMapped || p.Spare+p.Count == e.Spare) {
			p.Count++
			return
		}
	}
	v.entries = append(v.entries, e)
}

func (v *mover) blocks() (n uint64) {
	for _, u := range v.units[:v.n] {
		n += uint64(popcount(u.mask))
	}
	return n
}

// giveUp frees the spare units that were meant for the batch.
func (v *mover) giveUp(a *Arbiter) {
	for i, u := range v.units[:v.n] {
		if u.taken {
			a.freeUnused(v.first+uint64(i), u.spare)
		}
	}
	for _, f := range v.failed {
		a.freeUnused(f.unit, f.spare)
	}
}

func (v *mover) committed(a *Arbiter, durable bool) {
	if durable {
		a.publish(v.entries)
		v.res.Moved += v.blocks()
	} else {
		a.outcomeUnknown(v.entries)
		v.res.Failed += v.blocks()
	}
	v.giveUp(a) // what was tried and is not in use now
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
	for q := range a.cfg.Queues {
		a.out = Message{Kind: MsgWake, Queue: uint16(q)}
		a.drv.Send(uint16(q), &a.out)
	}
	v.step = moveNext
	a.ended = true
	if v.claim >= 0 {
		v.endRetest(a)
	}
}
