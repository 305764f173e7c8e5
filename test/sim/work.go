package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"ublkremap/internal/coordinator"
	"ublkremap/metadata"
	"ublkremap/remap"
)

// work lets requests, operators and the environment act for a number of events. Which of them acts
// in which step depends on the round only.
func (s *sim) work(round, steps int) {
	kinds := rand.New(rand.NewPCG(s.seed^0x6b69_6e64, uint64(round)))
	hold := kinds.IntN(steps)
	for step := range steps {
		number := (round+1)*100_000 + step
		if s.cfg.reader > 0 {
			s.readWhile(number+50_000, step, steps, hold)
		}
		if s.cfg.scrub && step%16 == 5 {
			s.act(number+75_000, s.scrubWhile)
		}
		switch n := kinds.IntN(1000); {
		case n < 250:
			s.act(number, s.request)
		case n < 250+s.cfg.ops:
			s.act(number, s.operator)
		case n < 250+s.cfg.ops+s.cfg.churn:
			s.act(number, s.environment)
		default:
			if s.nextEvent() {
				continue
			}
			if s.active > 0 {
				s.stuck(fmt.Sprintf("%d requests hang: nothing is under way", s.active))
			}
			s.act(number, s.request)
		}
	}
}

// drain lets everything end that is under way.
func (s *sim) drain() {
	s.draining = true
	s.holdReader(true)
	defer func() { s.draining = false }()
	for n := 0; ; n++ {
		if n > 200_000 {
			s.failf("%d requests and %d moves never end", s.active, s.srv.moves)
		}
		if !s.nextEvent() {
			break
		}
	}
	if s.active > 0 || s.srv.moves > 0 || len(s.srv.marks) > 0 {
		s.stuck(fmt.Sprintf("%d requests, %d moves and %d imports hang: nothing is under way",
			s.active, s.srv.moves, len(s.srv.marks)))
	}
	s.drainReader()
}

// freeTag returns a queue and a tag that are free.
func (s *sim) freeTag() (q, tag int, ok bool) {
	n := s.cfg.queues * s.cfg.depth
	at := s.rng.IntN(n)
	for i := range n {
		q, tag = (at+i)%n/s.cfg.depth, (at+i)%n%s.cfg.depth
		if s.reqs[q][tag] == nil {
			return q, tag, true
		}
	}
	return 0, 0, false
}

// request submits a random request, if a tag is free.
func (s *sim) request() {
	q, tag, ok := s.freeTag()
	if !ok {
		return
	}
	r := &userReq{queue: q}
	per := metadata.UnitSize / s.plan.BlockSize()
	size := 1
	switch s.rng.IntN(4) {
	case 0:
	case 1:
		size = 1 + s.rng.IntN(s.cfg.maxUnits*per)
	case 2:
		size = per * (1 + s.rng.IntN(s.cfg.maxUnits))
	case 3:
		size = 1 + s.rng.IntN(per)
	}
	r.Block = s.near()
	if s.chance(1, 3) {
		r.Block -= r.Block % uint64(per)
	}
	switch n := s.rng.IntN(100); {
	case n < 45:
		r.Op, r.FUA = remap.OpWrite, s.chance(1, 4)
	case n < 80:
		r.Op = remap.OpRead
	case n < 86:
		r.Op, r.FUA = remap.OpWriteZeroes, s.chance(1, 4)
	case n < 90:
		r.Op = remap.OpDiscard
		size *= 1 + s.rng.IntN(3)
	default:
		r.Op = remap.OpFlush
	}
	if r.Op == remap.OpFlush {
		r.Block = 0
	} else {
		r.Count = uint32(min(uint64(size), s.plan.Blocks()-r.Block))
	}
	s.submit(r, tag)
}

// submit hands a request to the device.
func (s *sim) submit(r *userReq, tag int) {
	r.Tag = uint16(tag)
	r.perBlock = uint64(s.plan.BlockSize() / sectorSize)
	r.begun, r.time, r.failures, r.reported, r.seen = s.step, s.now, s.failures, s.reported, -1
	switch r.Op {
	case remap.OpWrite:
		r.id = s.nextID
		s.nextID++
		r.buf = make([]byte, r.sectors()*sectorSize)
		for i := range r.sectors() {
			putData(r.buf[i*sectorSize:], r.first()+i, r.id)
		}
	case remap.OpRead:
		r.buf = make([]byte, r.sectors()*sectorSize)
		r.read, r.bad = make([]bool, r.Count), make([]bool, r.Count)
		r.badOn = make([]uint8, r.Count)
		for i := range r.sectors() {
			putHole(r.buf[i*sectorSize:])
		}
	case remap.OpDiscard:
		r.reached = map[uint64]bool{}
	}
	s.reqs[r.queue][tag] = r
	s.active++
	s.model.begin(r)
	s.srv.queues[r.queue].submit(r)
	s.srv.note()
}

