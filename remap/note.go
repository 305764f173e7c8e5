package remap

import "syscall"

// This file notes blocks that a read could not read. After a failed read the sender may write all
// of it again. A drive takes writes to bad sectors and may not read them back, so these writes must
// go to spare units. Therefore, before a read is answered, every block that failed becomes pending,
// and every block that there was no time to try. Each is noted to the end of its physical block,
// which reads or fails as one.

// cannotRead takes blocks of a read that have no data. The read will fail, after all its other
// blocks were tried and the bad ones were noted.
func (e *Engine) cannotRead(q *request, block, count uint64, errno int32) {
	e.begin(q)
	if q.internal != nil {
		q.internal.internalFailed(q, block, count, errno)
	}
	if q.readErrno == 0 {
		q.readErrno = errno
	}
}

// failureIsFinal reports whether a failed first try needs no further tries: the blocks are pending
// already, and no smaller part of them would be tried.
func (e *Engine) failureIsFinal(q *request, o *op, res int32) bool {
	run := e.locate(o.block, o.block+o.count)
	if run.Kind&KindPending == 0 || run.Kind&(KindBusy|KindLost) != 0 || run.Count < o.count ||
		e.placeOf(run) != o.place ||
		!within(o.block, o.count, e.coarseBlocks()) {
		return false
	}
	e.firstFailure(q, o, res)
	e.failedToRead(o, res)
	e.cannotRead(q, o.block, o.count, res)
	return true
}

// allKnown reports whether all blocks of an operation are pending or lost already.
func (e *Engine) allKnown(o *op) bool {
	for block, end := o.block, o.block+o.count; block < end; {
		run := e.locate(block, end)
		if run.Kind&(KindPending|KindLost) == 0 {
			return false
		}
		block += run.Count
	}
	return true
}

// tryRead takes the next step for suspect blocks of a read, and reports whether the read now waits.
func (e *Engine) tryRead(q *request, run Run) bool {
	if run.Kind == KindPending || run.Kind == KindPending|KindMapped {
		// Another request may have tried and noted it meanwhile.
		count, held := e.heldBack(run)
		run.Count = count
		if held != 0 {
			e.failFast(q, run.Start, run.Count, held)
			q.suspect.remove(run.Start-q.Block, run.Start-q.Block+run.Count)
			return false
		}
	}
	switch {
	case run.Kind&KindLost != 0:
		e.cannotRead(q, run.Start, run.Count, -int32(syscall.EIO))
	case !e.exhausted(q):
		e.tryInPlace(q, run)
		return true
	default:
		// There is no time to try the blocks. They are noted as well, unless they have moved
		// since they failed: nothing has failed at their new place.
		e.cannotRead(q, run.Start, run.Count, q.cause)
		upto, mapped := q.elsewhere.alike(run.Start-q.Block, run.Start-q.Block+run.Count)
		run.Count = upto - (run.Start - q.Block)
		if mapped == (run.Kind&KindMapped != 0) {
			return e.unreadable(q, run)
		}
	}
	q.suspect.remove(run.Start-q.Block, run.Start-q.Block+run.Count)
	return false
}

// unreadable marks blocks to be noted later. Blocks in a spare unit are noted at once, because only
// here it is known in which spare unit they failed. It reports whether the read now waits.
func (e *Engine) unreadable(q *request, run Run) bool {
	from, to := run.Start-q.Block, run.Start-q.Block+run.Count
	switch {
	case run.Kind&KindPending != 0:
	case run.Kind&KindMapped != 0:
		per := e.geo.BlocksPerUnit()
		run.Count = min(run.Count, per-run.Start%per)
		return e.note(q, run)
	default:
		q.bad.add(from, to)
	}
	q.suspect.remove(from, to)
	return false
}

// note sends a report of blocks that cannot be read. They are all of one kind, and if they live in
// a spare unit, of one unit. It returns false if all of them are known already.
func (e *Engine) note(q *request, run Run) bool {
	h := &q.heal
	h.from, h.to = run.Start, run.Start+run.Count
	h.seenAt = e.placeOf(run)
	start, _ := e.rounded(q)
	h.unit = start / e.geo.BlocksPerUnit()
	return e.sendNote(q)
}

// rounded returns the blocks of a report, extended to physical blocks. In a spare unit it is not
// extended past the unit, because the next spare unit serves another unit.
func (e *Engine) rounded(q *request) (start, end uint64) {
	h := &q.heal
	if h.seenAt.mapped {
		size := min(e.geo.physicalBlocks(), e.geo.BlocksPerUnit())
		return h.from / size * size, min((h.to+size-1)/size*size, e.geo.Blocks)
	}
	start, _ = e.geo.physical(h.from)
	_, end = e.geo.physical(h.to - 1)
	return start, end
}

// mediumFailed notes whether a device has said itself that its medium failed.
func (q *request) mediumFailed(o *op, res int32) {
	if res == -int32(syscall.ENODATA) {
		q.medium |= 1 << o.io.Device
	}
}

