package remap

import "ublkremap/metadata"

// Move asks for blocks to be moved to the spare region, or home again, without
// an error seen by anyone.
type Move struct {
	ID      uint64 // the driver's own
	Block   uint64
	Count   uint64 // blocks
	ToSpare bool
	// Retest: nothing is moved. Pending blocks that can be read again, several times, are no
	// longer pending.
	Retest bool
	// AcceptOld, of a move home: a block without a readable copy in the spare region goes home
	// with the old data there, if that can be read several times. Writes since it left home
	// are lost.
	AcceptOld bool
	// Try makes a move home one step of a retest of homes, about those of its blocks that are in
	// Proofs. See retest_home.go.
	Try    TryStep
	Proofs *Proofs
	// Elsewhere: nothing is moved. So many other places of each disk are read, which displaces what
	// its cache holds. Block and Count do not matter.
	Elsewhere int
	Cause     metadata.Cause
	// Again: blocks that live in spare units go to other ones. All blocks of a unit that share a
	// spare unit with one of the Move go along. From is the spare unit that is to be left, if it is
	// AgainBad: what lives elsewhere stays there. See move_again.go.
	Again AgainWhy
	From  uint32
	// Fill: the blocks that are pending or lost get this data, and all others are left alone.
	// ToSpare and Cause have no meaning then. Of the result, Moved are those that were filled.
	Fill *Fill
}

// MoveResult is how a Move ended.
type MoveResult struct {
	ID      uint64
	Moved   uint64 // blocks; of a retest those that are no longer pending
	Skipped uint64 // blocks that were there already, or that are lost, or of a retest not pending
	// blocks that could not be read, or not be written where they should go; they stay
	// where they are
	Failed uint64
	// NoCopy are those of Skipped and Failed, of a move home, that have no readable copy, except
	// perhaps an older one at home: see AcceptOld.
	NoCopy uint64
	// Changed, of TryTake, are blocks that were written since TryWrite. They stay under test.
	Changed uint64
	Old     uint64 // those of Moved that went home with old data: see AcceptOld
	Err     error  // why it ended early: ErrTripped, ErrSpareFull, ErrSpareBad; else nil
}

// moveStep says what the mover waits for.
type moveStep uint8

const (
	moveIdle      moveStep = iota // for a Move
	moveNext                      // for nothing: the next batch is due
	moveElsewhere                 // for a read that displaces what a cache holds
	moveRoom                      // for room in the table
	moveClaims                    // for heals of the busy units to end
	moveGrace                     // for I/O that used the Map before the units were busy
	moveCopy                      // for a transfer
	moveSearch                    // for a good spare unit, after one failed
	moveAsk                       // for an answer of a device on which blocks did not read
	moveCommit                    // for the journal
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
	old   uint8  // those of done that went home with old data
	bad   uint8  // blocks that could not be read: they become pending
	fill  uint8  // of a fill: blocks to be written to a spare unit
	spare uint32 // where they go, or come from
	taken bool   // spare was found for this move
	pass  movePass
}

// mover carries out Moves, one batch of units after the other. The units of a batch are busy:
// requests that meet them wait, and heals of them too. A grace period makes sure that no queue has
// I/O in flight that looked at an older Map. Such I/O could be a write to the source that the copy
// would miss.
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
	space      uint64 // entries that are reserved for the batch
	toAsk      uint32 // a bit for each device that is to be asked: blocks did not read there

	entries []metadata.Entry
	time    uint32

	source  uint32   // of Again: the spare unit that the current pass copies from
	leaving []uint32 // of Again: the spare units that blocks of the batch leave
	tries   int      // of a read of a single block
	misses  int      // blocks of the batch that did not read

	reads int   // of a retest: how often the run was read successfully
	began int64 // monotonic ns: of the batch
	// restated is Arbiter.restated when the blocks of the batch began to be picked.
	restated uint64
	// elsewhere counts the places that were read to displace what caches hold.
	elsewhere uint64
	// places is how many of them the Move is to read, and astray how many reads of it failed.
	places, astray int
	// A claim's retest comes between two batches of a Move.
	claim         int // for which it is; -1: none
	suspended     Move
	suspendedRes  MoveResult
	suspendedStep moveStep
}

