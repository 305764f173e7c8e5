package metadata

import (
	"errors"
	"slices"

	"github.com/google/uuid"
)

// Recorder is the flight recorder of a set that is served: it keeps the newest events in memory and
// writes them to the ring on disk (format_event.go), some time after they happened. Nothing ever
// waits for it, and what it cannot write is lost.
//
// It is sans-I/O, as the Committer is: Next returns writes, and Done takes their results. It keeps
// no clock, starts no goroutine, and is for a single goroutine. Its callers hand in the time, in
// nanoseconds of a monotonic clock. After NewRecorder it allocates nothing.
type Recorder struct {
	set    uuid.UUID
	epoch  uint64 // 0: it must not write yet
	lanes  []eventLane
	unread error // a device could not be reached: it never writes

	// The newest pages: page n lies at n modulo their count. Each begins with a place for its
	// header.
	pages []byte
	heads []eventsPage // count 0: none
	page  uint64       // the one that is being filled, from 1
	next  uint64       // number of the next event

	hurry    bool  // everything is to be written at once
	settleAt int64 // when to tell what was left out; 0: nothing was
	floods   [len(eventNames)]flood
}

// Limits of the recorder. Times are nanoseconds.
const (
	// recorderDelay is how long after an event it is written, so that events that come together are
	// written together.
	recorderDelay = int64(2e9)
	// recorderPause is how long a lane is not written after it failed, at first and at most.
	recorderPause    = int64(15e9)
	recorderPauseMax = int64(600e9)

	// At most floodBurst events of a kind are kept one by one at once, then one each floodEvery.
	// The others are counted, and one event tells their number. So a kind that comes without end
	// fills the smallest ring in some hours.
	floodBurst = 40
	floodEvery = int64(30e9)

	// minEventSlots is the least number of slots of a lane: the page that is being filled is never
	// written over its newest copy.
	minEventSlots = 3
	// maxEventErrors is after how many places that do not read a lane is not read any further,
	// because each may take long to fail.
	maxEventErrors = 3
)

// flood limits the events of a kind.
type flood struct {
	left    int32 // events that may come at once
	since   int64 // when it was last refilled
	omitted uint32
	began   bool
}

// eventSlot is a place for a page.
type eventSlot struct {
	offset int64
	page   eventsPage // count 0: nothing of value
	bad    bool       // it did not take a write
}

// eventLane is one ring. All lanes of a set get the same pages.
type eventLane struct {
	device uint8
	slots  []eventSlot
	buf    []byte     // what is being written
	busy   bool       // a write is under way
	at     int        // the slot that is being written
	doing  eventsPage // what is being written
	page   uint64     // the page that is to be written next, or again
	count  int        // events of it that are durable
	due    int64      // when what is new is to be written
	pause  int64      // the last pause after a failure
	failed bool       // it pauses
}

// RecorderOp is a write of a Recorder. It must be durable at its end. Data must not change until
// Done.
type RecorderOp struct {
	Lane   int // for Done
	Device uint8
	Offset int64
	Data   []byte // one page
}

// NewRecorder reads what the rings of a set hold. It returns nil if the set has no room for one.
// Nothing is written before Begin.
//
// A place whose medium does not read counts as empty. A device that cannot be reached is waited
// for, as in a load. If it does not come back nothing is written until the next start, because what
// was not read may be the newest page: the number of the next event is unknown, and any place may
// hold what is to be kept. Err tells of that.
func NewRecorder(img *Image) *Recorder {
	r := &Recorder{set: img.sb.UUID, page: 1, next: 1}
	most := 0
	for _, l := range eventLanes(img.sb) {
		if len(l.slots) >= minEventSlots {
			l.buf = AlignedBytes(PageSize)
			r.lanes = append(r.lanes, l)
			most = max(most, len(l.slots))
		}
	}
	if len(r.lanes) == 0 {
		return nil
	}
	r.pages, r.heads = AlignedBytes(most*PageSize), make([]eventsPage, most)
	before := pathFailure(img.devs)
	for i := range r.lanes {
		l := &r.lanes[i]
		r.unread = errors.Join(r.unread, readEvents(img.devs[l.device], l, &r.set, r.keep))
	}
	if before == nil {
		clearFailures(img.devs) // a start does not depend on these reads
	}
	r.goOn()
	return r
}

// Err says why nothing is written until the next start; nil: events are written. It wraps ErrPath.
func (r *Recorder) Err() error { return r.unread }

