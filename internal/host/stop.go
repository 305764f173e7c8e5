package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"ublkremap/internal/blockdev"
	"ublkremap/internal/control"
	"ublkremap/internal/shell"
	"ublkremap/ublk"
)

const (
	// stopLimit is how long a living server may take: the sum of its own limits.
	stopLimit = 2 * time.Minute
	stopPoll  = 10 * time.Millisecond
)

// Stopped says how a device was stopped.
type Stopped struct {
	Device, Name string
	// Orderly: its server stopped it. Otherwise the server was dead, and the device was removed.
	Orderly bool
	// Recorded: the device had a runtime record.
	Recorded bool
}

// errStale is returned for a record whose device does not exist any more. The record was removed.
var errStale = errors.New("the device of this record does not exist any more")

// Stop ends a device. what is as for Lookup. A device in use is refused (ErrRefused) unless force
// is set. A device whose server is dead is removed in any case.
func (h *Host) Stop(ctx context.Context, what string, force bool) (Stopped, error) {
	r, err := h.Lookup(what)
	if errors.Is(err, ErrNotFound) {
		return h.stopUnrecorded(ctx, what, force, err)
	}
	if err != nil {
		return Stopped{}, err
	}
	orderly, err := h.stopRecorded(ctx, r, force)
	if errors.Is(err, errStale) {
		// Another server's device may have this number or this disk, and be the one that is meant.
		s, err := h.stopUnrecorded(ctx, what, force, errStale)
		if !errors.Is(err, errStale) {
			return s, err
		}
	} else if err != nil {
		return Stopped{}, fmt.Errorf("%s: %w", r.Device, err)
	}
	return Stopped{Device: r.Device, Name: r.Name, Orderly: orderly, Recorded: true}, nil
}

// waiter reports what is waited for about a device.
func (h *Host) waiter(device string) *Waiter {
	if h.Waiting == nil {
		return &Waiter{}
	}
	return &Waiter{Tell: func(what string) { h.Waiting(device, what) }}
}

// stopRecorded stops a device that has a record, and reports whether its server stopped it.
func (h *Host) stopRecorded(ctx context.Context, r *control.Record,
	force bool) (orderly bool, err error) {
	w := h.waiter(r.Device)
	if control.Owned(r.Name) {
		if err := askToStop(ctx, r, force); err != nil {
			return false, err
		}
		if err := awaitEnd(ctx, r, w); err != nil {
			return false, err
		}
		now, err := control.ReadRecord(r.Name)
		switch {
		case err != nil || now.PID != r.PID:
			return true, nil
		case now.Error != "":
			return false, errors.Join(fmt.Errorf("it is stopped, but: %s", now.Error), forget(now))
		}
		// The server ended without cleaning up.
	}
	return false, stopDead(ctx, r, force, w)
}

// forget removes what is left of a device that was stopped. Its log stays, because it says what
// went wrong.
func forget(r *control.Record) error {
	owner, err := control.Own(r.Name)
	if err != nil {
		return r.Remove() // a start has the name
	}
	return errors.Join(r.Remove(), owner.Forget(false))
}

