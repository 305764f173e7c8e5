package remap

import (
	"syscall"
	"time"
)

// This file takes the results of operations, and retries those that lacked resources.

// Complete takes the result of an operation: bytes for reads and writes, any
// result of at least 0 for the others, or a negative errno.
func (e *Engine) Complete(id uint64, res int32) {
	o := &e.ops[id]
	q := &e.requests[o.io.Tag]
	if o.io.Op == OpFlush {
		e.flushEnded(q, o, res)
		return
	}
	if o.parity == internalParity && e.internalCompleted(q, o, res) {
		return
	}
	if res >= 0 {
		if (o.io.Op == OpRead || o.io.Op == OpWrite) && int64(res) < o.io.Length {
			if e.shorten(q, o, int64(res)) {
				return
			}
			res = -int32(syscall.EIO)
			e.failed(q, o, res, ClassPath)
		} else if o.durable {
			e.flushAfter(o)
			return
		} else {
			e.succeeded(q, o, o.count)
		}
	} else {
		class := Classify(res)
		if class == ClassResource {
			if e.delay(o) {
				return
			}
			class = ClassPath
		}
		e.failed(q, o, res, class)
		e.release(q, o)
		e.advance(q)
		e.fresh = false // time has passed
		return
	}
	e.release(q, o)
	e.advance(q)
}

// shorten goes on after a short result; it reports false if the result was not even one block: the
// disk is missing or a thin pool is full.
func (e *Engine) shorten(q *request, o *op, res int64) bool {
	blocks := uint64(res) / uint64(e.geo.BlockSize)
	if blocks == 0 {
		return false
	}
	if o.kind != opHeal && o.kind != opProof && o.kind != opElsewhere {
		e.succeeded(q, o, blocks)
	}
	n := int64(blocks) * int64(e.geo.BlockSize)
	o.since = 0 // it made progress: the time for resources begins anew
	o.block += blocks
	o.count -= blocks
	o.io.Offset += n
	o.io.Length -= n
	if !o.io.Zero && !o.io.Discard {
		o.io.Buffer += uint32(n)
	}
	e.drv.Issue(&o.io)
	return true
}

// delay puts off an operation that failed for lack of resources; it reports
// false once it has been tried for long enough.
func (e *Engine) delay(o *op) bool {
	now := e.drv.Now()
	if o.since == 0 {
		o.since, o.delay = now, int64(time.Millisecond)
	}
	if now-o.since > int64(e.policy.ResourceFor) {
		return false
	}
	o.due = now + o.delay
	o.delay = min(2*o.delay, int64(100*time.Millisecond))
	e.delayed++
	return true
}

// Deadline returns when Tick is next wanted, in the driver's monotonic
// nanoseconds, or 0 for never.
func (e *Engine) Deadline() int64 {
	if e.delayed == 0 && e.waiting == 0 {
		return 0
	}
	var first int64
	if q := e.firstWaiting(); q != nil {
		first = q.turn
	}
	for i := range e.ops {
		if due := e.ops[i].due; due != 0 && (first == 0 || due < first) {
			first = due
		}
	}
	return first
}

// Tick retries what was put off until now, and ends the waits that have lasted long enough.
func (e *Engine) Tick(now int64) {
	e.endTurns(now)
	if e.delayed == 0 {
		return
	}
	for i := range e.ops {
		if o := &e.ops[i]; o.due != 0 && o.due <= now {
			o.due = 0
			e.delayed--
			if o.settling {
				e.settle(&e.requests[o.io.Tag], o)
				continue
			}
			if o.io.Op == OpFlush {
				o.flush.Begin()
			}
			if o.parity == internalParity {
				e.requests[o.io.Tag].internal.began = now
			}
			e.drv.Issue(&o.io)
		}
	}
}

