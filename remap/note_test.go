package remap

import (
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"ublkremap/metadata"
)

// TestReadNotesThePhysicalBlock: a block that does not read makes its whole physical block fail.
// All of it is pending after one read of any part. The next write to any of it goes to a spare unit
// and reads.
func TestReadNotesThePhysicalBlock(t *testing.T) {
	for _, c := range []struct{ block, physical int }{{512, 512}, {512, 4096}, {1024, 4096},
		{512, 2048}, {4096, 4096}, {4096, 16384}, {512, 65536}} {
		r := newRigOf(t, c.block, c.physical, 256)
		n := uint64(c.physical / c.block)
		at := 40 * uint64(65536/c.block)
		r.wear(at, n)
		r.want("read of one block", r.do(OpRead, at+n/2, 1), -int32(syscall.ENODATA))
		r.want("pending", r.s.m.Counts().Pending, n)
		r.want("commits", len(r.entries) <= 2, true)
		r.want("write", r.do(OpWrite, at, uint32(n)), int32(0))
		r.want("pending", r.s.m.Counts().Pending, uint64(0))
		r.want("read", r.do(OpRead, at-1, uint32(n+2)), int32(0))
	}
}

// TestReadNotesAllThatFailed: every block that does not read is pending after one read, wherever
// it lies in the request, and what reads is not.
func TestReadNotesAllThatFailed(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		bs := []int{512, 4096}[rng.IntN(2)]
		r := newRig(t, bs, 2048)
		first, count := 512+rng.Uint64N(1000), uint64(1+rng.IntN(250))
		bad := map[uint64]bool{}
		for range 1 + rng.IntN(12) { // fewer than MaxBad: each is found by itself
			b := first + rng.Uint64N(count)
			bad[b] = true
			r.wear(b, 1)
		}
		r.want("read", r.do(OpRead, first, uint32(count)), -int32(syscall.ENODATA))
		for b := first - 1; b <= first+count; b++ {
			run, ok := r.s.m.Next(b, b+1)
			if pending := ok && run.Kind == KindPending; pending != bad[b] {
				t.Fatalf("block %d of %d+%d does not read: %v, pending: %v", b, first, count,
					bad[b], pending)
			}
		}
		r.want("write", r.do(OpWrite, first, uint32(count)), int32(0))
		r.want("read", r.do(OpRead, first, uint32(count)), int32(0))
	}
}

// TestReadNotesPastLostAndPending: blocks behind one that is lost, or known not to read, are tried
// too, because after a failed read the sender may write all of it again.
func TestReadNotesPastLostAndPending(t *testing.T) {
	r := newRig(t, 512, 64)
	r.s.m.Apply(metadata.Entry{Unit: 256, Count: 1, Mask: 1, State: metadata.StateLost})
	r.wear(256*8+3, 1)
	r.wear(256*8+13, 1)
	r.want("read", r.do(OpRead, 256*8, 16), -int32(syscall.EIO))
	r.want("pending", r.s.m.Counts().Pending, uint64(2))
	r.wear(256*8+14, 1)
	r.want("read", r.do(OpRead, 256*8+1, 15), -int32(syscall.ENODATA))
	r.want("pending", r.s.m.Counts().Pending, uint64(3))
}

// TestReadNotesBeforeThePathFails: an error of the path ends a read at once, and what
// failed for its medium before is noted anyway.
func TestReadNotesBeforeThePathFails(t *testing.T) {
	r := newRig(t, 512, 64)
	r.wear(2000, 1)
	r.e.Submit(&Request{Op: OpRead, Block: 1984, Count: 32})
	for r.ios[0].Length != 512 {
		r.step()
	}
	// The path fails while the bad block is looked for.
	io := r.ios[0]
	r.ios = r.ios[:0]
	r.e.Complete(io.ID, -int32(syscall.ENOLINK))
	r.run()
	r.want("read", r.results[0], -int32(syscall.ENOLINK))
	r.want("write", r.do(OpWrite, 1984, 32), int32(0))
	r.want("read", r.do(OpRead, 1984, 32), int32(0))
}

// TestNotNoted: when the table takes no more, or the breaker is open, the read fails as usual and
// is counted.
func TestNotNoted(t *testing.T) {
	r := newRig(t, 512, 64)
	r.wear(2000, 1)
	r.a.trip(TripPath, "test")
	r.want("read", r.do(OpRead, 1996, 8), -int32(syscall.ENODATA))
	r.want("pending", r.s.m.Counts().Pending, uint64(0))
	r.want("not noted", r.e.own.NotNoted, uint64(1))
}

