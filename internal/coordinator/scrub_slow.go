package coordinator

import (
	"cmp"
	"slices"
	"time"

	"ublkremap/metadata"
	"ublkremap/remap"
)

// This file finds blocks that read, and take much longer for it than others: a drive reads them
// again and again before it succeeds. One slow read says little. It may have waited behind users'
// requests, for an SSD that tidied up, or for a machine that stood still. So a slow read is only a
// suspicion:
//
//   - It is judged by the disk's own reads: the median of the last ones of about the same size.
//   - Its blocks are read again later, in pieces of an eighth, then unit by unit, then once more.
//     Only a unit that was slow each time is slow. Each look comes some seconds after the last one.
//   - Before each look another place is read. If that is slow too, it is the time that is slow and
//     not the place, and the look comes later.
//
// The list of slow blocks is kept in memory. After a restart it is empty until the next pass. With
// ScrubOptions.RelocateSlow the blocks are moved to spare units at the end of a pass, when slow
// spare units are known (remap/spare_scrub.go).

const (
	// slowSample is of how many reads the median is taken, and slowLeast of how many at least.
	slowSample, slowLeast = 128, 32 // until then the limit is the floor
	// slowTimes is how many times as long as the median a read must take.
	slowTimes = 8
	// slowFloor and slowFloorRotational are how long it must take at least. On a disk that rotates
	// a seek and a few rotations are no sign of anything.
	slowFloor           = int64(20 * time.Millisecond)
	slowFloorRotational = int64(100 * time.Millisecond)
	// slowLater is after how long the next look at a suspicion comes.
	slowLater = int64(5 * time.Second)
	// slowLooks is how many looks a unit gets: as part of a piece, alone, and alone again.
	slowLooks = 3
	// slowPieces is into how many pieces a suspicious run is divided.
	slowPieces = 8
	// slowReferences is how many places to compare with are considered, on either side.
	slowReferences = 8
	// slowPostponed is how often a look may be put off because another place was slow too.
	slowPostponed = 5
	// slowSuspects and slowRuns are how many runs are remembered.
	slowSuspects, slowRuns = 256, 4096
)

// slowSuspect is a run of blocks that was slow to read.
type slowSuspect struct {
	run       remap.Run
	looks     int // that found it slow
	postponed int
	due       int64
}

// slowRun is a run of blocks that are slow to read, at home or in the spare region.
type slowRun struct {
	remap.Run
	spared bool
}

// slow is the search for slow blocks.
type slow struct {
	times    [slowSample]int64 // ns, of the last reads
	n, next  int
	limit    int64 // a read that takes longer is suspicious
	suspects []slowSuspect
	// The look that is under way.
	looking   bool
	reference bool // another place is being read
	now       slowSuspect
	at        uint64 // where its next piece begins
	// Blocks found in this pass, and in the one before it.
	found, before []slowRun
	moving        slowMove
}

// beginPass forgets what belongs to the last pass.
func (s *slow) beginPass() {
	s.before, s.found = s.found, nil
	s.suspects, s.looking, s.reference = nil, false, false
	m := &s.moving
	m.next, m.block, m.count = 0, 0, 0 // a move may still be under way
}

// slowFloor is how long a read may always take.
func (c *Coordinator) slowFloor() int64 {
	if c.scrub.cfg.Rotational {
		return slowFloorRotational
	}
	return slowFloor
}

// sample takes how long a read took.
func (s *slow) sample(took, floor int64) {
	s.times[s.next] = took
	s.next, s.n = (s.next+1)%slowSample, min(s.n+1, slowSample)
	if s.n < slowLeast || s.next%8 != 0 {
		return
	}
	sorted := s.times
	slices.Sort(sorted[:s.n])
	s.limit = max(floor, slowTimes*sorted[s.n/2])
}

// timed takes how long a read of the scrub took, if nothing failed in it.
func (c *Coordinator) timed(r *ScrubResult, read *scrubRead) {
	s := &c.scrub.slow
	took := int64(r.Slowest)
	well := read.ended == 0 && r.Failed == 0 && len(r.Weak) == 0 && !c.scrub.void
	switch {
	case s.looking:
		c.looked(took, well, read)
	case well:
		if took > s.limit && len(s.suspects) < slowSuspects {
			s.suspects = append(s.suspects, slowSuspect{due: c.drv.Now() + slowLater,
				run: remap.Run{Start: r.SlowBlock, Count: uint64(r.SlowCount)}})
		}
		if r.SlowCount >= c.scrub.cfg.MaxBlocks/2 {
			s.sample(took, c.slowFloor())
		}
	}
}

