package server

import (
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ublkremap/internal/blockdev"
	"ublkremap/internal/coordinator"
	"ublkremap/metadata"
	"ublkremap/remap"
	"ublkremap/ublk"
)

// target makes a queue for each hardware queue of the device.
type target struct {
	keeper  *keeper
	shared  *remap.Shared
	policy  remap.Policy
	devices []*blockdev.Device
	// every: one request in so many is timed, see timing.go. 0: each.
	every int
}

// sinkSize is the memory of each queue that heals are read back into. A heal that is
// longer is read back in pieces.
const sinkSize = 64 << 10

// ring is what a queue needs of ublk.Queue.
type ring interface {
	ID() int
	Depth() int
	MaxIO() int
	SetFile(index int, f *os.File) error
	NewMemory(size int) (*ublk.Memory, error)
	NewZeroes(size int) (*ublk.Memory, error)
	RequestBuffer(tag uint16) ublk.Buffer
	Read(file int, b ublk.Buffer, n uint32, off int64, userData uint64)
	Write(file int, b ublk.Buffer, n uint32, off int64, flags ublk.WriteFlags, userData uint64)
	Flush(file int, userData uint64)
	Discard(file int, off, n int64, userData uint64)
	WriteZeroes(file int, off, n int64, keep bool, userData uint64)
	Done(tag uint16, res int32)
	Wakeup()
	Stopping() bool
}

// NewQueue is called on the queue's own thread.
func (t *target) NewQueue(q *ublk.Queue) (ublk.Handler, error) {
	h, err := t.newQueue(q)
	if err != nil {
		return nil, err
	}
	return h, nil
}

func (t *target) newQueue(q ring) (*queue, error) {
	geo := t.shared.Geometry()
	h := &queue{q: q, keeper: t.keeper, in: newMailbox(q.Depth()),
		lengths: make([]int32, q.Depth()), tid: unix.Gettid()}
	for 512<<h.shift < geo.BlockSize {
		h.shift++
	}
	for i, d := range t.devices {
		if err := q.SetFile(i, d.File()); err != nil {
			return nil, err
		}
	}
	var err error
	if h.zeroes, err = q.NewZeroes(max(q.MaxIO(), metadata.UnitSize)); err != nil {
		return nil, err
	}
	if h.sink, err = q.NewMemory(sinkSize); err != nil {
		return nil, err
	}
	internal := 0
	if q.ID() == scrubQueue {
		internal = coordinator.ScrubTags
	}
	h.engine = remap.NewEngine(remap.EngineConfig{
		Queue: uint16(q.ID()), Depth: q.Depth(), MaxBlocks: q.MaxIO() / geo.BlockSize,
		ZeroBlocks: len(h.zeroes.Bytes()) / geo.BlockSize, DiscardBlocks: sinkSize / geo.BlockSize,
		Policy: t.policy, InternalTags: internal, Internal: h,
	}, t.shared, h)
	h.timing = newTiming(max(t.every, 1), q.ID(), q.Depth()+internal, h.engine.Ops())
	t.keeper.enlist(q.ID(), h)
	return h, nil
}

// queue is the ublk.Handler of one hardware queue and the remap.Driver of its
// Engine. All but what keeper uses (in, q.Wakeup, asked, scrub.asked, tid, signs, signed) belongs
// to the queue's thread.
type queue struct {
	q       ring
	engine  *remap.Engine
	keeper  *keeper
	in      *mailbox // from the keeper
	zeroes  *ublk.Memory
	sink    *ublk.Memory // takes data that nobody needs; any number of operations read into it
	shift   uint         // of a block over a sector of 512 bytes
	lengths []int32      // of each tag's request, in bytes; 0 for all but reads and writes
	req     remap.Request
	asked   atomic.Bool // how long requests are under way is to be looked at
	scrub   scrubReads
	timing  timing

	tid           int           // of the queue's thread
	signs, signed atomic.Uint64 // that were asked for, and given
}

var (
	_ ublk.Handler = (*queue)(nil)
	_ remap.Driver = (*queue)(nil)
)