// TestNotNotedCountsReads: each read is counted once, however many of its operations fail while the
// breaker is open, and also if the read was isolating already. A read that fails only where its
// blocks are pending is not counted.
func TestNotNotedCountsReads(t *testing.T) {
	r := newRig(t, 512, 64)
	r.wear(2000, 1)
	r.want("read", r.do(OpRead, 2000, 1), -int32(syscall.ENODATA))
	r.want("pending", r.s.m.Counts().Pending, uint64(1))
	r.wear(2010, 1)
	r.a.trip(TripPath, "test")

	// Block 2000 makes the read isolate. Block 2010 then fails in a first try.
	r.want("read", r.do(OpRead, 1996, 32), -int32(syscall.ENODATA))
	r.want("not noted", r.e.own.NotNoted, uint64(1))

	r.clock += int64(DefaultFailFast)
	r.want("read of what is pending", r.do(OpRead, 1996, 8), -int32(syscall.ENODATA))
	r.want("not noted", r.e.own.NotNoted, uint64(1))

	// The displaced head begins elsewhere on the disk: two operations fail.
	head := r.s.geo.HeadBlocks
	r.wear(head-1, 2)
	r.want("read of two places", r.do(OpRead, head-8, 16), -int32(syscall.ENODATA))
	r.want("not noted", r.e.own.NotNoted, uint64(2))
	r.want("pending", r.s.m.Counts().Pending, uint64(1))
}

// TestSlowErrors: if one sector takes long to fail, a write remaps only its unit, and a read notes
// only its unit, however long it takes and wherever it lies. It is waited for twice. Two such
// sectors affect no more than their units and what lies behind the second.
func TestSlowErrors(t *testing.T) {
	for _, took := range []time.Duration{time.Second, 3 * time.Second, 7 * time.Second,
		30 * time.Second, 120 * time.Second} {
		for _, c := range []struct{ block, physical, at int }{{512, 512, 0}, {512, 4096, 77},
			{512, 512, 500}, {512, 4096, 1023}, {4096, 4096, 0}, {4096, 4096, 60},
			{4096, 4096, 127}} {
			for _, op := range []Op{OpRead, OpWrite} {
				r := newRigOf(t, c.block, c.physical, 2048)
				r.slow = int64(took)
				n := uint32(512 << 10 / c.block)
				b := 10 * uint64(n)
				want := int32(0)
				if op == OpRead {
					want = -int32(syscall.ENODATA)
					r.wear(b+uint64(c.at), 1)
				} else {
					r.breakHome(b+uint64(c.at), syscall.ENODATA)
				}
				r.want("result", r.do(op, b, n), want)
				if waited := r.clock / int64(took); waited > 2 {
					t.Errorf("%v, block %d of %d bytes: waited for it %d times", took, c.at,
						c.block, waited)
				}
				per := r.s.geo.BlocksPerUnit()
				if p := r.s.m.Counts().Pending; op == OpRead && (p == 0 || p > per) {
					t.Errorf("%v, block %d of %d bytes: %d blocks are pending", took, c.at, c.block,
						p)
				}
				r.want("write", r.do(OpWrite, b, n), int32(0))
				r.want("spare units", r.alloc.Used(), uint64(1))
				r.want("read", r.do(OpRead, b, n), int32(0))

				// The next time the disk is known for it.
				r.clock, r.slow = r.clock+1, int64(took)
				before := r.clock
				r.wear(b+uint64(3*n), 1)
				r.do(OpRead, b+uint64(3*n), n)
				r.want("waited for the next", (r.clock-before)/int64(took), int64(2))
			}
		}
	}
}

// TestSlowErrorsUseUpTheTime: many slow sectors end the search. Blocks that were not tried are
// pending.
func TestSlowErrorsUseUpTheTime(t *testing.T) {
	r := newRig(t, 4096, 2048)
	r.slow = int64(7 * time.Second)
	for u := uint64(0); u < 128; u += 8 {
		r.wear(1280+u, 1)
	}
	r.want("read", r.do(OpRead, 1280, 128), -int32(syscall.ENODATA))
	if waited := r.clock / r.slow; waited > 5 {
		t.Errorf("waited %d times", waited)
	}
	for u := uint64(0); u < 128; u += 8 {
		if run, ok := r.s.m.Next(1280+u, 1280+u+1); !ok || run.Kind != KindPending {
			t.Errorf("block %d is not pending", 1280+u)
		}
	}
	r.want("write", r.do(OpWrite, 1280, 128), int32(0))
	r.want("read", r.do(OpRead, 1280, 128), int32(0))
}

