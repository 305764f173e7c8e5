package sim

import (
	"time"

	"ublkremap/internal/coordinator"
	"ublkremap/metadata"
)

// This file asks for retests and judges them. A block may come home from its spare unit by a retest
// only if its home was tested twice, with a pause in between. A test is a write, then reads of
// other places, then a read. And what the home holds must be on the media, not only in the cache of
// the disk. That the block holds what was last written to it is judged as for all blocks.

// retestElsewhere is how many reads of other places displace what a simulated cache holds.
const retestElsewhere = 4

// homeTest is what is known of the tests of a sector.
type homeTest struct {
	written bool   // no read has followed yet
	reads   uint64 // of the disk, when the sector was written
	tests   int    // that went well, each a pause after the one before
	last    int64  // time of the last test
	// looks are reads since the last write, each after reads of other places; looked is the number
	// of the last one.
	looks  int
	looked uint64
	// passes counts the passes of the scrub after which a test went well, and pass is the last of
	// them.
	passes int
	pass   uint64
}

// unitSpan is a run of units.
type unitSpan struct{ unit, count uint64 }

func (u unitSpan) has(unit uint64) bool { return unit >= u.unit && unit-u.unit < u.count }

// tested takes the end of a relocation's operation on a sector.
// The operation was carried out for the sector (ok), failed, or goes on.
func (m *media) tested(s *sim, io *diskIO, p place, ok, failed bool) {
	t := m.tests[p]
	if t != nil && ok && io.kind == ioRead {
		if io.d.readOps-t.looked > retestElsewhere {
			t.looks++
		}
		t.looked = io.d.readOps
	}
	switch {
	case !ok && !failed:
	case !ok && io.n == int64(s.plan.BlockSize()):
		// Several blocks that fail together are tried once more, one by one. Whoever's operation it
		// was: the tests that went well before it say nothing any more.
		delete(m.tests, p)
	case !ok:
	case io.kind != ioRead:
		if t == nil {
			t = &homeTest{}
			m.tests[p] = t
		}
		t.written, t.reads = true, io.d.readOps
		t.looks, t.looked = 0, io.d.readOps
	case t == nil:
	case t.written && io.d.readOps-t.reads > retestElsewhere:
		t.written = false
		if t.passes == 0 || t.pass != s.stats.Scrubs {
			t.passes, t.pass = t.passes+1, s.stats.Scrubs
		}
		if t.tests == 0 || s.srv != nil && s.now-t.last >= int64(s.srv.pause) {
			t.tests++
			t.last = s.now
		}
	}
}

// judgeRetest judges a block that a retest takes home.
func (sv *server) judgeRetest(block uint64, home place) {
	s := sv.s
	per := uint64(metadata.UnitSize / s.plan.BlockSize())
	info := sv.restored.Map.Unit(block / per)
	if info.Mapped()>>(block%per)&1 == 0 {
		return // it was pending at home, and nothing was written
	}
	s.stats.Retested++
	for off := home.off; off < home.off+int64(s.plan.BlockSize()); off += sectorSize {
		p := place{home.disk, off}
		if s.disks[p.disk].unsaved[off/sectorSize] {
			s.failf("block %d goes home by a retest, and the media does not hold it", block)
		}
		t := s.media.tests[p]
		if t == nil || t.tests < 2 {
			s.failf("block %d goes home by a retest, and was not tested twice: %+v", block, t)
		}
		if sv.coord.Scrub().Retest.Running && sv.operators == 0 && t.passes < 2 {
			s.failf("block %d goes home by the scrub, and passed after one pass: %+v", block, t)
		}
		delete(s.media.tests, p)
	}
}

// provedInPlace judges a block that a commit calls well after a write in place.
func (sv *server) provedInPlace(block uint64) {
	s := sv.s
	s.stats.InPlace++
	per := uint64(s.plan.BlockSize() / sectorSize)
	for i := range per {
		p := s.home(block*per + i)
		t := s.media.tests[p]
		if s.disks[p.disk].unsaved[p.off/sectorSize] {
			s.failf("block %d was written in place, and the media does not hold it", block)
		}
		if t == nil || t.looks < 2 {
			s.failf("block %d was written in place, and was not read twice: %+v", block, t)
		}
	}
}

