package sim

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"ublkremap/metadata"
	"ublkremap/remap"
)

// server is one incarnation of the server: the machines under test, and what
// drives them.
type server struct {
	s        *sim
	restored *remap.Restored
	shared   *remap.Shared
	queues   []*queue
	arb      *remap.Arbiter
	com      *metadata.Committer
	toArb    [][]remap.Message // by queue
	toEng    [][]remap.Message
	reader   *reader

	opened     bool
	openFailed bool
	openTicket metadata.Ticket
	asked      map[metadata.Ticket]bool // checkpoints
	commits    map[metadata.Ticket]int64
	moves      int
	unknown    bool // a commit of unknown outcome was not yet restated
	everOdd    bool // there was one since the start

	hadLost    bool // blocks were lost at the start
	hadPending bool
	// By exported block: what became pending since the start, and when a read last failed.
	pending map[uint64]bool
	failed  map[uint64]int64
	// unreached: when a read last failed because a spare device was away.
	unreached map[uint64]int64

	// What the breaker has let through: spare units that heals have used, and how often an
	// operator closed it.
	consumed map[uint32]bool
	resumed  uint64
	born     int64
	lastHeal int64 // step of the last message of a heal
	timers   []timer
	lastMove int64 // step at which the last move ended

	// Of bugs only.
	early  map[tagKey]*early
	unseen [][]metadata.Result
	told   map[place][]byte // superblocks, as the committer wrote them

	lastTripped, lastFull int64 // steps at which the breaker was last open, and no spare unit free
	finished              uint64
	// oddTransfer is the step at which a transfer of the arbiter last failed for another
	// reason than its medium: then no spare unit may have been found for a heal.
	oddTransfer int64
}

