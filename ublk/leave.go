package ublk

import (
	"time"

	"ublkremap/ublk/internal/uring"
)

// This file is about leaving a device to another server.
//
// Before Linux 6.16 the kernel learns that a queue's thread has ended from the fetch commands
// that it cancels when the thread exits. If the server owns every tag, there is no such command.
// The kernel then learns it only from the timeout of a request, 30 seconds later, and all I/O
// waits that long. So a queue that leaves makes sure that at least one command is with the
// kernel: the last act of its thread is to give an answer, which fetches that tag again.

const (
	// saturatedWait is how long a queue waits for its handler to answer one request. After
	// that it leaves in any case.
	saturatedWait = 5 * time.Second
	saturatedPoll = 100 * time.Millisecond
)

// noticesClose: the kernel learns of a server's end also when its character device is closed.
var noticesClose = func() bool {
	v, err := RunningKernel()
	return err == nil && v.AtLeast(KernelVersion{6, 16, 0})
}()

// saturated reports whether the kernel would not notice if the thread ended now: the queue owns
// all tags. After saturatedWait it reports false in any case.
func (q *Queue) saturated() bool {
	if noticesClose || q.owned < q.alive {
		return false
	}
	if q.leaveBy.IsZero() {
		q.leaveBy = time.Now().Add(saturatedWait)
	}
	return time.Now().Before(q.leaveBy)
}

// serveHeld gives the handler one request that was held for the next server, and reports whether
// there was one.
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

// leave submits the last answers and cancels the read of the eventfd. It handles no completion, so
// all further requests go to the next server.
func (q *Queue) leave() error {
	if q.wakeArmed {
		// The read waits for a poll event, so it ends as soon as this is submitted. Its result
		// is not needed.
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
		// A request whose answer the kernel does not take now goes to the next server.
		if err := q.ring.SubmitOnly(); err != nil {
			return err
		}
	}
	return q.failure
}
