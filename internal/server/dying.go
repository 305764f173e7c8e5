package server

import (
	"context"
	"errors"
	"time"

	"ublkremap/internal/control"
	"ublkremap/internal/host"
)

// own makes the set's name this server's own. If the server that has the name is dying, own waits
// for it, because the user who killed it and starts the next one wants that. A dying server first
// gives back its memory, and its I/O in flight has to end, which takes as long as the disk needs. A
// living server keeps the name: control.ErrOwned.
//
// Nothing is read or written meanwhile. So the wait cannot affect the data, however long it is.
func (s *server) own(ctx context.Context) (*control.Owner, error) {
	w := s.waiter()
	for pause := ownPoll; ; pause = min(2*pause, ownPollMost) {
		// The record is read before the try: a server that is gone by then has released the name.
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
