package remap

import (
	"errors"
	"slices"
	"syscall"
	"testing"
	"time"

	"ublkremap/metadata"
)

const rigInternal = 2

// internalEnd is the result of an internal request, with the blocks that it names.
type internalEnd struct {
	InternalResult
	read, failed []uint32
}

func (r *rig) FinishInternal(res *InternalResult) {
	end := internalEnd{InternalResult: *res}
	for b := range uint32(len(res.Read.set) * 64) {
		if res.Read.Has(b) {
			end.read = append(end.read, b)
		}
		if res.Failed.Has(b) {
			end.failed = append(end.failed, b)
		}
	}
	r.internal = append(r.internal, end)
}

// submitInternal begins an internal read by the tag-th of the tags for them.
func (r *rig) submitInternal(tag int, block uint64, count uint32) {
	r.t.Helper()
	err := r.e.SubmitInternal(&InternalRequest{Tag: uint16(64 + tag), Cause: metadata.CauseScrub,
		Block: block, Count: count, Buffer: make([]byte, int(count)*r.s.geo.BlockSize)})
	if err != nil {
		r.t.Fatal(err)
	}
}

// readInternal reads blocks to the end.
func (r *rig) readInternal(block uint64, count uint32) internalEnd {
	r.t.Helper()
	r.internal = nil
	r.submitInternal(0, block, count)
	r.run()
	if len(r.internal) != 1 || r.e.InternalInflight() != 0 {
		r.t.Fatalf("%d internal requests have ended, %d are in flight", len(r.internal),
			r.e.InternalInflight())
	}
	return r.internal[0]
}

func (r *rig) pendingIn(block, count uint64) (blocks []uint64) {
	per := r.s.geo.BlocksPerUnit()
	for b := block; b < block+count; b++ {
		if r.s.m.Unit(b/per).Pending>>(b%per)&1 != 0 {
			blocks = append(blocks, b)
		}
	}
	return blocks
}

func TestInternalReadGoesOnPastBadBlocks(t *testing.T) {
	r := newRig(t, 512, 64)
	r.breakHome(1003, syscall.ENODATA)
	r.breakHome(1010, syscall.EIO)
	end := r.readInternal(1000, 16)
	r.want("Ended", end.Ended, int32(0))
	r.want("NotNoted", end.NotNoted, false)
	r.want("read", end.Read.Count(), uint32(14))
	if !slices.Equal(end.failed, []uint32{3, 10}) {
		t.Errorf("failed: %v", end.failed)
	}
	r.want("Errno", end.Errno, -int32(syscall.ENODATA))
	if got := r.pendingIn(1000, 16); !slices.Equal(got, []uint64{1003, 1010}) {
		t.Errorf("pending: %v", got)
	}
	for _, e := range r.entries {
		r.want("cause", e.Cause, metadata.CauseScrub)
	}

	// A user's read that fails has another cause.
	r.breakHome(2000, syscall.EIO)
	r.entries = nil
	r.want("a user's read", r.do(OpRead, 2000, 1), -int32(syscall.EIO))
	r.want("its cause", r.entries[0].Cause, metadata.CauseRead)
}

func TestInternalRequestsAreCountedByThemselves(t *testing.T) {
	r := newRig(t, 512, 64)
	r.breakHome(1003, syscall.ENODATA)
	r.readInternal(1000, 16)
	r.want("a user's read", r.do(OpRead, 3000, 8), int32(0))
	r.e.Publish()
	user, own := r.s.Counters(), r.s.InternalCounters()
	r.want("user", user, Counters{Reads: 1, ReadBytes: 4096})
	r.want("reads", own.Reads, uint64(1))
	r.want("bytes", own.ReadBytes, uint64(15*512))
	if own.ReadErrors == 0 {
		t.Error("no failed operation was counted")
	}
}

func TestInternalReadOfLostBlocks(t *testing.T) {
	r := newRig(t, 512, 64)
	r.s.m.Apply(metadata.Entry{Unit: 125, Count: 1, Mask: 2, State: metadata.StateLost})
	end := r.readInternal(1000, 8)
	r.want("read", end.Read.Count(), uint32(7))
	if !slices.Equal(end.failed, []uint32{1}) || end.Errno != -int32(syscall.EIO) {
		t.Errorf("failed: %v, %d", end.failed, end.Errno)
	}
}