// askToStop asks a living server to stop. Who uses the device is looked for here as well, because
// the server cannot see the caller's own mounts. On a kernel that does not stop a device that is
// open, that is only needed to say who.
func askToStop(ctx context.Context, r *control.Record, force bool) error {
	safe := stopsSafely(ctx)
	if !force && !safe {
		if users := blockdev.Unused(ctx, r.Device, blockdev.UsersOf); len(users) > 0 {
			return inUse(r, users)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	err := control.NewClient(r.Name).Stop(ctx, force)
	switch {
	case errors.Is(err, control.ErrNotRunning), errors.Is(err, control.ErrUnderway) &&
		ctx.Err() == nil:
		return nil // the caller waits for the end
	case errors.Is(err, control.ErrUnderway):
		return err
	case errors.Is(err, control.ErrSilent), err != nil && ctx.Err() != nil:
		return fmt.Errorf("%w; nothing was stopped, and nothing will be; %s", err,
			noAnswerAdvice(r))
	case errors.Is(err, control.ErrRefused) && !force && safe:
		if users := blockdev.UsersOf(r.Device); len(users) > 0 {
			return inUse(r, users)
		}
	}
	return err
}

func inUse(r *control.Record, users []blockdev.User) error {
	return fmt.Errorf("%w: it is in use: %s; end that first, or: %s", ErrRefused,
		blockdev.Says(users), shell.Command("stop", "--force", r.Name))
}

// stopsSafely reports whether the kernel stops a device only if nobody has it open.
func stopsSafely(ctx context.Context) bool {
	ctl, err := ublk.OpenControl()
	if err != nil {
		return false
	}
	defer ctl.Close()
	have, err := ctl.Features(ctx)
	return err == nil && have.Has(ublk.FeatureSafeStop)
}

// awaitEnd waits until a device's server has ended. A server that is killed meanwhile ends when its
// last I/O has ended.
func awaitEnd(ctx context.Context, r *control.Record, w *Waiter) error {
	for began := time.Now(); control.Owned(r.Name); {
		now, err := control.ReadRecord(r.Name)
		switch {
		case err == nil && now.PID != r.PID:
			return fmt.Errorf("another server has recovered it meanwhile, process %d; if it is "+
				"still to be stopped, ask again", now.PID)
		case Died(r):
			w.Say(func() string { return LastIO(r) })
		case time.Since(began) > stopLimit:
			return fmt.Errorf("its server, process %d, does not end: a request may hang in %s; "+
				"look into %s; the stop goes on by itself",
				r.PID, r.Backing, control.LogPath(r.Name))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; the stop has begun and goes on by itself", context.Cause(ctx))
		case <-time.After(stopPoll):
		}
	}
	return nil
}

// stopDead removes the device of a dead server. The error is errStale if there is none.
func stopDead(ctx context.Context, r *control.Record, force bool, w *Waiter) (err error) {
	// No start may recover the device meanwhile.
	owner, err := control.Own(r.Name)
	if err != nil {
		return err
	}
	defer func() {
		if err == nil || errors.Is(err, errStale) {
			err = errors.Join(err, owner.Forget(false))
		} else {
			err = errors.Join(err, owner.Release())
		}
	}()
	err = removeDead(ctx, r, force, w)
	if errors.Is(err, ublk.ErrTimeout) {
		err = fmt.Errorf("%w; it may still come to that when the I/O under way has ended", err)
	}
	stale := errors.Is(err, ublk.ErrNotFound)
	if err != nil && !stale {
		return err
	}
	if err := os.Remove(control.SocketPath(r.Name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := r.Remove(); err != nil || !stale {
		return err
	}
	return errStale
}

// removeDead removes the device of a record. The error is ublk.ErrNotFound if there is none.
func removeDead(ctx context.Context, r *control.Record, force bool, w *Waiter) error {
	ctl, err := ublk.OpenControl()
	if err != nil {
		return err
	}
	defer ctl.Close()
	limited, cancel := context.WithTimeout(ctx, removeLimit)
	defer cancel()
	if _, err := DeviceOf(limited, ctl, r); err != nil {
		return err
	}
	if !force {
		// Wait first. A removal that waits in the kernel could happen later, when it is no longer
		// wanted.
		if err := AwaitDead(ctx, ctl, r.ID, r, w); err != nil {
			return err
		}
	}
	return Remove(ctx, ctl, r.ID)
}

// stopUnrecorded removes a device that no record names. Its disk is not touched. notFound is
// the error if there is none.
func (h *Host) stopUnrecorded(ctx context.Context, what string, force bool,
	notFound error) (Stopped, error) {
	u, err := findUnrecorded(ctx, what)
	switch {
	case err != nil:
		return Stopped{}, err
	case u == nil:
		return Stopped{}, notFound
	case u.ServerPID != 0:
		return Stopped{}, fmt.Errorf("%s: %w: its server lives, but its files are not in %s (it "+
			"is in a container, or they were removed); when nothing uses it, stop it in order: "+
			"kill %d", u.BlockPath(), ErrRefused, control.Dir(), u.ServerPID)
	}
	ctl, err := ublk.OpenControl()
	if err != nil {
		return Stopped{}, err
	}
	defer ctl.Close()
	if !force {
		if err := AwaitDead(ctx, ctl, u.ID, nil, h.waiter(u.BlockPath())); err != nil {
			return Stopped{}, err
		}
	}
	if err := Remove(ctx, ctl, u.ID); err != nil {
		return Stopped{}, fmt.Errorf("%s: %w", u.BlockPath(), err)
	}
	return Stopped{Device: u.BlockPath(), Name: u.Name}, nil
}
