package metadata

import "slices"

// superblockTries is how often a copy is written before it counts as failed.
const superblockTries = 3

// sbStep is one copy of the superblock.
type sbStep struct {
	device uint8
	offset int64
}

// sbPlace is one copy, as the update sees it.
type sbPlace struct {
	sbStep
	good bool // it can be read, as far as is known, and is the newest
	done bool // the update under way is through with it
}

// sbUpdate writes the superblock to all of its places, one at a time, so that
// a cut can tear at most one copy. Spare devices come first: they may be ahead
// of the backing, never behind. On a device, copies that failed come first: as
// long as another one can be written, the only good copy is not at risk.
type sbUpdate struct {
	wanted  bool
	opening bool // raise the epoch
	active  bool
	// doubtful: an update failed, but a copy of it may be on a disk all the
	// same, and say of a mirror what is not so. The next one puts it right.
	doubtful bool
	now      *Superblock // the newest that was written with success
	next     *Superblock // what is being written
	gen      uint64      // the last generation tried
	buf      []byte
	places   []sbPlace // the backing's last, and byte 0 after the others
	at       int       // what is being written
	try      int
	written  [MaxDevices]int
}

func (s *sbUpdate) init(img *Image) {
	s.now, s.next = img.sb.clone(), img.sb.clone()
	s.gen = img.maxGeneration
	s.buf = AlignedBytes(PageSize)
	for d := len(s.now.Devices) - 1; d >= 0; d-- {
		for _, off := range s.now.copies(uint8(d)) {
			step := sbStep{uint8(d), off}
			s.places = append(s.places, sbPlace{sbStep: step, good: slices.Contains(img.current, step)})
		}
	}
}

// pick chooses the next copy to write, or none.
func (s *sbUpdate) pick() (at int, ok bool) {
	for d := len(s.now.Devices) - 1; d >= 0; d-- {
		if d == 0 && s.opening {
			for spare := 1; spare < len(s.now.Devices); spare++ {
				if s.written[spare] == 0 {
					return 0, false // it would look absent at the next start
				}
			}
		}
		good, best := 0, -1
		for i := range s.places {
			p := &s.places[i]
			if int(p.device) != d {
				continue
			}
			if p.good {
				good++
			}
			if !p.done && (best < 0 || s.places[best].good && !p.good) {
				best = i
			}
		}
		if best < 0 {
			continue
		}
		if d > 0 && !s.opening && good == 1 && s.places[best].good && s.written[d] == 0 {
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
	if !s.wanted || s.active || c.rec.active && !c.rec.marking {
		return
	}
	for i := range c.ms {
		if c.ms[i].moving && c.scrub.active {
			return // a late write into the place that is left could hit its next mirror
		}
	}
	s.wanted, s.active = false, true
	clear(s.written[:])
	for i := range s.places {
		s.places[i].done = false
	}
	regions := append(s.next.Regions[:0], s.now.Regions...)
	*s.next = *s.now // they share the device table, which never changes here
	s.next.Regions = regions
	s.gen++
	s.next.Generation = s.gen
	if s.opening {
		s.next.PrevEpoch, s.next.Epoch = s.now.Epoch, c.maxEpoch
		s.next.Session, s.next.Started = c.session, c.now
	}
	for i := range c.ms {
		m := &c.ms[i]
		r := &s.next.Regions[m.region]
		if m.moving {
			c.beginMove(m)
		}
		if m.named = m.moving; m.named {
			r.Device, r.Start = m.toDevice, m.toStart
			r.Generation++
		}
		r.Stale = m.state == MirrorStale || m.state == MirrorRebuilding || m.state == mirrorRebuilt && !m.seen
		m.clearing = m.state == mirrorRebuilt && m.seen
		r.StaleFrom = Position{}
		if r.Stale {
			r.StaleFrom = m.staleFrom
		}
	}
	c.stepSuperblocks()
}

func (c *Committer) stepSuperblocks() {
	s := &c.sb
	var ok bool
	if s.at, ok = s.pick(); !ok {
		c.superblocksEnded()
		return
	}
	s.try = 1
	c.writeSuperblock()
}

func (c *Committer) writeSuperblock() {
	p := &c.sb.places[c.sb.at]
	c.sb.next.encode(c.sb.buf, p.device)
	c.issue(opSuperblock, 0, p.device, p.offset, c.sb.buf)
}

func (c *Committer) superblockDone(err error) {
	s := &c.sb
	p := &s.places[s.at]
	switch {
	case err == nil:
		s.written[p.device]++
		if !p.good {
			c.scrub.done++
		}
		p.good, p.done = true, true
	case s.try < superblockTries:
		c.err = err
		s.try++
		c.writeSuperblock()
		return
	default:
		c.err = err
		p.good, p.done = false, true
	}
	c.stepSuperblocks()
}

func (c *Committer) superblocksEnded() {
	s := &c.sb
	ok := s.written[0] > 0
	s.active, s.doubtful = false, !ok
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
	for i := range c.ms {
		m := &c.ms[i]
		if m.named {
			c.endMove(m, ok)
		}
		if !m.clearing || m.state != mirrorRebuilt {
			continue
		}
		if m.state, m.back = MirrorGood, c.records; !ok {
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
	for i := range c.ms {
		if m := &c.ms[i]; m.recFate == fateFailed && m.state == MirrorStale && m.staleFrom == c.rec.Position {
			m.state = m.was
		}
	}
	c.recordUnknown()
}
