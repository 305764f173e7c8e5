package sim

import (
	"fmt"
	"slices"
	"syscall"
	"time"

	"ublkremap/metadata"
	"ublkremap/remap"
)

// This file is a background reader. It reads blocks by internal requests, as a scrub will, while
// everything else goes on. What must hold:
//
//   - What it has read is what a read of the user might have returned.
//   - A block that did not read failed for its medium, or is lost. Afterwards it is pending or
//     lost, by the reader's own cause. All other blocks were tried, unless the request was ended
//     early.
//   - No request of the user, and no move, waits for it: they end while every operation of the
//     reader is held up.
//   - A buffer belongs only to the engine until the request has ended.
//   - At a quiet moment nothing of it is under way, and none of its reads is counted as the
//     user's.

// reader is the background reader of one server.
type reader struct {
	s *sim
	// By queue and tag, starting at the first internal tag; nil: the tag is free.
	reqs     [][]*userReq
	buffers  [][]byte // that are free
	finished uint64
	// Units that internal requests have reported.
	reported map[uint64]bool
	inflight []int            // operations, by queue
	late     map[int][]func() // BugReaderInGrace: by queue, what waits for them
	seen     func(r *userReq) // if not nil, is called with each request that has ended
}

// readerCause is the cause of what the reader finds.
const readerCause = metadata.CauseScrub

func newReader(s *sim) *reader {
	rd := &reader{s: s, reqs: make([][]*userReq, s.cfg.queues), reported: map[uint64]bool{},
		inflight: make([]int, s.cfg.queues), late: map[int][]func(){}}
	for q := range rd.reqs {
		rd.reqs[q] = make([]*userReq, s.cfg.internalTags())
		for range s.cfg.reader {
			rd.buffers = append(rd.buffers, make([]byte, s.cfg.maxUnits*metadata.UnitSize))
		}
	}
	return rd
}

// req returns the request of a tag, the user's or the reader's; nil: the tag is free.
func (s *sim) req(q int, tag uint16) *userReq {
	if int(tag) < s.cfg.depth {
		return s.reqs[q][tag]
	}
	return s.srv.reader.reqs[q][int(tag)-s.cfg.depth]
}

// underWay returns the requests that have not ended.
func (rd *reader) underWay() (reqs []*userReq) {
	for _, tags := range rd.reqs {
		for _, r := range tags {
			if r != nil {
				reqs = append(reqs, r)
			}
		}
	}
	return reqs
}

// readWhile lets the reader read while others act. For a quarter of the time, beginning at some
// step, all of its operations are held up.
func (s *sim) readWhile(number, step, steps, hold int) {
	if on := step >= hold && step < hold+steps/4; on != s.readerHeld {
		s.holdReader(on)
	}
	if step%8 == 0 {
		s.act(number, s.readOn)
	}
}

// readOn begins the reader's next request, if one of its tags is free, or cancels one.
func (s *sim) readOn() {
	rd := s.srv.reader
	if list := rd.underWay(); len(list) > 0 && s.chance(1, 6) {
		rd.cancel(pick(s.rng, list))
		return
	}
	if len(s.pass) == 0 {
		s.planPass()
	}
	block, left := s.pass[0][0], s.pass[0][1]-s.pass[0][0]
	n := min(left, 1+s.rng.Uint64N(uint64(s.cfg.maxUnits)*s.per()))
	if !rd.read(s.rng.IntN(s.cfg.queues), block, n) {
		return
	}
	if s.pass[0][0] += n; n == left {
		s.pass = s.pass[1:]
	}
}

// planPass chooses what the reader reads next: all blocks around the spots where requests meet, and
// a few of the others.
func (s *sim) planPass() {
	around := uint64(s.cfg.reach+s.cfg.maxUnits) * s.per()
	add := func(lo, hi uint64) {
		if hi = min(hi, s.plan.Blocks()); lo < hi {
			s.pass = append(s.pass, [2]uint64{lo, hi})
		}
	}
	for _, spot := range s.spots {
		add(spot-min(spot, around), spot+around)
	}
	far := s.rng.Uint64N(s.plan.Blocks())
	add(far, far+uint64(s.cfg.maxUnits)*s.per())
}

