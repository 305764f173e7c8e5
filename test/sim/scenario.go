package sim

import (
	"fmt"
	"math/bits"
	"slices"
	"syscall"
	"time"

	"ublkremap/internal/coordinator"
	"ublkremap/metadata"
	"ublkremap/remap"
)

// Scenario is a short sequence of actions about one thing. Exhaust cuts the power at each of its
// writes.
type Scenario struct {
	Name string
	// initial is what the table begins with.
	initial func(s *sim) []metadata.Entry
	tell    func(s *sim)
}

// Scenarios is the list of all scenarios.
var Scenarios = []Scenario{
	{"start", nil, func(s *sim) {
		s.start()
		s.drain()
		s.stop()
		s.start()
		s.drain()
	}},
	{"stop", nil, func(s *sim) {
		b := s.block()
		s.bad(b+1, 2, failsWrites)
		s.start()
		s.write(0, b, 4, false)
		s.write(1, b+8, 4, false)
		s.drain()
		s.orderlyStop()
		s.down()
		s.start()
		s.drain()
	}},
	{"heal", nil, func(s *sim) {
		b := s.block()
		s.bad(b+1, 2, failsWrites)
		s.start()
		s.write(0, b, 4, false)
		s.drain()
		s.flush(0)
		s.drain()
		s.write(0, b+1, 2, true)
		s.write(1, b+8, 4, true)
		s.drain()
	}},
	{"heal-wide", nil, func(s *sim) {
		b := s.block()
		s.bad(b, 3*s.per(), failsWrites)
		s.start()
		s.write(0, b, 3*s.per(), false)
		s.zeroes(1, b+s.per(), s.per())
		s.drain()
		s.flush(1)
		s.drain()
	}},
	{"heal-spare-fails", nil, func(s *sim) {
		b := s.block()
		s.bad(b, 1, failsWrites)
		s.start()
		s.badSpares(2)
		s.write(0, b, 1, false)
		s.drain()
		s.write(0, b, 1, true)
		s.drain()
	}},
	{"heal-in-spare-fails", nil, func(s *sim) {
		b := s.block()
		s.bad(b, s.per(), failsWrites)
		s.start()
		s.write(0, b, s.per(), false)
		s.drain()
		s.badSpares(1)
		s.write(0, b, 1, false)
		s.write(1, b+s.per(), 1, false)
		s.drain()
	}},
	{"pending", nil, func(s *sim) {
		b := s.block()
		s.start()
		s.write(0, b, 2, true)
		s.drain()
		s.bad(b, 1, failsReads)
		s.read(0, b, 2)
		s.drain()
		s.write(1, b, 2, false)
		s.drain()
		s.flush(0)
		s.drain()
	}},
	{"pending-beside", nil, func(s *sim) {
		// A block cannot be read while its neighbour is being healed.
		per, b := s.per(), s.plan.HeadBlocks()
		for u := range uint64(4) {
			s.bad(b+u*per, 1, failsWrites)
			s.bad(b+(u+1)*per-1, 1, failsReads)
		}
		s.start()
		for u := range uint64(4) {
			s.write(0, b+u*per, 1, false)
			for range 3 * u {
				s.nextEvent()
			}
			s.read(1, b+(u+1)*per-1, 1)
			s.drain()
			if info := s.srv.restored.Map.Unit(b/per + u); per > 1 && info.Pending != 1<<(per-1) {
				s.failf("a block that cannot be read is not pending: %+v", info)
			}
		}
	}},
	{"physical", nil, func(s *sim) {
		// One physical block does not read, and takes writes; one block of it is read.
		s.cfg.plan.PhysicalBlockSize = max(s.cfg.plan.PhysicalBlockSize, metadata.UnitSize)
		n := uint64(s.cfg.plan.PhysicalBlockSize / s.plan.BlockSize())
		b := s.plan.HeadBlocks() + n
		s.bad(b, n, failsReads)
		s.start()
		s.write(0, b-1, n+2, true)
		s.drain()
		s.read(0, b, 1)
		s.drain()
		s.write(1, b, n, false)
		s.drain()
		s.reads(0, b, n)
	}},
	{"bad-beside-bad", nil, func(s *sim) {
		// Two places of a request do not read, and take writes.
		b := s.block()
		s.bad(b, 1, failsReads)
		s.bad(b+s.per()+1, 1, failsReads)
		s.start()
		s.read(0, b, 3*s.per())
		s.drain()
		s.write(1, b, 3*s.per(), false)
		s.drain()
		s.reads(0, b, 3*s.per())
	}},
	{"slow", nil, func(s *sim) {
		// One sector takes long to fail. That costs its own unit, and nothing else.
		slow := failsReads
		if s.chance(1, 2) {
			slow = failsWrites
		}
		slow.slow = int64(time.Duration(pick(s.rng, []int{1, 3, 7, 30, 120})) * time.Second)
		b := s.block()
		s.bad(b+s.rng.Uint64N(4*s.per()), 1, slow)
		s.start()
		if slow.read {
			s.read(0, b, 4*s.per())
			s.drain()
			if n := s.srv.restored.Map.Counts().Pending; n > max(s.per(),
				uint64(s.cfg.plan.PhysicalBlockSize/s.plan.BlockSize())) {
				s.failf("%d blocks are pending, one sector is bad", n)
			}
		}
		s.write(1, b, 4*s.per(), false)
		s.drain()
		if n := s.srv.restored.Allocator.Used(); n > max(1,
			uint64(s.cfg.plan.PhysicalBlockSize/metadata.UnitSize)) {
			s.failf("%d spare units are in use, one sector is bad", n)
		}
		s.reads(0, b, 4*s.per())
	}},
	{"heal-spare-unread", nil, func(s *sim) {
		// The first spare units take writes and do not read.
		b := s.block()
		s.bad(b, 2*s.per(), failsWrites)
		s.start()
		for unit := range uint32(2) {
			dev, off := s.plan.SpareOf(unit)
			s.disks[dev].spoil(off+sectorSize, sectorSize,
				&fault{read: true, errno: int32(syscall.EIO), left: -1})
		}
		s.write(0, b, 2*s.per(), false)
		s.drain()
		s.reads(1, b, 2*s.per())
	}},
	{"lost", func(s *sim) []metadata.Entry {
		b := s.block()
		s.lost[b] = true
		return []metadata.Entry{{Unit: b / s.per(), Count: 1, Mask: 1, State: metadata.StateLost,
			Cause: metadata.CauseImport, Time: 1}}
	}, func(s *sim) {
		b := s.block()
		s.start()
		s.read(1, b, 1)
		s.write(0, b, 1, false)
		s.drain()
		s.write(0, b, 2, true)
		s.drain()
	}},
	{"one-unit", nil, func(s *sim) {
		b := s.block()
		s.bad(b, s.per(), failsWrites)
		s.start()
		s.write(0, b, s.per()/2+1, false)
		s.write(1, b+s.per()/2, max(1, s.per()/2), false)
		s.write(0, b, 1, true)
		s.drain()
		s.write(1, b, s.per(), false)
		s.drain()
	}},
	{"turns", nil, func(s *sim) {
		// Everybody writes to one block; its home gets better, and the path to the spare
		// units is bad now and then.
		b := s.plan.HeadBlocks() + 1
		s.start()
		for range 2 {
			s.bad(b, 1, failing{write: true, errno: int32(syscall.ENODATA), left: 4})
			s.write(0, b, 1, false)
			s.write(1, b, 1, false)
			if len(s.disks) > 1 {
				s.disks[1].rates.path = 300
			}
			for range 40 {
				s.nextEvent()
				if q := s.rng.IntN(2); s.chance(1, 6) && s.idle(q) {
					s.write(q, b, 1, s.chance(1, 4))
				}
			}
			s.disks[len(s.disks)-1].rates.path = 0
			s.drain()
			s.read(0, b, 1)
			s.drain()
		}
	}},
	{"mirror", nil, func(s *sim) {
		// A mirror misses a record, is marked, brought back and trusted again.
		b := s.block()
		s.bad(b, 4*s.per(), failsWrites)
		s.start()
		m := s.mirrors()[1]
		s.disks[0].spoil(m.Start, m.Length, &fault{write: true, errno: int32(syscall.ENODATA),
			left: -1, lands: s.chance(1, 2)})
		s.write(0, b, 1, false)
		s.drain()
		s.write(0, b+s.per(), 1, false)
		s.drain()
		s.disks[0].spoil(m.Start, m.Length, nil)
		s.checkpoint()
		s.drain()
		s.write(1, b+2*s.per(), 1, false)
		s.drain()
	}},
	{"mirror-start", nil, func(s *sim) {
		// The same over a restart.
		b := s.block()
		s.bad(b, 4*s.per(), failsWrites)
		s.start()
		m := s.mirrors()[0]
		s.disks[0].spoil(m.Start, m.Length, &fault{write: true, errno: int32(syscall.EIO),
			left: -1})
		s.write(0, b, 1, false)
		s.drain()
		s.disks[0].spoil(m.Start, m.Length, nil)
		s.stop()
		s.start()
		s.write(1, b+s.per(), 1, false)
		s.drain()
	}},
	{"mirror-moves", nil, func(s *sim) {
		// A mirror's place is bad for good: it is rebuilt in another one.
		b := s.block()
		s.bad(b, 8*s.per(), failsWrites)
		s.start()
		m := s.mirrors()[1]
		s.disks[0].spoil(m.Start, m.Length, &fault{write: true, errno: int32(syscall.ENODATA),
			left: -1})
		moved := func() bool {
			return !slices.ContainsFunc(s.srv.coord.AppendMirrors(nil),
				func(x metadata.MirrorStatus) bool {
					return x.Device == 0 && x.Start == m.Start || x.State != metadata.MirrorGood
				})
		}
		for i := uint64(0); i < 6 && !moved(); i++ {
			s.write(int(i%2), b+i*s.per(), 1, false)
			s.drain()
			s.checkpoint()
			s.drain()
		}
		if !moved() {
			s.failf("the mirror has not moved: %+v", s.srv.coord.AppendMirrors(nil))
		}
		s.write(0, b+7*s.per(), 1, false)
		s.drain()
		s.stop()
		s.start()
		s.drain()
	}},
	{"checkpoint", nil, func(s *sim) {
		b := s.block()
		s.bad(b, 4*s.per(), failsWrites)
		s.start()
		s.write(0, b, 1, false)
		s.drain()
		s.checkpoint()
		s.write(0, b+s.per(), 1, false)
		s.write(1, b+2*s.per(), 1, false)
		s.drain()
		s.checkpoint()
		s.drain()
	}},
	{"move", nil, func(s *sim) {
		b := s.block()
		s.start()
		s.write(0, b, s.per()+2, false)
		s.drain()
		s.relocate(b, s.per()+1, true)
		s.write(1, b+1, 1, false)
		s.drain()
		s.relocate(b, s.per()+1, false)
		s.write(0, b+1, 2, false)
		s.drain()
		s.relocate(b, 1, true) // into what was vacated
		s.drain()
	}},
	{"fill", func(s *sim) []metadata.Entry {
		s.lost[s.block()+2*s.per()] = true
		return []metadata.Entry{{Unit: s.block()/s.per() + 2, Count: 1, Mask: 1,
			State: metadata.StateLost, Time: 1}}
	}, func(s *sim) {
		// Bad blocks are filled from a backup while users write to some of them.
		b, per := s.block(), s.per()
		s.bad(b+1, 1, failsReads)
		s.bad(b+per, min(2, per), failsReads)
		s.start()
		s.write(0, b, 2*per, false)
		s.drain()
		s.read(0, b, 2*per)
		s.drain()
		s.refill(b, 3*per)
		s.write(1, b+per, 1, false)
		s.read(0, b, per)
		s.drain()
		s.refill(b, 3*per)
		s.write(1, b+2*per, 1, true)
		s.drain()
		s.reads(0, b, 2*per)
	}},
	{"import", nil, func(s *sim) {
		// A list is imported while users write to some of its blocks. Some are bad, some are well.
		b, per := s.block(), s.per()
		list := []metadata.BlockRange{{Block: b, Count: 2}, {Block: b + 2*per, Count: per},
			{Block: b + 4*per, Count: 1}}
		s.bad(b, 1, failsWrites)
		s.bad(b+2*per, 1, failsReads)
		s.start()
		s.write(0, b+1, 4*per, true)
		s.drain()
		s.write(1, b, 2*per, false)
		s.imports(list)
		s.drain()
		s.write(0, b+2*per, 1, false)
		s.drain()
		s.relocate(b, 5*per, true)
		s.write(1, b+4*per, 1, false)
		s.drain()
		s.imports(list)
		s.drain()
		s.reads(0, b+1, 4*per)
	}},
	{"unknown", nil, func(s *sim) {
		b := s.block()
		s.bad(b, 2*s.per(), failsWrites)
		s.start()
		for _, m := range s.mirrors() {
			s.disks[0].spoil(m.Start, m.Length, &fault{write: true, errno: int32(syscall.EIO),
				left: -1, lands: true})
		}
		s.cfg.meta = metaAll
		s.write(0, b, 1, false)
		s.drain()
		for _, m := range s.mirrors() {
			s.disks[0].spoil(m.Start, m.Length, nil)
		}
		s.repair()
		s.write(1, b, 1, false)
		s.write(0, b+s.per(), 1, false)
		s.drain()
	}},
	{"discard", nil, func(s *sim) {
		b := s.block()
		s.bad(b, 1, failsWrites)
		s.start()
		s.write(0, b, s.per(), true)
		s.drain()
		s.discard(0, b, 2*s.per())
		s.drain()
		s.zeroes(1, b, s.per())
		s.drain()
		s.flush(0)
		s.drain()
	}},
	{"recovery", nil, func(s *sim) {
		b := s.block()
		s.bad(b, 2*s.per(), failsWrites)
		s.start()
		s.write(0, b, 1, false)
		s.write(1, b+s.per(), 2, false)
		s.write(0, b+2*s.per(), 1, false)
		for range 12 {
			s.nextEvent()
		}
		s.kill()
		s.start()
		s.drain()
		s.flush(0)
		s.drain()
	}},
	{"scrub", nil, func(s *sim) {
		// All blocks are read while users write and blocks move; some do not read.
		b := s.block()
		s.cfg.reader = 2
		s.bad(b+1, 1, failsReads)
		s.bad(b+s.per(), 2, failsWrites)
		s.start()
		s.badSpares(1)
		s.scrubs(func(at uint64) {
			switch {
			case at > b+8*s.per() || at%(4*s.per()) != 0 || !s.idle(0) || !s.idle(1):
			case at < b/2:
				s.write(0, b+2*s.per(), s.per(), false)
			case at <= b:
				s.write(1, b+s.per(), 3, false)
				s.relocate(b+2*s.per(), s.per(), s.chance(1, 2))
			default:
				s.write(0, b, 2, true)
				s.read(1, b, 4)
			}
		})
		s.write(0, b, 2, true)
		s.drain()
	}},
	{"scrub-goes-on", nil, func(s *sim) {
		// The scrub reads all blocks, over a stop and a new start, while users write. It leaves the
		// last block out, because that is pending.
		b, last := s.block(), s.plan.Blocks()-1
		s.cfg.scrub, s.cfg.maxUnits, s.cfg.plan.UUID[4] = true, 128, 0
		s.bad(b+1, 1, failsReads)
		s.bad(b+3*s.per(), 2, failsWrites)
		s.bad(last, 1, failsReads)
		s.start()
		s.read(0, last, 1)
		s.drain()
		if err := s.srv.coord.StartScrub(coordinator.ScrubOptions{Rate: 1 << 40}); err != nil {
			s.failf("%v", err)
		}
		stopped := false
		s.scrubPass(func(at uint64) {
			switch {
			case !stopped && at > b/2:
				stopped = true
				s.write(0, b+3*s.per(), s.per(), false)
				s.drain()
				s.orderlyStop()
				s.down()
				s.start()
				if now := s.srv.coord.Scrub(); now.Position != at || now.State !=
					metadata.ScrubRunning {
					s.failf("stopped at block %d, the next server goes on so: %+v", at, now)
				}
			case at > b && s.idle(1):
				s.write(1, b+1, 1, true)
			}
		})
		if now := s.srv.coord.Scrub(); now.Unreadable == 0 || now.Finished == 0 {
			s.failf("the scrub found nothing: %+v", now)
		}
	}},
	{"scrub-slow", nil, (*sim).scrubSlow},
	{"scrub-spares", nil, (*sim).scrubSpares},
	{"spare-reads", nil, (*sim).spareReads},
	{"scrub-metadata", nil, (*sim).scrubMetadata},
	{"in-place", nil, func(s *sim) {
		// No spare unit is free. A block that a write makes well takes it in place, and one whose
		// write lies in the cache only stays pending.
		b, per := s.block(), s.per()
		s.start()
		s.relocate(b+16*per, s.plan.SpareUnits()*per, true)
		s.drain()
		s.bad(b, per, failing{read: true, heals: true, errno: int32(syscall.ENODATA), left: -1})
		s.bad(b+4*per, per, failing{read: true, cache: 3, errno: int32(syscall.ENODATA), left: -1})
		s.read(0, b, per)
		s.read(1, b+4*per, per)
		s.drain()
		s.write(0, b, per, false)
		s.drain()
		s.reads(1, b, per)
		failed := s.stats.Errors
		s.write(1, b+4*per, per, false)
		s.write(0, b, 1, true)
		s.drain()
		if s.stats.Errors != failed+1 {
			s.failf("a write whose data the media does not hold was acknowledged")
		}
		m := s.srv.restored.Map
		if m.Unit(b/per).Pending != 0 || bits.OnesCount8(m.Unit(b/per+4).Pending) != int(per) {
			s.failf("%+v and %+v", m.Unit(b/per), m.Unit(b/per+4))
		}
	}},
	{"retest", nil, func(s *sim) {
		// Blocks that live in spare units are well again, but for one whose home keeps what is
		// written in the cache only, and one whose home goes bad later. A user writes meanwhile.
		b, per := s.block(), s.per()
		s.bad(b, 5*per, failsWrites)
		s.start()
		s.write(0, b, 3*per, false)
		s.write(1, b+3*per, 2*per, false)
		s.drain()
		s.bad(b, 5*per, failing{})
		s.bad(b+per, 1, failing{read: true, cache: 2, errno: int32(syscall.ENODATA), left: -1})
		s.bad(b+2*per, 1, failing{read: true, write: true, errno: int32(syscall.EIO), left: -1,
			sleeps: 2*retestElsewhere + 8})
		s.retest(b, 5*per, time.Millisecond, false)
		for n := 0; s.retestStep() != coordinator.RetestPause && n < 10_000; n++ {
			if n == 20 {
				s.write(0, b+3*per, 1, true)
			}
			s.nextEvent()
		}
		s.write(1, b+4*per, 1, false)
		s.drain()
		m := s.srv.restored.Map
		for u, want := range []bool{false, true, true, false, false} {
			if info := m.Unit(b/per + uint64(u)); (info.N > 0) != want {
				s.failf("after a retest unit %d of 5 is %+v", u, info)
			}
		}
		if n := s.srv.restored.Allocator.Used(); n != 2 {
			s.failf("after a retest %d spare units are in use, not 2", n)
		}
		s.reads(0, b, 3*per)
		s.relocate(b+3*per, per, true) // into what was vacated
		s.drain()
	}},
	{"retest-beside-fill", nil, func(s *sim) {
		// Two blocks of a unit did not read, and one was filled. A retest that keeps what was moved
		// on purpose takes back the other one, and leaves the filled one where it is.
		b, per := s.block(), s.per()
		filled, other := b+1, b+per-1
		s.start()
		s.write(0, b, 2*per, true)
		s.drain()
		s.bad(filled, 1, failsReads)
		s.bad(other, 1, failsReads)
		s.read(0, filled, 1)
		s.read(1, other, 1)
		s.drain()
		s.refill(filled, 1)
		s.drain()
		s.bad(b, 2*per, failing{})
		s.retest(b, 2*per, time.Millisecond, true)
		s.drain()
		m := s.srv.restored.Map
		if info := m.Unit(filled / per); info.N != 1 || m.Unit(other/per).Pending != 0 {
			s.failf("after a retest %+v, %+v", info, m.Unit(other/per))
		}
		s.reads(1, b, 2*per)
	}},
	{"retest-home-fails", nil, func(s *sim) {
		// Homes are well, but an operator's move to one of them fails between the two tests. So
		// does a heal of a block that a move has taken home meanwhile.
		b, per := s.block(), s.per()
		s.bad(b, 4*per, failsWrites)
		s.start()
		s.write(0, b, 4*per, false)
		s.drain()
		s.bad(b, 4*per, failing{})
		s.retest(b, 4*per, time.Millisecond, false)
		for n := 0; s.retestStep() != coordinator.RetestPause && n < 10_000; n++ {
			s.nextEvent()
		}
		s.bad(b+per, 1, failsWrites)
		s.relocate(b+per, 1, false)
		s.relocate(b+2*per, per, false)
		for n := 0; s.srv.moves > 1 && n < 10_000; n++ {
			s.nextEvent()
		}
		s.bad(b+2*per, per, failsWrites)
		s.write(0, b+2*per, per, false)
		for n := 0; !s.allIdle() && n < 10_000; n++ {
			s.nextEvent()
		}
		s.bad(b+per, 2*per, failing{})
		s.drain()
		m := s.srv.restored.Map
		for u, want := range []int{0, 1, 1, 0} {
			if info := m.Unit(b/per + uint64(u)); info.N != want {
				s.failf("after a retest unit %d of 4 is %+v", u, info)
			}
		}
	}},
	{"scrub-rewrite", nil, func(s *sim) {
		// A block reads only when it is tried again. The scrub writes it anew, and users write.
		b, per := s.scrubWeak()
		s.scrubPass(func(at uint64) {
			if at > b && s.idle(1) {
				s.write(1, b+per, 1, true)
			}
		})
		s.mendedInPlace(b, 2*per)
	}},
	{"scrub-rewrite-busy", nil, func(s *sim) {
		// The same, and a user writes to the very block while it is written anew.
		b, per := s.scrubWeak()
		c := s.srv.coord
		for n := 0; c.Scrub().Repaired == 0 && n < 10_000; n++ {
			if c.Scrub().Mending && s.allIdle() && s.chance(1, 3) {
				s.write(n%2, b+1, 1, s.chance(1, 2))
			}
			if due := c.ScrubDue(); due != 0 {
				s.now = max(s.now, due)
				s.srv.after()
			}
			s.nextEvent()
		}
		s.drain()
		s.mendedInPlace(b, 2*per)
	}},
	{"scrub-retest", nil, func(s *sim) {
		// Homes that are well again pass a test after a pass of the scrub, and another one after
		// the next pass. One goes bad in between, and one keeps what is written in its cache only.
		// A user writes meanwhile, and an operator's retest comes first.
		b, per := s.block(), s.per()
		s.cfg.scrub, s.cfg.maxUnits, s.cfg.plan.UUID[4] = true, 128, 0
		s.bad(b, 5*per, failsWrites)
		s.start()
		s.write(0, b, 5*per, false)
		s.drain()
		s.bad(b, 5*per, failing{})
		s.bad(b+per, 1, failing{read: true, cache: 2, errno: int32(syscall.ENODATA), left: -1})
		for pass := range 3 {
			if err := s.srv.coord.StartScrub(coordinator.ScrubOptions{Rate: 1 << 40}); err != nil {
				s.failf("%v", err)
			}
			s.scrubPass(func(uint64) {})
			got := s.srv.coord.Scrub().Retest
			well, home := [...]uint64{5*per - 1, 0, 0}[pass], [...]uint64{0, 3*per - 1, 0}[pass]
			if got.Running || got.Passed < well || got.Home != home {
				s.failf("after pass %d: %+v", pass, got)
			}
			switch pass {
			case 0:
				s.write(1, b+3*per, 1, false)
				s.bad(b+2*per, per, failsWrites)
				s.relocate(b+2*per, per, false) // it fails
				s.retest(b+4*per, per, 0, false)
			case 1:
				s.bad(b+2*per, per, failing{})
			}
			s.drain()
			s.now += int64(time.Second)
		}
		for u, want := range []int{0, 1, 1, 0, 0} {
			if info := s.srv.restored.Map.Unit(b/per + uint64(u)); info.N != want {
				s.failf("after three passes unit %d of 5 is %+v", u, info)
			}
		}
		s.reads(0, b, 5*per)
	}},
	{tableGrows, func(s *sim) (out []metadata.Entry) {
		for i := range s.plan.TableCapacity() - 22 {
			out = append(out, metadata.Entry{Unit: 600 + 2*i, Count: 1, Mask: 1,
				State: metadata.StatePending, Cause: metadata.CauseImport, Time: 1})
		}
		return out
	}, func(s *sim) {
		// The table is nearly full, and more blocks turn out to be bad than there is room for.
		b, per := s.block(), s.per()
		for u := range uint64(26) {
			s.bad(b+2*u*per, 1, failsReads)
		}
		s.start()
		for i := range uint64(13) {
			s.read(int(i%2), b+4*i*per, 4*per)
			if i%4 == 3 {
				s.drain()
			}
		}
		s.drain()
		if n, was := s.srv.com.TableCapacity(), s.plan.TableCapacity(); n <= was ||
			s.srv.restored.Map.Counts().Pending < was {
			s.failf("%d blocks are pending, the table may have %d entries, %d at first",
				s.srv.restored.Map.Counts().Pending, n, was)
		}
		s.checkpoint()
		s.drain()
		s.write(0, b, per, false)
		s.drain()
	}},
	{"log-wraps", nil, func(s *sim) {
		// More records than the log holds: checkpoints begin by themselves.
		b := s.block()
		s.bad(b, 4*s.per(), failsWrites)
		s.start()
		s.write(0, b, s.per(), false)
		s.drain()
		for i := range uint64(90) {
			s.relocate(b+8*s.per()+i%4, 1, i%8 < 4)
			s.drain()
		}
	}},
}

