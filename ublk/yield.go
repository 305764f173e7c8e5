package ublk

import (
	"time"
	_ "unsafe" // for go:linkname
)

// A yieldTimer says when a queue's goroutine must yield to the Go scheduler. Without it the
// runtime takes the processor (the P that runs Go code) from the thread at every wait.
//
// The thread waits in an ordinary system call, so nothing that stops the world waits for a
// device. During such a call the runtime's monitor (retake in runtime/proc.go) leaves the P to
// the thread for up to 10 ms, if another P is idle. The return from the call is then cheap.
//
// The monitor also measures how long a P has been running one goroutine. It uses a tick that
// only the scheduler advances. A goroutine that is locked to its thread does not enter the
// scheduler by itself. So 10 ms after it became busy it counts as overdue for good, and the
// monitor takes its P 20 µs into every wait. Each return must then find another P and wake the
// monitor by a futex, which halves the throughput of the queue.
//
// One yield before the 10 ms are over avoids that. It costs two thread switches (see goyield).
// An idle thread does not yield. It loses its P, and the monitor can sleep.
type yieldTimer struct {
	left    int           // waits until the clock is read next
	stride  int           // waits between two readings, 1 to maxStride
	read    time.Duration // the last reading, since the queue's epoch
	yielded time.Duration // when the goroutine last yielded
}

const (
	// yieldWithin is a little less than forcePreemptNS of runtime/proc.go, 10 ms. The margin is
	// small because a yield is noticeable with several queues on slow processors.
	yieldWithin = 9500 * time.Microsecond
	// readEvery is the wanted time between two readings of the clock. A reading is expensive
	// on some machines, so not every wait has one.
	readEvery = time.Millisecond
	maxStride = 64
)

// skip reports whether this wait needs no reading of the clock. It is called once per wait.
func (y *yieldTimer) skip() bool {
	y.left--
	return y.left >= 0
}

// due reports whether the goroutine should yield before the next wait. It is called when skip
// returns false. The clock is read again after at most maxWaits waits.
func (y *yieldTimer) due(now time.Duration, maxWaits int) bool {
	since := now - y.read
	switch {
	case since > readEvery:
		y.stride = max(y.stride/2, 1)
	case since < readEvery/2:
		y.stride = max(y.stride, 1) * 2
	}
	y.stride = min(y.stride, maxWaits)
	y.read, y.left = now, max(y.stride, 1)-1
	// Assume that the next reading comes as long after this one as this one after the last.
	if now+since < y.yielded+yieldWithin {
		return false
	}
	y.yielded = now
	return true
}

// tendThread adjusts the scheduling class and yields, if either is due. It is called before a
// wait.
func (q *Queue) tendThread(now time.Duration) error {
	if q.tuner.update(now, q.work) {
		q.class.set(q.tuner.batch)
	}
	if q.yieldTimer.due(now, q.tuner.maxWaits()) {
		return q.yield()
	}
	return nil
}

// yield lets the goroutine pass through the scheduler once. It submits what is queued first, so
// that the disk works meanwhile.
func (q *Queue) yield() error {
	if q.ring.Pending() > 0 {
		if err := q.ring.SubmitOnly(); err != nil {
			return err
		}
	}
	goyield()
	return nil
}

// goyield is runtime.Gosched, except that it puts the goroutine into the local queue of its P.
// Gosched uses the global queue; the runtime then wakes three or four idle threads, which
// search for work. With the local queue it wakes only the thread that hands the P back to the
// locked goroutine. The runtime keeps this name for packages that link to it:
// https://go.dev/issue/67401.
//
//go:linkname goyield runtime.goyield
func goyield()
