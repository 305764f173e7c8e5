package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync/atomic"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"ublkremap/cmd/ublk-remap/internal/companion"
	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/cmd/ublk-remap/internal/logging"
	"ublkremap/internal/control"
	"ublkremap/internal/host"
	"ublkremap/internal/top"
	"ublkremap/metadata"
	"ublkremap/ublk"
)

func topCommand(a *app) *cobra.Command {
	return companion.Top(func(cmd *cobra.Command) error {
		out, ok := a.out.(*os.File)
		if !ok || !logging.Terminal(out) || !logging.Terminal(os.Stdin) ||
			os.Getenv("TERM") == "dumb" {
			return fmt.Errorf("%w: top needs a terminal that can move its cursor; see: ublk-remap "+
				"status --watch 1", exit.ErrUsage)
		}
		src := &devices{}
		if err := src.mayAsk(); err != nil {
			return err
		}
		return top.Run(cmd.Context(), src, os.Stdin, out)
	})
}

// devices are those of this host, for top.
type devices struct {
	host   host.Host
	alerts atomic.Pointer[map[string][]control.Alert] // as they were when it was listed last
}

// mayAsk returns an error if this user may ask no server.
func (d *devices) mayAsk() error {
	records, err := d.host.Running()
	if err != nil || os.Geteuid() == 0 {
		return err
	}
	for _, r := range records {
		if err = unix.Access(control.SocketPath(r.Name), unix.W_OK); !errors.Is(err, unix.EACCES) {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("cannot ask the servers of %s: %w", control.Dir(), fs.ErrPermission)
	}
	return nil
}

// List returns the devices with records, and those that the kernel tells of.
func (d *devices) List(ctx context.Context) ([]top.Listed, error) {
	alerts, err := control.Alerts(ctx)
	if err == nil {
		d.alerts.Store(&alerts)
	} else {
		d.alerts.Store(nil) // no monitor tells of them
	}
	all, err := listOf(ctx, &d.host)
	for _, l := range all {
		l.Status.AddAlerts(alerts)
	}
	return all, err
}

// listOf lists the devices of a host without asking their servers.
func listOf(ctx context.Context, h *host.Host) ([]top.Listed, error) {
	records, err := h.Running()
	if err != nil {
		return nil, err
	}
	var all []top.Listed
	for _, r := range records {
		all = append(all, top.Listed{Status: &control.Status{Device: r.Device, ID: r.ID,
			Name: r.Name, UUID: r.UUID, Backing: r.Backing, State: control.StateRecovering,
			Reason: "its server is being asked"}})
	}
	more, err := host.FindUnrecorded(ctx)
	for _, u := range more {
		all = append(all, top.Listed{Status: u.Status(), Asked: true})
	}
	// Where the driver may not be asked, those with records are all that can be seen.
	if forbidden := (*ublk.RingForbiddenError)(nil); errors.As(err, &forbidden) {
		err = nil
	}
	return all, err
}

// Status returns the status of a device that has a record.
func (d *devices) Status(ctx context.Context, name string) (*control.Status, error) {
	st, err := d.host.StatusNamed(ctx, name)
	if alerts := d.alerts.Load(); err == nil && alerts != nil {
		st.AddAlerts(*alerts)
	}
	return st, err
}

// Surface asks a device's server.
func (d *devices) Surface(ctx context.Context, name string, from, to uint64,
	cells int) (*control.Surface, error) {
	return control.NewClient(name).Surface(ctx, from, to, cells)
}

// Slow asks a device's server.
func (d *devices) Slow(ctx context.Context, name string) ([]control.Range, error) {
	s, err := control.NewClient(name).Scrub(ctx, control.ScrubRequest{Do: control.ScrubShow,
		Slow: true})
	if err != nil {
		return nil, err
	}
	return s.SlowBlocks, nil
}

// Events asks a device's server.
func (d *devices) Events(ctx context.Context, name string, from uint64) ([]top.Event, error) {
	e, err := control.NewClient(name).Events(ctx, from)
	if err != nil {
		return nil, err
	}
	var list []top.Event
	for _, x := range metadata.AppendEvents(nil, e.Events, e.First) {
		list = append(list, top.Event{Number: x.Number, Time: x.Time(), What: x.Kind.String(),
			HasBlock: x.HasBlock, Block: x.Block, Count: x.Count, Text: x.Text()})
	}
	return list, nil
}
