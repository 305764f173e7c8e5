package metadata

import (
	"bytes"
	"slices"
)

// superblockTries is how often a copy is written before it counts as failed.
const superblockTries = 3

// copyState is one copy, as the update sees it.
type copyState struct {
	copyPlace
	good bool // as far as is known it can be read, and is the newest
	done bool // the stage under way is through with it
}

// updateStage is how far an update has come.
type updateStage uint8

const (
	updateIdle    updateStage = iota
	updateVerify              // reads the copies that are known as good
	updateRefresh             // writes bad copies again, with the superblock that they had
	updateWrite               // writes the new superblock
)

// updateNews says what an update is for.
type updateNews uint8

const (
	newsNone       updateNews = iota // copies are verified and refreshed, nothing else
	newsDeferrable                   // there is a new superblock, which can wait
	newsUrgent                       // there is one that a start or a record waits for
)

// copyStep is what is being done with one copy.
type copyStep uint8

const (
	copyVerify copyStep = iota // read it: it should be the newest
	// copyTemplate: read the last copy of a spare device. Only the numbers that a start
	// changes are put into it, because it may be older than the backing's by more than those.
	copyTemplate
	copyWrite    // write it
	copyReadBack // read what was written
)

// superblockUpdate writes the superblock to all of its places, one at a time, each
// durable and read back before the next.
//
// It survives a cut at any moment, which tears the copy that is being written, while other
// places take writes and do not read, or take no writes. A copy that reads is written over
// only while another one of its device is known to read: one that this update has verified,
// or has written and read back. So all copies are verified first. Then the bad ones are
// written before the good ones, byte 0 last. Spare devices come before the backing: they may
// be ahead of it, never behind.
//
// A device may have only one copy left that reads, with no other place that can be written.
// Then that copy stays as it is, with two exceptions: a start needs a new epoch, and, on the
// backing, a record may need the mark of a mirror that missed it. A start changes only
// numbers, which lie in the first 512 bytes. So a cut leaves the old superblock or the new
// one, even of the only copy, however often such a set is started. The mark lies in another
// sector, so a cut in that write can tear the last copy. That risk is taken because a mirror
// has failed as well: without the mark nothing would say that what was acknowledged has
// only one copy.
type superblockUpdate struct {
	wanted  bool // there is something new to say
	opening bool // raise the epoch
	refresh bool // copies are bad: they are to be written again, as they were
	// uncertain: an update failed, but a copy of it may be on a disk nevertheless, and say
	// something wrong about a mirror. The next update corrects it.
	uncertain bool

	stage   updateStage
	news    updateNews
	begun   bool            // a write of the new superblock was begun
	now     *Superblock     // the newest that was written with success
	next    *Superblock     // what is being written
	gen     uint64          // the last generation tried
	places  []copyState     // the backing's last, and byte 0 after the others
	written [MaxDevices]int // copies of the new superblock

	at       int // the copy that the step is about
	step     copyStep
	try      int
	template bool   // buf is made from the copy itself
	buf      []byte // what is written
	back     []byte // what is read
}

func (s *superblockUpdate) active() bool { return s.stage != updateIdle }

