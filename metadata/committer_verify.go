package metadata

import "slices"

// verify reads the metadata that is in use, because nothing else does between two starts, which may
// be years apart: the logs and both checkpoint slots of each mirror that a load would believe. (The
// superblocks are read after each checkpoint, see verifySuperblocks.) What reads badly is written
// again, in an order that a crash at any moment survives:
//
//   - A log slot with a record that is needed: it stays as it is until a checkpoint covers the
//     record. Before that the record is in the other mirror's log; after it nobody needs it, and
//     the slot is treated as a free one.
//   - A free log slot: it is taken out of use, zeroed and read back (refreshPlace). It holds
//     nothing that a load needs.
//   - A checkpoint slot: it is dirty, so checkpoints follow until one has been written there and
//     read back. The first goes to the slot that is not the newest. So when the newest one is bad,
//     a whole one is in the other slot before anything is written over the bad one.
//
// While a place is written nothing is said about it. Errors that are not the medium's say nothing
// either.
type verify struct {
	// What comes next: a mirror, a part of it, and how far that was read.
	mirror, part, at int
	header           header // of the checkpoint whose pages are being read
	single           int    // up to this slot the log is read slot by slot
	again            bool   // what is being read has failed once

	// What is being read.
	ticket     Ticket // 0: nothing is
	n          int    // atoms or pages
	positions  [verifyAtoms]Position
	writing    int    // the log slot that a record was being written to; negative: none
	generation uint64 // of the last checkpoint that was begun
	buf        []byte

	bad []refreshPlace // log slots that are to be refreshed, once nothing needs them
}

// The parts of a mirror.
const (
	verifyLog = iota
	verifySlot0
	verifySlot1
	verifyParts
)

// verifyBytes is how much is read at once; verifyAtoms is how many log slots at most.
const (
	verifyBytes = 64 << 10
	verifyAtoms = 16
)

// Verify begins to read the next part of the metadata that is in use, and returns how many bytes
// that are. Its ticket ends when the part was read. With restart it begins from the start. It
// reports false when all was read, and while the Committer is not open.
func (c *Committer) Verify(restart bool) (t Ticket, bytes int, ok bool) {
	v := &c.reads
	if c.phase != phaseOpen || v.ticket != 0 {
		return 0, 0, false
	}
	if v.buf == nil {
		v.buf = AlignedBytes(max(verifyBytes, len(c.refresh.buf)))
	}
	if restart {
		v.mirror, v.part, v.at, v.single = 0, 0, 0, 0
	}
	for ; v.mirror < len(c.mirrors); v.nextPart(true) {
		m := &c.mirrors[v.mirror]
		for v.part < verifyParts && m.authoritative() && m.move == moveNone {
			offset, bytes := c.partOf(m)
			if bytes == 0 {
				v.nextPart(false)
				continue
			}
			v.ticket, v.generation, v.writing = c.ticket(), c.ck.generation, -1
			if c.rec.active() {
				v.writing = m.recSlot
			}
			clear(v.buf[:bytes])
			c.queueOp(opVerify, 0, Op{Device: m.device, Offset: offset, Data: v.buf[:bytes],
				Read: true})
			return v.ticket, bytes, true
		}
	}
	return 0, 0, false
}

// nextPart goes on with the next part of a mirror, or with the next mirror.
func (v *verify) nextPart(mirror bool) {
	v.part, v.at, v.single, v.again = v.part+1, 0, 0, false
	if mirror {
		v.mirror, v.part = v.mirror+1, 0
	}
}

// partOf says what is read next of a mirror; 0 bytes: nothing is left of the current part.
func (c *Committer) partOf(m *mirror) (offset int64, bytes int) {
	v := &c.reads
	if v.part == verifyLog {
		v.n = min(verifyAtoms, len(v.buf)/int(m.atom), len(m.slots)-v.at)
		if v.at < v.single {
			v.n = 1
		}
		copy(v.positions[:v.n], m.slots[v.at:])
		return m.logOffset(v.at), v.n * int(m.atom)
	}
	slot := v.part - verifySlot0
	switch {
	case c.ck.active() && m.ckProgress == progressPending && m.ckSlot == slot:
		return 0, 0 // it is being written, and read back
	case v.at == 0:
		v.n = 1
		return m.headerOffset(slot), PageSize
	}
	page := uint32(v.at - 1)
	v.n = int(min(v.header.pages-page, uint32(len(v.buf)/PageSize)))
	return m.pageOffset(slot, page), v.n * PageSize
}

