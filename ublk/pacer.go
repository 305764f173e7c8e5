package ublk

import (
	"time"
	_ "unsafe" // for go:linkname
)

// A pacer keeps the Go scheduler from taking the processor (the P that runs Go code) away
// from a queue's thread at every wait.
//
// The thread waits in a system call like any other, so that nothing that stops the world
// ever waits for a device. While it is there, the runtime's monitor (retake in
// runtime/proc.go) leaves it its P for up to 10 ms if another P is idle, and the return
// costs next to nothing. But the monitor also measures for how long a P has been running
// one goroutine, by a tick that only the scheduler advances; and a goroutine that is locked
// to its thread never comes to the scheduler by itself. So 10 ms after it began to be busy
// it counted as overdue for good, and its P was taken 20 µs into every wait: each return
// then had to find another P and to wake the monitor by a futex, which halved what a queue
// could do.
//
// One visit to the scheduler before the 10 ms are over puts that right. It costs two
// switches of threads (see goyield). An idle thread makes none, and so loses its P and lets
// the monitor sleep.
type pacer struct {
	left   int           // waits until the next look at the clock
	stride int           // waits between two looks, 1 to maxStride
	looked time.Duration // when that was, since the queue's epoch
	yield  time.Duration // when the goroutine last went to the scheduler
}

const (
	// yieldWithin leaves a margin below forcePreemptNS of runtime/proc.go, 10 ms, and no
	// more: several queues on slow processors feel what a visit costs.
	yieldWithin = 9500 * time.Microsecond
	// lookEvery is how exact that has to be. The clock is not free everywhere, so it is not
	// read at every wait.
	lookEvery = time.Millisecond
	maxStride = 64
)

// skip reports whether the clock need not be looked at before this wait. To be called once
// per wait.
func (p *pacer) skip() bool {
	p.left--
	return p.left >= 0
}

// due reports whether the goroutine should yield before it waits again. To be called if
// skip says false; most is for how many waits at most that should not be asked again.
func (p *pacer) due(now time.Duration, most int) bool {
	since := now - p.looked
	switch {
	case since > lookEvery:
		p.stride = max(p.stride/2, 1)
	case since < lookEvery/2:
		p.stride = max(p.stride, 1) * 2
	}
	p.stride = min(p.stride, most)
	p.looked, p.left = now, max(p.stride, 1)-1
	// The next look may be as late after this one as this one was after the last.
	if now+since < p.yield+yieldWithin {
		return false
	}
	p.yield = now
	return true
}

// keepPace does what is due by the clock before a wait.
func (q *Queue) keepPace(now time.Duration) error {
	if q.patience.look(now, q.work) {
		q.sched.set(q.patience.patient)
	}
	if q.pacer.due(now, q.patience.mostWaits()) {
		return q.yield()
	}
	return nil
}

// yield takes the goroutine once through the scheduler. What is queued goes to the kernel
// first, so that the disk works meanwhile.
func (q *Queue) yield() error {
	if q.ring.Pending() > 0 {
		if err := q.ring.SubmitOnly(); err != nil {
			return err
		}
	}
	goyield()
	return nil
}

// goyield is what runtime.Gosched is, but puts the goroutine into its P's own queue. From
// the global one, where Gosched puts it, the runtime lets idle threads search for it, and
// wakes three or four of them; like this it wakes the one that has to hand a locked
// goroutine its P. The runtime keeps the name for those who link to it:
// https://go.dev/issue/67401.
//
//go:linkname goyield runtime.goyield
func goyield()
