package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/control"
	"ublkremap/internal/readable"
	"ublkremap/internal/shell"
	"ublkremap/remap"
)

// retested is what remap retest and remap clear print as JSON. Counts are blocks.
type retested struct {
	Device  string          `json:"device"`
	Ranges  []control.Range `json:"ranges"` // none: all blocks
	Found   uint64          `json:"found"`
	Home    uint64          `json:"home"`
	Failed  uint64          `json:"failed"`
	Changed uint64          `json:"changed"`
	Skipped uint64          `json:"skipped"`
	// Ended says that the retest has ended. It goes on otherwise (--background).
	Ended  bool   `json:"ended"`
	Step   string `json:"step"`
	Error  string `json:"error"` // why it ended early
	DryRun bool   `json:"dry_run"`
}

type retestOptions struct {
	dryRun, yes, background, status, stop bool
	clear                                 bool // the verb is remap clear
	pause                                 time.Duration
}

func remapRetestCommand(a *app) *cobra.Command {
	var o retestOptions
	cmd := &cobra.Command{
		Use:   "retest DEV|NAME [BLOCK[+COUNT]…]",
		Short: "Test whether bad blocks are well again, and take them home",
		Long: `Test whether blocks that were bad are well again. Those that are move home, and
their spare units are free again.

The data of a block is written to its home, with a flush after it. Then other
places of the disk are read, so that its cache holds those, and then the home is
read and compared. All of this is done twice, a pause apart. Users may go on
reading and writing. What they read comes from the spare region until the end.

A block that is pending and has no place in the spare region is not written. It
is no longer pending if it reads, and gives the same each time.

Without blocks, all of the device is tested, except what was moved on purpose:
by remap add, or from a list. Ctrl-C ends the test; nothing is lost. The exit
code is 0 also if blocks are not well: they stay where they are.`,
		Args: arguments(1, anyNumber),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return a.retest(cmd, args, o) }
	a.retestFlags(cmd, &o)
	f := cmd.Flags()
	f.BoolVar(&o.background, "background", false, "begin, and do not wait for the end")
	f.BoolVar(&o.status, "status", false, "print how far the last test is, and begin none")
	f.BoolVar(&o.stop, "stop", false, "end the test that is under way")
	return cmd
}

func remapClearCommand(a *app) *cobra.Command {
	o := retestOptions{clear: true}
	cmd := &cobra.Command{
		Use:   "clear DEV|NAME",
		Short: "Take home all blocks whose home is well",
		Long: `Take everything home whose home is well, also what was moved on purpose by
remap add or from a list. Each home is tested as by remap retest. What is not
well stays in the spare region, and the exit code is 1.`,
		Args: arguments(1, 1),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return a.retest(cmd, args, o) }
	a.retestFlags(cmd, &o)
	yesFlag(cmd, &o.yes)
	return cmd
}

func (a *app) retestFlags(cmd *cobra.Command, o *retestOptions) {
	cmd.Flags().BoolVar(&o.dryRun, "dry-run", false, "say what would be tested and change nothing")
	cmd.Flags().DurationVar(&o.pause, "pause", time.Minute,
		"`TIME` between the two tests of a block")
	a.jsonFlag(cmd)
}

func (a *app) retest(cmd *cobra.Command, args []string, o retestOptions) error {
	if err := o.check(len(args) > 1); err != nil {
		return err
	}
	r, err := a.host().Lookup(args[0])
	if err != nil {
		return err
	}
	out := retested{Device: r.Device, DryRun: o.dryRun, Ranges: []control.Range{}}
	ranges, err := parseRanges(args[1:], r.Blocks)
	if err != nil {
		return err
	}
	out.Ranges = append(out.Ranges, ranges...)
	ask := control.RetestRequest{Ranges: out.Ranges, KeepMoved: len(ranges) == 0 && !o.clear,
		PauseMS: o.pause.Milliseconds()}
	c := control.NewClient(r.Name)
	switch {
	case o.dryRun:
		out.Found, err = retestable(cmd.Context(), c, ask)
		if err == nil && out.Found > 0 {
			err = wouldFail(cmd.Context(), r, 0)
		}
		if err == nil {
			err = noRetestRuns(cmd.Context(), r, c)
		}
	case o.status || o.stop:
		err = lastRetest(cmd.Context(), c, &out, o.stop)
	default:
		if o.clear && !o.yes {
			if err := a.confirm("This takes everything on " + readable.Text(r.Device) +
				" home whose home passes the test."); err != nil {
				return err
			}
		}
		err = a.runRetest(cmd.Context(), c, ask, &out, o.background)
	}
	if err != nil {
		return err
	}
	if err := a.printRetested(&out); err != nil {
		return err
	}
	stays := out.Failed + out.Changed
	switch {
	case out.Error != "" && !o.status && !o.stop:
		next := "try again"
		if out.Error == remap.ErrTripped.Error() {
			next = "check the disk, then: " + shell.Command("resume", r.Name)
		}
		return fmt.Errorf("%s: %w: %s (%d blocks were taken home): nothing is lost; %s",
			r.Device, control.ErrFailed, out.Error, out.Home, next)
	case o.clear && stays > 0:
		return fmt.Errorf("%s: %w: %s blocks are not well and stay as they are; see: %s", r.Device,
			control.ErrFailed, readable.Number(stays), shell.Command("remap", "list", r.Name))
	}
	return nil
}

