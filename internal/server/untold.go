package server

import (
	"errors"
	"fmt"
)

// This file handles a flush that failed and that no user was told of, when this server
// ends. If the server dies, that knowledge is lost: the next server cannot know of it. Data
// that the dead server had written and not flushed only counts as dirty.

// untoldFlush says what an orderly stop has to report, nil for nothing.
func (s *server) untoldFlush() error {
	if !s.shared.UnreportedFlush() {
		return nil
	}
	var errs []error
	for i, d := range s.set.Devices {
		if s.shared.FailedFlushes(uint8(i)) > 0 {
			errs = append(errs, fmt.Errorf("%s: %w", d.Path(), ErrFlushUntold))
		}
	}
	if errs == nil { // an earlier server's flush failed
		return fmt.Errorf("%s: %w", s.set.Devices[0].Path(), ErrFlushUntold)
	}
	return errors.Join(errs...)
}

// leaveUntold tells the server that gets the device of the failed flush. That server fails its
// first flush of a user.
func (s *server) leaveUntold() {
	if !s.shared.UnreportedFlush() {
		return
	}
	s.record.FlushUntold = true
	if err := s.record.Write(); err != nil {
		s.log.Error().Err(err).Msg("a flush has failed, and the next server cannot be told of " +
			"it: what was written and not flushed may be lost")
	}
}

// inheritUntold notes what the server that left the device, and the disks, report about failed
// flushes.
func (s *server) inheritUntold() {
	if s.record != nil && s.record.FlushUntold {
		s.shared.InheritFlush()
	}
	for _, d := range s.set.Devices {
		if d.LostCache() {
			s.log.Error().Str("device", d.Path()).Msg("a flush failed at the start: what an " +
				"earlier server wrote, and nobody flushed, may be lost; the next flush of a user " +
				"is answered with an error")
			s.shared.InheritFlush()
		}
	}
}

// toldInPerson removes the mark from the record, once this server serves. This server reports the
// failed flush itself. If it died with the mark in place, the server after it would report the
// flush a second time.
func (s *server) toldInPerson() {
	if !s.record.FlushUntold {
		return
	}
	s.record.FlushUntold = false
	if err := s.record.Write(); err != nil {
		s.log.Warn().Err(err).Msg("the runtime record is not written")
	}
}
