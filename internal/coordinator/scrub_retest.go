package coordinator

import (
	"errors"
	"math/bits"
	"time"

	"ublkremap/metadata"
	"ublkremap/remap"
)

// This file tests, after each pass of the scrub, whether the homes of remapped blocks are well
// again. It is a retest (retest.go) whose two tests of a block lie a pass apart: a home that passes
// is remembered (remap/well_homes.go), and the block moves home when its home passes once more
// after a later pass. A restart in between forgets the first test, which is then made again.
//
// What an operator or a list has moved on purpose stays. So does what the scrub itself has moved:
// slow blocks read well, and the homes of weak ones were written and read when they were moved.
//
// A home that does not pass is not tested after each pass. The time between two first tests of a
// block at least doubles: the block is tested after the first pass that ends 1, 2, 4, 8, … days
// after it was remapped, and not between those. The table keeps when a block was remapped, and the
// scrub when its last pass ended, so nothing more needs to be stored for that.
//
// There is one retest at a time, and an operator's comes first: the scrub's ends and goes on later.
// While users have requests it leaves them nearly all of the disk's time, as the scrub does.

// ScrubRetest is how far the retest after a pass of the scrub is, or how the last one of this
// server has ended. The counts are blocks.
type ScrubRetest struct {
	Running bool
	Found   uint64 // put under test
	Passed  uint64 // passed a test for the first time: they stay until they pass another one
	Home    uint64 // passed for the second time, and moved home
	Failed  uint64 // not well
}

// scrubRetest is the retest after a pass of a scrub.
type scrubRetest struct {
	wanted bool
	pass   uint32 // when the pass began, which names it
	since  uint32 // when the last pass before it ended; 0: there was none
	ended  uint32 // when it ended
	at     uint64 // block that the retest goes on from
	sum    ScrubRetest
}

// scrubRetestState returns how far the retest is.
func (c *Coordinator) scrubRetestState() ScrubRetest {
	r := &c.scrub.retest
	now := r.sum
	if now.Running = r.wanted; c.retest != nil && c.retest.ask.scrub {
		now.add(&c.retest.now)
	}
	return now
}

func (r *ScrubRetest) add(p *RetestProgress) {
	r.Found += p.Found
	r.Passed += p.Passed
	r.Home += p.Home
	r.Failed += p.Failed
}

// retestAfterPass begins the retest after a pass that ends now. The pass before it ended at since.
func (c *Coordinator) retestAfterPass(since uint32) {
	s := &c.scrub
	if s.now.NoRetest || s.retest.wanted { // the one that is under way goes on
		return
	}
	s.retest = scrubRetest{wanted: true, pass: s.now.Started, since: since, ended: s.now.Finished}
}

// endScrubRetest ends the retest of the scrub for good.
func (c *Coordinator) endScrubRetest() {
	c.scrub.retest.wanted = false
	if c.retest != nil && c.retest.ask.scrub {
		c.retest.ended = true
	}
}

// beginScrubRetest begins the retest of the scrub, or goes on with it. It reports true if it has
// done something. No retest is under way.
func (c *Coordinator) beginScrubRetest() bool {
	r := &c.scrub.retest
	if !r.wanted || c.scrub.held || c.closing {
		return false
	}
	c.startRetest(&retest{done: c.scrubRetested, ask: Retest{
		Ranges:    []metadata.BlockRange{{Block: r.at, Count: c.blocks() - r.at}},
		Elsewhere: c.scrub.cfg.Elsewhere, scrub: true}})
	return true
}

// scrubRetested takes the end of the retest.
func (c *Coordinator) scrubRetested(p RetestProgress) {
	r := &c.scrub.retest
	r.sum.add(&p)
	if r.wanted && errors.Is(p.Err, ErrRetestEnded) { // an operator's comes first
		r.at = min(p.Part, c.blocks()-1)
		return
	}
	r.wanted = false
	if p.Home, p.Found = r.sum.Home, r.sum.Found; p.Found > 0 {
		c.recordRetest(&p)
	}
}

// scrubTests picks those of a unit's blocks that the retest of the scrub tests, and those of them
// that have passed a test after an earlier pass.
func (c *Coordinator) scrubTests(unit uint64, info *remap.UnitInfo, blocks uint8) (test,
	before uint8) {
	r := &c.scrub.retest
	switch info.Cause {
	case metadata.CauseOperator, metadata.CauseImport, metadata.CauseScrub:
		return 0, 0
	}
	test = blocks & info.Mapped() &^ (info.Lost | info.Pending)
	before, pass := c.arbiter.Well(unit)
	if pass == r.pass {
		return 0, 0 // it was tested after this pass, by a part that was broken off
	}
	if before &= test; before == 0 && !retestAgain(info.Time, r.since, r.ended) {
		return 0, 0
	}
	return test, before
}

// retestAgain reports whether a block that was remapped at a time is tested after a pass that ends
// now, if the pass before it ended at since. All times are seconds since 1970; since may be 0.
func retestAgain(remapped, since, now uint32) bool {
	if since == 0 || remapped >= since {
		return true // no pass has ended since then
	}
	const day = uint32(24 * time.Hour / time.Second)
	return bits.Len32((max(now, remapped)-remapped)/day) >
		bits.Len32((since-remapped)/day)
}

// scrubPartEnds notes which homes have passed, at the end of a part.
func (c *Coordinator) scrubPartEnds(t *retest) {
	t.proofs.EachPassed(func(unit uint64, blocks uint8) {
		if _, pass := c.arbiter.Well(unit); pass != c.scrub.retest.pass {
			t.now.Passed += uint64(bits.OnesCount8(blocks))
		}
		c.arbiter.NoteWell(unit, blocks, c.scrub.retest.pass)
	})
}

// pauseRetest lets a retest of the scrub wait, because users have requests. after says that a Move
// of it has just ended.
func (c *Coordinator) pauseRetest(t *retest, after bool) {
	now := c.drv.Now()
	switch {
	case !t.ask.scrub || t.now.Err != nil || !c.usersActive(now):
	case c.scrub.now.Idle:
		t.due = now + scrubLook
	case after:
		t.due = now + min((now-t.began)*(scrubShare-1), int64(time.Second))
	}
}
