package remap

import (
	"syscall"
	"time"
)

// This file is the slow path of the Engine: what happens between a failed
// operation and the answer. One request isolates and heals one span at a time,
// after all its first tries have ended.

// suspect marks blocks whose first try failed, or that must not be tried in
// place because they are pending or lost.
func (e *Engine) suspect(q *request, block, count uint64) {
	if !q.isolating {
		q.isolating = true
		q.since = e.drv.Now()
		q.probe = count
	}
	q.suspect.add(block-q.Block, block-q.Block+count)
	if q.probe >= count {
		q.probe = max(1, count/2)
	}
}

func (e *Engine) resetIsolation(q *request) {
	q.isolating, q.healed = false, false
	q.suspect.clear()
	q.bad.clear()
	q.probe, q.attempts, q.found, q.since, q.cause = 0, 0, 0, 0, 0
	q.heal.step, q.heal.limit, q.heal.rewrite = healNone, 0, false
}

// isolate takes the next step of a request none of whose operations is in
// flight; it reports false when there is nothing left to do.
func (e *Engine) isolate(q *request) bool {
	if q.heal.rewrite {
		q.heal.rewrite = false
		e.writeSpare(q)
		return true
	}
	for {
		from, to, ok := q.suspect.run()
		if !ok {
			break
		}
		run := e.locate(q.Block+from, q.Block+to)
		write := q.Op != OpRead
		switch {
		case run.Kind&KindBusy != 0:
			e.park(q)
			return true
		case run.Kind&KindLost != 0 && !write:
			e.fail(q, -int32(syscall.EIO))
			return false
		case run.Kind&(KindLost|KindPending) != 0 && write:
			// A write in place would be answered by the drive's cache and the
			// block would fail again when it is read.
			e.reserve(q, run)
			return true
		case write && q.cause != 0 && e.spent(q) > giveUp*e.policy.IsolateFor && run.Kind == 0:
			q.suspect.remove(run.Start-q.Block, run.Start-q.Block+run.Count)
			q.bad.add(run.Start-q.Block, run.Start-q.Block+run.Count)
			continue
		case !write && e.spent(q) > giveUp*e.policy.IsolateFor:
			e.fail(q, q.cause)
			return false
		}
		run.Count = e.probeLength(q, run)
		e.issue(q, e.acquire(q), opProbe, run)
		return true
	}
	from, to, ok := q.bad.run()
	if !ok {
		return false
	}
	run := e.locate(q.Block+from, q.Block+to)
	if run.Kind == 0 {
		e.reserve(q, run)
		return true
	}
	// Another queue has moved the blocks meanwhile: look at them again.
	q.bad.remove(run.Start-q.Block, run.Start-q.Block+run.Count)
	q.suspect.add(run.Start-q.Block, run.Start-q.Block+run.Count)
	return e.isolate(q)
}

// locate returns the run of blocks of one kind that begins at block.
func (e *Engine) locate(block, end uint64) Run {
	run, ok := e.m.Next(block, end)
	if !ok {
		return Run{Start: block, Count: end - block}
	}
	if run.Start > block {
		return Run{Start: block, Count: run.Start - block}
	}
	return run
}

// spent returns how long ago the request's first operation failed.
func (e *Engine) spent(q *request) time.Duration { return time.Duration(e.drv.Now() - q.since) }

// probeLength returns how many blocks of run to try at once; more than a unit
// ends at a unit's end. Once many blocks were found bad it is no less than a
// unit.
func (e *Engine) probeLength(q *request, run Run) uint64 {
	per := e.geo.BlocksPerUnit()
	n := min(run.Count, max(1, q.probe))
	if e.coarse(q) {
		n = min(run.Count, max(n, per-run.Start%per))
	}
	if end := (run.Start + n) / per * per; n > per && end > run.Start {
		n = end - run.Start
	}
	return n
}

// giveUp is how many times Policy.IsolateFor a request may spend before what is
// left of its failed operations is not tried any more.
const giveUp = 8

// coarse reports whether so many blocks were found bad one by one, or so much
// time went by, that units are tried as a whole from now on, once: what fails
// together counts as bad together.
func (e *Engine) coarse(q *request) bool {
	return q.found >= e.policy.MaxBad || e.spent(q) > e.policy.IsolateFor
}

// probeFailed takes the medium error of a try in place.
func (e *Engine) probeFailed(q *request, o *op, res int32) {
	per := e.geo.BlocksPerUnit()
	whole := e.coarse(q) && o.block/per == (o.block+o.count-1)/per
	if o.count > 1 && !whole {
		q.probe = o.count / 2
		q.attempts = 0
		return
	}
	if q.attempts++; q.attempts < e.policy.Retries && !whole {
		q.probe = 1
		return
	}
	q.attempts = 0
	q.found++
	run := e.locate(o.block, o.block+o.count)
	if at := e.placeOf(run); at != o.place || run.Count < o.count || run.Kind&(KindBusy|KindLost) != 0 {
		return // moved while it was tried: it stays suspect and is tried where it is now
	}
	switch {
	case q.Op == OpRead:
		e.report(q, o, res)
	case o.place.mapped:
		e.reserve(q, run)
	default:
		q.suspect.remove(o.block-q.Block, o.block-q.Block+o.count)
		q.bad.add(o.block-q.Block, o.block-q.Block+o.count)
	}
}

func (e *Engine) placeOf(run Run) place {
	if run.Kind&KindMapped == 0 {
		return place{}
	}
	return place{mapped: true, unit: uint32(run.Spare / e.geo.BlocksPerUnit())}
}

