package metadata

// refresh writes again what the load found bad, right after the start, because a latent
// error must not wait until the other mirror fails too. Log slots that hold
// nothing of use are zeroed and read back, one at a time. Slots of checkpoints
// get new checkpoints, see mirror.dirty. Records that a mirror lacks have been
// written again before, see recordWrite.repairs.
type refresh struct {
	todo    []refreshPlace
	active  bool
	reading bool
	buf     []byte // an atom
	done    uint64 // places that were bad and are good again
}

// refreshPlace is a log slot that is to be written, or, if mirror is
// ofSuperblock, a copy of the superblock that is to be verified.
type refreshPlace struct{ mirror, slot int }

const ofSuperblock = -1

// verifySuperblocks reads all copies of the superblock. It is called after each checkpoint,
// because nothing else reads them between two starts, which may be years apart.
func (c *Committer) verifySuperblocks() {
	for _, t := range c.refresh.todo {
		if t.mirror == ofSuperblock {
			return // it is under way
		}
	}
	for i := range c.sb.places {
		if c.sb.places[i].good {
			c.refresh.todo = append(c.refresh.todo, refreshPlace{ofSuperblock, i})
		}
	}
}

// superblockVerified compares a copy that was read with what was last written there. If it
// differs it is written again.
func (c *Committer) superblockVerified(at int, err error) {
	p := &c.sb.places[at]
	if c.sb.active() || !p.good {
		return // it is being written, or will be
	}
	if err == nil {
		if c.sb.newest(c.refresh.buf[:PageSize], p) {
			return
		}
		err = errReadBack
	}
	if !badPlace(err) {
		return // it was not reached; the next checkpoint has it verified again
	}
	c.err = err
	p.good = false
	c.sb.refresh = true
}

// reserved marks a log slot that is not to be used: it waits to be
// refreshed, or could not be. No checkpoint covers that position.
var reserved = Position{Epoch: maxEpoch + 1}

// maxReserved is the part of a log that may be reserved: one of so many slots.
// Any others are written over when it is their turn.
const maxReserved = 8

func (c *Committer) queueRefresh(i int, mi *mirrorImage) {
	m, n := &c.mirrors[i], 0
	for s := range mi.slots {
		if st := mi.slots[s].state; (st == slotUnreadable || st == slotDamaged) &&
			n < len(m.slots)/maxReserved {
			m.use(s, reserved)
			c.refresh.todo = append(c.refresh.todo, refreshPlace{i, s})
			n++
		}
	}
	m.refreshes = n
}

// unreserve gives up refreshing a mirror that is rebuilt: its slots are free, except
// for the one that is being written.
func (c *Committer) unreserve(i int) {
	m, s := &c.mirrors[i], &c.refresh
	for slot, p := range m.slots {
		if p == reserved {
			m.freeSlot(slot)
		}
	}
	m.refreshes = 0
	if s.active && s.todo[0].mirror == i {
		m.use(s.todo[0].slot, reserved)
	}
}

// stepRefresh begins to refresh the next place.
func (c *Committer) stepRefresh() {
	s := &c.refresh
	for c.phase == phaseOpen && !s.active && len(s.todo) > 0 {
		t := s.todo[0]
		if t.mirror == ofSuperblock {
			s.active = true
			p := &c.sb.places[t.slot]
			c.queueOp(opRefresh, 0, Op{Device: p.device, Offset: p.offset, Data: s.buf[:PageSize],
				Read: true})
			return
		}
		m := &c.mirrors[t.mirror]
		if m.move != moveNone || m.slots[t.slot] != reserved || !m.authoritative() {
			s.todo = append(s.todo[:0], s.todo[1:]...) // it is cleared, or will be
			m.refreshes = max(m.refreshes-1, 0)
			if m.slots[t.slot] == reserved {
				m.freeSlot(t.slot)
			}
			continue
		}
		s.active, s.reading = true, false
		clear(s.buf)
		c.issue(opRefresh, 0, m.device, m.logOffset(t.slot), s.buf)
	}
}

func (c *Committer) refreshDone(err error) {
	s := &c.refresh
	t := s.todo[0]
	if t.mirror == ofSuperblock {
		s.todo, s.active, c.changed = append(s.todo[:0], s.todo[1:]...), false, true
		c.superblockVerified(t.slot, err)
		return
	}
	m := &c.mirrors[t.mirror]
	if err == nil && !s.reading {
		s.reading = true
		c.queueOp(opRefresh, 0, Op{Device: m.device, Offset: m.logOffset(t.slot), Data: s.buf,
			Read: true})
		return
	}
	s.todo, s.active, c.changed = append(s.todo[:0], s.todo[1:]...), false, true
	m.refreshes = max(m.refreshes-1, 0)
	if m.slots[t.slot] != reserved {
		return // cleared meanwhile
	}
	if err == nil {
		s.done++
		m.freeSlot(t.slot)
		return
	}
	// It stays out of use, until the next start or until the mirror moves.
	c.err = err
	c.noteTrouble(m, err)
}
