package coordinator

import (
	"errors"
	"math/bits"
	"time"

	"ublkremap/metadata"
	"ublkremap/remap"
)

// This file runs a retest: are blocks that were bad well again? The steps of the test are Moves;
// remap/retest_home.go says what each of them does, and which crash it survives. The table is gone
// through in parts, so that memory does not follow its size. For each part:
//
//	write, read elsewhere, read, pause, and then, up to retestTakes times, for what is left:
//	write, read elsewhere, read and move home
//
// The pause is what lies between the two tests of a block. A retest changes nothing but homes in
// which nobody lives, until the record that moves blocks home. So it can be ended at any moment.

const (
	// retestUnits is how many units are tested together.
	retestUnits = 4096
	// retestTakes is how often a block is tested in the second test: again if a user wrote to it
	// meanwhile.
	retestTakes = 4
	// retestElsewhere is how many other places of each disk are read between a write and its read.
	retestElsewhere = 1024
	// retestMove is how many units one Move is about at most. A user's Move waits no longer.
	retestMove = 4 * remap.MoveBatch
	// retestLook is how many runs of the table are looked at before others get their turn.
	retestLook = 4096
	// retestBusy is when a Move is asked for again that found too many waiting.
	retestBusy = 10 * time.Millisecond
)

var (
	// ErrRetesting is returned while a retest is under way.
	ErrRetesting = errors.New("a retest is under way")
	// ErrRetestEnded is the result of a retest that was ended early.
	ErrRetestEnded = errors.New("the retest was ended")
)

// Retest asks for blocks to be tested, and taken home if they are well.
type Retest struct {
	// Ranges are what to test, as blocks: ascending and disjoint. They belong to the Coordinator
	// until the end.
	Ranges []metadata.BlockRange
	// KeepMoved leaves out units that an operator, or an imported list, moved on purpose.
	KeepMoved bool
	// Pause is the time between the two tests of a block.
	Pause time.Duration
	// Elsewhere is how many other places are read between a write and its read; 0: the default.
	Elsewhere int

	scrub bool // it follows a pass of the scrub: see scrub_retest.go
}

// RetestStep says what a retest does.
type RetestStep uint8

const (
	RetestIdle  RetestStep = iota
	RetestFind             // looks in the table for what to test
	RetestWrite            // writes homes
	RetestElsewhere
	RetestRead // reads homes
	RetestPause
	RetestTake // reads homes, and moves blocks home
)

func (s RetestStep) String() string {
	return [...]string{"idle", "find", "write", "displace", "read", "pause", "take"}[s]
}

// RetestProgress is how far a retest is, and at its end its result. All counts are blocks.
type RetestProgress struct {
	Step   RetestStep
	Second bool   // it is in the second test of a part
	Found  uint64 // put under test so far
	Home   uint64 // well: moved home, or no longer pending
	Failed uint64 // not well: they stay as they are
	// Changed were written to by users in each test, or remapped in between, and stay as they are.
	Changed  uint64
	Skipped  uint64 // came home by another way, or became lost, meanwhile
	Passed   uint64 // of the scrub's: passed a test, and stay for another one
	Part     uint64 // the first block of the part that is under test
	Position uint64 // the next block to look at
	End      uint64 // where the last range ends
	Err      error  // at the end: why it ended early
}

// retest is a retest that is under way.
type retest struct {
	ask    Retest
	done   func(RetestProgress)
	now    RetestProgress
	proofs *remap.Proofs
	rng    int    // of ask.Ranges
	unit   uint64 // next unit of the current step
	takes  int    // tests of the second kind that were begun in this part
	moving bool   // a Move is under way
	moved  bool   // its result has come
	result remap.MoveResult
	due    int64 // when it goes on; 0: now
	ended  bool  // it was told to end
	began  int64 // the last Move
}

// Retest begins a retest, and tells how it ended. ErrRetesting says that there is one.
func (c *Coordinator) Retest(r Retest, done func(RetestProgress)) error {
	t := &retest{ask: r, done: done}
	switch {
	case c.retest == nil:
		c.startRetest(t)
	case c.retest.ask.scrub && c.nextRetest == nil:
		c.nextRetest, c.retest.ended = t, true // the scrub's goes on later
		t.now.Step = RetestFind
	default:
		return ErrRetesting
	}
	c.pump()
	return nil
}

