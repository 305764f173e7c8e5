package sim

import (
	"math/bits"
	"slices"
	"syscall"
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
		Rotational: s.cfg.plan.UUID[4]%2 == 0, Elsewhere: retestElsewhere + 1}
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
		Weak: res.Weak.AppendRuns(nil, r.Block), Spares: slices.Clone(res.Spares),
		Slowest: res.Slowest, SlowBlock: res.SlowBlock, SlowCount: res.SlowCount}
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

// scrubAll lets a scrub read everything once.
func (s *sim) scrubAll(o coordinator.ScrubOptions, story func(at uint64)) coordinator.ScrubStatus {
	o.Rate = 1 << 40
	if s.srv.coord.Scrub().State == metadata.ScrubIdle {
		if err := s.srv.coord.StartScrub(o); err != nil {
			s.failf("%v", err)
		}
	}
	s.scrubPass(story)
	return s.srv.coord.Scrub()
}

// readAll reads blocks as a user.
func (s *sim) readAll(block, count uint64) {
	for b := block; b < block+count; b += s.per() {
		s.read(0, b, s.per())
		s.drain()
	}
}

// scrubSlow is about blocks that are slow to read: some each time, others a few times only. Users
// write to them meanwhile. Those that stay slow move, the others do not, and nothing is lost.
func (s *sim) scrubSlow() {
	b, per := s.block(), s.per()
	s.cfg.scrub, s.cfg.maxUnits, s.cfg.plan.UUID[4] = true, 128, 0
	const drag = int64(3 * time.Second)
	s.bad(b+per, per, failing{left: -1, drags: drag})
	hiccup := fault{left: -1, drags: drag}
	passing := b + 4*per
	s.bad(passing, per, failing(hiccup))
	s.start()
	s.write(0, b, 4*per, false)
	s.drain()
	looked := false
	now := s.scrubAll(coordinator.ScrubOptions{RelocateSlow: true}, func(at uint64) {
		if at > passing && !looked { // it was slow when all was read, and is not any more
			looked = true
			for i := range per {
				dev, off := s.plan.HomeOf(passing + i)
				s.disks[dev].spoil(off, int64(s.plan.BlockSize()), nil)
			}
			s.write(1, b+per, 1, true)
		}
	})
	if uint64(now.Slow) != per {
		s.failf("%d blocks are slow, and the scrub found %d", per, now.Slow)
	}
	for _, unit := range []uint64{b / per, b/per + 1, passing / per} {
		info := s.srv.restored.Map.Unit(unit)
		if want := unit == b/per+1; (info.N > 0) != want {
			s.failf("unit %d is in the spare region: %v; it is slow: %v", unit, !want, want)
		}
	}
	s.readAll(b, 6*per)
}

// scrubSpares is about spare units in use that go bad: one reads on a retry only, of another one
// some does not read. What reads is moved before anyone asks for it, what does not is pending, and
// neither unit is used again.
func (s *sim) scrubSpares() {
	b, per := s.block(), s.per()
	s.cfg.scrub, s.cfg.maxUnits, s.cfg.plan.UUID[4] = true, 128, 0
	s.cfg.policy.Retries = 3 // a single block that reads at the third try is not pending
	s.start()
	s.write(0, b, 4*per, false)
	s.drain()
	s.relocate(b, 4*per, true)
	s.drain()
	weak, dead := s.placesOf(b)[0].Spare, s.placesOf(b + per)[0].Spare
	dev, off := s.plan.SpareOf(weak)
	s.disks[dev].spoil(off, metadata.UnitSize, &fault{read: true, errno: int32(syscall.ENODATA),
		left: 2})
	deadDev, off := s.plan.SpareOf(dead)
	s.disks[deadDev].spoil(off, int64(s.plan.BlockSize()), &fault{read: true,
		errno: int32(syscall.ENODATA), left: -1})
	s.scrubAll(coordinator.ScrubOptions{}, func(at uint64) {
		if at > b+8*per && s.idle(1) && at%(8*per) == 0 {
			s.write(1, b+2*per, 1, true)
		}
	})
	s.spareIsLeft(weak, dev, b, 0)
	s.spareIsLeft(dead, deadDev, b+per, 1)
	s.readAll(b, per)
	s.readAll(b+2*per, 4*per)
}

func (s *sim) placesOf(block uint64) []remap.Place {
	info := s.srv.restored.Map.Unit(block / s.per())
	return info.Places[:info.N]
}

// spareIsLeft makes sure that a unit lives in another spare unit now, except for so many pending
// blocks.
func (s *sim) spareIsLeft(spare uint32, device uint8, block uint64, pending int) {
	info := s.srv.restored.Map.Unit(block / s.per())
	if n := bits.OnesCount8(info.Pending); n != pending {
		s.failf("%d blocks of unit %d are pending, not %d", n, block/s.per(), pending)
	}
	for _, p := range info.Places[:info.N] {
		if p.Spare == spare && p.Mask&^info.Pending != 0 {
			s.failf("blocks of unit %d that read are still in spare unit %d", block/s.per(), spare)
		}
	}
	if device == 0 && s.srv.restored.Allocator.Service(spare) == remap.InService {
		s.failf("spare unit %d went bad, and is in service", spare)
	}
}

// scrubMetadata is about latent errors of the metadata: log slots of one mirror, and a page of its
// checkpoints, do not read until they are written. After a scrub all of it reads.
func (s *sim) scrubMetadata() {
	b, per := s.block(), s.per()
	s.cfg.scrub, s.cfg.maxUnits, s.cfg.plan.UUID[4] = true, 128, 0
	s.bad(b+1, 1, failsWrites)
	s.start()
	s.write(0, b, per, false)
	s.drain()
	s.checkpoint()
	s.drain()
	s.relocate(b+per, 2*per, true)
	s.drain()
	m, sb := s.mirrors()[0], s.plan.Superblock()
	atom := int64(sb.AtomSize)
	spoil := func(off int64) {
		s.disks[m.Device].spoil(off, pageSize, &fault{read: true, heals: true,
			errno: int32(syscall.ENODATA), left: -1})
	}
	log := m.Start + 2*sb.SlotBytes
	for slot := range int64(3) {
		spoil(log + slot*atom)
	}
	spoil(log + sb.LogBytes - atom)
	spoil(m.Start + atom)
	s.scrubAll(coordinator.ScrubOptions{}, func(uint64) {})
	for off := m.Start; off < log+sb.LogBytes; off += pageSize {
		if s.disks[m.Device].badAt(off, false) != nil {
			s.failf("a scrub has ended, and the metadata at %d does not read", off-m.Start)
		}
	}
	s.readAll(b, 4*per)
}
