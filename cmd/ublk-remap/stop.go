package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/cmd/ublk-remap/internal/server"
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

A device that is mounted, swapped to or part of another device is not stopped, unless
--force says so: whoever uses it gets I/O errors then. If its server is dead the device
is removed in any case; requests that wait for a server fail. That also works, by its
number, for a device that nothing in /run tells of any more.`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := a.lookup(args[0])
			if errors.Is(err, exit.ErrNotFound) {
				return a.stopOrphan(cmd.Context(), args[0], err)
			}
			if err != nil {
				return err
			}
			s := stopped{Device: r.Device, Name: r.Name}
			if s.Orderly, err = stop(cmd.Context(), r, force); err != nil {
				return fmt.Errorf("%s: %w", r.Device, err)
			}
			if a.json {
				return a.printJSON(s)
			}
			if !s.Orderly {
				a.tell("ublk-remap: %s: its server was dead; the device was removed without it\n", r.Device)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "stop it although it is in use")
	a.jsonFlag(cmd)
	return cmd
}

// stop stops a device and reports whether its server did it.
func stop(ctx context.Context, r *control.Record, force bool) (orderly bool, err error) {
	if control.Owned(r.Name) {
		if users := blockdev.Users(r.Device); len(users) > 0 && !force {
			return false, fmt.Errorf("%w: it is %s; unmount or detach it first, or add --force", exit.ErrRefused, blockdev.Says(users))
		}
		if !force && blockdev.Claimed(r.Device) {
			return false, fmt.Errorf("%w: it is in use where it cannot be seen from here, such as mounted in a container; end that first, or add --force",
				exit.ErrRefused)
		}
		err := control.NewClient(r.Name).Stop(ctx)
		if err != nil && !errors.Is(err, control.ErrNotRunning) {
			return false, err
		}
		if err := gone(ctx, r); err != nil {
			return false, err
		}
		now, err := control.ReadRecord(r.Name)
		switch {
		case err != nil || now.PID != r.PID:
			return true, nil
		case now.Error != "":
			return true, errors.Join(fmt.Errorf("it is stopped, but: %s", now.Error), now.Remove())
		}
		// It went without cleaning up.
	}
	return false, stopDead(ctx, r)
}

// gone waits until a device's server has ended.
func gone(ctx context.Context, r *control.Record) error {
	deadline := time.Now().Add(stopLimit)
	for control.Owned(r.Name) {
		if time.Now().After(deadline) {
			return fmt.Errorf("its server, process %d, does not end: a request may hang in %s; look into %s",
				r.PID, r.Backing, control.LogPath(r.Name))
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

// stopDead removes the device of a server that is dead.
func stopDead(ctx context.Context, r *control.Record) (err error) {
	// No start may take it over meanwhile.
	owner, err := control.Own(r.Name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, owner.Release()) }()
	ctl, err := ublk.OpenControl()
	if err != nil {
		return err
	}
	defer ctl.Close()
	limited, cancel := context.WithTimeout(ctx, deadLimit)
	defer cancel()
	_, err = server.DeviceOf(limited, ctl, r)
	if err == nil {
		err = ctl.Stop(limited, r.ID)
	}
	if err == nil {
		limited, cancel := context.WithTimeout(ctx, deadLimit)
		defer cancel()
		err = ctl.Delete(limited, r.ID)
	}
	if err != nil && !errors.Is(err, ublk.ErrNotFound) {
		return err
	}
	if err := os.Remove(control.SocketPath(r.Name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return r.Remove()
}
