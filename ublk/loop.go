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
// The ring is closed only after the thread has ended. Linux 6.12 learns from the thread's exit
// that the queue has no server. Otherwise it could give a request to a thread that no longer
// handles completions, and would wait for the answer for ever (seen).
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

// loop handles completions and enters the kernel, until the queue is done.
func (q *Queue) loop() error {
	for {
		q.reap()
		if len(q.bufferMemory.submitted) > 0 && !q.ring.Ready() {
			q.releaseMemory()
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
				// One request is answered, so that its command is with the kernel: see leave.go.
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
				// The last answers are not submitted yet.
				limit = 0
			}
		}
		if !q.yieldTimer.skip() {
			if err := q.tendThread(time.Since(q.epoch)); err != nil {
				return err
			}
		}
		if err := q.wait(limit); err != nil {
			return err
		}
		if len(q.bufferMemory.answered) > 0 && q.ring.Pending() == 0 {
			q.answersSubmitted()
		}
	}
}

// done reports whether the queue can end: no operation is under way, and either the device is
// being left to another server, or the kernel has begun to end tags and every request is answered.
//
// Not every tag ends. STOP_DEV cancels all commands after the disk was removed. QUIESCE_DEV
// cancels only the commands that wait at that time (ublk_cancel_dev in
// drivers/block/ublk_drv.c): a tag that is answered later is fetched again, and that command
// never completes. After either, no request comes once the first tag has ended. A request that
// was on its way then goes to the next server, as after a crash.
func (q *Queue) done() bool {
	return q.inflight == 0 && (q.dev.leaving.Load() || q.ending && q.owned == 0)
}

// reap handles all completions that are there. It ends, because the kernel adds completions only
// when it is entered.
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

// Done answers a request. For a read or write, res is the whole length (Request.Length); for
// other requests it is 0 or more. A negative errno fails the whole request. The kernel takes a
// short answer for success, so Done answers EIO instead and counts it (RefusedAnswers).
//
// From here on the tag and its buffer belong to the kernel. All operations on the buffer must have
// completed.
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
		// The kernel carries entries out in order: it unregisters the buffer before the commit.
		t.registered = false
		q.bufferCommand(uapi.IOUnregisterIOBuf, tag, kindUnregister)
	}
	if t.releases || t.release != releaseNone {
		q.releaseAfterAnswer(tag)
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
		// The handler may have background work, which should end now.
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
		if t.length >= q.bufferMemory.floor {
			q.largeRequest(t.length)
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

// deliver gives a request to the handler, or holds it for the next server.
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
	// The store comes first: a Wakeup after it makes the new read complete.
	q.wakePending.Store(false)
	if q.bufferMemory.release.Swap(false) {
		q.releaseAll()
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
