package main

import (
	"context"
	"log/slog"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/companion"
	"ublkremap/internal/host"
	"ublkremap/internal/monitor"
)

// devices is what the monitor tells about.
func (a *app) devices(ctx context.Context) ([]monitor.Device, error) {
	all, err := a.statuses(ctx)
	devices := monitor.Ask(ctx, all)
	for i := range devices {
		devices[i].Missing = len(host.Missing(devices[i].Status))
	}
	return devices, err
}

func monitorCommand(a *app) *cobra.Command {
	return companion.Monitor(func(cmd *cobra.Command, o *companion.MonitorOptions) error {
		if o.Textfile != "" {
			return monitor.WriteTextfile(o.Textfile, a.devices)
		}
		serve := func(counts func() map[string]monitor.AlertCount) error {
			return monitor.Serve(cmd.Context(), a.devices, monitor.Options{Listen: o.Listen,
				Config: o.WebConfig, Log: a.slog(), Version: version, Alerts: counts})
		}
		if o.NoAlerts {
			return serve(nil)
		}
		return a.withAlerts(cmd.Context(), serve)
	})
}

// slog is the log for libraries.
func (a *app) slog() *slog.Logger { return slog.New(zerolog.NewSlogHandler(a.log)) }
