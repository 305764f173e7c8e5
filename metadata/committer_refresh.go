package metadata

// scrub writes again what the load found bad, right after the start: a latent
// error must not wait until the other mirror fails too. Log slots that hold
// nothing of use are zeroed, and read back, one at a time; slots of checkpoints
// get new checkpoints, see cmirror.dirty; records that a mirror lacks were
// written again before, see flight.repairs.
type scrub struct {
	todo    []scrubSlot
	active  bool
	reading bool
	buf     []byte // an atom
	done    uint64 // places that were bad and are good again
}

// scrubSlot is a log slot that is to be written, or, if mirror is
// superblockPlace, a copy of the superblock that is to be looked at.
type scrubSlot struct{ mirror, slot int }

const superblockPlace = -1

// lookAtSuperblocks reads all copies of the superblock, after each checkpoint:
// nothing else does between two starts, and there may be years.
func (c *Committer) lookAtSuperblocks() {
	for _, t := range c.scrub.todo {
		if t.mirror == superblockPlace {
			return // still at it
		}
	}
	for i := range c.sb.places {
		if c.sb.places[i].good {
			c.scrub.todo = append(c.scrub.todo, scrubSlot{superblockPlace, i})
		}
	}
}

// superblockRead looks at a copy that was read. One that is not what was last
// written there is written again.
func (c *Committer) superblockRead(at int, err error) {
	p := &c.sb.places[at]
	if c.sb.active || !p.good {
		return // it is being written, or will be
	}
	if err == nil {
		if c.sb.newest(c.scrub.buf[:PageSize], p) {
			return
		}
		err = errReadBack
	}
	if !blames(err) {
		return // it was not reached: after the next checkpoint it is looked at again
	}
	c.err = err
	p.good = false
	c.sb.mend = true
}

// reserved is what a log slot holds that is not to be used: it waits to be
// scrubbed, or did not get well. No checkpoint covers it.
var reserved = Position{Epoch: maxEpoch + 1}

// maxReserved is the part of a log that may be reserved: one of so many slots.
// Any others are written over when it is their turn.
const maxReserved = 8

func (c *Committer) wantScrub(i int, mi *mirrorImage) {
	m, n := &c.ms[i], 0
	for s := range mi.slots {
		if st := mi.slots[s].state; (st == slotUnreadable || st == slotDamaged) &&
			n < len(m.slots)/maxReserved {
			m.hold(s, reserved)
			c.scrub.todo = append(c.scrub.todo, scrubSlot{i, s})
			n++
		}
	}
	m.scrubs = n
}

// unreserve gives up scrubbing a mirror that is rebuilt: its slots are free, but
// for the one that is being written.
func (c *Committer) unreserve(i int) {
	m, s := &c.ms[i], &c.scrub
	for slot, p := range m.slots {
		if p == reserved {
			m.letGo(slot)
		}
	}
	m.scrubs = 0
	if s.active && s.todo[0].mirror == i {
		m.hold(s.todo[0].slot, reserved)
	}
}

// stepScrub begins with the next slot.
func (c *Committer) stepScrub() {
	s := &c.scrub
	for c.phase == phaseOpen && !s.active && len(s.todo) > 0 {
		t := s.todo[0]
		if t.mirror == superblockPlace {
			s.active = true
			p := &c.sb.places[t.slot]
			c.queueOp(opScrub, 0, Op{Device: p.device, Offset: p.offset, Data: s.buf[:PageSize],
				Read: true})
			return
		}
		m := &c.ms[t.mirror]
		if m.moving || m.slots[t.slot] != reserved || !m.stands() {
			s.todo = append(s.todo[:0], s.todo[1:]...) // it is cleared, or will be
			m.scrubs = max(m.scrubs-1, 0)
			if m.slots[t.slot] == reserved {
				m.letGo(t.slot)
			}
			continue
		}
		s.active, s.reading = true, false
		clear(s.buf)
		c.issue(opScrub, 0, m.device, m.logOffset(t.slot), s.buf)
	}
}

func (c *Committer) scrubDone(err error) {
	s := &c.scrub
	t := s.todo[0]
	if t.mirror == superblockPlace {
		s.todo, s.active, c.changed = append(s.todo[:0], s.todo[1:]...), false, true
		c.superblockRead(t.slot, err)
		return
	}
	m := &c.ms[t.mirror]
	if err == nil && !s.reading {
		s.reading = true
		c.queueOp(opScrub, 0, Op{Device: m.device, Offset: m.logOffset(t.slot), Data: s.buf,
			Read: true})
		return
	}
	s.todo, s.active, c.changed = append(s.todo[:0], s.todo[1:]...), false, true
	m.scrubs = max(m.scrubs-1, 0)
	if m.slots[t.slot] != reserved {
		return // cleared meanwhile
	}
	if err == nil {
		s.done++
		m.letGo(t.slot)
		return
	}
	// It stays out of use, until the next start or until the mirror moves.
	c.err = err
	c.troubled(m, err)
}
