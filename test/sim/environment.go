package sim

import (
	"time"

	"ublkremap/metadata"
)

// pickSpots chooses where requests meet: always the seam between the displaced
// head and the rest, often the end, or where a displaced tail begins.
func (s *sim) pickSpots() {
	s.spots = []uint64{s.plan.HeadBlocks()}
	for len(s.spots) < s.cfg.spots {
		spot := s.rng.Uint64N(s.plan.Blocks())
		switch s.rng.IntN(4) {
		case 0, 1:
			odd := spot%2 == 1
			if spot = s.plan.Blocks() - 1; odd {
				spot = min(spot, s.plan.Blocks()-s.plan.TailBlocks())
			}
		case 2: // where one leaf of the Map ends and the next begins
			spot = min(spot, 1024*metadata.UnitSize/uint64(s.plan.BlockSize()))
		}
		s.spots = append(s.spots, spot)
	}
	s.spots = sortedSpots(s.spots)
}

// near draws a block in the neighbourhood of a spot.
func (s *sim) near() uint64 {
	per := uint64(metadata.UnitSize / s.plan.BlockSize())
	reach := per * uint64(s.cfg.reach)
	spot := pick(s.rng, s.spots)
	lo := spot - min(spot, reach)
	return lo + s.rng.Uint64N(min(spot+reach, s.plan.Blocks())-lo)
}

// spoil gives some blocks, at home or in the spare region, a fault.
func (s *sim) spoil() {
	f := newFault(s.rng)
	bs := int64(s.plan.BlockSize())
	per := metadata.UnitSize / bs
	n := bs * int64(pick(s.rng, []int{1, 1, 1, 2, 5, int(per), int(3 * per)}))
	var p place
	if s.chance(1, 4) {
		unit := uint32(s.rng.Uint64N(s.plan.SpareUnits()))
		if s.srv != nil {
			// Prefer one that is in use, or will be next.
			for range 8 {
				if s.srv.restored.Allocator.IsUsed(unit) {
					break
				}
				unit = uint32(s.rng.Uint64N(min(16, s.plan.SpareUnits())))
			}
		}
		p.disk, p.off = s.plan.SpareOf(unit)
		if s.chance(1, 2) {
			p.off += bs * s.rng.Int64N(per)
			n = min(n, metadata.UnitSize)
		}
	} else {
		// This is done fault by fault, not disk range by disk range, because a range may pass the
		// seam.
		block := s.near()
		if phys := uint64(s.cfg.plan.PhysicalBlockSize) / uint64(bs); phys > 1 && s.chance(1, 2) {
			// This is a drive that shows small blocks and has larger ones, which fail as one.
			block -= block % phys
			n = int64(phys) * bs
		}
		for i := range uint64(n / bs) {
			if block+i < s.plan.Blocks() {
				dev, off := s.plan.HomeOf(block + i)
				s.disks[dev].spoil(off, bs, f)
			}
		}
		s.tracef("FAULT at blocks %d+%d: %v", block, n/bs, f)
		return
	}
	if end := s.spareEnd(p); p.off+n > end {
		n = end - p.off
	}
	s.spareFaults++
	s.tracef("FAULT in the spare region, disk %d @%d+%d: %v", p.disk, p.off, n, f)
	s.disks[p.disk].spoil(p.off, n, f)
}

// spoilSpares makes most of the spare region bad, in a pattern: one in 8 units is good, or half of
// it, or every other unit.
func (s *sim) spoilSpares() {
	n := uint32(s.plan.SpareUnits())
	f := &fault{write: true, errno: int32(pick(s.rng, mediumErrnos)), left: -1}
	if s.chance(1, 2) { // what is written does not read
		f.read, f.write = true, s.chance(1, 2)
	}
	pattern := s.rng.IntN(3)
	s.tracef("FAULT in most of the spare region, pattern %d: %v", pattern, f)
	for u := range n {
		if []bool{u%8 != 7, u < n/2, u%2 == 0}[pattern] {
			dev, off := s.plan.SpareOf(u)
			s.disks[dev].spoil(off, metadata.UnitSize, f)
		}
	}
}