// lookAgain begins a look at a suspicion that is due, or goes on with one. It reports whether a
// read is under way now.
func (c *Coordinator) lookAgain(now int64) bool {
	s := &c.scrub.slow
	if !s.looking {
		i := slices.IndexFunc(s.suspects, func(x slowSuspect) bool { return x.due <= now })
		if i < 0 {
			return false
		}
		s.now = s.suspects[i]
		s.suspects = slices.Delete(s.suspects, i, i+1)
		if s.now.run.Start+s.now.run.Count > c.scrub.now.Position {
			return false // its read did not count, and comes again
		}
		s.looking, s.at = true, s.now.run.Start
		if c.readReference(now) {
			return true
		}
	}
	return c.readPiece(now)
}

// readReference reads another place that was not slow: the next one below the suspicious one, or
// else above it.
func (c *Coordinator) readReference(now int64) bool {
	s, most := &c.scrub.slow, uint64(c.scrub.cfg.MaxBlocks)
	own := s.now.run.Start / most
	for i := range uint64(2 * slowReferences) {
		n := own - 1 - i
		if i >= own || i >= slowReferences {
			n = own + 1 + i%slowReferences
		}
		block, count := c.nextGood(n * most)
		end := block + uint64(count)
		if count == 0 || end > c.scrub.now.Position || s.inDoubt(block, end) {
			continue
		}
		s.reference = true
		c.look(now, block, uint64(count))
		return true
	}
	return false
}

// inDoubt reports whether any of some blocks are slow, or suspicious.
func (s *slow) inDoubt(from, to uint64) bool {
	over := func(r remap.Run) bool { return r.Start < to && from < r.Start+r.Count }
	return over(s.now.run) ||
		slices.ContainsFunc(s.suspects, func(x slowSuspect) bool { return over(x.run) }) ||
		slices.ContainsFunc(s.found, func(x slowRun) bool { return over(x.Run) })
}

// readPiece reads the next piece of the run that is looked at.
func (c *Coordinator) readPiece(now int64) bool {
	s := &c.scrub.slow
	run := &s.now.run
	end := run.Start + run.Count
	for s.at < end {
		size := c.pieceOf(run)
		to := min(end, s.at/size*size+size)
		block := s.at
		s.at = to
		if known, ok := c.shared.Map().Next(block, to); ok &&
			known.Kind&(remap.KindPending|remap.KindLost) != 0 {
			continue
		}
		c.look(now, block, to-block)
		return true
	}
	s.looking = false
	c.scrub.due = now + 1
	return true
}

// pieceOf is how large the pieces of a run are, in blocks: whole units.
func (c *Coordinator) pieceOf(run *remap.Run) uint64 {
	per := c.shared.Geometry().BlocksPerUnit()
	if c.scrub.slow.now.looks > 0 {
		return per
	}
	return max(per, (run.Count/slowPieces+per-1)/per*per)
}

func (c *Coordinator) look(now int64, block, count uint64) {
	s := &c.scrub
	s.began, s.bytes = now, count*uint64(c.shared.Geometry().BlockSize)
	s.reads[0] = scrubRead{busy: true, block: block, count: uint32(count)}
	s.underWay, s.end = 1, s.now.Position
	c.drv.ReadForScrub(ScrubRead{Tag: 0, Block: block, Count: uint32(count)})
}

// looked takes the end of a read of a look, and how long it took. well: nothing failed in it.
func (c *Coordinator) looked(took int64, well bool, read *scrubRead) {
	s := &c.scrub.slow
	reference := s.reference
	s.reference = false
	switch {
	case !well:
	case reference:
		if took > s.limit/2 { // it is the time that is slow, or everything is by now
			s.looking = false
			if s.now.postponed++; s.now.postponed <= slowPostponed {
				s.now.due = c.drv.Now() + slowLater
				s.suspects = append(s.suspects, s.now)
			}
		}
		s.sample(took, c.slowFloor())
	case took > s.limit:
		c.slowAgain(remap.Run{Start: read.block, Count: uint64(read.count)})
	}
}

// slowAgain takes a piece that was slow again.
func (c *Coordinator) slowAgain(run remap.Run) {
	s := &c.scrub.slow
	looks := s.now.looks + 1
	per := c.shared.Geometry().BlocksPerUnit()
	if run.Count <= per && looks == 1 {
		looks = slowLooks - 1 // it was alone already
	}
	if looks < slowLooks && !plantedSlowOnce {
		s.suspects = append(s.suspects, slowSuspect{run: run, looks: looks,
			due: c.drv.Now() + slowLater})
		return
	}
	c.scrub.now.Slow += uint32(run.Count)
	info := c.shared.Map().Unit(run.Start / per)
	s.found = addSlow(s.found, slowRun{run, info.N > 0})
}

