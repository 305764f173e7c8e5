package remap

import (
	"bytes"
	"math/bits"
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
	// AcceptOld, of a move home: a block that has no copy which reads in the spare region goes
	// home as it is there, if that reads well, several times. What was written to it since
	// it left is lost.
	AcceptOld bool
	Cause     metadata.Cause
}

// MoveResult is how a Move ended.
type MoveResult struct {
	ID      uint64
	Moved   uint64 // blocks; of a retest those that are no longer pending
	Skipped uint64 // blocks that were there already, or that are lost, or of a retest not pending
	// blocks that could not be read, or not be written where they should go; they stay
	// where they are
	Failed uint64
	// NoCopy are those of Skipped and Failed, of a move home, that have no copy which reads but
	// perhaps an older one at home: see AcceptOld.
	NoCopy uint64
	Old    uint64 // those of Moved of which home holds what it held before they left it
	Err    error  // why it ended early: ErrTripped, ErrSpareFull, ErrSpareBad; else nil
}

// moveStep says what the mover waits for.
type moveStep uint8

const (
	moveIdle   moveStep = iota // for a Move
	moveNext                   // for nothing: the next batch is due
	moveClaims                 // for heals of the busy units to end
	moveGrace                  // for I/O that looked at the Map before the units were busy
	moveCopy                   // for a transfer
	moveSearch                 // for a spare unit that is well, after one failed
	moveAsk                    // for an answer of a device on which blocks did not read
	moveCommit                 // for the journal
)

// MoveBatch is how many units are busy at once, and how many are copied at once at most.
const MoveBatch = 32

// moveMaxQueue is how many Moves may wait.
const moveMaxQueue = 64

// What happens to a batch must fit one commit: a place and a pending mark for
// each unit.
const _ = uint(metadata.MaxEntries - 2*MoveBatch)

// moving is one unit of the batch. Blocks that go home do so in several passes: those of
// one spare unit at a time, then those that are at home and pending, then those of which
// only home may have a copy.
type moving struct {
	left  uint8  // blocks of later passes
	mask  uint8  // blocks of this pass: what is left of them once they were copied
	done  uint8  // blocks that are where they should be
	old   uint8  // those of done of which home holds what it held before
	bad   uint8  // blocks that could not be read: they become pending
	spare uint32 // where they go, or come from
	taken bool   // spare was found for this move
	pass  movePass
}

// movePass says what is done with the blocks of a pass.
type movePass uint8

const (
	passCopy movePass = iota // read them, write them to their new place, and read that
	passHome                 // they are at home, and pending: read them there several times
	passRead                 // of a retest: they are in a spare unit, and pending: the same there
	passOld                  // read what home holds several times
)

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
	units      [MoveBatch]moving
	n          int // units in the batch
	i          int // unit that is being copied
	reading    bool
	verifying  bool
	from, to   uint // blocks of the unit that are being copied
	single     bool // block by block: a read of several failed
	noSpare    bool // none that was tried holds data
	bulk       bool // the batch is copied as one run
	data, copy []byte
	transfer   uint64
	room       uint64 // entries that are reserved for the batch
	doubted    uint32 // devices, a bit each, on which blocks did not read, and that are to be asked

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
	v.entries = make([]metadata.Entry, 0, 2*MoveBatch)
	half := len(cfg.Buffer) / 2 &^ (metadata.UnitSize - 1)
	v.data, v.copy = cfg.Buffer[:half], cfg.Buffer[half:2*half]
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
			v.noSpare, v.doubted = false, 0
			if !v.beginBulk(a) {
				v.beginUnit(a)
			}
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
	case !v.reserveRoom(a):
		v.end(a, ErrTableFull)
		return
	}
	v.first = v.at / per
	v.n = int(min(MoveBatch, (end-1)/per-v.first+1))
	for i := range v.n {
		unit := v.first + uint64(i)
		lo, hi := max(v.at, unit*per), min(end, (unit+1)*per)
		v.units[i] = moving{left: uint8(1<<(hi-unit*per)-1) &^ uint8(1<<(lo-unit*per)-1)}
	}
	v.at = min(end, (v.first+uint64(v.n))*per)
	v.busy(a)
}

