package ublk

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"ublkremap/ublk/internal/uapi"
	"ublkremap/ublk/internal/uring"
)

// A Queue is one hardware queue of a device. Its methods are for its Handler, on its
// thread; only Wakeup and Stopping may be called from anywhere.
type Queue struct {
	dev      *Device
	id       int
	depth    int
	maxIO    int
	zeroCopy bool
	charFD   int
	thread   threadOptions

	handler    Handler
	exchange   exchange
	ring       *uring.Ring
	cqes       [64]uring.CQE
	yieldTimer yieldTimer
	tuner      classTuner
	class      threadClass
	poller     poller
	discard    uring.SQE // where entries go when the ring is broken
	failure    error     // why the ring is broken, or the kernel refused a command

	descMap      []byte // the kernel's descriptors
	bufs         []byte // one buffer of maxIO per tag; empty with zero copy
	pinned       uint32 // bytes at the start of each that are registered with the ring
	bufferMemory bufferMemory
	memories     []*Memory
	tags         []tagState
	files        [MaxFiles]fileState

	alive    int  // tags that the kernel has not ended
	ending   bool // the kernel has ended a tag: it hands out no more requests
	inflight int  // operations under way: the handler's, and registrations of buffers
	owned    int  // tags that the kernel has handed out and waits for
	work     work // requests that have come, and their data
	leaveBy  time.Time

	wakeFile    *os.File
	wakePending atomic.Bool
	wakeWord    []byte // where the eventfd is read to
	wakeArmed   bool

	refused atomic.Uint64
	epoch   time.Time
}

// tagState is what is known of a tag.
type tagState struct {
	length     int64 // of the request, in bytes
	op         Op
	owned      bool // by the handler
	releases   bool // its buffer is to release memory after the answer
	release    releaseState
	registered bool // its buffer was registered by command
	held       bool // owned, but not handed to the handler: it is the next server's
}

type fileState struct{ block bool }

// MaxFiles is how many backing files a queue can have.
const MaxFiles = 16

// charIndex is the slot of /dev/ublkcN among the ring's fixed files; the handler's come after it.
const charIndex = 0

func newQueue(d *Device, id, charFD int) *Queue {
	q := &Queue{
		dev: d, id: id, depth: d.info.Depth, maxIO: d.info.MaxIO, zeroCopy: d.info.ZeroCopy(),
		charFD: charFD,
		tags:   make([]tagState, d.info.Depth), epoch: time.Now(),
	}
	q.exchange = newExchange(q)
	return q
}

// ID is the queue's number, from 0.
func (q *Queue) ID() int { return q.id }

// Depth is the number of tags.
func (q *Queue) Depth() int { return q.depth }

// MaxIO is the largest read or write, in bytes.
func (q *Queue) MaxIO() int { return q.maxIO }

// ZeroCopy reports whether request data is out of the process's reach.
func (q *Queue) ZeroCopy() bool { return q.zeroCopy }

// Inflight is how many operations of the handler are not completed.
func (q *Queue) Inflight() int { return q.inflight }

// Stopping reports whether the device is being stopped or left: background work should come
// to its end, for the queue waits for it.
func (q *Queue) Stopping() bool { return q.dev.stopping.Load() || q.dev.leaving.Load() || q.ending }

// Now is the time in nanoseconds of a monotonic clock that starts with the queue.
func (q *Queue) Now() int64 { return int64(time.Since(q.epoch)) }

// RefusedAnswers counts the answers to reads and writes that were short and were turned
// into EIO. It is zero unless the handler has a bug.
func (q *Queue) RefusedAnswers() uint64 { return q.refused.Load() }

var wakeOne = [8]byte{1}

// Wakeup makes the queue's thread call Handler.Wake soon. It may be called from any
// goroutine, never blocks, and costs a system call only if the thread has not been woken
// already. After the queue has ended it does nothing.
func (q *Queue) Wakeup() {
	if !q.wakePending.Swap(true) {
		// An error says that the queue has ended.
		_, _ = q.wakeFile.Write(wakeOne[:])
	}
}