// addSlow adds a run to a list that is in order. A list that is full stays as it is.
func addSlow(list []slowRun, run slowRun) []slowRun {
	i, _ := slices.BinarySearchFunc(list, run.Start, func(r slowRun, at uint64) int {
		return cmp.Compare(r.Start, at)
	})
	switch {
	case i > 0 && list[i-1].spared == run.spared &&
		list[i-1].Start+list[i-1].Count == run.Start:
		list[i-1].Count += run.Count
		return list
	case len(list) == slowRuns:
		return list
	}
	return slices.Insert(list, i, run)
}

// awaitLooks reports whether suspicions are left, and then sets when the next look is due.
func (c *Coordinator) awaitLooks() bool {
	s := &c.scrub.slow
	if len(s.suspects) == 0 {
		return false
	}
	due := s.suspects[0].due
	for _, x := range s.suspects {
		due = min(due, x.due)
	}
	c.scrub.due, c.scrub.waits = max(due, c.drv.Now()+1), "blocks that were slow are read again"
	return true
}

// SlowBlocks appends the runs of blocks that are slow to read: what this pass has found, and what
// the last one found beyond where this one is. Blocks that have left their homes since are left
// out.
func (c *Coordinator) SlowBlocks(dst []remap.Run) []remap.Run {
	s := &c.scrub.slow
	for _, r := range s.found {
		dst = c.appendSlow(dst, r)
	}
	for _, r := range s.before {
		if c.scrub.now.State != metadata.ScrubIdle && r.Start >= c.scrub.now.Position {
			dst = c.appendSlow(dst, r)
		}
	}
	return dst
}

// appendSlow appends those blocks of a run that are still where they were slow.
func (c *Coordinator) appendSlow(dst []remap.Run, r slowRun) []remap.Run {
	for at, end := r.Start, r.Start+r.Count; at < end; {
		known, ok := c.shared.Map().Next(at, end)
		if !ok {
			known = remap.Run{Start: end}
		}
		switch {
		case !r.spared && known.Start > at:
			dst = append(dst, remap.Run{Start: at, Count: known.Start - at})
		case r.spared && known.Kind == remap.KindMapped:
			dst = append(dst, remap.Run{Start: known.Start, Count: known.Count})
		}
		at = known.Start + known.Count
	}
	return dst
}

// slowMove moves slow blocks to spare units, at the end of a pass.
type slowMove struct {
	underWay, ended bool
	next            int // of slow.found
	res             remap.MoveResult
	block, count    uint64 // what is being moved
}

// slowBatch is how many units are moved at once, at most.
const slowBatch = remap.MoveBatch

// relocateSlow begins to move the next slow blocks, and reports whether there are any. At least
// half of the spare region stays for blocks that do not read. Spare units that are suspect, among
// them slow ones, count as taken: so none of them is used.
func (c *Coordinator) relocateSlow() bool {
	s := &c.scrub
	m := &s.slow.moving
	per := c.shared.Geometry().BlocksPerUnit()
	for s.now.RelocateSlow && m.next < len(s.slow.found) && !c.shared.Tripped() {
		good, total := c.arbiter.GoodSpares()
		r := &s.slow.found[m.next]
		at := max(m.block+m.count, r.Start)
		if at >= r.Start+r.Count {
			m.next, m.block, m.count = m.next+1, 0, 0
			continue
		}
		if good <= total/2 {
			return false
		}
		m.block, m.count = at, min(min(slowBatch, good-total/2)*per, r.Start+r.Count-at)
		m.underWay = true
		move := remap.Move{Block: m.block, Count: m.count, ToSpare: true,
			Cause: metadata.CauseScrub}
		if r.spared {
			move.Again = remap.AgainSlow
		}
		done := func(r remap.MoveResult) { m.res, m.ended = r, true }
		if err := c.Move(move, done); err != nil {
			done(remap.MoveResult{Err: err})
		}
		return true
	}
	return false
}

// stepSlow goes on once a move of slow blocks has ended.
func (c *Coordinator) stepSlow() {
	s := &c.scrub
	m := &s.slow.moving
	if !m.ended {
		return
	}
	m.underWay, m.ended = false, false
	switch {
	case s.void:
		c.settleBurst()
	default:
		s.now.Relocated += uint32(m.res.Moved)
		s.bytes, s.took = 0, 0
		c.pace(c.drv.Now(), 0) // TickScrub comes back to what is left
	}
}
