package coordinator

import "time"

// A mirror that could not be written is retried after mirrorRetryFirst, then after twice that time,
// and so on up to mirrorRetryLast. It is retried earlier if enough changes come.
const (
	mirrorRetryFirst = time.Minute
	mirrorRetryLast  = 64 * mirrorRetryFirst
)

// mirrorRetry is the clock for mirrors that wait for a retry. It does not run while all mirrors are
// good.
type mirrorRetry struct {
	pause time.Duration // the last pause; 0: all mirrors were good since
	due   int64         // monotonic ns; 0: it does not run
}

// watchMirrors starts the clock for mirrors that wait for a retry.
func (c *Coordinator) watchMirrors() {
	m := &c.mirrors
	switch {
	case m.due != 0:
	case c.com.BackedOff():
		m.pause = min(max(2*m.pause, mirrorRetryFirst), mirrorRetryLast)
		m.due = c.drv.Now() + int64(m.pause)
	case m.pause != 0 && c.com.Idle() && !c.com.Status().Suspended:
		m.pause = 0 // all mirrors are good; in the other cases the retry may end either way
	}
}

// tickMirrors retries mirrors if it is time.
func (c *Coordinator) tickMirrors(now int64) {
	if m := &c.mirrors; m.due != 0 && m.due <= now {
		m.due = 0
		c.com.RetryNow()
	}
}
