package metadata

import (
	"encoding/json"
	"fmt"
	"math"
	"time"
)

// EventKind says what happened. The values are frozen with format version 4; a later version may
// add some.
type EventKind uint16

const (
	EventStart       EventKind = 1  // served from here on; Detail: the number of the device
	EventRecovery    EventKind = 2  // as EventStart, for the device of a server that died
	EventStop        EventKind = 3  // stopped in order
	EventLeave       EventKind = 4  // given up to another server: an upgrade
	EventRemap       EventKind = 5  // blocks live in the spare region; Detail: first spare unit
	EventPending     EventKind = 6  // blocks cannot be read; Done: the Cause
	EventMoved       EventKind = 7  // blocks were relocated; Done: EventToSpare, EventToHome, …
	EventUnknown     EventKind = 8  // a commit whose outcome is not known
	EventRetired     EventKind = 9  // a spare unit is out of service; Detail: which
	EventHealFailed  EventKind = 10 // a heal ended without a remap
	EventTripped     EventKind = 11 // the breaker opened; Done: the reason
	EventResumed     EventKind = 12 // the breaker closed
	EventFlushFailed EventKind = 13 // a flush of Device failed
	EventMirror      EventKind = 14 // a mirror on Device changed; Detail: its offset
	EventSpareLow    EventKind = 15 // Count: free spare units
	EventSpareFull   EventKind = 16
	EventTable       EventKind = 17 // Count: entries that the table may have; Done: its growth
	EventErrors      EventKind = 18 // Count: operations that failed for the path to the disk
	EventHang        EventKind = 19 // I/O of a disk does not come back; Done: begun or finished
	EventScrub       EventKind = 20 // Count: what was found
	EventRetest      EventKind = 21 // Count: blocks that are well again
	EventFill        EventKind = 22 // Count: blocks that were written from a backup
	EventImport      EventKind = 23 // Count: blocks of another tool's list
	EventDrill       EventKind = 24 // a rehearsal on reserved units
	EventThinned     EventKind = 25 // Count: events left out; Detail: their EventKind
	EventRetriedRead EventKind = 26 // Count: reads that succeeded when they were tried again
)

var eventNames = [...]string{
	EventStart: "start", EventRecovery: "recovery", EventStop: "stop", EventLeave: "leave",
	EventRemap: "remap", EventPending: "pending", EventMoved: "moved", EventUnknown: "unknown",
	EventRetired: "retired", EventHealFailed: "heal-failed", EventTripped: "tripped",
	EventResumed: "resumed", EventFlushFailed: "flush-failed", EventMirror: "mirror",
	EventSpareLow: "spare-low", EventSpareFull: "spare-full", EventTable: "table",
	EventErrors: "errors", EventHang: "hang", EventScrub: "scrub", EventRetest: "retest",
	EventFill: "fill", EventImport: "import", EventDrill: "drill", EventThinned: "thinned",
	EventRetriedRead: "retried-read",
}

// String returns the name that the command's JSON uses.
func (k EventKind) String() string {
	if int(k) < len(eventNames) && eventNames[k] != "" {
		return eventNames[k]
	}
	return fmt.Sprintf("event(%d)", uint16(k))
}

// EventDone says what was done. The values are frozen with format version 4; a later version may
// add some. Their meaning depends on the kind of the event: EventTripped has values of its own, and
// EventPending and EventRemap have the Cause.
type EventDone uint8

const (
	EventNothing  EventDone = 0
	EventBegun    EventDone = 1
	EventFinished EventDone = 2
	EventPaused   EventDone = 3
	EventGoesOn   EventDone = 4
	EventEnded    EventDone = 5 // before its end, because somebody asked for it
	EventFailed   EventDone = 6
	EventToSpare  EventDone = 7
	EventToHome   EventDone = 8
	EventWell     EventDone = 9 // blocks that were pending read again
	EventGood     EventDone = 10
	EventWeak     EventDone = 11
	EventStale    EventDone = 12
	EventNoRoom   EventDone = 13
	EventPassed   EventDone = 14
	EventFound    EventDone = 15 // Count blocks, which are dealt with from now on
	// A pass of the scrub has ended. Count: blocks that were found; Detail: the unreadable ones of
	// them in the lower 32 bits, the weak ones in the upper ones. The others are slow.
	EventScrubbed EventDone = 16
	EventRetested EventDone = 17 // a retest has ended; Detail: blocks that were tested
	EventImported EventDone = 18 // an import has ended; Detail: blocks of the list
	EventFilled   EventDone = 19 // a fill has ended; Detail: bad blocks that it has met
	EventZeroed   EventDone = 20 // as EventFilled, and all of its data were zeroes
)

// Reasons of EventTripped; frozen with format version 4.
const (
	EventTripPath     EventDone = 0
	EventTripMissing  EventDone = 1
	EventTripMedia    EventDone = 2
	EventTripBudget   EventDone = 3
	EventTripMetadata EventDone = 4
)

var tripTexts = [...]string{
	EventTripPath:     "remapping stopped: the path to a device fails",
	EventTripMissing:  "remapping stopped: a device is missing",
	EventTripMedia:    "remapping stopped: no spare unit that was tried holds data",
	EventTripBudget:   "remapping stopped: blocks went bad faster than the budget allows",
	EventTripMetadata: "remapping stopped: the metadata takes no commit",
}

