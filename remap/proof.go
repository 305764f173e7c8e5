package remap

// This file writes a heal's data to spare units and reads it back. So a spare unit that takes a
// write and does not read is found while the request still has its data.

// writeSpare writes the data of the span to its reserved spare units. It must be
// durable before the commit names it: a record that survives a power cut must
// find its data.
func (e *Engine) writeSpare(q *request) {
	h := &q.heal
	h.step = healWriting
	q.began = e.drv.Now()
	count := e.issue(q, e.acquire(q), opHeal, e.inSpare(q, h.from))
	h.to = h.from + count
}

// written goes on after the data was written: it is read back next.
func (e *Engine) written(q *request) {
	h := &q.heal
	h.step, h.todo, h.read, h.retrying = healNone, todoReadBack, h.from, false
	h.looks, h.others, h.astray = 0, e.policy.Elsewhere, 0
}

// readSpare reads the written data back, a piece at a time. The commit comes after that: if the
// power is cut before, nothing on disk names the spare units.
func (e *Engine) readSpare(q *request) {
	h := &q.heal
	if h.home && h.others > 0 {
		if e.readElsewhere(q); h.step == healWriting {
			return
		}
		h.todo = todoNothing
	}
	h.step = healWriting
	q.began = e.drv.Now()
	run := e.inSpare(q, h.read)
	run.Count = min(run.Count, uint64(e.cfg.DiscardBlocks))
	e.issue(q, e.acquire(q), opProof, run)
}

// inSpare returns the span's blocks from one on, as they lie in the spare units.
func (e *Engine) inSpare(q *request, block uint64) Run {
	h := &q.heal
	if h.home {
		return Run{Start: block, Count: h.to - block}
	}
	per := e.geo.BlocksPerUnit()
	return Run{Start: block, Count: h.to - block, Kind: KindMapped, Spare: uint64(h.spare)*per +
		h.from%per + block - h.from}
}

// proved takes a piece that reads.
func (e *Engine) proved(q *request, o *op) {
	h := &q.heal
	o.io.Discard = false
	h.step, h.retrying = healNone, false
	if h.read = o.block + o.count; h.read < h.to {
		h.todo = todoReadBack
		return
	}
	if h.readInPlace(e.policy.Elsewhere) {
		e.commit(q)
	}
}

// commit tells the Arbiter that the data is durable in the spare units.
func (e *Engine) commit(q *request) {
	q.heal.step = healCommitting
	e.sendAbout(q, MsgCommit, q.heal.spare)
}

// spareFailed takes the error of a write to reserved spare units, or of reading them back; again
// is what a second try begins with.
func (e *Engine) spareFailed(q *request, o *op, class Class, again healTodo) {
	h := &q.heal
	h.step = healNone
	per := e.geo.BlocksPerUnit()
	e.now, e.fresh = e.drv.Now(), true
	slow := class == ClassMedium && e.tookLong(q, o)
	switch {
	case class != ClassMedium:
		e.sendAbout(q, MsgRelease, h.spare)
		e.fail(q, e.originalError(q))
	case (h.to-1)/per != h.from/per:
		// One of many units is bad: ask again, unit by unit.
		e.sendAbout(q, MsgRelease, h.spare)
		h.limit = 1
	case h.home:
		e.sendAbout(q, MsgRelease, h.spare)
		e.fail(q, e.originalError(q))
	case !h.retrying && !slow:
		h.retrying, h.todo = true, again
	default:
		h.tried[h.tries] = h.spare
		h.tries++
		if h.tries == MaxTries {
			e.sendAbout(q, MsgGiveUp, h.spare)
			e.fail(q, e.originalError(q))
			return
		}
		h.retrying = false
		e.sendReserve(q)
	}
}
