package sim

import (
	"ublkremap/metadata"
	"ublkremap/remap"
)

// media remembers in which pages of the disks a medium has failed, whatever code saw it. Only such
// pages may be called pending or retired. The answer of a spare device that is away says nothing of
// its medium. But a server that checks right after it may find the device back, and cannot know
// that it was away.
type media struct {
	reads, writes map[place]bool
	away          map[place]int64 // the step at which it failed because its disk was away
	// verified holds the sectors that a relocation has read since it last wrote them.
	verified map[place]bool
	// cached holds those of them that were read while what was written lay in the disk's cache
	// only. That proves nothing: the media may not hold it.
	cached map[place]bool
	tests  map[place]*homeTest // by sector, of homes that a server has tested
}

// moved takes the end of an operation that copies: of a relocation, or of a heal.
//
// A read by which the Arbiter asks whether a disk is present (diskIO.asks) proves nothing of the
// places that it reads, and disproves nothing. The places are spare units in use, among others, so
// it may be one that a relocation has just read back. If that place does not read any more, it has
// gone bad since it was proved, as it may at any time after the commit too. The promise is that the
// new place was read back after it was written and before the old one is given up. That was done.
func (m *media) moved(s *sim, io *diskIO, res int32) {
	for off := io.off; off < io.off+io.n; off += sectorSize {
		p := place{io.d.index, off}
		m.tested(s, io, p, off < io.off+min(int64(res), io.done),
			res < 0 && remap.Classify(res) == remap.ClassMedium)
		if io.asks {
			continue
		}
		if io.kind == ioRead && off < io.off+min(int64(res), io.done) {
			m.verified[p] = true
			m.cached[p] = io.d.inCache(off)
		} else if io.kind != ioRead || io.d.missing == 0 && io.d.badAt(off, false) != nil {
			// The answer of a disk that is away says nothing of what was read before.
			delete(m.verified, p)
		}
	}
}

// note takes the end of an operation.
func (s *sim) note(io *diskIO, res int32) {
	if res >= 0 || remap.Classify(res) != remap.ClassMedium {
		return
	}
	m := &s.media
	seen := m.writes
	if io.kind == ioRead {
		seen = m.reads
	}
	for off := io.off - io.off%pageSize; off < io.off+io.n; off += pageSize {
		if p := (place{io.d.index, off}); io.d.index != 0 && io.d.missing != 0 {
			m.away[p] = s.step
		} else {
			seen[p] = true
		}
	}
}

// failed reports whether a page did not read, also because its disk was away. If the page is called
// pending then, that does no harm, except that its next write takes a spare unit.
func (m *media) failed(p place) bool {
	_, away := m.away[p]
	return away || m.reads[p]
}

// justBack is for how many steps after a disk is back a page may be judged by its earlier answer.
// No server could tell the difference.
const justBack = 100

// back is called when a disk returns.
func (s *sim) back(d *disk) {
	d.missing = 0
	for p, step := range s.media.away {
		if p.disk == d.index && s.step-step < justBack {
			s.media.reads[p], s.media.writes[p] = true, true
		}
	}
}

// judgeEntries makes sure that what a commit calls pending or retired has failed, and that what it
// moves home was read there.
func (sv *server) judgeEntries(entries []metadata.Entry) {
	s := sv.s
	sv.judgeBudget(entries)
	per := uint64(metadata.UnitSize / s.plan.BlockSize())
	for _, e := range entries {
		if e.State == metadata.StateMapped && e.Cause == metadata.CauseOperator &&
			len(sv.queued) > 0 && sv.queued[0] != nil {
			sv.judgeFill(sv.queued[0], e)
		}
		for i := range uint64(e.Count) {
			switch e.State {
			case metadata.StateRetired:
				dev, off := s.plan.SpareOf(e.Spare + uint32(i))
				if p := (place{dev, off}); !s.media.writes[p] && !s.media.reads[p] {
					s.failf("spare unit %d is retired, and its medium never failed",
						e.Spare+uint32(i))
				}
			case metadata.StateHome:
				sv.judgeHome(&e, e.Unit+i)
			case metadata.StateMapped:
				sv.readsAgain(e, e.Unit+i)
				if e.Cause != metadata.CauseRetest && e.Cause != metadata.CauseOperator &&
					e.Cause != metadata.CauseScrub {
					break // a heal
				}
				dev, off := s.plan.SpareOf(e.Spare + uint32(i))
				for b := range per {
					if e.Mask>>b&1 != 0 && !s.media.verified[place{dev,
						off + int64(b)*int64(s.plan.BlockSize())}] {
						s.failf("block %d lives in a spare unit by an operator's or a retest's "+
							"word, and was not read there", (e.Unit+i)*per+b)
					}
				}
			case metadata.StatePending:
				sv.judgePending(e, e.Unit+i)
			}
		}
	}
}

