package server

import (
	"errors"
	"math"
	"time"

	"golang.org/x/sys/unix"

	"ublkremap/ublk"
)

const (
	// roomIdle is how long no large request may have come before the memory for such requests is
	// given back. This is checked twice.
	roomIdle = 20 * time.Second
	// roomAgain is the time after which a server that was granted too little asks again.
	roomAgain = 5 * time.Second
	// lockTries and lockWait bound how long one server waits for another one's decision.
	lockTries = 100
	lockWait  = 10 * time.Millisecond
	// fillWait is how long a start waits for the first limit of requests. It can wait for a request
	// that a disk does not answer.
	fillWait = 5 * time.Second
)

// outgrew is called by queues when a request is as large as it can be at the moment.
func (s *server) outgrew() {
	select {
	case s.outgrown <- struct{}{}:
	default: // it is known already
	}
}

// fillBuffers makes present the part of the copy buffers that always stays. Larger requests are
// kept away then, except those that came with a device that was recovered.
func (s *server) fillBuffers() {
	most := int64(math.MaxInt64)
	if stay := s.demand.stay(); stay > 0 {
		most = s.demand.tags() * int64(stay)
	}
	present, all, err := s.device.Prefault(most)
	if err == nil && most != math.MaxInt64 {
		if err = s.device.Grant(s.device.Granted()); err != nil {
			// Larger requests cannot be kept away, so there must be memory for them.
			present, _, _ = s.device.Prefault(math.MaxInt64)
		}
	}
	log := s.log.Debug()
	if err != nil && s.live.Load() { // else it ends already
		log = s.log.Warn().Err(err).Str("do", "if it is swapped to, use a smaller --depth, "+
			"--queues or --max-io")
	}
	log.Int64("present", present).Int64("of", all).Msg("memory for requests")
}

// tendRoom lets the memory of the copy buffers follow the load, until the device ends. It sleeps as
// long as no large requests come.
func (s *server) tendRoom(end <-chan struct{}) {
	stay := s.demand.stay()
	if stay == 0 || stay == s.demand.maxIO {
		return
	}
	var tick <-chan time.Time
	seen, ok := uint64(0), true
	if s.device.Granted() > stay {
		tick = time.After(roomIdle)
	}
	for ok {
		select {
		case <-end:
			return
		case <-s.outgrown:
			if !s.slow() {
				ok = s.growRoom()
			}
		case <-tick:
			if s.slow() {
				break
			}
			now := s.device.LargeRequests()
			if now == seen {
				tick = nil
				ok = s.setRoom(stay)
				continue
			}
			seen = now
			if s.device.Granted() < s.demand.maxIO {
				ok = s.growRoom()
			}
		}
		wait := roomIdle
		if s.device.Granted() < s.demand.maxIO {
			wait = roomAgain
		}
		tick = time.After(wait)
	}
}

// slow reports whether a request is under way for long. The kernel changes the limit when no
// request is under way, and keeps new ones away until then. A disk can take minutes for a bad
// sector, and requests for good ones must not wait for it.
func (s *server) slow() bool { return s.shared.Ages().Slow > 0 }

// growRoom grants as much more of the buffers as there is free memory for.
func (s *server) growRoom() bool {
	defer oneAtATime()()
	m, err := memoryNow()
	if err != nil {
		s.log.Warn().Err(err).Msg("memory for large requests")
		return false
	}
	now := int64(s.device.Granted())
	want := min(now+allowance(m)/s.demand.tags(), int64(s.demand.maxIO))
	// Every step makes the queues run dry, so small steps are not worth it. The queue that asked
	// for this one does not ask again until the next step.
	if want < int64(s.demand.maxIO) && want < now+now/4 {
		return true
	}
	return s.setRoom(int(want))
}

// setRoom sets how large requests can be, and reports whether to continue adapting.
func (s *server) setRoom(bytes int) bool {
	err := s.device.Grant(bytes)
	switch {
	case err == nil:
		s.log.Debug().Int("bytes", s.device.Granted()).Int("most",
			s.demand.maxIO).Msg("how large a request can be")
		return true
	case errors.Is(err, ublk.ErrLimit):
		s.log.Info().Err(err).Msg("how large a request can be is left to somebody else")
		return false
	case s.live.Load():
		s.log.Warn().Err(err).Msg("memory for large requests")
	}
	return true
}

func waitForLock(fd int) {
	for range lockTries {
		if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err == nil {
			return
		}
		time.Sleep(lockWait)
	}
}
