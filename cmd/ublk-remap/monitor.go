package main

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/control"
	"ublkremap/internal/monitor"
)

func monitorCommand(a *app) *cobra.Command {
	var listen []string
	var config, textfile string
	cmd := &cobra.Command{
		Use:   "monitor",
		Short: "Metrics of all devices of this host, for Prometheus",
		Long: `Serve metrics of all devices of this host to Prometheus, at /metrics, until
interrupted. One monitor serves a host. It only reads: no request changes
anything. It listens on the host's own address unless it is told otherwise.

--web-config names a file of Prometheus' exporter-toolkit, with a certificate and
users. Without one, anybody who reaches the address can read.

--textfile writes the metrics to a file of this directory once, for the textfile
collector of node_exporter, and ends.`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if textfile != "" {
				if cmd.Flags().Changed("listen") || config != "" {
					return fmt.Errorf("--textfile with --listen or --web-config: %w: choose one",
						exit.ErrUsage)
				}
				return monitor.WriteTextfile(textfile, a.allStatuses)
			}
			return monitor.Serve(cmd.Context(), a.allStatuses, monitor.Options{Listen: listen,
				Config: config, Log: slog.New(zerolog.NewSlogHandler(a.log)),
				Version: programVersion()})
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&listen, "listen", []string{monitor.DefaultListen}, "address to listen on; "+
		"may be given several times")
	f.StringVar(&config, "web-config", "", "file with certificates and users, of exporter-toolkit")
	f.StringVar(&textfile, "textfile", "", "write "+monitor.TextfileName+" to this directory once")
	return cmd
}

// allStatuses returns the status of all devices, as far as they can be listed.
func (a *app) allStatuses(ctx context.Context) ([]*control.Status, error) {
	all, err := a.host().Status(ctx)
	return all, a.allowPartial(err)
}