// read begins to read blocks by a free tag of a queue. It returns false if no tag is free.
func (rd *reader) read(q int, block, count uint64) bool {
	i := slices.Index(rd.reqs[q][:rd.s.cfg.reader], nil)
	if i < 0 {
		return false
	}
	whole := rd.buffers[len(rd.buffers)-1]
	rd.buffers = rd.buffers[:len(rd.buffers)-1]
	rd.begin(q, i, block, count, whole)
	return true
}

// begin begins to read blocks by the i-th internal tag of a queue.
func (rd *reader) begin(q, i int, block, count uint64, whole []byte) {
	s := rd.s
	r := &userReq{queue: q, internal: true, perBlock: uint64(s.plan.BlockSize() / sectorSize),
		begun: s.step, time: s.now, failures: s.failures, reported: s.reported, seen: -1}
	r.Request = remap.Request{Tag: uint16(s.cfg.depth + i), Op: remap.OpRead, Block: block,
		Count: uint32(count)}
	r.whole = whole
	r.buf = r.whole[:r.sectors()*sectorSize]
	for k := range r.sectors() {
		clear(r.buf[k*sectorSize:][:sectorSize])
		putHole(r.buf[k*sectorSize:])
	}
	r.read, r.bad = make([]bool, count), make([]bool, count)
	r.badOn = make([]uint8, count)
	rd.reqs[q][i] = r
	s.model.begin(r)
	if s.tracing() {
		s.tracef("%v, by the reader", r)
	}
	if err := s.srv.queues[q].eng.SubmitInternal(&remap.InternalRequest{Tag: r.Tag,
		Cause: readerCause, Block: block, Count: uint32(count), Buffer: r.buf}); err != nil {
		s.failf("%v, by the reader: %v", r, err)
	}
}

// cancel ends a request early.
func (rd *reader) cancel(r *userReq) {
	s := rd.s
	s.tracef("cancel %v", r)
	r.cancelled = true
	s.opts.Bug.cancels(rd, r)
	s.srv.queues[r.queue].eng.CancelInternal(r.Tag)
}

// issued notes that an operation of a request begins.
func (rd *reader) issued(r *userReq) {
	if r.cancelled {
		rd.s.failf("%v, by the reader: an operation after it was cancelled", r)
	}
	rd.inflight[r.queue]++
	r.issued = rd.s.now
}

// ended notes that an operation of a request has ended.
func (rd *reader) ended(r *userReq) {
	rd.inflight[r.queue]--
	r.slowest = max(r.slowest, time.Duration(rd.s.now-r.issued))
	if rd.inflight[r.queue] == 0 {
		late := rd.late[r.queue]
		delete(rd.late, r.queue)
		for _, f := range late {
			f()
		}
	}
}

// reports notes that an internal request reports blocks as pending.
func (rd *reader) reports(m *remap.Message) {
	if m.Cause != readerCause {
		rd.s.failf("the reader's %s has cause %v", messageString(m), m.Cause)
	}
	for i := range uint64(m.Count) {
		rd.reported[m.Unit+i] = true
	}
}

