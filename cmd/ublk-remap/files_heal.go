package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/cmd/ublk-remap/internal/progress"
	"ublkremap/internal/control"
	"ublkremap/internal/files"
	"ublkremap/internal/readable"
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

// maxProofAge is how old a proof may be of a file system that is in use when a fill begins.
const maxProofAge = 5 * time.Second

// healFree overwrites pending and lost blocks that are free space.
func (a *app) healFree(ctx context.Context, r *control.Record, ranges []control.Range,
	dryRun bool) error {
	bar := a.progress("healing free space")
	defer bar.End()
	dev := files.Device{Path: r.Device, BlockSize: int64(r.BlockSize), Progress: ownersFound{bar}}
	out := &freeHealed{Device: r.Device, Free: []control.Range{}, DryRun: dryRun}
	said := map[string]bool{}
	for next := uint64(0); next < r.Blocks; {
		bad, err := badRows(ctx, r, ranges, next)
		if err != nil {
			return err
		}
		p, err := files.Prove(ctx, dev, runsOf(bad))
		if err != nil {
			return err
		}
		for _, n := range p.Notes {
			if !said[n] {
				said[n] = true
				a.tell("ublk-remap: %s\n", readable.Text(n))
			}
		}
		next, err = out.fill(ctx, r, p, bad, bar)
		p.Close()
		if err != nil {
			return err
		}
	}
	bar.End()
	if dryRun && len(out.Free) > 0 {
		if err := wouldFill(ctx, r, out.Free); err != nil {
			return err
		}
	}
	return a.toldHealed(ctx, r, out, ranges)
}

// toldHealed prints what was done and what remains. The error is that blocks were not healed.
func (a *app) toldHealed(ctx context.Context, r *control.Record, out *freeHealed,
	ranges []control.Range) error {
	var err error
	if a.json {
		err = a.printJSON(out)
	} else {
		var rest []files.Run
		found := &files.Result{}
		rest, err = wantedRuns(ctx, r, ranges, []string{"pending", "lost"})
		if err == nil && len(rest) > 0 {
			bar := a.progress("looking for the owners of what remains")
			found, err = files.Find(ctx, files.Device{Path: r.Device,
				BlockSize: int64(r.BlockSize), Progress: ownersFound{bar}}, rest)
			bar.End()
		}
		if err == nil {
			err = a.printHealed(out, found.Rows)
		}
	}
	if err == nil && out.Failed > 0 {
		err = fmt.Errorf("%s: %s blocks of free space were not healed: %s", r.Device,
			readable.Number(out.Failed), out.reason)
	}
	return err
}

// fill has the server write zeroes where blocks are free and still bad as they were before the
// proof. It returns from which block on there is more to prove: that of a file system in use is not
// believed for long.
func (h *freeHealed) fill(ctx context.Context, r *control.Record, p *files.Proof,
	bad []control.Remap, bar *progress.Bar) (uint64, error) {
	proved := time.Now()
	total := int64(0)
	for _, g := range p.Free {
		total += int64(g.Count)
	}
	bar.Unit("blocks")
	bar.Set(0, total)
	bar.Note("")
	for _, rows := range windows(freeRows(bad, p.Free), control.MaxFill/uint64(r.BlockSize)) {
		if !p.Holds && time.Since(proved) > maxProofAge {
			return rows[0].Block, nil
		}
		if !h.DryRun {
			reply, err := control.NewClient(r.Name).HealFree(ctx, rows)
			if errors.Is(err, control.ErrNotFound) {
				err = fmt.Errorf("%s: %w: its server is of an older version, upgrade it first",
					r.Device, exit.ErrUnsupported)
			}
			if err != nil {
				return 0, err
			}
			h.count(rows, reply)
		}
		for _, m := range rows {
			h.add(control.Range{Block: m.Block, Count: m.Count})
			bar.Add(int64(m.Count))
		}
	}
	return r.Blocks, nil
}

// add notes blocks that are free.
func (h *freeHealed) add(g control.Range) {
	if n := len(h.Free) - 1; n >= 0 && h.Free[n].Block+h.Free[n].Count == g.Block {
		h.Free[n].Count += g.Count
		return
	}
	h.Free = append(h.Free, g)
}

// count notes what became of blocks.
func (h *freeHealed) count(rows []control.Remap, reply *control.FillReply) {
	for _, m := range rows {
		from := m.Block - rows[0].Block
		outcomes := reply.Outcomes[min(from, uint64(len(reply.Outcomes))):]
		outcomes = outcomes[:min(m.Count, uint64(len(outcomes)))]
		of := func(what rune) uint64 { return uint64(strings.Count(outcomes, string(what))) }
		h.Healed += of(control.FillDone)
		h.Written += of(control.FillNotBad) + of(control.FillChanged)
		h.Reads += of(control.FillReads)
		h.Failed += of(control.FillFailed)
	}
	if reply.Reason != "" {
		h.reason = reply.Reason
	}
	if h.Failed > 0 && h.reason == "" {
		h.reason = "they could neither be read nor written"
	}
}

func (a *app) printHealed(h *freeHealed, rows []files.Row) error {
	var free uint64
	for _, g := range h.Free {
		free += g.Count
	}
	text := fmt.Sprintf("healed %s blocks of free space", readable.Number(h.Healed))
	if h.DryRun {
		text = fmt.Sprintf("would heal %s blocks of free space", readable.Number(free))
	}
	if h.Written > 0 {
		text += fmt.Sprintf("; %s were written to meanwhile", readable.Number(h.Written))
	}
	if h.Reads > 0 {
		text += fmt.Sprintf("; %s read again and were left as they are", readable.Number(h.Reads))
	}
	_, err := fmt.Fprintf(a.out, "%s\n%s\n", text, readable.Text(damageText(damageOf(rows))))
	return err
}