// TestFailFast: a pending block that failed a try is not tried by reads for a while. Blocks that
// were noted with it are tried, and so are all others. A write is never held back.
func TestFailFast(t *testing.T) {
	r := newRigOf(t, 512, 512, 64)
	r.wear(2000, 1)
	r.want("read", r.do(OpRead, 1996, 8), -int32(syscall.ENODATA))
	r.log = []IO{}
	r.want("a moment later", r.do(OpRead, 2000, 1), -int32(syscall.ENODATA))
	r.want("operations", len(r.log), 0)
	r.want("failed fast", r.e.own.FailedFast, uint64(1))
	r.want("beside it", r.do(OpRead, 1996, 4), int32(0))
	r.want("with it", r.do(OpRead, 1996, 8), -int32(syscall.ENODATA))
	for _, io := range r.log {
		if _, off := r.s.geo.HomeOffset(2000); io.Offset <= off && off < io.Offset+io.Length {
			t.Errorf("it was tried: %+v", io)
		}
	}
	r.log, r.clock = []IO{}, r.clock+int64(DefaultFailFast)
	r.want("later", r.do(OpRead, 2000, 1), -int32(syscall.ENODATA))
	r.want("operations", len(r.log), 1) // it is known: one failure says enough
	r.want("write", r.do(OpWrite, 2000, 1), int32(0))
	r.want("read", r.do(OpRead, 2000, 1), int32(0))

	// Noted with what failed, and not tried by itself.
	r = newRigOf(t, 512, 4096, 64)
	r.wear(2000, 1)
	r.want("read", r.do(OpRead, 2000, 1), -int32(syscall.ENODATA))
	r.want("pending", r.s.m.Counts().Pending, uint64(8))
	r.want("a neighbour", r.do(OpRead, 2001, 7), int32(0))

	// Blocks that failed together hold back no part of them that may read.
	r = newRigOf(t, 512, 512, 64)
	r.slow = int64(time.Second)
	r.wear(2000, 1)
	r.want("read", r.do(OpRead, 1992, 16), -int32(syscall.ENODATA))
	r.want("pending", r.s.m.Counts().Pending, uint64(8))
	r.want("all of it", r.do(OpRead, 2000, 8), -int32(syscall.ENODATA))
	r.want("a part", r.do(OpRead, 2001, 7), int32(0))
	r.want("the bad one", r.do(OpRead, 2000, 1), -int32(syscall.ENODATA))
	r.want("and again", r.do(OpRead, 2000, 1), -int32(syscall.ENODATA))
}

// TestFailFastOff: below zero every read tries.
func TestFailFastOff(t *testing.T) {
	r := newRig(t, 512, 64)
	r.e.policy.FailFast = -1
	r.wear(2000, 1)
	for range 3 {
		r.want("read", r.do(OpRead, 2000, 1), -int32(syscall.ENODATA))
	}
	r.want("failed fast", r.e.own.FailedFast, uint64(0))
}

// TestFailuresExpire: a failure is not remembered for longer because other blocks of its unit fail.
func TestFailuresExpire(t *testing.T) {
	const hold = int64(60 * time.Second)
	f := new(failures)
	now := int64(time.Hour)
	const why = -int32(syscall.ENODATA)
	f.add(7, 1, true, why, now, hold)
	for i := range int64(200) {
		at := now + i*int64(time.Second)
		f.add(7, 2, true, why, at, hold)
		if (f.held(7, 1, at-hold) == why) != (i < 60) {
			t.Fatalf("after %d s: held back is %v", i, i >= 60)
		}
		if f.held(7, 2, at-hold) != why || f.held(7, 4, at-hold) != 0 ||
			f.held(7+failureSets, 2, at-hold) != 0 {
			t.Fatalf("after %d s: the wrong blocks are held back", i)
		}
	}
}

// TestHealsReadTheirSpareBack: spare units that take writes and do not read are found while
// the data is in hand, and retired.
func TestHealsReadTheirSpareBack(t *testing.T) {
	for _, c := range []struct {
		count uint32
		worn  []uint32
	}{{1, []uint32{0}}, {1, []uint32{0, 32}}, {40, []uint32{3}}, {40, []uint32{0, 20, 39}},
		{256, []uint32{255}}} {
		for _, op := range []Op{OpWrite, OpWriteZeroes} {
			r := newRig(t, 4096, 1024)
			for b := range uint64(c.count) {
				r.breakHome(5120+b, syscall.EIO)
			}
			for _, u := range c.worn {
				r.wearSpare(u)
			}
			r.want("heal", r.do(op, 5120, c.count), int32(0))
			r.want("read", r.do(OpRead, 5120, c.count), int32(0))
			r.want("in use", r.alloc.Used(), uint64(c.count))
			if c.count == 1 && r.alloc.Retired() == 0 {
				t.Error("no spare unit is retired")
			}
		}
	}
}

