package remap

import (
	"syscall"
	"time"
)

// EngineConfig is what an Engine needs to know of its queue.
type EngineConfig struct {
	Queue      uint16
	Depth      int // tags
	MaxBlocks  int // the largest read, write or write-zeroes
	ZeroBlocks int // the size of the driver's zero buffer; at least one unit
	// DiscardBlocks is the size of the driver's buffer for what is read for nobody; 0: one unit.
	DiscardBlocks int
	Policy        Policy // zero: the defaults
	// InternalTags is how many internal requests there may be at once. Their tags come after
	// those of the user's requests, and Internal is told of their ends. 0: none.
	InternalTags int
	Internal     InternalDriver
}

// spareOps is how many operations a queue has beside the one that each tag
// owns. A request that spans remapped blocks uses several at once; when they
// are used up it goes on with one at a time.
func spareOps(depth int) int { return 3 * depth }

// opKind says which part of a request an operation carries out.
type opKind uint8

const (
	opFirst opKind = iota // the first try
	opProbe               // a try in place while a failure is isolated
	opHeal                // data on its way to a reserved spare unit
	opProof               // reading it back from there
	opFlush               // a flush of one device
)

// op is one operation on a device. It stays in flight through short results
// and retries for want of resources.
type op struct {
	io     IO
	block  uint64 // first exported block; opFlush: the write count that it covers
	count  uint64 // blocks
	place  place
	kind   opKind
	parity uint8 // which grace period it belongs to; internalParity: to none
	active bool
	// durable: a flush is to follow the write, or does. settling: that is done, and others
	// are waited for.
	durable, settling bool
	flush             Flushing
	due               int64 // monotonic ns of the next retry; 0: with the driver
	since             int64 // when it first failed for want of resources
	delay             int64
	next              int32 // free list
}

// place is what an operation believed about its blocks' place.
type place struct {
	mapped bool
	unit   uint32 // spare unit of the first block, if mapped
}

// healStep says what a request waits for.
type healStep uint8

const (
	healNone       healStep = iota
	healReserving           // MsgReserve is with the Arbiter
	healWriting             // the data is on its way to the spare units
	healCommitting          // MsgCommit is with the Arbiter
	healReporting           // MsgPending is with the Arbiter; when all is noted the read fails
)

// pace is how long a device takes to fail.
type pace uint8

const (
	paceUnknown pace = iota
	paceQuick
	paceSlow
)

// healTodo says what a heal does next, once the operation that led to it has ended.
type healTodo uint8

const (
	todoNothing  healTodo = iota
	todoWrite             // write to the spare units once more
	todoReadBack          // read what was written there
)

// request is the state of one tag.
type request struct {
	Request
	cursor, end uint64 // blocks not yet tried; opFlush: devices
	inflight    int    // operations
	errno       int32  // the answer so far
	told        uint64 // opFlush: failed flushes that were told of when it began
	active      bool
	parked      bool             // waits for busy units
	isolating   bool             // something failed and was or is being isolated
	cancelled   bool             // an internal request: nothing more is tried
	internal    *internalRequest // nil: it is a request of the user

	// What follows is in use only while isolating.
	// failed as part of an operation, not yet tried by themselves; or pending or lost
	suspect blockset
	// failed at home by themselves, or could not be tried there; of a read: and not noted yet
	bad blockset
	// Of a read: what failed in a spare unit. The rest of what failed did so at home.
	elsewhere blockset
	probe     uint64 // blocks to try at once
	attempts  int    // of what is being tried
	found     int    // how much was found bad by itself
	since     int64  // monotonic ns of the first failure
	// monotonic ns: of the probe, or of the write to a spare unit, that is under way
	began  int64
	cause  int32 // the first failure
	doomed int32 // a read: its answer, once all of it was tried and what is bad is noted
	pace   pace  // how long what fails takes
	healed bool

	heal struct {
		step     healStep
		from, to uint64 // exported blocks
		believed place  // where they were when they were found bad
		untried  bool   // they were not found bad, but pending or lost
		spare    uint32 // first spare unit granted
		limit    uint64 // units to ask for at most; 0: no limit
		again    bool   // the write to the spare unit, or reading it back, is in its second try
		todo     healTodo
		read     uint64 // read back up to here
		unit     uint64 // of a report: the units before it are noted
		tried    [MaxTries]uint32
		tries    uint8
	}
}

// Engine is the state machine of one queue. All its methods must be called from
// one goroutine. It allocates nothing after NewEngine.
type Engine struct {
	cfg      EngineConfig
	geo      *Geometry
	shared   *Shared
	m        *Map
	drv      Driver
	policy   Policy
	requests []request
	ops      []op
	free     int32 // list of ops that belong to no tag
	active   int
	parked   int
	delayed  int
	parity   uint8
	inflight [3]int                // operations of each grace period, and those of internal requests
	graces   uint64                // grace periods that began
	grace    uint64                // generation to be answered when inflight[1-parity] is zero; 0: none
	own      Counters              // of the user's requests
	told     [counterFields]uint64 // of own, as last published
	public   *counters
	// The internal requests: the last of requests, and what is counted of them.
	internal       []internalRequest
	internalActive int
	ownInternal    Counters
	publicInternal *counters
	// now is the time, as the slow path last read it; fresh: for what is being handled. A clock may
	// cost as much as a try.
	now   int64
	fresh bool
	out   Message // what is being sent: the driver gets a pointer, which must not make garbage
}

