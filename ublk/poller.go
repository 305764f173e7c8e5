package ublk

import (
	"time"

	"ublkremap/ublk/internal/uring"
)

// A poller decides for how long a queue's thread polls for completions before it sleeps. It
// follows the kernel's halt polling for guests (Documentation/virt/kvm/halt-polling.rst). The
// window grows while sleeps are so short that a longer poll would have avoided them. It shrinks
// when sleeps are long, so an idle device costs nothing.
type poller struct {
	most   time.Duration // the longest window; 0: never poll
	window time.Duration // how long the next poll lasts, 0 to most
}

// firstWindow is the first window above 0, as halt_poll_ns_grow_start.
const firstWindow = 10 * time.Microsecond

// waited takes how long the last wait was, poll and sleep together.
func (p *poller) waited(d time.Duration) {
	switch {
	case d <= p.window:
		// The poll found it: the window is right.
	case d <= p.most:
		p.window = min(max(2*p.window, firstWindow), p.most)
	default:
		p.window /= 2
		if p.window < firstWindow {
			p.window = 0
		}
	}
}

// wait submits what is queued and waits for a completion. A queue that polls does so before it
// sleeps.
func (q *Queue) wait(limit time.Duration) error {
	if q.poller.most == 0 || limit == 0 {
		return q.ring.SubmitAndWait(limit)
	}
	if err := q.ring.SubmitAndWait(0); err != nil || q.ring.Ready() {
		return err
	}
	began := time.Now()
	if found, err := q.poll(began, limit); found || err != nil {
		return err
	}
	err := q.ring.SubmitAndWait(limit)
	q.poller.waited(time.Since(began))
	return err
}

// poll polls the ring for the poller's window and reports whether a completion came.
func (q *Queue) poll(began time.Time, limit time.Duration) (bool, error) {
	window := q.poller.window
	if limit != uring.NoLimit {
		window = min(window, limit)
	}
	for window > 0 {
		// Reading the clock costs as much as some ten polls.
		for range 16 {
			if q.ring.Ready() {
				// The kernel runs the work that it deferred to this thread when it is entered.
				return true, q.ring.SubmitAndWait(0)
			}
		}
		if time.Since(began) >= window {
			break
		}
	}
	return false, nil
}
