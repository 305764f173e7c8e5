package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/companion"
	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/cmd/ublk-remap/internal/recorder"
	"ublkremap/internal/alert"
	"ublkremap/internal/alert/settings"
	"ublkremap/internal/config"
	"ublkremap/internal/monitor"
)

func alertsCommand(a *app) *cobra.Command {
	return companion.Alerts(companion.AlertsRun{List: a.listAlerts, Acknowledge: a.acknowledge,
		Test: a.testAlerts}, func(least, most int) cobra.PositionalArgs {
		return cobra.RangeArgs(least, most) // the first program has counted them already
	})
}

// alertSettings reads the monitor's file. Without one, the defaults hold.
func alertSettings() (*settings.Settings, error) {
	s := settings.New()
	f, err := config.ReadMonitor()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return s, nil
	case err != nil:
		return nil, err
	}
	return s, s.Apply(f)
}

// alertRound is what the alerts are judged by.
func (a *app) alertRound(ctx context.Context,
	last func(string) (alert.EventPlace, bool)) alert.Round {
	all, err := a.statuses(ctx)
	r := alert.Round{Time: time.Now(), Err: err}
	for _, d := range monitor.Ask(ctx, all) {
		r.Devices = append(r.Devices, alert.Device{Status: d.Status, Latencies: d.Latencies,
			Answered: d.Status.HasFigures(), Missing: d.Status.Missing})
		d := &r.Devices[len(r.Devices)-1]
		if d.Answered {
			if report, ok := a.verdicts.get(ctx, d.Status, smartTypes(d.Status.Name)); ok {
				d.Verdict, d.Why = string(report.Verdict), report.Reasons[0]
			}
		}
		askEvents(ctx, d, last)
	}
	return r
}

// smartTypes is what the configuration of a set says about its disk.
func smartTypes(name string) []string {
	f, err := config.Read(name)
	if err != nil {
		return nil
	}
	if s := f.Setting("smart-type"); s != nil {
		return s.Texts
	}
	return nil
}

// askEvents asks a device's server what its flight recorder has noted since the last round.
func askEvents(ctx context.Context, d *alert.Device,
	last func(string) (alert.EventPlace, bool)) {
	if !d.Answered {
		return
	}
	seen, _ := last(d.Status.UUID)
	place := recorder.Place(seen)
	list, err := recorder.Since(ctx, d.Status.Name, &place)
	if err != nil {
		return // a server that is too old has none
	}
	d.Told, d.Last = true, alert.EventPlace(place)
	for i := range list {
		x := &list[i]
		d.Events = append(d.Events, alert.Event{Number: x.Number, Time: x.Time(),
			What: x.Kind.String(), Text: x.Text()})
	}
}

// newAlerts returns what judges the devices, and tells of alerts as the monitor's file says. A file
// that makes no sense is an error, unless nothing is to be told.
func (a *app) newAlerts(quiet bool) (*alert.Monitor, error) {
	s := settings.New()
	if !quiet {
		var err error
		if s, err = alertSettings(); err != nil {
			return nil, err
		}
	}
	return alert.New(s, a.alertRound, a.slog())
}

// withAlerts judges the devices while serve runs, for what shows alerts, and tells of them unless
// it is to be quiet. The page and the metrics are served whatever becomes of that.
func (a *app) withAlerts(ctx context.Context, m *alert.Monitor, quiet bool,
	serve func() error) error {
	ctx, end := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if !quiet {
			if err := m.Run(ctx); err != nil {
				a.log.Warn().Err(err).Msg("this monitor tells of no alerts")
			}
		}
		if ctx.Err() == nil {
			m.Watch(ctx)
		}
	}()
	err := serve()
	end()
	<-ended
	return err
}

// countsOf is what the ways of alerts have done, for the metrics.
func countsOf(m *alert.Monitor) map[string]monitor.AlertCount {
	all := map[string]monitor.AlertCount{}
	for way, c := range m.Counts() {
		all[way] = monitor.AlertCount(c)
	}
	return all
}