// operator does what an operator may do at any time.
func (s *sim) operator() {
	sv := s.srv
	if s.cfg.marks && s.chance(1, 4) {
		s.importSome()
		return
	}
	switch s.rng.IntN(8) {
	case 0, 1, 2, 3:
		if !s.cfg.moves {
			return
		}
		per := uint64(metadata.UnitSize / s.plan.BlockSize())
		m := remap.Move{Block: s.near(), ToSpare: s.chance(3, 5),
			Cause: metadata.CauseOperator}
		m.Count = 1 + s.rng.Uint64N(per*uint64(pick(s.rng, []int{1, 2, 8})))
		if s.chance(1, 40) {
			m.Count *= 30
		}
		if s.chance(1, 6) {
			m.ToSpare, m.Retest, m.Cause = false, true, metadata.CauseRetest
		}
		m.Count = min(m.Count, s.plan.Blocks()-m.Block)
		s.tracef("move %+v", m)
		if err := sv.move(m); err != nil {
			s.tracef("  refused: %v", err)
		}
	case 4, 5:
		if due := sv.coord.MirrorsDue(); due != 0 {
			s.now = max(s.now, due)
			sv.coord.Tick()
		}
		if sv.shared.Tripped() {
			s.resume()
			sv.resumed++
		}
	case 6:
		sv.checkpoint()
	case 7:
		if !s.cfg.moves {
			return
		}
		if s.chance(1, 2) {
			s.retests()
			return
		}
		block := s.near()
		count := 1 + s.rng.Uint64N(s.per()*uint64(pick(s.rng, []int{1, 4, 40})))
		count = min(count, s.plan.Blocks()-block)
		s.tracef("fill %d+%d: %v", block, count, s.fill(block, count))
	}
}

// repair does what an operator does when the breaker has opened: repair the disks, then close the
// breaker.
func (s *sim) repair() {
	s.tracef("repair")
	s.shortage(false)
	for _, d := range s.disks {
		s.back(d)
	}
	for tries := 0; s.srv.shared.Tripped(); tries++ {
		if s.metaBad { // it may begin meanwhile
			s.refuseMetadata(false)
			s.metaLeft = 0
		}
		switch tries {
		case 50:
			// One mirror takes no write, and the other one has missed a record because flushes
			// or its path failed, or because of a shortage. Two things are wrong at once, and only
			// one of them is repaired here. Or the other one is being rebuilt, with more room.
			if s.cfg.meta == metaMirror && (s.cfg.rates.flush > 0 || s.cfg.rates.path > 0 ||
				s.cfg.shortages || s.rebuilding()) {
				s.refuseMetadata(false)
			}
		case 100:
			s.failf("the breaker does not close")
		}
		s.resume()
		s.srv.resumed++
		s.drain()
	}
}

func (s *sim) resume() {
	err := s.srv.coord.Resume(func(closed bool) { s.tracef("resumed: %v", closed) })
	s.tracef("resume: %v", err)
}

// verify reads, through the device, all that was ever written and a little more.
func (s *sim) verify() {
	if !s.scripted && s.chance(1, 3) {
		return // what the last server left under way continues in the next round
	}
	s.tracef("verify")
	per := uint64(metadata.UnitSize / s.plan.BlockSize())
	units := map[uint64]bool{}
	var order []uint64
	add := func(u uint64) {
		if !units[u] && u*per < s.plan.Blocks() {
			units[u] = true
			order = append(order, u)
		}
	}
	for _, sector := range s.model.touched {
		add(sector * sectorSize / metadata.UnitSize)
	}
	for range 8 {
		add(s.rng.Uint64N((s.plan.Blocks() + per - 1) / per))
	}
	for len(order) > 0 {
		q, tag, ok := s.freeTag()
		if !ok || s.chance(1, 2) {
			if !s.nextEvent() && !ok {
				s.failf("the device hangs while it is verified")
			}
			continue
		}
		u := order[0]
		n := uint64(1)
		for n < uint64(s.cfg.maxUnits) && n < uint64(len(order)) && order[n] == u+n {
			n++
		}
		order = order[n:]
		r := &userReq{queue: q}
		r.Op, r.Block = remap.OpRead, u*per
		r.Count = uint32(min(n*per, s.plan.Blocks()-r.Block))
		s.submit(r, tag)
	}
}

