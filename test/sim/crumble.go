package sim

import (
	"maps"
	"math/bits"
	"syscall"
	"time"

	"ublkremap/internal/coordinator"
	"ublkremap/metadata"
	"ublkremap/remap"
)

// This file is about spare units in use that go bad block by block while users read. Once a read
// has found a bad block there, the others are saved: they move to another spare unit, at once, and
// what goes bad in the old one later harms nobody.

// crumble makes one more block bad to read in a spare unit in which blocks live. It continues with
// the same unit as long as any do, and a user reads the blocks of that unit.
func (s *sim) crumble() {
	unit, spare, ok := s.crumbling()
	if !ok {
		return
	}
	f := &fault{read: true, errno: int32(pick(s.rng, mediumErrnos)), left: -1}
	if s.chance(1, 8) {
		f.slow = int64(pick(s.rng, []int{3, 30})) * 1e9
	}
	dev, off := s.plan.SpareOf(spare)
	bs := int64(s.plan.BlockSize())
	at := off + bs*s.rng.Int64N(int64(s.per()))
	s.spareFaults++
	s.tracef("FAULT: spare unit %d of unit %d crumbles, disk %d @%d: %v", spare, unit, dev, at, f)
	s.disks[dev].spoil(at, bs, f)
	if q, tag, ok := s.freeTag(); ok {
		r := &userReq{queue: q}
		r.Op, r.Block = remap.OpRead, unit*s.per()
		r.Count = uint32(min(s.per(), s.plan.Blocks()-r.Block))
		s.submit(r, tag)
	}
}

// crumbling returns the unit that crumbles, and where it lives.
func (s *sim) crumbling() (unit uint64, spare uint32, ok bool) {
	m := s.srv.restored.Map
	lives := func(u uint64) bool {
		info := m.Unit(u)
		for _, p := range info.Places[:info.N] {
			if p.Mask&^(info.Pending|info.Lost) != 0 {
				unit, spare, ok = u, p.Spare, true
			}
		}
		return ok
	}
	if lives(s.crumbles) {
		return unit, spare, ok
	}
	var all []uint64
	s.eachEntry(m, func(e metadata.Entry) {
		if e.State == metadata.StateMapped {
			all = append(all, e.Unit)
		}
	})
	if len(all) > 0 {
		s.crumbles = pick(s.rng, all)
		lives(s.crumbles)
	}
	return unit, spare, ok
}

// spoiltSpare is a spare unit in which a user's read has found bad blocks.
type spoiltSpare struct {
	unit  uint64
	spare uint32
}

// foundBad notes that a read of a user has found bad blocks in a spare unit, at this step.
func (sv *server) foundBad(m *remap.Message) {
	if m.Mapped && int(m.Tag) < sv.s.cfg.depth {
		sv.spoilt[spoiltSpare{m.Unit, m.Spare}] = sv.s.step
	}
}

// readsAgain forgets what reads have found in the spare units of a unit, if a retest says that
// blocks which were pending there read again. They stay there until the scrub comes by.
func (sv *server) readsAgain(e metadata.Entry, unit uint64) {
	if e.Cause == metadata.CauseRetest {
		maps.DeleteFunc(sv.spoilt, func(at spoiltSpare, _ int64) bool { return at.unit == unit })
	}
}

// quietSpares makes sure that nothing that reads is left in such a spare unit, unless something
// stood in the way of its Move: another bad spare unit, a spare region or a table that was full, a
// path that failed, an open breaker. Where reads take long to fail a Move leaves the rest to the
// scrub.
func (s *sim) quietSpares() {
	sv, c := s.srv, &s.cfg
	if c.vanish || c.shortages || c.budget || c.sparesBad || c.rates != (rates{}) ||
		c.meta != metaNone || sv.everUnknown || sv.slow || c.policy.IsolateFor < time.Second {
		return
	}
	s.stats.Left += uint64(len(sv.spoilt))
	for at, step := range sv.spoilt {
		info := sv.restored.Map.Unit(at.unit)
		for _, p := range info.Places[:info.N] {
			if p.Spare == at.spare && p.Mask&info.Pending != 0 &&
				p.Mask&^(info.Pending|info.Lost) != 0 && step > max(sv.lastTripped, sv.lastFull,
				sv.lastCramped, sv.failedTransfer) {
				s.failf("a read found bad blocks in spare unit %d, and others of unit %d stay "+
					"there: %+v", at.spare, at.unit, info)
			}
		}
	}
}

// spareReads is the story of spare units in use that go bad block by block: users read the blocks
// one by one, and only the first one is lost. The second unit fails while its blocks leave. The
// third one's server dies before they have left; a scrub saves them. The fourth refuses a write.
func (s *sim) spareReads() {
	b, per := s.block(), s.per()
	s.cfg.scrub, s.cfg.maxUnits, s.cfg.plan.UUID[4] = true, 128, 0
	s.start()
	s.write(0, b, 5*per, false)
	s.drain()
	s.relocate(b, 5*per, true)
	s.drain()
	spoil := func(spare uint32, slot, n uint64) uint8 {
		dev, off := s.plan.SpareOf(spare)
		bs := int64(s.plan.BlockSize())
		s.disks[dev].spoil(off+int64(slot)*bs, int64(n)*bs, &fault{read: true,
			errno: int32(syscall.ENODATA), left: -1})
		return dev
	}
	first, second, third := s.placesOf(b)[0].Spare, s.placesOf(b + per)[0].Spare,
		s.placesOf(b + 2*per)[0].Spare
	refuses := s.placesOf(b + 4*per)[0].Spare

	dev := spoil(first, 0, 1)
	s.read(0, b, 1)
	s.write(1, b+3*per, 1, true)
	s.drain()
	s.othersAreSaved(first, dev, b, 1)
	spoil(first, 0, per)
	if per > 1 {
		s.reads(0, b+1, per-1)
	}

	dev = spoil(second, 0, min(2, per))
	s.read(0, b+per, 1)
	s.read(1, b+2*per-1, 1)
	s.drain()
	s.othersAreSaved(second, dev, b+per, int(min(2, per)))

	dev = spoil(third, per-1, 1)
	s.read(1, b+3*per-1, 1)
	for n := 0; !s.allIdle() && n < 10_000; n++ {
		s.nextEvent()
	}
	s.kill()
	s.start()
	s.scrubAll(coordinator.ScrubOptions{}, func(uint64) {})
	s.othersAreSaved(third, dev, b+2*per, 1)
	s.reads(0, b+3*per, per)

	// A write fails in the spare unit, and all that is there still reads.
	dev, off := s.plan.SpareOf(refuses)
	s.disks[dev].spoil(off, int64(s.plan.BlockSize()), &fault{write: true,
		errno: int32(syscall.EIO), left: -1})
	s.write(0, b+4*per, 1, true)
	s.drain()
	s.othersAreSaved(refuses, dev, b+4*per, 0)
	s.reads(1, b+4*per, per)
}

// othersAreSaved makes sure that the blocks that read have left a spare unit, and so many are
// pending there.
func (s *sim) othersAreSaved(spare uint32, device uint8, block uint64, pending int) {
	info := s.srv.restored.Map.Unit(block / s.per())
	if n := bits.OnesCount8(info.Pending); n != pending {
		s.failf("%d blocks of unit %d are pending, not %d", n, block/s.per(), pending)
	}
	if pending < int(s.per()) { // else there was nothing to save
		s.spareIsLeft(spare, device, block, pending)
	}
}
