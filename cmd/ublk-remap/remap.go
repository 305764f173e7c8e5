package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/control"
)

func remapCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "remap", Short: "The remap table by hand", RunE: group}
	cmd.AddCommand(remapListCommand(a), remapMoveCommand(a, true), remapMoveCommand(a, false))
	return cmd
}

func remapListCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list DEV|NAME",
		Short: "List what is remapped, pending or lost",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := a.lookup(args[0])
			if err != nil {
				return err
			}
			list, err := control.NewClient(r.Name).Remaps(cmd.Context())
			if err != nil {
				return err
			}
			return a.printRemaps(list)
		},
	}
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) printRemaps(list []control.Remap) error {
	if a.json {
		return a.printJSON(list)
	}
	if len(list) == 0 {
		return nil
	}
	rows := [][]string{{"BLOCK", "COUNT", "SPARE", "STATE", "CAUSE", "TIME"}}
	for _, r := range list {
		spare := "-"
		if r.Spare != nil {
			spare = strconv.FormatUint(*r.Spare, 10)
		}
		rows = append(rows, []string{
			strconv.FormatUint(r.Block, 10), strconv.FormatUint(r.Count, 10), spare, r.State, r.Cause, r.Time,
		})
	}
	return a.table(rows)
}

func remapMoveCommand(a *app, add bool) *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "add DEV|NAME BLOCK[+COUNT]…",
		Short: "Move blocks that still read to the spare region",
		Args:  cobra.MinimumNArgs(2),
	}
	if !add {
		cmd.Use, cmd.Short = "remove DEV|NAME BLOCK[+COUNT]…", "Move blocks home again"
		cmd.Long = `Move blocks home again. What is written home is read back before the remap is given up;
a block whose home fails stays in the spare region.`
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		r, err := a.lookup(args[0])
		if err != nil {
			return err
		}
		ranges, err := parseRanges(args[1:], r.Blocks)
		if err != nil {
			return err
		}
		return a.moveBlocks(cmd.Context(), r, ranges, add, dryRun)
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be done and change nothing")
	a.jsonFlag(cmd)
	return cmd
}

// moved is what remap add and remap remove print as JSON.
type moved struct {
	Device string          `json:"device"`
	Ranges []control.Range `json:"ranges"`
	Blocks uint64          `json:"blocks"` // that were moved
	DryRun bool            `json:"dry_run"`
}

func (a *app) moveBlocks(ctx context.Context, r *control.Record, ranges []control.Range, add, dryRun bool) error {
	out := moved{Device: r.Device, Ranges: ranges, DryRun: dryRun}
	if !dryRun {
		ask := control.NewClient(r.Name).RemoveRemaps
		if add {
			ask = control.NewClient(r.Name).AddRemaps
		}
		reply, err := ask(ctx, ranges)
		if err != nil {
			return err
		}
		out.Blocks = reply.Blocks
	}
	if a.json {
		return a.printJSON(out)
	}
	if dryRun {
		var n uint64
		for _, g := range ranges {
			n += g.Count
		}
		_, err := fmt.Fprintf(a.out, "would move what can be moved of %s blocks\n", numText(n))
		return err
	}
	_, err := fmt.Fprintf(a.out, "moved %s blocks\n", numText(out.Blocks))
	return err
}

// parseRanges reads BLOCK or BLOCK+COUNT; all must lie on a device of that many
// blocks. The error is exit.ErrUsage.
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
			return nil, fmt.Errorf("%q: %w: want BLOCK or BLOCK+COUNT, such as 4096 or 4096+8", arg, exit.ErrUsage)
		case r.Block >= blocks || r.Count > blocks-r.Block:
			return nil, fmt.Errorf("%q: %w: the device has %d blocks", arg, exit.ErrUsage, blocks)
		}
		list = append(list, r)
	}
	return list, nil
}
