package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/cmd/ublk-remap/internal/progress"
	"ublkremap/internal/control"
	"ublkremap/internal/readable"
)

func remapCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "remap",
		Short: "The remap table by hand",
		Long: `Print the remap table of a device, and change it while the device is in use. A
block is a number, counted in blocks of the device (512 or 4096 bytes) from its
start. BLOCK+COUNT is COUNT blocks, from that one on.`,
		RunE: group,
	}
	cmd.AddCommand(remapListCommand(a), remapMoveCommand(a, true), remapMoveCommand(a, false),
		remapRetestCommand(a), remapClearCommand(a))
	return cmd
}

func remapListCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list DEV|NAME",
		Short: "List what is remapped, pending or lost",
		Long: `List what is remapped, pending or lost: blocks of the device, where they live in
the spare region, in which state they are, why, and since when.`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := a.host().Lookup(args[0])
			if err != nil {
				return err
			}
			return a.printRemaps(func(f func(control.Remap) error) error {
				return control.NewClient(r.Name).EachRemap(cmd.Context(), f)
			})
		},
	}
	a.jsonFlag(cmd)
	return cmd
}

// printRemaps prints the rows that each gives, as they arrive. There may be millions. If that fails
// midway a JSON document stays open, so that nobody mistakes it for the whole.
func (a *app) printRemaps(each func(func(control.Remap) error) error) error {
	to, end := a.printing()
	defer end()
	out := bufio.NewWriterSize(to, 64<<10)
	n := 0
	row := func(cells ...any) error {
		_, err := fmt.Fprintf(out, "%-12v  %-10v  %-12v  %-7v  %-8v  %v\n", cells...)
		return err
	}
	err := each(func(r control.Remap) error {
		n++
		if a.json {
			b, err := json.MarshalIndent(r, "  ", "  ")
			if err != nil {
				return err
			}
			sep := ",\n  "
			if n == 1 {
				sep = "[\n  "
			}
			_, err = fmt.Fprintf(out, "%s%s", sep, b)
			return err
		}
		if n == 1 {
			if err := row("BLOCK", "COUNT", "SPARE", "STATE", "CAUSE", "TIME"); err != nil {
				return err
			}
		}
		spare := "-"
		if r.Spare != nil {
			spare = strconv.FormatUint(*r.Spare, 10)
		}
		return row(r.Block, r.Count, spare, readable.Text(r.State), readable.Text(r.Cause),
			readable.Text(r.Time))
	})
	if err == nil && a.json {
		text := "\n]\n"
		if n == 0 {
			text = "[]\n"
		}
		_, err = out.WriteString(text)
	}
	return errors.Join(err, out.Flush())
}

func remapMoveCommand(a *app, add bool) *cobra.Command {
	var dryRun, acceptOld bool
	cmd := &cobra.Command{
		Use:   "add DEV|NAME BLOCK[+COUNT]…",
		Short: "Move blocks that still read to the spare region",
		Long: `Move blocks that still read to the spare region. What is written there is read
back and compared before the home is given up. A spare unit that does not hold
what was written is not used again.`,
		Args: arguments(2, anyNumber),
	}
	if !add {
		cmd.Use, cmd.Short = "remove DEV|NAME BLOCK[+COUNT]…", "Move blocks home again"
		cmd.Long = `Move blocks home again. What is written home is read back before the remap is
given up. A block whose home fails stays in the spare region. A block that is
pending and reads again is not pending any more.

A block without a copy that reads stays as it is, and the exit code is 3: its
spare unit fails, or it is lost. Home may still hold what the block held before
it left. Whatever was written to it since is not there, also if it was
acknowledged, and nothing tells whether there was any. --accept-old takes what
home holds, if that reads several times.`
		cmd.Flags().BoolVar(&acceptOld, "accept-old", false,
			"take what home holds for blocks without a copy that reads: what was written to them "+
				"since they left it is lost")
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		r, err := a.host().Lookup(args[0])
		if err != nil {
			return err
		}
		ranges, err := parseRanges(args[1:], r.Blocks)
		if err != nil {
			return err
		}
		return a.moveBlocks(cmd.Context(), r, moved{Device: r.Device, Ranges: ranges,
			DryRun: dryRun, acceptOld: acceptOld}, add)
	}
	dryRunFlag(cmd, &dryRun)
	a.jsonFlag(cmd)
	return cmd
}

