package remap

import (
	"bytes"
	"syscall"
	"testing"

	"ublkremap/metadata"
)

// newBulkRig is a moverRig with room to copy whole batches.
func newBulkRig(t *testing.T, blockSize int, spares uint32) (r *moverRig, transfers *int) {
	r = newMoverRig(t, blockSize, spares)
	r.a.move.data, r.a.move.copy = make([]byte, MoveBatch*metadata.UnitSize),
		make([]byte, MoveBatch*metadata.UnitSize)
	transfers = new(int)
	r.transfer = func(x *Transfer) int32 {
		*transfers++
		return r.carryOut(x)
	}
	return r, transfers
}

func (r *moverRig) wantSame(what string, all map[uint64][]byte) {
	r.t.Helper()
	for b, w := range all {
		if !bytes.Equal(r.now(b), w) {
			r.t.Fatalf("%s: block %d does not read as before", what, b)
		}
	}
}

// TestBulkMove: whole units in a row move there and back by a few large transfers.
func TestBulkMove(t *testing.T) {
	for _, bs := range []int{512, 4096} {
		r, transfers := newBulkRig(t, bs, 1000)
		per := r.s.geo.BlocksPerUnit()
		want := r.fill(4000, 100*per)
		res := r.move(Move{Block: 4000, Count: 100 * per, ToSpare: true,
			Cause: metadata.CauseOperator})
		r.want("moved", res, MoveResult{Moved: 100 * per})
		r.want("transfers", *transfers, 3*4)
		r.want("used", r.alloc.Used(), uint64(100))
		r.wantSame("in the spare region", want)
		*transfers = 0
		res = r.move(Move{Block: 4000, Count: 100 * per, Cause: metadata.CauseOperator})
		r.want("moved home", res, MoveResult{Moved: 100 * per})
		r.want("transfers home", *transfers, 3*4)
		r.want("used in the end", r.alloc.Used(), uint64(0))
		r.wantSame("home again", want)
	}
}

// TestBulkMoveGoesUnitByUnit: a place that is bad in any way, at either end, affects its own units
// and no other one.
func TestBulkMoveGoesUnitByUnit(t *testing.T) {
	const n = 40
	for _, bs := range []int{512, 4096} {
		for name, spoil := range map[string]func(r *moverRig){
			"a home that does not read": func(r *moverRig) {
				r.bad[r.home(
					4000)] = int32(syscall.ENODATA)
			},
			"spare units that do not hold": func(r *moverRig) {
				r.spares(r.twisted,
					func(u uint32) bool { return u%5 == 2 })
			},
			"spare units that do not read": func(r *moverRig) {
				r.spares(r.silent,
					func(u uint32) bool { return u == 7 })
			},
			"few spare units": func(*moverRig) {},
		} {
			spares := uint32(400)
			if name == "few spare units" {
				spares = n // as many as it takes, and none beside
			}
			r, _ := newBulkRig(t, bs, spares)
			r.s.geo.Known = [][]int64{{0}}
			per := r.s.geo.BlocksPerUnit()
			want := r.fill(4000, n*per)
			spoil(r)
			moved := n * per
			if r.bad[r.home(4000)] != 0 {
				delete(want, 4000)
				moved--
			}
			res := r.move(Move{Block: 4000, Count: n * per, ToSpare: true,
				Cause: metadata.CauseOperator})
			r.want(name+": moved", res.Moved, moved)
			r.want(name+": tripped", r.s.Tripped(), false)
			r.wantSame(name, want)
			// A home that refuses its data, or changes it, keeps its block where it is.
			r.twisted[r.home(4000+3*per)] = true
			res = r.move(Move{Block: 4000, Count: n * per, Cause: metadata.CauseOperator})
			if res.Moved < moved-per || res.Moved >= n*per {
				t.Errorf("%d, %s: home again: %+v", bs, name, res)
			}
			r.wantSame(name+", home again", want)
		}
	}
}
