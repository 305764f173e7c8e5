package ublk

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A queue whose waits are of one length yields before the runtime's 10 ms are over, and not
// much more often than it must.
func TestPacerYieldsInTime(t *testing.T) {
	const forcePreempt = 10 * time.Millisecond
	rapid.Check(t, func(t *rapid.T) {
		wait := time.Duration(rapid.Int64Range(100, int64(3*time.Millisecond)).Draw(t, "wait"))
		var (
			p    pacer
			now  time.Duration
			last time.Duration
			n    int
		)
		for now < 200*time.Millisecond {
			now += wait
			if p.skip() || !p.due(now, maxStride) {
				continue
			}
			if gap := now - last; n > 1 &&
				(gap >= forcePreempt || gap+2*max(wait, lookEvery) < yieldWithin) {
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

// Only few waits cost a look at the clock when they are short.
func TestPacerSeldomLooks(t *testing.T) {
	var (
		p     pacer
		now   time.Duration
		looks int
	)
	const waits = 100_000
	for range waits {
		now += 5 * time.Microsecond
		if !p.skip() {
			looks++
			p.due(now, maxStride)
		}
	}
	if looks > waits/32 {
		t.Fatalf("%d looks at the clock in %d waits", looks, waits)
	}
}
