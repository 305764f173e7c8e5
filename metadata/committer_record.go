package metadata

import (
	"errors"
	"fmt"
)

// recordTries is how many log slots of a mirror a record is written to before
// the mirror counts as failed.
const recordTries = 4

// waitingTx is a transaction, or a part of a Resume, that waits for a record.
type waitingTx struct {
	ticket Ticket
	n      int  // entries
	last   bool // its ticket ends with it
}

// txQueue holds transactions in the order in which they were made. Its memory
// is reused.
type txQueue struct {
	txs     []waitingTx
	entries []Entry
	tx, ent int // heads
}

func (q *txQueue) empty() bool { return q.tx == len(q.txs) }

func (q *txQueue) push(tx waitingTx, entries []Entry) {
	if q.empty() {
		q.reset()
	} else if q.tx > 1024 && q.tx > len(q.txs)/2 {
		q.txs = q.txs[:copy(q.txs, q.txs[q.tx:])]
		q.entries = q.entries[:copy(q.entries, q.entries[q.ent:])]
		q.tx, q.ent = 0, 0
	}
	q.txs = append(q.txs, tx)
	q.entries = append(q.entries, entries...)
}

func (q *txQueue) reset() { q.txs, q.entries, q.tx, q.ent = q.txs[:0], q.entries[:0], 0, 0 }

// recordState is how far the record that is being written has come.
type recordState uint8

const (
	recordNone    recordState = iota // none is being written
	recordWriting                    // to the mirrors
	// recordMarking: it is on a mirror. Before it may be called durable, the superblocks
	// must say that another one misses it.
	recordMarking
	recordRepairing // one of recordWrite.repairs is written again
)

// recordWrite is the one record that is being written.
type recordWrite struct {
	state recordState
	record
	buf     []byte // an atom
	data    []byte // what is written: buf, or a repair
	txs     []waitingTx
	wait    int            // mirrors whose write has not ended
	repairs []mirrorRepair // still to do by Open
}

func (r *recordWrite) active() bool { return r.state != recordNone }

type mirrorRepair struct {
	mirror int
	repair
}

// startRecord begins the next record if it may: the epoch record of an Open, or as
// many waiting transactions as it can hold.
func (c *Committer) startRecord() {
	if c.rec.active() || c.sb.active() || c.sb.wanted {
		return
	}
	epoch := c.phase == phaseEpoch
	if !epoch && (c.phase != phaseOpen || c.ck.stage == checkpointHeld || c.queue.empty() &&
		(!c.needRecord || c.suspended)) {
		return
	}
	if c.paced() || !c.makeRoom() {
		return
	}
	r := &c.rec
	clear(r.buf)
	r.txs = r.txs[:0]
	r.kind, r.count = recordEpoch, 0
	if !epoch {
		r.kind = recordEntries
		q := &c.queue
		for !q.empty() && int(r.count)+q.txs[q.tx].n <= MaxEntries {
			tx := q.txs[q.tx]
			for i := range tx.n {
				putEntry(recordEntry(r.buf, int(r.count)+i), &q.entries[q.ent+i])
			}
			r.count += uint32(tx.n)
			q.tx++
			q.ent += tx.n
			r.txs = append(r.txs, tx)
		}
	}
	// The attempt uses the number up, even if it fails.
	c.seq++
	r.Position = Position{Epoch: c.sb.now.Epoch, Sequence: c.seq}
	r.prev = c.durable
	r.sbGeneration = c.sb.now.Generation
	r.session = c.session
	r.scrub = c.scrub
	r.encode(r.buf, &c.layout.sb.UUID)
	r.data = r.buf
	r.state, r.wait = recordWriting, 0
	for i := range c.mirrors {
		m := &c.mirrors[i]
		m.recProgress, m.recTry, m.recCopies, m.secondCopy, m.recErr = progressNone, 0, 0, false,
			nil
		m.ckPaced = m.ckSteps
		if m.takesRecords() {
			c.tryRecord(i)
		}
	}
	if r.wait == 0 {
		c.recordEnded()
	}
}

// paced reports whether a record has to wait for the next step of the checkpoint.
// From the moment on when a mirror's log has less than three eighths left, one
// record goes out for each write or read of the checkpoint on that mirror, with all that
// has gathered meanwhile. So a storm of commits waits for single steps, which are
// milliseconds, and not for the whole checkpoint because the log ran full: as mirrors
// are laid out, a log of 4 KiB atoms has as many slots in three eighths as a checkpoint has
// steps, also one of 16 M entries (TestLogOutlastsCheckpoint).
func (c *Committer) paced() bool {
	if !c.ck.active() {
		return false
	}
	for i := range c.mirrors {
		m := &c.mirrors[i]
		if m.takesRecords() && m.ckProgress == progressPending && m.ckSteps == m.ckPaced &&
			len(m.slots)-m.used < len(m.slots)/8*3 {
			return true
		}
	}
	return false
}

