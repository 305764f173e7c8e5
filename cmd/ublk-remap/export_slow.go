package main

import (
	"context"
	"fmt"
	"math"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/control"
	"ublkremap/metadata"
)

// slowOf returns the blocks that are slow to read and not in the table, in order.
func (a *app) slowOf(ctx context.Context, path string, b *metadata.Backup) ([]control.Range,
	error) {
	if !b.Live {
		return nil, fmt.Errorf("%s: --slow: %w: only a server knows which blocks are slow to "+
			"read: start it", path, exit.ErrUsage)
	}
	r, err := a.host().Lookup(path)
	if err != nil {
		return nil, err
	}
	slow, err := slowBlocks(ctx, r)
	if err != nil || len(slow) == 0 {
		return nil, err
	}
	var known []control.Range
	b.Runs(func(m metadata.Run) bool {
		known = append(known, overlapping(slow, m.Block, m.Count)...)
		return true
	})
	return lacking(slow, joinRanges(known)), nil
}

// withSlow calls table for the runs of the table and home for the blocks that are slow to read,
// which are not in it, all in order, until one returns false.
func withSlow(b *metadata.Backup, slow []control.Range, table func(metadata.Run) bool,
	home func(control.Range) bool) {
	more := true
	before := func(block uint64) bool {
		for more && len(slow) > 0 && slow[0].Block < block {
			more = home(slow[0])
			slow = slow[1:]
		}
		return more
	}
	b.Runs(func(r metadata.Run) bool {
		more = before(r.Block) && table(r)
		return more
	})
	before(math.MaxUint64)
}
