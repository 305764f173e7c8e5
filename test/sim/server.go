package sim

import (
	"time"

	"ublkremap/internal/coordinator"
	"ublkremap/metadata"
	"ublkremap/remap"
)

// server is one incarnation of the server: the machines under test, and their drivers.
type server struct {
	s        *sim
	restored *remap.Restored
	shared   *remap.Shared
	queues   []*queue
	coord    *coordinator.Coordinator
	com      *committer        // between the Arbiter and the Committer
	buffer   []byte            // of relocations
	toArb    [][]remap.Message // by queue
	toEng    [][]remap.Message
	reader   *reader

	opened      bool
	queuesEnded bool // the server leaves, and its queues handle nothing any more
	openFailed  bool
	capacity    uint64 // entries that the table may have
	growth      metadata.Growth
	refused     uint64 // what was refused for want of room in the table
	moves       int
	queued      []*filling // the moves that have not ended, in order; nil: it is no fill
	unknown     bool       // a commit of unknown outcome was not yet restated
	everUnknown bool       // there was one since the start

	hadLost    bool // blocks were lost at the start
	hadPending bool
	marks      []*marking // imports that have not ended, in order
	// By exported block: what became pending since the start, and when a read last failed.
	pending map[uint64]bool
	failed  map[uint64]int64
	// unreached is when a read last failed because a spare device was away.
	unreached map[uint64]int64

	// spoilt is when reads of users last found bad blocks in spare units.
	spoilt map[spoiltSpare]int64
	slow   bool // an operation took long to fail

	// What the breaker has allowed: spare units that heals have used, and how often an operator
	// closed it.
	consumed  map[uint32]bool
	resumed   uint64
	pause     time.Duration // of the last retest
	operators int           // retests that operators have asked for
	born      int64
	lastHeal  int64 // step of the last message of a heal
	lastMove  int64 // step at which the last move ended

	// Of bugs only.
	early   map[tagKey]*early
	written map[place][]byte // superblocks, as the committer wrote them

	lastTripped, lastFull int64 // steps at which the breaker was last open, and no spare unit free
	lastCramped           int64 // step at which the table last had no room for something
	finished              uint64
	// failedTransfer is the step at which a transfer of the arbiter last failed for another reason
	// than its medium. After that a heal may have found no spare unit.
	failedTransfer int64
	// busySince is when an operation of a relocation, by its ID, first failed for lack of
	// resources.
	busySince map[uint64]int64
	// tries are the operations of the Committer, by their ID, that are tried again. ranOut is the
	// step at which one was last given up because its time had run out.
	tries  map[uint64]tries
	ranOut int64
}

// start starts a server. Power cuts or SIGKILL may end some tries before that.
func (s *sim) start() {
	if s.cfg.probes && !s.scripted {
		s.probe()
	}
	for tries := 0; ; tries++ {
		s.boot()
		for !s.srv.opened {
			if tries < 3 && !s.scripted && s.chance(1, 60) {
				if s.chance(1, 2) {
					s.cutPower()
				} else {
					s.kill()
				}
				break
			}
			if s.srv.openFailed {
				// Every mirror refused. An operator would try again.
				s.refuseMetadata(false)
				s.metaLeft = 0
				s.srv.openFailed = false
				s.srv.open()
			}
			if !s.nextEvent() {
				s.failf("the start hangs")
			}
		}
		if s.srv != nil {
			break
		}
	}
	s.starts++
	s.stats.Starts++
	if q, tag, ok := s.freeTag(); ok && s.chance(1, 3) {
		// What the last server wrote is flushed before anything else is written.
		r := &userReq{queue: q}
		r.Op = remap.OpFlush
		s.submit(r, tag)
		for s.reqs[q][tag] == r && s.nextEvent() {
		}
	}
	// The kernel gives the new server what the old one had not answered.
	for _, i := range s.rng.Perm(len(s.reqs) * s.cfg.depth) {
		if r := s.reqs[i/s.cfg.depth][i%s.cfg.depth]; r != nil {
			r.begun, r.time, r.flushFailed, r.denied = s.step, s.now, false, false
			r.inPlace = unitSpan{}
			clear(r.read)
			clear(r.bad)
			r.medium = 0
			s.later(classIO+uint8(r.queue), func() {
				r.failures, r.reported, r.seen = s.failures, s.reported, -1
				s.srv.queues[r.queue].submit(r)
			})
		}
	}
}