// FinishInternal takes the result of an internal request.
func (q *queue) FinishInternal(res *remap.InternalResult) {
	s, rd := q.sv.s, q.sv.reader
	r := s.req(q.index, res.Tag)
	if r == nil {
		s.failf("q%d: internal tag %d, which is free, has ended", q.index, res.Tag)
	}
	if s.tracing() {
		s.tracef("%v, by the reader: %d read, %d failed (%s), ended %s", r, res.Read.Count(),
			res.Failed.Count(), errnoName(res.Errno), errnoName(res.Ended))
	}
	rd.reqs[q.index][int(res.Tag)-s.cfg.depth] = nil
	rd.finished++
	q.sv.note()
	s.stats.ReaderRequests++
	q.auditResult(r, res)
	r.unread = make([]bool, r.Count)
	for i := range r.unread {
		r.unread[i] = !res.Read.Has(uint32(i))
	}
	if err := s.model.read(r, s.home); err != nil {
		s.failf("%v, by the reader: %v", r, err)
	}
	s.stats.ReaderSectors += uint64(res.Read.Count()) * r.perBlock
	s.stats.ReaderFailed += uint64(res.Failed.Count())
	if rd.seen != nil {
		rd.seen(r)
	}
	if int(res.Tag) >= s.cfg.depth+s.cfg.reader {
		q.scrubRead(r, res)
	} else if !r.returned {
		rd.buffers = append(rd.buffers, r.whole)
	}
}

// auditResult makes sure that a result agrees with what was seen of its blocks.
func (q *queue) auditResult(r *userReq, res *remap.InternalResult) {
	s, sv := q.sv.s, q.sv
	fail := func(format string, args ...any) {
		s.failf("%v, by the reader: %s", r, fmt.Sprintf(format, args...))
	}
	if slices.ContainsFunc(s.ios, func(io *diskIO) bool { return io.req == r }) {
		fail("ended while an operation is under way")
	}
	if res.Slowest != r.slowest {
		fail("the slowest operation took %v, not %v", r.slowest, res.Slowest)
	}
	cancelled := res.Ended == -int32(syscall.ECANCELED)
	switch {
	case cancelled != r.cancelled && !(r.cancelled && res.Ended != 0):
		fail("ended %s, cancelled %v", errnoName(res.Ended), r.cancelled)
	case res.Ended != 0 && !cancelled && !slices.Contains(r.errnos, res.Ended):
		fail("ended %s, and no operation failed like that", errnoName(res.Ended))
	case (res.Errno != 0) != (res.Failed.Count() != 0):
		fail("%d blocks failed, the first with %s", res.Failed.Count(), errnoName(res.Errno))
	case res.NotNoted && max(sv.lastTripped, sv.lastCramped) < r.begun && !sv.everUnknown &&
		!r.path && s.awayStep < r.begun && // a disk that does not answer may have been away before
		!q.anyDoubtful(r, res.Failed):
		fail("something could not be noted, and the breaker is closed")
	}
	tried := !r.cancelled && !res.NotNoted
	settled := !res.NotNoted && sv.lastTripped < r.begun && !sv.everMoved(r)
	for i := range r.Count {
		block := r.Block + uint64(i)
		read, failed := res.Read.Has(i), res.Failed.Has(i)
		info := sv.restored.Map.Unit(block / s.per())
		noted := (info.Pending|info.Lost)>>(block%s.per())&1 != 0
		switch {
		case read && failed:
			fail("block %d was read, and failed", block)
		case read && !r.read[i]:
			fail("block %d was not read, and the result has it", block)
		case !read && !failed && (res.Ended == 0 || r.bad[i] && !r.read[i] && tried &&
			!q.raced(r, uint64(i))):
			fail("block %d is left out of the result", block)
		case failed && !r.bad[i] && !q.lost(r) && !q.heldBack(r) && sv.unreached[block] < r.time:
			fail("block %d is said to have failed, and nothing failed there", block)
		case failed && settled && !noted && !q.raced(r, uint64(i)) && !q.doubtful(r, uint64(i)):
			fail("block %d failed, and is not pending", block)
		}
	}
}

// anyDoubtful reports whether a block that failed need not become pending; see doubtful.
func (q *queue) anyDoubtful(r *userReq, failed remap.Blocks) bool {
	for i := range r.Count {
		if failed.Has(i) && q.doubtful(r, uint64(i)) {
			return true
		}
	}
	return false
}

