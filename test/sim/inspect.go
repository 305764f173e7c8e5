package sim

import (
	"fmt"
	"slices"

	"ublkremap/metadata"
	"ublkremap/remap"
)

// inspect reads the disks, past their faults, where a table that was just loaded says that the
// blocks are. Each sector must hold something that it may hold. No block may be lost except those
// that were lost from the beginning.
func (s *sim) inspect(r *remap.Restored) {
	bs := uint64(s.plan.BlockSize())
	per := metadata.UnitSize / bs
	buf := make([]byte, sectorSize)
	for _, i := range s.model.touched {
		block := i * sectorSize / bs
		info := r.Map.Unit(block / per)
		if info.Lost>>(block%per)&1 != 0 {
			if !s.lost[block] {
				s.failf("after a restart block %d is lost", block)
			}
			continue
		}
		p := s.home(i)
		if spare, ok := info.SpareOf(int(block % per)); ok {
			p.disk, p.off = s.plan.SpareOf(spare)
			p.off += int64(i * sectorSize % metadata.UnitSize)
		}
		d := s.disks[p.disk]
		if d.badAt(p.off, false) != nil {
			continue
		}
		s.stats.Inspected++
		d.load(p.off, buf)
		got, err := identify(buf, i, s.home(i))
		if err != nil {
			s.failf("after a restart sector %d (block %d), at disk %d @%d, holds %v", i, block,
				p.disk, p.off, err)
		}
		if !s.model.may(i, got) {
			var may []uint64
			for _, v := range s.model.at(i).cur {
				may = append(may, v.id)
			}
			s.failf("after a restart sector %d (block %d), at disk %d @%d, holds %s, may hold %s",
				i, block, p.disk, p.off, valueName(got), names(may))
		}
	}
}

// inspectMirrors makes sure that each mirror that is in use has a whole checkpoint, if nothing was
// ever wrong with the metadata.
func (s *sim) inspectMirrors() {
	c := &s.cfg
	if !c.table || c.meta != metaNone || c.vanish || c.shortages || c.rates != (rates{}) {
		return
	}
	dump, err := metadata.Dump(s.devices())
	if err != nil {
		s.failf("dump: %v", err)
	}
	for _, m := range dump.Mirrors {
		if !m.Stale && !slices.ContainsFunc(m.Checkpoints,
			func(c metadata.CheckpointDump) bool { return c.BadPages == 0 }) {
			s.failf("the mirror at disk %d @%d is in use, and has no whole checkpoint", m.Device,
				m.Start)
		}
	}
}

// quiet checks what must hold when nothing is under way.
func (s *sim) quiet() {
	sv := s.srv
	for _, q := range sv.queues {
		if n := q.eng.Inflight(); n != 0 || q.inflight != 0 {
			s.failf("q%d: %d requests, %d operations in flight at a quiet moment", q.index, n,
				q.inflight)
		}
		q.eng.Publish()
	}
	c := sv.shared.Counters()
	if n := c.Reads + c.Writes + c.Flushes + c.Discards; n != sv.finished {
		s.failf("the counters say that %d requests ended, not %d", n, sv.finished)
	}
	s.quietReader()
	for _, m := range sv.coord.AppendMirrors(nil) {
		if m.State == metadata.MirrorStale {
			s.stats.Stale++
		}
	}
	st := sv.coord.Status().Arbiter
	if st.Claims != 0 {
		s.failf("%d claims at a quiet moment", st.Claims)
	}
	used := s.spareOwners()
	// While the outcome of commits is unknown, the blocks that they concern are lost in the map,
	// and their spare units are set aside.
	if sv.unknown {
		return
	}
	s.quietAllocator(&st, used)
	s.quietSpares()
	for u := range sv.restored.Map.Units() {
		if sv.restored.Map.Unit(u).Busy {
			s.failf("unit %d is busy at a quiet moment", u)
		}
	}
	s.sameOnDisk()
}

// spareOwners makes sure that each spare unit in which blocks live is in use, and serves one
// unit. It returns how many there are.
func (s *sim) spareOwners() uint64 {
	a := s.srv.restored.Allocator
	owners := map[uint32]uint64{}
	s.eachEntry(s.srv.restored.Map, func(e metadata.Entry) {
		if e.State != metadata.StateMapped {
			return
		}
		for i := range e.Count {
			unit, spare := e.Unit+uint64(i), e.Spare+i
			if o, ok := owners[spare]; ok && o != unit {
				s.failf("spare unit %d serves units %d and %d", spare, o, unit)
			}
			owners[spare] = unit
			if !a.IsUsed(spare) {
				s.failf("spare unit %d serves unit %d and is not in use", spare, unit)
			}
		}
	})
	return uint64(len(owners))
}

// quietAllocator makes sure that the allocator has that many spare units in use, and that none is
// being allocated or freed.
func (s *sim) quietAllocator(st *remap.ArbiterStatus, used uint64) {
	a := s.srv.restored.Allocator
	if st.Used+st.Free > st.Total || st.Used != used {
		s.failf("blocks live in %d spare units, status says %+v", used, st)
	}
	if n := a.Used(); n != used {
		s.failf("%d spare units are in use, blocks live in %d", n, used)
	}
	if n := a.Deferred(); n != 0 {
		s.failf("%d spare units wait to be freed at a quiet moment", n)
	}
	if n := a.Quarantined(); n != 0 {
		s.failf("%d spare units are in quarantine at a quiet moment", n)
	}
}

// sameOnDisk loads what is on the disks and compares it with the live table.
func (s *sim) sameOnDisk() {
	for _, d := range s.disks {
		if d.missing != 0 {
			return
		}
	}
	img, err := metadata.Load(s.devices())
	if err != nil {
		s.failf("load at a quiet moment: %v", err)
	}
	r, err := remap.Restore(img.Layout(), img.Replay)
	if err != nil {
		s.failf("restore at a quiet moment: %v", err)
	}
	if diff := differ(s.srv.restored, r); diff != "" {
		s.failf("the live table, then what is on disk: %s", diff)
	}
}

// differ says how two tables differ: first the entry of the one, then that of the other. It is
// empty if they are alike.
func differ(a, b *remap.Restored) string {
	for u := range a.Map.Units() {
		x, y := a.Map.Unit(u), b.Map.Unit(u)
		if x != y {
			return fmt.Sprintf("unit %d is %+v, %+v", u, x, y)
		}
	}
	x, y := a.Allocator, b.Allocator
	if x.Used() != y.Used() || x.Retired() != y.Retired() || x.FreeCount() != y.FreeCount() {
		return fmt.Sprintf("spare units used %d, %d; retired %d, %d; free %d, %d", x.Used(),
			y.Used(), x.Retired(), y.Retired(), x.FreeCount(), y.FreeCount())
	}
	return ""
}

func (s *sim) eachEntry(m *remap.Map, f func(metadata.Entry)) {
	var page [16]metadata.Entry
	var cursor uint64
	for done := false; !done; {
		var n int
		n, cursor, done = m.Entries(cursor, page[:])
		for _, e := range page[:n] {
			f(e)
		}
	}
}

// check runs the offline check on what the run left.
func (s *sim) check() {
	report, err := metadata.Check(s.devices())
	if err != nil || !report.OK() {
		s.failf("check: %v\n%s", err, report.String())
	}
}
