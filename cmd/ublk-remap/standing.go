package main

import (
	"context"
	"fmt"

	"ublkremap/cmd/ublk-remap/internal/rescue"
	"ublkremap/internal/control"
	"ublkremap/internal/readable"
	"ublkremap/internal/shell"
	"ublkremap/metadata"
)

// standing is how blocks of a device stand in its remap table. Dry runs go by it. But for units,
// all counts are blocks.
type standing struct {
	all    uint64 // that were asked about
	mapped uint64 // live in the spare region
	lost   uint64
	// pending are pending at home, and stuck are pending in the spare region.
	pending, stuck []control.Range
	// units are those of which a block was asked about and that have no spare unit.
	units uint64
}

// home is how many blocks are at home, and not known to be bad.
func (s *standing) home() uint64 {
	return s.all - s.mapped - s.lost - blocksIn(s.pending) - blocksIn(s.stuck)
}

// bad is how many blocks are pending or lost.
func (s *standing) bad() uint64 { return s.lost + blocksIn(s.pending) + blocksIn(s.stuck) }

// standingOf returns how blocks stand.
func standingOf(ctx context.Context, r *control.Record, ranges []control.Range) (s standing,
	err error) {
	ranges = joinRanges(ranges)
	per := uint64(metadata.UnitSize / r.BlockSize)
	var units []control.Range
	for _, g := range ranges {
		s.all += g.Count
		first := g.Block / per
		units = append(units, control.Range{Block: first,
			Count: (g.Block+g.Count-1)/per - first + 1})
	}
	units = joinRanges(units)
	s.units = blocksIn(units)
	next := uint64(0) // the unit behind the last one that was seen to have a spare unit
	err = control.NewClient(r.Name).EachRemap(ctx, func(m control.Remap) error {
		if m.Spare != nil {
			from, end := max(m.Block/per, next), (m.Block+m.Count-1)/per+1
			if from < end {
				s.units -= blocksIn(overlapping(units, from, end-from))
				next = end
			}
		}
		for _, g := range overlapping(ranges, m.Block, m.Count) {
			switch {
			case m.State == "lost":
				s.lost += g.Count
			case m.State != "pending":
				s.mapped += g.Count
			case m.Spare != nil:
				s.stuck = append(s.stuck, g)
			default:
				s.pending = append(s.pending, g)
			}
		}
		return nil
	})
	return s, err
}

// unreadable counts those of pending blocks that do not read. They are pending already, so that
// they do not read changes nothing.
func (a *app) unreadable(ctx context.Context, r *control.Record, ranges []control.Range) (uint64,
	error) {
	if len(ranges) == 0 {
		return 0, nil
	}
	bar := a.progress(r.Device + ": reading what is pending")
	bar.Unit("blocks")
	bar.Expected(int64(blocksIn(ranges)))
	defer bar.End()
	return rescue.Unreadable(ctx, r.Device, ranges, r.BlockSize, func(n uint64) {
		bar.Add(int64(n))
	})
}

// wouldFail returns the error with which a change of the table ends that takes so many spare units:
// the breaker is open, or too few units are free. It is nil if the change can be made.
func wouldFail(ctx context.Context, r *control.Record, units uint64) error {
	st, err := control.NewClient(r.Name).Status(ctx)
	if err != nil {
		return err
	}
	return couldFail(r, st, units)
}

// couldFail is wouldFail with the status of the device.
func couldFail(r *control.Record, st *control.Status, units uint64) error {
	switch {
	case st.Breaker.State != "closed":
		return fmt.Errorf("%s: %w: the breaker is open, so nothing would be moved or marked: %s; "+
			"see: %s", r.Device, control.ErrFailed, st.Breaker.Reason,
			shell.Command("status", r.Name))
	case units > st.Spare.Free:
		return fmt.Errorf("%s: %w: that takes up to %s spare units, and %s are free", r.Device,
			control.ErrFailed, readable.Number(units), readable.Number(st.Spare.Free))
	}
	return nil
}