// tableGrows is the scenario about a set with a small table.
const tableGrows = "table-grows"

// failing is a kind of fault.
type failing fault

var (
	failsWrites = failing{write: true, errno: int32(syscall.ENODATA), left: -1}
	failsReads  = failing{read: true, errno: int32(syscall.ENODATA), left: -1}
)

// Layouts are the layouts on which scenarios run.
var Layouts = []string{"alone-512", "alone-4096", "pair-512"}

// newScenario makes the disks for a scenario; everything is calm.
func newScenario(seed uint64, sc *Scenario, layout string, opts Options) *sim {
	s := newSim(seed, opts)
	s.scripted = true
	s.lost, s.marked = map[uint64]bool{}, map[uint64]bool{}
	s.cfg = config{
		queues: 2, depth: 3, maxUnits: 4, zero: 4, sink: 2, buf: 2, trims: true, spots: 1, reach: 8,
		policy: remap.Policy{Retries: 1, MaxBad: 8, Elsewhere: retestElsewhere + 1,
			ResourceFor: 20 * time.Millisecond, IsolateFor: 2 * time.Second, FailFast: time.Minute},
		plan: metadata.PlanParams{BlockSize: 512, Name: "sim", Created: 1, BackingSize: 10 << 20,
			SpareBytes: 40 * metadata.UnitSize},
	}
	for i := range s.cfg.plan.UUID {
		s.cfg.plan.UUID[i], s.cfg.plan.DeviceUUIDs[0][i], s.cfg.plan.DeviceUUIDs[1][i] = 1, 2, 3
	}
	if sc != nil && sc.Name == tableGrows {
		s.cfg.table, s.cfg.plan.TableRoom = true, 1
	}
	switch layout {
	case "alone-512":
	case "alone-4096":
		s.cfg.plan.BlockSize, s.cfg.plan.PhysicalBlockSize = 4096, 8192
	case "pair-512":
		s.cfg.plan.SpareDeviceSize = 9 << 20
	default:
		s.failf("no layout is called %q", layout)
	}
	var err error
	if s.plan, err = metadata.Plan(s.cfg.plan); err != nil {
		s.failf("plan: %v", err)
	}
	for i, d := range s.plan.Devices() {
		s.disks = append(s.disks, newDisk(uint8(i), d.Size))
	}
	s.equip()
	s.spots = []uint64{s.plan.HeadBlocks()}
	return s
}

