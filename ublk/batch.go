package ublk

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"ublkremap/ublk/internal/uapi"
	"ublkremap/ublk/internal/uring"
)

// batchCommands exchanges many tags with one command (UBLK_F_BATCH_IO, "Batch I/O Commands"
// in Documentation/block/ublk.rst):
//
//	PREP    once, for all tags: where the data of each is to be, as in a fetch
//	FETCH   once: it completes whenever requests have come, with their tags in a provided buffer
//	COMMIT  once in a round of the loop: the answers to all requests that were done in it
//
// A server that dies loses nothing: the kernel marks a request as the server's when it puts the tag
// into the buffer (ublk_batch_prep_dispatch in drivers/block/ublk_drv.c), even if the server never
// looks, and keeps requests that found no room in a queue of its own. It gives both to the next
// server when the dead one's file is released (ublk_abort_queue).
type batchCommands struct {
	q     *Queue
	tags  *uring.Provided // where FETCH puts them
	armed bool            // FETCH is with the kernel, or on its way

	memory    []byte // of the elements
	bytes     int    // of an element
	flags     uint16
	sets      [2]elements
	filling   int  // the set that takes the answers
	underWay  bool // the other one is with the kernel
	rearmings int  // how often FETCH ended for lack of room
}

// elements is the memory of one command. It has room for all tags, so a command is never sent
// early. Two sets are enough, because a tag is in at most one command at a time.
type elements struct {
	bytes []byte
	n     int // elements
	sent  int // of them the kernel has taken, when it took only a part
}

// A batch element is an ElemHeader, and the address of the tag's buffer if data is copied.
const (
	batchHeader   = int(unsafe.Sizeof(uapi.ElemHeader{}))
	batchWithAddr = batchHeader + 8
)

const (
	tagBytes = 2 // of a tag in FETCH's buffer
	tagGroup = 0 // FETCH's group of provided buffers, the only one of the ring
	// tagRoom is the least size of a provided buffer. The larger it is the less often one
	// is given back.
	tagRoom = 2048
)

func (x *batchCommands) setup() (err error) {
	q := x.q
	x.bytes, x.flags = batchWithAddr, uapi.BatchHasBufAddr
	if q.zeroCopy {
		// The fallback: if the kernel cannot register the buffer it says so with the
		// request, instead of failing it.
		x.bytes, x.flags = batchHeader, uapi.BatchAutoBufFallback
	}
	size := q.depth * x.bytes
	if x.memory, err = uring.Mmap(len(x.sets) * size); err != nil {
		return err
	}
	for i := range x.sets {
		x.sets[i].bytes = x.memory[i*size : (i+1)*size]
	}
	// A buffer has room for all tags. One of the two is therefore always with the kernel:
	// until the last tag in the first one is looked at, the second cannot be full.
	x.tags, err = q.ring.NewProvided(tagGroup, max(tagRoom, q.depth*tagBytes))
	return err
}

func (x *batchCommands) begin() {
	for tag := range x.q.depth {
		x.add(uint16(tag), 0)
	}
	x.q.alive = x.q.depth
	x.send(uapi.IOPrepIOCmds, kindPrepare)
	x.arm()
}

// arm queues FETCH.
func (x *batchCommands) arm() {
	s := x.q.entry()
	p := (*uapi.BatchIO)(uring.MultishotCommand(s, charIndex, uapi.IOFetchIOCmds, tagGroup))
	p.QID, p.ElemBytes = uint16(x.q.id), tagBytes
	s.UserData = kindFetch
	x.armed = true
}

func (x *batchCommands) answer(tag uint16, res int32) { x.add(tag, res) }

// add appends an element to the set being filled.
func (x *batchCommands) add(tag uint16, res int32) {
	set := &x.sets[x.filling]
	e := unsafe.Pointer(&set.bytes[set.n*x.bytes])
	// The index is that of the ring's buffer; without zero copy the kernel does not use it.
	*(*uapi.ElemHeader)(e) = uapi.ElemHeader{Tag: tag, BufIndex: tag, Result: res}
	if !x.q.zeroCopy {
		*(*uint64)(unsafe.Add(e, batchHeader)) = x.q.bufAddr(tag)
	}
	set.n++
}

// flush queues a COMMIT of all answers, unless one is with the kernel: then the answers
// wait for its completion, which ends the wait that follows.
func (x *batchCommands) flush() {
	if x.kept() && !x.underWay {
		x.send(uapi.IOCommitIOCmds, kindCommit)
		// The kernel carries it out at once (ublk_handle_batch_commit_cmd).
		x.q.ring.Prompt()
	}
}

