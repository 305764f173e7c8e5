package coordinator

import "time"

// Mirrors that could not be written are tried again after mirrorRetryFirst, then after twice that,
// and so on up to mirrorRetryLast, unless enough changes come sooner.
const (
	mirrorRetryFirst = time.Minute
	mirrorRetryLast  = 64 * mirrorRetryFirst
)

// mirrorRetry is the clock of mirrors that wait to be tried again. While all are well it does not
// run.
type mirrorRetry struct {
	pause time.Duration // the last one; 0: all were well since
	due   int64         // monotonic ns; 0: it does not run
}

// watchMirrors starts the clock for mirrors that wait to be tried again.
func (c *Coordinator) watchMirrors() {
	m := &c.mirrors
	switch {
	case m.due != 0:
	case c.com.BackedOff():
		m.pause = min(max(2*m.pause, mirrorRetryFirst), mirrorRetryLast)
		m.due = c.drv.Now() + int64(m.pause)
	case m.pause != 0 && c.com.Idle() && !c.com.Status().Suspended:
		m.pause = 0 // all is well; else it may end either way
	}
}

// tickMirrors has mirrors tried again if it is time.
func (c *Coordinator) tickMirrors(now int64) {
	if m := &c.mirrors; m.due != 0 && m.due <= now {
		m.due = 0
		c.com.RetryNow()
	}
}