// eventLanes are the rings of a set, empty. A lane may have no slots.
func eventLanes(sb *Superblock) []eventLane {
	lane := func(device uint8, places []int64) eventLane {
		l := eventLane{device: device}
		for _, off := range places {
			l.slots = append(l.slots, eventSlot{offset: off})
		}
		return l
	}
	lanes := []eventLane{lane(0, sb.eventHead(0))}
	if len(sb.Devices) > 1 {
		return append(lanes, lane(1, sb.eventHead(1)))
	}
	return append(lanes, lane(0, sb.eventTail()))
}

// readEvents reads the slots of a lane, and calls f with each page. Its bytes are valid only during
// the call. It ends early if the device cannot be reached: ErrPath.
func readEvents(dev Device, l *eventLane, set *uuid.UUID, f func(eventsPage, []byte)) error {
	b := AlignedBytes(PageSize)
	failed := 0
	for i := range l.slots {
		s := &l.slots[i]
		if s.offset > dev.Size()-PageSize || failed >= maxEventErrors {
			continue
		}
		if _, err := dev.ReadAt(b, s.offset); errors.Is(err, ErrPath) {
			return err
		} else if err != nil {
			failed++
			continue
		}
		if p, ok := decodeEvents(b, set); ok {
			s.page = p
			f(p, b)
		}
	}
	return nil
}

// keep takes a page into memory if it is the newest of its place there.
func (r *Recorder) keep(p eventsPage, b []byte) {
	h := &r.heads[p.number%uint64(len(r.heads))]
	if h.number < p.number || h.number == p.number && p.newerThan(*h) {
		*h = p
		copy(r.pageBytes(p.number), b)
	}
}

func (r *Recorder) pageBytes(number uint64) []byte {
	return r.pages[int(number%uint64(len(r.heads)))*PageSize:][:PageSize]
}

func (r *Recorder) head(number uint64) *eventsPage {
	return &r.heads[number%uint64(len(r.heads))]
}

// goOn finds the page to go on with: the newest.
func (r *Recorder) goOn() {
	for i := range r.heads {
		if h := &r.heads[i]; h.count > 0 && h.number >= r.page {
			r.page, r.next = h.number, h.first+uint64(h.count)
		}
	}
	for i := range r.heads {
		// What something has left behind, of another time.
		if h := &r.heads[i]; h.count > 0 && (h.number+uint64(len(r.heads)) <= r.page ||
			h.first > r.next) {
			*h = eventsPage{}
		}
	}
	if h := r.head(r.page); h.count == eventsPerPage {
		r.page++
		*r.head(r.page) = eventsPage{}
	}
	for i := range r.lanes {
		r.goOnLane(&r.lanes[i])
	}
}

// goOnLane finds the first page that a lane lacks, or has in part, of those that it has room for.
func (r *Recorder) goOnLane(l *eventLane) {
	l.page = r.page + 1 - min(r.page, uint64(len(l.slots)-2))
	for ; l.page < r.page; l.page++ {
		if h := r.head(l.page); h.number == l.page && h.count > 0 && !l.has(*h) {
			return
		}
	}
	if h := r.head(l.page); h.count > 0 && l.has(*h) {
		l.count = h.count
	}
}

// has reports whether a lane has a page as it is in memory.
func (l *eventLane) has(p eventsPage) bool {
	return slices.ContainsFunc(l.slots, func(s eventSlot) bool { return s.page == p })
}

// Begin allows writes, in the name of a start that has raised the epoch.
func (r *Recorder) Begin(epoch uint64, now int64) {
	if r.unread != nil {
		return
	}
	r.epoch = epoch
	r.wake(now)
}

// Note takes an event. Its Number is set. Events of a kind that come in floods are counted, and not
// kept one by one.
func (r *Recorder) Note(e *Event, now int64) {
	if int(e.Kind) < len(r.floods) {
		f := &r.floods[e.Kind]
		if !f.began {
			*f = flood{left: floodBurst, since: now, began: true}
		}
		if n := (now - f.since) / floodEvery; n > 0 {
			f.left = int32(min(int64(f.left)+n, floodBurst))
			f.since += n * floodEvery
		}
		if f.left == 0 {
			f.omitted++
			if r.settleAt == 0 {
				r.settleAt = now + floodEvery
			}
			return
		}
		r.tellOmitted(e.Kind, e)
		f.left--
	}
	r.append(e)
	r.wake(now)
}

// tellOmitted adds an event that tells how many of a kind were left out. like has its time.
func (r *Recorder) tellOmitted(kind EventKind, like *Event) {
	f := &r.floods[kind]
	if f.omitted == 0 {
		return
	}
	r.append(&Event{Micros: like.Micros, Kind: EventThinned, Count: f.omitted, Detail: uint64(kind),
		Temperature: like.Temperature, HasTemperature: like.HasTemperature})
	f.omitted = 0
}

