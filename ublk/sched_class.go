package ublk

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A classTuner chooses the scheduling class of a queue's thread: SCHED_NORMAL or SCHED_BATCH.
// A woken SCHED_NORMAL thread may take the CPU from the task that runs there. A woken
// SCHED_BATCH thread waits until that task sleeps or has used its time slice
// (check_preempt_wakeup_fair in kernel/sched/fair.c).
//
// Which class is better depends on the other task:
//
//   - If it submits requests, SCHED_NORMAL interrupts it at its first request. The queue then
//     gets requests one or two at a time, although more would come a moment later. SCHED_BATCH
//     is better.
//   - If it only computes, SCHED_BATCH delays every completion of the disk until the end of the
//     task's time slice, which is some milliseconds. SCHED_NORMAL is better.
//
// The thread cannot see which case it is in. So the tuner tries both classes and keeps the one
// that moves more data in the same time. With few requests it tries nothing and stays with
// SCHED_NORMAL.
type classTuner struct {
	batch  bool          // the thread is in SCHED_BATCH
	trial  bool          // the current period tries the class that is not in use otherwise
	began  time.Duration // start of the current period, since the queue's epoch
	before work          // work done before the current period
	rate   float64       // bytes a second in the last period that was not a trial
	next   time.Duration // start of the next trial
	pause  time.Duration // between the last trial and the next one
}

// work is what a queue has done so far. The number of requests alone is no measure: the block
// layer merges requests while they wait for a SCHED_BATCH thread.
type work struct{ requests, bytes uint64 }

const (
	// A period lasts shortPeriod if it had enoughRequests, else longPeriod.
	shortPeriod    = 10 * time.Millisecond
	longPeriod     = 40 * time.Millisecond
	enoughRequests = 64
	// batchGain is the factor by which SCHED_BATCH must be faster to be kept.
	batchGain = 1.05
	// batchDrop: if the rate falls below this share of the last one, the other task has
	// changed, and a trial begins at once.
	batchDrop = 0.5
	// A trial costs throughput while the worse class runs. So the pause between trials
	// grows from firstPause to lastPause as long as they change nothing.
	firstPause = 50 * time.Millisecond
	lastPause  = 3200 * time.Millisecond
)

// update takes the work done so far and reports whether batch has changed. It is called about
// once a millisecond while there are requests.
func (c *classTuner) update(now time.Duration, done work) (changed bool) {
	took := now - c.began
	if took < shortPeriod {
		return false
	}
	rate := float64(done.bytes-c.before.bytes) / took.Seconds()
	requests := done.requests - c.before.requests
	dropped := c.batch && rate < c.rate*batchDrop
	if requests < enoughRequests && took < longPeriod && !dropped {
		return false
	}
	c.began, c.before = now, done
	switch {
	case c.trial:
		c.trial = false
		if c.batch && rate > c.rate*batchGain || !c.batch && rate*batchGain > c.rate {
			c.rate, c.pause = rate, firstPause
		} else {
			c.batch, changed = !c.batch, true
			c.pause = min(max(2*c.pause, firstPause), lastPause)
		}
		c.next = now + c.pause
	case !c.batch && requests < enoughRequests:
		// Too few requests to compare.
	default:
		c.rate = rate
		if now >= c.next || dropped {
			c.trial, c.batch, changed = true, !c.batch, true
		}
	}
	return changed
}

// maxWaits is how many waits may pass without reading the clock. It is small in SCHED_BATCH, so
// that a thread that is kept waiting soon notices.
func (c *classTuner) maxWaits() int {
	if c.batch {
		return 4
	}
	return maxStride
}

// threadClass sets the scheduling class of a queue's thread.
type threadClass struct {
	found int // the policy that the thread had at first
	// fixed: the policy must stay. Somebody else has chosen it, or the kernel refuses another one.
	fixed    bool
	priority int32
}

// find reads the policy of the calling thread. It must be called before set.
func (s *threadClass) find() {
	policy, _, errno := unix.RawSyscall(unix.SYS_SCHED_GETSCHEDULER, 0, 0, 0)
	s.found = int(policy)
	s.fixed = errno != 0 || s.found&^unix.SCHED_RESET_ON_FORK != unix.SCHED_NORMAL
}

// set puts the calling thread into SCHED_BATCH or SCHED_NORMAL. Its children, such as the
// kernel's workers for its ring, are always in SCHED_NORMAL.
func (s *threadClass) set(batch bool) {
	if s.fixed {
		return
	}
	policy := s.found | unix.SCHED_RESET_ON_FORK
	if batch {
		policy |= unix.SCHED_BATCH
	}
	_, _, errno := unix.RawSyscall(unix.SYS_SCHED_SETSCHEDULER, 0, uintptr(policy),
		uintptr(unsafe.Pointer(&s.priority)))
	s.fixed = errno != 0
}
