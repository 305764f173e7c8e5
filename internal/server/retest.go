package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"ublkremap/internal/control"
	"ublkremap/internal/coordinator"
	"ublkremap/metadata"
)

// retests is what the keeper's goroutine knows of retests. It ends with the server, and nothing of
// it is stored: see coordinator.Retest.
type retests struct {
	id   uint64
	last coordinator.RetestProgress // the result of the last one
}

// StartRetest begins a retest.
func (s *server) StartRetest(ctx context.Context, ask control.RetestRequest) (control.Retest,
	error) {
	if !s.live.Load() {
		return control.Retest{}, fmt.Errorf("%w: the device is not live", control.ErrRefused)
	}
	ranges, err := retestRanges(ask.Ranges, s.shared.Geometry().Blocks)
	if err != nil {
		return control.Retest{}, err
	}
	var state control.Retest
	var refused error
	if err := s.keeper.call(ctx, func() {
		refused = s.keeper.retest(coordinator.Retest{Ranges: ranges, KeepMoved: ask.KeepMoved,
			Pause: time.Duration(ask.PauseMS) * time.Millisecond})
		state = s.keeper.retestState()
	}); err != nil {
		return control.Retest{}, err
	}
	if errors.Is(refused, coordinator.ErrRetesting) {
		refused = fmt.Errorf("%w: %w", control.ErrBusy, refused)
	}
	return state, refused
}

// retestRanges returns ranges in order and disjoint; all of the device if there are none.
func retestRanges(asked []control.Range, blocks uint64) ([]metadata.BlockRange, error) {
	if len(asked) == 0 {
		return []metadata.BlockRange{{Block: 0, Count: blocks}}, nil
	}
	asked = slices.Clone(asked)
	slices.SortFunc(asked, func(a, b control.Range) int { return cmp.Compare(a.Block, b.Block) })
	var out []metadata.BlockRange
	for _, r := range asked {
		if r.Count == 0 || r.Block >= blocks || r.Count > blocks-r.Block {
			return nil, fmt.Errorf("%w: blocks %d+%d: the device has %d", control.ErrInvalid,
				r.Block, r.Count, blocks)
		}
		if n := len(out); n > 0 && out[n-1].Block+out[n-1].Count >= r.Block {
			last := &out[n-1]
			last.Count = max(last.Count, r.Block+r.Count-last.Block)
			continue
		}
		out = append(out, metadata.BlockRange(r))
	}
	return out, nil
}

// Retest returns the state of the last retest.
func (s *server) Retest(ctx context.Context) (state control.Retest, err error) {
	err = s.keeper.call(ctx, func() { state = s.keeper.retestState() })
	return state, err
}

// StopRetest ends the retest that is under way.
func (s *server) StopRetest(ctx context.Context) (state control.Retest, err error) {
	err = s.keeper.call(ctx, func() {
		s.keeper.coord.EndRetest()
		state = s.keeper.retestState()
	})
	return state, err
}

// retest begins a retest. The keeper's goroutine calls it.
func (k *keeper) retest(ask coordinator.Retest) error {
	id := k.retests.id + 1
	err := k.coord.Retest(ask, func(p coordinator.RetestProgress) { k.retests.last = p })
	if err == nil {
		k.retests.id = id
	}
	return err
}

// retestState returns the state of the last retest. The keeper's goroutine calls it.
func (k *keeper) retestState() control.Retest {
	p, underWay := k.coord.RetestProgress()
	if !underWay {
		p = k.retests.last
	}
	r := control.Retest{ID: k.retests.id, Ended: !underWay && k.retests.id > 0,
		Step: p.Step.String(), Second: p.Second, Found: p.Found, Home: p.Home, Failed: p.Failed,
		Changed: p.Changed, Skipped: p.Skipped, Position: p.Position, Size: p.End}
	if p.Err != nil {
		r.Error = p.Err.Error()
	}
	return r
}
