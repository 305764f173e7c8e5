package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"ublkremap/internal/control"
	"ublkremap/metadata"
	"ublkremap/ublk"
)

// This file lets a server give up its device when it is asked to.
//
// The device is quiesced where the kernel can do that: it hands out no more requests then. Then the
// queues finish what is on its way to the disk, answer the requests that this completes, and stop.
// A request that is not answered by then, such as one whose heal waits for a commit, stays with the
// kernel and comes to the next server, as after a crash. Only the disk passes to the next server:
// everything acknowledged is on it, and a server that starts treats everything as not flushed. So a
// server that is killed at any point here leaves the same state as after any SIGKILL.

// ending says how a server was asked to end. The first request decides.
type ending uint8

const (
	endNot ending = iota
	endStop
	endLeave
)

const (
	// quiesceWait bounds QUIESCE_DEV. Leaving works without it.
	quiesceWait = 2 * time.Second
	// idleWait bounds how long a leaving server waits for its own metadata writes. After that it
	// ends the threads that do them, and ending them waits again.
	idleWait = 5 * time.Second
)

// end asks the server to end in this way. It reports whether the server will, and whether this is
// the first request.
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
func (s *server) Leave(_ context.Context, token string) error {
	if !s.live.Load() {
		return fmt.Errorf("%w: the device is not live", control.ErrRefused)
	}
	s.endMu.Lock()
	defer s.endMu.Unlock()
	if slices.Contains(s.stays, token) {
		return fmt.Errorf("%w: the upgrade that asks has been given up", control.ErrRefused)
	}
	if _, first := s.endLocked(endLeave); !first {
		return errEnding
	}
	return nil
}

// errEnding refuses requests that come too late.
var errEnding = fmt.Errorf("%w: the device is being stopped, or given to another server already",
	control.ErrRefused)

// Stay forbids leaving for the upgrade with this token. Its new server may be dead while the new
// server's request to leave is still on its way. Without Stay, this server would then leave the
// device to nobody, after upgrade has reported that this server continues to serve.
func (s *server) Stay(_ context.Context, token string) error {
	s.endMu.Lock()
	defer s.endMu.Unlock()
	if s.ending != endNot {
		return errEnding
	}
	// While a request is on its way, fewer upgrades than this are given up.
	s.stays = append(s.stays[max(0, len(s.stays)+1-maxStays):], token)
	return nil
}

const maxStays = 64

// leaveDevice ends the queues and leaves the device in the kernel. Run returns once that is done.
// As long as I/O on the disk does not end, the server can only wait for it.
func (s *server) leaveDevice() {
	s.live.Store(false)
	s.log.Info().Msg("leaving the device to another server")
	go func() {
		ctx := context.Background()
		if s.info().Features.Has(ublk.FeatureQuiesce) {
			// The quiesce comes before the queues end. So it can never meet that of the next
			// server.
			limited, cancel := context.WithTimeout(ctx, 2*quiesceWait)
			if err := s.ctl.Quiesce(limited, s.info().ID, quiesceWait); err != nil {
				s.log.Warn().Err(err).Msg("the device is not quiesced; leaving it anyway")
			}
			cancel()
		}
		for s.device.Leave(ctx) != nil {
			s.log.Error().Msg("I/O on the disk does not end; waiting on")
		}
	}()
}

// ended does what is left to do after the last queue has ended. It must never delete a device that
// somebody else only quiesced.
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

// left ends a server whose device waits for the next one. Only release comes after it. Waiting for
// the keeper only helps to avoid a commit of unknown outcome; nothing more depends on it.
func (s *server) left() error {
	s.keeper.note(metadata.Event{Kind: metadata.EventLeave})
	if err := s.keeper.leave(idleWait); err != nil {
		s.log.Warn().Err(err).Msg("leaving anyway")
	}
	s.leaveUntold()
	s.log.Info().Msg("left the device to another server")
	return nil
}
