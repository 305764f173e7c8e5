package sim

import (
	"fmt"
	"slices"
	"syscall"

	"ublkremap/metadata"
	"ublkremap/remap"
)

// queue is one queue of the device: the Engine's driver.
type queue struct {
	sv    *server
	index int
	eng   *remap.Engine
	// busySince is when an operation, by its ID, first failed for lack of resources.
	busySince map[uint64]int64
	inflight  int
	goesOn    map[uint64]bool // by ID: the operation ended in part and will be begun again
}

func (q *queue) Now() int64 { return q.sv.s.now }

func (q *queue) submit(r *userReq) {
	if q.sv.s.tracing() {
		q.sv.s.tracef("%v", r)
	}
	q.crowd(r)
	q.eng.Submit(&r.Request)
}

// Issue starts an operation of the engine.
func (q *queue) Issue(io *remap.IO) {
	s := q.sv.s
	r := s.req(q.index, io.Tag)
	if r == nil {
		s.failf("q%d: an operation for tag %d, which is free", q.index, io.Tag)
	}
	d := &diskIO{d: s.disks[io.Device], fua: io.FUA, off: io.Offset, n: io.Length, whom: "q",
		req: r, block: r.Block + uint64(io.Buffer)/uint64(s.plan.BlockSize())}
	if s.tracing() {
		d.whom = fmt.Sprintf("q%d/%d", q.index, io.Tag)
	}
	q.fill(io, r, d)
	q.judge(io, r, d)
	if q.inflight++; q.inflight > q.eng.Ops() {
		s.failf("q%d: %d operations in flight, the engine promises at most %d", q.index, q.inflight,
			q.eng.Ops())
	}
	id, zero := io.ID, io.Zero
	done := func(res int32) {
		if zero && res == 0 {
			res = int32(d.n) // the driver writes zeroes from a buffer
		}
		q.inflight--
		if r.internal {
			q.sv.reader.ended(r)
		}
		q.note(r, d, id, res)
		if res < 0 && remap.Classify(res) == remap.ClassResource || res > 0 && int64(res) < d.n {
			q.goesOn[id] = true
		}
		q.eng.Complete(id, res)
	}
	class := classIO + uint8(q.index)
	if r.internal {
		class = classReader
		q.sv.reader.issued(r)
	}
	if s.opts.Bug.issue(q, d, done) {
		s.begin(class, d, done)
	}
}

// fill gives an operation its kind and its data.
func (q *queue) fill(io *remap.IO, r *userReq, d *diskIO) {
	s := q.sv.s
	switch io.Op {
	case remap.OpRead:
		d.kind = ioRead
		if io.Discard {
			d.readBack, d.data = true, make([]byte, io.Length)
			if io.Length > int64(s.cfg.sink)*metadata.UnitSize {
				s.failf("%d bytes are read back at once", io.Length)
			}
		} else {
			d.data = r.buf[io.Buffer : int64(io.Buffer)+io.Length]
		}
		if r.internal {
			d.data = q.eng.InternalBuffer(io)
		}
	case remap.OpWrite:
		d.kind = ioWrite
		if io.Zero {
			d.kind = ioZero
			if io.Length > int64(s.cfg.zero)*metadata.UnitSize {
				s.failf("zeroes from past the end of the zero buffer: %d bytes", io.Length)
			}
		} else {
			d.data = r.buf[io.Buffer : int64(io.Buffer)+io.Length]
		}
	case remap.OpWriteZeroes:
		d.kind = ioZero
	case remap.OpDiscard:
		d.kind = ioDiscard
	case remap.OpFlush:
		d.kind = ioFlush
	}
}

// judge makes sure that an operation is one that the engine may begin.
func (q *queue) judge(io *remap.IO, r *userReq, d *diskIO) {
	s := q.sv.s
	if d.kind != ioFlush {
		s.checkPlace(d)
	}
	if io.FUA && (io.Op != remap.OpWrite || q.sv.restored.Geometry.NoFUA[io.Device]) {
		s.failf("%v: FUA, and there is no such thing: %v", r, d)
	}
	if q.goesOn[io.ID] {
		delete(q.goesOn, io.ID)
	} else if d.kind == ioWrite || d.kind == ioZero {
		q.checkPending(r, d, d.block)
	}
	if (d.kind == ioRead && !d.readBack) != (r.Op == remap.OpRead) {
		s.failf("%v: a %s", r, ioNames[d.kind])
	}
}

