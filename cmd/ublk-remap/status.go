package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/control"
	"ublkremap/internal/drive"
)

func statusCommand(a *app) *cobra.Command {
	var watch time.Duration
	var look damageLook
	cmd := &cobra.Command{
		Use:   "status [DEV|NAME]",
		Short: "State, spares, errors and metadata of one device or of all",
		Long: `Tell how one device is doing, or all of them: first the state, the reason for it
and what to do next, then the figures.

States:
  live         all is well
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

With --json one device is an object, and all are an array. With --watch the
status is printed again and again, each time as a document of its own.`,
		Args: arguments(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("watch") && watch < 100*time.Millisecond {
				return fmt.Errorf("--watch %s: %w: want at least 100ms", watch, exit.ErrUsage)
			}
			files := &look
			if a.json && !look.asked {
				files = nil
			}
			for {
				look.spent = 0
				if err := status(cmd.Context(), a, args, files); err != nil {
					return err
				}
				if watch == 0 {
					return nil
				}
				select {
				case <-cmd.Context().Done():
					return nil
				case <-time.After(watch):
				}
				if err := a.gap(); err != nil {
					return err
				}
			}
		},
	}
	cmd.Flags().Var((*seconds)(&watch), "watch", "print again every so many seconds, until "+
		"interrupted")
	cmd.Flags().BoolVar(&look.asked, "files", false, "take the time to find out which files are "+
		"damaged")
	a.jsonFlag(cmd)
	return cmd
}

// status prints the status of one device or of all. files is nil if it does not matter which files
// are damaged.
func status(ctx context.Context, a *app, args []string, files *damageLook) error {
	if len(args) == 1 {
		st, err := a.host().StatusOf(ctx, args[0])
		if err != nil {
			return err
		}
		if files != nil {
			st.Files = files.of(ctx, st)
		}
		if a.json {
			return a.printJSON(st)
		}
		return a.printStatus(st)
	}
	all, err := a.host().Status(ctx)
	if err := a.allowPartial(err); err != nil {
		return err
	}
	for _, st := range all {
		if files != nil {
			st.Files = files.of(ctx, st)
		}
	}
	if a.json {
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
	rows := [][]string{{"device", s.Device + " (" + s.Name + ")"}, {"state", string(s.State)}}
	rows = appendWrapped(rows, "reason", s.Reason)
	rows = appendWrapped(rows, "action", s.Action)
	if s.WaitingSince != nil {
		rows = append(rows, []string{"waiting",
			"since " + s.WaitingSince.Local().Format(time.DateTime)})
	}
	rows = append(rows, [][]string{
		{"uuid", s.UUID},
		{"backing", s.Backing},
		{"size", fmt.Sprintf("%s, %s blocks of %d bytes",
			sizeText(int64(s.SizeBlocks)*int64(s.BlockSize)), numText(s.SizeBlocks), s.BlockSize)},
	}...)
	for _, d := range s.ErrorRecovery {
		rows = appendWrapped(rows, "error recovery", drive.Says(d))
	}
	if s.ServerPID != 0 && s.State != control.StateUnreachable {
		rows = appendFigures(rows, s)
	}
	return a.table(rows)
}

// appendFigures adds the counters of a device's server.
func appendFigures(rows [][]string, s *control.Status) [][]string {
	add := func(label, format string, args ...any) {
		rows = appendWrapped(rows, label, fmt.Sprintf(format, args...))
	}
	add("spare", "%s of %s units free, %s used", numText(s.Spare.Free), numText(s.Spare.Total),
		numText(s.Spare.Used))
	add("remaps", "%s units; %s blocks pending, %s lost", numText(s.Remaps), numText(s.Pending),
		numText(s.Lost))
	if s.Files != nil {
		add("files", "%s", damageStatus(s))
	}
	if t := s.Table; t != nil {
		growth := ""
		if t.Growth != "" {
			growth = "; more room: " + t.Growth
		}
		add("table", "%s of %s entries%s", numText(t.Entries), numText(t.Max), growth)
	}
	add("heals", "%s writes, %s reads; %s failed", numText(s.Heals.Writes), numText(s.Heals.Reads),
		numText(s.Heals.Failed))
	add("errors", "%s read, %s write, %s flush, %s transport",
		numText(s.Errors.Read), numText(s.Errors.Write), numText(s.Errors.Flush),
		numText(s.Errors.Transport))
	if e := s.Errors; e.FailedFast+e.NotNoted > 0 {
		add("failed reads", "%s of pending blocks, without a new try; %s that could not be noted",
			numText(e.FailedFast), numText(e.NotNoted))
	}
	add("io", "%s reads (%s), %s writes (%s), %s flushes, %s discards", numText(s.IO.Reads),
		sizeText(int64(s.IO.ReadBytes)),
		numText(s.IO.Writes), sizeText(int64(s.IO.WriteBytes)), numText(s.IO.Flushes),
		numText(s.IO.Discards))
	if r := s.Requests; r.SlowSince != nil {
		add("slow", "%s requests since %s or later; %s of at most %s are under way",
			numText(uint64(r.Slow)), r.SlowSince.Local().Format(time.DateTime),
			numText(uint64(r.UnderWay)), numText(uint64(r.Most)))
	}
	add("metadata", "v%d, sequence %d, log %s of %s", s.Metadata.Version, s.Metadata.Sequence,
		sizeText(s.Metadata.LogUsed), sizeText(s.Metadata.LogSize))
	for _, m := range s.Metadata.Mirrors {
		rows = append(rows, []string{"mirror", m.Location + " " + m.State})
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
	*s = seconds(d)
	return err
}

// String returns the value as the help shows a default.
func (s *seconds) String() string { return time.Duration(*s).String() }

// Type names the flag's value in the help.
func (s *seconds) Type() string { return "seconds" }
