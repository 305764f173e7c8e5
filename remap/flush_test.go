package remap

import (
	"syscall"
	"testing"
)

const eio = -int32(syscall.EIO)

// newFlushRig is a rig whose backing disk lacks FUA, or not.
func newFlushRig(t testing.TB, noFUA bool) *rig {
	r := newRig(t, 512, 64)
	r.s.geo.NoFUA[0] = noFUA
	return r
}

// issued takes the operation that was issued last; it must be the only one.
func (r *rig) issued() IO {
	r.t.Helper()
	if len(r.ios) != 1 {
		r.t.Fatalf("%d operations were issued: %+v", len(r.ios), r.ios)
	}
	io := r.ios[0]
	r.ios = r.ios[:0]
	return io
}

func (r *rig) submit(tag uint16, op Op, fua bool, block uint64, count uint32) {
	delete(r.results, tag)
	r.e.Submit(&Request{Tag: tag, Op: op, FUA: fua, Block: block, Count: count})
}

// answered says what a request was answered, 1 for nothing.
func (r *rig) answered(tag uint16) int32 {
	if res, ok := r.results[tag]; ok {
		return res
	}
	return 1
}

// toldOnce makes sure that the next flush fails, and the one after it does not.
func (r *rig) toldOnce() {
	r.t.Helper()
	r.want("the next flush", r.do(OpFlush, 0, 0), eio)
	r.want("the flush after that", r.do(OpFlush, 0, 0), int32(0))
}

// nothingMoved makes sure that a failed flush was not taken for another failure.
func (r *rig) nothingMoved() {
	r.t.Helper()
	r.want("spare units in use", r.alloc.Used(), uint64(0))
	r.want("spare units retired", r.alloc.Retired(), uint64(0))
	r.want("the breaker is open", r.s.Tripped(), false)
	r.want("blocks mapped", r.s.m.Counts(), Counts{})
	r.e.Publish()
	r.want("write errors", r.s.Counters().WriteErrors, uint64(0))
}

// TestFUAWriteIsTwoOperations: without FUA a write that is to be durable is a write, then a flush;
// with FUA it is one operation, as usual.
func TestFUAWriteIsTwoOperations(t *testing.T) {
	for _, noFUA := range []bool{false, true} {
		for _, op := range []Op{OpWrite, OpWriteZeroes} {
			r := newFlushRig(t, noFUA)
			r.submit(0, op, true, 1000, 8)
			io := r.issued()
			two := noFUA || op == OpWriteZeroes // nothing zeroes with FUA
			r.want("operation", io.Op, op)
			r.want("FUA", io.FUA, !two)
			length := int32(io.Length)
			if op == OpWriteZeroes {
				length = 0
			}
			r.e.Complete(io.ID, length)
			if two {
				r.want("answered before the flush", r.answered(0), int32(1))
				io = r.issued()
				r.want("then", io.Op, OpFlush)
				r.e.Complete(io.ID, 0)
			}
			r.want("answer", r.answered(0), int32(0))
			r.want("operations left", len(r.ios), 0)
		}
	}
}

// TestFUAWriteWhoseFlushFails: it fails with the error of the flush, nothing is retried or
// remapped, and the next flush fails, too.
func TestFUAWriteWhoseFlushFails(t *testing.T) {
	for _, op := range []Op{OpWrite, OpWriteZeroes} {
		for _, errno := range []syscall.Errno{syscall.EIO, syscall.ENODATA, syscall.EREMOTEIO,
			syscall.ENOSPC, syscall.ENOLINK} {
			r := newFlushRig(t, true)
			r.submit(0, op, true, 1000, 8)
			io := r.issued()
			length := int32(io.Length)
			r.e.Complete(io.ID, length)
			r.e.Complete(r.issued().ID, -int32(errno))
			r.want("answer", r.answered(0), -int32(errno))
			r.run()
			r.nothingMoved()
			r.toldOnce()
		}
	}
}

// TestHealWhoseFlushFails: the data may not be in the spare unit, so no record names it; the spare
// unit is as good as before.
func TestHealWhoseFlushFails(t *testing.T) {
	for _, op := range []Op{OpWrite, OpWriteZeroes} {
		r := newFlushRig(t, true)
		r.breakHome(1003, syscall.EIO)
		r.submit(0, op, false, 1000, 8)
		for failed := false; !failed || len(r.ios)+len(r.toA)+len(r.toE) > 0; {
			switch {
			case len(r.toA) > 0:
				m := r.toA[0]
				r.toA = r.toA[1:]
				r.a.Receive(&m)
			case len(r.toE) > 0:
				m := r.toE[0]
				r.toE = r.toE[1:]
				r.e.Answer(&m)
			default:
				io := r.issued()
				res := r.result(io.Device, io.Offset, io.Length, io.Op)
				if io.Op == OpFlush {
					failed, res = true, eio
				}
				r.e.Complete(io.ID, res)
			}
		}
		r.want("answer", r.answered(0), eio)
		r.want("entries committed", len(r.entries), 0)
		r.run()
		r.want("spare units in use", r.alloc.Used(), uint64(0))
		r.want("spare units retired", r.alloc.Retired(), uint64(0))
		r.want("the breaker is open", r.s.Tripped(), false)
		r.toldOnce()
	}
}

