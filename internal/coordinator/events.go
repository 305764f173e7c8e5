package coordinator

import (
	"errors"
	"math"
	"syscall"
	"time"

	"ublkremap/metadata"
	"ublkremap/remap"
)

// This file keeps the flight recorder: it notes what the Arbiter and the Committer tell, and what
// Note is called with, and writes it as one more kind of operation. No request and no commit waits
// for such an operation.

// Events is what a flight recorder needs to know of the world.
type Events struct {
	// Micros is the time of day, in microseconds since 1970.
	Micros func() int64
	// Temperature is that of the backing disk in °C, if it is known. It must not block.
	Temperature func() (celsius int8, known bool)
}

// Note notes an event. The time and the temperature are filled in.
func (c *Coordinator) Note(e metadata.Event) {
	c.record(&e)
	c.pump()
}

// record notes an event; the caller calls pump. Once a stop or a leave has waited for the last
// writes, no event is taken: nothing would wait for its write.
func (c *Coordinator) record(e *metadata.Event) {
	if c.recorder == nil || c.eventsEnded {
		return
	}
	c.stamp(e)
	c.recorder.Note(e, c.drv.Now())
}

// stamp fills in the time and the temperature of an event.
func (c *Coordinator) stamp(e *metadata.Event) {
	e.Micros = c.events.Micros()
	if c.events.Temperature != nil {
		e.Temperature, e.HasTemperature = c.events.Temperature()
	}
}

// AppendEvents appends encoded events from a number on, at most limit of them, as
// metadata.AppendEvents reads them. first is the number of the first one, and next is the number
// of the next event to come. kept is false if the set has no flight recorder.
func (c *Coordinator) AppendEvents(dst []byte, from uint64, limit int) (events []byte, first,
	next uint64, kept bool) {
	if c.recorder == nil {
		return dst, 0, 0, false
	}
	events, first = c.recorder.Events(dst, from, limit)
	return events, first, c.recorder.EventNumber(), true
}

// EventsOff says why the flight recorder writes nothing until the next start; nil: it does, or
// there is none. It wraps metadata.ErrPath. It may be called before Open.
func (c *Coordinator) EventsOff() error {
	if c.recorder == nil {
		return nil
	}
	return c.recorder.Err()
}

// EventsDue is when Tick must be called for the flight recorder; 0: it need not be. It is separate
// from Deadline, because nothing waits for it.
func (c *Coordinator) EventsDue() int64 {
	if c.recorder == nil {
		return 0
	}
	return sooner(c.recorder.Due(), c.gathered.due)
}

// EventsDurable is the number of the newest event that is on a disk, as far as this start knows.
func (c *Coordinator) EventsDurable() uint64 {
	if c.recorder == nil {
		return 0
	}
	return c.recorder.Durable()
}

// beginEvents allows writes, once the epoch is raised.
func (c *Coordinator) beginEvents() {
	if c.recorder != nil {
		c.recorder.Begin(c.com.Status().Epoch, c.drv.Now())
	}
}

// tickEvents tells what was left out of floods.
func (c *Coordinator) tickEvents(now int64) {
	if c.recorder == nil {
		return
	}
	var like metadata.Event
	c.stamp(&like)
	c.recorder.Settle(&like, now, false)
	if due := c.gathered.due; due != 0 && due <= now {
		c.noteGathered()
	}
}

// pumpEvents begins the writes that are due.
func (c *Coordinator) pumpEvents() {
	if c.recorder == nil || c.eventsEnded {
		return
	}
	for {
		op, ok := c.recorder.Next(c.drv.Now())
		if !ok {
			return
		}
		c.begin(operation{events: true, lane: op.Lane, durable: true, device: op.Device,
			offset: op.Offset, data: op.Data})
	}
}

