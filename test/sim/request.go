package sim

import (
	"fmt"
	"syscall"
	"time"

	"ublkremap/remap"
)

// userReq is one request of the user of the device, from submission to its answer. It outlives a
// server that is killed, because the kernel gives it to the next one.
type userReq struct {
	remap.Request
	queue    int
	id       uint64 // of the write
	buf      []byte
	perBlock uint64 // sectors

	start   int64      // model clock
	begun   int64      // step of the simulation
	time    int64      // of the simulation, ns
	allowed [][]uint64 // per sector: what a read may return
	raced   []bool     // per sector: a write was under way during the read

	// of a read, per block: whether it was read; if not, whether an operation on it failed for its
	// medium
	read, bad []bool
	// of a read: on which disk a block that failed for its medium did so last, and, one bit per
	// disk, which disks have said by ENODATA that it was their medium
	badOn  []uint8
	medium uint32

	failed bool    // an operation of it failed
	path   bool    // an operation failed, and not for its medium
	errnos []int32 // all that its operations answered
	// crowded: so many other reads of its queue were under way that it need not be tried if its
	// blocks are pending.
	crowded bool
	denied  bool     // it was denied a spare unit while blocks of it were pending or lost
	inPlace unitSpan // units that the arbiter lets it write in place

	noted       bool       // BugNotesFirstOnly: something of it
	flushFailed bool       // a flush of a disk failed
	failures    flushCount // flushes that had failed when it began
	reported    flushCount // OpFlush: failed flushes that were reported when it began
	// OpFlush: failed flushes at the time when a first disk was flushed; -1: none was flushed
	seen int
	// A request of the background reader, of which:
	internal  bool
	cancelled bool
	whole     []byte        // the buffer that buf is the first part of
	returned  bool          // BugReaderBuffer: whole is free already
	unread    []bool        // blocks that the result does not have
	issued    int64         // when its operation that is under way began, in ns
	slowest   time.Duration // of its operations

	reached map[uint64]bool // OpDiscard: blocks that were discarded on a disk
}

func (r *userReq) first() uint64   { return r.Block * r.perBlock }
func (r *userReq) sectors() uint64 { return uint64(r.Count) * r.perBlock }

// value is what the request leaves in each of its sectors.
func (r *userReq) value() uint64 {
	if r.Op == remap.OpWrite {
		return r.id
	}
	return valueZero
}

var opNames = map[remap.Op]string{
	remap.OpRead: "read", remap.OpWrite: "write", remap.OpWriteZeroes: "write-zeroes",
	remap.OpDiscard: "discard", remap.OpFlush: "flush",
}

func (r *userReq) String() string {
	s := fmt.Sprintf("q%d/%d %s", r.queue, r.Tag, opNames[r.Op])
	if r.Op != remap.OpFlush {
		s += fmt.Sprintf(" %d+%d", r.Block, r.Count)
	}
	if r.Op == remap.OpWrite {
		s += fmt.Sprintf(" (write %d)", r.id)
	}
	if r.FUA {
		s += " FUA"
	}
	return s
}

func errnoName(res int32) string {
	if res >= 0 {
		return fmt.Sprint(res)
	}
	return syscall.Errno(-res).Error()
}
