package ublk

import (
	"errors"
	"fmt"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"ublkremap/ublk/internal/uapi"
	"ublkremap/ublk/internal/uring"
)

// start runs the queue on a thread that is made for it and ends with it, and returns when
// both have ended. It says on fetched, once, that the kernel has all tags, or why not.
//
// The ring is closed only after the thread is gone. Linux 6.12 would otherwise let a
// request that is on its way to the queue reach a thread that no longer looks, and wait for
// it for ever (seen): it tells by the thread's exit that nobody is there.
func (q *Queue) start(target Target, fetched chan<- error) error {
	result := make(chan error, 1)
	var tid int
	go onOwnThread(func() {
		tid = unix.Gettid()
		result <- q.run(target, fetched)
	})
	err := <-result
	awaitThreadExit(tid)
	if q.ring != nil {
		err = errors.Join(err, q.ring.CloseAfterThread())
	}
	return err
}

// run is the life of the queue's thread.
func (q *Queue) run(target Target, fetched chan<- error) (err error) {
	announced := false
	announce := func(err error) {
		if !announced {
			announced = true
			fetched <- err
		}
	}
	defer func() { announce(err) }()
	defer func() { err = errors.Join(err, q.exchange.end()) }()
	if err := q.setup(); err != nil {
		return err
	}
	if q.handler, err = target.NewQueue(q); err != nil {
		return err
	}
	defer q.handler.Close()
	q.armWake()
	q.exchange.begin()
	if err := q.ring.SubmitAndWait(0); err != nil {
		return err
	}
	q.reap()
	if q.failure != nil {
		return q.failure
	}
	announce(nil)
	if err := q.loop(); err != nil {
		return err
	}
	if q.dev.leaving.Load() && q.alive > 0 {
		return q.leave()
	}
	return q.disarmWake()
}

// loop hands over what comes and enters the kernel, until the queue is done.
func (q *Queue) loop() error {
	for {
		q.reap()
		if len(q.room.idle) > 0 && !q.ring.Ready() {
			q.giveBack()
		}
		wait := q.handler.EndBatch()
		q.exchange.flush()
		if q.failure != nil {
			return q.failure
		}
		limit := uring.NoLimit
		if wait > 0 {
			limit = wait
		}
		if q.done() {
			if q.dev.leaving.Load() && q.alive > 0 {
				if !q.saturated() {
					return nil
				}
				// The answer to one request is what the thread can leave behind.
				if q.serveHeld() {
					continue
				}
				limit = saturatedPoll
				if wait > 0 {
					limit = min(limit, wait)
				}
			} else if q.ring.Pending() == 0 && !q.exchange.kept() {
				return nil
			} else {
				// The last answers still have to reach the kernel.
				limit = 0
			}
		}
		if !q.pacer.skip() {
			if err := q.keepPace(time.Since(q.epoch)); err != nil {
				return err
			}
		}
		if err := q.wait(limit); err != nil {
			return err
		}
		if len(q.room.answered) > 0 && q.ring.Pending() == 0 {
			q.roomSubmitted()
		}
	}
}

// done reports whether nothing is left to wait for: the device is being left to another
// server, or the kernel has begun to end tags and has an answer to every request, and no
// operation is under way.
//
// Not every tag need come to its end. STOP_DEV cancels the commands when the disk is gone,
// and so each of them. QUIESCE_DEV cancels those that wait at the time (ublk_cancel_dev in
// drivers/block/ublk_drv.c): a tag that is answered after that is fetched again, and
// nothing ever becomes of that command. What it has in common with STOP_DEV is that no
// request comes after the first end; one that was on its way, and is not seen here any
// more, is the next server's, as after a crash.
func (q *Queue) done() bool {
	return q.inflight == 0 && (q.dev.leaving.Load() || q.ending && q.owned == 0)
}

// reap hands over all completions that are there. Since the kernel adds to them only when
// it is entered, this ends.
func (q *Queue) reap() {
	for {
		n := q.ring.Reap(q.cqes[:])
		for i := range q.cqes[:n] {
			q.dispatch(&q.cqes[i])
		}
		if n < len(q.cqes) {
			return
		}
	}
}

func (q *Queue) dispatch(c *uring.CQE) {
	if c.UserData&ownUserData == 0 {
		q.inflight--
		q.handler.Complete(c.UserData, c.Res)
		return
	}
	tag := uint16(c.UserData & tagMask)
	switch c.UserData & kindMask {
	case kindCommand, kindPrepare, kindFetch, kindCommit:
		q.exchange.completed(c)
	case kindWake:
		q.woken(c.Res)
	case kindRegister:
		q.inflight--
		q.bufferRegistered(tag, c.Res)
	case kindUnregister:
		q.inflight--
		if c.Res < 0 {
			q.fail(fmt.Errorf("UNREGISTER_IO_BUF of tag %d: %w", tag, syscall.Errno(-c.Res)))
		}
	}
}