// end ends a round: by a power cut, by SIGKILL, or in good order.
func (s *sim) end(last bool) {
	n := s.rng.IntN(100)
	switch {
	case n < 50:
		s.cutPower()
	case n < 70:
		s.kill()
	case n < 80:
		s.leave()
	default:
		s.drain()
		s.quiet()
		if s.srv.shared.Tripped() && s.chance(2, 3) {
			s.repair()
			s.quiet()
		}
		if s.chance(1, 2) {
			s.srv.checkpoint()
			s.drain()
		}
		s.orderlyStop()
		if s.chance(1, 2) {
			s.cutPower()
		}
		s.down()
	}
	if !last {
		return
	}
	// The state that the last end left must be whole.
	s.start()
	s.drain()
	s.verifyAll()
	s.quiet()
	s.down()
	s.check()
}

// leave ends the server as an upgrade does. First the queues end: what they have on its way to the
// disks is completed, and requests whose heals wait for the Arbiter stay with the kernel. Then the
// server waits for what the Committer has under way, so that no commit has an unknown outcome.
func (s *sim) leave() {
	if s.chance(1, 2) {
		s.srv.checkpoint()
	}
	s.endQueues()
	var left *error
	s.srv.coord.Leave(time.Hour, func(err error) { left = &err })
	for n := 0; left == nil; n++ {
		if n > 200_000 || !s.nextEvent() {
			s.failf("the leave hangs")
		}
	}
	s.tracef("LEAVE: %v", *left)
	s.stats.Leaves++
	if *left == nil {
		s.judgeLeave()
	}
	s.die()
}

// endQueues ends the queues' threads once none of their operations is under way.
func (s *sim) endQueues() {
	s.draining = true // the scrub begins nothing
	defer func() { s.draining = false }()
	s.holdReader(false)
	ofQueue := func(io *diskIO) bool { return io.req != nil }
	for n := 0; slices.ContainsFunc(s.ios, ofQueue); n++ {
		if n > 200_000 || !s.nextEvent() {
			s.failf("the operations of the queues never end")
		}
	}
	s.srv.queuesEnded = true
	s.pool = slices.DeleteFunc(s.pool, func(e event) bool {
		return e.class < classToArb || e.class >= classToEng && e.class < classJournal ||
			e.class == classReader
	})
}

// judgeLeave makes sure that the Committer has nothing under way, and that the disks hold the live
// table.
func (s *sim) judgeLeave() {
	for _, io := range s.ios {
		if io.whom == "journal" {
			s.failf("a server has left, and the Committer has an operation under way: %v", io)
		}
	}
	if s.srv.unknown || slices.ContainsFunc(s.disks, func(d *disk) bool { return d.missing != 0 }) {
		return
	}
	r, _, err := s.restore(s.devices())
	if err != nil {
		s.failf("load after a leave: %v", err)
	}
	live := s.srv.restored.Map
	for u := range live.Units() {
		was, found := live.Unit(u), r.Map.Unit(u)
		was.Busy, found.Busy = false, false
		if was != found {
			s.failf("a server has left: unit %d is %+v, on disk %+v", u, was, found)
		}
	}
}

// orderlyStop ends the server as the verb stop does. If the stop reports no failed flush, it counts
// as a flush of the user.
func (s *sim) orderlyStop() {
	r := &userReq{}
	r.Op = remap.OpFlush
	s.model.begin(r)
	var stopped *coordinator.Stopped
	s.srv.coord.Stop(time.Second, func(x coordinator.Stopped) { stopped = &x })
	s.drain()
	if stopped == nil {
		s.failf("the stop hangs")
	}
	reported := stopped.Flush != nil || s.srv.shared.UnreportedFlush()
	s.tracef("STOP: %+v, a flush has failed: %v", *stopped, reported)
	s.stats.Stops++
	if reported {
		return
	}
	if s.failures.done > s.reported.done {
		s.failf("the stop reports nothing, and a flush had failed that no flush of the user was " +
			"answered with")
	}
	s.model.flushed(r)
}

func (s *sim) verifyAll() {
	s.verify()
	s.drain()
}

// rebuilding reports whether a mirror is being rebuilt.
func (s *sim) rebuilding() bool {
	return slices.ContainsFunc(s.srv.coord.AppendMirrors(nil), func(m metadata.MirrorStatus) bool {
		return m.State == metadata.MirrorRebuilding
	})
}
