package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"ublkremap/internal/control"
	"ublkremap/internal/readable"
)

// stopped is what stop --json prints.
type stopped struct {
	Device string `json:"device"`
	Name   string `json:"name"`
	// Orderly is false if the server was dead and the device was removed without it.
	Orderly bool `json:"orderly"`
}

func stopCommand(a *app) *cobra.Command {
	var force, all bool
	cmd := &cobra.Command{
		Use:   "stop DEV|NAME",
		Short: "Drain and remove a device",
		Long: `Stop a device: requests under way are finished, a last checkpoint is written,
the disk is flushed and closed, and /dev/ublkbN is removed.

A device that somebody uses is not stopped, unless --force says so; then its
users get I/O errors. Who has it mounted uses it, in whatever mount namespace or
over a loop device, and who swaps to it, has built another device on it or has
it open.

If its server is dead the device is removed in any case. Requests that wait for
a server fail. By its number that also works for a device of which nothing in
/run tells any more.

--all stops every device, some at a time.`,
		Args: allOr(&all, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if all {
				return a.stopAll(cmd.Context(), force)
			}
			defer a.extend()() // it may be the ExecStop= of a unit
			defer control.Turn(cmd.Context(), stopTurn)()
			end := a.stopping(args[0])
			s, err := a.host().Stop(cmd.Context(), args[0], force)
			end()
			if err != nil {
				return err
			}
			if err := releaseDrives(cmd.Context(), s.Name); err != nil {
				a.log.Warn().Msg(err.Error())
			}
			if a.json {
				return a.printJSON(stopped{Device: s.Device, Name: s.Name, Orderly: s.Orderly})
			}
			switch {
			case s.Orderly:
			case s.Recorded:
				a.tell("ublk-remap: %s: its server was dead; the device was removed without it\n",
					s.Device)
			default:
				a.tell("ublk-remap: %s: its server was dead and no record told of it; the device "+
					"was removed\n", s.Device)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "stop it although it is in use")
	cmd.Flags().BoolVar(&all, "all", false, "stop every device")
	a.jsonFlag(cmd)
	return cmd
}

// stopAsk is how often a server is asked what its stop waits for, and for how long.
const stopAsk = 500 * time.Millisecond

// stopping is the progress of a stop, which waits for the requests under way above all. The caller
// must call end.
func (a *app) stopping(what string) (end func()) {
	bar := a.progress("stopping " + what)
	r, err := a.host().Lookup(what)
	if err != nil || !bar.Told() {
		return bar.End
	}
	ctx, cancel := context.WithCancel(a.ctx)
	var asked sync.WaitGroup
	asked.Go(func() {
		client := control.NewClient(r.Name)
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(stopAsk):
			}
			// Once the server has closed its socket nothing more is known.
			st, err := client.StatusWithin(ctx, stopAsk)
			switch {
			case err != nil:
				bar.Note("")
			case st.Requests.UnderWay > 0:
				bar.Note(fmt.Sprintf("%s requests under way",
					readable.Number(uint64(st.Requests.UnderWay))))
			case st.State == control.StateStopping:
				bar.Note("writing the last checkpoint")
			}
		}
	})
	return func() {
		cancel()
		asked.Wait()
		bar.End()
	}
}
