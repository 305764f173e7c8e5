package sim

import "ublkremap/metadata"

// noteEvents notes how far the flight recorder is on the disks.
func (sv *server) noteEvents() {
	if n := sv.coord.EventsDurable(); n > 0 {
		sv.s.eventsDurable = n
	}
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
