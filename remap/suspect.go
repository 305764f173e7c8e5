package remap

import (
	"slices"

	"ublkremap/metadata"
)

// This file remembers which spare units failed. One that did is suspect at once: it is not
// handed out again while others are free, whatever becomes of the heal that met it. It
// is retired, durably, once three things show that its medium was at fault and not the
// path to its device: something else was read or written well on the same device after
// it had failed; a commit became durable after a spare unit of that device took
// data; and it fails again when it is tried by itself, which it is as soon as it is free: a
// device that was away for a moment is back before anybody asks. If it is well then it is not
// suspect any more. A crash before all this forgets what was suspect; then it is met
// again.
//
// The commit of a heal retires what that heal has tried, if what took its data then lies
// on the backing disk as well: the commit shows that this is there.

// suspect is a spare unit that failed.
type suspect struct {
	spare       uint32
	device      uint8
	proven      bool // something else on its device was read or written well since
	failedTwice bool
}

// retireBatch is how many spare units one commit retires.
const retireBatch = 64

// suspects are the spare units that failed and are not retired yet.
type suspects struct {
	list    []suspect
	good    uint32 // bit per device: its spare units took data that a durable commit names
	due     bool   // something moved that may let a unit be retired or tried
	entries []metadata.Entry
	pending bool // entries are with the journal
	testing bool // one is tried once more
}

func (s *suspects) init() {
	s.list = make([]suspect, 0, 256)
	s.entries = make([]metadata.Entry, 0, retireBatch)
}

// suspect notes that a spare unit failed.
func (a *Arbiter) suspect(spare uint32) {
	if a.alloc.Service(spare) != InService || a.alloc.Suspected(spare) {
		return
	}
	device, _ := a.geo.SpareOffset(spare)
	a.alloc.Suspect(spare, true)
	a.suspects.list = append(a.suspects.list, suspect{spare: spare, device: device})
}

// deviceReads notes that something on a device was read or written well: what failed there
// before did so for its medium.
func (a *Arbiter) deviceReads(device uint8) {
	for i := range a.suspects.list {
		if s := &a.suspects.list[i]; s.device == device {
			s.proven = true
		}
	}
}

// deviceSilent takes back what failed on a device that does not answer: that says nothing of the
// medium.
func (a *Arbiter) deviceSilent(device uint8) {
	a.suspects.list = slices.DeleteFunc(a.suspects.list, func(s suspect) bool {
		if s.device != device || s.proven {
			return false
		}
		a.alloc.Suspect(s.spare, false)
		return true
	})
}

// spareHolds notes that a durable commit puts blocks into a spare unit, which took them.
func (a *Arbiter) spareHolds(spare uint32) {
	if len(a.suspects.list) > 0 {
		device, _ := a.geo.SpareOffset(spare)
		a.deviceReads(device)
		a.suspects.good |= 1 << device
		a.suspects.due = true
	}
}

// retire has spare units retired that are known to be bad, or tried once more.
func (a *Arbiter) retire() {
	s := &a.suspects
	if !s.due || s.pending || s.testing || a.shared.Tripped() {
		return
	}
	s.due = false
	s.entries = s.entries[:0]
	now := a.drv.WallClock()
	for _, x := range s.list {
		switch {
		case !x.proven || s.good>>x.device&1 == 0 || a.alloc.Service(x.spare) != InService:
		case !x.failedTwice && !a.alloc.IsUsed(x.spare):
			s.testing = true
			must(a.alloc.Take(x.spare, 1))
			a.search.add(a, job{kind: jobTest, device: x.device, spare: x.spare})
			return
		case x.failedTwice && len(s.entries) < retireBatch:
			s.entries = append(s.entries, metadata.Entry{
				Spare: x.spare, Count: 1, State: metadata.StateRetired, Cause: metadata.CauseSpare,
				Time: now,
			})
		}
	}
	if len(s.entries) > 0 && a.tableFits(perEntry*uint64(len(s.entries)), 0) {
		s.pending = a.journalCommit(commitRetire, 0, s.entries)
	}
}

// suspectTested takes the end of a try of a suspect unit: it is well, or it failed while its device
// answers, or nothing is known.
func (a *Arbiter) suspectTested(spare uint32, well, bad bool) {
	a.suspects.testing, a.suspects.due = false, true
	a.free(spare, 1)
	i := slices.IndexFunc(a.suspects.list, func(s suspect) bool { return s.spare == spare })
	switch {
	case i < 0:
	case well:
		a.unsuspect(spare)
	case bad:
		a.suspects.list[i].failedTwice = true
	default:
		a.suspects.list[i].proven = false // until something is well there again
	}
}

// retired takes the outcome of the commit that retire asked for.
func (a *Arbiter) retired(durable bool) {
	a.suspects.pending, a.suspects.due = false, true
	if !durable {
		a.outcomeUnknown(a.suspects.entries)
		return
	}
	a.publish(a.suspects.entries)
}

// unsuspect forgets a spare unit that is retired, or that is well.
func (a *Arbiter) unsuspect(spare uint32) {
	if a.alloc.Suspected(spare) {
		a.alloc.Suspect(spare, false)
		a.suspects.list = slices.DeleteFunc(a.suspects.list,
			func(s suspect) bool { return s.spare == spare })
	}
}
