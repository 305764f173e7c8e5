package coordinator

import (
	"ublkremap/metadata"
	"ublkremap/remap"
)

// This file mends blocks that a scrub could read only after a try had failed. They are moved to the
// spare region, and then home again. So their home is written while another copy is proved, and a
// home that does not hold what was written, as it is read back after a flush, is not used any more:
// the block stays in the spare region. While a block moves, requests that meet it wait for it.
//
// Blocks that live in the spare region already are only counted.

// mendStep says what is under way.
type mendStep uint8

const (
	mendNone mendStep = iota
	mendNext          // the next blocks are to be moved
	mendAway          // they are moved to the spare region
	mendBack          // and home again
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
}

// weak notes blocks that are to be mended.
func (m *mend) weak(run remap.Run) {
	if len(m.runs) < mendRuns {
		m.runs = append(m.runs, run)
	}
}

// startMend begins to mend what a burst has found. It reports whether there is anything.
func (c *Coordinator) startMend() bool {
	m := &c.scrub.mend
	if len(m.runs) == 0 {
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
			if !c.nextMend() {
				m.step = mendNone
				c.settleBurst()
				return
			}
			m.step = mendAway
			c.mendMove(true)
		case mendAway:
			if m.res.Moved == 0 { // no spare unit was found, or it does not read any more
				m.step, m.ready = mendNext, true
				continue
			}
			m.step = mendBack
			c.scrub.now.Relocated += uint32(m.res.Moved)
			c.mendMove(false)
		case mendBack:
			c.scrub.now.Relocated -= min(uint32(m.res.Moved), c.scrub.now.Relocated)
			c.scrub.now.Repaired += uint32(m.res.Moved)
			m.step, m.ready = mendNext, true
		}
	}
}

// nextMend takes the next blocks that live at home and are neither pending nor lost.
func (c *Coordinator) nextMend() bool {
	m := &c.scrub.mend
	for len(m.runs) > 0 && !c.scrub.void && !c.shared.Tripped() {
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
			return true
		}
	}
	m.runs = m.runs[:0]
	return false
}

// mendMove moves the blocks that are being mended.
func (c *Coordinator) mendMove(toSpare bool) {
	m := &c.scrub.mend
	done := func(r remap.MoveResult) { m.res, m.ready = r, true }
	if err := c.Move(remap.Move{Block: m.now.Start, Count: m.now.Count, ToSpare: toSpare,
		Cause: metadata.CauseScrub}, done); err != nil {
		done(remap.MoveResult{Err: err})
	}
}
