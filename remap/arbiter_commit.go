package remap

import "ublkremap/metadata"

// This file makes changes durable by the Journal, and then visible in the Map.

// commitKind says whom a commit's outcome is for.
type commitKind uint8

const (
	commitClaim commitKind = iota
	commitMove
	commitResume
	commitRetire
	commitEmpty // of Record
	commitMark
)

type commit struct {
	ticket Ticket
	kind   commitKind
	claim  int
}

// claimEntries writes to scratch what a claim's commit says.
func (a *Arbiter) claimEntries(c *claim) []metadata.Entry {
	m := &c.msg
	out := a.scratch[:0]
	if c.state == claimReporting {
		return a.spanEntries(out, c, metadata.Entry{State: metadata.StatePending,
			Cause: m.Cause, Time: c.time})
	}
	if c.home {
		return a.spanEntries(out, c, metadata.Entry{State: metadata.StateHome,
			Cause: metadata.CauseRetest, Time: c.time})
	}
	device, _ := a.geo.SpareOffset(c.spare)
	for _, spare := range m.Tried[:m.Tries] {
		// A spare unit on the backing disk took the data, so that disk is present. For spare
		// devices see suspect.go.
		if d, _ := a.geo.SpareOffset(spare); d == device && d == 0 &&
			a.alloc.Service(spare) == InService {
			out = append(out, metadata.Entry{
				Spare: spare, Count: 1, State: metadata.StateRetired, Cause: metadata.CauseSpare,
				Time: c.time,
			})
		}
	}
	return a.spanEntries(out, c, metadata.Entry{Spare: c.spare, State: metadata.StateMapped,
		Cause: causeOf(m), Time: c.time})
}

// causeOf says what a heal was for.
func causeOf(m *Message) metadata.Cause {
	switch {
	case m.Mapped:
		return metadata.CauseSpare
	case m.Errno == 0:
		return metadata.CauseRead // it was pending or lost
	}
	return metadata.CauseWrite
}

// spanEntries adds the state of e for the span of units of a claim: one entry for each mask, with
// consecutive spare units if e is mapped.
func (a *Arbiter) spanEntries(out []metadata.Entry, c *claim, e metadata.Entry) []metadata.Entry {
	m := &c.msg
	full := uint8(1<<a.geo.BlocksPerUnit() - 1)
	add := func(from, count uint32, mask uint8) {
		if count == 0 {
			return
		}
		e := e
		e.Unit, e.Count, e.Mask = m.Unit+uint64(from), count, mask
		if e.State == metadata.StateMapped {
			e.Spare += from
		}
		out = append(out, e)
	}
	head, tail := uint32(0), uint32(0)
	if m.First != full {
		head = 1
	}
	if m.Count > head && m.Last != full {
		tail = 1
	}
	add(0, head, m.First)
	add(head, m.Count-head-tail, full)
	add(m.Count-tail, tail, m.Last)
	return out
}

// commit hands a claim's change to the journal: the data is durable in the
// spare units, so the record may now name them.
func (a *Arbiter) commit(i int) {
	c := &a.claims[i]
	for c.count > c.msg.Count { // granted and not used
		if c.count--; !c.home {
			a.freeUnused(c.msg.Unit+uint64(c.count), c.spare+c.count)
		}
	}
	c.time = a.drv.WallClock()
	a.set(c, claimCommitting)
	if !a.journalCommit(commitClaim, i, a.claimEntries(c)) {
		a.refuse(c, MsgFailed)
	}
}

func (a *Arbiter) journalCommit(kind commitKind, claim int, entries []metadata.Entry) bool {
	ticket, err := a.journal.Commit(entries)
	if err != nil {
		// The Committer may have failed by itself, and waits to be resumed.
		a.trip(TripMetadata, "the metadata takes no commit: "+err.Error())
		return false
	}
	a.addCommit(commit{ticket, kind, claim})
	return true
}

// addCommit adds a commit to the list. Its memory is twice what is needed, so the list is seldom
// moved to the front.
func (a *Arbiter) addCommit(c commit) {
	if len(a.commits) == cap(a.commits) {
		a.commits = append(a.commitsAll[:0], a.commits...)
	}
	a.commits = append(a.commits, c)
}

