package metadata

import (
	"slices"

	"github.com/google/uuid"
)

// This file is the flight recorder on disk: a ring of pages with what happened to a set. It lies
// between the superblocks, where every set of version 4 has room and nothing else ever lies. It is
// no part of the remap table: a set is what it is without it.
//
//	0            32K          64K           128K
//	| superblock | pages | (superblock) | pages | superblock | pages   | regions …
//
// A page is written to one slot, whole, and its checksum says whether that went well. The page that
// is still being filled is written again with more events, always to another slot than the last
// time: a write that is torn damages only a copy that is superseded, or the oldest page.

// magicEvents is "BLKRMPE4"; frozen with format version 4.
const magicEvents = 0x3445_504d_524b_4c42

// compatEvents is the feature bit of a set that has a flight recorder. A version that does not know
// it neither reads nor writes those places.
const compatEvents uint32 = 16

// Offsets in a page of events, and in an event; frozen with format version 4.
const (
	eventsCountAt = wordAt
	eventsPageAt  = bodyAt // number of the page, from 1
	eventsFirstAt = 48     // number of the first event, from 1
	eventsEpochAt = 56     // of the start that wrote the page
	eventsHeader  = 64     // the events follow

	eventSize          = 40
	eventTimeAt        = 0 // microseconds since 1970
	eventBlockAt       = 8
	eventDetailAt      = 16
	eventCountAt       = 24
	eventLatencyAt     = 28 // microseconds
	eventKindAt        = 32
	eventErrnoAt       = 34
	eventDeviceAt      = 36
	eventTemperatureAt = 37
	eventDoneAt        = 38
	eventFlagsAt       = 39

	// The flags say which fields are known.
	eventHasBlock       = 1
	eventHasLatency     = 2
	eventHasTemperature = 4

	// eventsPerPage is how many events a page holds.
	eventsPerPage = (PageSize - eventsHeader) / eventSize // 100
)

// Event is something that happened to a set, as the flight recorder keeps it.
type Event struct {
	Number  uint64 // counts the events of the set, from 1
	Micros  int64  // microseconds since 1970
	Kind    EventKind
	Done    EventDone // what was done; its meaning depends on Kind
	Errno   uint16    // positive; 0: there was no error, or none is known
	Device  uint8     // index into Layout.Devices, where the kind is about one
	Block   uint64    // first exported block; only with HasBlock
	Count   uint32    // blocks, or what the kind counts
	Detail  uint64    // its meaning depends on Kind
	Latency uint32    // microseconds until it was done; only with HasLatency
	// Temperature of the backing disk in °C; only with HasTemperature.
	Temperature                          int8
	HasBlock, HasLatency, HasTemperature bool
}

func putEvent(b []byte, e *Event) {
	_ = b[eventSize-1]
	le.PutUint64(b[eventTimeAt:], uint64(e.Micros))
	le.PutUint64(b[eventBlockAt:], e.Block)
	le.PutUint64(b[eventDetailAt:], e.Detail)
	le.PutUint32(b[eventCountAt:], e.Count)
	le.PutUint32(b[eventLatencyAt:], e.Latency)
	le.PutUint16(b[eventKindAt:], uint16(e.Kind))
	le.PutUint16(b[eventErrnoAt:], e.Errno)
	var flags byte
	for _, f := range [...]struct {
		has bool
		bit byte
	}{{e.HasBlock, eventHasBlock}, {e.HasLatency, eventHasLatency},
		{e.HasTemperature, eventHasTemperature}} {
		if f.has {
			flags |= f.bit
		}
	}
	b[eventDeviceAt], b[eventTemperatureAt] = e.Device, byte(e.Temperature)
	b[eventDoneAt], b[eventFlagsAt] = byte(e.Done), flags
}

