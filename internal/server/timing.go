package server

import (
	"math/bits"
	"sync/atomic"
	"time"

	"ublkremap/internal/latency"
	"ublkremap/remap"
)

// This file measures how long requests and operations on the disks take, without a lock, without an
// allocation, and with at most one reading of the clock for each turn of a queue's loop.
//
// A turn handles what has come back from the kernel. The first thing in it that has to be timed
// reads the clock, and all others of that turn take the same time. So the time of a request is that
// from the turn in which it came until the turn in which it was answered.
//
// Reading the clock takes some 40 ns where the kernel lets programs read it by themselves, and a
// system call elsewhere: 3.5 µs on user-mode Linux, a quarter of a request. So where it takes long,
// only one request in so many is timed, chosen at random, such that each of its two readings costs
// less than 25 ns for each request, as far as maxEvery allows. How many is told with the
// histograms. Requests that met a bad block are always counted: those that were not timed since
// they came are counted since they met it.

// cacheLine keeps the memory of two queues off one line, as in package remap.
const cacheLine = 64

// maxErrno is the largest errno of Linux, EHWPOISON.
const maxErrno = 133

const (
	opKinds   = int(remap.OpFlush) + 1
	diskKinds = 2  // the backing, and the spare devices
	depths    = 17 // of queue depth: up to 1, 2, 4, … 65536
)

// figures are what a queue measures. Its thread alone writes them; anybody reads them.
type figures struct {
	_        [cacheLine]byte
	requests [opKinds][remap.Ways]latency.Histogram
	disks    [diskKinds][opKinds]latency.Histogram
	// errors counts failed operations by errno. 0 stands for one that ended before its end.
	errors [diskKinds][opKinds][maxErrno + 1]atomic.Uint64
	// depth counts timed requests by how many were under way when they came, themselves included.
	depth    [depths]atomic.Uint64
	depthSum atomic.Uint64
	_        [cacheLine]byte
}

// add counts one more. There is one writer.
func add(to *atomic.Uint64, n uint64) { to.Store(to.Load() + n) }

// timing is the part of a queue that measures. It belongs to the queue's thread.
type timing struct {
	figures *figures
	every   uint32  // one request in so many is timed; a power of two
	skip    uint32  // requests until the next that is timed
	random  uint32  // state of xorshift32, never 0
	turn    int64   // monotonic ns of this turn; 0: the clock was not read in it
	began   []int64 // by tag, monotonic ns; 0: the request is not timed, or internal
	issued  []issue // by id of the operation
}

// issue is an operation that is under way.
type issue struct {
	at   int64 // monotonic ns; 0: it is not timed
	op   remap.Op
	disk uint8 // index of figures.disks
}

func newTiming(every, queue, tags, operations int) timing {
	return timing{figures: new(figures), every: uint32(every), random: uint32(queue)*2654435761 | 1,
		began: make([]int64, tags), issued: make([]issue, operations)}
}

// clock returns the time of this turn.
func (t *timing) clock() int64 {
	if t.turn == 0 {
		t.turn = monotonic()
	}
	return t.turn
}

// requestCame is called for each request of the kernel. underWay counts it.
func (t *timing) requestCame(tag uint16, underWay int) {
	if t.skip > 0 {
		t.skip--
		t.began[tag] = 0
		return
	}
	t.timeRequest(tag, underWay)
}

// timeRequest is the rest of requestCame. It is apart, as are countRequest and countOperation, so
// that the compiler puts into the loop what is done for each request, which is little.
func (t *timing) timeRequest(tag uint16, underWay int) {
	if t.every > 1 {
		// On average every-1 are skipped, by no pattern that requests could have too.
		t.random ^= t.random << 13
		t.random ^= t.random >> 17
		t.random ^= t.random << 5
		t.skip = t.random % (2*t.every - 1)
	}
	t.began[tag] = t.clock()
	add(&t.figures.depth[min(bits.Len32(uint32(underWay-1)), depths-1)], 1)
	add(&t.figures.depthSum, uint64(underWay))
}

// requestEnded is called before each answer.
func (t *timing) requestEnded(tag uint16, a remap.Answer) {
	if t.began[tag] != 0 || a.Way == remap.WayHeal {
		t.countRequest(t.began[tag], a)
	}
}

func (t *timing) countRequest(began int64, a remap.Answer) {
	if began == 0 {
		began = a.Met
	}
	t.figures.requests[a.Op][a.Way].Add(t.clock() - began)
}

// operationIssued is called for each operation.
func (t *timing) operationIssued(io *remap.IO) {
	i := &t.issued[io.ID]
	i.op, i.disk, i.at = io.Op, min(io.Device, diskKinds-1), 0
	if t.began[io.Tag] != 0 {
		i.at = t.clock()
	}
}

// operationEnded is called for each result.
func (t *timing) operationEnded(id uint64, res int32) {
	if i := &t.issued[id]; i.at != 0 || res <= 0 {
		t.countOperation(i, res)
	}
}

func (t *timing) countOperation(i *issue, res int32) {
	if i.at != 0 {
		t.figures.disks[i.disk][i.op].Add(t.clock() - i.at)
	}
	if res < 0 || res == 0 && i.op <= remap.OpWrite {
		add(&t.figures.errors[i.disk][i.op][min(-res, maxErrno)], 1)
	}
}

// Costs of reading the clock, see everyOf.
const (
	cheapClock = 150 * time.Nanosecond // up to this each request is timed
	wantedCost = 25 * time.Nanosecond  // for each of the two readings of a request, beyond that
	maxEvery   = 256
)

// timedOneIn says of how many requests one is timed, by what it costs to read the clock here.
func timedOneIn() int {
	const readings = 32
	cost := time.Hour
	// Anything can come between two readings, so the least of some measurements counts.
	for range 5 {
		from := time.Now()
		for range readings - 1 {
			monotonic()
		}
		cost = min(cost, time.Since(from)/readings)
	}
	return everyOf(cost)
}

// everyOf is timedOneIn for a clock that takes that long to read.
func everyOf(cost time.Duration) int {
	every := 1
	if cost <= cheapClock {
		return every
	}
	for every < maxEvery && cost > time.Duration(every)*wantedCost {
		every *= 2
	}
	return every
}
