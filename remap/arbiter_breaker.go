package remap

import (
	"fmt"

	"ublkremap/metadata"
)

// This file opens the breaker, and closes it on an operator's word.

// trip opens the breaker: nothing is remapped until an operator resumes.
func (a *Arbiter) trip(kind TripKind, reason string) {
	if a.shared.Tripped() {
		return
	}
	a.reason, a.kind = reason, kind
	a.shared.tripped.Store(true)
	for i := range a.claims {
		if c := &a.claims[i]; c.state == claimWaiting || c.state == claimRetest {
			a.refuse(c, MsgRefused)
		}
	}
	a.drv.Alert(AlertTripped)
}

// Resume closes the breaker, after the state of all blocks of commits of unknown outcome was
// committed again. It returns ErrNotTripped, ErrBusy, ErrMissing, or an error of the Journal.
func (a *Arbiter) Resume() error {
	switch {
	case !a.shared.Tripped():
		return ErrNotTripped
	case a.resuming || len(a.commits) > 0:
		return ErrBusy
	}
	if why := a.missing(); why != "" {
		a.reason, a.kind = why, TripMissing
		return fmt.Errorf("%w: %s", ErrMissing, why)
	}
	ticket, err := a.journal.Resume(a.unknown)
	if err != nil {
		return err
	}
	a.resuming = true
	a.addCommit(commit{ticket: ticket, kind: commitResume})
	return nil
}

func (a *Arbiter) resumed(durable bool) {
	a.resuming = false
	if !durable {
		return
	}
	if len(a.unknown) > 0 {
		a.restated++
	}
	unknown, known := a.unknown, a.known
	a.unknown, a.known = a.unknown[:0], a.known[:0]
	for _, e := range unknown {
		if e.State == metadata.StateMapped {
			for i := range e.Count {
				a.releaseSpare(e.Spare + i)
			}
		}
	}
	a.publish(unknown)
	// No block may live any more in the spare units where the blocks were before, or were
	// meant to go.
	for _, list := range [][]metadata.Entry{known, unknown} {
		for _, e := range list {
			if e.State == metadata.StateMapped {
				for i := range e.Count {
					a.deferFreeUnused(e.Unit+uint64(i), e.Spare+i)
				}
			}
		}
	}
	a.bucket.tokens, a.bucket.last = a.bucket.burst, a.drv.Now()
	a.reason = ""
	a.shared.checkRequested.Store(0)
	a.shared.tripped.Store(false)
	a.drv.Alert(AlertResumed)
}
