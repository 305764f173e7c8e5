package ublk

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"ublkremap/ublk/internal/uring"
)

// TestOperations compares what each operation puts on the ring with what the kernel wants: the
// opcode, the place, and the flags, by which a write is durable before it completes.
func TestOperations(t *testing.T) {
	const file, n, off, id = 1, 4096, 8192, 77
	const ( // linux/io_uring.h
		opFsync, opReadFixed, opWriteFixed, opFallocate, opRead, opWrite = 3, 4, 5, 17, 22, 23

		fixedFile, datasync = 1, 1
		dsync               = 2 // RWF_DSYNC, linux/fs.h
	)
	plain, registered := Buffer{addr: 0x1000}, Buffer{addr: 512, index: 5, fixed: 1 << 20}
	for _, c := range []struct {
		name  string
		begin func(q *Queue)
		want  uring.SQE
	}{
		{"read", func(q *Queue) { q.Read(file, plain, n, off, id) },
			uring.SQE{OpCode: opRead, Addr: 0x1000, Len: n, Off: off}},
		{"read into a registered buffer", func(q *Queue) { q.Read(file, registered, n, off, id) },
			uring.SQE{OpCode: opReadFixed, Addr: 512, Len: n, Off: off, BufIG: 5}},
		{"write", func(q *Queue) { q.Write(file, plain, n, off, 0, id) },
			uring.SQE{OpCode: opWrite, Addr: 0x1000, Len: n, Off: off}},
		{"FUA write", func(q *Queue) { q.Write(file, plain, n, off, WriteFUA, id) },
			uring.SQE{OpCode: opWrite, Addr: 0x1000, Len: n, Off: off,
				OpcodeFlags: dsync}},
		{"FUA write from a registered buffer",
			func(q *Queue) { q.Write(file, registered, n, off, WriteFUA, id) },
			uring.SQE{OpCode: opWriteFixed, Addr: 512, Len: n, Off: off, BufIG: 5,
				OpcodeFlags: dsync}},
		{"flush", func(q *Queue) { q.Flush(file, id) },
			uring.SQE{OpCode: opFsync, OpcodeFlags: datasync}},
		{"zeroes", func(q *Queue) { q.WriteZeroes(file, off, n, true, id) },
			uring.SQE{OpCode: opFallocate, Off: off, Addr: n,
				Len: unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE}},
		{"discard in a file", func(q *Queue) { q.Discard(file, off, n, id) },
			uring.SQE{OpCode: opFallocate, Off: off, Addr: n,
				Len: unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE}},
	} {
		// A queue that has failed fills an entry of its own, which the kernel never gets.
		q := &Queue{failure: errors.New("no ring")}
		c.begin(q)
		c.want.Fd, c.want.Flags, c.want.UserData = file+charIndex+1, fixedFile, id
		if q.discard != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, q.discard, c.want)
		}
		if q.inflight != 1 {
			t.Errorf("%s: %d operations are under way", c.name, q.inflight)
		}
	}
}