func (x *batchCommands) kept() bool { return x.sets[x.filling].n > 0 }

// send hands over the set that was being filled, and goes on with the other.
func (x *batchCommands) send(op uint32, kind uint64) {
	x.command(op, kind, &x.sets[x.filling])
	x.filling, x.underWay = 1-x.filling, true
}

// command queues a command for those elements of the set that the kernel has not taken.
func (x *batchCommands) command(op uint32, kind uint64, set *elements) {
	s := x.q.entry()
	p := (*uapi.BatchIO)(uring.Command(s, charIndex, true, op))
	p.QID, p.Flags, p.NrElem, p.ElemBytes = uint16(x.q.id), x.flags, uint16(set.n-set.sent),
		uint8(x.bytes)
	s.Addr = uint64(uintptr(unsafe.Pointer(&set.bytes[set.sent*x.bytes])))
	s.UserData = kind
}

func (x *batchCommands) completed(c *uring.CQE) {
	switch c.UserData & kindMask {
	case kindFetch:
		x.fetched(c)
	case kindPrepare:
		if c.Res != 0 {
			x.q.fail(fmt.Errorf("PREP_IO_CMDS: %w", syscall.Errno(-c.Res)))
			return
		}
		x.free()
	case kindCommit:
		x.committed(c.Res)
	}
}

// free makes the set that was with the kernel the next one.
func (x *batchCommands) free() {
	set := &x.sets[1-x.filling]
	set.n, set.sent, x.underWay = 0, 0, false
}

// committed takes the answer to COMMIT: how many bytes of elements the kernel has handled. It stops
// at an element that it refuses. It returns the reason only if that element is the first. So the
// elements that are left are handed over again.
func (x *batchCommands) committed(res int32) {
	set := &x.sets[1-x.filling]
	left := set.n - set.sent
	switch n := int(res) / x.bytes; {
	case res <= 0 || n > left:
		tag := (*uapi.ElemHeader)(unsafe.Pointer(&set.bytes[set.sent*x.bytes])).Tag
		x.q.fail(fmt.Errorf("the kernel refused the answer to tag %d, the first of %d (%d): %w",
			tag, left, res, syscall.Errno(max(0, -res))))
	case n < left:
		set.sent += n
		x.command(uapi.IOCommitIOCmds, kindCommit, set)
	default:
		x.free()
	}
}

// fetched takes a completion of FETCH: tags, or its end.
func (x *batchCommands) fetched(c *uring.CQE) {
	if !c.More() {
		x.fetchEnded(c)
		return
	}
	data, err := x.tags.Take(c)
	if err != nil {
		x.q.fail(err)
		return
	}
	for ; len(data) >= tagBytes; data = data[tagBytes:] {
		tag := *(*uint16)(unsafe.Pointer(unsafe.SliceData(data)))
		if int(tag) >= x.q.depth || x.q.tags[tag].owned {
			x.q.fail(fmt.Errorf("the kernel handed out tag %d of %d, which it cannot have", tag,
				x.q.depth))
			return
		}
		x.q.arrived(tag)
	}
	x.tags.Release(c)
}

func (x *batchCommands) fetchEnded(c *uring.CQE) {
	x.armed = false
	switch c.Res {
	case uapi.IOResAbort:
		x.q.alive = 0
		x.q.requestsEnd()
	case -int32(unix.ENOBUFS):
		// There was no room for the completion: handlers may have more operations under way
		// than the ring has room for. The kernel has taken the tags back, but it may have
		// used up a part of the buffer for them.
		x.rearmings++
		if err := x.tags.Reset(); err != nil {
			x.q.fail(err)
			return
		}
		x.arm()
	default:
		x.q.fail(fmt.Errorf("FETCH_IO_CMDS ended (%d): %w", c.Res, syscall.Errno(max(0, -c.Res))))
	}
}

// leave may use the set that was with the kernel again: the kernel reads the elements of a COMMIT,
// and carries it out, when it is submitted.
func (x *batchCommands) leave() {
	if x.kept() {
		x.free()
		x.flush()
	}
}

// end withdraws the provided buffers. A request that comes while the ring is being closed then
// makes FETCH end, and stays with the kernel. Otherwise Linux 7.0 to 7.3 would hand it out in a
// worker thread of the kernel, where no server takes it and the process's memory is not mapped;
// see uring.Mmap.
func (x *batchCommands) end() error {
	if x.tags == nil {
		return nil
	}
	return x.tags.Withdraw()
}

func (x *batchCommands) release() error {
	err := uring.Munmap(x.memory)
	if x.tags != nil {
		err = errors.Join(err, x.tags.Free())
	}
	return err
}
