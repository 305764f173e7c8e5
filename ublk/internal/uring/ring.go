package uring

import (
	"errors"
	"fmt"
	"math/bits"
	"reflect"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/pawelgaczynski/giouring"
	"golang.org/x/sys/unix"
)

// SQE is a submission queue entry.
type SQE = giouring.SubmissionQueueEntry

// A CQE is a copy of a completion queue entry.
type CQE struct {
	UserData uint64
	Res      int32 // the result, or a negative errno
	Flags    uint32
}

// Kind says what a ring is for.
type Kind uint8

const (
	// QueueRing is a ring of a queue thread: plain entries, one issuer, completions run
	// when that thread waits.
	QueueRing Kind = iota
	// PolledQueueRing is a QueueRing whose Ready tells without entering the kernel.
	PolledQueueRing
	// CommandRing is a ring for control commands: entries of 128 bytes. At most 32 of them,
	// for giouring unmaps only half of a larger ring.
	CommandRing
)

// MaxEntries is the largest submission queue that the kernel makes.
const MaxEntries = 32768

const maxCommandEntries = 32

// enterArg is what the wait points to, in memory that never moves: struct
// io_uring_getevents_arg and struct __kernel_timespec of include/uapi/linux/io_uring.h and
// time_types.h.
type enterArg struct {
	sigmask     uint64
	sigmaskSize uint32
	minWait     uint32
	ts          uint64
	time        timespec
}

type timespec struct{ sec, nsec int64 }

const enterArgSize = 24

var (
	_ [enterArgSize]byte = [unsafe.Offsetof(enterArg{}.time)]byte{}
	_ [64]byte           = [unsafe.Sizeof(SQE{})]byte{}
	_ [16]byte           = [unsafe.Sizeof(CQE{})]byte{}
	_ [16]byte           = [unsafe.Sizeof(giouring.CompletionQueueEvent{})]byte{}
)

// A Ring is an io_uring instance. It must be used on the thread that made it, except for
// CloseAfterThread.
type Ring struct {
	ring *giouring.Ring
	sq   submission
	cq   completion
	wide bool // 128-byte entries

	enterFD    int    // the descriptor that enter takes
	enterFlags uint32 // IORING_ENTER_REGISTERED_RING if enterFD is an index
	registered int    // index of the registered descriptor, or -1

	arg  *enterArg
	page []byte // arg lives here

	entries uint32
	prompt  uint32 // entries queued that complete when they are submitted
	enters  uint64
}

// submission points into giouring's own submission queue, which has no method to flush
// without entering the kernel.
type submission struct {
	head, tail, flags *uint32 // shared with the kernel
	sqeHead, sqeTail  *uint32 // giouring's: entries flushed, entries given out
}

// New makes a ring with room for at least entries submissions, and twice as many
// completions; more completions than that are kept by the kernel until there is room.
func New(kind Kind, entries int) (*Ring, error) {
	if entries < 1 || entries > MaxEntries || kind == CommandRing && entries > maxCommandEntries {
		return nil, fmt.Errorf("uring: %d entries", entries)
	}
	size := uint32(1) << bits.Len32(uint32(entries-1))
	flags := giouring.SetupSubmitAll
	switch kind {
	case CommandRing:
		flags |= giouring.SetupSQE128
	case PolledQueueRing:
		// The flag is written for each completion, so only a ring that looks at it has it.
		flags |= giouring.SetupTaskrunFlag
		fallthrough
	case QueueRing:
		flags |= giouring.SetupCoopTaskrun | giouring.SetupSingleIssuer | giouring.SetupDeferTaskrun
	}
	page, err := unix.Mmap(-1, 0, unix.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_ANONYMOUS|unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("uring: mmap: %w", err)
	}
	g := giouring.NewRing()
	if err := g.QueueInit(size, flags); err != nil {
		_ = unix.Munmap(page)
		return nil, fmt.Errorf("uring: io_uring_setup: %w", err)
	}
	r := &Ring{
		ring: g, wide: kind == CommandRing, enterFD: g.RingFd(), registered: -1,
		page: page, arg: (*enterArg)(unsafe.Pointer(unsafe.SliceData(page))),
		entries: size,
	}
	r.arg.sigmaskSize = 8
	r.arg.ts = uint64(uintptr(unsafe.Pointer(&r.arg.time)))
	if r.sq, r.cq, err = openQueues(g); err != nil {
		_ = r.Close()
		return nil, err
	}
	return r, nil
}

