package metadata

import (
	"bytes"
	"slices"
)

// superblockTries is how often a copy is written before it counts as failed.
const superblockTries = 3

// copyPlace is one copy of the superblock.
type copyPlace struct {
	device uint8
	offset int64
}

// copyState is one copy, as the update sees it.
type copyState struct {
	copyPlace
	good bool // it can be read, as far as is known, and is the newest
	done bool // the step under way is through with it
}

// updateStage is how far an update has come.
type updateStage uint8

const (
	// stageVerify reads the copies that are believed to be good.
	stageVerify updateStage = iota
	// stageRefresh writes copies that are bad, the same superblock once more.
	stageRefresh
	// stageWrite writes the new superblock.
	stageWrite
)

// superblockUpdate writes the superblock to all of its places, one at a time, each
// durable and read back before the next.
//
// The crash that this survives is a cut at any moment, which tears the copy that
// is being written, while other places take writes and do not read, or take none.
// A copy that reads is written over only while another one of its device is known
// to read: one that this update has looked at, or has written and read back.
// So first all copies are looked at; those that are bad are written before those
// that are not, byte 0 last. Spare devices come before the backing: they may be
// ahead of it, never behind.
//
// What if a device has but one copy left that reads, and no other place gets well?
// Then it stays as it is, unless a start cannot do without a new epoch, or, on the
// backing, a record not without the mark of a mirror that missed it. A start changes
// nothing but numbers, which lie in the first 512 bytes: a cut leaves the old
// superblock or the new one, also of the only copy, and however often such a set is
// started. The mark lies in another sector, and so a cut in that write is the
// one that can tear the last copy: there, and only there, a mirror has failed besides,
// and what was acknowledged would have one copy that nothing says is the only one.
type superblockUpdate struct {
	wanted  bool
	opening bool // raise the epoch
	refresh bool // copies are bad: they are to be written again, as they were
	active  bool
	// uncertain: an update failed, but a copy of it may be on a disk all the
	// same, and say of a mirror what is not so. The next one puts it right.
	uncertain bool
	now       *Superblock // the newest that was written with success
	next      *Superblock // what is being written
	gen       uint64      // the last generation tried
	buf       []byte      // what is written
	back      []byte      // what is read
	places    []copyState // the backing's last, and byte 0 after the others
	stage     updateStage
	hasNews   bool // there is a new superblock to be written
	urgent    bool // and it cannot be put off
	begun     bool // and a write of it was begun
	at        int  // what is being looked at or written
	reading   bool
	// sole: it is the last copy of a spare device. Of what it holds only the numbers are
	// changed, for it may be older than the backing's by more than those. kept:
	// buf is that.
	lastCopy, template bool
	try                int
	written            [MaxDevices]int
}

func (s *superblockUpdate) init(img *Image) {
	s.now = img.sb.clone()
	// A set of an older version gets its third superblocks with the first start.
	// No data and no region lies there; where a region does there is no room.
	if thirdSuperblock(int64(s.now.AtomSize)) < RegionStart && len(s.now.Devices) > 1 {
		s.now.Compat |= compatThird
	}
	s.next = s.now.clone()
	s.gen = img.maxGeneration
	s.buf, s.back = AlignedBytes(PageSize), AlignedBytes(PageSize)
	for d := len(s.now.Devices) - 1; d >= 0; d-- {
		for _, off := range s.now.copies(uint8(d)) {
			step := copyPlace{uint8(d), off}
			s.places = append(s.places, copyState{copyPlace: step,
				good: slices.Contains(img.newestCopies,
					step)})
		}
	}
}

// goodCopies is how many copies of a device are known to read.
func (s *superblockUpdate) goodCopies(device int) (n int) {
	for i := range s.places {
		if p := &s.places[i]; int(p.device) == device && p.good {
			n++
		}
	}
	return n
}

