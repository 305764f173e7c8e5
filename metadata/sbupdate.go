package metadata

// sbStep is one copy of the superblock.
type sbStep struct {
	device uint8
	offset int64
}

// sbUpdate writes the superblock to all of its places, one at a time, so that
// a cut can tear at most one copy. Spare devices come first: they may be ahead
// of the backing, never behind.
type sbUpdate struct {
	wanted  bool
	opening bool // raise the epoch
	active  bool
	now     *Superblock // the newest that was written with success
	next    *Superblock // what is being written
	gen     uint64      // the last generation tried
	buf     []byte
	steps   []sbStep
	at      int
	written [MaxDevices]int
}

func (s *sbUpdate) init(img *Image) {
	s.now, s.next = img.sb.clone(), img.sb.clone()
	s.gen = img.maxGeneration
	s.buf = AlignedBytes(PageSize)
	for d := len(s.now.Devices) - 1; d >= 0; d-- {
		for _, off := range s.now.copies(uint8(d)) {
			s.steps = append(s.steps, sbStep{uint8(d), off})
		}
	}
}

// startSuperblocks begins an update that is wanted, once no record is under
// way but one that waits for it.
func (c *Committer) startSuperblocks() {
	s := &c.sb
	if !s.wanted || s.active || c.rec.active && !c.rec.marking {
		return
	}
	s.wanted, s.active, s.at = false, true, 0
	clear(s.written[:])
	regions := append(s.next.Regions[:0], s.now.Regions...)
	*s.next, s.next.Devices = *s.now, s.next.Devices
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
		r.Stale = m.state == MirrorStale || m.state == MirrorRebuilding
		r.StaleFrom = Position{}
		if r.Stale {
			r.StaleFrom = m.staleFrom
		}
	}
	c.stepSuperblocks()
}

func (c *Committer) stepSuperblocks() {
	s := &c.sb
	if s.at == len(s.steps) {
		c.superblocksEnded()
		return
	}
	step := s.steps[s.at]
	if s.opening && step.device == 0 && s.at > 0 && s.steps[s.at-1].device != 0 {
		for d := 1; d < len(s.now.Devices); d++ {
			if s.written[d] == 0 {
				// It would look absent at the next start: do not serve.
				c.superblocksEnded()
				return
			}
		}
	}
	s.next.encode(s.buf, step.device)
	c.issue(opSuperblock, 0, step.device, step.offset, s.buf)
}

func (c *Committer) superblockDone(err error) {
	s := &c.sb
	if err == nil {
		s.written[s.steps[s.at].device]++
	} else {
		c.err = err
	}
	s.at++
	c.stepSuperblocks()
}

func (c *Committer) superblocksEnded() {
	s := &c.sb
	ok := s.written[0] > 0
	s.active = false
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
		if m.state != mirrorRebuilt {
			continue
		}
		if m.state = MirrorGood; !ok {
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