// completion is the completion queue. giouring hands out pointers to its entries, and a
// pointer that is stored costs the garbage collector's write barrier each time.
type completion struct {
	head, tail *uint32 // shared with the kernel
	entries    []CQE   // a power of two of them
}

// openQueues finds the fields by name, so that a giouring with another layout is an error
// and not a crash.
func openQueues(g *giouring.Ring) (sq submission, cq completion, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("uring: this giouring keeps its queues differently: %v", p)
		}
	}()
	ring := reflect.ValueOf(g).Elem()
	s, c := ring.FieldByName("sqRing").Elem(), ring.FieldByName("cqRing").Elem()
	shared := func(q reflect.Value,
		name string) *uint32 {
		return (*uint32)(q.FieldByName(name).UnsafePointer())
	}
	own := func(name string) *uint32 {
		f := s.FieldByName(name)
		if f.Kind() != reflect.Uint32 {
			panic(name)
		}
		return (*uint32)(f.Addr().UnsafePointer())
	}
	sq = submission{
		head: shared(s, "head"), tail: shared(s, "tail"), flags: shared(s, "flags"),
		sqeHead: own("sqeHead"), sqeTail: own("sqeTail"),
	}
	n := *shared(c, "ringEntries")
	if n == 0 || n&(n-1) != 0 {
		panic("ringEntries")
	}
	cq = completion{
		head: shared(c, "head"), tail: shared(c, "tail"),
		entries: unsafe.Slice((*CQE)(c.FieldByName("cqes").UnsafePointer()), n),
	}
	return sq, cq, nil
}

// FD is the ring's file descriptor.
func (r *Ring) FD() int { return r.ring.RingFd() }

// Entries is the size of the submission queue.
func (r *Ring) Entries() int { return int(r.entries) }

// Close gives the ring back. Operations that are still under way are cancelled by the
// kernel, later: their memory must stay mapped.
func (r *Ring) Close() error {
	var err error
	if r.registered >= 0 {
		err = r.unregisterRing()
	}
	r.ring.QueueExit()
	return errors.Join(err, unix.Munmap(r.page))
}

// CloseAfterThread is Close for when the ring's thread has ended, and with it the
// registered descriptor. It may be called on any thread.
func (r *Ring) CloseAfterThread() error {
	r.registered = -1
	return r.Close()
}

// SQE returns the next free entry, all zero, or nil if the submission queue is full.
func (r *Ring) SQE() *SQE {
	sqe := r.ring.GetSQE()
	if sqe == nil {
		return nil
	}
	if r.wide {
		*(*[2]SQE)(unsafe.Pointer(sqe)) = [2]SQE{}
	} else {
		*sqe = SQE{}
	}
	return sqe
}

// Space is how many entries SQE can still give.
func (r *Ring) Space() int {
	return int(r.entries - (*r.sq.sqeTail - atomic.LoadUint32(r.sq.head)))
}

// Pending is how many entries were given out and not yet taken by the kernel.
func (r *Ring) Pending() int { return int(*r.sq.sqeTail - atomic.LoadUint32(r.sq.head)) }

// flush shows the kernel all entries given out and returns how many it has not taken.
func (r *Ring) flush() uint32 {
	tail := *r.sq.sqeTail
	if *r.sq.sqeHead != tail {
		*r.sq.sqeHead = tail
		atomic.StoreUint32(r.sq.tail, tail)
	}
	return tail - atomic.LoadUint32(r.sq.head)
}