// verifyDone takes the end of a read.
func (c *Committer) verifyDone(err error) {
	v := &c.reads
	m := &c.mirrors[v.mirror]
	c.result(v.ticket, OutcomeDurable)
	v.ticket, c.changed = 0, true
	switch {
	case !m.authoritative() || m.move != moveNone:
		v.nextPart(true)
	case badPlace(err) && v.n > 1 && v.part == verifyLog:
		v.single = v.at + v.n
	case badPlace(err) && !v.again:
		v.again = true
	case v.part == verifyLog:
		for i := range v.n {
			c.verifiedAtom(m, v.at+i, i, err)
		}
		v.at, v.again = v.at+v.n, false
	case v.generation != c.ck.generation || err != nil && !badPlace(err):
		v.nextPart(false)
	default:
		c.verifiedSlot(m, v.part-verifySlot0, err)
	}
}

// verifiedAtom looks at what was read of a log slot, the i-th of what was read.
func (c *Committer) verifiedAtom(m *mirror, slot, i int, err error) {
	v := &c.reads
	p := v.positions[i]
	switch {
	case slot == v.writing || c.rec.active() && slot == m.recSlot || m.slots[slot] != p,
		err != nil && !badPlace(err), p == reserved, plantedVerifyBlind:
		return
	case err == nil && p == Position{}:
		return // what a free slot holds does not matter
	case err == nil:
		r, ok := decodeRecord(v.buf[i*int(m.atom):][:m.atom], &c.layout.sb.UUID)
		if ok && r.Position == p {
			return
		}
		err = errReadBack
	}
	c.err = err
	place := refreshPlace{v.mirror, slot}
	if !slices.Contains(v.bad, place) {
		v.bad = append(v.bad, place)
	}
	if p != (Position{}) && m.state == MirrorGood {
		m.state = MirrorWeak // a checkpoint follows
	}
}

// verifiedSlot looks at what was read of a checkpoint slot.
func (c *Committer) verifiedSlot(m *mirror, slot int, err error) {
	v := &c.reads
	set := &c.layout.sb.UUID
	bad := err != nil
	switch {
	case bad:
	case v.at == 0:
		h, ok := decodeHeader(v.buf[:PageSize], set)
		if ok && h.pages > 0 && h.pages <= m.pages() {
			v.header, v.at, v.again = h, 1, false
			return
		}
		bad = !ok && slot == m.new // the other slot may never have been written
	default:
		for i := range v.n {
			_, _, ok := decodePage(v.buf[i*PageSize:][:PageSize], set, v.header.checkpointID,
				uint32(v.at-1+i))
			bad = bad || !ok
		}
		if v.at += v.n; !bad && uint32(v.at-1) < v.header.pages {
			v.again = false
			return
		}
	}
	if bad && !plantedVerifyBlind {
		m.dirty |= 1 << slot
	}
	v.nextPart(false)
}

// refreshVerified has log slots that read badly refreshed, as soon as nothing needs them.
func (c *Committer) refreshVerified() {
	v := &c.reads
	v.bad = slices.DeleteFunc(v.bad, func(p refreshPlace) bool {
		m := &c.mirrors[p.mirror]
		switch {
		case !m.authoritative() || m.move != moveNone || m.slots[p.slot] == reserved:
			return true
		case m.slots[p.slot] != Position{} || c.rec.active() && m.recSlot == p.slot:
			return false
		case m.refreshes < len(m.slots)/maxReserved:
			m.use(p.slot, reserved)
			m.refreshes++
			c.refresh.todo = append(c.refresh.todo, p)
		}
		return true
	})
}
