package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/cmd/ublk-remap/internal/size"
	"ublkremap/internal/control"
	"ublkremap/internal/readable"
	"ublkremap/internal/shell"
)

func scrubCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "scrub",
		Short: "Read every block in the background, to find bad ones early",
		Long: `Read every block of a device in the background, while it is in use, to find
those that no longer read before anybody needs them. A block that does not read
becomes pending: the next write to it goes to the spare region.

After each pass the homes of blocks that were remapped for an error are tested,
as by "ublk-remap remap retest". A block whose home passes after two passes
moves home. Other homes are tested again after longer and longer times.

While the device is in use the scrub leaves nearly all of the disk's time to its
users, and reads 1 MiB a second all the same. It goes on where it was after a
restart, a recovery and an upgrade. Exit code 3: the state of the scrub does not
allow it.`,
		RunE: group,
	}
	cmd.AddCommand(scrubStartCommand(a),
		scrubVerbCommand(a, control.ScrubPause, "Pause the scrub"),
		scrubVerbCommand(a, control.ScrubResume, "Go on after a pause"),
		scrubVerbCommand(a, control.ScrubStop, "Give the scrub up, and those that would follow"),
		scrubStatusCommand(a))
	return cmd
}

func scrubStartCommand(a *app) *cobra.Command {
	var rate string
	var idle bool
	var interval time.Duration
	var relocate, wait, noRetest, dryRun bool
	cmd := &cobra.Command{
		Use:   "start DEV|NAME",
		Short: "Begin to read every block",
		Args:  arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r := control.ScrubRequest{Do: control.ScrubStart, Idle: idle,
				RelocateSlow: relocate, NoRetest: noRetest,
				IntervalS: uint64(interval / time.Second)}
			var err error
			if r.Rate, err = scrubRate(rate); err != nil {
				return fmt.Errorf("--rate %q: %w: %w", rate, exit.ErrUsage, err)
			}
			if interval < 0 || interval > 0 && interval < time.Minute {
				return fmt.Errorf("--interval %v: %w: at least 1m, or 0 for one pass", interval,
					exit.ErrUsage)
			}
			if dryRun {
				return a.wouldScrub(cmd.Context(), args[0], r)
			}
			if !wait {
				return a.scrub(cmd, args[0], r)
			}
			return a.scrubAndWait(cmd, args[0], r)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&wait, "wait", false, "wait for the end of the pass; interrupted, the scrub goes on")
	f.StringVar(&rate, "rate", "50MiB", "`SIZE` to read at most, in a second")
	f.BoolVar(&idle, "idle", false, "read only while nobody uses the device")
	f.DurationVar(&interval, "interval", 0,
		"read everything again, `TIME` after the last start, such as 168h; 0: one pass")
	f.BoolVar(&relocate, "relocate-slow", false,
		"move blocks that are slow to read to the spare region, at the end of each pass")
	f.BoolVar(&noRetest, "no-retest", false,
		"do not test after a pass whether the homes of remapped blocks are well again")
	dryRunFlag(cmd, &dryRun)
	a.jsonFlag(cmd)
	return cmd
}

// scrubRate reads a number of bytes a second.
func scrubRate(text string) (uint64, error) {
	s, err := size.Parse(text)
	if err != nil {
		return 0, err
	}
	n, exact := s.Exact()
	if !exact || n < 1<<10 {
		return 0, errors.New("want a number of bytes a second, at least 1KiB")
	}
	return uint64(n), nil
}

func scrubStatusCommand(a *app) *cobra.Command {
	ask := control.ScrubRequest{Do: control.ScrubShow}
	cmd := &cobra.Command{
		Use:   "status DEV|NAME",
		Short: "Say how far it is and what it has found",
		Args:  arguments(1, 1),
		RunE:  func(cmd *cobra.Command, args []string) error { return a.scrub(cmd, args[0], ask) },
	}
	cmd.Flags().BoolVar(&ask.Slow, "slow", false, "list the blocks that are slow to read, too")
	a.jsonFlag(cmd)
	return cmd
}

func scrubVerbCommand(a *app, verb control.ScrubVerb, short string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   string(verb) + " DEV|NAME",
		Short: short,
		Args:  arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.scrub(cmd, args[0], control.ScrubRequest{Do: verb})
		},
	}
	a.jsonFlag(cmd)
	return cmd
}

// scrub asks a device's server for something, and prints the state after it.
func (a *app) scrub(cmd *cobra.Command, name string, ask control.ScrubRequest) error {
	r, err := a.host().Lookup(name)
	if err != nil {
		return err
	}
	st, err := askScrub(cmd.Context(), r, ask)
	if err != nil {
		return err
	}
	return a.printScrub(r, st)
}

