package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ublkremap/internal/blockdev"
	"ublkremap/internal/control"
	"ublkremap/internal/shell"
	"ublkremap/ublk"
)

// This file stops a device without taking it from its users.
//
// Linux 7.0 stops a device only if nobody has it open, in one step (TRY_STOP_DEV). Only if somebody
// has, the server finds out who. On older kernels, before a stop that is not forced, whether the
// verb or a signal asks for it, the server finds out in every possible way who uses the device.
// Somebody may open it between that and the stop. So this server opens its own device for exclusive
// use meanwhile, which keeps file systems, drivers and swap away. A program that only writes to the
// device for a moment in between gets an error, as from any device that is removed.

// signalTurn is how long a server that is asked by a signal waits for others that end.
const signalTurn = 10 * time.Minute

// usersPoll is how often the server checks whether those who have the device open have closed it.
const usersPoll = 50 * time.Millisecond

// Stop begins an orderly stop.
func (s *server) Stop(ctx context.Context, force bool, begin func() error) error {
	select {
	case <-s.device.Ready():
	case <-ctx.Done():
		return fmt.Errorf("%w: the device is not live yet", control.ErrFailed)
	}
	if force {
		if err := begin(); err != nil {
			return err
		}
		s.forced.Store(true)
		return s.endStop()
	}
	s.stopMu.Lock()
	defer s.stopMu.Unlock()
	// An earlier stop may have begun it.
	if s.endsBy() == endStop {
		return begin()
	}
	safe := s.stopsSafely(ctx)
	begin = sync.OnceValue(begin)
	for deadline := time.Now().Add(blockdev.PassingWait); ; {
		users, err := s.stopUnused(safe, begin)
		if len(users) == 0 {
			return err
		}
		// A passing user that had the device open at this moment may be gone soon.
		if time.Now().After(deadline) || !users[0].Passing() &&
			users[0].Kind != blockdev.UserKernel {
			return s.inUse(users)
		}
		select {
		case <-ctx.Done():
			return s.inUse(users)
		case <-time.After(usersPoll):
		}
	}
}

// stopUnused begins a stop if nobody uses the device. Otherwise it returns the users.
func (s *server) stopUnused(safe bool, begin func() error) ([]blockdev.User, error) {
	exclusive, users := s.unused(safe)
	if len(users) > 0 {
		return users, nil
	}
	if err := begin(); err != nil {
		closeExclusive(exclusive)
		return nil, err
	}
	if safe {
		return s.tryStop()
	}
	s.exclusive = exclusive // until the device is gone
	return nil, s.endStop()
}

func (s *server) endStop() error {
	if will, _ := s.end(endStop); !will {
		return fmt.Errorf("%w: the device is being given to another server; try again when that "+
			"has it", control.ErrRefused)
	}
	return nil
}

func (s *server) inUse(users []blockdev.User) error {
	return fmt.Errorf("%w: %s is in use: %s; end that first, or: %s", control.ErrRefused,
		s.info().BlockPath(), blockdev.Says(users),
		shell.Command("stop", "--force", s.name))
}

// stopsSafely reports whether the kernel stops a device only if nobody has it open.
func (s *server) stopsSafely(ctx context.Context) bool {
	have, err := s.ctl.Features(ctx)
	return err == nil && have.Has(ublk.FeatureSafeStop)
}

// unused says who uses the device, if the kernel does not prevent new users. If nobody does, the
// open file keeps others from coming. Then what earlier users wrote is on the disk.
//
// If the kernel stops a device only if nobody has it open, unused does not look: it would look
// through all processes and mounts of the machine, and at a shutdown every server does that.
func (s *server) unused(safe bool) (exclusive *os.File, users []blockdev.User) {
	if safe {
		return nil, nil
	}
	path := s.info().BlockPath()
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_EXCL|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.EBUSY):
		return nil, s.users()
	case err != nil:
		// There is no node here, so only users that can be found without it count.
		s.log.Warn().Err(err).Msg("the device cannot be kept for the stop")
		return nil, blockdev.UsersOf(path)
	}
	exclusive = os.NewFile(uintptr(fd), path)
	if users = blockdev.OtherUsersOf(path); len(users) > 0 {
		closeExclusive(exclusive)
		return nil, users
	}
	// As long as the device is open here, the close of its last user does not write that user's
	// pages. So they are written here; otherwise an orderly stop would lose them.
	if err := exclusive.Sync(); err != nil {
		s.log.Warn().Err(err).Msg("what was written to the device is not all on the disk")
		// If this error answered a flush that had failed, only this server has seen it.
		s.shared.InheritFlush()
	}
	return exclusive, nil
}

// users says who uses a device that is in use.
func (s *server) users() []blockdev.User {
	path := s.info().BlockPath()
	if users := blockdev.UsersOf(path); len(users) > 0 {
		return users
	}
	return []blockdev.User{{Kind: blockdev.UserKernel, Device: path}}
}

func closeExclusive(f *os.File) {
	if f != nil {
		_ = f.Close()
	}
}

// tryStop stops the device unless somebody has it open. Otherwise it returns the users.
func (s *server) tryStop() ([]blockdev.User, error) {
	s.endMu.Lock()
	if s.ending != endNot {
		s.endMu.Unlock()
		return nil, s.endStop()
	}
	s.ending = endStop
	s.endMu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), stopWait)
	defer cancel()
	err := s.ctl.TryStop(ctx, s.info().ID)
	s.endMu.Lock()
	defer s.endMu.Unlock()
	if errors.Is(err, ublk.ErrBusy) && !s.forced.Load() {
		s.ending = endNot
		return s.users(), nil
	}
	// The device is stopped, or the kernel has begun to stop it. The rest of the stop is done as
	// usual.
	close(s.stopAsked)
	return nil, nil
}

// bySignal is a stop that a signal asks for. A session that ends, a shutdown in a hurry and a
// supervisor send signals without checking for users. A device that is in use stays in service, and
// the log says why.
func (s *server) bySignal(sig os.Signal) {
	if !s.signalled.CompareAndSwap(false, true) {
		return // an earlier signal is being handled already
	}
	// At a shutdown all servers are asked at once.
	release := control.Turn(context.Background(), signalTurn)
	defer release()
	err := s.Stop(context.Background(), false, func() error { return nil })
	s.signalled.Store(false)
	if err != nil {
		s.log.Warn().Stringer("signal", sig).Err(err).
			Msg("a signal asks this server to end, and it does not")
	}
}

// signals returns what asks a live server to end: its signals, or else the end of ctx, which ends
// it without a check for users.
func (s *server) signals(ctx context.Context) (<-chan os.Signal, <-chan struct{}) {
	if s.cfg.Signals != nil {
		return s.cfg.Signals, nil
	}
	return nil, ctx.Done()
}

// tellStopping tells, once, that a stop has begun.
func (s *server) tellStopping() {
	if s.cfg.Stopping != nil {
		s.told.Do(s.cfg.Stopping)
	}
}

// heldBy says who has a stopped device open, if its number is not free yet for that reason.
func heldBy(err error) (holders []ublk.Holder, held bool) {
	var h *ublk.HeldOpenError
	if errors.As(err, &h) {
		self := os.Getpid()
		return slices.DeleteFunc(slices.Clone(h.Holders),
			func(h ublk.Holder) bool { return h.PID == self }), true
	}
	return nil, false
}