func (s *superblockUpdate) init(img *Image) {
	s.now = img.sb.clone()
	// A set of an older version gets its third superblocks with the first start. This is safe
	// because neither data nor a region lies there. With the largest atoms a region does, and the
	// set gets none.
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

// hasRecorder has the next start set the feature bit of the flight recorder.
func (s *superblockUpdate) hasRecorder() {
	s.now.Compat |= compatEvents
	s.next.Compat |= compatEvents
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

// choose picks the next copy to verify or to write, or none.
func (s *superblockUpdate) choose() (at int, ok bool) {
	if s.stage != updateWrite {
		for i := range s.places {
			if p := &s.places[i]; !p.done && p.good == (s.stage == updateVerify) {
				return i, true
			}
		}
		return 0, false
	}
	for d := len(s.now.Devices) - 1; d >= 0; d-- {
		if d == 0 && s.opening {
			for spare := 1; spare < len(s.now.Devices); spare++ {
				if s.written[spare] == 0 {
					return 0, false // it would look missing at the next start
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
		if s.places[best].good && s.goodCopies(d) == 1 &&
			!(s.opening || d == 0 && s.news == newsUrgent) {
			continue // the device needs this copy more than the update does
		}
		return best, true
	}
	return 0, false
}

// startSuperblocks begins an update that is wanted, once no record is under way except one that
// waits for it.
func (c *Committer) startSuperblocks() {
	s := &c.sb
	if !s.wanted && !s.refresh || s.active() ||
		c.rec.active() && c.rec.state != recordMarking {
		return
	}
	if !s.wanted {
		s.refresh, s.news = false, newsNone
		c.enterSuperblocks(updateVerify)
		return
	}
	for i := range c.mirrors {
		if c.mirrors[i].move != moveNone && c.refresh.active {
			return // a late write to the old place could hit the next mirror there
		}
	}
	s.wanted, s.refresh, s.begun, s.news = false, false, false, newsDeferrable
	if s.opening || c.rec.state == recordMarking {
		s.news = newsUrgent
	}
	clear(s.written[:])
	regions := append(s.next.Regions[:0], s.now.Regions...)
	*s.next = *s.now // they share the device table, which never changes here
	s.next.Regions = regions
	s.gen++
	s.next.Generation = s.gen
	if s.opening {
		s.next.PrevEpoch, s.next.Epoch = s.now.Epoch, c.maxEpoch
		s.next.Session, s.next.Started = c.session, c.now
		s.next.addPartition() // a set of an older version has none
	} else {
		// The start is over, and all its copies were written to the backing before this one. So a
		// spare device that has this one cannot be ahead because that start was cut.
		s.next.PrevEpoch = s.now.Epoch
	}
	for i := range c.mirrors {
		c.stateMirror(&c.mirrors[i], &s.next.Regions[c.mirrors[i].region])
	}
	s.next.stateSlots()
	c.enterSuperblocks(updateVerify)
}

// stateMirror puts into the next superblock where a mirror lies, and whether it is stale.
func (c *Committer) stateMirror(m *mirror, r *Region) {
	if m.move == moveWanted && c.leavePlace(m) {
		m.move = moveNamed
		r.Device, r.Start, r.Length = m.to.device, m.to.start, m.to.length
		r.Generation++
	}
	r.Stale = m.state == MirrorStale || m.state == MirrorRebuilding || m.state == mirrorRebuilt
	if m.state == mirrorRecorded {
		m.state = mirrorClearing
	}
	r.StaleFrom = Position{}
	if r.Stale {
		r.StaleFrom = m.staleFrom
	}
}

// enterSuperblocks begins with a stage.
func (c *Committer) enterSuperblocks(stage updateStage) {
	c.sb.stage = stage
	for i := range c.sb.places {
		c.sb.places[i].done = false
	}
	c.stepSuperblocks()
}

// stepSuperblocks goes on to the next copy, or to the next stage.
func (c *Committer) stepSuperblocks() {
	s := &c.sb
	var ok bool
	if s.at, ok = s.choose(); ok {
		p := &s.places[s.at]
		s.template, s.try, s.step = false, 1, copyWrite
		switch {
		case s.stage == updateVerify:
			s.step = copyVerify
		case s.stage == updateWrite && p.device > 0 && p.good && s.goodCopies(int(p.device)) == 1:
			s.step = copyTemplate
		}
		c.trySuperblock()
		return
	}
	switch {
	case s.stage == updateWrite:
		c.superblocksEnded(s.written[0] > 0)
	case s.stage == updateVerify && (s.news == newsNone ||
		s.news == newsDeferrable && s.goodCopies(0) < 2):
		// News that can wait is no reason to write over the last copy.
		c.enterSuperblocks(updateRefresh)
	case s.news == newsNone:
		s.stage = updateIdle
		c.changed = true
	case s.stage == updateRefresh && s.goodCopies(0) < 2:
		c.superblocksEnded(false)
	default:
		c.enterSuperblocks(updateWrite)
	}
}

// trySuperblock takes the step that the current copy is at.
func (c *Committer) trySuperblock() {
	s := &c.sb
	p := &s.places[s.at]
	if s.step != copyWrite {
		c.queueOp(opSuperblock, 0, Op{Device: p.device, Offset: p.offset, Data: s.back, Read: true})
		return
	}
	switch {
	case s.stage == updateRefresh:
		s.now.encode(s.buf, p.device)
	case !s.template:
		s.next.encode(s.buf, p.device)
	}
	s.begun = s.begun || s.stage == updateWrite
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
	reads := s.step == copyVerify || s.step == copyTemplate
	switch {
	case err != nil:
	case s.step == copyWrite:
		s.step = copyReadBack
		c.trySuperblock()
		return
	case reads && !s.newest(s.back, p):
		err, s.try = errReadBack, superblockTries
	case s.step == copyReadBack && !bytes.Equal(s.back, s.buf):
		err = errReadBack
	case s.step == copyTemplate:
		copy(s.buf, s.back)
		s.next.encodeStart(s.buf)
		s.template, s.step = true, copyWrite
		c.trySuperblock()
		return
	}
	switch {
	case err == nil:
		if s.stage == updateWrite {
			s.written[p.device]++
		}
		if !p.good {
			c.refresh.done++
		}
		p.good, p.done = true, true
		c.stepSuperblocks()
	case !tryElsewhere(err):
		c.err = err
		// A copy that was not reached does not count as unreadable: nothing is written over because
		// of that. The result of a write there is not known.
		p.good = p.good && reads
		c.superblockUnreached(p)
	case s.try < superblockTries:
		c.err = err
		s.try++
		if !reads {
			s.step = copyWrite
		}
		c.trySuperblock()
	default:
		c.err = err
		// A last copy that does not read may be written over: nothing is lost by that.
		p.good, p.done = false, s.step != copyTemplate
		c.stepSuperblocks()
	}
}

// superblockUnreached goes on where the device of a copy was not reached. An update can do without
// a spare device that is missing, except for a start.
func (c *Committer) superblockUnreached(p *copyState) {
	s := &c.sb
	if p.device > 0 {
		p.done = true
		c.stepSuperblocks()
		return
	}
	for i := range s.places {
		// A copy that was to be written, and was not, is older than the superblock that counts now.
		if q := &s.places[i]; s.stage == updateWrite && s.written[0] > 0 && !q.done {
			q.good = false
		}
	}
	if s.news != newsNone {
		c.superblocksEnded(s.written[0] > 0)
		return
	}
	s.stage = updateIdle
	c.changed = true
}

// superblocksEnded ends an update with news. ok: the new superblock counts. Otherwise no
// copy of it was written on the backing.
func (c *Committer) superblocksEnded(ok bool) {
	s := &c.sb
	s.stage, s.uncertain = updateIdle, !ok && (s.uncertain || s.begun)
	c.changed = true
	if ok {
		s.now, s.next = s.next, s.now
		c.capacity = s.now.tableCapacity()
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
		if m.move == moveNamed {
			c.superblocksNamedPlace(m, ok)
		}
		if m.state != mirrorClearing {
			continue
		}
		if m.state, m.rebuiltAt = MirrorGood, c.records; !ok {
			c.failRebuild(m)
		}
	}
	if c.rec.state != recordMarking {
		return
	}
	if ok {
		c.recordDurable()
		return
	}
	// No superblock says that the other mirror misses the record. So the record is not
	// durable, and the mirror misses nothing that is.
	for i := range c.mirrors {
		if m := &c.mirrors[i]; m.recProgress == progressFailed && m.state == MirrorStale &&
			m.staleFrom == c.rec.Position {
			m.state = m.stateBefore
		}
	}
	c.recordUnknown()
}
