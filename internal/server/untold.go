package server

import (
	"errors"
	"fmt"
)

// What becomes of a flush that failed and that no user was told of, when this server ends. A server
// that dies takes it along: the next one cannot know, and what the dead one had written and not
// flushed counts as dirty, no more.

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
	if errs == nil { // it was the server's before this one
		return fmt.Errorf("%s: %w", s.set.Devices[0].Path(), ErrFlushUntold)
	}
	return errors.Join(errs...)
}

// leaveUntold leaves word to the server that the device is left to: its first flush of a
// user fails.
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

// inheritUntold takes the word of the server that left the device, and of the disks.
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

// toldInPerson takes the word back from the record, once this server serves: it tells it itself,
// and a server that comes after it died would tell it twice.
func (s *server) toldInPerson() {
	if !s.record.FlushUntold {
		return
	}
	s.record.FlushUntold = false
	if err := s.record.Write(); err != nil {
		s.log.Warn().Err(err).Msg("the runtime record is not written")
	}
}