// reserveRoom takes room for what a batch may add to the table. What goes home may cut
// runs in two, and then frees the room of others.
func (v *mover) reserveRoom(a *Arbiter) bool {
	keep := a.forHeals()
	if !v.now.ToSpare {
		keep = 0
	}
	if a.reserveRoom(perBatch, keep) {
		v.room = perBatch
		return true
	}
	return false
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

// beginUnit goes on with the current unit's next pass, or with the next unit, and starts
// copying the first of its blocks; past the last unit it commits.
func (v *mover) beginUnit(a *Arbiter) {
	for ; v.i < v.n; v.i++ {
		for v.nextPass(a) {
			v.from, v.to, v.single, v.reads = 0, 0, false, 0
			if v.nextRun(a) {
				return
			}
		}
	}
	v.askDoubted(a)
}

// nextPass picks the blocks of the current unit's next pass; false if there is none.
func (v *mover) nextPass(a *Arbiter) bool {
	u := &v.units[v.i]
	u.done |= u.mask
	u.mask = 0
	if u.left == 0 && (v.now.ToSpare || v.now.Retest || u.bad == 0) {
		return false
	}
	info := a.m.Unit(v.first + uint64(v.i))
	switch {
	case v.now.Retest:
		v.pickPending(u, &info)
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

// pickSpared picks the blocks of one spare unit, or when there are none left those that are
// pending at home, or else those that have no copy which reads.
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
	gone := u.bad&info.Mapped() | u.left&info.Lost
	v.res.Skipped += uint64(popcount(u.left &^ gone))
	u.left = 0
	switch {
	case u.pass == passOld: // that was it
	case v.now.AcceptOld:
		u.mask, u.pass = gone, passOld
		v.res.Failed -= uint64(popcount(gone & u.bad)) // until it is known
	default:
		v.res.Skipped += uint64(popcount(gone & info.Lost))
		v.res.NoCopy += uint64(popcount(gone))
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
		if a.alloc.Service(p.Spare) == InService && !a.alloc.Suspected(p.Spare) {
			u.spare, u.taken = p.Spare, true
			return true
		}
	}
	u.spare, _, u.taken = a.alloc.Allocate(1, NoHint)
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
	v.start(a, OpRead, v.now.ToSpare || u.pass == passHome || u.pass == passOld, v.data)
	return true
}

// place returns where the current run lives at home, or in its spare unit.
func (v *mover) place(a *Arbiter, home bool) (device uint8, offset int64) {
	if home {
		return a.geo.HomeOffset((v.first+uint64(v.i))*a.geo.BlocksPerUnit() + uint64(v.from))
	}
	device, offset = a.geo.SpareOffset(v.units[v.i].spare)
	return device, offset + int64(v.from)*int64(a.geo.BlockSize)
}

// start transfers the current run between the buffer and its home or its spare unit.
func (v *mover) start(a *Arbiter, op Op, home bool, buf []byte) {
	device, offset := v.place(a, home)
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
	switch {
	case id&ownTransfer != 0:
		a.search.transferred(a, id, res)
		a.advance()
		return
	case v.step != moveCopy || id != v.transfer:
		return
	}
	if v.bulk {
		v.bulkTransferred(a, int(res) == v.n*metadata.UnitSize)
		a.advance()
		return
	}
	end := v.transferred
	if v.units[v.i].pass != passCopy {
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
	run := v.run()
	switch {
	case !ok && !medium:
		// The path is at fault, or resources are short: nothing is pending, no
		// spare unit is bad, and the blocks stay where they are.
		v.fail(u, run)
	case v.reading && !ok && v.to-v.from > 1:
		v.single, v.to = true, v.from
	case v.reading && !ok:
		v.fail(u, run)
		u.bad |= run
		v.doubt(a)
	case v.reading:
		v.reading = false
		v.start(a, OpWrite, !v.now.ToSpare, v.data)
		return
	case ok && !v.verifying:
		// What takes a write need not hold it: it is read back before what is there now is
		// given up.
		v.verifying = true
		clear(v.copy)
		v.start(a, OpRead, !v.now.ToSpare, v.copy)
		return
	case ok && v.sameAgain(a):
		if v.now.ToSpare {
			device, _ := a.geo.SpareOffset(u.spare)
			a.well(device)
		}
	case v.now.ToSpare:
		v.anotherSpare(a)
		return
	default:
		v.fail(u, run) // it stays in its spare unit
	}
	v.goOn(a)
}

// run is the mask of the current run's blocks.
func (v *mover) run() uint8 { return uint8(1<<v.to-1) &^ uint8(1<<v.from-1) }

// sameAgain reports whether the run was read as it was read, or written, before.
func (v *mover) sameAgain(a *Arbiter) bool {
	n := int(v.to-v.from) * a.geo.BlockSize
	return bytes.Equal(v.data[:n], v.copy[:n])
}

// goOn copies the next run, or goes on with the next pass or unit.
func (v *mover) goOn(a *Arbiter) {
	if v.units[v.i].mask != 0 && v.nextRun(a) {
		return
	}
	v.beginUnit(a)
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

// found begins the current unit again with a spare unit that is well, if there is one.
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

// doubt has the device asked, before the commit, on which the current run did not read. Of the
// backing disk the commit itself tells whether it is there.
func (v *mover) doubt(a *Arbiter) {
	if device, _ := v.place(a, v.now.ToSpare); device != 0 {
		v.doubted |= 1 << device
	}
}

// askDoubted asks the devices on which blocks did not read, one after the other; then it
// commits.
func (v *mover) askDoubted(a *Arbiter) {
	if v.doubted == 0 {
		v.commit(a)
		return
	}
	v.step = moveAsk
	a.search.add(a, job{kind: jobMoved, device: uint8(bits.TrailingZeros32(v.doubted))})
}

// asked takes a device's answer. If it is away nothing that did not read there is pending.
func (v *mover) asked(a *Arbiter, device uint8, there bool) {
	v.doubted &^= 1 << device
	for i := range v.units[:v.n] {
		if u := &v.units[i]; !there && u.bad != 0 {
			info := a.m.Unit(v.first + uint64(i))
			u.bad &^= a.livesOn(v.first+uint64(i), &info, device)
		}
	}
	v.askDoubted(a)
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
		if marked += uint64(popcount(u.bad)); u.bad != 0 && (a.cfg.MaxPending == 0 ||
			a.m.Counts().Pending+marked <= a.cfg.MaxPending) {
			v.add(metadata.Entry{Unit: unit, Count: 1, Mask: u.bad, State: metadata.StatePending,
				Cause: metadata.CauseRead, Time: v.time})
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
		n += uint64(popcount(u.done))
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
}

func (v *mover) committed(a *Arbiter, durable bool) {
	if durable {
		a.publish(v.entries)
		v.res.Moved += v.blocks()
		for i := range v.units[:v.n] {
			u := &v.units[i]
			v.res.Old += uint64(popcount(u.old))
			if u.taken && u.done != 0 {
				a.took(u.spare)
			}
		}
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
	a.room.reserved -= v.room
	v.room = 0
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