// listed returns the alerts that are there, and whether a monitor runs.
func listed(ctx context.Context) ([]alert.Listed, bool, error) {
	all, err := alert.NewClient().List(ctx)
	if !errors.Is(err, alert.ErrNotRunning) {
		return all, true, err
	}
	state, err := alert.LoadState(settings.StateDir())
	if err != nil {
		return nil, false, stateError(err)
	}
	return alert.NewMachine(state, alert.Options{Host: alert.Hostname()}).List(), false, nil
}

// stateError says what to do about a state that cannot be used.
func stateError(err error) error {
	if errors.Is(err, alert.ErrStateDamaged) {
		return fmt.Errorf("%w; a monitor that starts begins it anew: systemctl restart "+
			"ublk-remap-monitor", err)
	}
	return err
}

func (a *app) listAlerts(cmd *cobra.Command, asJSON bool) error {
	all, running, err := listed(cmd.Context())
	if err != nil {
		return err
	}
	if !running {
		a.log.Warn().Msg("no monitor runs; this is what the last one has noted")
	}
	if asJSON {
		return a.printJSON(all)
	}
	if len(all) == 0 {
		_, err := fmt.Fprintln(a.out, "no alert is there")
		return err
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "SINCE\tSET\tALERT\tSEVERITY\tACK\tWHAT") // Flush has the error
	for _, l := range all {
		ack := "-"
		if l.Acknowledged != nil {
			ack = l.Acknowledged.Local().Format(time.DateTime)
		}
		what := l.Text
		if l.Action != "" {
			what += " " + l.Action
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", l.Since.Local().Format(time.DateTime),
			l.Set, l.Kind, l.Severity, ack, what)
	}
	return w.Flush()
}

func (a *app) acknowledge(cmd *cobra.Command, set string, kinds []string) error {
	for _, k := range kinds {
		if alert.KindOf(k) == nil {
			return fmt.Errorf("%w: there is no alert %q; see: ublk-remap alerts list",
				exit.ErrUsage, k)
		}
	}
	done, err := alert.NewClient().Acknowledge(cmd.Context(), alert.Acknowledgement{Set: set,
		Alerts: kinds})
	if errors.Is(err, alert.ErrNotRunning) {
		done.Count, err = alert.AcknowledgeStopped(set, kinds)
	}
	if errors.Is(err, alert.ErrNoAlert) {
		return fmt.Errorf("%w: %w; see: ublk-remap alerts list", exit.ErrNotFound, err)
	}
	if err != nil {
		return stateError(err)
	}
	_, err = fmt.Fprintf(a.out, "quiet until it gets worse: %d alerts\n", done.Count)
	return err
}

func (a *app) testAlerts(cmd *cobra.Command, asJSON bool) error {
	all, err := alert.NewClient().Test(cmd.Context())
	if errors.Is(err, alert.ErrNotRunning) {
		a.log.Warn().Msg("no monitor runs, so this command sends the test itself")
		all, err = a.testHere(cmd.Context())
	}
	if err != nil {
		return err
	}
	if asJSON {
		if err := a.printJSON(all); err != nil {
			return err
		}
	}
	failed := 0
	for _, r := range all {
		text := r.Way + ": " + cmp.Or(r.Note, "ok")
		if r.Error != "" {
			failed++
			text = r.Way + ": " + r.Error
		}
		if !asJSON {
			if _, err := fmt.Fprintln(a.out, text); err != nil {
				return err
			}
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d ways do not work", failed, len(all))
	}
	return nil
}

// testHere sends a test alert from this process.
func (a *app) testHere(ctx context.Context) ([]alert.Result, error) {
	s, err := alertSettings()
	if err != nil {
		return nil, err
	}
	ways, takers, err := alert.Ways(s, a.slog())
	if err != nil {
		return nil, err
	}
	return alert.Test(ctx, ways, takers, alert.Hostname()), nil
}

func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
