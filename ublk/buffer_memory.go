package ublk

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// bufferMemory says how much of a queue's copy buffers is present in memory.
//
// Each tag has addresses for the largest possible request. How much of that is memory follows
// the load. The kernel sends no request that is larger than the memory that is present:
// queue/max_sectors_kb of the device limits it.
//
// Requests must not need new memory. The kernel copies a request on the queue's thread. If a
// page is missing and memory is short, the copy waits until other memory is written out. That
// may be swap on this very device, and then the wait never ends (seen). So Device.Grant makes
// memory present before it raises the limit, and lowers the limit before memory is released.
// When the limit changes, the kernel drains the queue (queue_attr_store, since Linux 6.11). So no
// request is under way under the old limit.
//
// Memory must not be released while the kernel copies a request into it: the request would be
// lost. The kernel may copy as soon as the tag is given back to it. But it copies in task work
// of the fetch command (ublk_dispatch_req in drivers/block/ublk_drv.c). A ring with DEFER_TASKRUN
// runs task work only in io_uring_enter on the queue's own thread, and the completion is there
// when that returns. So between two entries, when every completion has been handled, a tag that
// the queue does not own has no request in its buffer. The data of the tag's last read has been
// copied out too, once the answer (an entry of the ring) was submitted. Memory is released only
// at such moments, so it is safe even if somebody else has changed the limit. With batch commands
// this does not hold, and all memory stays present.
type bufferMemory struct {
	floor    int64         // bytes at the start of each buffer that are always present
	granted  atomic.Int64  // bytes that are present now, at least floor
	large    atomic.Uint64 // requests of floor bytes or more
	asked    atomic.Bool   // outgrown was called since the last Grant
	outgrown func()
	release  atomic.Bool // the memory behind granted is to be released

	// Tags whose buffers are to release memory are in one of these lists. Tags in answered wait
	// for their answer to be submitted. Tags in submitted wait for the next call of
	// releaseMemory; those that were answered again meanwhile have releaseAnsweredAgain.
	answered, submitted []uint16
}

// releaseState says where a tag is on the way to releasing memory.
type releaseState uint8

const (
	releaseNone          releaseState = iota
	releaseAnswered                   // in answered: its last answer may not be submitted
	releaseSubmitted                  // in submitted: its last answer is submitted
	releaseAnsweredAgain              // in submitted, and answered once more since
)

// initBufferMemory sets how much of the queue's buffers is always present: at least stay bytes
// of each, or all if stay is 0.
func (q *Queue) initBufferMemory(stay int, outgrown func()) {
	m := &q.bufferMemory
	if stay <= 0 || stay >= q.maxIO || q.zeroCopy || q.dev.info.BatchIO() {
		m.floor = math.MaxInt64
		m.granted.Store(int64(q.maxIO))
		return
	}
	m.floor = int64(roundUp(max(stay, pinnedMost), pageSize))
	m.granted.Store(m.floor)
	m.outgrown = outgrown
	m.answered, m.submitted = make([]uint16, 0, q.depth), make([]uint16, 0, q.depth)
}

// largeRequest counts a request of floor bytes or more, and calls outgrown if it is as large as
// requests can be.
func (q *Queue) largeRequest(length int64) {
	m := &q.bufferMemory
	m.large.Add(1)
	granted := m.granted.Load()
	if length >= granted && granted < int64(q.maxIO) && !m.asked.Swap(true) && m.outgrown != nil {
		m.outgrown()
	}
}

// releaseAfterAnswer has a tag release memory once the answer that is being given is submitted.
func (q *Queue) releaseAfterAnswer(tag uint16) {
	t := &q.tags[tag]
	t.releases = false
	switch t.release {
	case releaseNone:
		t.release = releaseAnswered
		q.bufferMemory.answered = append(q.bufferMemory.answered, tag)
	case releaseSubmitted:
		t.release = releaseAnsweredAgain
	}
}

// answersSubmitted is called when the kernel has taken all entries of the ring.
func (q *Queue) answersSubmitted() {
	m := &q.bufferMemory
	if len(m.submitted) > 0 {
		return
	}
	m.answered, m.submitted = m.submitted, m.answered
	for _, tag := range m.submitted {
		q.tags[tag].release = releaseSubmitted
	}
}

// releaseAll has all tags release the memory behind granted.
func (q *Queue) releaseAll() {
	for tag := range q.tags {
		if q.tags[tag].owned {
			q.tags[tag].releases = true
		} else {
			q.releaseAfterAnswer(uint16(tag))
		}
	}
}

// releaseMemory releases the memory of the tags in submitted. It may be called only when all
// completions have been handled: see bufferMemory.
func (q *Queue) releaseMemory() {
	m := &q.bufferMemory
	present := m.granted.Load()
	for _, tag := range m.submitted {
		t := &q.tags[tag]
		again := t.release == releaseAnsweredAgain
		t.release = releaseNone
		switch {
		case t.owned:
			t.releases = true // it has a new request: after its answer
		case again:
			q.releaseAfterAnswer(tag)
		case present < int64(q.maxIO):
			b := q.bufs[int(tag)*q.maxIO:][:q.maxIO][present:]
			// Locked memory needs MADV_DONTNEED_LOCKED, Linux 5.18. On an error it stays present.
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, uintptr(unsafe.Pointer(unsafe.SliceData(b))),
				uintptr(len(b)), unix.MADV_DONTNEED_LOCKED)
		}
	}
	m.submitted = m.submitted[:0]
}

