package remap

import (
	"math/rand/v2"
	"syscall"
	"testing"

	"ublkremap/metadata"
)

// full uses up all spare units of a rig, for blocks from 32768 on.
func (r *rig) full() {
	r.t.Helper()
	for i := uint64(0); r.alloc.FreeCount() > 0; i++ {
		block := 32768 + i*r.s.geo.BlocksPerUnit()
		r.breakHome(block, syscall.EIO)
		r.want("write that takes a spare unit", r.do(OpWrite, block, 1), int32(0))
	}
}

// TestPendingWithoutSpares: with the spare region full, a pending block that reads
// again takes a write, and one that does not read still refuses it.
func TestPendingWithoutSpares(t *testing.T) {
	for _, bs := range []int{512, 4096} {
		r := newRig(t, bs, 2)
		r.full()
		per := r.s.geo.BlocksPerUnit()
		for b := uint64(2000); b < 2016; b++ {
			r.breakHome(b, syscall.EIO)
		}
		for b := uint64(2000); b < 2016; b++ {
			r.want("read of a bad block", r.do(OpRead, b, 1), -int32(syscall.EIO))
		}
		r.want("pending", r.s.m.Counts().Pending, uint64(16))
		r.log = []IO{}
		r.want("write while they fail", r.do(OpWrite, 2000, 16), -int32(syscall.EIO))
		for _, io := range r.log {
			if io.Op == OpWrite && !io.FUA {
				t.Errorf("block size %d: a pending block was written without FUA: %+v", bs, io)
			}
		}
		r.want("pending", r.s.m.Counts().Pending, uint64(16))
		r.want("tripped", r.s.Tripped(), false)

		// All but one read again.
		for b := uint64(2000); b < 2016; b++ {
			if b != 2005 {
				delete(r.bad, [2]int64{0, int64(b) * int64(bs)})
			}
		}
		r.entries = nil
		r.want("write with one that fails", r.do(OpWrite, 2000, 16), -int32(syscall.EIO))
		r.want("write of a well one", r.do(OpWrite, 2006, 1), int32(0))
		for _, e := range r.entries {
			if e.State != metadata.StateHome || e.Cause != metadata.CauseRetest {
				t.Errorf("block size %d: %+v was committed", bs, e)
			}
			if at := 2005 / per; at >= e.Unit && at < e.Unit+uint64(e.Count) &&
				e.Mask>>(2005%per)&1 != 0 {
				t.Errorf("block size %d: the block that does not read is called well: %+v", bs, e)
			}
		}
		delete(r.bad, [2]int64{0, 2005 * int64(bs)})
		r.want("write when all are well", r.do(OpWrite, 2000, 16), int32(0))
		r.want("pending", r.s.m.Counts().Pending, uint64(0))
		r.want("read", r.do(OpRead, 2000, 16), int32(0))
		r.want("claims", r.a.Status().Claims, 0)
		if _, mapped := r.s.m.Next(2000, 2016); mapped {
			t.Error("a block is not plainly at home")
		}
	}
}

// TestPendingInSpareWithoutSpares: the same for a block that lives in a spare unit.
func TestPendingInSpareWithoutSpares(t *testing.T) {
	r := newRig(t, 512, 1)
	r.full()
	spare := r.s.m.Unit(32768 / 8).Places[0].Spare
	r.breakSpare(spare, syscall.EIO)
	r.want("read", r.do(OpRead, 32768, 1), -int32(syscall.EIO))
	r.want("pending", r.s.m.Counts().Pending, uint64(1))
	r.want("write while it fails", r.do(OpWrite, 32768, 1), -int32(syscall.EIO))
	d, off := r.s.geo.SpareOffset(spare)
	for i := range int64(8) {
		delete(r.bad, [2]int64{int64(d), off + i*512})
	}
	r.want("write when it is well", r.do(OpWrite, 32768, 1), int32(0))
	info := r.s.m.Unit(32768 / 8)
	r.want("place", info.Places[0], Place{Spare: spare, Mask: 1})
	r.want("pending", info.Pending, uint8(0))
}

// TestRetestUnknown: when the record that calls a block good has an unknown outcome, the write is
// refused and the block answers errors until the breaker closes.
func TestRetestUnknown(t *testing.T) {
	r := newRig(t, 512, 1)
	r.full()
	r.breakHome(2000, syscall.EIO)
	r.do(OpRead, 2000, 1)
	delete(r.bad, [2]int64{0, 2000 * 512})
	r.unknown = true
	r.want("write", r.do(OpWrite, 2000, 1), -int32(syscall.EIO))
	r.want("tripped", r.s.Tripped(), true)
	r.want("read", r.do(OpRead, 2000, 1), -int32(syscall.EIO))
	r.unknown = false
	if err := r.a.Resume(); err != nil {
		t.Fatal(err)
	}
	r.run()
	r.want("write", r.do(OpWrite, 2000, 1), int32(0))
	r.want("pending", r.s.m.Counts().Pending, uint64(0))
}

// TestLostStaysLost: a block without a copy is never called good.
func TestLostStaysLost(t *testing.T) {
	r := newRig(t, 512, 1)
	r.full()
	r.s.m.Apply(metadata.Entry{Unit: 250, Count: 1, Mask: 1, State: metadata.StateLost})
	r.want("write", r.do(OpWrite, 2000, 1), -int32(syscall.EIO))
	if err := r.a.Move(Move{ID: 1, Block: 1990, Count: 100, Retest: true,
		Cause: metadata.CauseRetest}); err != nil {
		t.Fatal(err)
	}
	r.run()
	r.want("result", r.ended[0], MoveResult{ID: 1, Skipped: 100})
	r.want("read", r.do(OpRead, 2000, 1), -int32(syscall.EIO))
	r.want("lost", r.s.m.Counts().Lost, uint64(1))
}

// TestRetestMove: a retest that was asked for clears exactly those of random pending blocks that
// read, with retests for claims in between.
func TestRetestMove(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 1))
	for range 50 {
		r := newRig(t, 512, 1)
		r.full()
		pending := map[uint64]bool{}
		for range 40 {
			b := 1000 + rng.Uint64N(600)
			pending[b] = true
			r.breakHome(b, syscall.ENODATA)
			r.do(OpRead, b, 1)
		}
		bad := map[uint64]bool{}
		for b := range pending {
			if rng.IntN(3) == 0 {
				bad[b] = true
			} else {
				delete(r.bad, [2]int64{0, int64(b) * 512})
			}
		}
		if err := r.a.Move(Move{ID: 7, Block: 1000, Count: 600, Retest: true,
			Cause: metadata.CauseRetest}); err != nil {
			t.Fatal(err)
		}
		for tag := range uint16(8) {
			r.e.Submit(&Request{Tag: tag, Op: OpWrite, Block: 1000 + uint64(tag)*70, Count: 64})
		}
		r.run()
		r.want("failed", r.ended[0].Failed, uint64(len(bad)))
		for b := uint64(1000); b < 1600; b++ {
			run, ok := r.s.m.Next(b, b+1)
			if isPending := ok && run.Kind == KindPending; isPending != bad[b] {
				t.Fatalf("seed %d: block %d: pending %v, bad %v", seed, b, isPending, bad[b])
			}
		}
		for tag := range uint64(8) {
			want := int32(0)
			for b := range bad {
				if b >= 1000+tag*70 && b < 1064+tag*70 {
					want = -int32(syscall.EIO)
				}
			}
			if got := r.results[uint16(tag)]; got != want {
				t.Fatalf("seed %d: write %d: %d, want %d", seed, tag, got, want)
			}
		}
	}
}