// NewEngine returns the engine of one queue.
func NewEngine(cfg EngineConfig, s *Shared, d Driver) *Engine {
	if cfg.DiscardBlocks == 0 {
		cfg.DiscardBlocks = int(s.geo.BlocksPerUnit())
	}
	e := &Engine{cfg: cfg, geo: &s.geo, shared: s, m: s.m, drv: d,
		policy: cfg.Policy.withDefaults(), public: s.queues.enlist()}
	tags := cfg.Depth + cfg.InternalTags
	e.requests = make([]request, tags)
	for i := range e.requests {
		e.requests[i].suspect = newBlockset(cfg.MaxBlocks)
		e.requests[i].bad = newBlockset(cfg.MaxBlocks)
		e.requests[i].elsewhere = newBlockset(cfg.MaxBlocks)
	}
	if cfg.InternalTags > 0 {
		e.initInternal()
		e.publicInternal = s.internal.enlist()
	}
	e.ops = make([]op, tags+spareOps(cfg.Depth))
	e.free = -1
	for i := len(e.ops) - 1; i >= 0; i-- {
		e.ops[i].io.ID = uint64(i)
		if i >= tags {
			e.ops[i].next = e.free
			e.free = int32(i)
		}
	}
	return e
}

// Ops returns the number of operations that the engine may have in flight at
// once: what a driver's ring must hold.
func (e *Engine) Ops() int { return len(e.ops) }

// Inflight returns the number of the user's requests that were submitted and are
// not finished.
func (e *Engine) Inflight() int { return e.active }

// Submit begins a request. Its tag must not be in use.
func (e *Engine) Submit(r *Request) {
	q := &e.requests[r.Tag]
	q.Request = *r
	q.active = true
	q.errno = 0
	e.active++
	switch {
	case r.Op == OpFlush:
		q.cursor, q.end = 0, uint64(e.geo.Devices)
		q.told = e.shared.told.Load()
	case r.Block+uint64(r.Count) > e.geo.Blocks || r.Block+uint64(r.Count) < r.Block ||
		r.Op != OpDiscard && int(r.Count) > e.cfg.MaxBlocks:
		q.cursor, q.end = 0, 0
		q.errno = -int32(syscall.EINVAL)
	default:
		q.cursor, q.end = r.Block, r.Block+uint64(r.Count)
	}
	e.advance(q)
}

// advance carries a request on as far as it goes without an answer from
// outside.
func (e *Engine) advance(q *request) {
	if q.errno == 0 && !q.parked {
		if q.Op == OpFlush {
			e.dispatchFlush(q)
		} else if q.cursor < q.end {
			e.dispatch(q)
		}
	}
	if q.inflight > 0 || q.heal.step != healNone {
		return
	}
	if q.errno == 0 && q.parked {
		return
	}
	// Before a read is answered, what it saw fail is noted, also if it fails for another reason.
	if q.isolating && (q.errno == 0 || q.Op == OpRead) && e.isolate(q) {
		return
	}
	e.finish(q)
}

// dispatch gives the blocks from the cursor on their first try.
func (e *Engine) dispatch(q *request) {
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
			// The rest is read all the same: whoever is told that a request failed writes all of
			// it again, and what does not read of it must be known by then.
			e.doom(q, run.Start, run.Count, -int32(syscall.EIO))
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
			e.start(q, o)
		}
		q.cursor++
	}
}

// acquire returns an operation for the request: its own, else one of the spare
// ones, else nil. A request with nothing in flight always gets one. An internal request has its
// own and no other, so that none lacks where a request of the user needs it.
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
		e.fresh = false // the clock goes on
		return
	}
	e.release(q, o)
	e.advance(q)
}

// shorten goes on after a short result; it reports false if the result was not
// even one block: the disk is gone or a thin pool is full.
func (e *Engine) shorten(q *request, o *op, res int64) bool {
	blocks := uint64(res) / uint64(e.geo.BlockSize)
	if blocks == 0 {
		return false
	}
	if o.kind != opHeal && o.kind != opProof {
		e.succeeded(q, o, blocks)
	}
	n := int64(blocks) * int64(e.geo.BlockSize)
	o.since = 0 // it got on: what lacks resources next has all the time again
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

// delay puts off an operation that failed for want of resources; it reports
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
	if e.delayed == 0 {
		return 0
	}
	var first int64
	for i := range e.ops {
		if due := e.ops[i].due; due != 0 && (first == 0 || due < first) {
			first = due
		}
	}
	return first
}