// ErrLimit is returned by Device.Grant when somebody else has set how large requests may be.
var ErrLimit = errors.New("queue/max_sectors_kb was set by somebody else")

// Grant sets how many bytes at the start of each buffer of a live device are present in memory,
// and so how large a request can be. It grants at least RunOptions.Stay. It does nothing if all
// memory is present anyway, as with zero copy and batch I/O. Each queue may call
// RunOptions.Outgrown once more after a Grant. Grant waits for the requests that are under way;
// new requests wait for Grant. Only one goroutine may call it at a time. It returns ErrLimit if
// queue/max_sectors_kb was set by somebody else.
func (d *Device) Grant(bytes int) error {
	floor := d.bufferFloor()
	if floor == 0 {
		return nil
	}
	now, want := d.Granted(), min(max(bytes/pageSize*pageSize, floor), d.info.MaxIO)
	limit, err := d.readLimit()
	if err != nil {
		return err
	}
	if was := d.limit; was != 0 && limit != was {
		return fmt.Errorf("ublk: device %d: %w: %d bytes, it was %d", d.info.ID, ErrLimit, limit,
			was)
	}
	if want > now {
		if err := d.populateAll(now, want); err != nil {
			return err
		}
	}
	// The order matters: memory is present before larger requests may come, and it is released
	// only after the limit is lower.
	if limit != want {
		if err := d.writeLimit(want); err != nil {
			return err
		}
	}
	d.limit = want
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, q := range d.queues {
		q.bufferMemory.granted.Store(int64(want))
		q.bufferMemory.asked.Store(false)
		if want < d.info.MaxIO {
			q.bufferMemory.release.Store(true)
			q.Wakeup()
		}
	}
	return nil
}

// adoptLimit makes as much of the buffers present as requests may need before the first Grant.
// The limit that the last server of the device has set still holds.
func (d *Device) adoptLimit() error {
	floor := d.bufferFloor()
	if floor == 0 {
		return nil
	}
	// If the limit cannot be read, requests may be as large as MaxIO.
	limit := d.info.MaxIO
	if n, err := d.readLimitInTime(); err == nil {
		limit = min(max(n, floor), limit)
	}
	if err := d.populateAll(0, limit); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, q := range d.queues {
		q.bufferMemory.granted.Store(int64(limit))
	}
	return nil
}

// populateAll makes the bytes from..to of each buffer present.
func (d *Device) populateAll(from, to int) error {
	for queue := range d.info.Queues {
		for tag := range d.info.Depth {
			n, err := d.populate(queue, unix.MADV_POPULATE_WRITE,
				func(q *Queue) []byte { return q.bufs[tag*q.maxIO:][from:to] })
			if err != nil {
				return err
			}
			if n == 0 {
				return nil // the queue has ended
			}
		}
	}
	return nil
}

// limitPath is the file that limits how large a request may be, in KiB.
func (d *Device) limitPath() string {
	return fmt.Sprintf("/sys/block/ublkb%d/queue/max_sectors_kb", d.info.ID)
}

func (d *Device) readLimit() (int, error) {
	text, err := os.ReadFile(d.limitPath())
	if err != nil {
		return 0, fmt.Errorf("ublk: %w", err)
	}
	kib, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("ublk: %s: %w", d.limitPath(), err)
	}
	return kib << 10, nil
}

// limitTime is how long adoptLimit waits for the limit.
const limitTime = time.Second

// readLimitInTime is readLimit for a device that is being recovered. A process of the last server
// can still be writing the limit. It holds a lock of the kernel until the requests are answered
// that this server is to answer, so the read must not be waited for.
func (d *Device) readLimitInTime() (int, error) {
	type result struct {
		limit int
		err   error
	}
	read := make(chan result, 1)
	go func() {
		limit, err := d.readLimit()
		read <- result{limit, err}
	}()
	select {
	case r := <-read:
		return r.limit, r.err
	case <-time.After(limitTime):
		return 0, fmt.Errorf("ublk: %s: %w", d.limitPath(), os.ErrDeadlineExceeded)
	}
}

func (d *Device) writeLimit(bytes int) error {
	write := d.limitWriter
	if write == nil {
		write = func(path, text string) error { return os.WriteFile(path, []byte(text), 0) }
	}
	if err := write(d.limitPath(), strconv.Itoa(bytes>>10)); err != nil {
		return fmt.Errorf("ublk: %w", err)
	}
	return nil
}

// bufferFloor returns how many bytes of each buffer are always present; 0 means all of them.
func (d *Device) bufferFloor() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, q := range d.queues {
		if q.bufferMemory.floor < int64(q.maxIO) {
			return int(q.bufferMemory.floor)
		}
	}
	return 0
}

// Granted returns how many bytes of each buffer are present now.
func (d *Device) Granted() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, q := range d.queues {
		return int(q.bufferMemory.granted.Load())
	}
	return d.info.MaxIO
}

// LargeRequests counts the requests of at least the size that is always present of a buffer.
func (d *Device) LargeRequests() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	var n uint64
	for _, q := range d.queues {
		n += q.bufferMemory.large.Load()
	}
	return n
}
