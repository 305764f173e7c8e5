package ublk

import (
	"fmt"
	"math"
	"unsafe"

	"ublkremap/ublk/internal/uring"
)

// A Buffer names memory for one operation of a Queue: the data of a request, or a Memory. It is
// valid as long as what it names: the data of a request until Queue.Done.
type Buffer struct {
	addr  uint64 // an address, or with zero copy an offset in the registered buffer
	index uint16 // of the registered buffer
	fixed uint32 // how many bytes from addr on are in it; 0 if none is
}

// At is the same buffer from n bytes later on.
func (b Buffer) At(n uint32) Buffer {
	b.addr += uint64(n)
	b.fixed -= min(n, b.fixed)
	return b
}

// pinnedMost is how much of each tag's buffer is registered with the ring where the data is copied,
// in bytes. The kernel then does not have to look up and hold its pages for every operation, which
// costs a small one a good part of its time. Registered pages stay in memory as long as the queue
// lives, so only the start of each buffer is registered.
const pinnedMost = 16 << 10

// pinBuffers registers the start of each tag's buffer as buffer number tag. If the limit on locked
// memory does not allow that, requests work without it.
func (q *Queue) pinBuffers() {
	size := min(pinnedMost, q.maxIO)
	if q.ring.RegisterBuffers(q.bufs, q.maxIO, size) == nil {
		q.pinned = uint32(size)
	}
}

// RequestBuffer names the data of the request tag. It works with and without zero copy.
func (q *Queue) RequestBuffer(tag uint16) Buffer {
	if q.zeroCopy {
		return Buffer{index: tag, fixed: math.MaxUint32}
	}
	return Buffer{addr: q.bufAddr(tag), index: tag, fixed: q.pinned}
}

// RequestBytes is the data of the request tag, or nil with zero copy. For a write it holds
// what is to be written; for a read it is to be filled before Done.
func (q *Queue) RequestBytes(tag uint16) []byte {
	if q.zeroCopy {
		return nil
	}
	off := int(tag) * q.maxIO
	return q.bufs[off : off+int(q.tags[tag].length) : off+q.maxIO]
}

func (q *Queue) bufAddr(tag uint16) uint64 {
	return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(q.bufs)))) + uint64(tag)*uint64(q.maxIO)
}

// Memory is memory of a handler's own that the kernel can read and write at any time:
// outside of the Go heap and page-aligned. It belongs to its queue and is gone when the
// queue has ended.
type Memory struct{ bytes []byte }

// Bytes is the memory itself.
func (m *Memory) Bytes() []byte { return m.bytes }

// Buffer names the memory from off on.
func (m *Memory) Buffer(off int) Buffer {
	return Buffer{addr: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(m.bytes[off:]))))}
}

// NewMemory gets zeroed memory of size bytes that is read and written. All of it is present, so
// that no operation waits for a page. It is not for the hot path.
func (q *Queue) NewMemory(size int) (*Memory, error) {
	m, err := q.NewZeroes(size)
	if err != nil {
		return nil, err
	}
	for i := 0; i < size; i += pageSize {
		// a page that was only read is shared with others, and not there to be written
		m.bytes[i] = 0
	}
	return m, nil
}

// NewZeroes gets size bytes of zeroes that are only read: Prefault has them share one page. It is
// not for the hot path.
func (q *Queue) NewZeroes(size int) (*Memory, error) {
	if size <= 0 {
		return nil, fmt.Errorf("ublk: memory of %d bytes", size)
	}
	b, err := uring.Mmap(size)
	if err != nil {
		return nil, err
	}
	m := &Memory{bytes: b}
	q.memories = append(q.memories, m)
	return m, nil
}
