package remap

import (
	"bytes"
	"syscall"
	"testing"
	"time"

	"ublkremap/metadata"
)

// TestMoveAgain: blocks leave a spare unit that went bad. Those that read are in another one, those
// that do not are pending, and the bad unit is not given out again.
func TestMoveAgain(t *testing.T) {
	for _, bs := range []int{512, 4096} {
		for _, why := range []AgainWhy{AgainBad, AgainSlow} {
			r := newMoverRig(t, bs, 64)
			r.s.geo.Known = [][]int64{{0}}
			per := r.s.geo.BlocksPerUnit()
			unit := 2000 / per
			want := r.fill(unit*per, per)
			r.move(Move{Block: unit * per, Count: per, ToSpare: true, Cause: metadata.CauseScrub})
			old := r.s.m.Unit(unit).Places[0].Spare
			// One block reads at the third try, and of several blocks one does not read at all.
			last := unit*per + per - 1
			gone, fails := r.placeNow(unit*per+1), 2
			if per > 1 {
				r.silent[gone] = true
			}
			weak := r.placeNow(last)
			r.transfer = func(tr *Transfer) int32 {
				if tr.Op == OpRead && int64(tr.Device) == weak[0] && tr.Offset == weak[1] &&
					fails > 0 {
					fails--
					return -int32(syscall.ENODATA)
				}
				return r.carryOut(tr)
			}
			res := r.move(Move{Block: last, Count: 1, Again: why, From: old,
				Cause: metadata.CauseScrub})
			r.want("moved", res.Moved, max(per-1, 1))
			info := r.s.m.Unit(unit)
			for b := range per {
				spare, _ := info.SpareOf(int(b))
				if per > 1 && b == 1 {
					r.want("the block that does not read", spare, old)
					r.want("pending", info.Pending, uint8(2))
					continue
				}
				if spare == old || !bytes.Equal(r.now(unit*per+b), want[unit*per+b]) {
					t.Errorf("%d, %d: block %d is in spare unit %d, and was in %d", bs, why, b,
						spare, old)
				}
			}
			device, _ := r.s.geo.SpareOffset(old)
			service := r.alloc.Service(old)
			switch {
			case why == AgainBad && device == 0 && service != Retired,
				(why == AgainSlow || device != 0) && !r.alloc.Suspected(old):
				t.Errorf("%d, %d: the old spare unit is in service: %v", bs, why, service)
			}
			r.want("busy", info.Busy, false)
			// What lives at home, or is pending already, is left alone.
			home := r.move(Move{Block: 0, Count: per, Again: why, Cause: metadata.CauseScrub})
			r.want("at home", home, MoveResult{Skipped: per})
		}
	}
}

// TestMoveAgainFails: without another spare unit the blocks stay, and read.
func TestMoveAgainFails(t *testing.T) {
	r := newMoverRig(t, 512, 1)
	want := r.fill(2000, 8)
	r.move(Move{Block: 2000, Count: 8, ToSpare: true, Cause: metadata.CauseScrub})
	res := r.move(Move{Block: 2000, Count: 8, Again: AgainBad,
		From: r.s.m.Unit(250).Places[0].Spare, Cause: metadata.CauseScrub})
	r.want("result", res, MoveResult{Failed: 8, Err: ErrSpareFull})
	for b, w := range want {
		if !bytes.Equal(r.now(b), w) {
			t.Errorf("block %d does not read as before", b)
		}
	}
}

// TestReadSavesOthers: a user's read that finds a bad block in a spare unit has others leave it.
// What leaves goes to a spare unit that the unit has already, and no block joins a spoilt one. Once
// the time for it is up, what is slow to fail stays.
func TestReadSavesOthers(t *testing.T) {
	r := newMoverRig(t, 512, 64)
	r.a.cfg.Policy.IsolateFor = time.Second
	r.fill(2000, 16)
	r.move(Move{Block: 2000, Count: 16, ToSpare: true, Cause: metadata.CauseOperator})
	old := r.s.m.Unit(250).Places[0].Spare
	gone := r.placeNow(2001)
	r.silent[gone], r.worn[gone] = true, int32(syscall.ENODATA)
	r.do(OpRead, 2001, 1)
	if len(r.spoiled) != 1 || r.spoiled[0] != (BadSpare{Spare: old, Block: 2000}) {
		t.Fatalf("asked to save %+v", r.spoiled)
	}
	r.do(OpRead, 2001, 1)
	r.want("asked once", len(r.spoiled), 1)
	if info := r.s.m.Unit(250); !r.a.spoilt(&info, info.Places[0]) {
		t.Error("a spare unit in which a block does not read is not spoilt")
	}
	save := func(block uint64, spare uint32) MoveResult {
		return r.move(Move{Block: block, Count: 8, Again: AgainBad, From: spare,
			Cause: metadata.CauseSpare})
	}
	r.want("moved", save(2000, old).Moved, uint64(7))
	r.want("retired", r.alloc.Service(old), Retired)
	next, _ := func() (uint32, bool) { info := r.s.m.Unit(250); return info.SpareOf(0) }()

	// The write of the pending block joins the others.
	r.do(OpWrite, 2001, 1)
	info := r.s.m.Unit(250)
	r.want("places", info.Places[0], Place{Spare: next, Mask: 0xff})

	// All blocks of the second unit take five seconds to fail. After the whole unit and two of
	// them the rest is left to the scrub.
	old = r.s.m.Unit(251).Places[0].Spare
	for b := range uint64(8) {
		r.silent[r.placeNow(2008+b)] = true
	}
	tries := 0
	r.transfer = func(tr *Transfer) int32 {
		res := r.carryOut(tr)
		if res < 0 {
			tries++
			r.clock += int64(5 * time.Second)
		}
		return res
	}
	r.want("slow", save(2008, old), MoveResult{ID: 0, Failed: 8})
	r.want("tries", tries, 3)
	r.want("pending", r.s.m.Unit(251).Pending, uint8(3))
}

// TestWriteSavesOthers: a write that fails in a spare unit has the other blocks there leave it,
// once its own are in another one.
func TestWriteSavesOthers(t *testing.T) {
	r := newMoverRig(t, 512, 64)
	r.fill(2000, 8)
	r.move(Move{Block: 2000, Count: 8, ToSpare: true, Cause: metadata.CauseOperator})
	old := r.s.m.Unit(250).Places[0].Spare
	r.bad[r.placeNow(2001)] = int32(syscall.EIO)
	r.do(OpWrite, 2001, 1)
	if len(r.spoiled) != 1 || r.spoiled[0] != (BadSpare{Spare: old, Block: 2000}) {
		t.Fatalf("asked to save %+v", r.spoiled)
	}
}