// Settle tells what was left out, if it is time for that, or if all is set. like has the time of
// the event that tells it, and the temperature.
func (r *Recorder) Settle(like *Event, now int64, all bool) {
	if r.settleAt == 0 || now < r.settleAt && !all {
		return
	}
	r.settleAt = 0
	for kind := range r.floods {
		r.tellOmitted(EventKind(kind), like)
	}
	r.wake(now)
}

// append adds an event to the page that is being filled.
func (r *Recorder) append(e *Event) {
	h := r.head(r.page)
	if h.number != r.page || h.count == 0 {
		*h = eventsPage{number: r.page, first: r.next}
		clear(r.pageBytes(r.page))
	}
	e.Number = r.next
	putEvent(r.pageBytes(r.page)[eventsHeader+h.count*eventSize:], e)
	h.count++
	r.next++
	if h.count == eventsPerPage {
		r.page++
		*r.head(r.page) = eventsPage{}
	}
}

// wake has what is new written after a while.
func (r *Recorder) wake(now int64) {
	for i := range r.lanes {
		if l := &r.lanes[i]; l.due == 0 && r.lacks(l) {
			l.due = now + recorderDelay
		}
		if l := &r.lanes[i]; r.hurry && !l.failed && r.lacks(l) {
			l.due = now
		}
	}
}

// Due is when Next and Settle must be called; 0: there is nothing to do.
func (r *Recorder) Due() (due int64) {
	if r.epoch == 0 {
		return 0
	}
	due = r.settleAt
	for i := range r.lanes {
		if l := &r.lanes[i]; !l.busy && l.due != 0 && (due == 0 || l.due < due) {
			due = l.due
		}
	}
	return due
}

// Hurry has everything written at once, because the server ends. A lane that fails is not tried
// again.
func (r *Recorder) Hurry(now int64) {
	r.hurry = true
	r.wake(now)
}

// Idle reports that nothing is being written, and that nothing is left that Hurry has asked for.
func (r *Recorder) Idle() bool {
	for i := range r.lanes {
		if l := &r.lanes[i]; l.busy || r.hurry && r.epoch != 0 && !l.failed && r.lacks(l) {
			return false
		}
	}
	return true
}

// lacks reports whether a lane lacks events. It moves the lane on from pages that are complete, or
// that are no longer kept.
func (r *Recorder) lacks(l *eventLane) bool {
	if n := uint64(len(r.heads)); l.page+n <= r.page {
		l.page, l.count = r.page+1-n, 0
	}
	for l.page < r.page {
		if h := r.head(l.page); h.number == l.page && h.count > l.count {
			return true
		}
		l.page, l.count = l.page+1, 0
	}
	h := r.head(l.page)
	return h.number == l.page && h.count > l.count
}

// Next returns a write that is due, if there is one. Each lane has one under way at most.
func (r *Recorder) Next(now int64) (op RecorderOp, ok bool) {
	if r.epoch == 0 {
		return op, false
	}
	for i := range r.lanes {
		l := &r.lanes[i]
		if l.busy || l.due == 0 || now < l.due {
			continue
		}
		if !r.lacks(l) {
			l.due = 0
			continue
		}
		if l.failed {
			// The pause is over. What was bad may take writes now.
			l.failed = false
			for j := range l.slots {
				l.slots[j].bad = false
			}
		}
		at := l.choose()
		h := *r.head(l.page)
		h.epoch = r.epoch
		copy(l.buf, r.pageBytes(l.page))
		clear(l.buf[eventsHeader+h.count*eventSize:])
		h.encode(l.buf, &r.set)
		l.busy, l.at, l.doing = true, at, h
		return RecorderOp{Lane: i, Device: l.device, Offset: l.slots[at].offset, Data: l.buf}, true
	}
	return op, false
}

// choose picks the slot that is worth least: an empty one, a copy that is superseded, or the oldest
// page. It is never the newest copy of a page that is to be written again, because a write that is
// torn would take that copy with it.
func (l *eventLane) choose() int {
	at, least := -1, uint64(0)
	for i := range l.slots {
		s := &l.slots[i]
		if s.bad {
			continue
		}
		if plantedEventsInPlace && s.page.number == l.page {
			return i
		}
		if w := l.worth(s); at < 0 || w < least {
			at, least = i, w
		}
	}
	return at
}

// worth orders slots: the least is written next.
func (l *eventLane) worth(s *eventSlot) uint64 {
	if s.page.count == 0 {
		return 0
	}
	for i := range l.slots {
		if o := &l.slots[i]; o != s && o.page.count > 0 && o.page.number == s.page.number &&
			o.page.newerThan(s.page) {
			return 0
		}
	}
	return s.page.number
}

