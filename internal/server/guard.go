package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"ublkremap/internal/control"
	"ublkremap/internal/host"
)

const (
	// guardGrace is how long a dead server's supervisor may take to start the next one.
	guardGrace = 3 * time.Second
	guardPoll  = 100 * time.Millisecond
)

// Guard watches over the server of the root file system. If that server dies, nothing can be read
// from the file system: neither the program, nor what its supervisor needs to start it. So the
// guard has everything that it needs in memory. It waits until the server, process pid, has ended,
// and for guardGrace after that. If there is no server by then, it calls start, again and again
// until there is one.
//
// Guard returns nil when there is nothing more to watch: the device was stopped, or another server
// has the set. That server has a guard of its own.
func Guard(ctx context.Context, log zerolog.Logger, name string, pid int,
	start func(context.Context) error) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("pidfd_open: %w", err)
	}
	harden(log, false)
	if err := lockText(); err != nil {
		log.Warn().Err(err).Msg("cannot keep the program in memory")
	}
	if fd >= 0 {
		if err := awaitExit(fd); err != nil {
			return err
		}
	}
	for {
		if over, err := succeeded(ctx, name, pid); over || err != nil {
			return err
		}
		log.Error().Str("name", name).Msg("the server of the root file system is dead, and " +
			"nobody starts it: starting it")
		if err := start(ctx); err != nil {
			// Another one may have been faster.
			log.Error().Err(err).Str("name", name).Msg("the server does not start")
		}
	}
}

// awaitExit returns when the process of a pidfd has ended.
func awaitExit(fd int) error {
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// succeeded returns true when a server other than the process pid serves the set, or its device is
// gone. It returns false when there was no server at all for guardGrace. A server that is starting
// has the name, and may still fail.
func succeeded(ctx context.Context, name string, pid int) (bool, error) {
	for deadline := time.Now().Add(guardGrace); ; {
		r, err := control.ReadRecord(name)
		switch {
		case errors.Is(err, control.ErrNotRunning), err == nil && !host.Present(r):
			return true, nil
		case err == nil && r.PID != pid && control.OwnedBy(name, r.PID):
			return true, nil
		case control.Owned(name):
			deadline = time.Now().Add(guardGrace)
		case time.Now().After(deadline):
			return false, nil
		}
		select {
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-time.After(guardPoll):
		}
	}
}
