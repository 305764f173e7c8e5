package sim

import (
	"errors"

	"ublkremap/internal/coordinator"
	"ublkremap/metadata"
)

// noteEvents notes how far the flight recorder is on the disks.
func (sv *server) noteEvents() {
	if n := sv.coord.EventsDurable(); n > 0 {
		sv.s.eventsDurable = n
	}
}

// drillEvery is how many steps lie between two rehearsals.
const drillEvery = 97

// maybeDrill rehearses a heal now and then.
func (sv *server) maybeDrill() {
	s := sv.s
	if !s.cfg.events || !sv.opened || sv.queuesEnded || s.step%drillEvery != 0 {
		return
	}
	mayFail, faults := s.mayFailDrill(), s.spareFaults // a fault can be over when the drill ends
	// An error means that the device is in no state for it.
	_ = sv.coord.Drill(func(r coordinator.DrillResult) {
		s.stats.Drills++
		s.tracef("  a drill: %d steps: %v", len(r.Steps), r.Err)
		if r.Err != nil && !errors.Is(r.Err, coordinator.ErrDrillEnded) && !mayFail &&
			!s.mayFailDrill() && s.spareFaults == faults {
			s.failf("a drill on disks that are in order: %v", r.Err)
		}
	})
}

// mayFailDrill reports whether something can be wrong that a rehearsal meets.
func (s *sim) mayFailDrill() bool {
	c := &s.cfg
	return c.meta != metaNone || c.vanish || c.shortages || c.rates != (rates{}) || c.sparesBad ||
		s.scripted || s.spareFails()
}

// inspectEvents looks at the flight recorder that a dead server has left: its events are in order,
// and what was durable is there, unless something was wrong with the metadata.
func (s *sim) inspectEvents() {
	if !s.cfg.events {
		return
	}
	events, err := metadata.EventsOn(s.devices())
	if err != nil {
		s.failf("events: %v", err)
	}
	last := uint64(0)
	for i := range events {
		n := events[i].Number
		if n <= last {
			s.failf("event %d comes after event %d", n, last)
		}
		last = n
	}
	s.stats.Recorded += uint64(len(events))
	c := &s.cfg
	if c.meta != metaNone || c.vanish || c.shortages || c.rates != (rates{}) || s.scripted {
		return
	}
	if last < s.eventsDurable {
		s.failf("event %d was durable, the newest one is %d", s.eventsDurable, last)
	}
}

// spareFails reports whether a sector of the spare region fails.
func (s *sim) spareFails() bool {
	for unit := range uint32(s.plan.SpareUnits()) {
		dev, at := s.plan.SpareOf(unit)
		for off := at; off < at+metadata.UnitSize; off += sectorSize {
			if d := s.disks[dev]; d.badAt(off, false) != nil || d.badAt(off, true) != nil {
				return true
			}
		}
	}
	return false
}