var doneTexts = [...]string{
	EventBegun: "begun", EventFinished: "finished", EventPaused: "paused", EventGoesOn: "goes on",
	EventEnded: "ended before its end", EventFailed: "failed",
	EventToSpare: "moved to the spare region", EventToHome: "moved home",
	EventWell: "no longer pending, they read again", EventGood: "whole",
	EventWeak:  "incomplete, and is being completed",
	EventStale: "behind, because it could not be written; it will be rebuilt",
	// of the table
	EventNoRoom: "the disk has no room for a larger one", EventPassed: "passed",
	EventFound: "found, and noted",
}

// String returns the words for it.
func (d EventDone) String() string {
	if int(d) < len(doneTexts) {
		return doneTexts[d]
	}
	return fmt.Sprintf("done(%d)", uint8(d))
}

// Text says in words what was done.
func (e *Event) Text() string {
	if e.Done >= EventScrubbed && e.Done <= EventZeroed {
		return e.countsText()
	}
	switch e.Kind {
	case EventStart:
		return fmt.Sprintf("served as /dev/ublkb%d", e.Detail)
	case EventRecovery:
		return fmt.Sprintf("/dev/ublkb%d was taken over from a server that died", e.Detail)
	case EventStop:
		return "stopped"
	case EventLeave:
		return "given up to another server"
	case EventRemap:
		return fmt.Sprintf("remapped to the spare region, from unit %d on; cause: %s", e.Detail,
			Cause(e.Done))
	case EventPending:
		return fmt.Sprintf("noted as pending; cause: %s", Cause(e.Done))
	case EventUnknown:
		return "nothing is known of what became of the commit"
	case EventRetired:
		return fmt.Sprintf("spare unit %d is not used again", e.Detail)
	case EventHealFailed:
		return "answered with the error, not remapped"
	case EventTripped:
		if int(e.Done) < len(tripTexts) {
			return tripTexts[e.Done]
		}
		return fmt.Sprintf("remapping stopped: reason %d", e.Done)
	case EventResumed:
		return "remapping goes on"
	case EventThinned:
		return fmt.Sprintf("%d more %s events are not listed one by one", e.Count,
			EventKind(e.Detail))
	}
	return e.deviceText()
}

// deviceText is Text for events about a device, and for those that count something.
func (e *Event) deviceText() string {
	switch e.Kind {
	case EventFlushFailed:
		return fmt.Sprintf("a flush of %s failed; the next flush of a user fails", e.deviceName())
	case EventMirror:
		return fmt.Sprintf("the mirror of %s at %d is %s", e.deviceName(), e.Detail, e.Done)
	case EventSpareLow:
		return fmt.Sprintf("%d spare units are free", e.Count)
	case EventSpareFull:
		return "no spare unit is free"
	case EventTable:
		if e.Done == EventNoRoom {
			return e.Done.String()
		}
		return fmt.Sprintf("the table has room for %d entries", e.Count)
	case EventErrors:
		return fmt.Sprintf("%d operations failed, not for the medium", e.Count)
	case EventRetriedRead:
		return fmt.Sprintf("%d reads succeeded when they were tried again", e.Count)
	case EventHang:
		if e.Done == EventFinished {
			return "I/O comes back again"
		}
		return "I/O does not come back"
	}
	return e.Done.String()
}

// deviceName is a device of the set in words.
func (e *Event) deviceName() string {
	if e.Device == 0 {
		return "the backing disk"
	}
	return fmt.Sprintf("spare device %d", e.Device)
}

// countsText is Text for operations that tell what they have found.
func (e *Event) countsText() string {
	switch {
	case e.Done == EventRetested:
		return fmt.Sprintf("finished: %d of %d blocks are well, and home again", e.Count, e.Detail)
	case e.Done == EventImported:
		return fmt.Sprintf("finished: %d of %d blocks were not known", e.Count, e.Detail)
	case e.Done == EventFilled:
		return fmt.Sprintf("finished: %d of %d bad blocks were filled", e.Count, e.Detail)
	case e.Done == EventZeroed:
		return fmt.Sprintf("finished: %d of %d bad blocks were filled with zeroes", e.Count,
			e.Detail)
	case e.Count == 0:
		return "finished: nothing was found"
	}
	unreadable, weak := uint32(e.Detail), uint32(e.Detail>>32)
	return fmt.Sprintf("finished: %d blocks unreadable, %d weak, %d slow", unreadable, weak,
		e.Count-unreadable-weak)
}

// Time is when it happened, in UTC.
func (e *Event) Time() time.Time { return time.UnixMicro(e.Micros).UTC() }

// MarshalJSON makes the object that `events --json` prints: what is not known is null.
func (e Event) MarshalJSON() ([]byte, error) {
	row := struct {
		Time        string  `json:"time"`
		What        string  `json:"what"`
		Block       *uint64 `json:"block"`
		Count       uint32  `json:"count"`
		Errno       *uint16 `json:"errno"`
		Latency     *uint32 `json:"latency_us"`
		Done        string  `json:"done"`
		Temperature *int8   `json:"temperature"`
	}{Time: "", What: e.Kind.String(), Count: e.Count, Done: e.Text()}
	row.Time = e.Time().Format("2006-01-02T15:04:05.000Z07:00")
	if e.HasBlock {
		row.Block = &e.Block
	}
	if e.Errno != 0 {
		row.Errno = &e.Errno
	}
	if e.HasLatency {
		row.Latency = &e.Latency
	}
	if e.HasTemperature {
		row.Temperature = &e.Temperature
	}
	return json.Marshal(row)
}

// Micros is a duration as events have it: in microseconds, and the most that fits if it is longer.
func Micros(d time.Duration) uint32 {
	return uint32(min(max(d.Microseconds(), 0), math.MaxUint32))
}
