package ublk

import (
	"time"

	"ublkremap/ublk/internal/uring"
)

// A poller decides for how long a queue's thread looks for completions before it sleeps. It
// follows the kernel's halt polling for guests (Documentation/virt/kvm/halt-polling.rst):
// the time grows while sleeps turn out to be so short that a longer look would have saved
// them, and shrinks when they are long, so that an idle device costs nothing.
type poller struct {
	most   time.Duration // the longest look; 0: never look
	window time.Duration // the next one, 0 to most
}

// firstWindow is the look that a poller begins with, as halt_poll_ns_grow_start.
const firstWindow = 10 * time.Microsecond

// waited takes how long nothing came, looking and sleeping.
func (p *poller) waited(d time.Duration) {
	switch {
	case d <= p.window:
		// Found while looking: the window is right.
	case d <= p.most:
		p.window = min(max(2*p.window, firstWindow), p.most)
	default:
		p.window /= 2
		if p.window < firstWindow {
			p.window = 0
		}
	}
}

// wait hands over what is queued and waits, with a look before the sleep if the queue polls.
func (q *Queue) wait(limit time.Duration) error {
	if q.poller.most == 0 || limit == 0 {
		return q.ring.SubmitAndWait(limit)
	}
	if err := q.ring.SubmitAndWait(0); err != nil || q.ring.Ready() {
		return err
	}
	began := time.Now()
	if found, err := q.look(began, limit); found || err != nil {
		return err
	}
	err := q.ring.SubmitAndWait(limit)
	q.poller.waited(time.Since(began))
	return err
}

// look watches the ring for the poller's window and reports whether something came.
func (q *Queue) look(began time.Time, limit time.Duration) (bool, error) {
	window := q.poller.window
	if limit != uring.NoLimit {
		window = min(window, limit)
	}
	for window > 0 {
		// The clock costs as much as some ten looks.
		for range 16 {
			if q.ring.Ready() {
				// What the kernel has deferred to this thread it does when it is entered.
				return true, q.ring.SubmitAndWait(0)
			}
		}
		if time.Since(began) >= window {
			break
		}
	}
	return false, nil
}
