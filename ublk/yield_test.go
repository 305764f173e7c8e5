package ublk

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A queue whose waits have one length yields before the runtime's 10 ms are over, and not much
// more often than needed.
func TestYieldTimerIsInTime(t *testing.T) {
	const forcePreempt = 10 * time.Millisecond
	rapid.Check(t, func(t *rapid.T) {
		wait := time.Duration(rapid.Int64Range(100, int64(3*time.Millisecond)).Draw(t, "wait"))
		var (
			y    yieldTimer
			now  time.Duration
			last time.Duration
			n    int
		)
		for now < 200*time.Millisecond {
			now += wait
			if y.skip() || !y.due(now, maxStride) {
				continue
			}
			if gap := now - last; n > 1 &&
				(gap >= forcePreempt || gap+2*max(wait, readEvery) < yieldWithin) {
				t.Fatalf("%s between two yields", gap)
			}
			last = now
			n++
		}
		if n < 15 {
			t.Fatalf("%d yields in 200 ms", n)
		}
	})
}

// Few waits read the clock when they are short.
func TestYieldTimerSeldomReadsTheClock(t *testing.T) {
	var (
		y        yieldTimer
		now      time.Duration
		readings int
	)
	const waits = 100_000
	for range waits {
		now += 5 * time.Microsecond
		if !y.skip() {
			readings++
			y.due(now, maxStride)
		}
	}
	if readings > waits/32 {
		t.Fatalf("the clock was read %d times in %d waits", readings, waits)
	}
}
