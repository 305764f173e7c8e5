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
	e.begin(q)
	if q.probe == 0 {
		q.probe = count
	}
	q.suspect.add(block-q.Block, block-q.Block+count)
	if q.probe >= count {
		q.probe = max(1, count/2)
	}
}

// begin begins the slow path.
func (e *Engine) begin(q *request) {
	if !q.isolating {
		q.isolating = true
		q.since = e.drv.Now()
	}
}

func (e *Engine) resetIsolation(q *request) {
	q.isolating, q.healed, q.pace, q.readErrno = false, false, paceUnknown, 0
	q.suspect.clear()
	q.bad.clear()
	q.elsewhere.clear()
	q.probe, q.attempts, q.found, q.since, q.cause = 0, 0, 0, 0, 0
	q.medium = 0
	q.heal.step, q.heal.limit, q.heal.todo = healNone, 0, todoNothing
}

// isolate takes the next step of a request that has no operation in flight. It reports false when
// nothing is left to do.
func (e *Engine) isolate(q *request) bool {
	switch todo := q.heal.todo; todo {
	case todoWrite, todoReadBack:
		q.heal.todo = todoNothing
		if todo == todoWrite {
			e.writeSpare(q)
		} else {
			e.readSpare(q)
		}
		return true
	}
	if !e.fresh {
		e.now = e.drv.Now()
	}
	e.fresh = false
	if q.cancelled {
		q.internal.internalUntried(q)
	}
	return e.trySuspects(q) || e.settleBad(q)
}

// trySuspects takes the next step for suspect blocks. It reports whether the request now waits;
// if not, no block is suspect any more.
func (e *Engine) trySuspects(q *request) bool {
	for {
		from, to, ok := q.suspect.run()
		if !ok {
			return false
		}
		run := e.locate(q.Block+from, q.Block+to)
		switch {
		case run.Kind&KindBusy != 0:
			e.park(q)
			return true
		case q.Op == OpRead:
			if e.tryRead(q, run) {
				return true
			}
			continue
		case run.Kind&(KindLost|KindPending) != 0:
			// The drive's cache would answer a write in place, and the block would fail again
			// when it is read.
			e.reserve(q, run)
			return true
		case run.Kind == 0 && e.exhausted(q):
			q.suspect.remove(run.Start-q.Block, run.Start-q.Block+run.Count)
			q.bad.add(run.Start-q.Block, run.Start-q.Block+run.Count)
			continue
		}
		e.tryInPlace(q, run)
		return true
	}
}

