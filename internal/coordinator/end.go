package coordinator

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"ublkremap/metadata"
	"ublkremap/remap"
)

// This file ends a device, after its last request.
//
// Stop writes a last checkpoint, then waits for the Committer's last write, then flushes each
// device. So the flush covers all that was written, and its result is final.
//
// Leave waits for the Committer's last write. Everything acknowledged is durable. The next server
// treats everything as not flushed. The wait only helps to avoid a commit of unknown outcome;
// nothing more depends on it.
//
// Both also end a drill, and wait for what it has under way: it ends because of them, and begins
// nothing more. They wait for the last writes of the flight recorder, too.
//
// Both wait a limited time for all of this. That is safe: everything acknowledged is in the log,
// and the next start replays it.

var (
	// ErrCheckpoint is reported by Stop when the last checkpoint could not be written.
	ErrCheckpoint = errors.New("the last checkpoint could not be written; the log holds what it " +
		"would have held")
	// ErrStillWriting is reported by Stop and by Leave when metadata is still being written.
	ErrStillWriting = errors.New("metadata is still being written")
)

// Stopped is how a Stop ended.
type Stopped struct {
	// Metadata is why the last checkpoint was not written: ErrCheckpoint, ErrStillWriting or
	// metadata.ErrNotOpen. It is nil if the checkpoint was written. Nothing is lost without it.
	Metadata error
	// Flush says which devices could not be flushed. What was written to them may be lost.
	Flush error
}

// endStep says how far the end has come.
type endStep uint8

const (
	endNone       endStep = iota // it has not begun, or is over
	endCheckpoint                // waits for the last checkpoint
	endDrain                     // waits for the Committer's last write
	endFlush                     // waits for the flushes of all devices
)

type end struct {
	step    endStep
	due     int64 // when it stops waiting for the Committer; 0: it does not wait now
	stopped Stopped
	flushes int             // flushes that have not ended
	stop    func(Stopped)   // of Stop
	leave   func(err error) // of Leave
}

// Stop writes a last checkpoint, waits for what the Committer has under way, and flushes all
// devices. The first two together take at most the given time. Call it only when no request is
// under way any more.
func (c *Coordinator) Stop(within time.Duration, done func(Stopped)) {
	c.HoldScrub()
	c.endRetests()
	c.end = end{step: endCheckpoint, due: c.drv.Now() + int64(within), stop: done}
	c.closing = true
	c.endDrill()
	c.endEvents()
	t, err := c.com.Checkpoint()
	if err != nil {
		c.end.stopped.Metadata, c.end.step = err, endDrain
	} else {
		c.tickets[t] = c.lastCheckpoint
	}
	c.pump()
}

// lastCheckpoint takes the outcome of the last checkpoint.
func (c *Coordinator) lastCheckpoint(o metadata.Outcome) {
	if c.end.step != endCheckpoint {
		return // the time limit has passed
	}
	c.end.step = endDrain
	if o != metadata.OutcomeDurable {
		c.end.stopped.Metadata = ErrCheckpoint
	}
}

// Leave ends a drill, and waits for what it, the Committer and the flight recorder have under way,
// at most for the given time.
func (c *Coordinator) Leave(within time.Duration, done func(err error)) {
	c.HoldScrub()
	c.endRetests()
	c.end = end{step: endDrain, due: c.drv.Now() + int64(within), leave: done}
	c.closing = true
	c.endDrill()
	c.endEvents()
	c.pump()
}

// advanceEnd continues the end once nothing of the Committer, of a drill or of the flight recorder
// is under way.
func (c *Coordinator) advanceEnd() {
	if c.end.step == endDrain && c.com.Idle() && c.drill == nil && c.eventsIdle() {
		c.drained(nil)
	}
}

// tickEnd continues the end if the Committer takes too long.
func (c *Coordinator) tickEnd(now int64) {
	if e := &c.end; e.due != 0 && e.due <= now {
		if c.end.step == endDrain && c.com.Idle() {
			// Only the flight recorder or a drill is late, and no table depends on these.
			c.drained(nil)
			return
		}
		c.drained(ErrStillWriting)
	}
}

// drained ends the wait for the Committer.
func (c *Coordinator) drained(err error) {
	e := &c.end
	e.due, c.eventsEnded = 0, true
	if e.leave != nil {
		done := e.leave
		*e = end{}
		done(err)
		return
	}
	e.stopped.Metadata = errors.Join(e.stopped.Metadata, err)
	e.step, e.flushes = endFlush, c.devices
	for device := range c.devices {
		c.beginLastFlush(uint8(device))
	}
}

// beginLastFlush flushes a device for a stop.
func (c *Coordinator) beginLastFlush(device uint8) {
	i := c.freeOperation()
	c.operations[i] = operation{device: device}
	c.lastFlush(i)
}

// lastFlush asks for the flush, for the first time or once more.
func (c *Coordinator) lastFlush(i int) {
	c.operations[i].step = stepLastFlush
	c.issueFlush(i)
}

// lastFlushed takes the result of a flush of a stop. As in flushed, only a flush that was not
// carried out is retried.
func (c *Coordinator) lastFlushed(i int, res int32) {
	o, e := &c.operations[i], &c.end
	if remap.Classify(res) == remap.ClassResource {
		now := c.drv.Now()
		if wait, retry := o.retry.Next(res, now, c.limits); retry {
			o.step, o.due = stepLastFlushPause, now+int64(wait)
			return
		}
	}
	if res < 0 {
		e.stopped.Flush = errors.Join(e.stopped.Flush, fmt.Errorf("%s: flush: %w", c.name(o.device),
			syscall.Errno(-res)))
	}
	*o = operation{}
	if e.flushes--; e.flushes > 0 {
		return
	}
	done, stopped := e.stop, e.stopped
	*e = end{}
	done(stopped)
}
