package server

import (
	"context"
	"errors"
	"fmt"

	"ublkremap/internal/control"
	"ublkremap/internal/coordinator"
	"ublkremap/metadata"
	"ublkremap/remap"
)

// Drill rehearses a heal beside the users of the device, or notes how the whole drill ended.
func (s *server) Drill(ctx context.Context, do string) (*control.DrillReply, error) {
	reply := &control.DrillReply{Steps: []control.DrillStep{}}
	switch do {
	case control.DrillPassed, control.DrillFailed:
		done, say := metadata.EventPassed, s.log.Info()
		if do == control.DrillFailed {
			done, say = metadata.EventFailed, s.log.Error()
		}
		s.keeper.note(metadata.Event{Kind: metadata.EventDrill, Done: done})
		say.Msg("the drill " + do)
		return reply, nil
	case control.DrillHeal, control.DrillReady:
	default:
		return nil, fmt.Errorf("%w: a drill of %q", control.ErrInvalid, do)
	}
	if !s.live.Load() {
		return nil, fmt.Errorf("%w: the device is not live", control.ErrRefused)
	}
	var refused error
	if err := s.keeper.call(ctx, func() { refused = s.keeper.coord.MayDrill() }); err != nil {
		return nil, err
	}
	if refused != nil || do == control.DrillReady {
		return reply, refusedDrill(refused)
	}
	// This is what an operator is told of a disk that fails. It says that it is none.
	s.log.Warn().Msg("a drill begins: what follows about spare units set aside is a rehearsal")
	s.keeper.note(metadata.Event{Kind: metadata.EventDrill, Done: metadata.EventBegun})
	r, err := answered(ctx, s.keeper, func(done func(coordinator.DrillResult)) error {
		return s.keeper.coord.Drill(done)
	})
	if err != nil {
		return nil, refusedDrill(err)
	}
	for _, step := range r.Steps {
		reply.Steps = append(reply.Steps, control.DrillStep{Name: step.Name,
			TookUS: step.Took.Microseconds()})
	}
	reply.Commits = r.Commits
	if r.Err != nil {
		reply.Error = r.Err.Error()
	}
	return reply, nil
}

// refusedDrill makes of an error of a drill what a client is told.
func refusedDrill(err error) error {
	switch {
	case errors.Is(err, remap.ErrSpareFull):
		return fmt.Errorf("%w: too few spare units are free for a drill", control.ErrRefused)
	case errors.Is(err, remap.ErrTripped), errors.Is(err, remap.ErrBusy):
		return fmt.Errorf("%w: %w", control.ErrRefused, err)
	}
	return err
}