// settleBad notes or remaps the next blocks that were found bad at home. It reports false when
// there are none left.
func (e *Engine) settleBad(q *request) bool {
	from, to, ok := q.bad.run()
	if !ok {
		if q.readErrno != 0 && q.internal == nil {
			e.fail(q, q.readErrno)
		}
		return false
	}
	run := e.locate(q.Block+from, q.Block+to)
	switch {
	case run.Kind == 0 && q.Op == OpRead:
		return e.note(q, run) || e.isolate(q)
	case run.Kind == KindPending && q.Op == OpRead:
		q.bad.remove(run.Start-q.Block, run.Start-q.Block+run.Count) // noted meanwhile
		return e.isolate(q)
	case run.Kind == 0:
		e.reserve(q, run)
		return true
	}
	// Another queue has moved the blocks meanwhile: try them at their new place.
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
func (e *Engine) spent(q *request) time.Duration { return time.Duration(e.now - q.since) }

// tryInPlace tries the first blocks of run where they live.
func (e *Engine) tryInPlace(q *request, run Run) {
	run.Count = e.probeLength(q, run)
	q.began = e.now
	e.issue(q, e.acquire(q), opProbe, run)
}

// coarseBlocks is how many blocks are tried together when there is no time for smaller tries: a
// unit, because one bad block costs a whole spare unit anyway, or a larger physical block.
func (e *Engine) coarseBlocks() uint64 { return max(e.geo.BlocksPerUnit(), e.geo.physicalBlocks()) }

// probeLength returns how many blocks of run to try at once.
//
//   - At least a physical block, because it fails as one. A longer try ends at the end of a
//     physical block or a unit.
//   - At least a unit once many blocks were found bad.
//   - Exactly a unit if failures are slow, or not known to be quick, or if the blocks are pending.
//     A bad unit then fails once. With halving it would fail at each step.
func (e *Engine) probeLength(q *request, run Run) uint64 {
	fine, grain := e.geo.physicalBlocks(), e.coarseBlocks()
	n := min(run.Count, max(q.probe, fine-run.Start%fine))
	switch {
	case q.pace != paceQuick, q.Op == OpRead && run.Kind&KindPending != 0:
		n = min(run.Count, grain-run.Start%grain)
	case e.coarse(q):
		n = min(run.Count, max(n, grain-run.Start%grain))
	}
	for _, size := range [...]uint64{grain, fine} {
		if end := (run.Start + n) / size * size; n > size && end > run.Start {
			n = end - run.Start
		}
	}
	return n
}

// giveUp is how many times Policy.IsolateFor a request may spend on isolation once more than one
// try was found bad.
const giveUp = 8

// exhausted reports whether a request tries no further blocks: its time is up and more than one try
// was found bad, or it fails for another reason. Time alone is no reason: one slow sector may use
// all of it, and its neighbours are most likely good.
func (e *Engine) exhausted(q *request) bool {
	return q.errno != 0 || q.found > 1 && e.spent(q) > giveUp*e.policy.IsolateFor
}

// coarse reports whether units are tried as a whole from now on, once, and all blocks of a unit
// that fails count as bad. That is so after many bad blocks, after a long time, or if each failure
// takes long.
func (e *Engine) coarse(q *request) bool {
	return q.pace == paceSlow || q.found >= e.policy.MaxBad || e.spent(q) > e.policy.IsolateFor
}

// A failure is slow if it takes more than Policy.IsolateFor / slowPart.
const slowPart = 8

// tookLong reports whether the failure of a request's last operation was slow. Time that it waited
// for resources does not count.
func (e *Engine) tookLong(q *request, o *op) bool {
	if o.since != 0 || e.now-q.began <= int64(e.policy.IsolateFor)/slowPart {
		if q.pace == paceUnknown {
			q.pace = paceQuick
		}
		return false
	}
	q.pace = paceSlow
	e.shared.slowly[o.io.Device].Store(e.now)
	return true
}

// probeFailed takes the medium error of a try in place.
func (e *Engine) probeFailed(q *request, o *op, res int32) {
	e.now, e.fresh = e.drv.Now(), true
	e.tookLong(q, o)
	run := e.locate(o.block, o.block+o.count)
	known := q.Op == OpRead && run.Kind&KindPending != 0
	once := (known || e.coarse(q)) && within(o.block, o.count, e.coarseBlocks())
	if !once && !within(o.block, o.count, e.geo.physicalBlocks()) {
		q.probe = o.count / 2
		q.attempts = 0
		return
	}
	if q.attempts++; q.attempts < e.policy.Retries && !once {
		q.probe = o.count
		return
	}
	q.attempts = 0
	q.found++
	if at := e.placeOf(run); at != o.place || run.Count < o.count ||
		run.Kind&(KindBusy|KindLost) != 0 {
		return // it has moved meanwhile: it stays suspect and is tried at its new place
	}
	switch {
	case q.Op == OpRead:
		e.failedToRead(o, res)
		e.cannotRead(q, o.block, o.count, res)
		e.unreadable(q, run)
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

// reserve asks for spare units for the blocks of run, which are bad, pending
// or lost where the Map has them.
func (e *Engine) reserve(q *request, run Run) {
	per := e.geo.BlocksPerUnit()
	h := &q.heal
	end := run.Start + run.Count
	h.seenAt = e.placeOf(run)
	h.untried = run.Kind&(KindLost|KindPending) != 0
	h.tries = 0
	if h.seenAt.mapped {
		// A heal of blocks in a spare unit is about one unit, because a message names
		// only one spare unit that must not be used again.
		end = min(end, (run.Start/per+1)*per)
		h.tried[0], h.tries = h.seenAt.unit, 1
	}
	if h.limit != 0 {
		end = min(end, (run.Start/per+h.limit)*per)
	}
	if q.Op == OpWriteZeroes {
		end = min(end, run.Start+uint64(e.cfg.ZeroBlocks))
	}
	h.from, h.to, h.retrying = run.Start, end, false
	e.sendReserve(q)
}

func (e *Engine) sendReserve(q *request) {
	q.heal.step = healReserving
	e.sendAbout(q, MsgReserve, q.heal.seenAt.unit)
}

// sendAbout sends a message about the span that is being healed.
func (e *Engine) sendAbout(q *request, kind MessageKind, spare uint32) {
	per := e.geo.BlocksPerUnit()
	h := &q.heal
	unit, last := h.from/per, (h.to-1)/per
	m := &e.out
	*m = Message{}
	m.Kind, m.Queue, m.Tag = kind, e.cfg.Queue, q.Tag
	m.Errno, m.Mapped, m.Untried = q.cause, h.seenAt.mapped, h.untried
	m.Unit, m.Count, m.Spare = unit, uint32(last-unit+1), spare
	m.Tried, m.Tries, m.Since = h.tried, h.tries, q.since
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
	if step == healReporting {
		e.noted(q, m)
		return
	}
	switch m.Kind {
	case MsgReserved, MsgInPlace:
		h.spare, h.home = m.Spare, m.Kind == MsgInPlace
		per := e.geo.BlocksPerUnit()
		h.to = min(h.to, (h.from/per+uint64(m.Count))*per)
		e.writeSpare(q)
		return
	case MsgRetry:
		q.bad.remove(h.from-q.Block, h.to-q.Block)
		q.suspect.add(h.from-q.Block, h.to-q.Block)
	case MsgCommitted:
		q.suspect.remove(h.from-q.Block, h.to-q.Block)
		q.bad.remove(h.from-q.Block, h.to-q.Block)
		q.healed = true
	case MsgRefused, MsgFailed:
		e.fail(q, e.originalError(q))
	}
	e.advance(q)
}

// originalError is the error that made the heal necessary. A write to a pending or lost block had
// no error of its own.
func (e *Engine) originalError(q *request) int32 {
	if q.cause != 0 {
		return q.cause
	}
	return -int32(syscall.EIO)
}
