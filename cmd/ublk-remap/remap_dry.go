package main

import (
	"context"
	"fmt"

	"ublkremap/internal/control"
	"ublkremap/internal/readable"
)

// wouldMove says what remap add or remap remove would do. It asks the server, and reads what is
// pending. The error is that of the real thing, as far as it can be known: whether a new place
// takes what is written there shows only when it is written.
func (a *app) wouldMove(ctx context.Context, r *control.Record, out moved, add bool) error {
	s, err := standingOf(ctx, r, out.Ranges)
	if err != nil {
		return err
	}
	var text string
	var stay control.MoveReply
	if add {
		text, stay, err = a.wouldAdd(ctx, r, &out, &s)
	} else {
		text, stay, err = a.wouldRemove(ctx, r, &out, &s)
	}
	if err != nil {
		return err
	}
	if a.json {
		err = a.printJSON(out)
	} else {
		_, err = fmt.Fprintln(a.out, text)
	}
	if err != nil {
		return err
	}
	return wouldStay(r, stay)
}

func (a *app) wouldAdd(ctx context.Context, r *control.Record, out *moved, s *standing) (
	text string, stay control.MoveReply, err error) {
	if err := wouldFail(ctx, r, s.units); err != nil {
		return "", stay, err
	}
	stay.Failed, err = a.unreadable(ctx, r, s.pending)
	out.Blocks = s.home() + blocksIn(s.pending) - stay.Failed
	text = fmt.Sprintf("would move %s blocks to the spare region", readable.Number(out.Blocks)) +
		some(s.mapped+blocksIn(s.stuck), "are there already") +
		some(s.lost, "are lost and stay so") + some(stay.Failed, "do not read and stay at home")
	return text, stay, err
}

func (a *app) wouldRemove(ctx context.Context, r *control.Record, out *moved, s *standing) (
	text string, stay control.MoveReply, err error) {
	if err := wouldFail(ctx, r, 0); err != nil {
		return "", stay, err
	}
	if stay.Failed, err = a.unreadable(ctx, r, s.pending); err != nil {
		return "", stay, err
	}
	stuck, err := a.unreadable(ctx, r, s.stuck)
	noCopy := s.lost + stuck
	out.Blocks = s.all - s.home() - noCopy - stay.Failed
	old := ""
	if out.acceptOld {
		out.Old, out.Blocks = noCopy, out.Blocks+noCopy
		old = some(noCopy, "of them would hold what home held before they left it")
	} else {
		stay.NoCopy = noCopy
	}
	text = fmt.Sprintf("would move %s blocks home, if they can be written there",
		readable.Number(out.Blocks)) + old + some(s.home(), "are there already") +
		some(stay.NoCopy, "have no copy that reads") +
		some(stay.Failed, "do not read and stay pending")
	return text, stay, err
}

// some adds to a sentence what holds of n blocks, if there are any.
func some(n uint64, what string) string {
	if n == 0 {
		return ""
	}
	return "; " + readable.Number(n) + " " + what
}

// wouldStay is the error of a move that leaves blocks where they are.
func wouldStay(r *control.Record, stay control.MoveReply) error {
	switch {
	case stay.NoCopy > 0:
		return fmt.Errorf("%s: %w: %s blocks have no copy that reads, and would stay as they are; "+
			"what home holds of them may be older than what was last written: if it is good "+
			"enough, remap remove --accept-old", r.Device, control.ErrRefused,
			readable.Number(stay.NoCopy))
	case stay.Failed > 0:
		return fmt.Errorf("%s: %w: %s blocks do not read, and would stay where they are", r.Device,
			control.ErrFailed, readable.Number(stay.Failed))
	}
	return nil
}
