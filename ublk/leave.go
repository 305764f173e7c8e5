package ublk

import (
	"time"

	"ublkremap/ublk/internal/uring"
)

// What leaving a device takes besides ending the thread.
//
// Before Linux 6.16 the kernel learns that a queue's thread is gone from the fetch commands
// that it cancels when the thread exits. If every tag is in the server's hands there is
// none, and it learns only by the timeout of a request, 30 seconds later; all I/O waits
// that long. So a queue that leaves sees to it that at least one command is with the
// kernel: the last thing that its thread does is to give an answer, and it does not look
// what that tag brings next.

const (
	// saturatedWait bounds how long a queue waits for its handler to answer a request for
	// that. It leaves in any case.
	saturatedWait = 5 * time.Second
	saturatedPoll = 100 * time.Millisecond
)

// noticesClose: the kernel also learns of a server's end when its character device is released.
var noticesClose = func() bool {
	v, err := RunningKernel()
	return err == nil && v.AtLeast(KernelVersion{6, 16, 0})
}()

// saturated reports whether a thread that ends now would not be missed: all tags are here.
// It is false after a while in any case.
func (q *Queue) saturated() bool {
	if noticesClose || q.owned < q.alive {
		return false
	}
	if q.leaveBy.IsZero() {
		q.leaveBy = time.Now().Add(saturatedWait)
	}
	return time.Now().Before(q.leaveBy)
}

// serveHeld hands over a request that was held back for the next server, and reports
// whether there was one.
func (q *Queue) serveHeld() bool {
	for tag := range q.tags {
		if t := &q.tags[tag]; t.held {
			t.held = false
			q.handOver(uint16(tag))
			return true
		}
	}
	return false
}

// leave submits the last answers and ends the read of the eventfd, without letting the
// kernel hand out requests: those are the next server's.
func (q *Queue) leave() error {
	if q.wakeArmed {
		// The read waits by polling, so it is off the hook when this has been submitted;
		// nobody looks at its result.
		s := q.entry()
		uring.Cancel(s, kindWake)
		s.UserData = kindCancel
		q.wakeArmed = false
	}
	for tries := 0; q.failure == nil && (q.ring.Pending() > 0 ||
		q.exchange.kept()) && tries < 1000; tries++ {
		if q.ring.Pending() == 0 {
			q.exchange.leave()
		}
		// What the kernel does not take now is as if it had never been answered.
		if err := q.ring.SubmitOnly(); err != nil {
			return err
		}
	}
	return q.failure
}
