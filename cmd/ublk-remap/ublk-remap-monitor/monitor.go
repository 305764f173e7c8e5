package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/companion"
	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/monitor"
	"ublkremap/internal/page"
)

// devices is what the monitor tells about.
func (a *app) devices(ctx context.Context) ([]monitor.Device, error) {
	all, err := a.statuses(ctx)
	devices := monitor.Ask(ctx, all)
	for i := range devices {
		d := &devices[i]
		d.Missing = len(d.Status.Missing)
		if d.Status.HasFigures() {
			report, _ := a.verdicts.get(ctx, d.Status, smartTypes(d.Name))
			d.Verdict = string(report.Verdict)
		}
	}
	return devices, err
}

// toldDevices is devices for a run that ends: nobody will look for why some are missing in the
// metrics, if it is not told now.
func (a *app) toldDevices(ctx context.Context) ([]monitor.Device, error) {
	all, err := a.devices(ctx)
	if err != nil {
		a.log.Warn().Err(err).Msg("devices may be missing in the metrics")
	}
	return all, err
}

func monitorCommand(a *app) *cobra.Command {
	return companion.Monitor(func(cmd *cobra.Command, o *companion.MonitorOptions) error {
		if o.Textfile != "" {
			if err := monitor.WriteTextfile(o.Textfile, a.toldDevices); err != nil {
				return fmt.Errorf("--textfile: %w", err)
			}
			return nil
		}
		return a.serve(cmd.Context(), o)
	})
}

// serve serves the page and the metrics, and tells of alerts. What is wrong with the command line
// and with files is said before anything is done.
func (a *app) serve(ctx context.Context, o *companion.MonitorOptions) error {
	if err := monitor.CheckWebConfig(o.WebConfig, func(text string) {
		a.log.Warn().Msg(text)
	}); err != nil {
		return fmt.Errorf("--web-config: %w", err)
	}
	alerts, err := a.newAlerts(o.NoAlerts)
	if err != nil {
		return err
	}
	listeners, err := monitor.Listen(ctx, o.Listen)
	if bad := (*monitor.AddressError)(nil); errors.As(err, &bad) {
		return fmt.Errorf("--listen %q: %w: %s", bad.Address, exit.ErrUsage, bad.Want)
	}
	if err != nil {
		return fmt.Errorf("--listen %w", err)
	}
	p := page.Handler(onPage{alerts: alerts}, version)
	defer p.Close()
	for i, l := range listeners {
		a.log.Info().Str("url", pageURL(o.Listen[i], l.Addr(), o.WebConfig)).
			Msg("the page for browsers")
	}
	// Whoever is started after this can connect. Programs that are run must not speak for the unit.
	if _, err := daemon.SdNotify(true, daemon.SdNotifyReady); err != nil {
		a.log.Warn().Err(err).Msg("the service manager cannot be told that the monitor listens")
	}
	options := monitor.Options{Config: o.WebConfig, Log: a.slog(), Version: version, Page: p}
	if !o.NoAlerts {
		options.Alerts = func() map[string]monitor.AlertCount { return countsOf(alerts) }
	}
	return a.withAlerts(ctx, alerts, o.NoAlerts, func() error {
		return monitor.Serve(ctx, a.devices, listeners, options)
	})
}

// slog is the log for libraries.
func (a *app) slog() *slog.Logger { return slog.New(zerolog.NewSlogHandler(a.log)) }

// pageURL is where a browser finds the page, if the monitor was told to listen on an address, and
// does so. With a web configuration it may be https.
func pageURL(told string, at net.Addr, config string) string {
	host, _, _ := net.SplitHostPort(told)
	_, port, _ := net.SplitHostPort(at.String())
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		var err error
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
