package main

import (
	"context"
	"fmt"
	"strings"

	"ublkremap/internal/control"
	"ublkremap/internal/files"
)

// freeHealed is what files --heal-free prints as JSON. All counts are blocks.
type freeHealed struct {
	Device  string          `json:"device"`
	Free    []control.Range `json:"free"`    // pending or lost, and proven to be free space
	Healed  uint64          `json:"healed"`  // they hold zeroes now
	Written uint64          `json:"written"` // they were written to meanwhile, and were left alone
	Reads   uint64          `json:"reads"`   // they read again, and were left alone
	Failed  uint64          `json:"failed"`  // they stay as they are
	DryRun  bool            `json:"dry_run"`

	reason string
}

// healFree overwrites pending and lost blocks that are free space.
func (a *app) healFree(ctx context.Context, r *control.Record, ranges []control.Range,
	dryRun bool) error {
	runs, err := wantedRuns(ctx, r, ranges, []string{"pending", "lost"})
	if err != nil {
		return err
	}
	found, err := files.Prove(ctx, files.Device{Path: r.Device, BlockSize: int64(r.BlockSize)},
		runs)
	if err != nil {
		return err
	}
	defer found.Close()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for _, n := range found.Notes {
		a.tell("ublk-remap: %s\n", clean(n))
	}
	out := &freeHealed{Device: r.Device, Free: []control.Range{}, DryRun: dryRun}
	for _, p := range found.Proven {
		out.Free = append(out.Free, control.Range{Block: p.Block, Count: p.Count})
	}
	if !dryRun {
		if err := out.fill(ctx, r); err != nil {
			return err
		}
	}
	if err := a.printHealed(out, found.Rows); err != nil {
		return err
	}
	if out.Failed > 0 {
		return fmt.Errorf("%s: %s blocks of free space were not healed: %s", r.Device,
			numText(out.Failed), out.reason)
	}
	return nil
}

// fill has the server write zeroes where blocks are still pending or lost.
func (h *freeHealed) fill(ctx context.Context, r *control.Record) error {
	zeroes := make([]byte, control.MaxFill)
	most := uint64(control.MaxFill / r.BlockSize)
	for _, g := range h.Free {
		for end := g.Block + g.Count; g.Block < end; g.Block += most {
			n := min(most, end-g.Block)
			reply, err := control.NewClient(r.Name).Fill(ctx, g.Block,
				zeroes[:n*uint64(r.BlockSize)])
			if err != nil {
				return err
			}
			count := func(what string) uint64 {
				return uint64(strings.Count(reply.Outcomes, what))
			}
			h.Healed += count(string(control.FillDone))
			h.Written += count(string(control.FillNotBad))
			h.Reads += count(string(control.FillReads))
			h.Failed += count(string(control.FillFailed))
			if reply.Reason != "" {
				h.reason = reply.Reason
			}
		}
	}
	if h.Failed > 0 && h.reason == "" {
		h.reason = "they could neither be read nor written"
	}
	return nil
}

func (a *app) printHealed(h *freeHealed, rows []files.Row) error {
	if a.json {
		return a.printJSON(h)
	}
	var free uint64
	for _, g := range h.Free {
		free += g.Count
	}
	text := fmt.Sprintf("healed %s blocks of free space", numText(h.Healed))
	if h.DryRun {
		text = fmt.Sprintf("would heal %s blocks of free space", numText(free))
	}
	if h.Written > 0 {
		text += fmt.Sprintf("; %s were written to meanwhile", numText(h.Written))
	}
	if h.Reads > 0 {
		text += fmt.Sprintf("; %s read again and were left as they are", numText(h.Reads))
	}
	_, err := fmt.Fprintf(a.out, "%s\n%s\n", text, clean(damageText(damageOf(rows))))
	return err
}