// boot loads the metadata and builds the machines.
func (s *sim) boot() {
	s.reported = s.failures // a new server cannot know
	clear(s.media.tests)    // nor what was tested
	lost := s.settle()
	img, restored := s.load()
	s.inspect(restored)
	s.inspectMarks(restored)
	s.inspectMirrors()
	s.inspectEvents()
	for i, d := range s.disks {
		restored.Geometry.NoFUA[i] = d.noFUA && s.opts.Bug != BugFlushAsMedium
	}
	restored.Geometry.PhysicalBlock = max(restored.Geometry.PhysicalBlock,
		s.cfg.plan.PhysicalBlockSize)
	sv := &server{
		s: s, restored: restored, shared: remap.NewShared(restored.Geometry, restored.Map),
		toArb: make([][]remap.Message, s.cfg.queues), toEng: make([][]remap.Message, s.cfg.queues),
		lastTripped: -1, lastFull: -1, lastCramped: -1, lastHeal: -1, failedTransfer: -1,
		lastMove: -1, ranOut: -1, tries: map[uint64]tries{},
		pending: map[uint64]bool{}, failed: map[uint64]int64{}, unreached: map[uint64]int64{},
		spoilt:   map[spoiltSpare]int64{},
		consumed: map[uint32]bool{}, born: s.now, early: map[tagKey]*early{},
		written: map[place][]byte{}, busySince: map[uint64]int64{},
	}
	sv.reader = newReader(s)
	for range lost {
		sv.shared.InheritFlush()
	}
	n := restored.Map.Counts()
	sv.hadLost, sv.hadPending = n.Lost > 0, n.Pending > 0
	s.srv = sv
	per := int(restored.Geometry.BlocksPerUnit())
	for i := range s.cfg.queues {
		q := &queue{sv: sv, index: i, busySince: map[uint64]int64{}, goesOn: map[uint64]bool{}}
		q.eng = remap.NewEngine(remap.EngineConfig{
			Queue: uint16(i), Depth: s.cfg.depth, MaxBlocks: s.cfg.maxUnits * per,
			ZeroBlocks: s.cfg.zero * per, DiscardBlocks: s.cfg.sink * per, Policy: s.cfg.policy,
			InternalTags: s.cfg.internalTags(), Internal: q,
		}, sv.shared, q)
		sv.queues = append(sv.queues, q)
	}
	s.scrubbing.fromDisk(s, img.Scrub())
	sv.coordinate(img)
	s.opts.Bug.booted(s)
	sv.open()
}

// settle flushes what a dead server has left in the disks' caches, before anything is read, as
// opening a device does. It returns how many flushes failed.
func (s *sim) settle() (lost int) {
	if b := s.opts.Bug; b == BugUnsettledStart || b == BugForgetsDirty {
		return 0
	}
	for _, d := range s.disks {
		for {
			io := &diskIO{d: d, kind: ioFlush, whom: "start"}
			if io.flush(s.rng, d.seq, 0) == 0 {
				break
			}
			s.dropped(io)
			s.failures.done++
			s.failures.seen++
			lost++
		}
	}
	return lost
}

// coordinate binds the Arbiter and the Committer, as the server does it.
func (sv *server) coordinate(img *metadata.Image) {
	s := sv.s
	sv.buffer = metadata.AlignedBytes(s.cfg.buf * metadata.UnitSize)
	cfg := coordinator.Config{
		Image: img, Shared: sv.shared, Allocator: sv.restored.Allocator, Policy: s.cfg.policy,
		Queues: s.cfg.queues, Depth: s.cfg.depth, InternalTags: s.cfg.internalTags(),
		Scrub:  s.scrubConfig(),
		Buffer: sv.buffer,
		Committer: metadata.Options{Session: s.rng.Uint64(),
			CheckpointChunk: pick(s.rng, []int{4096, 32768, 0})},
		Retry: sv.retryLimits(),
		Wrap: func(c *metadata.Committer) coordinator.Committer {
			sv.com = &committer{Committer: c, sv: sv, commits: map[metadata.Ticket]int64{}}
			return sv.com
		},
	}
	if s.cfg.events {
		cfg.Events = &coordinator.Events{Micros: func() int64 { return s.now / 1000 }}
	}
	if s.opts.Bug == BugNoRetry {
		cfg.Retry = metadata.RetryLimits{Resources: -1, Path: -1}
	}
	var err error
	if sv.coord, err = coordinator.New(cfg, driver{sv}); err != nil {
		s.failf("coordinator: %v", err)
	}
}

// retryLimits are the limits of the Coordinator. A failing path gets as much as in the server, in
// the time scale of these runs.
func (sv *server) retryLimits() metadata.RetryLimits {
	return metadata.RetryLimits{Resources: sv.s.cfg.policy.ResourceFor,
		Path: sv.s.cfg.policy.ResourceFor / 4}
}

func (sv *server) open() {
	if err := sv.coord.Open(func(err error) {
		sv.opened, sv.openFailed = err == nil, err != nil
	}); err != nil {
		sv.s.failf("open: %v", err)
	}
}

// checkpoint has a checkpoint written.
func (sv *server) checkpoint() {
	// An error means that the server is not open.
	_ = sv.coord.Checkpoint(func(durable bool) {
		if durable {
			sv.s.stats.Checkpoints++
		}
	})
}

// move asks for blocks to be moved.
func (sv *server) move(m remap.Move) error {
	return sv.begin(m, nil)
}

// begin asks for a move, which may be a fill.
func (sv *server) begin(m remap.Move, f *filling) error {
	sv.moves++
	sv.queued = append(sv.queued, f)
	err := sv.coord.Move(m, func(r remap.MoveResult) {
		sv.moves--
		sv.queued = sv.queued[1:]
		if f != nil {
			sv.filled(f)
		}
		sv.lastMove = sv.s.step
		sv.s.stats.Moves += r.Moved
		sv.s.tracef("  move %d ended: %+v", r.ID, r)
	})
	if err != nil {
		sv.moves--
		sv.queued = sv.queued[:len(sv.queued)-1]
	}
	return err
}