// NoLimit is a wait without a time limit.
const NoLimit time.Duration = -1

// Submit hands over everything queued without waiting. It also returns nil if the kernel
// took only a part for now.
func (r *Ring) Submit() error {
	_, errno := r.enter(r.flush(), 0, r.enterFlags|giouring.EnterGetEvents, nil, 0)
	return waitError(errno)
}

// SubmitOnly is Submit that does not let the kernel complete anything: on a queue's ring
// that happens only when it is asked for completions.
func (r *Ring) SubmitOnly() error {
	_, errno := r.enter(r.flush(), 0, r.enterFlags, nil, 0)
	return waitError(errno)
}

// Prompt says that the entry queued last completes when it is submitted, and that the next wait
// must not return for that alone. It waits for one more completion; otherwise it would not wait at
// all. If that other completion is late, the wait ends after promptLimit, so that a failure of the
// entry is seen.
func (r *Ring) Prompt() { r.prompt++ }

const promptLimit = time.Second

// SubmitAndWait hands over everything queued and waits until there is a completion, the
// limit is over or a signal came; none of these is an error. Zero does not wait; NoLimit
// waits for ever.
func (r *Ring) SubmitAndWait(limit time.Duration) error {
	var (
		wait  = 1 + r.prompt
		flags = r.enterFlags | giouring.EnterGetEvents
		arg   unsafe.Pointer
		size  uintptr
	)
	if r.prompt > 0 && (limit < 0 || limit > promptLimit) {
		limit = promptLimit
	}
	r.prompt = 0
	switch {
	case limit == 0:
		wait = 0
	case limit > 0:
		r.arg.time = timespec{sec: int64(limit / time.Second), nsec: int64(limit % time.Second)}
		flags |= giouring.EnterExtArg
		arg, size = unsafe.Pointer(r.arg), enterArgSize
	}
	_, errno := r.enter(r.flush(), wait, flags, arg, size)
	return waitError(errno)
}

// waitError leaves only what is wrong with the ring itself. A signal, the end of the limit,
// or a kernel that is short of memory or of room for completions (EAGAIN, EBUSY) all mean:
// look at what there is, then come back.
func waitError(errno syscall.Errno) error {
	switch errno {
	case 0, unix.EINTR, unix.ETIME, unix.EAGAIN, unix.EBUSY:
		return nil
	}
	return fmt.Errorf("uring: io_uring_enter: %w", errno)
}

// Enters is how often the ring has entered the kernel.
func (r *Ring) Enters() uint64 { return r.enters }

// enter is the one place that enters the kernel. The Go scheduler knows of the call, so that a
// thread that waits does not hold up the garbage collector.
func (r *Ring) enter(submit, wait, flags uint32, arg unsafe.Pointer, size uintptr) (int,
	syscall.Errno) {
	r.enters++
	n, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.enterFD), uintptr(submit),
		uintptr(wait), uintptr(flags), uintptr(arg), size)
	return int(n), errno
}

// Ready reports whether there are completions, or the kernel will have some when it is
// entered. On rings other than a PolledQueueRing it knows only of the former.
func (r *Ring) Ready() bool {
	return atomic.LoadUint32(r.cq.tail) != *r.cq.head ||
		atomic.LoadUint32(r.sq.flags)&(giouring.SQTaskrun|giouring.SQCQOverflow) != 0
}

// Reap copies completions that are there into out, frees their slots and returns how many.
// It never enters the kernel; what the kernel still holds back comes after the next wait.
func (r *Ring) Reap(out []CQE) int {
	head := *r.cq.head
	n := min(int(atomic.LoadUint32(r.cq.tail)-head), len(out))
	if n == 0 {
		return 0
	}
	at := int(head) & (len(r.cq.entries) - 1)
	copied := copy(out[:n], r.cq.entries[at:])
	copy(out[copied:n], r.cq.entries)
	atomic.StoreUint32(r.cq.head, head+uint32(n))
	return n
}