// start starts a server, after as many tries as the power or SIGKILL end.
func (s *sim) start() {
	if s.cfg.probes && !s.calm {
		s.probe()
	}
	for tries := 0; ; tries++ {
		s.boot()
		for !s.srv.opened {
			if tries < 3 && !s.calm && s.chance(1, 60) {
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
			if !s.happen() {
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
		// Before anything else is written: what the last server wrote is to be flushed.
		r := &userReq{queue: q}
		r.Op = remap.OpFlush
		s.submit(r, tag)
		for s.reqs[q][tag] == r && s.happen() {
		}
	}
	// The kernel gives the new server what the old one had not answered.
	for _, i := range s.rng.Perm(len(s.reqs) * s.cfg.depth) {
		if r := s.reqs[i/s.cfg.depth][i%s.cfg.depth]; r != nil {
			r.begun, r.time, r.flushFailed, r.denied = s.step, s.now, false, false
			clear(r.read)
			clear(r.bad)
			s.later(classIO+uint8(r.queue), func() {
				r.failures, r.told, r.seen = s.failures, s.told, -1
				s.srv.queues[r.queue].submit(r)
			})
		}
	}
}

// boot loads the metadata and builds the machines.
func (s *sim) boot() {
	s.told = s.failures // a new server cannot know
	lost := s.settle()
	img, restored := s.load()
	s.inspect(restored)
	for i, d := range s.disks {
		restored.Geometry.NoFUA[i] = d.noFUA && s.opts.Bug != BugFlushAsMedium
	}
	restored.Geometry.PhysicalBlock = max(restored.Geometry.PhysicalBlock,
		s.cfg.plan.PhysicalBlockSize)
	sv := &server{
		s: s, restored: restored, shared: remap.NewShared(restored.Geometry, restored.Map),
		asked: map[metadata.Ticket]bool{}, commits: map[metadata.Ticket]int64{},
		toArb: make([][]remap.Message, s.cfg.queues), toEng: make([][]remap.Message, s.cfg.queues),
		lastTripped: -1, lastFull: -1, lastHeal: -1, oddTransfer: -1, lastMove: -1,
		pending: map[uint64]bool{}, failed: map[uint64]int64{}, unreached: map[uint64]int64{},
		consumed: map[uint32]bool{}, born: s.now, early: map[tagKey]*early{},
		told: map[place][]byte{},
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
			InternalTags: s.cfg.reader, Internal: q,
		}, sv.shared, q)
		sv.queues = append(sv.queues, q)
	}
	sv.arb = remap.NewArbiter(remap.ArbiterConfig{
		Queues: s.cfg.queues, Depth: s.cfg.depth, Policy: s.cfg.policy,
		InternalTags: s.cfg.reader,
		Buffer:       metadata.AlignedBytes(s.cfg.buf * metadata.UnitSize),
	}, sv.shared, restored.Allocator, journal{sv}, keeper{sv})
	var err error
	sv.com, err = metadata.NewCommitter(img, sv.arb, metadata.Options{Session: s.rng.Uint64(),
		CheckpointChunk: pick(s.rng, []int{4096, 32768, 0})})
	if err != nil {
		s.failf("committer: %v", err)
	}
	s.opts.Bug.booted(s)
	sv.open()
}

// settle flushes what a dead server has left in the disks' caches, before anything is read,
// as opening a device does; it returns how many flushes failed.
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

func (sv *server) open() {
	var err error
	if sv.openTicket, err = sv.com.Open(sv.wallClock()); err != nil {
		sv.s.failf("open: %v", err)
	}
	sv.pump()
}

func (sv *server) wallClock() uint32 { return uint32(1_700_000_000 + sv.s.now/1e9) }

// pump hands the committer's writes to the disks and its outcomes to the
// arbiter, until there is nothing new.
func (sv *server) pump() {
	for {
		ops := sv.com.Ops()
		for _, op := range ops {
			sv.write(op)
		}
		results := sv.s.opts.Bug.results(sv, sv.com.Results())
		if len(ops) == 0 && len(results) == 0 {
			return
		}
		for _, r := range results {
			sv.outcome(r)
		}
		sv.arb.Advance()
	}
}

// write carries out one write of the committer, or a read.
func (sv *server) write(op metadata.Op) {
	s := sv.s
	if !op.Read {
		s.metaWrite()
	}
	io := &diskIO{d: s.disks[op.Device], kind: ioWrite, fua: op.FUA, off: op.Offset,
		n: int64(len(op.Data)), data: op.Data, whom: "journal"}
	if op.Read {
		io.kind = ioRead
	}
	durable := false
	end := func(err error) {
		sv.com.Done(op.ID, err)
		sv.pump()
	}
	flush := sv.shared.Durable(op.Device)
	var retry metadata.Retry
	var done func(res int32)
	done = func(res int32) {
		var err error
		if res == 0 {
			res = -int32(syscall.EIO) // as the server's workers take it
		}
		switch {
		case res < 0:
			if pause, again := retry.Next(res, s.now, sv.patience()); again &&
				s.opts.Bug != BugImpatient {
				sv.in(pause, func() {
					flush = sv.shared.Durable(op.Device)
					s.begin(classJournal, io.from(0), done)
				})
				return
			}
			err = syscall.Errno(-res)
		case int64(res) < io.n:
			io = io.from(int64(res))
			s.begin(classJournal, io, done)
			return
		case durable:
			sv.flush(classJournal, io, &flush, func(kept bool) {
				if !kept {
					err = metadata.ErrFlush
				}
				end(err)
			})
			return
		}
		end(err)
	}
	if s.opts.Bug.journal(sv, io, done) {
		return
	}
	// As the server's workers do it: a write and a flush, on any disk.
	if durable = io.fua && s.opts.Bug != BugFlushAsMedium; durable {
		io.fua = false
	}
	if s.lie(io) {
		if s.chance(1, 2) {
			s.tracef("      lost: %v", io)
			io.done = io.n
			s.later(classJournal, func() { done(int32(io.n)) })
			return
		}
		s.misdirect(io)
	}
	s.begin(classJournal, io, done)
}

// patience is the committer's. A path that fails gets as much, in the time of these runs.
func (sv *server) patience() metadata.RetryLimits {
	return metadata.RetryLimits{Resources: sv.s.cfg.policy.ResourceFor,
		Path: sv.s.cfg.policy.ResourceFor / 4}
}

// timer is something that waits for a time.
type timer struct {
	at  int64
	run func()
}

// in runs f after a while, unless the server ends before.
func (sv *server) in(pause time.Duration, f func()) {
	sv.timers = append(sv.timers, timer{sv.s.now + int64(pause), f})
}

// ring runs what has waited long enough, one at a time.
func (sv *server) ring() {
	for i := 0; i < len(sv.timers); i++ {
		if t := sv.timers[i]; t.at <= sv.s.now {
			sv.timers = slices.Delete(sv.timers, i, i+1)
			t.run()
			i = -1
		}
	}
}

// flush follows a write of the keeper by a flush, and tells whether what was written is there.
func (sv *server) flush(class uint8, written *diskIO, f *remap.Flushing, end func(kept bool)) {
	s := sv.s
	f.Begin()
	s.begin(class, &diskIO{d: written.d, kind: ioFlush, whom: written.whom}, func(res int32) {
		if s.opts.Bug == BugFlushUntold {
			f.End(0)
		} else {
			f.End(res)
		}
		var settle func()
		settle = func() {
			if f.Settled() {
				end(res >= 0 && f.Kept())
			} else {
				s.later(class, settle)
			}
		}
		settle()
	})
}

func (sv *server) outcome(r metadata.Result) {
	s := sv.s
	durable := s.opts.Bug.durable(sv, r)
	if s.tracing() {
		s.tracef("    ticket %d: durable %v", r.Ticket, durable)
	}
	switch {
	case r.Ticket == sv.openTicket:
		sv.opened, sv.openFailed = durable, !durable
	case sv.asked[r.Ticket]:
		delete(sv.asked, r.Ticket)
		if durable {
			s.stats.Checkpoints++
		}
	default:
		if !durable {
			s.stats.Unknown++
			sv.unknown, sv.everOdd = true, true
			// While an operation takes seconds to fail no other one is tried again: time
			// for resources can run out with few tries.
			patient := s.slowest < int64(s.cfg.policy.ResourceFor) &&
				(!s.cfg.storms || s.cfg.policy.ResourceFor > stormFor)
			if !s.cfg.vanish && patient && s.cfg.rates.path == 0 && s.cfg.rates.flush == 0 &&
				s.cfg.meta == metaNone {
				s.failf("a commit of unknown outcome, and nothing is wrong with the metadata")
			}
		} else if s.disks[0].gone != 0 && s.goneStep > 0 && sv.commits[r.Ticket] > s.goneStep {
			s.failf("a commit became durable while the backing was gone: spares are used up")
		}
		delete(sv.commits, r.Ticket)
		sv.arb.Committed(remap.Ticket(r.Ticket), durable)
	}
}

// journal is the Arbiter's way to the Committer.
type journal struct{ sv *server }

func (j journal) Commit(entries []metadata.Entry) (remap.Ticket, error) {
	j.sv.blame(entries)
	t, err := j.sv.com.Commit(j.sv.s.opts.Bug.commits(j.sv, entries))
	if s := j.sv.s; s.tracing() {
		s.tracef("    commit %d %v: %+v", t, err, entries)
	}
	if err != nil && !errors.Is(err, metadata.ErrSuspended) {
		j.sv.s.failf("commit refused: %v: %+v", err, entries)
	}
	if err != nil {
		j.sv.everOdd = true
	}
	j.sv.commits[t] = j.sv.s.step
	return remap.Ticket(t), err
}

func (j journal) Resume(restate []metadata.Entry) (remap.Ticket, error) {
	var t metadata.Ticket
	var err error
	restate = j.sv.s.opts.Bug.restates(restate)
	if j.sv.com.Status().Suspended {
		t, err = j.sv.com.Resume(restate)
	} else {
		// The breaker may open for other reasons, with nothing to restate: an empty
		// commit tells whether the mirrors take it.
		t, err = j.sv.com.Commit(restate)
	}
	j.sv.s.tracef("    resume %d %v: %+v", t, err, restate)
	j.sv.commits[t] = j.sv.s.step
	return remap.Ticket(t), err
}

// keeper is the Arbiter's driver.
type keeper struct{ sv *server }

func (k keeper) Now() int64        { return k.sv.s.now }
func (k keeper) WallClock() uint32 { return k.sv.wallClock() }

func (k keeper) Send(q uint16, m *remap.Message) {
	sv, s := k.sv, k.sv.s
	if s.tracing() {
		s.tracef("    to q%d: %s", q, messageString(m))
	}
	if r := s.req(int(q), m.Tag); m.Kind == remap.MsgRefused && r != nil &&
		sv.queues[q].has(r, remap.KindLost|remap.KindPending) {
		r.denied = true
	}
	if !s.opts.Bug.toEngine(sv, int(q), m) {
		return
	}
	sv.sendEngine(int(q), *m)
}

func (sv *server) sendEngine(q int, m remap.Message) {
	sv.toEng[q] = append(sv.toEng[q], m)
	sv.s.later(classToEng+uint8(q), func() {
		m := sv.toEng[q][0]
		sv.toEng[q] = sv.toEng[q][1:]
		sv.queues[q].eng.Answer(&m)
	})
}

func (k keeper) Transfer(t *remap.Transfer) {
	sv, s := k.sv, k.sv.s
	id := t.ID
	io := &diskIO{d: s.disks[t.Device], off: t.Offset, n: int64(len(t.Data)), data: t.Data,
		fua: t.FUA, whom: "move"}
	switch t.Op {
	case remap.OpRead:
		io.kind = ioRead
	case remap.OpWrite:
		io.kind = ioWrite
	default:
		s.failf("a transfer of kind %d", t.Op)
	}
	flush := sv.shared.Durable(t.Device)
	durable := io.fua && s.opts.Bug != BugFlushAsMedium
	if durable {
		io.fua = false
	}
	tries, moved := 0, int64(0)
	var done func(res int32)
	done = func(res int32) {
		tries++
		if res > 0 {
			moved += int64(res)
		}
		if res == 0 || res > 0 && moved < io.n || res < 0 && tries < 100 &&
			remap.Classify(res) == remap.ClassResource {
			// A keeper tries again what goes away by itself, and goes on after a short result.
			s.begin(classTransfer, io.from(moved), done)
			return
		}
		if res > 0 {
			res, io.done = int32(moved), moved
		}
		if res < 0 && remap.Classify(res) != remap.ClassMedium {
			sv.oddTransfer = s.step
		}
		s.note(io, res)
		s.media.moved(io, res)
		if durable && int64(res) == io.n {
			sv.flush(classTransfer, io, &flush, func(kept bool) {
				if kept {
					sv.arb.Transferred(id, s.opts.Bug.transferred(sv, io, res))
				} else {
					sv.oddTransfer = s.step
					sv.arb.TransferUnflushed(id)
				}
				sv.pump()
			})
			return
		}
		sv.arb.Transferred(id, s.opts.Bug.transferred(sv, io, res))
		sv.pump()
	}
	s.begin(classTransfer, io, done)
}

func (k keeper) Moved(r remap.MoveResult) {
	k.sv.moves--
	k.sv.lastMove = k.sv.s.step
	k.sv.s.stats.Moves += r.Moved
	k.sv.s.tracef("  move %d ended: %+v", r.ID, r)
}

// Missing tells of a disk that vanished, unless it is one that only fails since.
func (k keeper) Missing(device uint8) string {
	d := k.sv.s.disks[device]
	if d.gone == 0 || syscall.Errno(d.gone) == syscall.EIO {
		return ""
	}
	return fmt.Sprintf("disk %d is gone", device)
}

func (k keeper) Alert(a remap.Alert) {
	s := k.sv.s
	st := k.sv.arb.Status()
	s.tracef("  ALERT %v: %s", a, st.Reason)
	switch a {
	case remap.AlertTripped:
		s.stats.Trips++
		if strings.Contains(st.Reason, "budget") && !s.cfg.budget {
			s.failf("the breaker's budget was used up: %+v", st)
		}
		if strings.Contains(st.Reason, "failed, the last") && !strings.Contains(st.Reason,
			"in time") && s.cfg.barren && st.Free > 180 {
			s.failf("no spare unit is found where one in 8 is well: %+v", st)
		}
		s.opts.Bug.tripped(k.sv)
	case remap.AlertResumed:
		s.stats.Resumes++
		k.sv.unknown = false
	case remap.AlertSpareFull:
		s.stats.Full++
	}
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
	if m.Kind != remap.MsgPending && m.Kind != remap.MsgGraceDone && m.Kind != remap.MsgDoubt {
		sv.lastHeal = s.step
	}
	if !s.opts.Bug.toArbiter(sv, q, m) {
		return
	}
	sv.toArb[q] = append(sv.toArb[q], *m)
	s.later(classToArb+uint8(q), func() {
		m := sv.toArb[q][0]
		sv.toArb[q] = sv.toArb[q][1:]
		sv.arb.Receive(&m)
		sv.pump()
	})
}

// after is called after each event: it gives the engines the time, and notes
// what errors of writes are judged by.
func (sv *server) after() {
	sv.ring()
	for _, q := range sv.queues {
		if d := q.eng.Deadline(); d != 0 && d <= sv.s.now {
			q.eng.Tick(sv.s.now)
		}
	}
	sv.note()
}

func (sv *server) note() {
	if sv.shared.Tripped() {
		sv.lastTripped = sv.s.step
	}
	if sv.restored.Allocator.FreeCount() == 0 {
		sv.lastFull = sv.s.step
	}
}

// wait lets the time pass that the engines wait for; false if none does.
func (sv *server) wait() bool {
	var first int64
	for _, q := range sv.queues {
		if d := q.eng.Deadline(); d != 0 && (first == 0 || d < first) {
			first = d
		}
	}
	for _, t := range sv.timers {
		if first == 0 || t.at < first {
			first = t.at
		}
	}
	if first == 0 {
		return false
	}
	sv.s.now = max(sv.s.now, first)
	sv.after()
	return true
}
