package main

import (
	"context"

	"ublkremap/internal/control"
	"ublkremap/internal/files"
)

// This file has the rows of the table that free space is healed by. A block is overwritten only if
// it is still bad as its row says. One that a file got after that, and that was lost again, is bad
// in another place.

// badRows returns the rows of pending and lost blocks from a block on, or of those of them that are
// in ranges.
func badRows(ctx context.Context, r *control.Record, ranges []control.Range, from uint64) (
	rows []control.Remap, err error) {
	named := []control.Range{{Block: from, Count: r.Blocks - from}}
	if len(ranges) > 0 {
		named = overlapping(joinRanges(ranges), from, r.Blocks-from)
	}
	err = control.NewClient(r.Name).EachRemap(ctx, func(m control.Remap) error {
		if m.State != "pending" && m.State != "lost" {
			return nil
		}
		for _, g := range overlapping(named, m.Block, m.Count) {
			if len(rows) == maxRuns {
				return errManyRuns(r)
			}
			rows = append(rows, partOf(&m, g.Block, g.Count))
		}
		return nil
	})
	return rows, err
}

// partOf returns the part of a row that is about some of its blocks.
func partOf(m *control.Remap, block, count uint64) control.Remap {
	part := *m
	if m.Spare != nil {
		spare := *m.Spare + block - m.Block
		part.Spare = &spare
	}
	part.Block, part.Count = block, count
	return part
}

// runsOf returns the blocks of rows.
func runsOf(rows []control.Remap) (runs []files.Run) {
	for _, m := range rows {
		runs = append(runs, files.Run{Block: m.Block, Count: m.Count, State: m.State})
	}
	return runs
}

// freeRows returns the parts of rows that are free. Both are in order.
func freeRows(rows []control.Remap, free []files.Run) (parts []control.Remap) {
	for _, m := range rows {
		for len(free) > 0 && free[0].Block+free[0].Count <= m.Block {
			free = free[1:]
		}
		for _, g := range free {
			if g.Block >= m.Block+m.Count {
				break
			}
			from, end := max(m.Block, g.Block), min(m.Block+m.Count, g.Block+g.Count)
			parts = append(parts, partOf(&m, from, end-from))
		}
	}
	return parts
}

// windows cuts rows at multiples of a number of blocks, and puts together what lies between two of
// them. So no unit of the table is in two requests: what one of them writes changes what is known
// of the whole unit.
func windows(rows []control.Remap, blocks uint64) (all [][]control.Remap) {
	last := uint64(0)
	for _, m := range rows {
		for at, end := m.Block, m.Block+m.Count; at < end; {
			window := at / blocks
			next := min(end, (window+1)*blocks)
			if len(all) == 0 || window != last {
				all = append(all, nil)
			}
			last = window
			all[len(all)-1] = append(all[len(all)-1], partOf(&m, at, next-at))
			at = next
		}
	}
	return all
}
