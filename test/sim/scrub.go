package sim

import (
	"slices"
	"time"

	"ublkremap/internal/coordinator"
	"ublkremap/metadata"
	"ublkremap/remap"
)

// This file drives the scrub, the machine of internal/coordinator. Its reads are judged as the
// background reader's are (reader.go). In addition:
//
//   - Every block below its position, also below the durable one that a start finds, was read in
//     this pass, or did not read and is pending, or was known as pending or lost.
//   - A pass that ends has covered all blocks.
//   - It begins nothing while its queue ends.

// scrubbing is what the simulator knows of the passes of a scrub. It outlives servers. A power cut
// may bring back an older pass.
type scrubbing struct {
	passes map[uint32][]bool // by when a pass began: the blocks that it has covered
	last   metadata.Scrub
	at     uint64 // up to where reads were asked for
}

// covered are the blocks that the pass of the running server has covered.
func (sc *scrubbing) covered() []bool { return sc.passes[sc.last.Started] }

func (sc *scrubbing) fork() scrubbing {
	c := *sc
	c.passes = map[uint32][]bool{}
	for began, covered := range sc.passes {
		c.passes[began] = slices.Clone(covered)
	}
	return c
}

// internalTags is how many internal requests each queue may have.
func (c *config) internalTags() int {
	if c.scrub {
		return c.reader + coordinator.ScrubTags
	}
	return c.reader
}

// scrubConfig is what the scrub may read at once.
func (s *sim) scrubConfig() coordinator.ScrubConfig {
	if !s.cfg.scrub {
		return coordinator.ScrubConfig{}
	}
	return coordinator.ScrubConfig{MaxBlocks: uint32(uint64(s.cfg.maxUnits) * s.per()),
		Rotational: s.cfg.plan.UUID[4]%2 == 0}
}

// fromDisk takes what a start finds of the scrub.
func (sc *scrubbing) fromDisk(s *sim, found metadata.Scrub) {
	if found.State != metadata.ScrubIdle && sc.passes[found.Started] == nil {
		s.failf("a start finds a pass of the scrub that was never begun: %+v", found)
	}
	sc.last, sc.at = found, found.Position
	sc.judge(s, "a start finds")
}

// judge makes sure that everything below the position was covered.
func (sc *scrubbing) judge(s *sim, who string) {
	for b, covered := range sc.covered()[:sc.last.Position] {
		if !covered {
			s.failf("%s the scrub at block %d, and block %d was not read", who, sc.last.Position, b)
		}
	}
}

// set takes what the Coordinator says of the scrub, before it may become durable.
func (sc *scrubbing) set(s *sim, now metadata.Scrub) {
	was := sc.last
	switch sc.last = now; {
	case now.State == metadata.ScrubRunning && now.Started != was.Started:
		if sc.passes == nil {
			sc.passes = map[uint32][]bool{}
		}
		sc.passes[now.Started], sc.at = make([]bool, s.plan.Blocks()), 0
	case now.State == metadata.ScrubRunning && now.Position == s.plan.Blocks():
		sc.known(s, was.Position, now.Position) // no read follows that would tell
	case now.Finished != was.Finished:
		if i := slices.Index(sc.covered(), false); i >= 0 {
			s.failf("a pass of the scrub has ended, and block %d was not read", i)
		}
		s.stats.Scrubs++
	}
	sc.judge(s, "the Coordinator says")
}

// known covers those of the blocks that are known not to read.
func (sc *scrubbing) known(s *sim, from, to uint64) {
	for b := from; b < to; b++ {
		info := s.srv.restored.Map.Unit(b / s.per())
		if (info.Pending|info.Lost)>>(b%s.per())&1 != 0 {
			sc.covered()[b] = true
		}
	}
}

// SetScrub passes on what the next records say of the scrub.
func (c *committer) SetScrub(now metadata.Scrub) {
	s := c.sv.s
	if s.opts.Bug == BugScrubAhead && now.State == metadata.ScrubRunning && now.Position > 0 {
		now.Position = min(now.Position+1, s.plan.Blocks())
	}
	s.scrubbing.set(s, now)
	c.Committer.SetScrub(now)
}