// pick chooses the next copy to look at or to write, or none.
func (s *superblockUpdate) choose() (at int, ok bool) {
	if s.stage != stageWrite {
		for i := range s.places {
			if p := &s.places[i]; !p.done && p.good == (s.stage == stageVerify) {
				return i, true
			}
		}
		return 0, false
	}
	for d := len(s.now.Devices) - 1; d >= 0; d-- {
		if d == 0 && s.opening {
			for spare := 1; spare < len(s.now.Devices); spare++ {
				if s.written[spare] == 0 {
					return 0, false // it would look absent at the next start
				}
			}
		}
		best := -1
		for i := range s.places {
			p := &s.places[i]
			if int(p.device) == d && !p.done && (best < 0 || s.places[best].good && !p.good) {
				best = i
			}
		}
		if best < 0 {
			continue
		}
		if s.places[best].good && s.goodCopies(d) == 1 && !(s.opening || d == 0 && s.urgent) {
			continue // the news can do without it, the device cannot
		}
		return best, true
	}
	return 0, false
}

// startSuperblocks begins an update that is wanted, once no record is under
// way but one that waits for it.
func (c *Committer) startSuperblocks() {
	s := &c.sb
	if !s.wanted && !s.refresh || s.active || c.rec.active && !c.rec.marking {
		return
	}
	if !s.wanted {
		s.refresh, s.active, s.hasNews = false, true, false
		c.enterSuperblocks(stageVerify)
		return
	}
	for i := range c.mirrors {
		if c.mirrors[i].moving && c.refresh.active {
			return // a late write into the place that is left could hit its next mirror
		}
	}
	s.wanted, s.refresh, s.active, s.hasNews, s.begun = false, false, true, true, false
	s.urgent = s.opening || c.rec.marking
	clear(s.written[:])
	regions := append(s.next.Regions[:0], s.now.Regions...)
	*s.next = *s.now // they share the device table, which never changes here
	s.next.Regions = regions
	s.gen++
	s.next.Generation = s.gen
	if s.opening {
		s.next.PrevEpoch, s.next.Epoch = s.now.Epoch, c.maxEpoch
		s.next.Session, s.next.Started = c.session, c.now
	}
	for i := range c.mirrors {
		m := &c.mirrors[i]
		r := &s.next.Regions[m.region]
		if m.moving {
			c.leavePlace(m)
		}
		if m.named = m.moving; m.named {
			r.Device, r.Start = m.toDevice, m.toStart
			r.Generation++
		}
		r.Stale = m.state == MirrorStale || m.state == MirrorRebuilding ||
			m.state == mirrorRebuilt && !m.hasRecord
		m.clearing = m.state == mirrorRebuilt && m.hasRecord
		r.StaleFrom = Position{}
		if r.Stale {
			r.StaleFrom = m.staleFrom
		}
	}
	c.enterSuperblocks(stageVerify)
}

// enterSuperblocks begins with a stage.
func (c *Committer) enterSuperblocks(stage updateStage) {
	c.sb.stage = stage
	for i := range c.sb.places {
		c.sb.places[i].done = false
	}
	c.stepSuperblocks()
}

func (c *Committer) stepSuperblocks() {
	s := &c.sb
	var ok bool
	if s.at, ok = s.choose(); ok {
		p := &s.places[s.at]
		s.template = false
		s.lastCopy = s.stage == stageWrite && p.device > 0 && p.good &&
			s.goodCopies(int(p.device)) == 1
		s.try, s.reading = 1, s.stage == stageVerify || s.lastCopy
		c.trySuperblock()
		return
	}
	switch {
	case s.stage == stageWrite:
		c.superblocksEnded(s.written[0] > 0)
	case s.stage == stageVerify && (!s.hasNews || !s.urgent && s.goodCopies(0) < 2):
		// News that can wait are no reason to write over the last copy.
		c.enterSuperblocks(stageRefresh)
	case !s.hasNews:
		s.active = false
		c.changed = true
	case s.stage == stageRefresh && s.goodCopies(0) < 2:
		c.superblocksEnded(false)
	default:
		c.enterSuperblocks(stageWrite)
	}
}