func (sv *server) wallClock() uint32 { return uint32(1_700_000_000 + sv.s.now/1e9) }

func (sv *server) sendEngine(q int, m remap.Message) {
	if sv.queuesEnded {
		return
	}
	sv.toEng[q] = append(sv.toEng[q], m)
	sv.s.later(classToEng+uint8(q), func() {
		m := sv.toEng[q][0]
		sv.toEng[q] = sv.toEng[q][1:]
		sv.queues[q].eng.Answer(&m)
	})
}

// receive takes a message from an engine on its way to the arbiter.
func (sv *server) receive(q int, m *remap.Message) {
	s := sv.s
	if s.tracing() {
		s.tracef("    from q%d: %s", q, messageString(m))
	}
	switch m.Kind {
	case remap.MsgReserve, remap.MsgPending:
		if m.Errno != 0 && remap.Classify(m.Errno) != remap.ClassMedium {
			s.failf("q%d: %s for an error that is not the medium's: %s", q, messageString(m),
				errnoName(m.Errno))
		}
		if m.Kind == remap.MsgPending {
			s.stats.Pending++
			sv.foundBad(m)
			if int(m.Tag) >= s.cfg.depth {
				sv.reader.reports(m)
			} else if m.Cause != metadata.CauseRead {
				s.failf("q%d: %s has cause %v", q, messageString(m), m.Cause)
			}
		}
	case remap.MsgCommit:
		s.stats.Heals++
		sv.proved(q, m)
	}
	if m.Kind != remap.MsgPending && m.Kind != remap.MsgGraceDone &&
		m.Kind != remap.MsgCheckDevice {
		sv.lastHeal = s.step
	}
	if !s.opts.Bug.toArbiter(sv, q, m) {
		return
	}
	sv.toArb[q] = append(sv.toArb[q], *m)
	s.later(classToArb+uint8(q), func() {
		m := sv.toArb[q][0]
		sv.toArb[q] = sv.toArb[q][1:]
		sv.coord.Receive(&m)
		sv.coord.Step()
	})
}

// after is called after each event. It gives the time to the machines that wait for it, and notes
// what errors of writes are judged by.
func (sv *server) after() {
	for _, at := range []int64{sv.coord.Deadline(), sv.coord.MirrorsDue(), sv.coord.EventsDue()} {
		if at != 0 && at <= sv.s.now {
			sv.coord.Tick()
		}
	}
	for _, q := range sv.queues {
		if d := q.eng.Deadline(); d != 0 && d <= sv.s.now && !sv.queuesEnded {
			q.eng.Tick(sv.s.now)
		}
	}
	sv.tickScrub()
	sv.noteEvents()
	sv.maybeDrill()
	sv.note()
}

func (sv *server) note() {
	if sv.coord.Scrub().Mending || sv.coord.Saving() {
		sv.lastMove = sv.s.step
	}
	if sv.shared.Tripped() {
		sv.lastTripped = sv.s.step
	}
	if sv.restored.Allocator.FreeCount() == 0 {
		sv.lastFull = sv.s.step
	}
	sv.noteTable()
}

// noteTable notes whether something was refused for want of room in the table. That must not be
// while more room can be made.
func (sv *server) noteTable() {
	if !sv.s.cfg.table {
		return
	}
	sv.s.stats.Grown += sv.grownSince()
	st := sv.coord.Status()
	before, refused, noRoom := sv.growth, sv.refused, sv.com.noRoom
	sv.com.noRoom = false
	sv.growth, sv.refused = st.Committer.Growth, st.Arbiter.Table.Refused
	if sv.refused == refused {
		return
	}
	sv.lastCramped = sv.s.step
	for _, g := range []metadata.Growth{before, sv.growth} {
		if g == metadata.GrowthNoRoom || g == metadata.GrowthWaits {
			return
		}
	}
	if noRoom {
		return // it was so in between
	}
	sv.s.failf("something was refused for want of room in the table, with larger slots %q: %+v",
		sv.growth, st.Arbiter.Table)
}

// grownSince reports, once, that all mirrors have larger slots than before.
func (sv *server) grownSince() uint64 {
	was, now := sv.capacity, sv.com.Committer.TableCapacity()
	sv.capacity = now
	if was == 0 || now <= was {
		return 0
	}
	sv.s.tracef("the table may have %d entries, %d before", now, was)
	return 1
}

// wait lets time pass until the next time that somebody waits for. It returns false if nobody
// waits. Mirrors that are to be tried again do not count.
func (sv *server) wait() bool {
	first := sv.coord.Deadline()
	for _, q := range sv.queues {
		if d := q.eng.Deadline(); d != 0 && !sv.queuesEnded && (first == 0 || d < first) {
			first = d
		}
	}
	if first == 0 {
		return false
	}
	sv.s.now = max(sv.s.now, first)
	sv.after()
	return true
}