// per is how many blocks a unit has.
func (s *sim) per() uint64 { return uint64(metadata.UnitSize / s.plan.BlockSize()) }

// block is where scenarios act: the last unit of the displaced head and what follows it.
func (s *sim) block() uint64 { return s.plan.HeadBlocks() - s.per() }

// scrubWeak has a scrub begin over two units, of which a block reads only when it is tried again.
func (s *sim) scrubWeak() (b, per uint64) {
	b, per = s.block(), s.per()
	s.cfg.scrub, s.cfg.maxUnits, s.cfg.plan.UUID[4] = true, 8, 0
	s.start()
	s.write(0, b, 2*per, true)
	s.drain()
	s.bad(b+1, 1, failing{read: true, errno: int32(syscall.ENODATA), left: 1})
	if err := s.srv.coord.StartScrub(coordinator.ScrubOptions{Rate: 1 << 40}); err != nil {
		s.failf("%v", err)
	}
	return b, per
}

// mendedInPlace makes sure that a scrub has written a block of these anew, and moved none.
func (s *sim) mendedInPlace(b, count uint64) {
	if now := s.srv.coord.Scrub(); now.Repaired == 0 || now.Relocated > 0 ||
		s.srv.restored.Allocator.Used() > 0 {
		s.failf("the scrub has mended %+v", now)
	}
	s.reads(0, b, count)
}

