package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ublkremap/internal/control"
	"ublkremap/metadata"
	"ublkremap/ublk"
)

// stopDevice stops the device; Run returns once it is stopped. If a request hangs, the stop is
// tried again, because nothing else ends the device without losing the request.
func (s *server) stopDevice() {
	s.log.Info().Msg("stopping")
	s.tellStopping()
	go func() {
		for {
			ctx, cancel := context.WithTimeout(context.Background(), stopWait)
			err := s.device.Stop(ctx)
			cancel()
			if err == nil {
				return
			}
			s.log.Error().Err(err).Msg("the device does not stop; trying on")
			time.Sleep(time.Second)
		}
	}()
}

// abandon ends a start that failed. It removes a device that was made for this start. A device that
// was to be recovered stays for the next try.
func (s *server) abandon(err error) error {
	if !s.created {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopWait)
	defer cancel()
	return errors.Join(err, s.ctl.Delete(ctx, s.device.Info().ID), s.record.Remove())
}

// finish does what is left after the last request: checkpoint, flush, close and delete.
func (s *server) finish() error {
	s.tellStopping()
	s.keeper.note(metadata.Event{Kind: metadata.EventStop})
	err := errors.Join(s.writeBack(), s.letGo(), s.delete())
	s.log.Info().Msg("stopped")
	if err != nil {
		// The client that asked for the stop finds the error in the record.
		s.record.Error = err.Error()
		return errors.Join(err, s.record.Write())
	}
	return s.record.Remove()
}

// writeBack makes everything durable that was written, after the last request.
func (s *server) writeBack() error {
	stopped, err := s.keeper.finish(finishWait)
	if stopped.Metadata != nil {
		// Everything acknowledged is in the log; the next start replays it.
		s.log.Warn().Err(stopped.Metadata).Msg("no last checkpoint")
	}
	// No flush of a user comes after this that could report a failed one. A failed flush of the
	// last checkpoint is included.
	return errors.Join(err, stopped.Flush, s.untoldFlush())
}

// letGo ends the writers and gives the devices back, in this order. So everybody who still waits
// for an answer gets one, and nobody asks about closed devices. Also no write is under way to a
// closed descriptor, which may be another file by then.
func (s *server) letGo() error {
	if s.keeper != nil {
		s.keeper.stop()
	}
	s.closeSocket()
	var err error
	if s.set != nil {
		err = s.set.Close()
	}
	closeExclusive(s.exclusive)
	s.exclusive = nil
	return err
}

// delete removes the device. The device is stopped already; what can fail is that its number
// becomes free.
func (s *server) delete() error {
	wait := deleteWait
	if s.forced.Load() {
		wait = forcedWait
	}
	limited, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	err := s.ctl.Delete(limited, s.record.ID)
	if holders, held := heldBy(err); held && s.forced.Load() {
		// The user said force, so these holders are accepted.
		s.log.Warn().Str("device", s.record.Device).Str("held_by",
			fmt.Sprint(holders)).Msg("its number is free when nobody has it open any more")
		return nil
	}
	if errors.Is(err, ublk.ErrNotFound) {
		return nil
	}
	return err
}

func (s *server) closeSocket() {
	if s.socket == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), controlShutdown)
	defer cancel()
	// A client that does not hang up is not a failure of the server.
	_ = s.socket.Close(ctx)
	s.socket = nil
}

// release gives back what is left, in any state.
func (s *server) release() error {
	errs := []error{s.letGo()}
	if s.ctl != nil {
		errs = append(errs, s.ctl.Close())
	}
	s.hangs.close()
	s.written.close()
	if s.owner != nil {
		errs = append(errs, s.letNameGo())
	}
	return errors.Join(errs...)
}

// letNameGo releases the name. If nothing is left of the device, nothing is left of it in the
// runtime directory either. Only the log of a start or a stop that failed stays.
func (s *server) letNameGo() error {
	if _, err := control.ReadRecord(s.name); !errors.Is(err, control.ErrNotRunning) {
		return s.owner.Release()
	}
	return s.owner.Forget(s.inOrder)
}
