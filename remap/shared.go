package remap

import (
	"sync/atomic"
	"time"
	"unsafe"
)

// MaxDevices is how many devices a set may have: the backing disk and its
// spare devices.
const MaxDevices = 16

// Shared is what all queues of a device share. It is safe for concurrent use.
type Shared struct {
	// Every queue reads these for each request, and nothing changes them.
	geo Geometry
	m   *Map
	_   [cacheLine]byte

	tripped atomic.Bool
	// checkRequested has a bit for each device whose check an engine requested and the
	// arbiter has not done, or has found it missing.
	checkRequested atomic.Uint32
	// written counts writes that were acknowledged from a spare device
	// without FUA; flushed is the count that the last good flush covered. The
	// backing disk is flushed always and is not counted: the count would be
	// one line of memory that every queue writes to.
	written [MaxDevices]atomic.Uint64
	flushed [MaxDevices]atomic.Uint64
	// slowly is when an operation of each device last took long to fail: monotonic ns, 0 for never.
	slowly   [MaxDevices]atomic.Int64
	recent   failures
	queues   counterList // of the user's requests
	internal counterList // of internal requests
	// failures counts the failed flushes of all devices, and reported is how many of them
	// flushes of the user have reported.
	failures, reported atomic.Uint64
	flushes            flushes
}

// NewShared returns the state that the engines and the arbiter of one device
// share. Every device starts out dirty: what a dead server wrote and did not
// flush must be covered by the first flush.
func NewShared(geo Geometry, m *Map) *Shared {
	s := &Shared{geo: geo, m: m}
	for i := range s.written {
		s.written[i].Store(1)
	}
	return s
}

// Geometry returns the device's geometry. The caller must not change it.
func (s *Shared) Geometry() *Geometry { return &s.geo }

// Map returns the device's map.
func (s *Shared) Map() *Map { return s.m }

// Tripped reports whether the breaker is open: nothing is remapped.
func (s *Shared) Tripped() bool { return s.tripped.Load() }

// requestCheck reports whether a check of a device is not yet requested since the last one:
// then the engine sends MsgCheckDevice.
func (s *Shared) requestCheck(device uint8) bool {
	bit := uint32(1) << device
	return s.checkRequested.Load()&bit == 0 && s.checkRequested.Or(bit)&bit == 0
}

// slowFor is how long a device is known for slow failures after the last one.
const slowFor = int64(10 * time.Minute)

// slow reports whether a device took long to fail, the last times.
func (s *Shared) slow(device uint8, now int64) bool {
	at := s.slowly[device].Load()
	return at != 0 && now-at < slowFor
}

// dirty reports whether a device may hold acknowledged writes that no flush
// covered, and the count to be covered.
func (s *Shared) dirty(device uint8) (upto uint64, dirty bool) {
	upto = s.written[device].Load()
	return upto, device == 0 || s.flushed[device].Load() < upto
}

// flushedTo records that a flush that began at count upto succeeded.
func (s *Shared) flushedTo(device uint8, upto uint64) {
	for {
		old := s.flushed[device].Load()
		if old >= upto || s.flushed[device].CompareAndSwap(old, upto) {
			return
		}
	}
}

// Counters are sums over all queues since the server started.
type Counters struct {
	// requests finished, write-zeroes among the writes
	Reads, Writes, Flushes, Discards                      uint64
	ReadBytes, WriteBytes                                 uint64 // of requests that succeeded
	ReadErrors, WriteErrors, FlushErrors, TransportErrors uint64 // failed operations on the devices
	HealedWrites, HealedReads, FailedHeals                uint64 // requests
	// reads answered without a new try of blocks that failed a moment ago
	FailedFast uint64
	// reads that failed, and what failed could not be noted as pending
	NotNoted uint64
}

// counters is one queue's share. The engine counts in a plain Counters of its
// own and publishes it at the end of each batch, so that counting costs the hot
// path no locked instruction.
type counters struct {
	v [counterFields]atomic.Uint64
	// ages is rarely written.
	ages queueAges
	// This keeps two queues' counters off one cache line.
	_ [cacheLine - (counterFields*8+unsafe.Sizeof(queueAges{}))%cacheLine]byte
}

// counterFields is how many fields Counters has.
const counterFields = 15

var _ [counterFields * 8]byte = [unsafe.Sizeof(Counters{})]byte{}

// values are the fields, in their order.
func (c *Counters) values() *[counterFields]uint64 {
	return (*[counterFields]uint64)(unsafe.Pointer(c)) // nothing but uint64s, as many
}

// counterList is the published counters of all queues.
type counterList struct {
	list atomic.Pointer[[]*counters]
}

// Counters returns the sums over the user's requests as last published by each queue.
func (s *Shared) Counters() Counters { return s.queues.sum() }

// InternalCounters is Counters for internal requests: Reads are those that finished, ReadBytes
// what they have read, HealedReads those of which something failed and all was read in the end.
func (s *Shared) InternalCounters() Counters { return s.internal.sum() }

func (l *counterList) sum() Counters {
	var sum Counters
	to := sum.values()
	if qs := l.list.Load(); qs != nil {
		for _, q := range *qs {
			for i := range q.v {
				to[i] += q.v[i].Load()
			}
		}
	}
	return sum
}

// enlist gives a new engine its published counters.
func (l *counterList) enlist() *counters {
	c := new(counters)
	for {
		old := l.list.Load()
		var list []*counters
		if old != nil {
			list = append(list, *old...)
		}
		list = append(list, c)
		if l.list.CompareAndSwap(old, &list) {
			return c
		}
	}
}