// Done answers a request. res is 0 or the length for success, or a negative errno, which
// fails the whole request. For a read or write, 0 is not success: it takes the whole length
// (Request.Length). A short answer would be taken for success by the kernel and is refused:
// EIO is given instead, and counted.
//
// The tag and its buffer belong to the kernel from here on; operations on the buffer must
// have been completed.
func (q *Queue) Done(tag uint16, res int32) {
	t := &q.tags[tag]
	if !t.owned {
		panic("ublk: Done for a tag that has no request")
	}
	t.owned = false
	q.owned--
	switch {
	case res < 0:
	case !t.op.hasData():
		res = 0
	case int64(res) != t.length:
		q.refused.Add(1)
		res = -int32(unix.EIO)
	}
	if t.registered {
		// Entries are carried out in their order, so the buffer is free before the commit.
		t.registered = false
		q.bufferCommand(uapi.IOUnregisterIOBuf, tag, kindUnregister)
	}
	if t.shrink || t.listing != notListed {
		q.shrinkDone(tag)
	}
	q.exchange.answer(tag, res)
}

// bufferCommand registers or unregisters the buffer of a tag by command.
func (q *Queue) bufferCommand(op uint32, tag uint16, kind uint64) {
	s := q.entry()
	p := (*uapi.IOCmd)(uring.Command(s, charIndex, true, op))
	p.QID, p.Tag, p.Addr = uint16(q.id), tag, uint64(tag)
	s.UserData = kind | uint64(tag)
	q.inflight++
}

// descriptor is where the kernel describes the request of a tag.
func (q *Queue) descriptor(tag uint16) *uapi.IODesc {
	return (*uapi.IODesc)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(q.descMap)),
		uintptr(tag)*unsafe.Sizeof(uapi.IODesc{})))
}

// requestsEnd notes that the kernel has ended a tag, or all of them.
func (q *Queue) requestsEnd() {
	if !q.ending {
		q.ending = true
		// Background work of the handler is told that it should end.
		q.handler.Wake()
	}
}

// arrived takes the request that has come with a tag.
func (q *Queue) arrived(tag uint16) {
	t := &q.tags[tag]
	d := q.descriptor(tag)
	t.op = Op(d.OpFlags & uapi.OpMask)
	t.length = int64(d.NrSectors) * SectorSize
	t.owned = true
	q.owned++
	q.work.requests++
	if t.op.hasData() {
		q.work.bytes += uint64(t.length)
		if t.length >= q.room.floor {
			q.largeCame(t.length)
		}
	}
	if d.OpFlags&uapi.IONeedRegBuf != 0 {
		q.bufferCommand(uapi.IORegisterIOBuf, tag, kindRegister)
		return
	}
	q.deliver(tag)
}

// bufferRegistered takes the answer to a registration by command.
func (q *Queue) bufferRegistered(tag uint16, res int32) {
	if res < 0 {
		q.Done(tag, res)
		return
	}
	q.tags[tag].registered = true
	q.deliver(tag)
}

// deliver hands a request to the handler, unless the next server is to have it.
func (q *Queue) deliver(tag uint16) {
	if q.dev.leaving.Load() {
		q.tags[tag].held = true
		return
	}
	q.handOver(tag)
}

// handOver gives a request to the handler.
func (q *Queue) handOver(tag uint16) {
	d := q.descriptor(tag)
	q.handler.Request(Request{
		Tag: tag, Op: q.tags[tag].op, Flags: RequestFlags(d.OpFlags &^ uapi.OpMask),
		StartSector: d.StartSector, Sectors: d.NrSectors,
	})
}

// armWake begins a read of the eventfd.
func (q *Queue) armWake() {
	s := q.entry()
	uring.ReadFD(s, int(q.wakeFile.Fd()),
		uint64(uintptr(unsafe.Pointer(unsafe.SliceData(q.wakeWord)))), 8)
	s.UserData = kindWake
	q.wakeArmed = true
}

func (q *Queue) woken(res int32) {
	q.wakeArmed = false
	if res < 0 && res != -int32(unix.EINTR) && res != -int32(unix.EAGAIN) {
		if res != -int32(unix.ECANCELED) {
			q.fail(fmt.Errorf("read of the eventfd: %w", syscall.Errno(-res)))
		}
		return
	}
	// In this order: a Wakeup after the store makes the new read complete.
	q.wakePending.Store(false)
	if q.room.shrink.Swap(false) {
		q.shrinkAll()
	}
	q.armWake()
	q.handler.Wake()
}

// disarmWake ends the read of the eventfd, so that its memory can be given back.
func (q *Queue) disarmWake() error {
	if !q.wakeArmed {
		return nil
	}
	s := q.entry()
	uring.Cancel(s, kindWake)
	s.UserData = kindCancel
	for q.wakeArmed && q.failure == nil {
		if err := q.ring.SubmitAndWait(uring.NoLimit); err != nil {
			return err
		}
		for _, c := range q.cqes[:q.ring.Reap(q.cqes[:])] {
			if c.UserData&kindMask == kindWake {
				q.wakeArmed = false
			}
		}
	}
	return q.failure
}