// Request begins a request of the kernel.
func (h *queue) Request(r ublk.Request) {
	h.lengths[r.Tag] = 0
	h.req = remap.Request{Tag: r.Tag, FUA: r.FUA(), Block: r.StartSector >> h.shift,
		Count: r.Sectors >> h.shift}
	switch r.Op {
	case ublk.OpRead:
		h.req.Op = remap.OpRead
		h.lengths[r.Tag] = int32(r.Length())
	case ublk.OpWrite:
		h.req.Op = remap.OpWrite
		h.lengths[r.Tag] = int32(r.Length())
	case ublk.OpFlush:
		h.req.Op, h.req.Block, h.req.Count = remap.OpFlush, 0, 0
	case ublk.OpDiscard:
		h.req.Op = remap.OpDiscard
	case ublk.OpWriteZeroes:
		h.req.Op = remap.OpWriteZeroes
	default:
		h.q.Done(r.Tag, -int32(syscall.EOPNOTSUPP))
		return
	}
	h.timing.requestCame(r.Tag, h.engine.Inflight()+1)
	h.engine.Submit(&h.req)
}

// Complete hands the result of an operation to the Engine. User data is the Engine's id.
func (h *queue) Complete(userData uint64, res int32) {
	h.timing.operationEnded(userData, res)
	h.engine.Complete(userData, res)
}

// Wake hands the keeper's messages to the Engine.
func (h *queue) Wake() {
	h.signed.Store(h.signs.Load())
	if h.asked.Load() {
		h.asked.Store(false)
		h.engine.LookAtAges()
	}
	messages := h.in.take()
	for i := range messages {
		h.engine.Answer(&messages[i])
	}
	h.beginScrubs()
}

// EndBatch retries what is due, makes the counters visible and says when to call it again.
func (h *queue) EndBatch() time.Duration {
	wait := time.Duration(0)
	if due := h.engine.Deadline(); due != 0 {
		now := h.Now()
		if now >= due {
			h.engine.Tick(now)
			due = h.engine.Deadline()
		}
		if due != 0 {
			wait = max(time.Duration(due-now), time.Microsecond)
		}
	}
	if h.engine.InternalInflight() > 0 && h.q.Stopping() {
		h.cancelScrubs()
	}
	h.engine.Publish()
	h.timing.turn = 0
	return wait
}

// Close is called when the queue has ended.
func (h *queue) Close() {}

// Issue starts an operation of the Engine on the ring.
func (h *queue) Issue(io *remap.IO) {
	h.timing.operationIssued(io)
	file := int(io.Device)
	switch io.Op {
	case remap.OpRead:
		buffer := h.sink.Buffer(0)
		if int(io.Tag) >= h.q.Depth() {
			buffer = h.scrub.sink.Buffer(0)
		} else if !io.Discard {
			buffer = h.q.RequestBuffer(io.Tag).At(io.Buffer)
		}
		h.q.Read(file, buffer, uint32(io.Length), io.Offset, io.ID)
	case remap.OpWrite:
		buffer := h.zeroes.Buffer(0)
		if !io.Zero {
			buffer = h.q.RequestBuffer(io.Tag).At(io.Buffer)
		}
		var flags ublk.WriteFlags
		if io.FUA {
			flags = ublk.WriteFUA
		}
		h.q.Write(file, buffer, uint32(io.Length), io.Offset, flags, io.ID)
	case remap.OpWriteZeroes:
		// The blocks stay allocated. They are written again soon, and a thin pool below must not be
		// full then.
		h.q.WriteZeroes(file, io.Offset, io.Length, true, io.ID)
	case remap.OpDiscard:
		h.q.Discard(file, io.Offset, io.Length, io.ID)
	case remap.OpFlush:
		h.q.Flush(file, io.ID)
	}
}

// Finish answers a request of the kernel: with its whole length, or with an errno.
func (h *queue) Finish(tag uint16, result int32) {
	h.timing.requestEnded(tag, h.engine.Answering(tag))
	if result == 0 {
		result = h.lengths[tag]
	}
	h.q.Done(tag, result)
}

// Send puts a message into the keeper's mailbox.
func (h *queue) Send(m *remap.Message) { h.keeper.receive(int(m.Queue), m) }

// Now is the monotonic time that the Engine's deadlines are in.
func (h *queue) Now() int64 { return monotonic() }

var began = time.Now()

// monotonic is the time since the process began, in nanoseconds.
func monotonic() int64 { return int64(time.Since(began)) }
