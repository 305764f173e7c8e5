package page

import (
	"slices"
	"time"

	"ublkremap/internal/control"
	"ublkremap/internal/health"
	"ublkremap/internal/recorder"
)

const (
	samples   = 360  // of the history of rates
	maxEvents = 100  // that are shown
	maxBad    = 2048 // places that the disk failed, for the rate
	// sampleEvery is how far apart samples of the history are at least.
	sampleEvery = 5 * time.Second
)

// device is what is known of a device. Page.mu guards it.
type device struct {
	st       *control.Status
	final    bool      // there is no server to ask
	listed   bool      // it was in the newest list
	asked    time.Time // when the open question was asked; zero: there is none
	answered time.Time // the last answer; zero: there was none
	failed   error     // of the last question, if there was no answer

	told told // the last figures: all that is known once its server is dead

	history []sample // oldest first

	latencies *control.Latencies
	scrub     *control.ScrubStatus
	scrubAt   time.Time

	events []Event // the newest ones, oldest first
	first  time.Time
	// bad is oldest first. A Count of 0 is a heal of blocks that are there already.
	bad      []health.Bad
	place    recorder.Place // the newest event
	eventsOf eventsKey
	eventsAt time.Time
	noEvents error // of the last question

	watched time.Time // when somebody looked at its own page last
}

// told are the figures of the last answer; none came if at is zero.
type told struct {
	at                         time.Time
	free, total, pending, lost uint64
}

// sample is the counters of a moment.
type sample struct {
	at                          time.Time
	read, write, heals, errored uint64
}

// eventsKey changes with what the flight recorder notes, most of the time.
type eventsKey struct {
	sequence, remaps, pending, lost, heals, errored uint64
	pid                                             int
	scrub                                           string
}

func eventsKeyOf(st *control.Status) eventsKey {
	return eventsKey{st.Metadata.Sequence, st.Remaps, st.Pending, st.Lost, heals(st), errored(st),
		st.ServerPID, st.Scrub.State}
}

func heals(st *control.Status) uint64 { return st.Heals.Writes + st.Heals.Reads }

func errored(st *control.Status) uint64 {
	return st.Errors.Read + st.Errors.Write + st.Errors.Flush + st.Errors.Transport
}

// answer takes a new status in.
func (d *device) answer(st *control.Status, now time.Time) {
	d.st, d.asked, d.answered, d.failed = st, time.Time{}, now, nil
	d.figures(st, now)
}

// figures takes in what a status has of them.
func (d *device) figures(st *control.Status, now time.Time) {
	if st.HasFigures() {
		d.told = told{now, st.Spare.Free, st.Spare.Total, st.Pending, st.Lost}
		d.sample(st, now)
	}
}

// sample adds to the history of rates.
func (d *device) sample(st *control.Status, now time.Time) {
	if n := len(d.history); n > 0 && now.Sub(d.history[n-1].at) < sampleEvery {
		return
	}
	d.history = append(d.history, sample{now, st.IO.ReadBytes, st.IO.WriteBytes, heals(st),
		errored(st)})
	if n := len(d.history) - samples; n > 0 {
		d.history = append(d.history[:0], d.history[n:]...)
	}
}

// late returns for how long a device has not answered; 0 if it does.
func (d *device) late(now time.Time) time.Duration {
	if d.asked.IsZero() || now.Sub(d.asked) < lateAfter {
		return 0
	}
	return now.Sub(d.asked)
}

// forgetEvents is for a recorder that has others: the last events of a server that crashed may not
// be on the disk.
func (d *device) forgetEvents() { d.events, d.bad, d.first = nil, nil, time.Time{} }

// addEvents takes new events in.
func (d *device) addEvents(list []Event) {
	for _, e := range list {
		if d.first.IsZero() {
			d.first = e.Time
		}
		d.events = append(d.events, e)
		d.addBad(&e)
	}
	if n := len(d.events) - maxEvents; n > 0 {
		d.events = append(d.events[:0], d.events[n:]...)
	}
}

// addBad notes an event if it tells of a place that the disk failed.
func (d *device) addBad(e *Event) {
	b := health.Bad{Block: e.Block, Count: uint64(e.Count), At: e.Time}
	switch {
	case e.What == "thinned" && e.Of == "remap":
		b.Spares = uint64(e.Count) // so many events, of at least one unit each
	case !health.ByDisk(e.Cause):
		return
	case e.What == "remap":
		perUnit := uint64(max(unitBytes/max(d.st.BlockSize, 1), 1))
		b.Spares = (uint64(e.Count) + perUnit - 1) / perUnit
		if e.Errno == "" && d.hasFailed(e.Block) {
			b.Count = 0 // it heals what failed before
		}
	case e.What != "pending":
		return
	}
	d.bad = append(d.bad, b)
	if n := len(d.bad) - maxBad; n > 0 {
		// What is older than this is not known any more.
		d.first = d.bad[n].At
		d.bad = append(d.bad[:0], d.bad[n:]...)
	}
}

// hasFailed reports whether the disk is known to have failed a block.
func (d *device) hasFailed(block uint64) bool {
	return slices.ContainsFunc(d.bad, func(b health.Bad) bool {
		return block >= b.Block && block-b.Block < b.Count
	})
}

// unitBytes is what spare units hold.
const unitBytes = 4096

// health judges the disk by what its server has seen. No drive is asked. How bad places lie is left
// out (no number of blocks is told): to find a pattern can take seconds of CPU time.
func (d *device) health(now time.Time) health.Report {
	st := d.st
	s := &health.Seen{Tripped: st.Breaker.State == "open", Reason: st.Breaker.Reason,
		TripKind:  string(st.Breaker.Kind),
		BlockSize: st.BlockSize, Pending: st.Pending, Lost: st.Lost,
		SpareFree: st.Spare.Free, Spare: st.Spare.Total, Transport: st.Errors.Transport,
		Bad: d.bad, Since: d.first, Now: now, Unknown: !st.HasFigures()}
	if st.Created != nil && (len(d.events) > 0 && d.events[0].Number == 1 ||
		d.first.IsZero() || st.Created.After(d.first)) {
		s.Since = *st.Created
	}
	return health.Judge(s, nil)
}
