package ublk

import (
	"fmt"
	"syscall"

	"ublkremap/ublk/internal/uapi"
	"ublkremap/ublk/internal/uring"
)

// An exchange is how the tags of a queue come from the kernel and go back to it: with a
// command for each (tagCommands), or for many at once (batchCommands). It keeps Queue.alive
// and reports what comes to Queue.arrived and Queue.requestsEnd. All of it is on the
// queue's thread.
type exchange interface {
	// setup gets what it needs, once the ring is ready.
	setup() error
	// begin queues what gives all tags to the kernel for the first time.
	begin()
	// answer gives a tag back with the result of its request. It may be kept until flush.
	answer(tag uint16, res int32)
	// flush queues what answer has kept. It is called before every entry into the kernel
	// that waits.
	flush()
	// kept reports whether answers wait for another flush.
	kept() bool
	// completed takes a completion of one of its commands.
	completed(c *uring.CQE)
	// leave is flush for the last time, when no completion is looked at any more and all
	// that was queued is submitted.
	leave()
	// end is the last call on the thread, however the queue has ended. After it no data of a
	// request may reach the memory of the process any more.
	end() error
	// release gives back what setup got, when the ring is closed.
	release() error
}

// newExchange makes the exchange that the features of the device ask for.
func newExchange(q *Queue) exchange {
	if q.dev.info.BatchIO() {
		return &batchCommands{q: q}
	}
	return &tagCommands{q: q}
}

// tagCommands gives each tag a command of its own: the answer to one request fetches the next.
type tagCommands struct{ q *Queue }

func (x *tagCommands) setup() error { return nil }

func (x *tagCommands) begin() {
	for tag := range x.q.depth {
		x.q.alive++
		x.command(uapi.IOFetchReq, uint16(tag), 0)
	}
}

func (x *tagCommands) answer(tag uint16, res int32) {
	x.command(uapi.IOCommitAndFetchReq, tag,
		res)
}

func (x *tagCommands) flush()         {}
func (x *tagCommands) kept() bool     { return false }
func (x *tagCommands) leave()         {}
func (x *tagCommands) end() error     { return nil }
func (x *tagCommands) release() error { return nil }

// command queues a fetch, or a commit and fetch, of a tag.
func (x *tagCommands) command(op uint32, tag uint16, res int32) {
	q := x.q
	s := q.entry()
	p := (*uapi.IOCmd)(uring.Command(s, charIndex, true, op))
	p.QID, p.Tag, p.Result = uint16(q.id), tag, res
	if q.zeroCopy {
		// If the kernel cannot register the buffer it says so with the request, instead of
		// failing it.
		s.Addr = uapi.AutoBufReg{Index: tag, Flags: uapi.AutoBufRegFallback}.SQEAddr()
	} else {
		p.Addr = q.bufAddr(tag)
	}
	s.UserData = kindCommand | uint64(tag)
}

// completed takes the answer to a fetch: a request, or the end of the tag.
func (x *tagCommands) completed(c *uring.CQE) {
	q, tag := x.q, uint16(c.UserData&tagMask)
	switch c.Res {
	case uapi.IOResOK:
		q.arrived(tag)
	case uapi.IOResAbort:
		q.alive--
		q.requestsEnd()
	default:
		q.fail(fmt.Errorf("the kernel refused a command for tag %d: %w", tag,
			syscall.Errno(-c.Res)))
	}
}
