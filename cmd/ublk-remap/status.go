package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/attention"
	"ublkremap/internal/control"
	"ublkremap/internal/drive"
	"ublkremap/internal/readable"
)

// statusOptions are the flags of status.
type statusOptions struct {
	watch      time.Duration
	brief, csv bool
	look       damageLook
	header     bool // of --csv: it was printed
}

func statusCommand(a *app) *cobra.Command {
	var o statusOptions
	cmd := &cobra.Command{
		Use:   "status [DEV|NAME]",
		Short: "State, spares, errors and metadata of one device or of all",
		Long: `Tell how one device is doing, or all of them: first the state, what is with it
and what to do next, then the figures. The alerts that the monitor of this host
has found are among them.

States:
  live         it works; all is well, unless a reason says otherwise
  recovering   a server starts on the device of a dead one; I/O waits
  degraded     it works, but a metadata mirror is missing, or no spare is free
  tripped      the breaker is open: errors are passed on, and nothing is
               remapped; see resume
  failed       its server is dead; see start
  stopping     it is being stopped
  unreachable  its server does not answer, or cannot be seen from here

If blocks are pending or lost, it says which files they belong to if that can be
found in two seconds; else see files. With --json it does so with --files only,
which takes up to a minute for each device.

With --json one device is an object, and all are an array. --brief prints one
line for each device, --csv one row of comma-separated values after a header.
With --watch the status is printed again and again; with --json each time as a
document of its own. For a view that is kept up to date see top.`,
		Args: arguments(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("watch") && o.watch < 100*time.Millisecond {
				return fmt.Errorf("--watch %s: %w: want at least 100ms", o.watch, exit.ErrUsage)
			}
			return a.watchStatus(cmd.Context(), args, &o)
		},
	}
	f := cmd.Flags()
	f.Var((*seconds)(&o.watch), "watch", "print again every so many `SECONDS`, until interrupted")
	f.BoolVar(&o.look.asked, "files", false, "take the time to find out which files are damaged")
	f.BoolVar(&o.brief, "brief", false, "print one line for each device")
	f.BoolVar(&o.csv, "csv", false, "print comma-separated values, with a header")
	a.jsonFlag(cmd)
	cmd.MarkFlagsMutuallyExclusive("brief", "csv", "json")
	cmd.MarkFlagsMutuallyExclusive("brief", "files")
	cmd.MarkFlagsMutuallyExclusive("csv", "files")
	return cmd
}

// watchStatus prints the status, once or until ctx ends.
func (a *app) watchStatus(ctx context.Context, args []string, o *statusOptions) error {
	for {
		o.look.spent = 0
		if err := status(ctx, a, args, o); err != nil {
			return err
		}
		if o.watch == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(o.watch):
		}
		if o.csv || o.brief && len(args) > 0 {
			continue
		}
		if err := a.gap(); err != nil {
			return err
		}
	}
}

// status prints the status of one device or of all.
func status(ctx context.Context, a *app, args []string, o *statusOptions) error {
	var all []*control.Status
	if len(args) == 1 {
		st, err := a.host().StatusOf(ctx, args[0])
		if err != nil {
			return err
		}
		all = append(all, st)
	} else {
		var err error
		all, err = a.host().Status(ctx)
		if err := a.allowPartial(err); err != nil {
			return err
		}
	}
	control.AddAlerts(ctx, all...)
	switch {
	case o.brief:
		return a.printBrief(all)
	case o.csv:
		header := !o.header
		o.header = true
		return a.printCSV(all, time.Now(), header)
	}
	if !a.json || o.look.asked {
		for _, st := range all {
			st.Files = o.look.of(ctx, st)
		}
	}
	switch {
	case a.json && len(args) == 1:
		return a.printJSON(all[0])
	case a.json:
		return a.printJSON(all)
	}
	for i, st := range all {
		if i > 0 {
			if err := a.gap(); err != nil {
				return err
			}
		}
		if err := a.printStatus(st); err != nil {
			return err
		}
	}
	return nil
}

// gap prints an empty line between blocks of text for people.
func (a *app) gap() error {
	if a.json {
		return nil
	}
	_, err := fmt.Fprintln(a.out)
	return err
}

func (a *app) printStatus(s *control.Status) error {
	rows := appendBroken(nil, "device", s.Device+" ("+s.Name+")")
	rows = append(rows, []string{"state", string(s.State)})
	rows = appendAttention(rows, s)
	if s.WaitingSince != nil {
		rows = append(rows, []string{"waiting",
			"since " + s.WaitingSince.Local().Format(time.DateTime)})
	}
	rows = append(rows, []string{"uuid", s.UUID})
	rows = appendBroken(rows, "backing", s.Backing)
	rows = append(rows, [][]string{
		{"size", fmt.Sprintf("%s, %s blocks of %d bytes",
			readable.Bytes(int64(s.SizeBlocks)*int64(s.BlockSize)), readable.Number(s.SizeBlocks),
			s.BlockSize)},
	}...)
	for _, d := range s.ErrorRecovery {
		rows = appendWrapped(rows, "error recovery", drive.Says(d))
	}
	if s.Answered() {
		rows = appendFigures(rows, s)
	}
	if !a.colours() {
		return a.table(rows)
	}
	behind := slices.ContainsFunc(s.Metadata.Mirrors, func(m control.Mirror) bool {
		return m.State != "good"
	})
	return a.paintedTable(rows, func(row []string) string {
		switch {
		case row[0] == "state" && s.State == control.StateLive && len(attention.Of(s)) > 0:
			return warning
		case row[0] == "state":
			return colourOf(s.State)
		case row[0] == "remaps" && s.Lost > 0, row[0] == "breaker" && s.Breaker.State != "closed",
			row[0] == "waiting":
			return alarming
		case row[0] == "remaps" && s.Pending > 0, row[0] == "slow", row[0] == "mirror" &&
			behind && !strings.HasSuffix(row[1], " good"), row[0] == "spare" && s.Spare.Free == 0:
			return warning
		}
		return plain
	})
}

