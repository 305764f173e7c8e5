package ublk

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Buffers that requests are copied through have an address for the largest request there
// can be, for each tag. How much of that is memory follows the load, and the kernel sends
// no request that is larger than that: queue/max_sectors_kb of the device says so.
//
// For a request must never bring its memory with it. The kernel copies it on the queue's
// thread, and if memory is short that waits until there is some, which may be when the
// queue has written out what is swapped to this very device: for ever (seen). So memory is
// made present first, and then larger requests are let in; and it is taken away only when
// they are out. The kernel lets the queue run dry when the limit changes (queue_attr_store,
// since Linux 6.11), so that none is under way under the old one.
//
// To take memory from a buffer while the kernel copies a request into it would lose that
// request. It may do so from the moment that the tag is given back to it. But it does so in
// task work of the fetch command (ublk_dispatch_req in drivers/block/ublk_drv.c), which a
// ring with DEFER_TASKRUN runs nowhere but in io_uring_enter on the queue's own thread, and
// the completion is there when that returns. So between two entries, with no completion
// left to be looked at, no tag that the queue does not own has a request in its buffer.
// What was read for the tag's last request has been copied out as well once its answer, an
// entry of the ring, was submitted. That is when memory is given back, whatever somebody
// has made of the limit meanwhile. With batch commands none of that is so, and all stays.
type room struct {
	floor    int64         // bytes at the start of each buffer that always stay
	granted  atomic.Int64  // bytes that stay for now, at least floor
	large    atomic.Uint64 // requests of floor bytes or more
	asked    atomic.Bool   // outgrown was called
	outgrown func()
	shrink   atomic.Bool // what lies behind granted is to be given back

	// Tags that are to give memory back are in one of these. Those in idle were answered
	// and that was submitted, unless they are listedAgain.
	answered, idle []uint16
}

// listing says where a tag is among those that are to give memory back.
type listing uint8

const (
	notListed   listing = iota
	listed              // its last answer may not be submitted
	listedIdle          // its last answer is submitted
	listedAgain         // it is in room.idle, and was answered once more since
)

// setRoom says how much of the queue's buffers always stays: at least stay bytes of each,
// or all if that is 0.
func (q *Queue) setRoom(stay int, outgrown func()) {
	r := &q.room
	if stay <= 0 || stay >= q.maxIO || q.zeroCopy || q.dev.info.BatchIO() {
		r.floor = math.MaxInt64
		r.granted.Store(int64(q.maxIO))
		return
	}
	r.floor = int64(roundUp(max(stay, pinnedMost), pageSize))
	r.granted.Store(r.floor)
	r.outgrown = outgrown
	r.answered, r.idle = make([]uint16, 0, q.depth), make([]uint16, 0, q.depth)
}

// largeCame notes that a request is as large as the floor or larger.
func (q *Queue) largeCame(length int64) {
	r := &q.room
	r.large.Add(1)
	granted := r.granted.Load()
	if length >= granted && granted < int64(q.maxIO) && !r.asked.Swap(true) && r.outgrown != nil {
		r.outgrown()
	}
}

// shrinkDone notes that the request of a tag is answered that is to give memory back, or
// that is listed.
func (q *Queue) shrinkDone(tag uint16) {
	t := &q.tags[tag]
	t.shrink = false
	switch t.listing {
	case notListed:
		t.listing = listed
		q.room.answered = append(q.room.answered, tag)
	case listedIdle:
		t.listing = listedAgain
	}
}

// roomSubmitted is called when all entries of the ring have been taken by the kernel.
func (q *Queue) roomSubmitted() {
	r := &q.room
	if len(r.idle) > 0 {
		return
	}
	r.answered, r.idle = r.idle, r.answered
	for _, tag := range r.idle {
		q.tags[tag].listing = listedIdle
	}
}

// shrinkAll has all tags give back what they may not keep.
func (q *Queue) shrinkAll() {
	for tag := range q.tags {
		if q.tags[tag].owned {
			q.tags[tag].shrink = true
		} else {
			q.shrinkDone(uint16(tag))
		}
	}
}