// makeRoom reports whether a record can begin: every mirror that takes records
// has the free slots, or is given up. If there are none, it begins a checkpoint.
func (c *Committer) makeRoom() bool {
	room := false
	for i := range c.mirrors {
		m := &c.mirrors[i]
		if !m.takesRecords() {
			continue
		}
		if len(m.slots)-m.used >= c.copies(m) {
			room = room || m.makesDurable()
			continue
		}
		switch {
		case m.rebuilding():
			// Records have filled it before its checkpoint was done.
			c.failRebuild(m)
		case c.ck.active() && (m.ckProgress == progressPending || m.forced < 3):
			return false // it will free some, or make way for one that does
		case c.collected != c.durable:
			return false // the caller has yet to take what a checkpoint would cover
		case !c.ck.active() && c.phase == phaseOpen && m.forced < 3:
			m.forced++
			c.startCheckpoint(true)
			return false
		}
	}
	if room {
		return true
	}
	// Nothing was written, so the transactions that wait are dropped.
	if c.err == nil {
		c.err = ErrLogFull
	} else if !errors.Is(c.err, ErrLogFull) {
		c.err = fmt.Errorf("%w: %w", ErrLogFull, c.err)
	}
	c.changed = true
	if c.phase == phaseEpoch {
		c.result(c.openTicket, OutcomeDropped)
		c.phase = phaseClosed
		return false
	}
	c.suspended = true
	c.dropWaiting(0)
	return false
}

// tryRecord writes the record to the next free slot of a mirror.
func (c *Committer) tryRecord(i int) {
	m, r := &c.mirrors[i], &c.rec
	var slot int
	var ok bool
	if m.secondCopy {
		slot, ok = m.nextFreeFar(m.recSlot, m.recTry > 0)
	} else {
		slot, ok = m.nextFree()
	}
	if !ok || m.recTry == recordTries {
		if m.recProgress = progressFailed; m.recCopies > 0 {
			m.recProgress = progressDone
		}
		return
	}
	m.recTry++
	m.recProgress, m.recSlot = progressPending, slot
	r.wait++
	c.issue(opRecord, i, m.device, m.logOffset(slot), r.data)
}

func (c *Committer) recordDone(i int, err error) {
	m, r := &c.mirrors[i], &c.rec
	r.wait--
	if err == nil {
		m.recProgress = progressDone
		m.recCopies++
		m.use(m.recSlot, r.Position)
	} else {
		// The slot may have a bad sector, or it may hold the record after all. It stays free, and
		// the same bytes go to the next slot. That is also right where a flush failed: the record
		// is still here, and is written once more with a flush of its own. What others had in the
		// cache is lost, and the server that flushed tells the user. If the path fails, another
		// slot is no better.
		c.err, m.recErr = err, err
		if !tryElsewhere(err) {
			m.recTry = recordTries
		}
		c.tryRecord(i)
	}
	if r.wait == 0 {
		c.recordEnded()
	}
}

// recordEnded decides what became of the record, once every mirror has
// answered.
func (c *Committer) recordEnded() {
	c.changed = true
	if c.rec.state == recordRepairing {
		c.repairEnded()
		return
	}
	durable, copies, only := false, 0, 0
	for i := range c.mirrors {
		m := &c.mirrors[i]
		if m.recProgress == progressDone && m.authoritative() {
			durable = durable || m.makesDurable()
			copies, only = copies+1, i
		}
	}
	if !durable {
		c.recordUnknown()
		return
	}
	// One sector that goes bad must not undo it: if a load would rely on one mirror alone, that
	// mirror takes a second copy. If no other slot takes it, the first copy must be enough: then
	// four sectors are bad already.
	if m := &c.mirrors[only]; copies == 1 && !m.secondCopy {
		m.secondCopy, m.recTry = true, 0
		c.tryRecord(only)
		if c.rec.wait > 0 {
			return
		}
	}
	// A crash now finds the record on the good mirror only, with nothing that
	// says so. If that mirror were lost then, the other one would look whole.
	// So the mark in the superblocks comes first.
	if c.markFailed() {
		c.rec.state = recordMarking
		c.sb.wanted = true
		return
	}
	c.recordDurable()
}

// repairEnded continues after a record that a mirror lacked was written again.
func (c *Committer) repairEnded() {
	r := &c.rec
	m := &c.mirrors[r.repairs[0].mirror]
	if m.recProgress == progressFailed && m.state == MirrorGood {
		m.state = MirrorWeak
	}
	r.repairs = r.repairs[1:]
	r.state = recordNone
}

// markFailed makes the mirrors that did not take the record stale. It reports whether the
// superblocks must say so.
func (c *Committer) markFailed() (mark bool) {
	for i := range c.mirrors {
		m := &c.mirrors[i]
		if m.recProgress != progressFailed {
			continue
		}
		if !m.authoritative() {
			c.failRebuild(m)
			c.noteTrouble(m, m.recErr)
			continue
		}
		m.stateBefore, m.state, m.staleFrom = m.state, MirrorStale, c.rec.Position
		if m.fails == 0 || c.records-m.rebuiltAt > backoffRecords<<maxBackoff {
			m.notBefore, m.fails = 0, 0 // a first try to bring it back at once
		} else {
			m.backOff(c.records) // it comes and goes
		}
		m.ckProgress = progressNone
		mark = true
		c.noteTrouble(m, m.recErr)
	}
	// A mirror that was stale when the set was created misses records from the first one
	// on. From now on the superblock says which one that is. Else the other mirror, if its
	// log is lost, would look like that of a set without any records.
	for i := range c.mirrors {
		if m := &c.mirrors[i]; m.state == MirrorStale && m.staleFrom == (Position{}) {
			m.staleFrom = c.rec.Position
			mark = true
		}
	}
	return mark
}