// Committed takes the outcome of a commit, in the order of the tickets. If it is not durable, its
// outcome is unknown: the record may still be on the media. Committed changes the Map at once and
// never calls the Journal. The driver calls Advance after a batch of outcomes, which may call it.
func (a *Arbiter) Committed(t Ticket, durable bool) {
	if len(a.commits) == 0 || a.commits[0].ticket != t {
		panic("remap: commits answered out of order")
	}
	done := a.commits[0]
	if a.commits = a.commits[1:]; len(a.commits) == 0 {
		a.commits = a.commitsAll[:0] // with all of its memory
	}
	switch done.kind {
	case commitClaim:
		a.claimCommitted(&a.claims[done.claim], durable)
	case commitMove:
		a.move.committed(a, durable)
	case commitResume:
		a.resumed(durable)
	case commitRetire:
		a.retired(durable)
	case commitMark:
		a.mark.committed(a, durable)
	case commitEmpty:
		if !durable {
			a.outcomeUnknown(nil)
		}
	}
}

// Record asks for a record without entries, so that what the Journal says beside them becomes
// durable. It does nothing while the breaker is open. If no mirror takes the record, the breaker
// opens, as for any other.
func (a *Arbiter) Record() {
	if !a.shared.Tripped() {
		a.journalCommit(commitEmpty, 0, nil)
	}
}

func (a *Arbiter) claimCommitted(c *claim, durable bool) {
	entries := a.claimEntries(c)
	reporting := c.state == claimReporting
	if !durable {
		a.outcomeUnknown(entries)
		a.set(c, claimNone) // its spare units stay quarantined
		a.endClaim(c)
		a.answer(c, MsgFailed)
		return
	}
	a.publish(entries)
	switch {
	case reporting:
		a.recordClaim(metadata.EventPending, metadata.EventDone(c.msg.Cause), c)
		a.saveOthers(c.msg.Unit, c.msg.Cause, nil)
	case c.home:
		a.recordClaim(metadata.EventRetest, metadata.EventFinished, c)
		a.endClaim(c)
	default:
		a.recordClaim(metadata.EventRemap, metadata.EventDone(causeOf(&c.msg)), c)
		a.recordRetired(entries)
		a.spareHolds(c.spare)
		for _, spare := range c.msg.Tried[:c.msg.Tries] {
			a.suspect(spare) // if it was not retired
		}
		// A read may have found bad blocks in the new place since the claim got it.
		a.saveOthers(c.msg.Unit, metadata.CauseWrite, c.msg.Tried[:c.msg.Tries])
		// From now on other claims find the spare unit in the Map.
		a.endClaim(c)
	}
	a.set(c, claimNone)
	a.returnSpace(c)
	a.answer(c, MsgCommitted)
}

// publish makes durable entries visible.
func (a *Arbiter) publish(entries []metadata.Entry) {
	a.chargeTable(entries)
	for _, e := range entries {
		switch e.State {
		case metadata.StateMapped:
			a.leftHome(e)
			a.wellHomesChange(&e)
		case metadata.StateHome:
			a.wellHomesChange(&e)
		}
		switch e.State {
		case metadata.StateMapped, metadata.StateHome, metadata.StateLost:
			must(a.alloc.Apply(e)) // it may end a quarantine
			if !a.anyMapped(e) {
				a.m.Apply(e)
				continue
			}
			for i := range uint64(e.Count) {
				a.publishUnit(e, i)
			}
		case metadata.StatePending:
			a.m.Apply(e)
		default:
			must(a.alloc.Apply(e))
			for i := range e.Count {
				a.unsuspect(e.Spare + i)
			}
		}
	}
}

// anyMapped reports whether blocks of an entry's units live in spare units.
func (a *Arbiter) anyMapped(e metadata.Entry) bool {
	for i := range uint64(e.Count) {
		if info := a.m.Unit(e.Unit + i); info.N > 0 {
			return true
		}
	}
	return false
}

// publishUnit publishes the i-th unit of an entry that moves blocks, and frees, deferred, the spare
// units that no block lives in any more.
func (a *Arbiter) publishUnit(e metadata.Entry, i uint64) {
	e.Unit += i
	e.Count = 1
	if e.State == metadata.StateMapped {
		e.Spare += uint32(i)
	}
	before := a.m.Unit(e.Unit)
	a.m.Apply(e)
	for _, p := range before.Places[:before.N] {
		a.deferFreeUnused(e.Unit, p.Spare)
	}
}

// deferFreeUnused frees, after a grace period, a spare unit that served a unit, unless blocks live
// there or a claim will free it.
func (a *Arbiter) deferFreeUnused(unit uint64, spare uint32) {
	info := a.m.Unit(unit)
	if !holds(&info, spare) && a.alloc.IsUsed(spare) && !a.alloc.FreeDeferred(spare) &&
		!a.claimFrees(unit, spare) {
		a.grace.deferFree(a, spare)
	}
}