// startRetest begins a retest. The caller calls pump.
func (c *Coordinator) startRetest(t *retest) {
	if t.ask.Elsewhere == 0 {
		t.ask.Elsewhere = retestElsewhere
	}
	t.proofs = remap.NewProofs(retestUnits)
	t.now.Step = RetestFind
	if n := len(t.ask.Ranges); n > 0 {
		t.now.Position = t.ask.Ranges[0].Block
		t.now.Part = t.now.Position
		t.now.End = t.ask.Ranges[n-1].Block + t.ask.Ranges[n-1].Count
	}
	c.retest = t
}

// operatorRetest returns the retest that an operator has asked for; nil: there is none.
func (c *Coordinator) operatorRetest() *retest {
	if c.retest == nil || c.retest.ask.scrub {
		return c.nextRetest
	}
	return c.retest
}

// EndRetest ends a retest early. Its end comes once its Move has ended.
func (c *Coordinator) EndRetest() {
	if t := c.operatorRetest(); t != nil {
		t.ended = true
		c.pump()
	}
}

// endRetests ends all retests early, because the server ends.
func (c *Coordinator) endRetests() {
	for _, t := range []*retest{c.retest, c.nextRetest} {
		if t != nil {
			t.ended = true
		}
	}
}

// RetestProgress returns how far the retest is that was asked for by Retest; false: there is none.
func (c *Coordinator) RetestProgress() (RetestProgress, bool) {
	t := c.operatorRetest()
	if t == nil {
		return RetestProgress{}, false
	}
	return t.now, true
}

// retestDue is when a retest goes on; 0: it waits for nothing, or for a Move.
func (c *Coordinator) retestDue() int64 {
	if c.retest == nil {
		return 0
	}
	return c.retest.due
}

// advanceRetest goes on with a retest. It reports true if it has done something.
func (c *Coordinator) advanceRetest() bool {
	t := c.retest
	switch {
	case t == nil:
		return c.beginScrubRetest()
	case t.moving && !t.moved:
		return false
	case t.moving:
		t.moving, t.moved = false, false
		t.count()
		c.pauseRetest(t, true)
	}
	if t.ended && t.now.Err == nil {
		t.now.Err = ErrRetestEnded
	}
	switch {
	case t.now.Err != nil:
		c.endRetest()
		return true
	case c.drv.Now() < t.due:
		return false
	}
	if t.due = 0; t.ask.scrub && t.now.Step != RetestIdle {
		if c.pauseRetest(t, false); t.due != 0 {
			return false
		}
	}
	switch t.now.Step {
	case RetestIdle:
		c.endRetest()
	case RetestFind:
		c.findRetest()
	case RetestPause:
		t.begin(RetestWrite)
	case RetestElsewhere:
		step := RetestRead
		if t.now.Second {
			step = RetestTake
		}
		t.begin(step)
	default:
		c.stepRetest()
	}
	return true
}

// count takes the result of a Move.
func (t *retest) count() {
	t.now.Home += t.result.Moved
	t.now.Failed += t.result.Failed
	t.now.Skipped += t.result.Skipped
	t.now.Failed += t.proofs.TakeFailed()
	t.now.Err = t.result.Err
}

func (t *retest) begin(s RetestStep) { t.now.Step, t.unit = s, 0 }

// findRetest puts the next blocks of the table under test.
func (c *Coordinator) findRetest() {
	t := c.retest
	m := c.shared.Map()
	per := c.shared.Geometry().BlocksPerUnit()
	for range retestLook {
		if t.rng == len(t.ask.Ranges) {
			t.findEnds()
			return
		}
		r := t.ask.Ranges[t.rng]
		t.now.Position = max(t.now.Position, r.Block)
		if t.proofs.Blocks() == 0 {
			t.now.Part = t.now.Position
		}
		run, ok := m.Next(t.now.Position, r.Block+r.Count)
		if !ok {
			t.rng++
			continue
		}
		unit := run.Start / per
		end := min(run.Start+run.Count, (unit+1)*per)
		info := m.Unit(unit)
		blocks := ^(^uint8(0) << (end - unit*per)) & (^uint8(0) << (run.Start - unit*per))
		if !c.addRetest(t, unit, &info, run.Kind, blocks) {
			t.findEnds()
			return
		}
		t.now.Position = end
	}
	t.due = c.drv.Now() + 1 // others get their turn
}