// bad gives blocks a fault, at home.
func (s *sim) bad(block, count uint64, f failing) {
	own := fault(f)
	for i := range count {
		dev, off := s.plan.HomeOf(block + i)
		s.disks[dev].spoil(off, int64(s.plan.BlockSize()), &own)
	}
}

// badSpares makes spare units fail: those that will be used next, or those in use.
func (s *sim) badSpares(n uint32) {
	for unit := range n {
		dev, off := s.plan.SpareOf(unit)
		s.disks[dev].spoil(off, metadata.UnitSize, &fault{write: true, errno: int32(syscall.EIO),
			left: -1})
	}
}

func (s *sim) ask(q int, op remap.Op, block, count uint64, fua bool) {
	for tag, r := range s.reqs[q] {
		if r == nil {
			r := &userReq{queue: q}
			r.Op, r.Block, r.Count, r.FUA = op, block, uint32(count), fua
			s.submit(r, tag)
			return
		}
	}
	s.failf("no tag of queue %d is free", q)
}

// reads makes sure that blocks read.
func (s *sim) reads(q int, block, count uint64) {
	failed := s.stats.Errors
	s.read(q, block, count)
	s.drain()
	if s.stats.Errors != failed {
		s.failf("blocks %d+%d were written and do not read", block, count)
	}
}

