package server

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"ublkremap/internal/blockdev"
	"ublkremap/internal/control"
	"ublkremap/internal/host"
	"ublkremap/internal/host/set"
	"ublkremap/metadata"
	"ublkremap/remap"
	"ublkremap/ublk"
)

const (
	// rehearsals is how often metadata that is being written is read before it counts as damaged.
	rehearsals = 5
	// ownPoll is how often a successor checks whether the name is free. A server that waits for a
	// dying one checks less and less often, down to once per ownPollMost.
	ownPoll     = time.Millisecond
	ownPollMost = 50 * time.Millisecond
)

// succeed takes the place of a living server. First it finds out everything that it can without
// that server's help. Then it asks the server to leave. When it returns, the name is this server's
// own. Until the predecessor is asked, it serves as before.
//
// A predecessor that was asked ends when its last I/O has ended. The wait for that has no limit:
// giving up would leave a device without a server.
func (s *server) succeed(ctx context.Context) error {
	if err := s.knowSet(ctx); err != nil {
		return err
	}
	r, err := control.ReadRecord(s.name)
	if err != nil {
		return err
	}
	if r.PID != s.cfg.Predecessor || r.UUID != s.uuid || !control.OwnedBy(s.name, r.PID) {
		return fmt.Errorf("%s: %w: process %d does not serve it (any more)", s.cfg.Backing,
			control.ErrRefused, s.cfg.Predecessor)
	}
	if err := s.openLog(); err != nil {
		return err
	}
	if err := s.rehearse(ctx, r); err != nil {
		return err
	}
	// The pages that the change of servers needs are made present here, and stay, before requests
	// have to wait for it. A page that must be read may have to be read from this very device.
	harden(s.log, s.cfg.HugePages)
	prepareMemory(s.log, r.Queues)
	if s.cfg.Leaving != nil {
		s.cfg.Leaving()
	}
	if s.cfg.Kill {
		err = s.killPredecessor(r)
	} else {
		err = control.NewClient(s.name).Leave(ctx, s.cfg.Token)
	}
	switch {
	case errors.Is(err, control.ErrNotRunning):
		// Either the predecessor died meanwhile, and this becomes an ordinary recovery. Or only its
		// socket is gone.
		limited, cancel := context.WithTimeout(ctx, exclusiveWait)
		defer cancel()
		if err := s.inherit(limited, r); err != nil {
			return fmt.Errorf("%w: process %d does not answer: %w", ErrLeave, r.PID, err)
		}
		return nil
	case errors.Is(err, control.ErrNotFound):
		return fmt.Errorf("%w: process %d, version %s, is too old to know how; with --force it "+
			"is killed, which does no harm to data", ErrLeave, r.PID, r.Version)
	case err != nil:
		return fmt.Errorf("%w: process %d: %w", ErrLeave, r.PID, err)
	}
	return s.inherit(ctx, r)
}

// rehearse does every part of a recovery that can be done beside a living server. It reads the
// devices, the metadata and the table, and compares them with the ublk device. It writes nothing.
func (s *server) rehearse(ctx context.Context, r *control.Record) error {
	if err := s.openControl(); err != nil {
		return err
	}
	if _, err := s.need(ctx); err != nil {
		return err
	}
	info, err := s.deviceOf(ctx, r)
	if err != nil {
		return err
	}
	if info.State != ublk.StateLive || !info.Recoverable() {
		return fmt.Errorf("%w: %s is %s", ErrRecovery, info.BlockPath(), info.State)
	}
	if len(s.cfg.Spares) == 0 {
		s.cfg.Spares = r.Spares
	}
	for try := 1; ; try++ {
		err := s.readThrough(ctx, r)
		if !errors.Is(err, metadata.ErrDamaged) && !errors.Is(err, metadata.ErrPath) ||
			try == rehearsals {
			return err
		}
		// What is read while it is being written can look damaged, or differ from what was read a
		// moment ago.
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// readThrough reads the set as load does.
func (s *server) readThrough(ctx context.Context, r *control.Record) error {
	devs, err := set.Open(ctx, s.cfg.Backing, s.cfg.Spares, blockdev.Options{ReadOnly: true,
		Shared: true})
	if err != nil {
		return err
	}
	defer devs.Close()
	img, err := metadata.Load(devs.Metadata())
	if err != nil {
		return fmt.Errorf("%s: %w", s.cfg.Backing, err)
	}
	if _, err := remap.Restore(img.Layout(), img.Replay); err != nil {
		return fmt.Errorf("%s: %w", s.cfg.Backing, err)
	}
	l := img.Layout()
	if l.BlockSize() != r.BlockSize || l.Blocks() != r.Blocks {
		return fmt.Errorf("%w: %s has %d blocks of %d bytes, the disk has %d of %d", ErrRecovery,
			r.Device, r.Blocks, r.BlockSize, l.Blocks(), l.BlockSize())
	}
	return nil
}

// inherit waits until the predecessor has ended. Then it makes the name this server's own.
func (s *server) inherit(ctx context.Context, r *control.Record) error {
	tick := time.NewTicker(ownPoll)
	defer tick.Stop()
	for {
		owner, err := control.Own(s.name)
		if err == nil {
			s.owner = owner
			return nil
		}
		if !errors.Is(err, control.ErrOwned) {
			return err
		}
		if now, err := control.ReadRecord(s.name); err == nil && now.PID != r.PID {
			return fmt.Errorf("%s: %w as %s by process %d, which was faster", s.cfg.Backing,
				host.ErrServed, now.Device, now.PID)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// killPredecessor ends a server that cannot leave. Its device then waits, as after any crash.
func (s *server) killPredecessor(r *control.Record) error {
	fd, err := unix.PidfdOpen(r.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("pidfd_open: %w", err)
	}
	defer unix.Close(fd)
	// From here on fd refers to one process. This checks that this process is the server.
	if !control.OwnedBy(s.name, r.PID) {
		return fmt.Errorf("%w for %s", control.ErrNotRunning, s.name)
	}
	s.log.Warn().Int("predecessor", r.PID).Str("device",
		filepath.Base(r.Device)).Msg("killing the server")
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil &&
		!errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill: %w", err)
	}
	return nil
}