func (c *Committer) trySuperblock() {
	s := &c.sb
	p := &s.places[s.at]
	if s.reading {
		c.queueOp(opSuperblock, 0, Op{Device: p.device, Offset: p.offset, Data: s.back, Read: true})
		return
	}
	switch {
	case s.stage == stageRefresh:
		s.now.encode(s.buf, p.device)
	case !s.template:
		s.next.encode(s.buf, p.device)
	}
	s.begun = s.begun || s.stage == stageWrite
	c.issue(opSuperblock, 0, p.device, p.offset, s.buf)
}

// newest reports whether b, read from a place, is the newest superblock. The last
// copy of a spare device may be an older one, which was left as it was.
func (s *superblockUpdate) newest(b []byte, p *copyState) bool {
	generation, ok := superblockOf(b, &s.now.UUID, &s.now.Devices[p.device].UUID)
	return ok && (p.device != 0 || generation == s.now.Generation)
}

func (c *Committer) superblockDone(err error) {
	s := &c.sb
	p := &s.places[s.at]
	looks := s.stage == stageVerify || s.lastCopy && !s.template
	switch {
	case err != nil:
	case !s.reading:
		s.reading = true
		c.trySuperblock()
		return
	case looks && !s.newest(s.back, p):
		err, s.try = errReadBack, superblockTries
	case !looks && !bytes.Equal(s.back, s.buf):
		err = errReadBack
	case looks && s.lastCopy:
		copy(s.buf, s.back)
		s.next.encodeStart(s.buf)
		s.template, s.reading = true, false
		c.trySuperblock()
		return
	}
	if err != nil && !tryElsewhere(err) {
		// It was not reached. A copy that could not be looked at is not one that does not
		// read: nothing is written over on that word. What a write has left there is not
		// known.
		c.err = err
		p.good = p.good && looks
		if p.device > 0 {
			// The news can do without a spare device that is away, but for a start.
			p.done = true
			c.stepSuperblocks()
			return
		}
		for i := range s.places {
			// What was to be written, and was not, is older than what counts now.
			if q := &s.places[i]; s.stage == stageWrite && s.written[0] > 0 && !q.done {
				q.good = false
			}
		}
		if s.hasNews {
			c.superblocksEnded(s.written[0] > 0)
		} else {
			s.active = false
			c.changed = true
		}
		return
	}
	if err != nil {
		c.err = err
		if s.try < superblockTries {
			s.try++
			s.reading = looks
			c.trySuperblock()
			return
		}
		// A last copy that turns out not to read has nothing to lose any more.
		p.good, p.done = false, !(s.lastCopy && looks)
		c.stepSuperblocks()
		return
	}
	if s.stage == stageWrite {
		s.written[p.device]++
	}
	if !p.good {
		c.refresh.done++
	}
	p.good, p.done = true, true
	c.stepSuperblocks()
}

// superblocksEnded: the new superblock counts, or not one copy of it on the backing
// could be written, or none was to be.
func (c *Committer) superblocksEnded(ok bool) {
	s := &c.sb
	s.active, s.uncertain = false, !ok && (s.uncertain || s.begun)
	c.changed = true
	if ok {
		s.now, s.next = s.next, s.now
	}
	if s.opening {
		s.opening = false
		if ok {
			c.phase = phaseCheckpoint
		} else {
			c.phase = phaseClosed
			c.result(c.openTicket, OutcomeUnknown)
		}
	}
	for i := range c.mirrors {
		m := &c.mirrors[i]
		if m.named {
			c.superblocksNamedPlace(m, ok)
		}
		if !m.clearing || m.state != mirrorRebuilt {
			continue
		}
		if m.state, m.rebuiltAt = MirrorGood, c.records; !ok {
			c.failRebuild(m)
		}
	}
	if !c.rec.marking {
		return
	}
	if ok {
		c.recordDurable()
		return
	}
	// Nothing says that the other mirror misses the record, so it cannot be
	// called durable, and the mirror does not miss anything that is.
	for i := range c.mirrors {
		if m := &c.mirrors[i]; m.recProgress == progressFailed && m.state == MirrorStale &&
			m.staleFrom == c.rec.Position {
			m.state = m.stateBefore
		}
	}
	c.recordUnknown()
}
