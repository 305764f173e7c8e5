package main

import (
	"log/slog"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/companion"
	"ublkremap/internal/monitor"
)

func monitorCommand(a *app) *cobra.Command {
	return companion.Monitor(func(cmd *cobra.Command, o *companion.MonitorOptions) error {
		if o.Textfile != "" {
			return monitor.WriteTextfile(o.Textfile, a.statuses)
		}
		return monitor.Serve(cmd.Context(), a.statuses, monitor.Options{Listen: o.Listen,
			Config: o.WebConfig, Log: slog.New(zerolog.NewSlogHandler(a.log)), Version: version})
	})
}