func TestInternalReadEndsForItsPath(t *testing.T) {
	r := newRig(t, 512, 64)
	r.breakHome(100, syscall.ENOLINK) // in the displaced head: an operation of its own
	end := r.readInternal(100, 200)
	r.want("Ended", end.Ended, -int32(syscall.ENOLINK))
	r.want("Errno", end.Errno, int32(0))
	if end.Read.Count() != 0 || end.Failed.Count() != 0 {
		t.Errorf("read %v, failed %v", end.read, end.failed)
	}
	r.want("pending", len(r.pendingIn(100, 200)), 0)
}

func TestInternalReadSaysThatNothingIsNoted(t *testing.T) {
	r := newRig(t, 512, 64)
	r.breakHome(1003, syscall.EIO)
	r.s.tripped.Store(true)
	end := r.readInternal(1000, 8)
	r.want("NotNoted", end.NotNoted, true)
	r.want("Ended", end.Ended, -int32(syscall.EIO))
	r.want("pending", len(r.pendingIn(1000, 8)), 0)
}

// TestInternalReadOfPendingBlocks: blocks that are pending already need no note, so the breaker
// does not matter.
func TestInternalReadOfPendingBlocks(t *testing.T) {
	r := newRig(t, 512, 64)
	r.breakHome(1003, syscall.EIO)
	r.readInternal(1000, 8)
	if got := r.pendingIn(1000, 8); !slices.Equal(got, []uint64{1003}) {
		t.Fatalf("pending: %v", got)
	}
	r.clock += int64(DefaultFailFast)
	r.s.tripped.Store(true)
	end := r.readInternal(1000, 8)
	r.want("NotNoted", end.NotNoted, false)
	r.want("not noted", r.e.ownInternal.NotNoted, uint64(0))
	if !slices.Equal(end.failed, []uint32{3}) || end.Errno != -int32(syscall.EIO) {
		t.Errorf("failed: %v, %d", end.failed, end.Errno)
	}
}

func TestInternalReadSaysWhatWasSlow(t *testing.T) {
	r := newRig(t, 512, 64)
	r.slow = int64(3 * time.Second)
	r.breakHome(1003, syscall.ENODATA)
	end := r.readInternal(1000, 16)
	if end.Slowest != 3*time.Second || end.SlowBlock > 1003 ||
		end.SlowBlock+uint64(end.SlowCount) <= 1003 {
		t.Errorf("%v at %d+%d", end.Slowest, end.SlowBlock, end.SlowCount)
	}
}

