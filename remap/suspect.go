package remap

import (
	"slices"

	"ublkremap/metadata"
)

// This file remembers which spare units failed. A spare unit that fails is suspect at once: the
// allocator hands it out only while no other unit is free. It is retired, durably, when three
// things show that its medium was at fault and not the path to its device:
//
//   - Another place of the same device was read or written successfully after the failure.
//   - A commit became durable after a spare unit of that device took data.
//   - The unit fails again in a test of its own. The test comes as soon as the unit is free: a
//     device that was missing for a moment is back by then.
//
// If the test succeeds the unit is no longer suspect. Suspects are in memory only; after a crash
// they are found again when they fail again.
//
// A heal whose data went to a spare unit on the backing disk retires the units that it tried
// there before in its own commit: that commit shows that the backing disk is present.

// suspect is a spare unit that failed.
type suspect struct {
	spare       uint32
	device      uint8
	proven      bool // another place of its device was read or written successfully since
	failedTwice bool
	// slow: it has not failed, but is slow to read. It is not tested: a test shows no time.
	slow bool
}

// retireBatch is how many spare units one commit retires.
const retireBatch = 64

// suspects are the spare units that failed and are not retired yet.
type suspects struct {
	list    []suspect
	good    uint32 // bit per device: its spare units took data that a durable commit names
	due     bool   // something has changed: a unit may be ready to be retired or tested
	entries []metadata.Entry
	pending bool // entries are with the journal
	testing bool // a unit is being tested
}

func (s *suspects) init() {
	s.list = make([]suspect, 0, 256)
	s.entries = make([]metadata.Entry, 0, retireBatch)
}

// suspect notes that a spare unit failed.
func (a *Arbiter) suspect(spare uint32) {
	switch {
	case a.alloc.Service(spare) != InService:
		return
	case a.alloc.Suspected(spare):
		if i := a.suspects.of(spare); i >= 0 {
			a.suspects.list[i].slow = false // now it has failed
		}
		return
	}
	device, _ := a.geo.SpareOffset(spare)
	a.alloc.Suspect(spare, true)
	a.suspects.list = append(a.suspects.list, suspect{spare: spare, device: device})
}

// of returns where a suspect is in the list; negative: nowhere.
func (s *suspects) of(spare uint32) int {
	return slices.IndexFunc(s.list, func(x suspect) bool { return x.spare == spare })
}

// isSlow notes of a suspect that it is only slow.
func (s *suspects) isSlow(spare uint32) {
	if i := s.of(spare); i >= 0 {
		s.list[i].slow = true
	}
}

// GoodSpares returns how many free spare units are not suspect, and how many spare units there are.
func (a *Arbiter) GoodSpares() (good, total uint64) { return a.alloc.unsuspected, a.alloc.Total() }

// deviceReads notes that a place of a device was read or written successfully. So the spare units
// that failed there before did not fail because the device was missing.
func (a *Arbiter) deviceReads(device uint8) {
	for i := range a.suspects.list {
		if s := &a.suspects.list[i]; s.device == device {
			s.proven = true
		}
	}
}

// deviceSilent clears the suspects of a device of which nothing reads: their failures say nothing
// about the medium.
func (a *Arbiter) deviceSilent(device uint8) {
	a.suspects.list = slices.DeleteFunc(a.suspects.list, func(s suspect) bool {
		if s.device != device || s.proven {
			return false
		}
		a.alloc.Suspect(s.spare, false)
		return true
	})
}

// spareHolds notes that a durable commit names a spare unit that took data.
func (a *Arbiter) spareHolds(spare uint32) {
	if len(a.suspects.list) > 0 {
		device, _ := a.geo.SpareOffset(spare)
		a.deviceReads(device)
		a.suspects.good |= 1 << device
		a.suspects.due = true
	}
}

// retire commits the retirement of units that failed their test, or begins the next test.
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
		case x.slow, !x.proven || s.good>>x.device&1 == 0 || a.alloc.Service(x.spare) != InService:
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

// suspectTested takes the result of a test: the unit is good, or it is bad and its device answers,
// or the test shows nothing.
func (a *Arbiter) suspectTested(spare uint32, well, bad bool) {
	a.suspects.testing, a.suspects.due = false, true
	a.free(spare, 1)
	i := a.suspects.of(spare)
	switch {
	case i < 0:
	case well:
		a.unsuspect(spare)
	case bad:
		a.suspects.list[i].failedTwice = true
	default:
		a.suspects.list[i].proven = false // until a place there reads again
	}
}

// retired takes the outcome of the commit that retire asked for.
func (a *Arbiter) retired(durable bool) {
	a.suspects.pending, a.suspects.due = false, true
	if !durable {
		a.outcomeUnknown(a.suspects.entries)
		return
	}
	a.recordRetired(a.suspects.entries)
	a.publish(a.suspects.entries)
}

// unsuspect forgets a suspect that is retired, or that is good.
func (a *Arbiter) unsuspect(spare uint32) {
	if a.alloc.Suspected(spare) {
		a.alloc.Suspect(spare, false)
		a.suspects.list = slices.DeleteFunc(a.suspects.list,
			func(s suspect) bool { return s.spare == spare })
	}
}