// errnoOf is the errno of a report about blocks on a device. The Arbiter believes ENODATA without
// asking whether the device is present. So it must not be the answer of another device, and if
// the device has answered it for any block, that counts.
func (q *request) errnoOf(device uint8) int32 {
	switch {
	case q.medium>>device&1 != 0:
		return -int32(syscall.ENODATA)
	case q.cause == -int32(syscall.ENODATA):
		return -int32(syscall.EIO)
	}
	return q.cause
}

// noteDevice returns the device where the blocks of a unit live that a report is about.
func (e *Engine) noteDevice(q *request, unit uint64) (device uint8) {
	if h := &q.heal; h.seenAt.mapped {
		device, _ = e.geo.SpareOffset(h.seenAt.unit)
	} else {
		device, _ = e.geo.HomeOffset(unit * e.geo.BlocksPerUnit())
	}
	return device
}

// sendNote sends the next part of a report, as much as fits one message. A message is about one
// device, because the Arbiter believes or refuses all of it. sendNote returns false when all blocks
// are noted.
func (e *Engine) sendNote(q *request) bool {
	h := &q.heal
	per := e.geo.BlocksPerUnit()
	full := uint8(1<<per - 1)
	start, end := e.rounded(q)
	var n uint32
	var first, last, device uint8
	for unit := h.unit; unit*per < end; unit++ {
		mask := e.notYetPending(q, unit, start, end)
		if n == 0 {
			h.unit, first, device = unit, mask, e.noteDevice(q, unit)
		} else if mask == 0 || n > 1 && last != full || e.noteDevice(q, unit) != device {
			break
		}
		if mask != 0 {
			n, last = n+1, mask
		}
	}
	if n == 0 {
		q.suspect.remove(h.from-q.Block, h.to-q.Block)
		q.bad.remove(h.from-q.Block, h.to-q.Block)
		return false
	}
	h.step = healReporting
	e.out = Message{
		Kind: MsgPending, Queue: e.cfg.Queue, Tag: q.Tag, Errno: q.errnoOf(device), Unit: h.unit,
		Count: n,
		First: first, Last: last, Mapped: h.seenAt.mapped, Spare: h.seenAt.unit,
		Cause: q.pendingCause(), Since: q.since,
	}
	e.drv.Send(&e.out)
	return true
}

// notYetPending returns which blocks of a unit, within start..end, still live where they failed and
// are not pending or lost.
func (e *Engine) notYetPending(q *request, unit, start, end uint64) uint8 {
	h := &q.heal
	per := e.geo.BlocksPerUnit()
	lo, hi := max(start, unit*per), min(end, (unit+1)*per)
	if lo >= hi {
		return 0
	}
	info := e.m.Unit(unit)
	here := ^info.Mapped()
	if h.seenAt.mapped {
		here = 0
		for _, p := range info.Places[:info.N] {
			if p.Spare == h.seenAt.unit {
				here = p.Mask
			}
		}
	}
	return maskOf(lo-unit*per, hi-lo) & here &^ (info.Pending | info.Lost)
}

// noted takes the Arbiter's answer to a report.
func (e *Engine) noted(q *request, m *Message) {
	h := &q.heal
	switch m.Kind {
	case MsgCommitted:
		h.unit = max(h.unit+1, m.Unit+uint64(m.Count))
		if e.sendNote(q) {
			return
		}
	case MsgRetry:
		// Some are being moved: they are tried again after that.
		q.suspect.remove(h.from-q.Block, h.to-q.Block)
		q.bad.remove(h.from-q.Block, h.to-q.Block)
		if from := max(h.from, m.Unit*e.geo.BlocksPerUnit()); from < h.to {
			q.suspect.add(from-q.Block, h.to-q.Block)
		}
	default:
		// The table is full, or cannot be written, or the device is missing. The last says nothing
		// about blocks on other devices: they are still to be noted.
		e.notNoted(q)
		if device := e.noteDevice(q, h.unit); e.shared.Tripped() || !e.giveUp(q, device) {
			q.suspect.clear()
			q.bad.clear()
		}
		e.fail(q, q.cause)
	}
	e.advance(q)
}

// giveUp forgets the suspect and the bad blocks of a request that live on a device. It reports
// whether there were any.
func (e *Engine) giveUp(q *request, device uint8) (any bool) {
	for _, set := range [...]blockset{q.suspect, q.bad} {
		for b := q.Block; b < q.Block+uint64(q.Count); {
			run := e.locate(b, q.Block+uint64(q.Count))
			d, _, limit := e.geo.home(b)
			if run.Kind&KindMapped != 0 {
				d, _, limit = e.geo.spare(run.Spare)
			}
			n := min(run.Count, limit)
			if d == device {
				any = set.remove(b-q.Block, b-q.Block+n) || any
			}
			b += n
		}
	}
	return any
}