// judgeHome makes sure that what a commit moves home was read there.
func (sv *server) judgeHome(e *metadata.Entry, unit uint64) {
	s := sv.s
	per := uint64(metadata.UnitSize / s.plan.BlockSize())
	sv.homeAgain(*e, unit)
	info := sv.restored.Map.Unit(unit)
	for b := range per {
		dev, off := s.plan.HomeOf(min(unit*per+b, s.plan.Blocks()-1))
		if e.Mask>>b&1 == 0 {
			continue
		}
		if !s.media.verified[place{dev, off}] {
			s.failf("block %d goes home, and was not read there", unit*per+b)
		}
		if _, moves := info.SpareOf(int(b)); moves && s.media.cached[place{dev, off}] {
			s.failf("block %d goes home, and was read there before it was flushed", unit*per+b)
		}
		if e.Cause == metadata.CauseRetest {
			sv.judgeRetest(unit*per+b, place{dev, off})
		}
	}
}

// judgePending makes sure that a unit that a commit calls pending has failed, or is listed.
func (sv *server) judgePending(e metadata.Entry, unit uint64) {
	s := sv.s
	if e.Cause == metadata.CauseImport {
		sv.judgeMark(e, unit)
		return
	}
	if e.Cause == readerCause && !sv.reader.reported[unit] {
		s.failf("unit %d is pending by the reader's cause, not by its word", unit)
	}
	dev, off := s.plan.HomeOf(unit * s.per())
	// A note covers everything up to the end of the physical block.
	size := max(pageSize, int64(s.cfg.plan.PhysicalBlockSize))
	bad := sv.notes(unit, e.Mask)
	for at := off - off%size; at < off-off%size+size; at += pageSize {
		bad = bad || s.media.failed(place{dev, at})
	}
	info := sv.restored.Map.Unit(unit)
	for _, p := range info.Places[:info.N] {
		dev, off := s.plan.SpareOf(p.Spare)
		bad = bad || s.media.failed(place{dev, off})
		// A note about a spare unit makes the unit be given up. On a spare device the
		// unit is tried again before.
		s.media.reads[place{dev, off}] = s.media.reads[place{dev, off}] || dev == 0
	}
	if !bad {
		s.failf("unit %d is pending, and its medium never failed", unit)
	}
}

// judgeBudget makes sure that heals do not use up spare units faster than the breaker's budget
// allows. It counts for one server: the budget is full at its start, and again when an operator has
// closed the breaker.
func (sv *server) judgeBudget(entries []metadata.Entry) {
	s := sv.s
	for _, e := range entries {
		if e.State != metadata.StateMapped || e.Cause == metadata.CauseOperator ||
			e.Cause == metadata.CauseScrub {
			continue
		}
		for i := range e.Count {
			info := sv.restored.Map.Unit(e.Unit + uint64(i))
			if holdsSpare(&info, e.Spare+i) {
				continue
			}
			sv.consumed[e.Spare+i] = true
		}
	}
	p := s.cfg.policy
	if !s.cfg.budget {
		return
	}
	// Two times perSecond are for the seconds that have begun at either end.
	may := p.Burst*(1+sv.resumed) + p.PerSecond*(uint64(s.now-sv.born)/1e9+2)
	if n := uint64(len(sv.consumed)); n > may {
		s.failf("heals have used %d spare units since the start, the budget is %d", n, may)
	}
}

func holdsSpare(info *remap.UnitInfo, spare uint32) bool {
	for _, p := range info.Places[:info.N] {
		if p.Spare == spare {
			return true
		}
	}
	return false
}