// Done takes the result of a write: nil if it is durable.
func (r *Recorder) Done(lane int, err error, now int64) {
	l := &r.lanes[lane]
	l.busy = false
	s := &l.slots[l.at]
	s.page = eventsPage{} // it may be torn
	if err != nil {
		s.bad = true
		l.due = now
		if classOf(err) != ClassMedium || l.spent() {
			l.failed = true
			l.pause = min(max(2*l.pause, recorderPause), recorderPauseMax)
			l.due = now + l.pause
		}
		return
	}
	s.page, l.pause, l.due = l.doing, 0, 0
	if l.page == l.doing.number {
		l.count = l.doing.count
	}
	r.wake(now)
	if l.due != 0 && l.page < r.page {
		l.due = now // that page is complete
	}
}

// spent reports whether so many slots failed that the lane pauses. Two slots are always left: one
// for the newest copy of a page, and one for the next.
func (l *eventLane) spent() bool {
	bad := 0
	for i := range l.slots {
		if l.slots[i].bad {
			bad++
		}
	}
	return bad%4 == 0 || len(l.slots)-bad < 2
}

// Events appends encoded events to dst, as AppendEvents takes them: those that are kept, from
// number from on, at most limit of them. first is the number of the first one. It allocates only
// for dst.
func (r *Recorder) Events(dst []byte, from uint64, limit int) (events []byte, first uint64) {
	n := uint64(len(r.heads))
	oldest := uint64(1)
	if r.page >= n {
		oldest = r.page + 1 - n
	}
	for page := oldest; page <= r.page && limit > 0; page++ {
		h := r.head(page)
		if h.number != page || h.count == 0 || h.first+uint64(h.count) <= from {
			continue
		}
		skip := 0
		if from > h.first {
			skip = int(from - h.first)
		}
		if first == 0 {
			first = h.first + uint64(skip)
		} else if h.first != first+uint64(len(dst)/eventSize) {
			break // a page is missing in between: the next call begins behind it
		}
		take := min(h.count-skip, limit)
		dst = append(dst, r.pageBytes(page)[eventsHeader+skip*eventSize:][:take*eventSize]...)
		limit -= take
	}
	return dst, first
}

// Durable is the number of the newest event that is on a disk, as far as this start knows; 0: of
// none.
func (r *Recorder) Durable() (number uint64) {
	for i := range r.lanes {
		l := &r.lanes[i]
		for j := range l.slots {
			if p := l.slots[j].page; p.epoch == r.epoch && p.count > 0 && !(l.busy && l.at == j) {
				number = max(number, p.first+uint64(p.count)-1)
			}
		}
	}
	return number
}

// EventNumber is the number that the next event gets.
func (r *Recorder) EventNumber() uint64 { return r.next }

// EventsOn reads the events that devices of a set hold, oldest first. Each device is read by
// itself, so that a set whose backing has died can be asked by its spare device. Devices without a
// superblock are left out; if none has one the error is that of Probe for the first.
func EventsOn(devs []Device) ([]Event, error) {
	var first error
	var c eventCollector
	for _, d := range devs {
		sb, err := Probe(d)
		if sb == nil {
			first = errors.Join(first, err)
			continue
		}
		c.device(unwrapped(d), sb)
	}
	if !c.seen {
		return nil, first
	}
	return c.events(), nil
}

// eventCollector gathers the pages of several devices.
type eventCollector struct {
	seen  bool
	pages map[uint64]collectedPage
}

type collectedPage struct {
	eventsPage
	data []byte
}

// device adds the pages on a device.
func (c *eventCollector) device(dev Device, sb *Superblock) {
	c.seen = true
	if c.pages == nil {
		c.pages = map[uint64]collectedPage{}
	}
	if _, err := newLayout(sb); err != nil {
		return // its offsets are of no use
	}
	for _, l := range eventLanes(sb) {
		if l.device != sb.DeviceIndex {
			continue
		}
		// What does not read is left out, whatever the reason.
		_ = readEvents(dev, &l, &sb.UUID, func(p eventsPage, b []byte) {
			if old, has := c.pages[p.number]; !has || p.newerThan(old.eventsPage) {
				c.pages[p.number] = collectedPage{p, slices.Clone(eventsOf(b, p.count))}
			}
		})
	}
}

// events returns all of them, in order.
func (c *eventCollector) events() []Event {
	numbers := make([]uint64, 0, len(c.pages))
	for n := range c.pages {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	out := []Event{}
	for _, n := range numbers {
		p := c.pages[n]
		out = AppendEvents(out, p.data, p.first)
	}
	return out
}
