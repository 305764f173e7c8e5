package main

import (
	"context"
	"log/slog"
	"net"
	"os"
	"strings"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/companion"
	"ublkremap/internal/host"
	"ublkremap/internal/monitor"
	"ublkremap/internal/page"
)

// devices is what the monitor tells about.
func (a *app) devices(ctx context.Context) ([]monitor.Device, error) {
	all, err := a.statuses(ctx)
	devices := monitor.Ask(ctx, all)
	for i := range devices {
		d := &devices[i]
		d.Missing = len(host.Missing(d.Status))
		if d.Status.HasFigures() {
			report, _ := a.verdicts.get(ctx, d.Status, smartTypes(d.Name))
			d.Verdict = string(report.Verdict)
		}
	}
	return devices, err
}

func monitorCommand(a *app) *cobra.Command {
	return companion.Monitor(func(cmd *cobra.Command, o *companion.MonitorOptions) error {
		if o.Textfile != "" {
			return monitor.WriteTextfile(o.Textfile, a.devices)
		}
		p := page.Handler(onPage{}, version)
		defer p.Close()
		for _, at := range o.Listen {
			a.log.Info().Str("url", pageURL(at, o.WebConfig)).Msg("the page for browsers")
		}
		serve := func(counts func() map[string]monitor.AlertCount) error {
			return monitor.Serve(cmd.Context(), a.devices, monitor.Options{Listen: o.Listen,
				Config: o.WebConfig, Log: a.slog(), Version: version, Alerts: counts, Page: p})
		}
		if o.NoAlerts {
			return serve(nil)
		}
		return a.withAlerts(cmd.Context(), serve)
	})
}

// slog is the log for libraries.
func (a *app) slog() *slog.Logger { return slog.New(zerolog.NewSlogHandler(a.log)) }

// pageURL is where a browser finds the page, if the monitor listens on an address. With a web
// configuration it may be https.
func pageURL(listen, config string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return listen // the attempt to listen tells what is wrong
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		if host, err = os.Hostname(); err != nil {
			host = "localhost"
		}
	}
	scheme := "http"
	if text, err := os.ReadFile(config); err == nil &&
		strings.Contains(string(text), "tls_server_config") {
		scheme = "https"
	}
	return scheme + "://" + net.JoinHostPort(host, port) + "/"
}