func (v *mover) init(cfg ArbiterConfig) {
	v.queue = make([]Move, 0, moveMaxQueue)
	v.entries = make([]metadata.Entry, 0, 2*MoveBatch)
	v.leaving = make([]uint32, 0, MaxPlaces)
	half := len(cfg.Buffer) / 2 &^ (metadata.UnitSize - 1)
	v.data, v.copy = cfg.Buffer[:half], cfg.Buffer[half:2*half]
	v.claim = -1
}

// Move asks for blocks to be moved. Its result goes to ArbiterDriver.Moved. It returns ErrRange,
// ErrTripped or ErrBusy.
func (a *Arbiter) Move(m Move) error {
	switch {
	case m.Elsewhere == 0 &&
		(m.Count == 0 || m.Block+m.Count < m.Block || m.Block+m.Count > a.geo.Blocks):
		return ErrRange
	case a.shared.Tripped():
		return ErrTripped
	case len(a.move.queue) == cap(a.move.queue):
		return ErrBusy
	case m.Fill != nil && !m.Fill.valid(&m, a.geo):
		return ErrRange
	}
	m.ToSpare = m.ToSpare || m.Again != AgainNot
	if m.Fill != nil {
		m.ToSpare, m.Retest, m.AcceptOld, m.Cause = true, false, false, fillCause
	}
	if m.Proofs != nil {
		a.tested = m.Proofs
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
				if len(a.grace.deferred) > 0 && a.grace.waiting == 0 {
					a.grace.begin(a)
				}
				return
			}
			v.now = v.queue[0]
			v.queue = append(v.queue[:0], v.queue[1:]...)
			v.res = MoveResult{ID: v.now.ID}
			if v.at = v.now.Block; v.now.Elsewhere > 0 {
				v.now.Count = 0
				v.now.Elsewhere *= a.geo.Devices
				v.places, v.astray = v.now.Elsewhere, 0
			}
			v.step = moveNext
		case moveNext:
			if v.nextRetest(a) {
				continue
			}
			v.nextBatch(a)
		case moveRoom:
			switch {
			case v.nextRetest(a):
				continue
			case a.space.wanted && !a.shared.Tripped():
				return
			}
			v.step = moveNext
		case moveClaims:
			if a.grace.waiting > 0 {
				return // for a deferred free; it began before the units were busy
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
			v.noSpare, v.toAsk, v.began, v.restated = false, 0, a.drv.Now(), a.restated
			v.misses = 0
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
	case v.now.Elsewhere > 0:
		v.readElsewhere(a)
		return
	case v.at >= end:
		v.end(a, nil)
		return
	case v.reserveSpace(a):
	case a.space.grows:
		a.space.wanted, v.step = true, moveRoom
		return
	default:
		a.space.refused++
		v.end(a, ErrTableFull)
		return
	}
	v.first = v.at / per
	v.n = int(min(MoveBatch, (end-1)/per-v.first+1))
	if v.leaving = v.leaving[:0]; v.now.Again != AgainNot {
		v.n = 1
	}
	for i := range v.n {
		unit := v.first + uint64(i)
		lo, hi := max(v.at, unit*per), min(end, (unit+1)*per)
		v.units[i] = moving{left: uint8(1<<(hi-unit*per)-1) &^ uint8(1<<(lo-unit*per)-1)}
	}
	v.at = min(end, (v.first+uint64(v.n))*per)
	v.busy(a)
}

// reserveSpace takes room for what a batch may add to the table. Blocks that go home may cut runs
// in two. They then free the room of other entries.
func (v *mover) reserveSpace(a *Arbiter) bool {
	keep := a.spaceForHeals()
	if !v.now.ToSpare {
		keep = 0
	}
	if a.reserveSpace(perBatch, keep) {
		v.space = perBatch
		return true
	}
	return false
}

// busy begins a batch.
func (v *mover) busy(a *Arbiter) {
	a.m.SetBusy(v.first, uint64(v.n), !plantedNotBusy || v.now.Cause != metadata.CauseScrub)
	v.step = moveClaims
}

func (v *mover) end(a *Arbiter, err error) {
	if err != nil {
		v.res.Err = err
	}
	v.step, v.now.Fill = moveIdle, nil
	a.drv.Moved(v.res)
}