// eventsWritten takes the end of a write. A flush that failed says nothing of the place.
func (c *Coordinator) eventsWritten(lane int, res int32, unflushed bool) {
	var err error
	switch {
	case unflushed:
		err = metadata.ErrFlush
	case res < 0:
		err = syscall.Errno(-res)
	}
	c.recorder.Done(lane, err, c.drv.Now())
}

// endEvents has everything written at once.
func (c *Coordinator) endEvents() {
	if c.recorder == nil {
		return
	}
	c.noteGathered()
	var like metadata.Event
	c.stamp(&like)
	now := c.drv.Now()
	c.recorder.Settle(&like, now, true)
	c.recorder.Hurry(now)
}

// eventsIdle reports whether an end need not wait for the flight recorder.
func (c *Coordinator) eventsIdle() bool { return c.recorder == nil || c.recorder.Idle() }

// recordAlert notes an alert.
func (c *Coordinator) recordAlert(a remap.Alert) {
	if c.recorder == nil {
		return
	}
	var e metadata.Event
	switch a {
	case remap.AlertTripped:
		e.Kind, e.Done = metadata.EventTripped, tripReasons[c.arbiter.Status().Kind]
	case remap.AlertResumed:
		e.Kind = metadata.EventResumed
	case remap.AlertSpareLow:
		e.Kind, e.Count = metadata.EventSpareLow, uint32(c.arbiter.Status().Free)
	case remap.AlertSpareFull:
		e.Kind = metadata.EventSpareFull
	default:
		return
	}
	c.record(&e)
}

var tripReasons = [...]metadata.EventDone{
	remap.TripPath: metadata.EventTripPath, remap.TripMissing: metadata.EventTripMissing,
	remap.TripMedia: metadata.EventTripMedia, remap.TripBudget: metadata.EventTripBudget,
	remap.TripMetadata: metadata.EventTripMetadata,
}

// recordFlush notes that a flush failed.
func (c *Coordinator) recordFlush(device uint8, errno int32) {
	c.record(&metadata.Event{Kind: metadata.EventFlushFailed, Device: device,
		Errno: uint16(errno)})
}

// recordRetest notes the end of a retest.
func (c *Coordinator) recordRetest(p *RetestProgress) {
	e := metadata.Event{Kind: metadata.EventRetest, Done: metadata.EventRetested,
		Count: uint32(min(p.Home, math.MaxUint32)), Detail: p.Found}
	switch {
	case errors.Is(p.Err, ErrRetestEnded):
		e.Done = metadata.EventEnded
	case p.Err != nil:
		e.Done = metadata.EventFailed
	}
	c.record(&e)
}

// recordScrub notes what became of a pass of the scrub.
func (c *Coordinator) recordScrub(done metadata.EventDone) {
	n := &c.scrub.now
	c.record(&metadata.Event{Kind: metadata.EventScrub, Done: done,
		Count:  n.Unreadable + n.Weak + n.Slow,
		Detail: uint64(n.Unreadable) | uint64(n.Weak)<<32})
}

// recordMove returns done, with a note of what the move did.
func (c *Coordinator) recordMove(m remap.Move,
	done func(remap.MoveResult)) func(remap.MoveResult) {
	if c.recorder == nil {
		return done
	}
	began := c.drv.Now()
	e := metadata.Event{Kind: metadata.EventMoved, Done: metadata.EventToHome, HasBlock: true,
		Block: m.Block, HasLatency: true}
	switch {
	case m.Fill != nil:
		zeroes := allZero(m.Fill.Data)
		return func(r remap.MoveResult) {
			c.gatherFill(&m, zeroes, &r)
			done(r)
		}
	case m.Retest:
		e.Done = metadata.EventWell
	case m.ToSpare:
		e.Done = metadata.EventToSpare
	}
	return func(r remap.MoveResult) {
		if e.Count = uint32(r.Moved); e.Count > 0 {
			e.Latency = metadata.Micros(time.Duration(c.drv.Now() - began))
			c.record(&e)
		}
		done(r)
	}
}