// report makes blocks of one unit that cannot be read pending, and fails the read.
func (e *Engine) report(q *request, o *op, res int32) {
	per := e.geo.BlocksPerUnit()
	q.cause = res
	mask := uint8(1<<o.count-1) << (o.block % per)
	q.heal.step = healReporting
	e.out = Message{
		Kind: MsgPending, Queue: e.cfg.Queue, Tag: q.Tag, Errno: res, Unit: o.block / per, Count: 1,
		First: mask, Last: mask, Mapped: o.place.mapped, Spare: o.place.unit,
	}
	e.drv.Send(&e.out)
}

// reserve asks for spare units for the blocks of run, which are bad, pending
// or lost where the Map has them.
func (e *Engine) reserve(q *request, run Run) {
	per := e.geo.BlocksPerUnit()
	h := &q.heal
	end := run.Start + run.Count
	h.believed = e.placeOf(run)
	h.untried = run.Kind&(KindLost|KindPending) != 0
	h.tries = 0
	if h.believed.mapped {
		// What fails in a spare unit is healed unit by unit: a message names
		// the one spare unit that must not be used again.
		end = min(end, (run.Start/per+1)*per)
		h.tried[0], h.tries = h.believed.unit, 1
	}
	if h.limit != 0 {
		end = min(end, (run.Start/per+h.limit)*per)
	}
	if q.Op == OpWriteZeroes {
		end = min(end, run.Start+uint64(e.cfg.ZeroBlocks))
	}
	h.from, h.to, h.again = run.Start, end, false
	e.sendReserve(q)
}

func (e *Engine) sendReserve(q *request) {
	q.heal.step = healReserving
	e.sendAbout(q, MsgReserve, q.heal.believed.unit)
}

// sendAbout sends a message about the span that is being healed.
func (e *Engine) sendAbout(q *request, kind MessageKind, spare uint32) {
	per := e.geo.BlocksPerUnit()
	h := &q.heal
	unit, last := h.from/per, (h.to-1)/per
	m := &e.out
	*m = Message{
		Kind: kind, Queue: e.cfg.Queue, Tag: q.Tag, Errno: q.cause, Mapped: h.believed.mapped, Untried: h.untried, Spare: spare,
		Unit: unit, Count: uint32(last - unit + 1), Tried: h.tried, Tries: h.tries,
	}
	full := uint8(1<<per - 1)
	m.First = full << (h.from % per)
	m.Last = full >> (per - 1 - (h.to-1)%per)
	if unit == last {
		m.First &= m.Last
		m.Last = m.First
	}
	m.First &= full
	e.drv.Send(m)
}

// healAnswer takes the Arbiter's answer to a message about a request.
func (e *Engine) healAnswer(q *request, m *Message) {
	h := &q.heal
	step := h.step
	h.step = healNone
	switch m.Kind {
	case MsgReserved:
		h.spare = m.Spare
		per := e.geo.BlocksPerUnit()
		h.to = min(h.to, (h.from/per+uint64(m.Count))*per)
		e.writeSpare(q)
		return
	case MsgRetry:
		q.bad.remove(h.from-q.Block, h.to-q.Block)
		q.suspect.add(h.from-q.Block, h.to-q.Block)
	case MsgCommitted:
		if step == healReporting {
			e.fail(q, q.cause)
			break
		}
		q.suspect.remove(h.from-q.Block, h.to-q.Block)
		q.bad.remove(h.from-q.Block, h.to-q.Block)
		q.healed = true
	case MsgRefused, MsgFailed:
		e.fail(q, e.originalError(q))
	}
	e.advance(q)
}

// originalError is the error that made the heal necessary. A write to a block
// that was pending or lost had none of its own.
func (e *Engine) originalError(q *request) int32 {
	if q.cause != 0 {
		return q.cause
	}
	return -int32(syscall.EIO)
}

// writeSpare writes the data of the span to its reserved spare units. It must be
// durable before the commit names it: a record that survives a power cut must
// find its data.
func (e *Engine) writeSpare(q *request) {
	h := &q.heal
	per := e.geo.BlocksPerUnit()
	h.step = healWriting
	count := e.issue(q, e.acquire(q), opHeal, Run{
		Start: h.from, Count: h.to - h.from, Kind: KindMapped, Spare: uint64(h.spare)*per + h.from%per,
	})
	h.to = h.from + count
}

// commit tells the Arbiter that the data is durable in the spare units.
func (e *Engine) commit(q *request) {
	q.heal.step = healCommitting
	e.sendAbout(q, MsgCommit, q.heal.spare)
}

// spareFailed takes the error of a write to reserved spare units.
func (e *Engine) spareFailed(q *request, class Class) {
	h := &q.heal
	h.step = healNone
	per := e.geo.BlocksPerUnit()
	switch {
	case class != ClassMedium:
		e.sendAbout(q, MsgRelease, h.spare)
		e.fail(q, e.originalError(q))
	case (h.to-1)/per != h.from/per:
		// One of many units is bad: ask again, unit by unit.
		e.sendAbout(q, MsgRelease, h.spare)
		h.limit = 1
	case !h.again:
		h.again, h.rewrite = true, true
	default:
		h.tried[h.tries] = h.spare
		h.tries++
		if h.tries == MaxTries {
			e.sendAbout(q, MsgGiveUp, h.spare)
			e.fail(q, e.originalError(q))
			return
		}
		h.again = false
		e.sendReserve(q)
	}
}