// SetFile makes f the backing file of this index, 0 to MaxFiles-1, or with nil takes it
// away. The ring keeps its own reference: f may be closed. Operations under way end with
// the old file. It is not for the hot path.
func (q *Queue) SetFile(index int, f *os.File) error {
	if index < 0 || index >= MaxFiles {
		return fmt.Errorf("ublk: backing file %d: must be below %d", index, MaxFiles)
	}
	if f == nil {
		return q.ring.SetFile(index+charIndex+1, -1)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return &os.PathError{Op: "fstat", Path: f.Name(), Err: err}
	}
	if err := q.ring.SetFile(index+charIndex+1, int(f.Fd())); err != nil {
		return err
	}
	q.files[index].block = st.Mode&unix.S_IFMT == unix.S_IFBLK
	return nil
}

// setup makes everything that the loop needs. It runs on the queue's thread.
func (q *Queue) setup() error {
	if err := q.thread.apply(); err != nil {
		return err
	}
	q.class.find()
	var err error
	// Room for a commit and an operation per tag, and for other operations of handlers. If more
	// are queued, the ring is submitted once more.
	kind := uring.QueueRing
	if q.poller.most > 0 {
		kind = uring.PolledQueueRing
	}
	if q.ring, err = uring.New(kind, min(uring.MaxEntries, 2*q.depth+64)); err != nil {
		return err
	}
	if err := q.ring.RegisterRing(); err != nil {
		return err
	}
	if err := q.ring.RegisterFiles(1 + MaxFiles); err != nil {
		return err
	}
	if err := q.ring.SetFile(charIndex, q.charFD); err != nil {
		return err
	}
	if q.zeroCopy {
		// The buffer of tag n is registered as buffer n.
		if err := q.ring.RegisterSparseBuffers(q.depth); err != nil {
			return err
		}
	} else {
		if q.bufs, err = uring.Mmap(q.depth * q.maxIO); err != nil {
			return err
		}
		if q.thread.hugePages {
			// Only advice: a kernel without huge pages has others.
			_ = unix.Madvise(q.bufs, unix.MADV_HUGEPAGE)
		} else {
			// Where huge pages are the default, the first byte of one tag's buffer would make
			// the buffers of several tags present.
			_ = unix.Madvise(q.bufs, unix.MADV_NOHUGEPAGE)
		}
		q.pinBuffers()
	}
	if q.wakeWord, err = uring.Mmap(pageSize); err != nil {
		return err
	}
	// The kernel maps the descriptors of the queues at the distance of the largest depth.
	size := roundUp(q.depth*int(unsafe.Sizeof(uapi.IODesc{})), pageSize)
	off := int64(q.id) * int64(roundUp(uapi.MaxQueueDepth*int(unsafe.Sizeof(uapi.IODesc{})),
		pageSize))
	q.descMap, err = unix.Mmap(q.charFD, uapi.CmdBufOffset+off, size, unix.PROT_READ,
		unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return fmt.Errorf("mmap of the descriptors: %w", err)
	}
	return q.exchange.setup()
}

func roundUp(n, to int) int { return (n + to - 1) / to * to }

// release gives back what setup made. After a failure of the ring it keeps memory that the kernel
// may still write to.
func (q *Queue) release() error {
	var errs []error
	if q.wakeFile != nil {
		errs = append(errs, q.wakeFile.Close())
	}
	if q.descMap != nil {
		errs = append(errs, unix.Munmap(q.descMap))
	}
	if q.inflight == 0 && !q.wakeArmed {
		errs = append(errs, uring.Munmap(q.bufs, q.wakeWord), q.exchange.release())
		for _, m := range q.memories {
			errs = append(errs, uring.Munmap(m.bytes))
		}
	}
	return errors.Join(errs...)
}
