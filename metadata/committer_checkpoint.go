package metadata

const (
	// defaultChunk is how much of a checkpoint one Op writes.
	defaultChunk = 512 << 10
	// maxReadBack is how much of a checkpoint one Op reads back.
	maxReadBack = 128 << 10
	// checkpointTries is how often one write of a checkpoint is tried. A page cannot go to another
	// place.
	checkpointTries = 3
	// backoffRecords is how many records pass, at least, between a checkpoint
	// that failed and the next that begins by itself. It doubles each time.
	backoffRecords = 64
	maxBackoff     = 5 // doublings
)

// checkpointStage is how far a checkpoint has come.
type checkpointStage uint8

const (
	checkpointNone checkpointStage = iota
	// checkpointHeld: a checkpoint waits until no record is being written.
	checkpointHeld
	checkpointPages  // pages are being written
	checkpointHeader // the header is being written
	checkpointVerify // it is being read back
)

// checkpoint is the one checkpoint that is under way. All mirrors that take
// part get the same bytes, so that a page can be taken from any of them.
type checkpoint struct {
	stage      checkpointStage
	generation uint64
	covers     link
	w          pageWriter
	buf        []byte
	filled     int    // bytes of buf that are pages
	first      uint32 // page that they begin with
	data       []byte // what is being written
	made       header // the last thing that is written
	pausing    bool   // a read is under way that only gives everything else its turn
	refused    bool   // the table cannot be written anywhere
	wait       int    // mirrors whose write has not ended
	asked      []Ticket
	tickets    []Ticket
	written    uint64 // checkpoints since the start
}

func (ck *checkpoint) active() bool { return ck.stage >= checkpointPages }

// startDueCheckpoint begins a checkpoint if one was asked for, a log is half
// full, or a mirror has to be brought back.
func (c *Committer) startDueCheckpoint() {
	if c.ck.stage == checkpointHeld {
		c.ck.stage = checkpointNone
	}
	if c.ck.active() || c.sb.active() || c.sb.wanted {
		return
	}
	asked, due, news := len(c.ck.asked) > 0, false, false
	for i := range c.mirrors {
		m := &c.mirrors[i]
		behind := m.cover.Less(c.collected.Position)
		news = news || behind || m.state != MirrorGood || m.dirty != 0
		due = due || c.records >= m.notBefore && c.wantsCheckpoint(m)
	}
	if asked && !news && c.collected == c.durable && !c.rec.active() && c.queue.empty() {
		c.endTickets(c.ck.asked, OutcomeDurable) // the newest checkpoint has it all
		c.ck.asked = c.ck.asked[:0]
		return
	}
	due = due || c.growth.wanted && !c.growth.proved && !c.growth.waits
	if asked || due {
		c.startCheckpoint(asked)
	}
}

func (c *Committer) endTickets(ts []Ticket, o Outcome) {
	for _, t := range ts {
		c.result(t, o)
	}
	c.changed = true
}

// startCheckpoint begins a checkpoint on all mirrors that are not backing off,
// or, if all is set, on all.
func (c *Committer) startCheckpoint(all bool) {
	ck := &c.ck
	part := func(m *mirror) bool {
		if c.phase != phaseOpen {
			return m.state != MirrorStale
		}
		return all || c.records >= m.notBefore
	}
	for i := range c.mirrors {
		if m := &c.mirrors[i]; m.state == MirrorStale && part(m) &&
			(c.rec.active() || c.collected != c.durable) {
			// A stale mirror must get every record from the covered one on, so the checkpoint
			// begins between two records.
			ck.stage = checkpointHeld
			return
		}
	}
	ck.stage = checkpointPages
	ck.tickets = append(ck.tickets[:0], ck.asked...)
	ck.asked = ck.asked[:0]
	// The Source is sure to show only the changes that the caller knows to be durable.
	ck.covers = c.collected
	ck.generation++
	ck.filled, ck.refused, ck.pausing, ck.wait = 0, false, false, 0
	id := checkpointID{epoch: c.sb.now.Epoch, generation: ck.generation}
	ck.w.begin(&c.layout.sb.UUID, &c.layout.lim, c.src, id, c.leastPages())
	for i := range c.mirrors {
		m := &c.mirrors[i]
		m.ckProgress = progressNone
		if !part(m) {
			continue
		}
		m.ckProgress, m.ckTry, m.ckErr = progressPending, 0, nil
		m.ckSteps, m.ckPaced = 0, 0
		m.ckSlot = 0
		if m.new >= 0 {
			m.ckSlot = 1 - m.new
		}
		if m.state == MirrorStale {
			m.state = MirrorRebuilding
			if c.otherGood(m) {
				// Nothing needs what it holds, so both checkpoint slots may be tried in turn, in
				// case one is bad. The records stay while there is room: a bad sector may turn up
				// in the good mirror's log before the checkpoint is there.
				m.ckSlot ^= int(m.fails & 1)
				if m.used > len(m.slots)/2 {
					clear(m.slots)
					m.used = 0
				}
			}
			c.unreserve(i)
		}
	}
	c.changed = true
}