// note records how a request's operation ended, to judge the request's answer later.
func (q *queue) note(r *userReq, d *diskIO, id uint64, res int32) {
	s := q.sv.s
	s.note(d, res)
	q.recordBlocks(r, d, res)
	if res >= 0 {
		delete(q.busySince, id)
		if (d.kind == ioRead || d.kind == ioWrite) &&
			int64(res) < min(d.n, int64(s.plan.BlockSize())) {
			r.failed, r.path = true, true // less than one block
			r.errnos = append(r.errnos, -int32(syscall.EIO))
		}
		return
	}
	r.errnos = append(r.errnos, res)
	s.stats.Faults++
	switch remap.Classify(res) {
	case remap.ClassMedium:
		r.failed = true
		r.path = r.path || d.d.index != 0 && d.d.missing != 0 // a spare device that is away
		delete(q.busySince, id)
	case remap.ClassPath:
		r.failed, r.path = true, true
		delete(q.busySince, id)
	case remap.ClassResource:
		since, ok := q.busySince[id]
		if !ok {
			q.busySince[id] = s.now
		} else if s.now-since > int64(s.cfg.policy.ResourceFor) {
			r.failed, r.path = true, true
			delete(q.busySince, id)
		}
	}
}

// checkPending makes sure that a write never goes to a place where its blocks could not be read, or
// where they have no copy: the drive's cache would accept it.
func (q *queue) checkPending(r *userReq, d *diskIO, block uint64) {
	s := q.sv.s
	bs := uint64(s.plan.BlockSize())
	per := metadata.UnitSize / bs
	for i := range uint64(d.n) / bs {
		b := block + i
		info := q.sv.restored.Map.Unit(b / per)
		bit := uint8(1) << (b % per)
		p := s.home(b * bs / sectorSize)
		if spare, ok := info.SpareOf(int(b % per)); ok {
			p.disk, p.off = s.plan.SpareOf(spare)
			p.off += int64(b % per * bs)
		}
		if r.inPlace.has(b/per) && info.Lost&bit == 0 {
			continue // it may, and will be read back
		}
		if (info.Pending|info.Lost)&bit != 0 && p.disk == d.d.index && p.off == d.off+int64(i*bs) {
			s.failf("%v: written where block %d is pending or lost: %v", r, b, d)
		}
	}
}

// checkPlace makes sure that user data goes only to the data area, the displaced head and tail and
// the spare regions.
func (s *sim) checkPlace(d *diskIO) {
	sb := s.plan.Superblock()
	inside := func(dev uint8, lo, hi int64) bool {
		return d.d.index == dev && d.off >= lo &&
			d.off+d.n <= hi
	}
	end := sb.ExportedBytes
	if sb.TailStart != 0 {
		end = sb.TailStart
	}
	if inside(0, sb.HeadBytes, end) {
		return
	}
	for _, r := range sb.Regions {
		if r.Kind != metadata.RegionMirror && inside(r.Device, r.Start, r.Start+r.Length) {
			return
		}
	}
	s.failf("an operation outside of the data: %v", d)
}

// Send takes a message of the engine.
func (q *queue) Send(m *remap.Message) {
	if m.Kind == remap.MsgGiveUp {
		// The breaker is about to open.
		q.sv.s.reqs[q.index][m.Tag].path = true
	}
	q.sv.receive(q.index, m)
}

// Finish takes the answer to a request.
func (q *queue) Finish(tag uint16, res int32) {
	s := q.sv.s
	r := s.reqs[q.index][tag]
	if r == nil {
		s.failf("q%d: tag %d, which is free, was answered", q.index, tag)
	}
	res = s.opts.Bug.finish(q, r, res)
	if s.tracing() {
		s.tracef("%v: %s", r, errnoName(res))
	}
	s.reqs[q.index][tag] = nil
	s.active--
	q.sv.finished++
	q.sv.note()
	s.stats.Requests++
	if res > 0 {
		s.failf("%v: answered %d", r, res)
	}
	if res < 0 {
		s.stats.Errors++
		if why := q.whyWrong(r, res); why != "" {
			s.failf("%v: %s, %s", r, errnoName(res), why)
		}
	}
	q.audit(r, res)
	switch r.Op {
	case remap.OpRead:
		if res == 0 {
			s.stats.Read += r.sectors()
			if err := s.model.read(r, s.home); err != nil {
				s.failf("%v: %v", r, err)
			}
		} else {
			s.model.reads = remove(s.model.reads, r)
		}
	case remap.OpFlush:
		if res == 0 {
			s.model.flushed(r)
		} else {
			s.reported = s.failures
		}
	default:
		s.model.wrote(r, res == 0)
	}
}

// audit checks what an answer promises besides data.
func (q *queue) audit(r *userReq, res int32) {
	s, sv := q.sv.s, q.sv
	switch {
	case r.Op == remap.OpFlush && res == 0 && r.flushFailed:
		// Promise 2.
		s.failf("%v: answered as good, and a flush of it had failed", r)
	case r.Op == remap.OpFlush && res == 0 && r.seen > r.reported.done:
		// Promise 15.
		s.failf("%v: answered as good, and a flush had failed before that no flush of the user "+
			"was answered with", r)
	case r.FUA && res == 0 && r.flushFailed:
		s.failf("%v: answered as good, and the flush that makes it durable had failed", r)
	case r.Op == remap.OpDiscard && res == 0 && !sv.hadLost && !sv.everUnknown:
		// Promise 8, for home and spare units alike.
		for i := range uint64(r.Count) {
			if !r.reached[r.Block+i] {
				s.failf("%v: answered as good, and block %d was left out", r, r.Block+i)
			}
		}
	case r.Op == remap.OpRead && res < 0 && max(sv.lastTripped, sv.lastCramped) < r.begun:
		// Promises 3 and 12: what failed, and what was not tried, is pending.
		q.auditNotes(r, res)
	}
}