// succeeded records that the first blocks of an operation are done.
func (e *Engine) succeeded(q *request, o *op, blocks uint64) {
	switch o.kind {
	case opFirst, opProbe:
		if !o.io.FUA && !o.durable {
			e.dirtied(o)
		}
		if o.kind == opProbe {
			q.suspect.remove(o.block-q.Block, o.block-q.Block+blocks)
			q.attempts = 0
			q.probe = min(2*q.probe, uint64(e.cfg.MaxBlocks))
		}
	case opHeal:
		e.written(q)
	case opProof:
		e.proved(q, o)
	case opElsewhere:
		e.elsewhereRead(q, o)
	case opFlush:
		e.shared.flushedTo(o.io.Device, o.block)
	}
}

// dirtied notes that a device may hold data that the next flush must cover. That
// includes discards, and failed writes that took effect in part: a read may show them.
func (e *Engine) dirtied(o *op) {
	if o.io.Device != 0 && o.io.Op != OpRead {
		e.shared.written[o.io.Device].Add(1)
	}
}

// failed takes an error that will not go away by waiting.
func (e *Engine) failed(q *request, o *op, res int32, class Class) {
	e.count(q, o, res, class)
	switch o.kind {
	case opHeal:
		e.spareFailed(q, o, class, todoWrite)
		return
	case opElsewhere:
		if class == ClassMedium {
			e.elsewhereFailed(q, o)
			return
		}
		o.io.Discard = false
		e.spareFailed(q, o, class, todoReadBack)
		return
	case opProof:
		o.io.Discard = false
		e.spareFailed(q, o, class, todoReadBack)
		return
	}
	e.dirtied(o)
	if q.internal != nil && class == ClassMedium {
		e.internalDoubt(q, o)
	}
	switch {
	case class != ClassMedium, q.Op == OpDiscard:
		e.fail(q, res)
	case q.Op == OpRead && o.kind == opFirst && e.failureIsFinal(q, o, res):
	case e.shared.Tripped():
		switch {
		case q.Op != OpRead:
		case !e.allKnown(o):
			e.notNoted(q)
		case q.internal != nil:
			q.internal.internalFailed(q, o.block, o.count, res)
		}
		e.fail(q, res)
	case o.kind == opFirst:
		e.firstFailure(q, o, res)
		e.suspect(q, o.block, o.count)
		if o.place.mapped {
			q.elsewhere.add(o.block-q.Block, o.block-q.Block+o.count)
		}
	default:
		q.mediumFailed(o, res)
		e.probeFailed(q, o, res)
	}
}

// firstFailure notes a request's first failure. Its time budget begins now: waits before
// that are no errors. How long the first failure took is not known, because successful
// operations do not read the clock. But the device may be known for slow failures.
func (e *Engine) firstFailure(q *request, o *op, res int32) {
	q.mediumFailed(o, res)
	if q.cause == 0 {
		q.cause, q.since = res, e.drv.Now()
		switch {
		case e.shared.slow(o.io.Device, q.since):
			q.pace = paceSlow
		case q.FUA:
			q.pace = paceQuick // each good unit may cost a flush: halving costs fewer
		}
	}
}

// count counts a failed operation. A device without discard support is no transport error.
func (e *Engine) count(q *request, o *op, res int32, class Class) {
	c := e.counters(q)
	switch {
	case o.io.Op == OpDiscard && res == -int32(syscall.EOPNOTSUPP):
	case class != ClassMedium:
		c.TransportErrors++
		if e.shared.requestCheck(o.io.Device) {
			e.out = Message{Kind: MsgCheckDevice, Queue: e.cfg.Queue, Device: o.io.Device}
			e.drv.Send(&e.out)
		}
	case o.io.Op == OpFlush:
		c.FlushErrors++
	case o.io.Op == OpRead:
		c.ReadErrors++
	default:
		c.WriteErrors++
	}
}

// release ends an operation and answers a grace request that waited for it.
func (e *Engine) release(q *request, o *op) {
	o.active = false
	if i := int32(o.io.ID); int(i) >= len(e.requests) {
		o.next = e.free
		e.free = i
	}
	q.inflight--
	e.inflight[o.parity]--
	e.answerGrace()
}
