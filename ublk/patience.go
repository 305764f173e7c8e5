package ublk

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A patience decides whether a queue's thread takes the CPU from whoever runs there when it
// is woken (SCHED_NORMAL), or waits until that one sleeps or has had its time (SCHED_BATCH:
// check_preempt_wakeup_fair in kernel/sched/fair.c).
//
// Whoever submits requests on the thread's own CPU is otherwise interrupted at the first of
// them, and so the queue is woken for one or two at a time, however many there would be a
// moment later. Beside somebody who only computes it is the other way around: a patient
// thread has each completion of the disk wait for the end of his time, some milliseconds.
// Nothing that the thread sees by itself tells one from the other, so both are tried, and
// what moves more data in the same time stays. Where there is not much to do nothing is
// tried, and the thread is not patient.
type patience struct {
	patient bool
	trial   bool          // the period under way tries what is not in use otherwise
	began   time.Duration // the period, since the queue's epoch
	before  work          // what was done before it
	rate    float64       // bytes a second in the last period that was not a trial
	next    time.Duration // the next trial
	pause   time.Duration // between the last one and that
}

// work is what a queue has done so far. Requests alone do not tell: those that wait for a
// patient thread are merged.
type work struct{ requests, bytes uint64 }

const (
	// A period ends after shortPeriod if there were enough requests to tell, else after longPeriod.
	shortPeriod   = 10 * time.Millisecond
	longPeriod    = 40 * time.Millisecond
	enoughToTell  = 64
	patienceGain  = 1.05 // by which patience must be better to be worth its risk
	patienceFalls = 0.5  // below this share of what there was the world has changed
	// A trial costs what the worse of the two costs, so they are far apart where they bring
	// nothing new.
	firstPause = 50 * time.Millisecond
	lastPause  = 3200 * time.Millisecond
)

// look takes the work done so far and reports whether patient has changed. It is to be
// called every millisecond or so while there are requests.
func (p *patience) look(now time.Duration, done work) (changed bool) {
	took := now - p.began
	if took < shortPeriod {
		return false
	}
	rate := float64(done.bytes-p.before.bytes) / took.Seconds()
	requests := done.requests - p.before.requests
	fell := p.patient && rate < p.rate*patienceFalls
	if requests < enoughToTell && took < longPeriod && !fell {
		return false
	}
	p.began, p.before = now, done
	switch {
	case p.trial:
		p.trial = false
		if p.patient && rate > p.rate*patienceGain || !p.patient && rate*patienceGain > p.rate {
			p.rate, p.pause = rate, firstPause
		} else {
			p.patient, changed = !p.patient, true
			p.pause = min(max(2*p.pause, firstPause), lastPause)
		}
		p.next = now + p.pause
	case !p.patient && requests < enoughToTell:
		// There is not much to do.
	default:
		p.rate = rate
		if now >= p.next || fell {
			p.trial, p.patient, changed = true, !p.patient, true
		}
	}
	return changed
}

// mostWaits is for how many waits the clock need not be looked at: a patient thread that is
// kept waiting should find out soon.
func (p *patience) mostWaits() int {
	if p.patient {
		return 4
	}
	return maxStride
}

// scheduling is the policy of a queue's thread.
type scheduling struct {
	found    int
	fixed    bool // it was not the usual one, so somebody chose it, or it must not be changed
	priority int32
}

// find is for the thread itself, before set.
func (s *scheduling) find() {
	policy, _, errno := unix.RawSyscall(unix.SYS_SCHED_GETSCHEDULER, 0, 0, 0)
	s.found = int(policy)
	s.fixed = errno != 0 || s.found&^unix.SCHED_RESET_ON_FORK != unix.SCHED_NORMAL
}

// set makes the calling thread patient or not. What it forks, as the kernel's workers for
// its ring are, is not patient.
func (s *scheduling) set(patient bool) {
	if s.fixed {
		return
	}
	policy := s.found | unix.SCHED_RESET_ON_FORK
	if patient {
		policy |= unix.SCHED_BATCH
	}
	_, _, errno := unix.RawSyscall(unix.SYS_SCHED_SETSCHEDULER, 0, uintptr(policy),
		uintptr(unsafe.Pointer(&s.priority)))
	s.fixed = errno != 0
}