func TestInternalRequestIsRefused(t *testing.T) {
	r := newRig(t, 512, 64)
	r.submitInternal(0, 0, 8)
	ok := InternalRequest{Tag: 65, Block: 8, Count: 2, Buffer: make([]byte, 1024)}
	for name, c := range map[string]struct {
		change func(*InternalRequest)
		want   error
	}{
		"a tag in use":     {func(q *InternalRequest) { q.Tag = 64 }, ErrInternalTag},
		"a user's tag":     {func(q *InternalRequest) { q.Tag = 63 }, ErrInternalTag},
		"no such tag":      {func(q *InternalRequest) { q.Tag = 64 + rigInternal }, ErrInternalTag},
		"past the end":     {func(q *InternalRequest) { q.Block = rigBlocks - 1 }, ErrRange},
		"far past the end": {func(q *InternalRequest) { q.Block = ^uint64(0) }, ErrRange},
		"no blocks":        {func(q *InternalRequest) { q.Count, q.Buffer = 0, nil }, ErrRange},
		"a short buffer":   {func(q *InternalRequest) { q.Buffer = q.Buffer[1:] }, ErrRange},
	} {
		q := ok
		c.change(&q)
		if err := r.e.SubmitInternal(&q); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	r.want("in flight", r.e.InternalInflight(), 1)
	r.run()
}

func TestCancelInternal(t *testing.T) {
	r := newRig(t, 512, 64)
	r.breakHome(1003, syscall.ENODATA)
	r.submitInternal(0, 1000, 16)
	r.e.CancelInternal(64)
	r.want("ended before its operation has", len(r.internal), 0)
	r.run()
	end := r.internal[0]
	r.want("Ended", end.Ended, -int32(syscall.ECANCELED))
	// Blocks that failed together were not tried by themselves: nothing is known about them.
	r.want("pending", len(r.pendingIn(1000, 16)), 0)
	r.e.CancelInternal(64) // it is free
	r.e.CancelInternal(0)  // the user's

	// One that waits for resources ends at once.
	r.breakHome(2000, syscall.ENOMEM)
	r.submitInternal(1, 2000, 1)
	r.step()
	r.e.CancelInternal(65)
	r.want("ended", len(r.internal), 2)
	r.want("deadline", r.e.Deadline(), int64(0))
	r.want("in flight", r.e.InternalInflight(), 0)

	// A request that waits for busy units ends at once, too.
	r.s.m.SetBusy(250, 1, true)
	r.submitInternal(0, 2000, 1)
	r.want("operations", len(r.ios), 0)
	r.e.CancelInternal(64)
	r.want("ended", len(r.internal), 3)
}

// TestNoGracePeriodWaitsForInternalReads: requests of the user go on, however long internal reads
// take.
func TestNoGracePeriodWaitsForInternalReads(t *testing.T) {
	r := newRig(t, 512, 64)
	r.submitInternal(0, 1000, 8)
	slow := r.ios
	r.ios = nil
	if err := r.a.Move(Move{Block: 1000, Count: 8, ToSpare: true}); err != nil {
		t.Fatal(err)
	}
	r.want("a write to what moves", r.do(OpWrite, 1000, 8), int32(0))
	r.want("moves", len(r.ended), 1)
	r.ios = slow
	r.run()
	r.want("Ended", r.internal[0].Ended, int32(0))
}

// TestInternalReadOfReusedSpare: a spare unit may have been given to others while it is read.
func TestInternalReadOfReusedSpare(t *testing.T) {
	r := newRig(t, 512, 64)
	move := func(toSpare bool) {
		t.Helper()
		if err := r.a.Move(Move{Block: 1000, Count: 8, ToSpare: toSpare}); err != nil {
			t.Fatal(err)
		}
	}
	move(true)
	r.run()
	r.submitInternal(0, 1000, 8)
	slow := r.ios
	r.ios = nil
	r.transfer = func(tr *Transfer) int32 { return int32(len(tr.Data)) }
	move(false)
	r.run()
	r.want("used spare units", r.alloc.Used(), uint64(0))
	r.ios, r.log = slow, []IO{}
	r.run()
	r.want("Ended", r.internal[0].Ended, int32(0))
	if len(r.log) != 2 || r.log[1].Offset != 1000*512 {
		t.Errorf("operations: %+v", r.log)
	}
}

// TestInternalRequestUsesOneOperation: the operations beside those of the tags are for the
// user's requests.
func TestInternalRequestUsesOneOperation(t *testing.T) {
	r := newRig(t, 512, 64)
	for unit := uint64(125); unit < 133; unit += 2 {
		r.s.m.Apply(metadata.Entry{Unit: unit, Count: 1, Mask: 0xff, Spare: uint32(unit),
			State: metadata.StateMapped})
	}
	free := r.e.free
	r.submitInternal(0, 1000, 64)
	r.want("operations", len(r.ios), 1)
	r.want("the next free one", r.e.free, free)
	r.run()
	r.want("read", r.internal[0].Read.Count(), uint32(64))
}

func TestInternalRequestAllocatesNothing(t *testing.T) {
	r := newRig(t, 512, 64)
	d := &instant{}
	e := NewEngine(EngineConfig{Depth: 1, MaxBlocks: 64, InternalTags: 1, Internal: d}, r.s, d)
	q := InternalRequest{Tag: 1, Block: 1000, Count: 8, Buffer: make([]byte, 4096)}
	if n := testing.AllocsPerRun(100, func() {
		if err := e.SubmitInternal(&q); err != nil {
			t.Fatal(err)
		}
		e.Complete(d.io.ID, int32(d.io.Length))
		e.Publish()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	r.want("finished", d.internal, 101)
}
