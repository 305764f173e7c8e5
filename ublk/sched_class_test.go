package ublk

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// load says how many requests of 4 KiB a second a thread serves in either class, and how many
// of them are merged into one in SCHED_BATCH.
type load struct {
	normal, batch float64
	merged        float64
}

// tunerRun drives a classTuner.
type tunerRun struct {
	classTuner
	now             time.Duration
	requests, bytes float64
}

// under runs a load and returns the share of the time that the thread was in SCHED_BATCH. It
// updates the tuner as often as a queue does: once a millisecond, or with every request.
func (l *tunerRun) under(w load, lasts time.Duration) float64 {
	var batch time.Duration
	for end := l.now + lasts; l.now < end; {
		rate, each := w.normal, 1.0
		if l.batch {
			rate, each = w.batch, max(w.merged, 1)
		}
		step := max(time.Millisecond, time.Duration(each*float64(time.Second)/rate))
		if l.batch {
			batch += step
		}
		l.now += step
		l.bytes += 4096 * rate * step.Seconds()
		l.requests += rate / each * step.Seconds()
		l.update(l.now, work{uint64(l.requests), uint64(l.bytes)})
	}
	return float64(batch) / float64(lasts)
}

func TestClassTuner(t *testing.T) {
	for _, c := range []struct {
		name        string
		w           load
		least, most float64 // share of the time
	}{
		{"a submitter on the same CPU", load{50e3, 80e3, 1}, 0.97, 1},
		{"whose requests are merged then", load{15e3, 19e3, 8}, 0.95, 1},
		{"large requests", load{3000, 3300, 2}, 0.95, 1},
		{"a real disk, one request at a time, beside somebody who computes", load{12e3, 300, 1}, 0,
			0.02},
		{"the same, slower", load{4400, 285, 1}, 0, 0.02},
		{"no difference", load{40e3, 40e3, 1}, 0, 0.02},
		{"none but merges", load{40e3, 40e3, 8}, 0, 0.02},
		{"hardly one", load{40e3, 41e3, 1}, 0, 0.02},
		{"next to nothing to do", load{200, 2000, 1}, 0, 0},
		{"as fast as can be", load{2e6, 4e6, 1}, 0.97, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			var l tunerRun
			l.under(c.w, time.Second) // until it has settled
			if share := l.under(c.w, 30*time.Second); share < c.least || share > c.most {
				t.Errorf("SCHED_BATCH for %.3f of the time, want %v to %v", share, c.least, c.most)
			}
		})
	}
}

// The tuner follows a change of the load, however long the old load lasted.
func TestClassTunerFollowsTheLoad(t *testing.T) {
	var l tunerRun
	busy, shared, slow := load{50e3, 80e3, 1}, load{12e3, 300, 1}, load{300, 300, 1}
	for _, w := range []load{shared, slow} {
		if share := l.under(busy, time.Minute); share < 0.97 {
			t.Errorf("SCHED_BATCH for %.2f of the time where it wins", share)
		}
		l.under(w, 50*time.Millisecond)
		if share := l.under(w, time.Second); share > 0.08 {
			t.Errorf("SCHED_BATCH for %.2f of the time in %v", share, w)
		}
	}
	l.under(load{40e3, 40e3, 1}, time.Minute)
	l.under(busy, lastPause+2*longPeriod)
	if share := l.under(busy, time.Second); share < 0.9 {
		t.Errorf("SCHED_BATCH for %.2f of the time where it wins again", share)
	}
	// After a pause of the requests the thread is in SCHED_NORMAL.
	l.now += time.Minute
	if l.under(load{3000, 3000, 1}, 2*time.Millisecond); l.batch {
		t.Error("SCHED_BATCH after a pause")
	}
}

// policyOf is what the kernel says of a thread; 0 is the calling one.
func policyOf(t *testing.T, tid int) int {
	t.Helper()
	policy, _, errno := unix.Syscall(unix.SYS_SCHED_GETSCHEDULER, uintptr(tid), 0, 0)
	if errno != 0 {
		t.Fatal(errno)
	}
	return int(policy)
}

func TestThreadClass(t *testing.T) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and the thread ends with it
		var s threadClass
		s.find()
		if s.fixed {
			t.Errorf("policy %#x is left alone", s.found)
			return
		}
		for _, batch := range []bool{true, false, true} {
			want := unix.SCHED_NORMAL
			if batch {
				want = unix.SCHED_BATCH
			}
			s.set(batch)
			if got := policyOf(t, 0); got != want|unix.SCHED_RESET_ON_FORK {
				t.Errorf("batch %v: policy %#x", batch, got)
			}
		}
		// A policy that somebody else has chosen stays.
		var chosen threadClass
		chosen.find()
		chosen.set(false)
		if got := policyOf(t, 0); got != unix.SCHED_BATCH|unix.SCHED_RESET_ON_FORK ||
			!chosen.fixed {
			t.Errorf("a policy that was there is now %#x", got)
		}
	}()
	<-done
}