func (c *Committer) recordDurable() {
	r := &c.rec
	r.state = recordNone
	c.changed = true
	c.durable = r.link
	c.records++
	c.needRecord = false
	for i := range c.mirrors {
		m := &c.mirrors[i]
		switch {
		case m.state != mirrorRebuilt:
		case m.recProgress == progressDone:
			m.state = mirrorRecorded
			c.sb.wanted = true
		default:
			c.needRecord = true // it was not written to yet
		}
	}
	if c.sb.uncertain {
		c.sb.wanted = true
	}
	if r.kind == recordEpoch {
		c.phase = phaseOpen
		c.sb.wanted = c.sb.wanted || c.startUnseen()
		c.result(c.openTicket, OutcomeDurable)
	}
	for _, tx := range r.txs {
		if tx.last {
			c.result(tx.ticket, OutcomeDurable)
		}
	}
	c.reported = c.durable
}

// startUnseen reports whether a spare device has no record of this start, because its mirrors are
// stale. With a copy of the backing from before this start it would look like a device whose start
// was cut before the backing got the new epoch. The next superblock says that this is not so.
func (c *Committer) startUnseen() bool {
	var seen uint32 // a bit per device
	for i := range c.mirrors {
		if m := &c.mirrors[i]; m.recProgress == progressDone {
			seen |= 1 << m.device
		}
	}
	return (seen|1)+1 != 1<<len(c.sb.now.Devices)
}

// recordUnknown ends a record that no mirror of the backing is known to have. It may be
// on a disk anyway. The next one follows the last durable record, and so voids it.
func (c *Committer) recordUnknown() {
	r := &c.rec
	r.state = recordNone
	c.changed = true
	for i := range c.mirrors {
		// A mirror may have taken it: one of a spare device, or one of the backing while
		// the superblocks could not be written. No checkpoint covers a record that never
		// counted, so nothing else would free its slots. The slots of earlier such records
		// are freed here, those of this record only when another takes its place: a
		// superblock that was written after all may say that there was one as new.
		m := &c.mirrors[i]
		for s, p := range m.slots {
			if c.durable.Less(p) && p != r.Position && p != reserved {
				m.freeSlot(s)
			}
		}
	}
	if r.kind == recordEpoch {
		c.phase = phaseClosed
		c.result(c.openTicket, OutcomeUnknown)
		return
	}
	c.suspended = true
	if plantedSequenceReused {
		c.seq--
	}
	var last Ticket
	for _, tx := range r.txs {
		last = tx.ticket
		c.result(last, OutcomeUnknown)
	}
	c.dropWaiting(last)
}

// dropWaiting ends all waiting transactions, except for parts of the ticket that
// has ended.
func (c *Committer) dropWaiting(ended Ticket) {
	for _, tx := range c.queue.txs[c.queue.tx:] {
		if tx.ticket != ended {
			ended = tx.ticket
			c.result(ended, OutcomeDropped)
		}
	}
	c.queue.reset()
}

// advanceOpening takes the steps of Open between the superblocks and the epoch
// record.
func (c *Committer) advanceOpening() {
	if c.phase == phaseCheckpoint && !c.ck.active() {
		c.phase = phaseRepair
		for i := range c.mirrors {
			m := &c.mirrors[i]
			// The last run was cut with its log nearly full. A checkpoint comes before the next
			// record. Otherwise a few starts that are cut would use up the last free slots.
			if m.takesRecords() && m.used > len(m.slots)/4*3 &&
				m.cover.Less(c.collected.Position) &&
				m.forced == 0 {
				m.forced++
				c.phase = phaseCheckpoint
			}
		}
		if c.phase == phaseCheckpoint {
			c.startCheckpoint(false)
		}
	}
	if c.phase != phaseRepair || c.rec.active() {
		return
	}
	r := &c.rec
	for len(r.repairs) > 0 {
		rep := &r.repairs[0]
		if m := &c.mirrors[rep.mirror]; !m.takesRecords() || !m.cover.Less(rep.Position) {
			r.repairs = r.repairs[1:]
			continue
		}
		m := &c.mirrors[rep.mirror]
		m.recTry, m.recCopies, m.secondCopy = 0, 0, rep.second
		if rep.second {
			m.recSlot = rep.slot
		}
		r.link = link{Position: rep.Position}
		r.data, r.state, r.wait = rep.data, recordRepairing, 0
		c.tryRecord(rep.mirror)
		if r.wait == 0 {
			c.recordEnded()
			continue
		}
		return
	}
	c.phase = phaseEpoch
}
