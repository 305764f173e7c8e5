package ublk

import "time"

// A Target makes the handlers of a device: [Device.Run] asks it for one per queue.
type Target interface {
	// NewQueue makes the handler of a queue. It is called on the queue's own thread, before
	// the device is live; there it gives the ring its backing files (Queue.SetFile) and
	// gets its memory (Queue.NewMemory). It may be called for several queues at the same
	// time. An error keeps the device from starting.
	NewQueue(q *Queue) (Handler, error)
}

// A Handler serves the requests of one queue. All its methods are called on the queue's
// thread and must not block: what takes time is an operation on the ring, and is reported
// to Complete. They may call any method of the Queue.
type Handler interface {
	// Request hands over a new request. The handler owns it, and its buffer, until it calls
	// Queue.Done with its tag, now or later.
	Request(r Request)
	// Complete reports the result of an operation that was queued with userData: what the
	// system call would have returned, or a negative errno. Reads and writes may be short.
	Complete(userData uint64, res int32)
	// Wake says that Queue.Wakeup was called. Several calls of it may come as one.
	Wake()
	// EndBatch is called when all that the ring had to report has been handed over, before
	// the thread enters the kernel to submit and wait. A positive duration asks to be
	// called again after this time even if nothing happens; zero or less asks for no timer.
	// The timer is not kept: each call decides anew.
	EndBatch() time.Duration
	// Close is called last, when the queue has ended. After a stop no request is left;
	// after Device.Leave the requests that are not answered are the next server's. Every
	// operation has been completed, unless Run ends with an error.
	Close()
}
