package server

import (
	"context"
	"fmt"

	"ublkremap/internal/control"
	"ublkremap/metadata"
	"ublkremap/remap"
)

// AddRemaps moves blocks to the spare region.
func (s *server) AddRemaps(ctx context.Context, ranges []control.Range) (control.MoveReply, error) {
	return s.moveAll(ctx, ranges, remap.Move{ToSpare: true})
}

// RemoveRemaps moves blocks home.
func (s *server) RemoveRemaps(ctx context.Context, ranges []control.Range) (control.MoveReply,
	error) {
	return s.moveAll(ctx, ranges, remap.Move{})
}

// TakeBackRemaps moves blocks home. For blocks without a copy that reads, it accepts what home
// holds.
func (s *server) TakeBackRemaps(ctx context.Context, ranges []control.Range) (control.MoveReply,
	error) {
	return s.moveAll(ctx, ranges, remap.Move{AcceptOld: true})
}

// movePiece is how many units are moved before the server checks whether anybody still waits for
// the rest.
const movePiece = 128

func (s *server) moveAll(ctx context.Context, ranges []control.Range,
	m remap.Move) (control.MoveReply, error) {
	if err := s.onDevice(ranges); err != nil {
		return control.MoveReply{}, err
	}
	m.Cause = metadata.CauseOperator
	var reply control.MoveReply
	for _, r := range ranges {
		if err := s.moveRange(ctx, r, m, &reply); err != nil {
			return reply, fmt.Errorf("%w (%d blocks were moved)", err, reply.Blocks)
		}
	}
	return reply, nil
}

// moveRange moves one range, piece by piece. A move may take hours, and the client may leave
// meanwhile. Then no more than the piece under way is moved.
func (s *server) moveRange(ctx context.Context, r control.Range, m remap.Move,
	reply *control.MoveReply) error {
	var stay control.MoveReply
	var err error
	for at, end := r.Block, r.Block+r.Count; at < end && err == nil; {
		m.Block, m.Count = at, min(end-at, movePiece*s.shared.Geometry().BlocksPerUnit())
		var res remap.MoveResult
		res, err = s.keeper.move(ctx, m)
		reply.Blocks += res.Moved
		reply.Old += res.Old
		stay.Failed += res.Failed
		if !m.AcceptOld {
			stay.NoCopy += res.NoCopy
		}
		at += m.Count
	}
	if err != nil {
		return fmt.Errorf("%w: blocks %d+%d: %w", control.ErrFailed, r.Block, r.Count, err)
	}
	reply.Failed += stay.Failed
	reply.NoCopy += stay.NoCopy
	return stay.Unmoved(r)
}
