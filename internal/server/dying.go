package server

import (
	"context"
	"errors"
	"time"

	"ublkremap/internal/control"
	"ublkremap/internal/host"
)

// own makes the set's name this server's own. While the server that has it dies
// that is waited for, since whoever has killed it and starts the next one means
// to: it gives back its memory first, and what it has in flight has to end, which
// takes as long as the disk does. A server that lives keeps the name: control.ErrOwned.
//
// Nothing is read or written meanwhile, so that it makes no difference to the
// data who waits and for how long.
func (s *server) own(ctx context.Context) (*control.Owner, error) {
	w := s.waiter()
	for pause := ownPoll; ; pause = min(2*pause, ownPollMost) {
		// Before the try: one that is gone since has let go.
		r, readErr := control.ReadRecord(s.name)
		dies := readErr == nil && host.Died(r)
		owner, err := control.Own(s.name)
		if !errors.Is(err, control.ErrOwned) || !dies {
			return owner, err
		}
		w.Say(func() string { return host.LastIO(r) })
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}