// addRetest puts blocks of a unit under test that are to be tested. It returns false if there is no
// room for another unit.
func (c *Coordinator) addRetest(t *retest, unit uint64, info *remap.UnitInfo, kind remap.Kind,
	blocks uint8) bool {
	// A unit has one cause. A block that is pending at home was not moved by the operator who has
	// moved, or filled, others of its unit.
	purpose := info.Cause == metadata.CauseImport ||
		info.Cause == metadata.CauseOperator && kind != remap.KindPending
	before := uint8(0)
	switch {
	case t.ask.scrub:
		blocks, before = c.scrubTests(unit, info, blocks)
	case kind&remap.KindLost != 0 || t.ask.KeepMoved && purpose:
		return true
	}
	added := false
	switch {
	case blocks == 0:
		return true
	case t.ask.scrub:
		added = t.proofs.AddTested(unit, blocks, before)
	default:
		added = t.proofs.Add(unit, blocks)
	}
	if added {
		t.now.Found += uint64(bits.OnesCount8(blocks))
	}
	return added
}

// findEnds begins the test of a part, or ends the retest.
func (t *retest) findEnds() {
	if t.proofs.Blocks() == 0 {
		t.now.Step = RetestIdle
		return
	}
	t.takes, t.now.Second = 0, false
	t.begin(RetestWrite)
}

// stepRetest begins the next Move of the current step, or the next step.
func (c *Coordinator) stepRetest() {
	t := c.retest
	per := c.shared.Geometry().BlocksPerUnit()
	next, most := t.proofs.Next, uint64(retestMove)
	if t.ask.scrub {
		most = remap.MoveBatch
		if t.now.Step == RetestTake {
			next = t.proofs.NextTested
		}
	}
	unit, count, ok := next(t.unit, most)
	m := remap.Move{Block: unit * per, Cause: metadata.CauseRetest, Proofs: t.proofs}
	m.Count = min(count*per, c.shared.Geometry().Blocks-m.Block)
	switch t.now.Step {
	case RetestWrite:
		m.Try = remap.TryWrite
	case RetestRead:
		m.Try = remap.TryRead
	case RetestTake:
		m.Try = remap.TryTake
	}
	switch {
	case ok:
		if c.moveRetest(m) {
			t.unit = unit + count
		}
	case t.now.Step == RetestWrite:
		if c.moveRetest(remap.Move{Elsewhere: t.ask.Elsewhere}) {
			t.now.Step = RetestElsewhere
		}
	case t.now.Step == RetestRead && t.ask.scrub:
		t.begin(RetestTake)
	case t.now.Step == RetestRead:
		t.now.Step, t.now.Second = RetestPause, true
		t.due = c.drv.Now() + int64(t.ask.Pause)
	default:
		c.partEnds(t)
	}
}

// partEnds tests once more what users have written to meanwhile, or goes on with the next part.
func (c *Coordinator) partEnds(t *retest) {
	if t.ask.scrub {
		c.scrubPartEnds(t)
	} else if t.takes++; t.takes < retestTakes && t.proofs.Blocks() > 0 {
		t.begin(RetestWrite)
		return
	} else {
		t.now.Changed += t.proofs.Blocks()
	}
	t.proofs.Reset()
	t.now.Second = false
	t.begin(RetestFind)
}

// moveRetest begins a Move of the retest. It returns false if that must wait.
func (c *Coordinator) moveRetest(m remap.Move) bool {
	t := c.retest
	c.lastMove++
	m.ID = c.lastMove
	c.moves[m.ID] = func(r remap.MoveResult) { t.moved, t.result = true, r }
	t.moving, t.began = true, c.drv.Now()
	err := c.arbiter.Move(m)
	if err == nil {
		return true
	}
	delete(c.moves, m.ID)
	t.moving = false
	if errors.Is(err, remap.ErrBusy) {
		t.due = c.drv.Now() + int64(retestBusy)
	} else {
		t.now.Err = err
	}
	return false
}

// endRetest tells how the retest ended.
func (c *Coordinator) endRetest() {
	t := c.retest
	c.retest, c.nextRetest = c.nextRetest, nil
	c.arbiter.EndTest()
	t.now.Failed += t.proofs.TakeFailed()
	t.now.Step = RetestIdle
	if !t.ask.scrub {
		c.recordRetest(&t.now)
	}
	t.done(t.now)
	if c.retest != nil {
		c.startRetest(c.retest)
	}
}