// ReadForScrub begins a read of the scrub.
func (d driver) ReadForScrub(r coordinator.ScrubRead) {
	sv, s := d.sv, d.sv.s
	sc := &s.scrubbing
	if sv.queuesEnded {
		s.failf("the scrub reads, and the queues have ended")
	}
	if r.Tag == 0 { // a burst begins, perhaps before where the last one ended
		sc.at = sc.last.Position
	}
	sc.known(s, sc.at, r.Block)
	sc.at = r.Block + uint64(r.Count)
	s.later(classReader, func() {
		rd := sv.reader
		rd.begin(0, s.cfg.reader+r.Tag, r.Block, uint64(r.Count),
			make([]byte, int(r.Count)*s.plan.BlockSize()))
	})
}

// scrubRead takes the end of a read of the scrub.
func (q *queue) scrubRead(r *userReq, res *remap.InternalResult) {
	sv, s := q.sv, q.sv.s
	out := coordinator.ScrubResult{Tag: int(res.Tag) - s.cfg.depth - s.cfg.reader,
		Failed: res.Failed.Count(), Ended: res.Ended, NotNoted: res.NotNoted,
		Weak: res.Weak.AppendRuns(nil, r.Block), Slowest: res.Slowest, SlowBlock: res.SlowBlock,
		SlowCount: res.SlowCount}
	if s.opts.Bug == BugScrubPath {
		out.Ended = 0
	}
	s.stats.Weak += uint64(res.Weak.Count())
	covered := s.scrubbing.covered()
	for i := range r.Count {
		block := r.Block + uint64(i)
		failed := r.bad[i] || sv.unreached[block] >= r.time
		if res.Weak.Has(i) && (!failed || !res.Read.Has(i)) {
			s.failf("%v: block %d is weak, and did not fail, or was not read", r, block)
		}
		info := sv.restored.Map.Unit(block / s.per())
		noted := (info.Pending|info.Lost)>>(block%s.per())&1 != 0
		covered[block] = covered[block] || res.Read.Has(i) ||
			res.Failed.Has(i) && (noted || !res.NotNoted || sv.coord.Status().Arbiter.Table.Full)
	}
	s.later(classReader, func() { sv.coord.ScrubDone(&out) })
}

// scrubWhile lets an operator use the verbs of the scrub, and the time come for its next step.
func (s *sim) scrubWhile() {
	c := s.srv.coord
	switch st := c.Scrub(); {
	case !s.mayWait():
	case st.State == metadata.ScrubIdle:
		s.now += int64(time.Second) // no two passes begin in the same second
		o := coordinator.ScrubOptions{Rate: 1 << 40, Idle: s.chance(1, 10)}
		if err := c.StartScrub(o); err != nil {
			s.failf("start of a scrub: %v", err)
		}
	case st.State == metadata.ScrubPaused:
		if err := c.ResumeScrub(); err != nil {
			s.failf("a scrub that is to go on: %v", err)
		}
	case s.chance(1, 60):
		if err := c.PauseScrub(); err != nil {
			s.failf("pause of a scrub: %v", err)
		}
	case s.chance(1, 120):
		if err := c.StopScrub(); err != nil {
			s.failf("stop of a scrub: %v", err)
		}
	default:
		if due := c.ScrubDue(); due != 0 {
			s.now = max(s.now, due)
		}
	}
}

// mayWait reports whether time may pass without an end to the patience of anything under way.
func (s *sim) mayWait() bool {
	return s.srv.coord.Idle() && s.srv.coord.Deadline() == 0 &&
		!slices.ContainsFunc(s.srv.queues, func(q *queue) bool { return q.eng.Deadline() != 0 })
}

// tickScrub gives the scrub the time, unless everything is to come to rest.
func (sv *server) tickScrub() {
	if due := sv.coord.ScrubDue(); due != 0 && due <= sv.s.now && sv.opened && !sv.s.draining &&
		!sv.queuesEnded {
		sv.coord.TickScrub()
	}
}

// scrubPass lets the scrub read all blocks, from wherever it is, while a story goes on.
func (s *sim) scrubPass(story func(at uint64)) {
	told := uint64(0)
	for s.srv.coord.Scrub().State == metadata.ScrubRunning {
		if at := s.srv.coord.Scrub().Position; at > told {
			told = at
			story(at)
		}
		if due := s.srv.coord.ScrubDue(); due != 0 {
			s.now = max(s.now, due)
			s.srv.after()
		}
		if !s.nextEvent() && s.srv.coord.ScrubDue() == 0 &&
			s.srv.coord.Scrub().State == metadata.ScrubRunning {
			s.stuck("the scrub hangs")
		}
	}
	s.drain()
}
