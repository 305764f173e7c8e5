package server

import (
	"context"
	"fmt"
	"time"

	"ublkremap/internal/control"
	"ublkremap/metadata"
	"ublkremap/remap"
)

// fillLetters are what a reply says for each outcome of a block.
var fillLetters = [...]byte{
	remap.FillFailed: control.FillFailed, remap.FillDone: control.FillDone,
	remap.FillNotBad: control.FillNotBad, remap.FillReads: control.FillReads,
	remap.FillChanged: control.FillChanged,
}

// Fill fills blocks that are pending or lost.
func (s *server) Fill(ctx context.Context, block uint64, data []byte) (control.FillReply, error) {
	geo := s.shared.Geometry()
	bs, count := uint64(geo.BlockSize), uint64(len(data)/geo.BlockSize)
	if uint64(len(data)) != count*bs || block >= geo.Blocks || count > geo.Blocks-block {
		return control.FillReply{}, fmt.Errorf("%w: %d bytes from block %d on: the device has %d "+
			"blocks of %d bytes", control.ErrInvalid, len(data), block, geo.Blocks, bs)
	}
	return s.fill(ctx, block, data, nil)
}

// fill fills blocks that are pending or lost, and as they were seen unless seen is nil. The blocks
// are those of the device.
func (s *server) fill(ctx context.Context, block uint64, data []byte, seen []remap.Seen) (
	control.FillReply, error) {
	count := uint64(len(data) / s.shared.Geometry().BlockSize)
	// If the client leaves, these go on to belong to the fill.
	f := &remap.Fill{Data: data, Outcome: make([]remap.FillOutcome, count), Seen: seen}
	res, err := answered(ctx, s.keeper, func(done func(remap.MoveResult)) error {
		return s.keeper.coord.Move(remap.Move{Block: block, Count: count, Fill: f}, done)
	})
	if err != nil {
		return control.FillReply{}, fmt.Errorf("%w: blocks %d+%d: %w", control.ErrFailed, block,
			count, err)
	}
	letters := make([]byte, count)
	for i, o := range f.Outcome {
		letters[i] = fillLetters[o]
	}
	reply := control.FillReply{Outcomes: string(letters)}
	if res.Err != nil {
		reply.Reason = res.Err.Error()
	}
	return reply, nil
}

// HealFree fills blocks with zeroes that are still as rows of the table say.
func (s *server) HealFree(ctx context.Context, rows []control.Remap) (control.FillReply, error) {
	geo := s.shared.Geometry()
	seen, err := seenIn(rows, geo)
	if err != nil {
		return control.FillReply{}, fmt.Errorf("%w: %w", control.ErrInvalid, err)
	}
	return s.fill(ctx, rows[0].Block, make([]byte, len(seen)*geo.BlockSize), seen)
}

// seenIn returns how rows say that each block is, from the first one on. Of those between them it
// says nothing.
func seenIn(rows []control.Remap, geo *remap.Geometry) (seen []remap.Seen, err error) {
	most, per := uint64(control.MaxFill/geo.BlockSize), geo.BlocksPerUnit()
	first := rows[0].Block
	for i := range rows {
		r := &rows[i]
		next := first + uint64(len(seen))
		if r.Count == 0 || r.Block < next || r.Block-first >= most ||
			r.Count > most-(r.Block-first) || r.Block >= geo.Blocks ||
			r.Count > geo.Blocks-r.Block {
			return nil, fmt.Errorf("blocks %d+%d: they are not behind the others, span too much, "+
				"or are not of the device", r.Block, r.Count)
		}
		was, err := seenAs(r)
		if err != nil {
			return nil, fmt.Errorf("blocks %d+%d: %w", r.Block, r.Count, err)
		}
		seen = append(seen, make([]remap.Seen, r.Block-next)...)
		for i := range r.Count {
			if was.Mapped {
				was.Spare = uint32((*r.Spare + i) / per)
			}
			seen = append(seen, was)
		}
	}
	return seen, nil
}

// seenAs reads a row of the table. Which spare unit it lives in is not set.
func seenAs(r *control.Remap) (s remap.Seen, err error) {
	switch r.State {
	case metadata.StatePending.String():
		s.State = metadata.StatePending
	case metadata.StateLost.String():
		s.State = metadata.StateLost
	default:
		return s, fmt.Errorf("the state %.20q: want pending or lost", r.State)
	}
	at, err := time.Parse(time.RFC3339, r.Time)
	s.Time, s.Mapped = uint32(at.Unix()), r.Spare != nil
	return s, err
}
