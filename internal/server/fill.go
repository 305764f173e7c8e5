package server

import (
	"context"
	"fmt"

	"ublkremap/internal/control"
	"ublkremap/remap"
)

// fillLetters are what a reply says for each outcome of a block.
var fillLetters = [...]byte{
	remap.FillFailed: control.FillFailed, remap.FillDone: control.FillDone,
	remap.FillNotBad: control.FillNotBad, remap.FillReads: control.FillReads,
}

// Fill fills blocks that are pending or lost.
func (s *server) Fill(ctx context.Context, block uint64, data []byte) (control.FillReply, error) {
	geo := s.shared.Geometry()
	bs, count := uint64(geo.BlockSize), uint64(len(data)/geo.BlockSize)
	if uint64(len(data)) != count*bs || block >= geo.Blocks || count > geo.Blocks-block {
		return control.FillReply{}, fmt.Errorf("%w: %d bytes from block %d on: the device has %d "+
			"blocks of %d bytes", control.ErrInvalid, len(data), block, geo.Blocks, bs)
	}
	// If the client leaves, both go on to belong to the fill.
	f := &remap.Fill{Data: data, Outcome: make([]remap.FillOutcome, count)}
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
