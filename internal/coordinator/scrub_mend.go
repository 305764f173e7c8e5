package coordinator

import (
	"slices"

	"ublkremap/metadata"
	"ublkremap/remap"
)

// This file mends blocks that a scrub could read only after a try had failed. They are moved to the
// spare region, and then home again. So their home is written while another copy is proved, and a
// home that does not hold what was written, as it is read back after a flush, is not used any more:
// the block stays in the spare region. While a block moves, requests that meet it wait for it.
//
// Blocks that live in the spare region leave a spare unit that read only on a retry, or of which
// something does not read at all: all of it that reads goes to another one before anyone asks for
// it, and the unit is not given out again (remap/move_again.go).

// mendStep says what is under way.
type mendStep uint8

const (
	mendNone  mendStep = iota
	mendNext           // the next blocks are to be moved
	mendAway           // they are moved to the spare region
	mendAgain          // they are moved from one spare unit to another
	mendBack           // and home again
)

// mendRuns is how many runs of one burst are mended at most.
const mendRuns = 64

// mend is what is to be mended after a burst.
type mend struct {
	step  mendStep
	ready bool        // what was under way has ended
	runs  []remap.Run // still to do
	now   remap.Run
	res   remap.MoveResult // of the last move
	// spares are the spare units that are to be left. leaves is one, while mendAgain.
	spares []remap.BadSpare
	leaves remap.BadSpare
}

// weak notes blocks that are to be mended.
func (m *mend) weak(run remap.Run) {
	if len(m.runs) < mendRuns {
		m.runs = append(m.runs, run)
	}
}

// leftBehind notes the spare units in which others live beside a run of pending blocks, which are
// those at its ends: a crash, or too many failures at once, has kept a user's read from saving them
// (save_others.go).
func (c *Coordinator) leftBehind(run remap.Run) {
	per := c.shared.Geometry().BlocksPerUnit()
	if run.Kind != remap.KindMapped|remap.KindPending || c.saving.underWay {
		return
	}
	m := &c.scrub.mend
	for _, unit := range [...]uint64{run.Start / per, (run.Start + run.Count - 1) / per} {
		info := c.shared.Map().Unit(unit)
		for _, p := range info.Places[:info.N] {
			if bad := (remap.BadSpare{Spare: p.Spare, Block: unit * per}); info.ReadsBeside(p) &&
				!slices.Contains(m.spares, bad) {
				m.spares = append(m.spares, bad)
			}
		}
	}
}

// startMend begins to mend what a burst has found. It reports whether there is anything.
func (c *Coordinator) startMend() bool {
	m := &c.scrub.mend
	if len(m.runs)+len(m.spares) == 0 {
		return false
	}
	m.step, m.ready = mendNext, true
	c.pump()
	return true
}

// stepMend goes on once a move has ended.
func (c *Coordinator) stepMend() {
	m := &c.scrub.mend
	for m.ready {
		m.ready = false
		switch m.step {
		case mendNext:
			if m.step = c.nextMend(); m.step == mendNone {
				c.settleBurst()
				return
			}
			c.mendMove()
		case mendAway:
			if m.res.Moved == 0 { // no spare unit was found, or it does not read any more
				m.step, m.ready = mendNext, true
				continue
			}
			m.step = mendBack
			c.scrub.now.Relocated += uint32(m.res.Moved)
			c.mendMove()
		case mendAgain:
			c.scrub.now.Relocated += uint32(m.res.Moved)
			m.step, m.ready = mendNext, true
		case mendBack:
			c.scrub.now.Relocated -= min(uint32(m.res.Moved), c.scrub.now.Relocated)
			c.scrub.now.Repaired += uint32(m.res.Moved)
			m.step, m.ready = mendNext, true
		}
	}
}

// nextMend takes the next spare unit that is to be left, or else the next blocks that live at home
// and are neither pending nor lost, and says how they are moved.
func (c *Coordinator) nextMend() mendStep {
	m := &c.scrub.mend
	on := !c.scrub.void && !c.shared.Tripped()
	if on && len(m.spares) > 0 {
		m.leaves = m.spares[0]
		m.spares = append(m.spares[:0], m.spares[1:]...)
		return mendAgain
	}
	for on && len(m.runs) > 0 {
		r := &m.runs[0]
		run, ok := c.shared.Map().Next(r.Start, r.Start+r.Count)
		plain := r.Count
		if ok {
			plain = run.Start - r.Start
		}
		m.now = remap.Run{Start: r.Start, Count: plain}
		if ok {
			plain = run.Start + run.Count - r.Start
		}
		r.Start, r.Count = r.Start+plain, r.Count-plain
		if r.Count == 0 {
			m.runs = append(m.runs[:0], m.runs[1:]...)
		}
		if m.now.Count > 0 {
			return mendAway
		}
	}
	m.runs, m.spares = m.runs[:0], m.spares[:0]
	return mendNone
}

// mendMove moves the blocks that are being mended.
func (c *Coordinator) mendMove() {
	m := &c.scrub.mend
	done := func(r remap.MoveResult) { m.res, m.ready = r, true }
	move := remap.Move{Block: m.now.Start, Count: m.now.Count, ToSpare: m.step == mendAway,
		Cause: metadata.CauseScrub}
	if m.step == mendAgain {
		move = c.leaveSpare(m.leaves, metadata.CauseScrub)
	}
	if err := c.Move(move, done); err != nil {
		done(remap.MoveResult{Err: err})
	}
}
