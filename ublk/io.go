package ublk

import (
	"golang.org/x/sys/unix"

	"ublkremap/ublk/internal/uring"
)

// The operations below are queued and go to the kernel when the batch ends, or earlier if
// the ring is full: then they make room themselves by entering the kernel. They never fail;
// errors come to Handler.Complete, which may be called only after the method that queued
// has returned. file is the index given to SetFile.

// WriteFlags change a write.
type WriteFlags uint32

// WriteFUA makes the data durable before the write completes (RWF_DSYNC).
const WriteFUA = WriteFlags(uring.DataSync)

// Read queues a read of n bytes at off.
func (q *Queue) Read(file int, b Buffer, n uint32, off int64, userData uint64) {
	s := q.operation(userData)
	if n <= b.fixed {
		uring.ReadFixed(s, file+charIndex+1, b.index, b.addr, n, uint64(off))
	} else {
		uring.Read(s, file+charIndex+1, b.addr, n, uint64(off))
	}
}

// Write queues a write of n bytes at off. With zero copy the data of a read request cannot
// be its source: that gives EFAULT.
func (q *Queue) Write(file int, b Buffer, n uint32, off int64, flags WriteFlags, userData uint64) {
	s := q.operation(userData)
	if n <= b.fixed {
		uring.WriteFixed(s, file+charIndex+1, b.index, b.addr, n, uint64(off), uint32(flags))
	} else {
		uring.Write(s, file+charIndex+1, b.addr, n, uint64(off), uint32(flags))
	}
}

// Flush queues a flush of the file, and of its device's cache.
func (q *Queue) Flush(file int, userData uint64) {
	uring.Fdatasync(q.operation(userData), file+charIndex+1)
}

// Discard queues a discard of n bytes at off. On a block device that is its discard command
// (Linux 6.12; before that, write zeroes with deallocation), in a file it punches a hole.
// EOPNOTSUPP says that there is no such thing.
func (q *Queue) Discard(file int, off, n int64, userData uint64) {
	s := q.operation(userData)
	if q.files[file].block && haveBlockDiscard {
		uring.BlockDiscard(s, file+charIndex+1, uint64(off), uint64(n))
		return
	}
	uring.Fallocate(s, file+charIndex+1, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE,
		uint64(off), uint64(n))
}

// WriteZeroes queues zeroing of n bytes at off. A block device that has no command for it
// is written to by the kernel. In a file the range becomes a hole unless keep is set (a
// request with FlagNoUnmap).
func (q *Queue) WriteZeroes(file int, off, n int64, keep bool, userData uint64) {
	mode := uint32(unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE)
	if !keep && !q.files[file].block {
		mode = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	}
	uring.Fallocate(q.operation(userData), file+charIndex+1, mode, uint64(off), uint64(n))
}

// haveBlockDiscard: BLOCK_URING_CMD_DISCARD came with Linux 6.12.
var haveBlockDiscard = func() bool {
	v, err := RunningKernel()
	return err == nil && v.AtLeast(KernelVersion{6, 12, 0})
}()

// DiscardsByZeroing reports whether this kernel lacks what Queue.Discard of a block device
// is made of: one that has no command to write zeroes cannot discard then.
func DiscardsByZeroing() bool { return !haveBlockDiscard }

// operation begins an operation of the handler.
func (q *Queue) operation(userData uint64) *uring.SQE {
	if userData&ownUserData != 0 {
		panic("ublk: a handler's user data has 63 bits")
	}
	s := q.entry()
	s.UserData = userData
	q.inflight++
	return s
}

// Space is how many operations can be queued without entering the kernel.
func (q *Queue) Space() int { return q.ring.Space() }

// entry returns a free entry of the ring, making room if need be.
func (q *Queue) entry() *uring.SQE {
	for q.failure == nil {
		if s := q.ring.SQE(); s != nil {
			return s
		}
		if err := q.ring.Submit(); err != nil {
			q.fail(err)
		}
	}
	q.discard = uring.SQE{}
	return &q.discard
}

// fail records why the queue cannot go on. The loop ends with it.
func (q *Queue) fail(err error) {
	if q.failure == nil {
		q.failure = err
	}
}