// idle reports whether a tag of a queue is free.
func (s *sim) idle(q int) bool { return slices.Contains(s.reqs[q], nil) }

// allIdle reports whether no request of a user is under way.
func (s *sim) allIdle() bool {
	for _, tags := range s.reqs {
		if slices.ContainsFunc(tags, func(r *userReq) bool { return r != nil }) {
			return false
		}
	}
	return true
}

func (s *sim) write(q int, block, count uint64, fua bool) {
	s.ask(q, remap.OpWrite, block, count,
		fua)
}
func (s *sim) zeroes(q int, block, count uint64) {
	s.ask(q, remap.OpWriteZeroes, block,
		count, false)
}
func (s *sim) discard(q int, block, count uint64) {
	s.ask(q, remap.OpDiscard, block, count,
		false)
}
func (s *sim) read(q int, block, count uint64) {
	s.ask(q, remap.OpRead, block, count,
		false)
}
func (s *sim) flush(q int) { s.ask(q, remap.OpFlush, 0, 0, false) }

func (s *sim) checkpoint() {
	s.srv.checkpoint()
}

func (s *sim) relocate(block, count uint64, toSpare bool) {
	if err := s.srv.move(remap.Move{Block: block, Count: count, ToSpare: toSpare,
		Cause: metadata.CauseOperator}); err != nil {
		s.failf("move: %v", err)
	}
}