// giveBack gives memory back: see room. It must not be called with completions that were
// not looked at.
func (q *Queue) giveBack() {
	r := &q.room
	stays := r.granted.Load()
	for _, tag := range r.idle {
		t := &q.tags[tag]
		again := t.listing == listedAgain
		t.listing = notListed
		switch {
		case t.owned:
			// It has a request again, whose end is waited for.
			t.shrink = true
		case again:
			q.shrinkDone(tag)
		case stays < int64(q.maxIO):
			b := q.bufs[int(tag)*q.maxIO:][:q.maxIO][stays:]
			// Locked memory needs a command of its own, Linux 5.18. What cannot be given
			// back stays.
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, uintptr(unsafe.Pointer(unsafe.SliceData(b))),
				uintptr(len(b)), unix.MADV_DONTNEED_LOCKED)
		}
	}
	r.idle = r.idle[:0]
}

// ErrLimit is returned by Device.Grant when somebody else has set how large requests may be.
var ErrLimit = errors.New("queue/max_sectors_kb was set by somebody else")

// Grant says how many bytes at the start of each buffer of a live device are memory, and
// how large a request can be. It is never less than RunOptions.Stay; with that, zero copy
// or batch I/O being as they are, there may be nothing to do. Until the next call
// RunOptions.Outgrown can be called once more by each queue. It waits for requests that are
// under way, and others wait for it meanwhile. One goroutine may call it at a time.
func (d *Device) Grant(bytes int) error {
	floor := d.roomFloor()
	if floor == 0 {
		return nil
	}
	now, want := d.Granted(), min(max(bytes/pageSize*pageSize, floor), d.info.MaxIO)
	if limit, err := d.readLimit(); err != nil {
		return err
	} else if was := d.limit; was != 0 && limit != was {
		return fmt.Errorf("ublk: device %d: %w: %d bytes, it was %d", d.info.ID, ErrLimit, limit,
			was)
	}
	if want > now {
		if err := d.populateAll(now, want); err != nil {
			return err
		}
	}
	// Whatever a queue had before, and however a device came to be recovered: what is let
	// in is there, and what is not let in is taken away.
	if err := d.writeLimit(want); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, q := range d.queues {
		q.room.granted.Store(int64(want))
		q.room.asked.Store(false)
		if want < d.info.MaxIO {
			q.room.shrink.Store(true)
			q.Wakeup()
		}
	}
	return nil
}

// adoptLimit makes as much of the buffers present as requests can need that come before
// anything is granted: those of a device that another server had.
func (d *Device) adoptLimit() error {
	floor := d.roomFloor()
	if floor == 0 {
		return nil
	}
	// Nobody knows how large they are if this is not to be read.
	limit := d.info.MaxIO
	if n, err := d.readLimit(); err == nil {
		limit = min(max(n, floor), limit)
	}
	if err := d.populateAll(0, limit); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, q := range d.queues {
		q.room.granted.Store(int64(limit))
	}
	return nil
}

// populateAll makes a part of each buffer present.
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

// limitPath is where the kernel is told how large a request may be, in KiB.
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

func (d *Device) writeLimit(bytes int) error {
	if err := os.WriteFile(d.limitPath(), strconv.AppendInt(nil, int64(bytes>>10), 10),
		0); err != nil {
		return fmt.Errorf("ublk: %w", err)
	}
	d.limit = bytes
	return nil
}

// roomFloor is what always stays of each buffer; 0 if all does.
func (d *Device) roomFloor() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, q := range d.queues {
		if q.room.floor < int64(q.maxIO) {
			return int(q.room.floor)
		}
	}
	return 0
}

// Granted is how many bytes of each buffer stay now.
func (d *Device) Granted() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, q := range d.queues {
		return int(q.room.granted.Load())
	}
	return d.info.MaxIO
}

// LargeRequests counts the requests that were as large as what always stays of a buffer, or larger.
func (d *Device) LargeRequests() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	var n uint64
	for _, q := range d.queues {
		n += q.room.large.Load()
	}
	return n
}