// stepCheckpoint begins the next write of the checkpoint once the last one has
// ended on all mirrors.
func (c *Committer) stepCheckpoint() {
	ck := &c.ck
	if !ck.active() || ck.wait > 0 {
		return
	}
	if ck.stage == checkpointHeader {
		c.verify()
		return
	}
	n, err := 0, error(nil)
	if !ck.w.finished() {
		if ck.filled == 0 {
			ck.first = ck.w.pages
		}
		n, err = ck.w.fill(ck.buf[ck.filled:])
	}
	n += ck.filled
	ck.filled = 0
	if err != nil {
		c.err = err
		ck.refused = true
		for i := range c.mirrors {
			if c.mirrors[i].ckProgress == progressPending {
				c.mirrors[i].ckProgress = progressFailed
			}
		}
	}
	if atom := int(c.layout.sb.AtomSize); err == nil && !ck.w.finished() &&
		(n == 0 || n%atom != 0) {
		ck.filled = n
		c.pause()
		return
	}
	if n == 0 {
		// All pages are durable on the mirrors that are left, so the header may be written. A cut
		// before that leaves the older checkpoint, and the log that belongs to it.
		ck.stage = checkpointHeader
		ck.made = ck.w.header(ck.covers, c.session)
		ck.made.scrub = c.scrub
		ck.made.encode(ck.buf, &c.layout.sb.UUID)
		n = PageSize
	} else if full := roundUp(n, int(c.layout.sb.AtomSize)); full > n {
		clear(ck.buf[n:full])
		n = full
	}
	ck.data = ck.buf[:n]
	for i := range c.mirrors {
		if m := &c.mirrors[i]; m.ckProgress == progressPending {
			m.ckTry = 0
			c.tryCheckpoint(i)
		}
	}
	if ck.wait == 0 {
		c.endCheckpoint()
	}
}

// pause ends a step that has no page to write yet, because the table has more units than one step
// may examine. The step is then a read of what is about to be overwritten. Neither its result nor
// its failure matters.
func (c *Committer) pause() {
	ck := &c.ck
	for i := range c.mirrors {
		if m := &c.mirrors[i]; m.ckProgress == progressPending {
			ck.pausing = true
			ck.wait++
			c.queueOp(opCheckpoint, i, Op{Device: m.device, Offset: m.headerOffset(m.ckSlot),
				Data: m.ckBuf[:PageSize], Read: true})
			return
		}
	}
	c.endCheckpoint() // no mirror is left that it could be for
}

func (c *Committer) tryCheckpoint(i int) {
	m, ck := &c.mirrors[i], &c.ck
	m.ckTry++
	ck.wait++
	off := m.headerOffset(m.ckSlot)
	if ck.stage == checkpointPages {
		off = m.pageOffset(m.ckSlot, ck.first)
	}
	c.issue(opCheckpoint, i, m.device, off, ck.data)
}

func (c *Committer) checkpointDone(i int, err error) {
	m, ck := &c.mirrors[i], &c.ck
	ck.wait--
	m.ckSteps++
	paused := ck.pausing
	ck.pausing = false
	switch {
	case paused:
		for j := range c.mirrors {
			c.mirrors[j].ckSteps++ // of all that take part
		}
	case m.ckProgress != progressPending: // given up meanwhile
	case ck.stage == checkpointVerify:
		c.verified(i, err)
	case err != nil:
		c.err, m.ckErr = err, err
		if m.ckTry < checkpointTries && tryElsewhere(err) {
			c.tryCheckpoint(i)
		} else {
			m.ckProgress = progressFailed
		}
	}
	if ck.wait > 0 {
		return
	}
	c.changed = true
	for j := range c.mirrors {
		if c.mirrors[j].ckProgress == progressPending {
			return // the next step is for Ops
		}
	}
	c.endCheckpoint()
}

// verify reads the checkpoint back from all mirrors that have it, each at its
// own pace, the header and then the pages. Until then the log before it
// stays, and the other slot is the newest. So a sector that takes writes and does
// not read is found here, and not when the other mirror is lost.
func (c *Committer) verify() {
	ck := &c.ck
	ck.stage = checkpointVerify
	for i := range c.mirrors {
		if m := &c.mirrors[i]; m.ckProgress == progressPending {
			m.ckPage, m.ckTry = headerPage, 0
			c.readBack(i)
		}
	}
	if ck.wait == 0 {
		c.endCheckpoint()
	}
}