// spareEnd returns the end of the spare region that a place lies in.
func (s *sim) spareEnd(p place) int64 {
	for _, r := range s.plan.SpareRegions() {
		if r.Device == p.disk && p.off >= r.Start && p.off < r.Start+r.Length {
			return r.Start + r.Length
		}
	}
	return p.off
}

// mirrors returns the metadata mirrors on the backing.
func (s *sim) mirrors() []metadata.Region {
	var out []metadata.Region
	for _, r := range s.plan.Superblock().Regions {
		if r.Kind == metadata.RegionMirror && r.Device == 0 {
			out = append(out, r)
		}
	}
	return out
}

// spoilMetadata puts faults into the metadata areas.
func (s *sim) spoilMetadata() {
	mirrors := s.mirrors()
	switch s.cfg.meta {
	case metaWrites:
		if s.chance(1, 2) {
			s.disks[0].spoil(pick(s.rng, s.plan.SuperblockPlaces(0)), sectorSize,
				&fault{write: true, errno: int32(pick(s.rng, mediumErrnos)),
					left: pick(s.rng, []int{1, 3, -1})})
		}
		for _, m := range mirrors {
			for range s.rng.IntN(12) {
				off := m.Start + pageSize*s.rng.Int64N(m.Length/pageSize)
				s.disks[0].spoil(off, sectorSize*(1+s.rng.Int64N(pageSectors)),
					&fault{write: true, errno: int32(pick(s.rng, mediumErrnos)),
						left: 1 + s.rng.IntN(3), lands: s.chance(1, 3)})
			}
		}
	case metaReads:
		m := pick(s.rng, mirrors)
		if s.cfg.oneSuperblock {
			left := pick(s.rng, s.plan.SuperblockPlaces(0))
			for _, off := range s.plan.SuperblockPlaces(0) {
				if off != left {
					s.disks[0].spoil(off, sectorSize,
						&fault{read: true, errno: int32(pick(s.rng, mediumErrnos)), left: -1})
				}
			}
		} else if s.chance(1, 2) { // one copy of the superblock
			s.disks[0].spoil(pick(s.rng, s.plan.SuperblockPlaces(0)), sectorSize,
				&fault{read: true, errno: int32(pick(s.rng, mediumErrnos)), left: -1,
					heals: s.chance(1, 2)})
		}
		for range 1 + s.rng.IntN(20) {
			off := m.Start + pageSize*s.rng.Int64N(m.Length/pageSize)
			s.disks[0].spoil(off, sectorSize,
				&fault{read: true, errno: int32(pick(s.rng, mediumErrnos)), left: -1,
					heals: s.chance(1, 2)})
		}
	case metaFlaky:
		s.flicker()
	case metaFlips:
		s.flip()
	case metaMirror, metaAll:
		s.metaLeft = 10 + s.rng.IntN(60)
	}
}

// flicker makes reads of sectors of one mirror fail: a few times, or always, until the sectors do
// not fail any more.
func (s *sim) flicker() {
	m := s.mirrors()[s.lyingMirror]
	if s.chance(1, 3) {
		s.disks[0].spoil(m.Start, m.Length, nil)
		return
	}
	for range 1 + s.rng.IntN(20) {
		off := m.Start + pageSize*s.rng.Int64N(m.Length/pageSize)
		s.disks[0].spoil(off, sectorSize,
			&fault{read: true, errno: int32(pick(s.rng, mediumErrnos)),
				left: pick(s.rng, []int{1, 2, 5, -1})})
	}
}

// flip flips bits in one mirror, preferably where something is stored.
func (s *sim) flip() {
	m := s.mirrors()[s.lyingMirror]
	sb := s.plan.Superblock()
	for range 1 + s.rng.IntN(12) {
		off := m.Start + pageSize*s.rng.Int64N(m.Length/pageSize)
		switch s.rng.IntN(3) {
		case 0: // a header, or the first pages
			off = m.Start + sb.SlotBytes*s.rng.Int64N(2) + int64(sb.AtomSize)*s.rng.Int64N(2)
		case 1: // the first records
			off = m.Start + 2*sb.SlotBytes + int64(sb.AtomSize)*s.rng.Int64N(24)
		}
		off += sectorSize * s.rng.Int64N(pageSectors)
		var b [sectorSize]byte
		s.disks[0].load(off, b[:])
		b[s.rng.IntN(64)] ^= 1 << s.rng.IntN(8)
		s.disks[0].store(off, b[:], sectorSize, true)
		s.stats.Flips++
	}
}