// imports asks for a list to be imported.
func (s *sim) imports(list []metadata.BlockRange) {
	if err := s.mark(list...); err != nil {
		s.failf("import: %v", err)
	}
}

// refill asks for blocks to be filled.
func (s *sim) refill(block, count uint64) {
	if err := s.fill(block, count); err != nil {
		s.failf("fill: %v", err)
	}
}

func (s *sim) stop() {
	s.stats.Stops++
	s.tracef("STOP")
	s.down()
}

// Play runs a scenario once, without any interruption.
func Play(sc *Scenario, layout string, seed uint64, opts Options) (Stats, error) {
	s := newScenario(seed, sc, layout, opts)
	err := s.guard(func() {
		sc.play(s)
		s.recovered()
	})
	return s.stats, err
}

func (sc *Scenario) play(s *sim) {
	var initial []metadata.Entry
	if sc.initial != nil {
		initial = sc.initial(s)
	}
	if err := metadata.Create(devicesOf(s.disks), s.plan, initial); err != nil {
		s.failf("create: %v", err)
	}
	sc.tell(s)
}

func scenarioNamed(name string) (*Scenario, error) {
	for i := range Scenarios {
		if Scenarios[i].Name == name {
			return &Scenarios[i], nil
		}
	}
	return nil, fmt.Errorf("no scenario is called %q", name)
}