// everMoved reports whether blocks were moved while a request was under way.
func (sv *server) everMoved(r *userReq) bool { return sv.moves > 0 || sv.lastMove >= r.begun }

// holdReader holds up all operations of the reader, or lets them continue.
func (s *sim) holdReader(on bool) {
	if s.readerHeld = on; !on {
		s.pool = append(s.pool, s.withheld...)
		s.withheld = s.withheld[:0]
		return
	}
	s.pool = slices.DeleteFunc(s.pool, func(e event) bool {
		if e.class == classReader {
			s.withheld = append(s.withheld, e)
		}
		return e.class == classReader
	})
}

// stuck fails the run because nothing continues any more. It blames the reader if everything ends
// once the reader is no longer held up.
func (s *sim) stuck(why string) {
	requests, moves := s.active, s.srv.moves
	if held := len(s.withheld); held > 0 {
		s.holdReader(false)
		for s.active+s.srv.moves > 0 && s.nextEvent() {
		}
		if s.active+s.srv.moves == 0 {
			s.failf("%d requests and %d moves wait for the background reader", requests, moves)
		}
	}
	s.failf("%s", why)
}

// drainReader lets the reader's requests end, or cancels them. Everything else has ended before.
func (s *sim) drainReader() {
	s.holdReader(false)
	rd := s.srv.reader
	if s.chance(1, 2) {
		for _, r := range rd.underWay() {
			if slices.Contains(rd.reqs[r.queue], r) { // it may have ended with another one
				rd.cancel(r)
			}
		}
	}
	for n := 0; s.nextEvent(); n++ {
		if n > 200_000 {
			s.failf("the background reader never ends")
		}
	}
	if list := rd.underWay(); len(list) > 0 {
		s.failf("the reader's %v never ends: nothing is under way", list[0])
	}
}

// quietReader checks what must hold of the reader when nothing is under way.
func (s *sim) quietReader() {
	sv := s.srv
	var reads uint64
	for _, q := range sv.queues {
		if n := q.eng.InternalInflight(); n != 0 {
			s.failf("q%d: %d internal requests at a quiet moment", q.index, n)
		}
	}
	if reads = sv.shared.InternalCounters().Reads; reads != sv.reader.finished {
		s.failf("the counters say that %d internal requests ended, not %d", reads,
			sv.reader.finished)
	}
	if n := s.cfg.queues * s.cfg.reader; len(sv.reader.buffers) != n {
		s.failf("the reader has %d of its %d buffers at a quiet moment", len(sv.reader.buffers), n)
	}
}

// cancels is called when the reader cancels a request.
func (b Bug) cancels(rd *reader, r *userReq) {
	if b == BugReaderBuffer && int(r.Tag) < rd.s.cfg.depth+rd.s.cfg.reader {
		r.returned = true
		rd.buffers = append(rd.buffers, r.whole)
	}
}

// scrubs reads every block of the device by internal requests, in order, while the scenario goes
// on. Each block must have been read, or have failed and be pending.
func (s *sim) scrubs(story func(at uint64)) {
	rd := s.srv.reader
	done := make([]bool, s.plan.Blocks())
	rd.seen = func(r *userReq) {
		for i := range uint64(r.Count) {
			info := s.srv.restored.Map.Unit((r.Block + i) / s.per())
			done[r.Block+i] = !r.unread[i] || info.Pending>>((r.Block+i)%s.per())&1 != 0
		}
	}
	for at := uint64(0); at < s.plan.Blocks(); {
		n := min(uint64(s.cfg.maxUnits)*s.per(), s.plan.Blocks()-at)
		if rd.read(int(at/s.per())%s.cfg.queues, at, n) {
			story(at)
			at += n
		} else if !s.nextEvent() {
			s.stuck("the reader hangs")
		}
	}
	s.drain()
	if i := slices.Index(done, false); i >= 0 {
		s.failf("block %d was not read, and is not pending", i)
	}
}