// TestPhysicalBlocksOfEachPlace: the place of blocks, and not their number, decides which of them
// share a physical block. A physical block ends where another place begins.
func TestPhysicalBlocksOfEachPlace(t *testing.T) {
	g := Geometry{
		BlockSize: 512, PhysicalBlock: 4096, Blocks: 10005, HeadBlocks: 250, HeadOffset: 1<<20 +
			1024,
		TailBlocks: 13, TailOffset: 1<<21 + 512,
	}
	place := func(b uint64) int {
		switch {
		case b < g.HeadBlocks:
			return 0
		case b < g.Blocks-g.TailBlocks:
			return 1
		}
		return 2
	}
	for block := uint64(0); block < g.Blocks; block += 7 {
		device, offset := g.HomeOffset(block)
		start, end := g.physical(block)
		for b := block - min(block, 20); b < min(block+20, g.Blocks); b++ {
			d, o := g.HomeOffset(b)
			if same := d == device && o/4096 == offset/4096 &&
				place(b) == place(block); same != (b >= start && b < end) {
				t.Fatalf("block %d: %d to %d; block %d lies at %d, it at %d", block, start, end, b,
					o, offset)
			}
		}
	}
}

// TestQuickErrors: if failures are quick, single blocks are found; good units are tried once each
// up to the first that fails, and in larger pieces from there on. A FUA write halves.
func TestQuickErrors(t *testing.T) {
	for _, c := range []struct {
		op   Op
		fua  bool
		most int
	}{{OpRead, false, 128/2 + 24}, {OpWrite, false, 128/2 + 30}, {OpWrite, true, 36}} {
		r := newRig(t, 512, 64)
		at := uint64(10240 + 515)
		if c.op == OpRead {
			r.wear(at, 1)
		} else {
			r.breakHome(at, syscall.EIO)
		}
		r.log = []IO{}
		r.e.Submit(&Request{Op: c.op, FUA: c.fua, Block: 10240, Count: 1024})
		r.run()
		if len(r.log) > c.most {
			t.Errorf("op %d, FUA %v: %d operations, at most %d are needed", c.op, c.fua, len(r.log),
				c.most)
		}
		run, ok := r.s.m.Next(10240, 10240+1024)
		r.want("blocks that are not at home", [2]uint64{run.Start, run.Count}, [2]uint64{at, 1})
		r.want("any", ok, true)
	}
}

// TestNotesOfTwoDevices: a read passes from the displaced head on a spare device to the backing,
// and blocks of both do not read. When the read is to be noted the spare device answers nothing.
// What failed on the backing is noted. What failed on the spare device is noted only if that device
// has said itself, by ENODATA, that its medium failed; the same answer of the backing does not
// count for it.
func TestNotesOfTwoDevices(t *testing.T) {
	for _, c := range []struct {
		head, backing syscall.Errno
		pending       uint64
	}{
		{syscall.EIO, syscall.EIO, 3},
		{syscall.EIO, syscall.ENODATA, 3},
		{syscall.ENODATA, syscall.EIO, 5},
		{syscall.ENODATA, syscall.ENODATA, 5},
	} {
		for _, backwards := range []bool{false, true} {
			r := newRig(t, 512, 64)
			r.s.geo.Devices, r.s.geo.HeadDevice = 2, 1
			r.transfer = func(*Transfer) int32 { return -int32(syscall.EIO) }
			head := r.s.geo.HeadBlocks
			for _, b := range []uint64{head - 1, head - 9} {
				r.breakHome(b, c.head)
			}
			for _, b := range []uint64{head, head + 1, head + 20} {
				r.breakHome(b, c.backing)
			}
			r.e.Submit(&Request{Op: OpRead, Block: head - 16, Count: 64})
			if len(r.ios) != 2 {
				t.Fatalf("%d first operations", len(r.ios))
			}
			if backwards { // the backing fails first
				r.ios[0], r.ios[1] = r.ios[1], r.ios[0]
			}
			r.run()
			r.want("read", r.results[0] < 0, true)
			r.want("pending", r.s.m.Counts().Pending, c.pending)
			r.want("not noted", r.e.own.NotNoted, uint64(boolInt(c.pending < 5)))
		}
	}
}