// appendAttention adds what is with a device, and what to do, the most urgent first.
func appendAttention(rows [][]string, s *control.Status) [][]string {
	all := attention.Of(s)
	for i := range all {
		rows = appendWrapped(rows, "reason", readable.Text(all[i].Says))
	}
	label := "action"
	for _, step := range all.Steps() {
		rows = appendStep(rows, label, step)
		label = "then"
	}
	for i := range s.Alerts {
		a := &s.Alerts[i]
		text := a.Kind + ", since " + a.Since.Local().Format(time.DateTime)
		if a.Acknowledged != nil {
			text += ", acknowledged"
		}
		rows = append(rows, []string{"alert", text})
	}
	return rows
}

// appendStep adds what to do. A command stays in one line, so that it can be copied.
func appendStep(rows [][]string, label, step string) [][]string {
	step = readable.Text(step)
	words, typed := attention.Command(step)
	switch {
	case readable.Columns(step) <= textWidth:
		return append(rows, []string{label, step})
	case words != "" && typed != "":
		return append(appendWrapped(rows, label, words+":"), []string{"", typed})
	}
	return appendWrapped(rows, label, step)
}

// appendFigures adds the counters of a device's server.
func appendFigures(rows [][]string, s *control.Status) [][]string {
	add := func(label, format string, args ...any) {
		rows = appendWrapped(rows, label, fmt.Sprintf(format, args...))
	}
	add("spare", "%s of %s units free, %s used", readable.Number(s.Spare.Free),
		readable.Number(s.Spare.Total), readable.Number(s.Spare.Used))
	add("remaps", "%s units; %s blocks pending, %s lost", readable.Number(s.Remaps),
		readable.Number(s.Pending), readable.Number(s.Lost))
	if s.Files != nil {
		add("files", "%s", damageStatus(s))
	}
	if t := s.Table; t != nil {
		growth := ""
		if t.Growth != "" {
			growth = "; more room: " + t.Growth
		}
		add("table", "%s of %s entries%s", readable.Number(t.Entries), readable.Number(t.Max),
			growth)
	}
	add("heals", "%s writes, %s reads; %s failed", readable.Number(s.Heals.Writes),
		readable.Number(s.Heals.Reads), readable.Number(s.Heals.Failed))
	add("errors", "%s read, %s write, %s flush, %s transport",
		readable.Number(s.Errors.Read), readable.Number(s.Errors.Write),
		readable.Number(s.Errors.Flush), readable.Number(s.Errors.Transport))
	if e := s.Errors; e.FailedFast+e.NotNoted > 0 {
		add("failed reads", "%s of pending blocks, without a new try; %s that could not be noted",
			readable.Number(e.FailedFast), readable.Number(e.NotNoted))
	}
	add("io", "%s reads (%s), %s writes (%s), %s flushes, %s discards", readable.Number(s.IO.Reads),
		readable.Bytes(int64(s.IO.ReadBytes)),
		readable.Number(s.IO.Writes), readable.Bytes(int64(s.IO.WriteBytes)),
		readable.Number(s.IO.Flushes), readable.Number(s.IO.Discards))
	if r := s.Requests; r.SlowSince != nil {
		add("slow", "%s requests since %s or later; %s of at most %s are under way",
			readable.Number(uint64(r.Slow)), r.SlowSince.Local().Format(time.DateTime),
			readable.Number(uint64(r.UnderWay)), readable.Number(uint64(r.Most)))
	}
	add("metadata", "v%d, sequence %d, log %s of %s", s.Metadata.Version, s.Metadata.Sequence,
		readable.Bytes(s.Metadata.LogUsed), readable.Bytes(s.Metadata.LogSize))
	for _, m := range s.Metadata.Mirrors {
		rows = appendBroken(rows, "mirror", m.Location+" "+m.State)
	}
	if s.Scrub.State != "idle" {
		add("scrub", "%s", scrubState(&s.Scrub))
	}
	add("breaker", "%s", s.Breaker.State)
	add("server", "process %d, %s", s.ServerPID, dataPath(s.Features))
	return rows
}

func dataPath(f control.Features) string {
	path := "copying"
	if f.ZeroCopy {
		path = "zero copy"
	}
	if f.BatchIO {
		path += ", batch I/O"
	}
	return path
}

// seconds is a flag for a number of seconds, with or without a unit.
type seconds time.Duration

// Set reads "2", "0.5" or "2s".
func (s *seconds) Set(text string) error {
	d, err := time.ParseDuration(text)
	if err != nil {
		d, err = time.ParseDuration(text + "s")
	}
	if err != nil {
		return errors.New("want a number of seconds, such as 2 or 0.5")
	}
	*s = seconds(d)
	return nil
}

// String returns the value as the help shows a default.
func (s *seconds) String() string {
	if *s == 0 {
		return "0"
	}
	return time.Duration(*s).String()
}

// Type names the flag's value in the help.
func (s *seconds) Type() string { return "seconds" }
