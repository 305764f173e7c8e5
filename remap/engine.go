package remap

import "syscall"

// EngineConfig is what an Engine needs to know of its queue.
type EngineConfig struct {
	Queue      uint16
	Depth      int // tags
	MaxBlocks  int // the largest read, write or write-zeroes
	ZeroBlocks int // the size of the driver's zero buffer; at least one unit
	// DiscardBlocks is the size of the driver's buffer for data that is read back and discarded;
	// 0: one unit.
	DiscardBlocks int
	Policy        Policy // zero: the defaults
	// InternalTags is how many internal requests there may be at once. Their tags come after
	// those of the user's requests, and their results go to Internal. 0: none.
	InternalTags int
	Internal     InternalDriver
}

// spareOps is how many operations a queue has beside the one that each tag
// owns. A request that spans remapped blocks uses several at once; when they
// are used up it goes on with one at a time.
func spareOps(depth int) int { return 3 * depth }

// Engine is the state machine of one queue. All its methods must be called from
// one goroutine. It allocates nothing after NewEngine.
type Engine struct {
	cfg       EngineConfig
	geo       *Geometry
	shared    *Shared
	m         *Map
	drv       Driver
	policy    Policy
	requests  []request
	ops       []op
	free      int32 // list of ops that belong to no tag
	active    int
	trying    int   // reads of the user that try pending blocks
	tried     int64 // when such a read began or ended last
	waiting   int   // reads that wait for their turn to do so
	parked    int
	delayed   int
	parity    uint8
	inflight  [3]int // operations of each grace period, and those of internal requests
	graces    uint64 // grace periods that began
	elsewhere uint64 // other places that were read, after writes in place
	// grace is the generation to be answered when inflight[1-parity] is zero; 0: none
	grace     uint64
	own       Counters              // of the user's requests
	published [counterFields]uint64 // of own, as last published
	public    *counters
	// The internal requests: the last of requests, and what is counted of them.
	internal       []internalRequest
	internalActive int
	ownInternal    Counters
	publicInternal *counters
	// now is the time that the slow path read last. fresh: it was read for the current event.
	// Reading the clock may cost as much as a try.
	now   int64
	fresh bool
	ages  []age   // of the user's requests, by tag
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
	e.ages = make([]age, cfg.Depth)
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
	q.serial++
	q.errno, q.notNoted = 0, false
	q.way, q.met = WayNone, 0
	e.active++
	switch {
	case r.Op == OpFlush:
		q.cursor, q.end = 0, uint64(e.geo.Devices)
		q.reported = e.shared.reported.Load()
	case r.Block+uint64(r.Count) > e.geo.Blocks || r.Block+uint64(r.Count) < r.Block ||
		r.Op != OpDiscard && int(r.Count) > e.cfg.MaxBlocks:
		q.cursor, q.end = 0, 0
		q.errno = -int32(syscall.EINVAL)
	default:
		q.cursor, q.end = r.Block, r.Block+uint64(r.Count)
	}
	e.advance(q)
}

// advance carries a request on until it waits for an operation or a message, or ends.
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
	if q.errno == 0 && (q.parked || q.waits) {
		return
	}
	// Before a read is answered, its failed blocks are noted, also if it fails for another reason.
	if q.isolating && (q.errno == 0 || q.Op == OpRead) && e.isolate(q) {
		return
	}
	e.finish(q)
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
		if e.shared.reportFlush(q.reported, q.errno != 0) {
			e.fail(q, -int32(syscall.EIO))
		}
	case OpDiscard:
		c.Discards++
	}
	if q.isolating {
		e.metBad(q)
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
	e.endWait(q)
	tried := q.trying
	q.trying, q.turn = false, 0
	q.active = false
	e.active--
	e.drv.Finish(q.Tag, q.errno)
	if tried {
		e.trying--
		e.tried = e.drv.Now()
		e.nextTurns()
	}
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
// calls it once for each batch. Only counters that have changed are stored: an atomic store
// takes as long as some twenty instructions.
func (e *Engine) Publish() {
	now := e.own.values()
	for i := range now {
		if now[i] != e.published[i] {
			e.published[i] = now[i]
			e.public.v[i].Store(now[i])
		}
	}
	if e.publicInternal != nil {
		for i, v := range e.ownInternal.values() {
			e.publicInternal.v[i].Store(v)
		}
	}
}
