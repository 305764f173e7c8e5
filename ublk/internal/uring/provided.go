package uring

import (
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"unsafe"

	"github.com/pawelgaczynski/giouring"
	"golang.org/x/sys/unix"
)

// What giouring's version of include/uapi/linux/io_uring.h lacks.
const (
	pbufRingInc         = 1 << 1 // IOU_PBUF_RING_INC, Linux 6.12
	commandMultishot    = 1 << 1 // IORING_URING_CMD_MULTISHOT, Linux 6.18
	cqeBufferShift      = 16     // IORING_CQE_BUFFER_SHIFT
	cqeMore             = 1 << 1 // IORING_CQE_F_MORE
	cqeBuffer           = 1 << 0 // IORING_CQE_F_BUFFER
	cqeBufferMore       = 1 << 4 // IORING_CQE_F_BUF_MORE
	providedBuffers     = 2
	providedEntryBytes  = 16
	providedTailAt      = 14
	maxProvidedBufBytes = 1 << 20
)

// More reports whether the operation goes on and will complete again (IORING_CQE_F_MORE).
func (c *CQE) More() bool { return c.Flags&cqeMore != 0 }

// Provided is memory for one operation at a time whose data may come at any time: a ring of two
// provided buffers that the kernel fills one after the other, each piece by piece (struct
// io_uring_buf_ring, IOU_PBUF_RING_INC). Completions say how much came, Take where it is.
type Provided struct {
	ring    *Ring
	group   uint16
	size    int    // of a buffer, bytes
	entries []byte // two entries; the tail is in what is spare of the first
	memory  []byte
	tail    uint16
	at      [providedBuffers]int // how much of a buffer was taken
}

type providedEntry struct {
	addr uint64
	len  uint32
	bid  uint16
	_    uint16
}

var _ [providedEntryBytes]byte = [unsafe.Sizeof(providedEntry{})]byte{}
var _ [unsafe.Sizeof(giouring.BufReg{})]byte = [40]byte{}

// NewProvided makes the buffers of size bytes each and registers them with the ring as this
// group. Linux 6.12.
func (r *Ring) NewProvided(group uint16, size int) (*Provided, error) {
	if size < 1 || size > maxProvidedBufBytes {
		return nil, fmt.Errorf("uring: provided buffers of %d bytes", size)
	}
	p := &Provided{ring: r, group: group, size: size}
	var err error
	if p.entries, err = Mmap(unix.Getpagesize()); err != nil {
		return nil, err
	}
	if p.memory, err = Mmap(providedBuffers * size); err != nil {
		return nil, errors.Join(err, p.Free())
	}
	if err := p.register(); err != nil {
		return nil, errors.Join(err, p.Free())
	}
	return p, nil
}

func (p *Provided) register() error {
	reg := giouring.BufReg{
		RingAddr:    uint64(uintptr(unsafe.Pointer(unsafe.SliceData(p.entries)))),
		RingEntries: providedBuffers, Bgid: p.group,
		Pad: pbufRingInc, // where the flags are
	}
	err := p.ring.register("provided buffers", giouring.RegisterPbufRing, unsafe.Pointer(&reg), 1)
	runtime.KeepAlive(&reg)
	if err != nil {
		return err
	}
	// The kernel begins at the start.
	p.tail = 0
	for i := range providedBuffers {
		p.give(uint16(i))
	}
	return nil
}

// Reset takes the buffers back and gives them anew. It is called when an operation has ended for
// lack of something. Data that the kernel had put into the buffers without a completion is lost. No
// operation may have the buffers.
func (p *Provided) Reset() error {
	if err := p.Withdraw(); err != nil {
		return err
	}
	return p.register()
}

// Withdraw takes the buffers back from the kernel. An operation that still wants them ends
// with ENOBUFS.
func (p *Provided) Withdraw() error {
	reg := giouring.BufReg{Bgid: p.group}
	return p.ring.register("no provided buffers", giouring.UnregisterPbufRing, unsafe.Pointer(&reg),
		1)
}

// give hands a whole buffer to the kernel.
func (p *Provided) give(buffer uint16) {
	at := (p.tail % providedBuffers) * providedEntryBytes
	e := (*providedEntry)(unsafe.Pointer(&p.entries[at]))
	e.addr = uint64(uintptr(unsafe.Pointer(&p.memory[int(buffer)*p.size])))
	e.len, e.bid = uint32(p.size), buffer
	p.at[buffer] = 0
	p.tail++
	// The tail has 16 bits, and shares its word with the first entry's number. Only this
	// thread writes either.
	word := (*uint32)(unsafe.Pointer(&p.entries[providedTailAt-2]))
	first := (*providedEntry)(unsafe.Pointer(&p.entries[0])).bid
	atomic.StoreUint32(word, uint32(first)|uint32(p.tail)<<16)
}

// Take returns the data of a completion, in the order of completions. It is the caller's
// until Release.
func (p *Provided) Take(c *CQE) ([]byte, error) {
	buffer, n := c.Flags>>cqeBufferShift, int(c.Res)
	if c.Flags&cqeBuffer == 0 || buffer >= providedBuffers || n < 0 || n > p.size-p.at[buffer] {
		return nil, fmt.Errorf("uring: completion of %d bytes, flags %#x, in provided buffers of "+
			"%d bytes", n, c.Flags, p.size)
	}
	from := int(buffer)*p.size + p.at[buffer]
	p.at[buffer] += n
	return p.memory[from : from+n : from+n], nil
}

// Release gives a buffer back to the kernel if the completion has used it up.
func (p *Provided) Release(c *CQE) {
	if c.Flags&cqeBufferMore == 0 {
		p.give(uint16(c.Flags >> cqeBufferShift))
	}
}

// Free gives the memory back. The ring must be closed, its operations ended.
func (p *Provided) Free() error { return Munmap(p.entries, p.memory) }

// MultishotCommand is Command that completes again and again, each time with data in a
// provided buffer of the group. Linux 6.18.
func MultishotCommand(s *SQE, file int, op uint32, group uint16) (payload unsafe.Pointer) {
	payload = Command(s, file, true, op)
	s.Flags |= giouring.SqeBufferSelect
	s.BufIG = group
	s.OpcodeFlags = commandMultishot
	return payload
}