// Tick tries again what was put off until now.
func (e *Engine) Tick(now int64) {
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
	case opFlush:
		e.shared.flushedTo(o.io.Device, o.block)
	}
}

// dirtied notes that a device may hold what the next flush must cover: also
// after a discard, and after a write that failed and had an effect in part,
// since a read may show it from now on.
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
	case opProof:
		o.io.Discard = false
		e.spareFailed(q, o, class, todoReadBack)
		return
	}
	e.dirtied(o)
	switch {
	case class != ClassMedium, q.Op == OpDiscard:
		e.fail(q, res)
	case q.Op == OpRead && o.kind == opFirst && e.enough(q, o, res):
	case e.shared.Tripped():
		if q.Op == OpRead {
			e.notNoted(q, !q.isolating)
		}
		e.fail(q, res)
	case o.kind == opFirst:
		e.blame(q, o, res)
		e.suspect(q, o.block, o.count)
		if o.place.mapped {
			q.elsewhere.add(o.block-q.Block, o.block-q.Block+o.count)
		}
	default:
		e.probeFailed(q, o, res)
	}
}

// blame notes a request's first failure: from then on its clock runs. What was waited for
// before that is nobody's error, and how long the failure took is not known, for no clock
// is read for what goes well. But the device may be known for slow ones.
func (e *Engine) blame(q *request, o *op, res int32) {
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

// count counts a failed operation. A device that has no discard says nothing of its path.
func (e *Engine) count(q *request, o *op, res int32, class Class) {
	c := e.counters(q)
	switch {
	case o.io.Op == OpDiscard && res == -int32(syscall.EOPNOTSUPP):
	case class != ClassMedium:
		c.TransportErrors++
		if e.shared.doubt(o.io.Device) {
			e.out = Message{Kind: MsgDoubt, Queue: e.cfg.Queue, Device: o.io.Device}
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

// fail sets the request's answer; the first error stays.
func (e *Engine) fail(q *request, res int32) {
	if q.errno == 0 {
		q.errno = res
	}
}

// park lets a request wait until units are no longer busy.
func (e *Engine) park(q *request) {
	if !q.parked {
		q.parked = true
		e.parked++
	}
}

func (e *Engine) unpark(q *request) {
	if q.parked {
		q.parked = false
		e.parked--
	}
}

// finish answers a request. Nothing of it is in flight.
func (e *Engine) finish(q *request) {
	if q.internal != nil {
		e.finishInternal(q)
		return
	}
	c := &e.own
	bytes := uint64(q.Count) * uint64(e.geo.BlockSize)
	switch q.Op {
	case OpRead:
		c.Reads++
		if q.errno == 0 {
			c.ReadBytes += bytes
		}
	case OpWrite, OpWriteZeroes:
		c.Writes++
		if q.errno == 0 {
			c.WriteBytes += bytes
		}
	case OpFlush:
		c.Flushes++
		if e.shared.tell(q.told, q.errno != 0) {
			e.fail(q, -int32(syscall.EIO))
		}
	case OpDiscard:
		c.Discards++
	}
	if q.isolating {
		switch {
		case q.errno != 0 && q.Op != OpRead:
			c.FailedHeals++
		case q.errno == 0 && q.Op == OpRead:
			c.HealedReads++
		case q.errno == 0 && q.healed:
			c.HealedWrites++
		}
		e.resetIsolation(q)
	}
	e.unpark(q)
	q.active = false
	e.active--
	e.drv.Finish(q.Tag, q.errno)
}

// Answer takes a message from the Arbiter.
func (e *Engine) Answer(m *Message) {
	switch m.Kind {
	case MsgGrace:
		e.grace = m.Generation
		e.parity ^= 1
		e.graces++
		e.answerGrace()
	case MsgWake:
		if e.parked == 0 {
			return
		}
		for i := range e.requests {
			if q := &e.requests[i]; q.active && q.parked {
				e.unpark(q)
				e.advance(q)
			}
		}
	default:
		e.healAnswer(&e.requests[m.Tag], m)
	}
}

// answerGrace tells the Arbiter that everything that was in flight when it
// asked has ended.
func (e *Engine) answerGrace() {
	if e.grace == 0 || e.inflight[1-e.parity] != 0 {
		return
	}
	e.out = Message{Kind: MsgGraceDone, Queue: e.cfg.Queue, Generation: e.grace}
	e.drv.Send(&e.out)
	e.grace = 0
}

// Publish makes the engine's counters visible to Shared.Counters. A driver
// calls it once for each batch. What has not changed costs no store: an atomic one takes
// as long as some twenty instructions.
func (e *Engine) Publish() {
	now := e.own.values()
	for i := range now {
		if now[i] != e.told[i] {
			e.told[i] = now[i]
			e.public.v[i].Store(now[i])
		}
	}
	if e.publicInternal != nil {
		for i, v := range e.ownInternal.values() {
			e.publicInternal.v[i].Store(v)
		}
	}
}
