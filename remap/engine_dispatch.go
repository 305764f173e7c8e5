package remap

import "syscall"

// This file turns a request into operations on the devices.

// dispatch gives the blocks from the cursor on their first try.
func (e *Engine) dispatch(q *request) {
	e.endWait(q)
	for q.cursor < q.end {
		run, ok := e.m.Next(q.cursor, q.end)
		switch {
		case !ok:
			run = Run{Start: q.cursor, Count: q.end - q.cursor}
		case run.Start > q.cursor:
			run = Run{Start: q.cursor, Count: run.Start - q.cursor}
		case run.Kind&KindBusy != 0:
			e.park(q)
			return
		case run.Kind&KindLost != 0 && q.Op == OpRead:
			// The rest is still read: after a failed read the sender may write all of it again, and
			// by then all bad blocks of it must be known.
			e.cannotRead(q, run.Start, run.Count, -int32(syscall.EIO))
			q.cursor += run.Count
			continue
		case run.Kind&KindPending != 0 && q.Op == OpRead:
			count, held := e.heldBack(run)
			if held != 0 {
				e.failFast(q, run.Start, count, held)
				q.cursor += count
				continue
			}
			run.Count = count
			switch e.turnOf(q) {
			case turnLater:
				return
			case turnNever:
				e.failFast(q, run.Start, count, -int32(syscall.EIO))
				q.cursor += count
				continue
			}
		case run.Kind&KindLost != 0 && q.Op == OpDiscard:
			q.cursor += run.Count
			continue
		case run.Kind&(KindLost|KindPending) != 0 && (q.Op == OpWrite || q.Op == OpWriteZeroes):
			e.suspect(q, run.Start, run.Count)
			q.cursor += run.Count
			continue
		}
		o := e.acquire(q)
		if o == nil {
			return
		}
		q.cursor += e.issue(q, o, opFirst, run)
	}
}

// dispatchFlush flushes every device that may hold unflushed writes.
func (e *Engine) dispatchFlush(q *request) {
	for q.cursor < q.end {
		device := uint8(q.cursor)
		upto, dirty := e.shared.dirty(device)
		if dirty {
			o := e.acquire(q)
			if o == nil {
				return
			}
			o.kind, o.block, o.count = opFlush, upto, 0
			o.io.Op, o.io.Device, o.io.Tag = OpFlush, device, q.Tag
			o.io.FUA, o.io.Zero, o.io.Buffer, o.io.Offset, o.io.Length = false, false, 0, 0, 0
			o.flush = e.shared.userFlush(device)
			o.flush.Begin()
			q.went(device != 0)
			e.start(q, o)
		}
		q.cursor++
	}
}

// acquire returns an operation for the request: its own, else one of the spare
// ones, else nil. A request with nothing in flight always gets one. An internal request gets only
// its own: the spare ones are for the user's requests.
func (e *Engine) acquire(q *request) *op {
	if o := &e.ops[q.Tag]; !o.active {
		return o
	}
	if e.free < 0 || q.internal != nil {
		return nil
	}
	o := &e.ops[e.free]
	e.free = o.next
	return o
}

// issue starts an operation on the beginning of run and returns how many
// blocks it covers: home and spare blocks that follow each other may live on
// different sides of a region's end.
func (e *Engine) issue(q *request, o *op, kind opKind, run Run) uint64 {
	var device uint8
	var offset int64
	var limit uint64
	if run.Kind&KindMapped != 0 {
		device, offset, limit = e.geo.spare(run.Spare)
		o.place = place{mapped: true, unit: uint32(run.Spare >> e.geo.unitShift())}
	} else {
		device, offset, limit = e.geo.home(run.Start)
		o.place = place{}
	}
	q.went(o.place.mapped)
	count := min(run.Count, limit)
	o.kind, o.block, o.count = kind, run.Start, count
	io := &o.io
	io.Op, io.FUA, io.Zero = q.Op, q.FUA, false
	switch kind {
	case opHeal:
		io.Op, io.FUA, io.Zero = OpWrite, true, q.Op == OpWriteZeroes
	case opProof:
		io.Op, io.FUA, io.Discard = OpRead, false, true
	}
	io.Device, io.Tag, io.Offset = device, q.Tag, offset
	io.Length = int64(count) * int64(e.geo.BlockSize)
	io.Buffer = uint32(run.Start-q.Block) * uint32(e.geo.BlockSize)
	e.start(q, o)
	return count
}

func (e *Engine) start(q *request, o *op) {
	o.active, o.parity, o.due, o.since, o.durable = true, e.parity, 0, 0, false
	if o.io.FUA && (e.geo.NoFUA[o.io.Device] || o.io.Op == OpWriteZeroes) {
		o.io.FUA, o.durable = false, true
		o.flush = e.shared.Durable(o.io.Device)
	}
	if q.internal != nil {
		e.internalStarted(q, o)
	}
	e.inflight[o.parity]++
	q.inflight++
	e.drv.Issue(&o.io)
}