// TestMoveWhoseFlushFails: the blocks stay where they are, and the spare unit is not called bad.
func TestMoveWhoseFlushFails(t *testing.T) {
	r := newFlushRig(t, true)
	if err := r.a.Move(Move{ID: 7, Block: 1000, Count: 8, ToSpare: true}); err != nil {
		t.Fatal(err)
	}
	for len(r.ended) == 0 {
		if len(r.toE)+len(r.toA) > 0 {
			r.messages()
			continue
		}
		if len(r.moves) == 0 {
			t.Fatal("the move does not go on")
		}
		m := r.moves[0]
		r.moves = r.moves[1:]
		if m.Op == OpWrite {
			f := r.s.Durable(m.Device)
			f.Begin()
			f.End(eio)
			r.a.TransferUnflushed(m.ID)
		} else {
			r.a.Transferred(m.ID, int32(len(m.Data)))
		}
	}
	r.want("moved", r.ended[0].Moved, uint64(0))
	r.want("failed", r.ended[0].Failed, uint64(8))
	r.run()
	r.nothingMoved()
	r.toldOnce()
}

// messages carries one message.
func (r *rig) messages() {
	if len(r.toA) > 0 {
		m := r.toA[0]
		r.toA = r.toA[1:]
		r.a.Receive(&m)
		return
	}
	m := r.toE[0]
	r.toE = r.toE[1:]
	r.e.Answer(&m)
}

// TestFlushesInFlightAllFail: if a flush fails, every flush that was under way fails.
func TestFlushesInFlightAllFail(t *testing.T) {
	r := newFlushRig(t, false)
	r.submit(0, OpFlush, false, 0, 0)
	first := r.issued()
	r.submit(1, OpFlush, false, 0, 0)
	second := r.issued()
	r.e.Complete(first.ID, eio)
	r.want("the one that failed", r.answered(0), eio)
	r.submit(2, OpFlush, false, 0, 0)
	third := r.issued()
	r.e.Complete(second.ID, 0)
	r.want("the other one in flight", r.answered(1), eio)
	r.e.Complete(third.ID, 0)
	r.want("one that began after it was told", r.answered(2), int32(0))
}

// TestFlushWaitsForFlushesOfOurs: a flush that goes well while one of the keeper's is under way is
// answered when the result of the keeper's is known, because that one may have dropped data that
// this one was to cover. Flushes that begin later are not waited for.
func TestFlushWaitsForFlushesOfOurs(t *testing.T) {
	for _, res := range []int32{0, eio, -int32(syscall.ENOMEM)} {
		r := newFlushRig(t, false)
		ours := r.s.Durable(0)
		ours.Begin()
		r.submit(0, OpFlush, false, 0, 0)
		r.e.Complete(r.issued().ID, 0)
		later := r.s.Durable(0)
		later.Begin()
		for range 3 {
			r.clock = r.e.Deadline()
			if r.clock == 0 {
				t.Fatal("nothing is waited for")
			}
			r.e.Tick(r.clock)
			r.want("answered while it is not known", r.answered(0), int32(1))
		}
		ours.End(res)
		r.clock = r.e.Deadline()
		r.e.Tick(r.clock)
		want := int32(0)
		if res == eio {
			want = eio
		}
		r.want("answer", r.answered(0), want)
		later.End(0)
		r.want("the keeper's write is kept", later.Kept(), res != eio)
		r.want("the next flush", r.do(OpFlush, 0, 0), int32(0))
	}
}

// TestWriteInCacheWhileAFlushFails: a write that was to be made durable by its own flush may have
// been dropped by another one.
func TestWriteInCacheWhileAFlushFails(t *testing.T) {
	r := newFlushRig(t, true)
	r.submit(0, OpWrite, true, 1000, 8)
	io := r.issued()
	r.e.Complete(io.ID, int32(io.Length))
	flush := r.issued()
	other := r.s.Durable(0)
	other.Begin()
	other.End(eio)
	r.e.Complete(flush.ID, 0)
	r.want("answer", r.answered(0), eio)
	r.nothingMoved()
	r.toldOnce()
}

// TestOtherDevicesFlush: a failed flush of a spare device is reported as well. It does not affect a
// write to the backing disk.
func TestOtherDevicesFlush(t *testing.T) {
	r := newFlushRig(t, true)
	r.submit(0, OpWrite, true, 1000, 8)
	io := r.issued()
	r.e.Complete(io.ID, int32(io.Length))
	flush := r.issued()
	other := r.s.Durable(1)
	other.Begin()
	other.End(eio)
	r.e.Complete(flush.ID, 0)
	r.want("answer", r.answered(0), int32(0))
	r.want("untold", r.s.UnreportedFlush(), true)
	r.toldOnce()
	r.want("untold", r.s.UnreportedFlush(), false)
}

// TestFlushWithoutFUAAllocatesNothing: as all of the I/O path.
func TestFlushWithoutFUAAllocatesNothing(t *testing.T) {
	r := newFlushRig(t, true)
	d := &instant{}
	e := NewEngine(EngineConfig{Depth: 1, MaxBlocks: 64, ZeroBlocks: 8}, r.s, d)
	if n := testing.AllocsPerRun(100, func() {
		e.Submit(&Request{Op: OpWrite, FUA: true, Block: 1000, Count: 8})
		e.Complete(d.io.ID, int32(d.io.Length))
		e.Complete(d.io.ID, 0)
		e.Submit(&Request{Op: OpFlush})
		e.Complete(d.io.ID, 0)
	}); n != 0 || e.Inflight() != 0 {
		t.Errorf("%v allocations, %d requests in flight", n, e.Inflight())
	}
}