// check refuses flags that do not go together.
func (o *retestOptions) check(blocks bool) error {
	if o.pause < 0 || o.pause > 7*24*time.Hour {
		return fmt.Errorf("--pause %v: %w: want 0s to 168h", o.pause, exit.ErrUsage)
	}
	chosen := 0
	for _, flag := range []bool{o.dryRun, o.background, o.status, o.stop} {
		if flag {
			chosen++
		}
	}
	if chosen > 1 {
		return fmt.Errorf("%w: give only one of --dry-run, --background, --status and --stop",
			exit.ErrUsage)
	}
	if (o.status || o.stop) && blocks {
		return fmt.Errorf("%w: --status and --stop take no blocks", exit.ErrUsage)
	}
	return nil
}

// retestable counts the blocks that a retest would test.
func retestable(ctx context.Context, c *control.Client, ask control.RetestRequest) (n uint64,
	err error) {
	ranges := joinRanges(ask.Ranges)
	err = c.EachRemap(ctx, func(m control.Remap) error {
		// What is pending and not in the spare region was not moved: others of its unit were.
		purpose := m.Cause == "import" || m.Cause == "operator" &&
			(m.State != "pending" || m.Spare != nil)
		if m.State == "lost" || ask.KeepMoved && purpose {
			return nil
		}
		if len(ranges) == 0 {
			n += m.Count
			return nil
		}
		for _, g := range ranges {
			from, to := max(m.Block, g.Block), min(m.Block+m.Count, g.Block+g.Count)
			if from < to {
				n += to - from
			}
		}
		return nil
	})
	return n, err
}

// noRetestRuns returns the error with which another retest would end while one is under way. One
// that a scrub has begun makes room.
func noRetestRuns(ctx context.Context, r *control.Record, c *control.Client) error {
	last, err := c.Retest(ctx)
	if err != nil || last.ID == 0 || last.Ended {
		return err
	}
	scrub, err := c.Scrub(ctx, control.ScrubRequest{Do: control.ScrubShow})
	if err == nil && !scrub.Retest.Running {
		err = fmt.Errorf("%s: %w: a retest is under way", r.Device, control.ErrBusy)
	}
	return err
}

// lastRetest fills in how far the last retest is.
func lastRetest(ctx context.Context, c *control.Client, out *retested, stop bool) error {
	ask := c.Retest
	if stop {
		ask = c.StopRetest
	}
	state, err := ask(ctx)
	if err == nil && state.ID == 0 {
		return fmt.Errorf("%s: %w: no retest was asked for since the server's start", out.Device,
			control.ErrNotFound)
	}
	out.take(&state)
	return err
}

func (t *retested) take(r *control.Retest) {
	t.Found, t.Home, t.Failed = r.Found, r.Home, r.Failed
	t.Changed, t.Skipped = r.Changed, r.Skipped
	t.Ended, t.Step, t.Error = r.Ended, r.Step, r.Error
}

// retestPoll is how often the server is asked how far it is.
const retestPoll = 200 * time.Millisecond

// runRetest begins a retest and waits for its end. If ctx ends, the retest is ended too.
func (a *app) runRetest(ctx context.Context, c *control.Client, ask control.RetestRequest,
	out *retested, background bool) error {
	state, err := c.StartRetest(ctx, ask)
	if err != nil || background {
		out.take(&state)
		return err
	}
	id := state.ID
	bar := a.progress("retest")
	defer bar.End()
	for !state.Ended {
		bar.Note(retestNote(&state))
		select {
		case <-time.After(retestPoll):
		case <-ctx.Done():
			// A context of its own, because this one has ended.
			stopped, err := c.StopRetest(context.WithoutCancel(ctx))
			if err == nil {
				out.take(&stopped)
			}
			return errors.Join(context.Cause(ctx), err)
		}
		if state, err = c.Retest(ctx); err != nil {
			if ctx.Err() != nil {
				continue
			}
			return fmt.Errorf("%w; the test has ended with it, and nothing is lost", err)
		}
		if state.ID != id {
			return fmt.Errorf("%s: %w: the server was replaced, and the test ended with the old "+
				"one: nothing is lost; try again", out.Device, control.ErrFailed)
		}
	}
	out.take(&state)
	return nil
}

// retestNote says in a few words what a retest does.
func retestNote(r *control.Retest) string {
	what := map[string]string{"find": "looking", "write": "writing",
		"displace": "reading others", "read": "reading back", "pause": "pausing",
		"take": "taking home"}[r.Step]
	test := 1
	if r.Second {
		test = 2
	}
	return fmt.Sprintf("test %d, %s: %s found, %s home, %s not well", test, what,
		readable.Number(r.Found), readable.Number(r.Home), readable.Number(r.Failed))
}

func (a *app) printRetested(t *retested) error {
	if a.json {
		return a.printJSON(t)
	}
	text := fmt.Sprintf("tested %s blocks: %s are home", readable.Number(t.Found),
		readable.Number(t.Home))
	switch {
	case t.DryRun:
		text = fmt.Sprintf("would test %s blocks, and take home those that are well",
			readable.Number(t.Found))
	case !t.Ended:
		text = fmt.Sprintf("the test goes on (%s): %s blocks found, %s home so far", t.Step,
			readable.Number(t.Found), readable.Number(t.Home))
	}
	var rest []string
	for _, x := range []struct {
		n    uint64
		what string
	}{{t.Failed, "are not well"}, {t.Changed, "were written to in each test: try again"},
		{t.Skipped, "needed no test any more"}} {
		if x.n > 0 {
			rest = append(rest, readable.Number(x.n)+" "+x.what)
		}
	}
	if len(rest) > 0 {
		text += "; " + strings.Join(rest, ", ")
	}
	_, err := fmt.Fprintln(a.out, text)
	return err
}