// lie reports whether a write to the metadata will be reported as good but never reach its place.
func (s *sim) lie(io *diskIO) bool {
	if s.cfg.meta != metaLies || io.d.index != 0 || io.kind != ioWrite {
		return false
	}
	m := s.mirrors()[s.lyingMirror]
	if io.off < m.Start || io.off >= m.Start+m.Length || !s.chance(1, 8) {
		return false
	}
	s.stats.Lies++
	return true
}

// misdirect makes a write land elsewhere in its mirror.
func (s *sim) misdirect(io *diskIO) {
	m := s.mirrors()[s.lyingMirror]
	s.tracef("      misdirected: %v", io)
	io.off = m.Start + pageSize*s.rng.Int64N((m.Length-io.n)/pageSize+1)
}

// metaWrite is called for every write of the committer, before the write begins.
func (s *sim) metaWrite() {
	if s.metaLeft == 0 {
		return
	}
	if s.metaLeft--; s.metaLeft > 0 {
		return
	}
	switch {
	case s.cfg.meta == metaMirror:
		s.tracef("FAULT: a mirror takes no write any more")
		m := pick(s.rng, s.mirrors())
		s.disks[0].spoil(m.Start, m.Length,
			&fault{write: true, errno: int32(pick(s.rng, mediumErrnos)), left: -1})
	case !s.metaBad:
		s.tracef("FAULT: all mirrors refuse writes for a while")
		s.refuseMetadata(true)
	}
}

// refuseMetadata begins or ends a time in which all mirrors of the backing refuse writes.
func (s *sim) refuseMetadata(on bool) {
	s.metaBad = on
	var f *fault
	if on {
		f = &fault{write: true, errno: int32(pick(s.rng, mediumErrnos)), left: -1,
			lands: s.chance(1, 2)}
	}
	for _, m := range s.mirrors() {
		s.disks[0].spoil(m.Start, m.Length, f)
	}
}

// environment changes what is wrong with the disks while the device is in use.
func (s *sim) environment() {
	switch s.rng.IntN(12) {
	case 0, 1, 2:
		s.spoil()
	case 9, 10, 11:
		if s.cfg.crumble {
			s.crumble()
		}
	case 3:
		if s.metaBad && s.cfg.meta == metaAll {
			s.tracef("the mirrors take writes again")
			s.refuseMetadata(false)
			s.metaLeft = 0
		}
	case 4, 5:
		if !s.cfg.vanish {
			return
		}
		if d := pick(s.rng, s.disks); d.missing != 0 {
			s.tracef("disk %d returns", d.index)
			s.back(d)
		} else if s.chance(1, 3) {
			d.missing = int32(pick(s.rng, vanishErrnos))
			s.stats.Vanishes++
			s.awayStep, d.away = s.step, s.step
			s.tracef("disk %d vanishes: %s", d.index, errnoName(-d.missing))
			if d.index == 0 {
				s.missingStep = s.step
			}
		}
	case 6:
		if s.cfg.shortages {
			s.shortage(true)
			s.shortageEnds = s.now + s.rng.Int64N(int64(shortageFor))
		}
	case 7, 8:
		switch s.cfg.meta {
		case metaFlaky:
			s.flicker()
		case metaFlips:
			s.flip()
		}
	}
}

// shortageFor is how long a shortage lasts at most.
const shortageFor = 100 * time.Millisecond

// shortage begins or ends a time in which most operations fail for lack of resources.
func (s *sim) shortage(on bool) {
	s.shortageEnds = 0
	for _, d := range s.disks {
		d.rates.resource = s.cfg.rates.resource
		if on {
			d.rates.resource = 900
		}
	}
}
