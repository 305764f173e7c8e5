package server

import (
	"context"
	"errors"
	"fmt"

	"ublkremap/internal/control"
	"ublkremap/metadata"
	"ublkremap/remap"
)

// MarkRemaps marks blocks pending that another tool calls bad.
func (s *server) MarkRemaps(ctx context.Context, ranges []control.Range) (control.MarkReply,
	error) {
	var reply control.MarkReply
	if err := s.onDevice(ranges); err != nil {
		return reply, err
	}
	for i, r := range ranges {
		if i > 0 && r.Block < ranges[i-1].Block+ranges[i-1].Count {
			return reply, fmt.Errorf("%w: blocks %d+%d: ranges must be in order, without overlap",
				control.ErrInvalid, r.Block, r.Count)
		}
	}
	for len(ranges) > 0 {
		var piece []metadata.BlockRange
		piece, ranges = markPiece(ranges, s.shared.Geometry().BlocksPerUnit())
		res, err := answered(ctx, s.keeper, func(done func(remap.MarkResult)) error {
			return s.keeper.coord.Mark(piece, metadata.CauseImport, done)
		})
		reply.Marked += res.Marked
		reply.Known += res.Known
		reply.Spared += res.Spared
		if err == nil {
			err = res.Err
		}
		if err == nil && res.Unknown > 0 {
			err = errors.New("the metadata cannot be written")
		}
		if err != nil {
			return reply, fmt.Errorf("%w: %w (%d blocks were marked)", control.ErrFailed, err,
				reply.Marked)
		}
	}
	return reply, nil
}

// markPiece takes as many ranges, and of the last one as much, as one Marking should have.
func markPiece(ranges []control.Range, per uint64) (piece []metadata.BlockRange,
	rest []control.Range) {
	for left := uint64(remap.MarkMost); left > 0 && len(ranges) > 0; {
		r := ranges[0]
		units := (r.Block+r.Count-1)/per - r.Block/per + 1
		if units > left {
			n := (r.Block/per+left)*per - r.Block
			piece = append(piece, metadata.BlockRange{Block: r.Block, Count: n})
			rest = append([]control.Range{{Block: r.Block + n, Count: r.Count - n}},
				ranges[1:]...)
			return piece, rest
		}
		piece = append(piece, metadata.BlockRange(r))
		left, ranges = left-units, ranges[1:]
	}
	return piece, ranges
}

// RescueRemaps moves blocks to the spare region that another tool calls bad.
func (s *server) RescueRemaps(ctx context.Context, ranges []control.Range) (control.RescueReply,
	error) {
	var reply control.RescueReply
	if err := s.onDevice(ranges); err != nil {
		return reply, err
	}
	for i, r := range ranges {
		for at, end := r.Block, r.Block+r.Count; at < end; {
			m := remap.Move{Block: at, ToSpare: true, Cause: metadata.CauseImport}
			m.Count = min(end-at, movePiece*s.shared.Geometry().BlocksPerUnit())
			res, err := s.keeper.move(ctx, m)
			reply.Moved += res.Moved
			switch {
			case err == nil:
				reply.Stay += res.Failed
			case errors.Is(err, remap.ErrSpareFull), errors.Is(err, remap.ErrSpareBad),
				errors.Is(err, remap.ErrTableFull):
				reply.Why = err.Error()
				reply.Stay += s.atHome(append([]control.Range{{Block: at, Count: end - at}},
					ranges[i+1:]...))
				return reply, nil
			default:
				return reply, fmt.Errorf("%w: blocks %d+%d: %w (%d blocks were moved)",
					control.ErrFailed, m.Block, m.Count, err, reply.Moved)
			}
			at += m.Count
		}
	}
	return reply, nil
}

// atHome counts the blocks of ranges that do not live in the spare region.
func (s *server) atHome(ranges []control.Range) (n uint64) {
	m := s.shared.Map()
	per := uint64(m.BlocksPerUnit())
	for _, r := range ranges {
		for b := r.Block; b < r.Block+r.Count; b++ {
			if info := m.Unit(b / per); info.Mapped()>>(b%per)&1 == 0 {
				n++
			}
		}
	}
	return n
}

// onDevice checks that ranges lie on the device. The error is control.ErrInvalid.
func (s *server) onDevice(ranges []control.Range) error {
	blocks := s.shared.Geometry().Blocks
	for _, r := range ranges {
		if r.Count == 0 || r.Block >= blocks || r.Count > blocks-r.Block {
			return fmt.Errorf("%w: blocks %d+%d: the device has %d", control.ErrInvalid, r.Block,
				r.Count, blocks)
		}
	}
	return nil
}