// whyWrong says why an error must not be the answer to a request. It is empty if the error is
// allowed.
func (q *queue) whyWrong(r *userReq, res int32) string {
	if res == -int32(syscall.EIO) && q.unflushed(r) {
		return ""
	}
	// a request that is held back is answered with the error of the earlier failure
	held := q.heldBack(r) && remap.Classify(res) == remap.ClassMedium
	if !slices.Contains(r.errnos, res) && !held &&
		(res != -int32(syscall.EIO) || !q.pendingOrLost(r)) {
		return "but no operation failed like that"
	}
	switch {
	case r.path:
		return ""
	case r.Op == remap.OpRead:
		if !r.failed && !q.lost(r) && !q.heldBack(r) && !q.crowdedOut(r) {
			return "but no operation failed and no block is lost, or failed a moment ago"
		}
	case r.Op == remap.OpFlush, r.Op == remap.OpDiscard:
		if !r.failed {
			return "but no operation failed"
		}
	default:
		// Promise 4: a write fails only if its blocks cannot be remapped.
		sv := q.sv
		if max(sv.lastTripped, sv.lastFull, sv.lastCramped, sv.failedTransfer) < r.begun {
			return "but spare units are free and the breaker is closed"
		}
		if !r.failed && !q.pendingOrLost(r) {
			return "but no operation failed and nothing is wrong with its blocks"
		}
	}
	return ""
}

// unflushed reports whether a failed flush must be the answer to a request. For a flush, any failed
// flush counts that was not reported. For a write, its own flush counts, and also any other one
// that failed while the write's data may have been in a cache.
func (q *queue) unflushed(r *userReq) bool {
	switch r.Op {
	case remap.OpFlush:
		return q.sv.s.failures.seen > r.reported.seen
	case remap.OpWrite, remap.OpWriteZeroes:
		return r.flushFailed || q.sv.s.failures.seen > r.failures.seen &&
			(r.FUA || q.sv.lastHeal >= r.begun)
	}
	return false
}

// lost reports whether a block of a read has no copy, or may have had none
// for a while.
func (q *queue) lost(r *userReq) bool {
	return q.sv.hadLost || q.sv.everUnknown || q.has(r, remap.KindLost)
}

// pendingOrLost reports whether a block of a write is pending or lost, or may have been.
func (q *queue) pendingOrLost(r *userReq) bool {
	return r.denied || q.sv.hadLost || q.sv.hadPending || q.sv.everUnknown ||
		q.sv.s.stats.Pending > 0 || len(q.sv.pending) > 0 ||
		q.has(r, remap.KindLost|remap.KindPending)
}

func (q *queue) has(r *userReq, kind remap.Kind) bool {
	m := q.sv.restored.Map
	for b, end := r.Block, r.Block+uint64(r.Count); b < end; {
		run, ok := m.Next(b, end)
		if !ok {
			break
		}
		if run.Kind&kind != 0 {
			return true
		}
		b = run.Start + run.Count
	}
	return false
}

func messageString(m *remap.Message) string {
	names := map[remap.MessageKind]string{
		remap.MsgReserve: "reserve", remap.MsgRelease: "release", remap.MsgGiveUp: "give up",
		remap.MsgCommit:  "commit",
		remap.MsgPending: "pending", remap.MsgGraceDone: "grace done",
		remap.MsgReserved: "reserved", remap.MsgInPlace: "in place", remap.MsgRefused: "refused",
		remap.MsgRetry: "retry", remap.MsgCommitted: "committed", remap.MsgFailed: "failed",
		remap.MsgGrace: "grace", remap.MsgWake: "wake",
		remap.MsgCheckDevice: "doubt",
	}
	switch m.Kind {
	case remap.MsgCheckDevice:
		return fmt.Sprintf("%s disk %d", names[m.Kind], m.Device)
	case remap.MsgGrace, remap.MsgGraceDone, remap.MsgWake:
		return fmt.Sprintf("%s %d", names[m.Kind], m.Generation)
	}
	return fmt.Sprintf("%s tag %d units %d+%d masks %02x %02x spare %d mapped %v tried %v",
		names[m.Kind], m.Tag, m.Unit, m.Count, m.First, m.Last, m.Spare, m.Mapped,
		m.Tried[:m.Tries])
}