// moved is what remap add and remap remove print as JSON.
type moved struct {
	Device string          `json:"device"`
	Ranges []control.Range `json:"ranges"`
	// Blocks is how many blocks were moved. Of a dry run: would be, if their new places take them.
	Blocks uint64 `json:"blocks"`
	// how many of Blocks have at home what their home held before they left it
	Old    uint64 `json:"old"`
	DryRun bool   `json:"dry_run"`

	acceptOld bool
}

func (a *app) moveBlocks(ctx context.Context, r *control.Record, out moved, add bool) error {
	if out.DryRun {
		return a.wouldMove(ctx, r, out, add)
	}
	verb := control.MoveRemove
	switch {
	case add:
		verb = control.MoveAdd
	case out.acceptOld:
		verb = control.MoveTakeBack
	}
	bar := a.progress(r.Device + ": moving")
	bar.Unit("blocks")
	bar.Expected(int64(blocksIn(out.Ranges)))
	err := moveAll(ctx, r, verb, &out, bar)
	bar.End()
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(out)
	}
	_, err = fmt.Fprintf(a.out, "moved %s blocks\n", readable.Number(out.Blocks))
	if err == nil && out.Old > 0 {
		_, err = fmt.Fprintf(a.out, "of %s of them home holds what it held before they left it\n",
			readable.Number(out.Old))
	}
	return err
}

// movePiece is how many bytes are moved in one request: a server looks once in as many whether
// its client is still there. A range can take hours, and a request has only minutes.
const movePiece = 512 << 10

// moveAll moves the ranges one after the other, until blocks of one stay where they are.
func moveAll(ctx context.Context, r *control.Record, verb string, out *moved,
	bar *progress.Bar) error {
	c := control.NewClient(r.Name)
	for _, whole := range out.Ranges {
		var stay control.MoveReply
		for at, end := whole.Block, whole.Block+whole.Count; at < end; {
			g := control.Range{Block: at, Count: min(end-at, uint64(movePiece/r.BlockSize))}
			done, err := c.MovePiece(ctx, verb, g)
			if err != nil && out.Blocks > 0 {
				return fmt.Errorf("%w; %d blocks were moved before that", err, out.Blocks)
			} else if err != nil {
				return err
			}
			out.Blocks += done.Blocks
			out.Old += done.Old
			stay.Failed += done.Failed
			stay.NoCopy += done.NoCopy
			at += g.Count
			bar.Add(int64(g.Count))
		}
		if err := stay.Unmoved(whole); err != nil {
			return fmt.Errorf("%w (%d blocks were moved)", err, out.Blocks)
		}
	}
	return nil
}

func blocksIn(ranges []control.Range) (n uint64) {
	for _, r := range ranges {
		n += r.Count
	}
	return n
}

// parseRanges reads BLOCK or BLOCK+COUNT. All must lie on a device of that many blocks. The error
// is exit.ErrUsage.
func parseRanges(args []string, blocks uint64) ([]control.Range, error) {
	var list []control.Range
	for _, arg := range args {
		block, num, plus := strings.Cut(arg, "+")
		r := control.Range{Count: 1}
		var err error
		if r.Block, err = strconv.ParseUint(block, 10, 64); err == nil && plus {
			r.Count, err = strconv.ParseUint(num, 10, 64)
		}
		switch {
		case err != nil || r.Count == 0:
			return nil, fmt.Errorf("%q: %w: want BLOCK or BLOCK+COUNT, such as 4096 or 4096+8", arg,
				exit.ErrUsage)
		case r.Block >= blocks || r.Count > blocks-r.Block:
			return nil, fmt.Errorf("%q: %w: the device has %d blocks", arg, exit.ErrUsage, blocks)
		}
		list = append(list, r)
	}
	return list, nil
}
