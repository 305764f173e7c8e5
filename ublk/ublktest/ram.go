package ublktest

import (
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ublkremap/ublk"
)

// RAM is a device in a file: a memory file, or any file that is given. Its counters may be
// read at any time.
type RAM struct {
	file *os.File
	size int64

	// Fail, if set, is asked for each request; a negative errno fails it, zero lets it
	// pass. It is called on the queues' threads. Set it before Run.
	Fail func(ublk.Request) int32
	// Hold, if set, is asked for each request; those that it picks are never answered. Set
	// it before Run.
	Hold func(ublk.Request) bool
	// Delay is how long each request is held before it is carried out. Set it before Run.
	Delay time.Duration

	Reads, Writes, Flushes, Discards, Zeroes, FUAs, Wakes atomic.Int64
	// Closed counts the handlers that were closed.
	Closed atomic.Int64
}

// NewRAM makes a device of size bytes in memory.
func NewRAM(size int64) (*RAM, error) {
	fd, err := unix.MemfdCreate("ublktest", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "memfd:ublktest")
	if err := f.Truncate(size); err != nil {
		f.Close()
		return nil, err
	}
	return NewFile(f)
}

// NewFile makes a device of an open file, which belongs to it from now on. The file may be
// opened for direct I/O: the queues' buffers are page-aligned.
func NewFile(f *os.File) (*RAM, error) {
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &RAM{file: f, size: st.Size()}, nil
}

// Size is the size in bytes.
func (r *RAM) Size() int64 { return r.size }

// File is where the data is.
func (r *RAM) File() *os.File { return r.file }

// Close closes the file.
func (r *RAM) Close() error { return r.file.Close() }

// Params are parameters that offer all that the target can do.
func (r *RAM) Params() ublk.Params {
	return ublk.Params{
		Size: r.size, LogicalBlockSize: 512, PhysicalBlockSize: 4096, VolatileCache: true,
		FUA: true,
		Discard: &ublk.DiscardParams{Granularity: 4096, MaxDiscard: 1 << 30,
			MaxWriteZeroes: 1 << 30},
	}
}

// NewQueue implements ublk.Target.
func (r *RAM) NewQueue(q *ublk.Queue) (ublk.Handler, error) {
	if err := q.SetFile(0, r.file); err != nil {
		return nil, err
	}
	return &ramHandler{ram: r, q: q, requests: make([]ublk.Request, q.Depth()),
		done: make([]uint32, q.Depth()), held: make([]held, 0, q.Depth())}, nil
}

type held struct {
	tag uint16
	due int64
}

// ramHandler carries out each request by one operation at a time. User data is the tag.
type ramHandler struct {
	ram      *RAM
	q        *ublk.Queue
	requests []ublk.Request
	done     []uint32 // bytes of a read or write that are done
	held     []held   // requests that wait for their delay, in order
}

func (h *ramHandler) Request(r ublk.Request) {
	h.requests[r.Tag], h.done[r.Tag] = r, 0
	if h.ram.Hold != nil && h.ram.Hold(r) {
		return
	}
	if h.ram.Delay > 0 {
		h.held = append(h.held, held{r.Tag, h.q.Now() + int64(h.ram.Delay)})
		return
	}
	h.begin(r.Tag)
}

func (h *ramHandler) begin(tag uint16) {
	r := &h.requests[tag]
	if h.ram.Fail != nil {
		if res := h.ram.Fail(*r); res != 0 {
			h.q.Done(tag, res)
			return
		}
	}
	ud := uint64(tag)
	switch r.Op {
	case ublk.OpRead:
		h.ram.Reads.Add(1)
		h.transfer(tag)
	case ublk.OpWrite:
		h.ram.Writes.Add(1)
		if r.FUA() {
			h.ram.FUAs.Add(1)
		}
		h.transfer(tag)
	case ublk.OpFlush:
		h.ram.Flushes.Add(1)
		h.q.Flush(0, ud)
	case ublk.OpDiscard:
		h.ram.Discards.Add(1)
		h.q.Discard(0, r.Offset(), r.Length(), ud)
	case ublk.OpWriteZeroes:
		h.ram.Zeroes.Add(1)
		// A memory file cannot zero a range without making it a hole.
		h.q.WriteZeroes(0, r.Offset(), r.Length(), false, ud)
	default:
		h.q.Done(tag, -int32(syscall.EOPNOTSUPP))
	}
}

// transfer reads or writes what is left of a request.
func (h *ramHandler) transfer(tag uint16) {
	r, done := &h.requests[tag], h.done[tag]
	b, n, off := h.q.RequestBuffer(tag).At(done), uint32(r.Length())-done, r.Offset()+int64(done)
	if r.Op == ublk.OpRead {
		h.q.Read(0, b, n, off, uint64(tag))
		return
	}
	var flags ublk.WriteFlags
	if r.FUA() {
		flags = ublk.WriteFUA
	}
	h.q.Write(0, b, n, off, flags, uint64(tag))
}

func (h *ramHandler) Complete(userData uint64, res int32) {
	tag := uint16(userData)
	r := &h.requests[tag]
	if res < 0 || r.Op != ublk.OpRead && r.Op != ublk.OpWrite {
		h.q.Done(tag, res)
		return
	}
	if res == 0 {
		h.q.Done(tag, -int32(syscall.EIO))
		return
	}
	h.done[tag] += uint32(res)
	if h.done[tag] < uint32(r.Length()) {
		h.transfer(tag)
		return
	}
	h.q.Done(tag, int32(h.done[tag]))
}

func (h *ramHandler) Wake() { h.ram.Wakes.Add(1) }

func (h *ramHandler) EndBatch() time.Duration {
	for len(h.held) > 0 {
		left := h.held[0].due - h.q.Now()
		if left > 0 {
			return time.Duration(left)
		}
		tag := h.held[0].tag
		h.held = h.held[:copy(h.held, h.held[1:])]
		h.begin(tag)
	}
	return 0
}

func (h *ramHandler) Close() { h.ram.Closed.Add(1) }
