package coordinator

import (
	"errors"
	"slices"

	"ublkremap/metadata"
	"ublkremap/remap"
)

// This file has blocks leave a spare unit as soon as a user's read has found bad ones there, or a
// write has failed there, by the same Moves as the scrub (scrub_mend.go). Nobody waits for them;
// they come one after the other. What is forgotten, because too much fails at once, or by a crash,
// is left to the scrub: it moves what still lives beside a pending block in a spare unit
// (remap/move_again.go).

// saveMost is how many spare units may wait to be left.
const saveMost = 64

// saving is what is to be saved after users' reads and writes.
type saving struct {
	queue           []remap.BadSpare
	underWay, ended bool
}

// SpareFailed takes a spare unit that blocks should leave. The Arbiter is in the middle of
// something, so the Move begins later, in pump.
func (d driver) SpareFailed(bad remap.BadSpare) {
	s := &d.c.saving
	if len(s.queue) < saveMost && !slices.Contains(s.queue, bad) {
		s.queue = append(s.queue, bad)
	}
}

// Saving reports whether blocks are leaving a spare unit because of a user's read or write.
func (c *Coordinator) Saving() bool { return c.saving.underWay }

// stepSaving begins the next Move. Once the queues end, none begins: it would wait for them.
func (c *Coordinator) stepSaving() {
	s := &c.saving
	if s.ended {
		s.ended, s.underWay = false, false
	}
	for !s.underWay && len(s.queue) > 0 && !c.scrub.held {
		bad := s.queue[0]
		s.queue = append(s.queue[:0], s.queue[1:]...) // now: Move calls pump
		s.underWay = true
		err := c.Move(c.leaveSpare(bad, metadata.CauseSpare),
			func(remap.MoveResult) { s.ended = true })
		if errors.Is(err, remap.ErrBusy) {
			s.queue, s.underWay = append(s.queue, bad), false
			return // operators' Moves come first; there is a turn after each
		}
		if err != nil {
			s.underWay = false
		}
	}
}

// leaveSpare is the Move of all blocks of a unit that live in a spare unit which failed.
func (c *Coordinator) leaveSpare(bad remap.BadSpare, cause metadata.Cause) remap.Move {
	geo := c.shared.Geometry()
	first := bad.Block / geo.BlocksPerUnit() * geo.BlocksPerUnit()
	return remap.Move{Block: first, Count: min(geo.BlocksPerUnit(), geo.Blocks-first),
		Again: remap.AgainBad, From: bad.Spare, Cause: cause}
}