// headerPage stands for the header among the pages that are read back.
const headerPage = 1<<32 - 1

// readBack reads the next part of a mirror's checkpoint.
func (c *Committer) readBack(i int) {
	m, ck := &c.mirrors[i], &c.ck
	off, n := m.headerOffset(m.ckSlot), PageSize
	if m.ckPage != headerPage {
		off = m.pageOffset(m.ckSlot, m.ckPage)
		n = int(min(ck.made.pages-m.ckPage, uint32(len(m.ckBuf)/PageSize))) * PageSize
	}
	m.ckTry++
	ck.wait++
	// The buffer must not hold what an earlier read left there.
	clear(m.ckBuf[:n])
	c.queueOp(opCheckpoint, i, Op{Device: m.device, Offset: off, Data: m.ckBuf[:n], Read: true})
}

// verified looks at what was read, and goes on.
func (c *Committer) verified(i int, err error) {
	m, ck := &c.mirrors[i], &c.ck
	set := &c.layout.sb.UUID
	next := uint32(0)
	switch {
	case err != nil:
	case m.ckPage == headerPage:
		if h, ok := decodeHeader(m.ckBuf, set); !ok || h != ck.made {
			err = errReadBack
		}
	default:
		n := min(ck.made.pages-m.ckPage, uint32(len(m.ckBuf)/PageSize))
		next = m.ckPage + n
		for j := range n {
			if _, _, ok := decodePage(m.ckBuf[j*PageSize:][:PageSize], set, ck.made.checkpointID,
				m.ckPage+j); !ok {
				err = errReadBack
			}
		}
	}
	switch {
	case err != nil:
		c.err, m.ckErr = err, err
		if m.ckTry < checkpointTries && tryElsewhere(err) {
			c.readBack(i)
		} else {
			m.ckProgress = progressFailed
		}
	case next == ck.made.pages:
		m.ckProgress = progressDone
	default:
		m.ckPage, m.ckTry = next, 0
		c.readBack(i)
	}
}

func (c *Committer) endCheckpoint() {
	ck := &c.ck
	outcome, taken := OutcomeDropped, true // by all mirrors
	for i := range c.mirrors {
		m := &c.mirrors[i]
		taken = taken && m.ckProgress == progressDone
		switch m.ckProgress {
		case progressDone:
			m.cover, m.new = ck.covers.Position, m.ckSlot
			if bit := uint8(1) << m.ckSlot; m.dirty&bit != 0 {
				m.dirty &^= bit
				c.refresh.done++
			}
			m.freeUpTo(m.cover)
			m.notBefore, m.forced = 0, 0
			switch m.state {
			case MirrorWeak:
				m.state = MirrorGood
				m.fails = 0
			case MirrorGood:
				m.fails = 0
			case MirrorRebuilding:
				// The records that are left in its log are newer than the checkpoint.
				if m.hasNeeded() {
					m.state = mirrorRecorded
					c.sb.wanted = true
				} else {
					m.state = mirrorRebuilt
					c.needRecord = true
				}
			}
			if m.device == 0 {
				outcome = OutcomeDurable
			}
		case progressFailed:
			m.backOff(c.records)
			if m.state == MirrorRebuilding {
				m.state = MirrorStale
			}
		}
	}
	ck.stage = checkpointNone
	for i := range c.mirrors {
		m := &c.mirrors[i]
		// The place is at fault if the checkpoint went well elsewhere.
		if m.ckProgress == progressFailed && outcome == OutcomeDurable && !ck.refused {
			c.noteTrouble(m, m.ckErr)
		}
		m.ckProgress = progressNone
	}
	if outcome == OutcomeDurable {
		ck.written++
		c.growth.proved = taken
		c.verifySuperblocks()
		// A copy of the superblock that could not be written gets another try.
		for i := range c.sb.places {
			c.sb.wanted = c.sb.wanted || !c.sb.places[i].good
		}
	}
	c.endTickets(ck.tickets, outcome)
	ck.tickets = ck.tickets[:0]
}

// failRebuild gives up bringing a mirror back for now. The superblock still says that it
// is stale.
func (c *Committer) failRebuild(m *mirror) {
	m.ckProgress = progressNone
	m.state = MirrorStale
	m.backOff(c.records)
	c.changed = true
}

// backOff postpones the next checkpoint that the mirror takes part in.
func (m *mirror) backOff(records uint64) {
	m.notBefore = records + backoffRecords<<min(m.fails, maxBackoff)
	m.fails++
}