// retest asks for a retest of blocks.
func (s *sim) retest(block, count uint64, pause time.Duration, keep bool) {
	sv := s.srv
	sv.moves++
	sv.operators++
	err := sv.coord.Retest(coordinator.Retest{
		Ranges: []metadata.BlockRange{{Block: block, Count: count}}, KeepMoved: keep,
		Pause: pause, Elsewhere: retestElsewhere + 1,
	}, func(p coordinator.RetestProgress) {
		sv.moves--
		sv.operators--
		sv.lastMove = s.step
		s.tracef("  retest ended: %+v", p)
		if p.Err == nil && p.Home+p.Failed+p.Changed+p.Skipped < p.Found {
			s.failf("a retest does not say what became of %+v", p)
		}
	})
	if err != nil {
		sv.moves--
		sv.operators--
	} else {
		sv.pause = pause
	}
	s.tracef("retest %d+%d, pause %v: %v", block, count, pause, err)
}

// retests is what an operator does: a retest of some or all blocks, or the end of one.
func (s *sim) retests() {
	if s.chance(1, 8) {
		s.tracef("end the retest")
		s.srv.coord.EndRetest()
		return
	}
	block, count := uint64(0), s.plan.Blocks()
	if s.chance(1, 2) {
		block = s.near()
		count = min(1+s.rng.Uint64N(64), s.plan.Blocks()-block)
	}
	pause := pick(s.rng, []time.Duration{0, time.Millisecond, time.Second})
	s.retest(block, count, pause, s.chance(1, 3))
}

// readsInPlace carries out a read of another place as a bug does; false: there is no such bug.
func (b Bug) readsInPlace(q *queue, d *diskIO, done func(int32)) bool {
	if b != BugPlaceCached || !d.readBack || q.sv.s.inSpare(d) || d.req.inPlace.count == 0 {
		return false
	}
	per := uint64(metadata.UnitSize / q.sv.s.plan.BlockSize())
	for u := range d.req.inPlace.count {
		dev, off := q.sv.s.plan.HomeOf((d.req.inPlace.unit + u) * per)
		if dev == d.d.index && d.off < off+metadata.UnitSize && off < d.off+d.n {
			return false // these are the blocks themselves
		}
	}
	q.sv.s.later(classIO+uint8(q.index), func() { done(int32(d.n)) })
	return true
}

// retestTransfer carries out a relocation's operation as a bug does; false: there is no such bug.
func (b Bug) retestTransfer(sv *server, io *diskIO, done func(int32)) bool {
	s := sv.s
	p, ok := sv.coord.RetestProgress()
	if !ok || io.whom != "move" {
		return false
	}
	home := !s.inSpare(io)
	at := place{io.d.index, io.off}
	answer := func() bool {
		s.later(classTransfer, func() { done(int32(io.n)) })
		return true
	}
	switch {
	case b == BugRetestCached && p.Step == coordinator.RetestElsewhere && io.kind == ioRead:
		return answer()
	case b == BugRetestOnce && home && io.kind == ioWrite && p.Second:
		sv.written[at] = append([]byte(nil), io.data...)
		return answer()
	case b == BugRetestOnce && home && io.kind == ioRead && p.Step == coordinator.RetestTake:
		if copy(io.data, sv.written[at]) == len(io.data) {
			return answer()
		}
	case b == BugRetestStale && p.Step == coordinator.RetestElsewhere && p.Second:
		s.muchLater(classTransfer, 40, func() { s.begin(classTransfer, io, done) }) // users write
		return true
	case b == BugRetestStale && p.Step == coordinator.RetestTake && io.kind == ioRead && home:
		sv.written[place{}] = io.data
	case b == BugRetestStale && p.Step == coordinator.RetestTake && io.kind == ioRead:
		// Right after a home, its spare unit is read.
		home := sv.written[place{}]
		delete(sv.written, place{})
		if len(home) == len(io.data) {
			copy(io.data, home)
			return answer()
		}
	case b == BugRetestStale:
		delete(sv.written, place{})
	}
	return false
}

// retestStep is what a retest does.
func (s *sim) retestStep() coordinator.RetestStep {
	p, _ := s.srv.coord.RetestProgress()
	return p.Step
}
