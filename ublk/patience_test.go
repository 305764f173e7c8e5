package ublk

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A world says how many requests of 4 KiB a second are served by a thread that is eager or
// patient, and how many of them are merged into one where it is patient.
type world struct {
	eager, patient float64
	merged         float64
}

// life is what a patience has seen.
type life struct {
	patience
	now             time.Duration
	requests, bytes float64
}

// live goes on in a world and returns the share of the time for which it was patient. It
// looks as often as a queue does: once a millisecond, or whenever a request comes.
func (l *life) live(w world, lasts time.Duration) float64 {
	var patient time.Duration
	for end := l.now + lasts; l.now < end; {
		rate, each := w.eager, 1.0
		if l.patient {
			rate, each = w.patient, max(w.merged, 1)
		}
		step := max(time.Millisecond, time.Duration(each*float64(time.Second)/rate))
		if l.patient {
			patient += step
		}
		l.now += step
		l.bytes += 4096 * rate * step.Seconds()
		l.requests += rate / each * step.Seconds()
		l.look(l.now, work{uint64(l.requests), uint64(l.bytes)})
	}
	return float64(patient) / float64(lasts)
}

func TestPatience(t *testing.T) {
	for _, c := range []struct {
		name        string
		w           world
		least, most float64 // share of the time
	}{
		{"a submitter on the same CPU", world{50e3, 80e3, 1}, 0.97, 1},
		{"whose requests are merged then", world{15e3, 19e3, 8}, 0.95, 1},
		{"large requests", world{3000, 3300, 2}, 0.95, 1},
		{"a real disk, one request at a time, beside somebody who computes", world{12e3, 300, 1}, 0,
			0.02},
		{"the same, slower", world{4400, 285, 1}, 0, 0.02},
		{"no difference", world{40e3, 40e3, 1}, 0, 0.02},
		{"none but merges", world{40e3, 40e3, 8}, 0, 0.02},
		{"hardly one", world{40e3, 41e3, 1}, 0, 0.02},
		{"next to nothing to do", world{200, 2000, 1}, 0, 0},
		{"as fast as can be", world{2e6, 4e6, 1}, 0.97, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			var l life
			l.live(c.w, time.Second) // it gets used to it
			if share := l.live(c.w, 30*time.Second); share < c.least || share > c.most {
				t.Errorf("patient for %.3f of the time, want %v to %v", share, c.least, c.most)
			}
		})
	}
}

// When the world changes it is followed, however long it was as it was.
func TestPatienceFollows(t *testing.T) {
	var l life
	busy, shared, slow := world{50e3, 80e3, 1}, world{12e3, 300, 1}, world{300, 300, 1}
	for _, w := range []world{shared, slow} {
		if share := l.live(busy, time.Minute); share < 0.97 {
			t.Errorf("patient for %.2f of the time where it wins", share)
		}
		l.live(w, 50*time.Millisecond)
		if share := l.live(w, time.Second); share > 0.08 {
			t.Errorf("patient for %.2f of the time in %v", share, w)
		}
	}
	l.live(world{40e3, 40e3, 1}, time.Minute)
	l.live(busy, lastPause+2*longPeriod)
	if share := l.live(busy, time.Second); share < 0.9 {
		t.Errorf("patient for %.2f of the time where it wins again", share)
	}
	// After a pause of the requests it is not patient with the next ones.
	l.now += time.Minute
	if l.live(world{3000, 3000, 1}, 2*time.Millisecond); l.patient {
		t.Error("patient after a pause")
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

func TestScheduling(t *testing.T) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and the thread ends with it
		var s scheduling
		s.find()
		if s.fixed {
			t.Errorf("policy %#x is left alone", s.found)
			return
		}
		for _, patient := range []bool{true, false, true} {
			want := unix.SCHED_NORMAL
			if patient {
				want = unix.SCHED_BATCH
			}
			s.set(patient)
			if got := policyOf(t, 0); got != want|unix.SCHED_RESET_ON_FORK {
				t.Errorf("patient %v: policy %#x", patient, got)
			}
		}
		// What somebody else has chosen stays.
		var chosen scheduling
		chosen.find()
		chosen.set(false)
		if got := policyOf(t, 0); got != unix.SCHED_BATCH|unix.SCHED_RESET_ON_FORK ||
			!chosen.fixed {
			t.Errorf("a policy that was there is now %#x", got)
		}
	}()
	<-done
}