// getEvent reads an event. Every 40 bytes are one: kinds that this version does not know have a
// number in place of a name.
func getEvent(b []byte, number uint64) Event {
	_ = b[eventSize-1]
	flags := b[eventFlagsAt]
	return Event{
		Number: number, Micros: int64(le.Uint64(b[eventTimeAt:])),
		Block: le.Uint64(b[eventBlockAt:]), Detail: le.Uint64(b[eventDetailAt:]),
		Count: le.Uint32(b[eventCountAt:]), Latency: le.Uint32(b[eventLatencyAt:]),
		Kind: EventKind(le.Uint16(b[eventKindAt:])), Errno: le.Uint16(b[eventErrnoAt:]),
		Device: b[eventDeviceAt], Temperature: int8(b[eventTemperatureAt]),
		Done: EventDone(b[eventDoneAt]), HasBlock: flags&eventHasBlock != 0,
		HasLatency: flags&eventHasLatency != 0, HasTemperature: flags&eventHasTemperature != 0,
	}
}

// AppendEvents decodes events that were encoded one after the other, the first of which has that
// number. It ignores a rest that is shorter than an event.
func AppendEvents(dst []Event, b []byte, first uint64) []Event {
	for ; len(b) >= eventSize; b = b[eventSize:] {
		dst = append(dst, getEvent(b, first))
		first++
	}
	return dst
}

// eventsPage is what the header of a page says.
type eventsPage struct {
	number, first, epoch uint64
	count                int
}

// newerThan orders copies of one page.
func (p eventsPage) newerThan(q eventsPage) bool {
	return p.epoch > q.epoch || p.epoch == q.epoch && p.count > q.count
}

// encode writes the header and the checksum around the events that are in b.
func (p eventsPage) encode(b []byte, set *uuid.UUID) {
	clear(b[:eventsHeader])
	putHead(b, magicEvents, uint32(p.count), set)
	le.PutUint64(b[eventsPageAt:], p.number)
	le.PutUint64(b[eventsFirstAt:], p.first)
	le.PutUint64(b[eventsEpochAt:], p.epoch)
	seal(b)
}

// maxEventNumber keeps numbers of pages and of events from wrapping around.
const maxEventNumber = 1 << 62

// decodeEvents reports whether b holds a page of events of that set.
func decodeEvents(b []byte, set *uuid.UUID) (p eventsPage, ok bool) {
	if !sealed(b, magicEvents) || !ofSet(b, set) || le.Uint32(b[versionAt:]) != Version {
		return eventsPage{}, false
	}
	n := le.Uint32(b[eventsCountAt:])
	p = eventsPage{number: le.Uint64(b[eventsPageAt:]), first: le.Uint64(b[eventsFirstAt:]),
		epoch: le.Uint64(b[eventsEpochAt:]), count: int(n)}
	if n == 0 || n > eventsPerPage || p.number == 0 || p.number > maxEventNumber || p.first == 0 ||
		p.first > maxEventNumber || p.epoch > maxEpoch {
		return eventsPage{}, false
	}
	return p, true
}

// eventsOf returns the bytes of the events of a page.
func eventsOf(b []byte, count int) []byte { return b[eventsHeader:][:count*eventSize] }

// eventHead are the slots between the superblocks at the start of a device. There are none where an
// atom reaches from one superblock to the next.
func (sb *Superblock) eventHead(device uint8) []int64 {
	return sb.eventGaps(device, 0, RegionStart)
}

// eventTail are the slots behind the superblock at the end of the backing, in a set without a spare
// device.
func (sb *Superblock) eventTail() []int64 {
	if len(sb.Devices) > 1 || !sb.hasTail() || sb.TailStart != 0 {
		return nil
	}
	size := roundDown(sb.Devices[0].Size, PageSize)
	return sb.eventGaps(0, tailSuperblock(size), size)
}

// eventGaps are the slots between two offsets of a device. A slot takes an atom, and shares none
// with a superblock. Places where a later version of a set may get another superblock stay free.
func (sb *Superblock) eventGaps(device uint8, from, to int64) (places []int64) {
	atom := max(int64(sb.AtomSize), PageSize)
	taken := slices.Clone(sb.copies(device))
	taken = append(taken, SuperblockStride, thirdSuperblock(atom), 0,
		tailSuperblock(sb.Devices[device].Size)+fourthStride)
	for at := roundUp(from, atom); at+atom <= to; at += atom {
		if !slices.ContainsFunc(taken, func(off int64) bool {
			return off < at+atom && at < off+PageSize
		}) {
			places = append(places, at)
		}
	}
	return places
}