func askScrub(ctx context.Context, r *control.Record,
	ask control.ScrubRequest) (*control.ScrubStatus, error) {
	st, err := control.NewClient(r.Name).Scrub(ctx, ask)
	if errors.Is(err, control.ErrNotFound) {
		return nil, fmt.Errorf("%s: its server cannot scrub; it may be an older one, see: "+
			"ublk-remap upgrade: %w", r.Device, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: scrub %s: %w", r.Device, ask.Do, err)
	}
	return st, nil
}

func (a *app) printScrub(r *control.Record, st *control.ScrubStatus) error {
	if a.json {
		return a.printJSON(st)
	}
	return a.table(scrubRows(r.Device, st))
}

// scrubPoll is how often the server is asked how far its scrub is.
const scrubPoll = 500 * time.Millisecond

// scrubAndWait begins a scrub and waits for the end of its pass. The scrub itself goes on if that
// is interrupted, or if the server dies.
func (a *app) scrubAndWait(cmd *cobra.Command, name string, ask control.ScrubRequest) error {
	ctx := cmd.Context()
	r, err := a.host().Lookup(name)
	if err != nil {
		return err
	}
	st, err := askScrub(ctx, r, ask)
	if err != nil {
		return err
	}
	bar := a.progress(r.Device + ": reading every block")
	defer bar.End()
	for before := st.LastFinished; st.State != "idle" && sameTime(st.LastFinished, before); {
		bar.Set(int64(st.Position)*int64(r.BlockSize), int64(st.Total)*int64(r.BlockSize))
		bar.Note(scrubNote(st))
		select {
		case <-time.After(scrubPoll):
		case <-ctx.Done():
			return fmt.Errorf("%w; the scrub goes on, see: ublk-remap scrub status %s",
				context.Cause(ctx), shell.Quote(r.Name))
		}
		if st, err = askScrub(ctx, r, control.ScrubRequest{Do: control.ScrubShow}); err != nil {
			return fmt.Errorf("%w; the scrub goes on when the device is served again", err)
		}
	}
	bar.End()
	return a.printScrub(r, st)
}

func sameTime(a, b *time.Time) bool {
	return a == nil && b == nil || a != nil && b != nil && a.Equal(*b)
}

// scrubNote says what a scrub has found, and why it reads nothing.
func scrubNote(s *control.ScrubStatus) string {
	note := readable.Number(uint64(s.Found.Unreadable)) + " blocks unreadable"
	if s.Waits != "" {
		note += ", " + readable.Text(s.Waits)
	}
	return note
}

// scrubRows shows a scrub to a person.
func scrubRows(device string, s *control.ScrubStatus) [][]string {
	rows := [][]string{{"device", device}, {"scrub", scrubState(&s.Scrub)}}
	if s.Waits != "" {
		rows = appendWrapped(rows, "waits", s.Waits)
	}
	if s.State != "idle" {
		limit := "at most " + readable.Rate(float64(s.RateLimit))
		if s.Idle {
			limit += ", only while nobody uses the device"
		}
		rows = append(rows, []string{"rate", readable.Rate(float64(s.Rate)) + ", " + limit})
	}
	if s.EtaS != nil {
		rows = append(rows, []string{"ready in",
			readable.Duration(time.Duration(*s.EtaS) * time.Second)})
	}
	if s.Started != nil {
		rows = append(rows, []string{"started", s.Started.Local().Format(time.DateTime)},
			[]string{"found", fmt.Sprintf("%s blocks unreadable, %s weak, %s slow",
				readable.Number(uint64(s.Found.Unreadable)), readable.Number(uint64(s.Found.Weak)),
				readable.Number(uint64(s.Found.Slow)))},
			[]string{"done", fmt.Sprintf("%s blocks repaired, %s relocated",
				readable.Number(uint64(s.Repaired)), readable.Number(uint64(s.Relocated)))})
	}
	if s.Found.SpareUnits > 0 {
		rows = append(rows, []string{"", fmt.Sprintf("%s free spare units unreadable",
			readable.Number(uint64(s.Found.SpareUnits)))})
	}
	if s.Found.SlowSpareUnits > 0 {
		rows = append(rows, []string{"", fmt.Sprintf("%s free spare units slow",
			readable.Number(uint64(s.Found.SlowSpareUnits)))})
	}
	if s.RelocateSlow {
		rows = append(rows, []string{"slow blocks", "are moved to the spare region"})
	}
	if r := &s.Retest; r.Running || r.Tested > 0 {
		text := fmt.Sprintf("%s homes tested: %s passed once, %s passed twice and are home, "+
			"%s not well", readable.Number(r.Tested), readable.Number(r.Passed),
			readable.Number(r.Home), readable.Number(r.Failed))
		if r.Running {
			text += "; it goes on"
		}
		rows = appendWrapped(rows, "retest", text)
	}
	if s.LastFinished != nil {
		rows = append(rows, []string{"finished", s.LastFinished.Local().Format(time.DateTime)})
	}
	if s.IntervalS > 0 {
		rows = append(rows, []string{"interval",
			(time.Duration(s.IntervalS) * time.Second).String()})
	}
	for i, r := range s.SlowBlocks {
		key := ""
		if i == 0 {
			key = "slow"
		}
		rows = append(rows, []string{key, fmt.Sprintf("block %s, %s of them",
			readable.Number(r.Block), readable.Number(r.Count))})
	}
	return rows
}

// scrubState is one line about a scrub.
func scrubState(s *control.Scrub) string {
	if s.State == "idle" || s.Total == 0 {
		return s.State
	}
	return fmt.Sprintf("%s at block %s of %s (%.1f %%)", s.State, readable.Number(s.Position),
		readable.Number(s.Total), 100*float64(s.Position)/float64(s.Total))
}
