package main

import (
	"context"
	"log/slog"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/companion"
	"ublkremap/internal/monitor"
)

// devices is what the monitor tells about.
func (a *app) devices(ctx context.Context) ([]monitor.Device, error) {
	all, err := a.statuses(ctx)
	return monitor.Ask(ctx, all), err
}

func monitorCommand(a *app) *cobra.Command {
	return companion.Monitor(func(cmd *cobra.Command, o *companion.MonitorOptions) error {
		if o.Textfile != "" {
			return monitor.WriteTextfile(o.Textfile, a.devices)
		}
		return monitor.Serve(cmd.Context(), a.devices, monitor.Options{Listen: o.Listen,
			Config: o.WebConfig, Log: slog.New(zerolog.NewSlogHandler(a.log)), Version: version})
	})
}
