package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/cmd/ublk-remap/internal/orphan"
	"ublkremap/cmd/ublk-remap/internal/server"
	"ublkremap/cmd/ublk-remap/internal/shell"
	"ublkremap/internal/blockdev"
	"ublkremap/internal/control"
	"ublkremap/ublk"
)

const (
	// stopLimit is how long a living server may take: its own limits added up.
	stopLimit = 2 * time.Minute
	// deadLimit bounds each control command about a dead server's device: Linux
	// 6.12 notices some deaths only after 30 seconds.
	deadLimit = 45 * time.Second
)

// stopped is what stop --json prints.
type stopped struct {
	Device string `json:"device"`
	Name   string `json:"name"`
	// Orderly is false if the server was dead and the device was removed
	// without it.
	Orderly bool `json:"orderly"`
}

func stopCommand(a *app) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "stop DEV|NAME",
		Short: "Drain and remove a device",
		Long: `Stop a device: what is under way is finished, a last checkpoint is written, the disk is
flushed and let go, and /dev/ublkbN is removed.

A device that somebody uses is not stopped, unless --force says so: they get I/O errors
then. That is whoever has it mounted, in whatever mount namespace or by way of a loop
device, swaps to it, has built another device on it or has it open. If its server is dead
the device is removed in any case; requests that wait for a server fail. That also works, by its
number, for a device that nothing in /run tells of any more.`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := a.lookup(args[0])
			if errors.Is(err, exit.ErrNotFound) {
				return a.stopOrphan(cmd.Context(), args[0], force, err)
			}
			if err != nil {
				return err
			}
			s := stopped{Device: r.Device, Name: r.Name}
			s.Orderly, err = a.stop(cmd.Context(), r, force)
			if errors.Is(err, errStale) {
				// One with its number, or of its disk, is another server's.
				if err = a.stopOrphan(cmd.Context(), args[0], force, errStale); !errors.Is(err,
					errStale) {
					return err
				}
			} else if err != nil {
				return fmt.Errorf("%s: %w", r.Device, err)
			}
			if a.json {
				return a.printJSON(s)
			}
			if !s.Orderly {
				a.tell("ublk-remap: %s: its server was dead; the device was removed without it\n",
					r.Device)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "stop it although it is in use")
	a.jsonFlag(cmd)
	return cmd
}

// stop stops a device and reports whether its server did it.
func (a *app) stop(ctx context.Context, r *control.Record, force bool) (orderly bool, err error) {
	w := a.waiter(r.Device)
	if control.Owned(r.Name) {
		if err := ask(ctx, r, force); err != nil {
			return false, err
		}
		if err := gone(ctx, r, w); err != nil {
			return false, err
		}
		now, err := control.ReadRecord(r.Name)
		switch {
		case err != nil || now.PID != r.PID:
			return true, nil
		case now.Error != "":
			return true, errors.Join(fmt.Errorf("it is stopped, but: %s", now.Error), forget(now))
		}
		// It went without cleaning up.
	}
	return false, stopDead(ctx, r, force, w)
}

// waiter tells on standard error what is waited for about a device.
func (a *app) waiter(device string) *server.Waiter {
	return &server.Waiter{Tell: func(what string) {
		a.tell("ublk-remap: %s: %s\n", device,
			exit.Printable(what))
	}}
}

// forget removes what is left of a device that was stopped. Its log stays: it says what went wrong.
func forget(r *control.Record) error {
	owner, err := control.Own(r.Name)
	if err != nil {
		return r.Remove() // somebody starts it
	}
	return errors.Join(r.Remove(), owner.Forget(false))
}

// ask asks a living server to stop. Who uses the device is looked for here as well, where
// the caller's own mounts are, and because an older server does not.
func ask(ctx context.Context, r *control.Record, force bool) error {
	if !force {
		if users := blockdev.Unused(ctx, r.Device, blockdev.UsersOf); len(users) > 0 {
			return fmt.Errorf("%w: it is in use: %s; end that first, or: %s", exit.ErrRefused,
				blockdev.Says(users), shell.Command("stop", "--force", r.Name))
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	err := control.NewClient(r.Name).Stop(ctx, force)
	switch {
	case errors.Is(err, control.ErrNotRunning), errors.Is(err, control.ErrUnderway) &&
		ctx.Err() == nil:
		return nil // how it ends is seen next
	case errors.Is(err, control.ErrUnderway):
		return err
	case errors.Is(err, control.ErrSilent), err != nil && ctx.Err() != nil:
		return fmt.Errorf("%w; nothing was stopped, and nothing will be; %s", err, silentAdvice(r))
	}
	return err
}

// gone waits until a device's server has ended. One that is killed meanwhile ends with its
// last I/O.
func gone(ctx context.Context, r *control.Record, w *server.Waiter) error {
	for began := time.Now(); control.Owned(r.Name); {
		now, err := control.ReadRecord(r.Name)
		switch {
		case err == nil && now.PID != r.PID:
			return fmt.Errorf("another server has taken it over meanwhile, process %d; if it is "+
				"still to be stopped, ask again", now.PID)
		case server.Died(r):
			w.Say(func() string { return server.LastIO(r) })
		case time.Since(began) > stopLimit:
			return fmt.Errorf("its server, process %d, does not end: a request may hang in %s; "+
				"look into %s; the stop goes on by itself",
				r.PID, r.Backing, control.LogPath(r.Name))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; the stop has begun and goes on by itself", context.Cause(ctx))
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

// stopDead removes the device of a server that is dead.
func stopDead(ctx context.Context, r *control.Record, force bool, w *server.Waiter) (err error) {
	// No start may take it over meanwhile.
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
	ctl, err := ublk.OpenControl()
	if err != nil {
		return err
	}
	defer ctl.Close()
	limited, cancel := context.WithTimeout(ctx, deadLimit)
	defer cancel()
	_, err = server.DeviceOf(limited, ctl, r)
	if err == nil && !force {
		// Nothing is asked of the kernel that could happen later, when nobody wants it any more.
		err = server.AwaitDead(ctx, ctl, r.ID, r, w)
	}
	if err == nil {
		err = orphan.Remove(ctx, ctl, r.ID)
	}
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

// errStale is returned for a record of a device that is gone. The record is gone then, too.
var errStale = errors.New("the device of this record is gone")
