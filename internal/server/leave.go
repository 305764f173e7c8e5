package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"ublkremap/internal/control"
	"ublkremap/ublk"
)

// How a server that is asked to leave its device does it.
//
// The device is quiesced where the kernel can: it hands out no more requests.
// Then the queues end what is on its way to the disk, answer what that
// completes, and stop; a request that is not answered by then, such as one whose
// heal waits for a commit, stays with the kernel and comes to the next server,
// as after a crash. Nothing is handed over but the disk: everything acknowledged
// is on it, and what is not flushed is everything to a server that starts. So
// a server that is killed anywhere in here leaves what SIGKILL always leaves.

// ending says how a server was asked to end. The first who asks decides.
type ending uint8

const (
	endNot ending = iota
	endStop
	endLeave
)

const (
	// quiesceWait bounds QUIESCE_DEV. Leaving works without it.
	quiesceWait = 2 * time.Second
	// idleWait bounds how long a leaving server waits for its own metadata
	// writes before it ends the threads that do them, which waits again.
	idleWait = 5 * time.Second
)

// end asks the server to end this way. It reports whether it will, and whether
// this is the first who asks.
func (s *server) end(how ending) (will, first bool) {
	s.endMu.Lock()
	defer s.endMu.Unlock()
	return s.endLocked(how)
}

func (s *server) endLocked(how ending) (will, first bool) {
	if s.ending == endNot {
		first = true
		s.ending = how
		if how == endStop {
			close(s.stopAsked)
		} else {
			close(s.leaveAsked)
		}
	}
	return s.ending == how, first
}

func (s *server) endsBy() ending {
	s.endMu.Lock()
	defer s.endMu.Unlock()
	return s.ending
}

// Leave begins to give the device to another server.
func (s *server) Leave(_ context.Context, claim string) error {
	if !s.live.Load() {
		return fmt.Errorf("%w: the device is not live", control.ErrRefused)
	}
	s.endMu.Lock()
	defer s.endMu.Unlock()
	if slices.Contains(s.stays, claim) {
		return fmt.Errorf("%w: the upgrade that asks has been given up", control.ErrRefused)
	}
	if _, first := s.endLocked(endLeave); !first {
		return errEnding
	}
	return nil
}

// errEnding refuses what comes too late.
var errEnding = fmt.Errorf("%w: the device is being stopped, or given to another server already",
	control.ErrRefused)

// Stay forbids to leave in the name of a claim. The server that claims may be dead
// and its request to leave still be on its way: it would leave the device to
// nobody, after whoever started it was told that this server serves on.
func (s *server) Stay(_ context.Context, claim string) error {
	s.endMu.Lock()
	defer s.endMu.Unlock()
	if s.ending != endNot {
		return errEnding
	}
	// No request is on its way for as long as it takes to give up so many upgrades.
	s.stays = append(s.stays[max(0, len(s.stays)+1-maxStays):], claim)
	return nil
}

const maxStays = 64

// leaveDevice ends the queues and leaves the device in the kernel; Run returns
// once that is so. As long as I/O on the disk does not end there is no other way
// than to wait for it.
func (s *server) leaveDevice() {
	s.live.Store(false)
	s.log.Info().Msg("leaving the device to another server")
	go func() {
		ctx := context.Background()
		if s.info().Features.Has(ublk.FeatureQuiesce) {
			// It comes before the queues end, so that it can never meet the next
			// server's.
			limited, cancel := context.WithTimeout(ctx, 2*quiesceWait)
			if err := s.ctl.Quiesce(limited, s.info().ID, quiesceWait); err != nil {
				s.log.Warn().Err(err).Msg("the device is not quiesced; leaving it all the same")
			}
			cancel()
		}
		for s.device.Leave(ctx) != nil {
			s.log.Error().Msg("I/O on the disk does not end; waiting on")
		}
	}()
}

// ended does what is left to do after the last queue has ended. What must not
// happen is that a device is deleted that somebody else only quiesced.
func (s *server) ended() error {
	switch s.endsBy() {
	case endStop:
		return s.finish()
	case endLeave:
		return s.left()
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopWait)
	defer cancel()
	info, err := s.ctl.Info(ctx, s.info().ID)
	switch {
	case err == nil && info.State == ublk.StateDead, errors.Is(err, ublk.ErrNotFound):
		return s.finish() // stopped from outside
	case err != nil:
		return fmt.Errorf("%s: %w: %w", s.info().BlockPath(), ErrTaken, err)
	}
	return fmt.Errorf("%s: %w: it is %s; start it again", s.info().BlockPath(), ErrTaken,
		info.State)
}

// left ends a server whose device waits for the next one: release does all
// that is left. A commit of unknown outcome is worth avoiding, nothing more.
func (s *server) left() error {
	if err := s.keeper.leave(idleWait); err != nil {
		s.log.Warn().Err(err).Msg("leaving all the same")
	}
	s.leaveUntold()
	s.log.Info().Msg("left the device to another server")
	return nil
}
