package remap

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"

	"ublkremap/metadata"
)

// moverRig is a device with contents: what is written can be read back, if the medium holds it.
type moverRig struct {
	*rig
	data map[[2]int64][]byte
	// silent are places, by device and offset, that take writes and do not read.
	silent map[[2]int64]bool
	// twisted are places that take writes, read, and give something else.
	twisted map[[2]int64]bool
}

func newMoverRig(t *testing.T, blockSize int, spares uint32) *moverRig {
	r := &moverRig{rig: newRig(t, blockSize, spares), data: map[[2]int64][]byte{},
		silent: map[[2]int64]bool{}, twisted: map[[2]int64]bool{}}
	r.transfer = r.carryOut
	return r
}

// move carries out a Move.
func (r *moverRig) move(m Move) MoveResult {
	r.t.Helper()
	if err := r.a.Move(m); err != nil {
		r.t.Fatal(err)
	}
	r.run()
	return r.ended[len(r.ended)-1]
}

func (r *moverRig) carryOut(t *Transfer) int32 {
	bs := r.s.geo.BlockSize
	for i := 0; i < len(t.Data); i += bs {
		p := [2]int64{int64(t.Device), t.Offset + int64(i)}
		block := t.Data[i : i+bs]
		switch {
		case r.bad[p] != 0:
			return -r.bad[p]
		case t.Op == OpWrite:
			r.data[p] = slices.Clone(block)
		case r.silent[p]:
			return -int32(syscall.ENODATA)
		default:
			clear(block)
			copy(block, r.data[p])
			if r.twisted[p] {
				block[0] ^= 1
			}
		}
	}
	return int32(len(t.Data))
}

func (r *moverRig) spares(set map[[2]int64]bool, is func(u uint32) bool) {
	for u := range uint32(r.alloc.Total()) {
		d, off := r.s.geo.SpareOffset(u)
		for i := int64(0); i < metadata.UnitSize && is(u); i += int64(r.s.geo.BlockSize) {
			set[[2]int64{int64(d), off + i}] = true
		}
	}
}

// home is the place of a block at home.
func (r *moverRig) home(b uint64) [2]int64 {
	d, off := r.s.geo.HomeOffset(b)
	return [2]int64{int64(d), off}
}

// now is where a block is read, and what is there; nil if it does not read.
func (r *moverRig) now(b uint64) []byte {
	p := r.home(b)
	per := r.s.geo.BlocksPerUnit()
	info := r.s.m.Unit(b / per)
	if info.Lost>>(b%per)&1 != 0 {
		return nil
	}
	if spare, ok := info.SpareOf(int(b % per)); ok {
		d, off := r.s.geo.SpareOffset(spare)
		p = [2]int64{int64(d), off + int64(b%per)*int64(r.s.geo.BlockSize)}
	}
	if r.silent[p] || r.twisted[p] || r.bad[p] != 0 {
		return nil
	}
	return r.data[p]
}

func (r *moverRig) fill(from, n uint64) map[uint64][]byte {
	all := map[uint64][]byte{}
	for b := from; b < from+n; b++ {
		content := make([]byte, r.s.geo.BlockSize)
		for i := range content {
			content[i] = byte(rand.IntN(255) + 1)
		}
		all[b], r.data[r.home(b)] = content, content
	}
	return all
}

// TestMoveReadsBack: blocks that are moved to spare units which take the write and do not hold it
// get others, or stay; all of them read as before, and no such spare unit is used again.
func TestMoveReadsBack(t *testing.T) {
	for _, bs := range []int{512, 4096} {
		for name, bad := range map[string]func(u uint32) bool{
			"the first eight": func(u uint32) bool { return u < 8 },
			"one in eight":    func(u uint32) bool { return u%8 != 5 },
			"all":             func(uint32) bool { return true },
		} {
			for _, twisted := range []bool{false, true} {
				r := newMoverRig(t, bs, 1000)
				r.s.geo.Known = [][]int64{{0}}
				set := r.silent
				if twisted {
					set = r.twisted
				}
				r.spares(set, bad)
				want := r.fill(1001, 100)
				res := r.move(Move{Block: 1001, Count: 100, ToSpare: true,
					Cause: metadata.CauseOperator})
				if all := name == "all"; all && (res.Moved != 0 || res.Failed != 100 ||
					res.Err == nil) || !all && res.Moved != 100 {
					t.Errorf("%d, %s, twisted %v: %+v", bs, name, twisted, res)
				}
				for b, w := range want {
					if got := r.now(b); !bytes.Equal(got, w) {
						t.Fatalf("%d, %s, twisted %v: block %d does not read as before", bs, name,
							twisted, b)
					}
				}
				r.want("pending", r.s.m.Counts().Pending, uint64(0))
				r.want("tripped", r.s.Tripped(), false)
				// Home again.
				res = r.move(Move{Block: 0, Count: rigBlocks, Cause: metadata.CauseOperator})
				for b, w := range want {
					if got := r.now(b); !bytes.Equal(got, w) {
						t.Fatalf("%d, %s: block %d does not read after it was moved home: %+v", bs,
							name, b, res)
					}
				}
				r.want("used", r.alloc.Used(), uint64(0))
			}
		}
	}
}

// TestTakenBackFromHome: a block whose spare unit does not read any more, or that is lost, goes
// home with the old data there only if the operator accepts that. A block that is pending at home
// and reads again does not need this.
func TestTakenBackFromHome(t *testing.T) {
	for _, bs := range []int{512, 4096} {
		r := newMoverRig(t, bs, 64)
		per := r.s.geo.BlocksPerUnit()
		old := r.fill(4000, 3*per)
		r.move(Move{Block: 4000, Count: per, ToSpare: true, Cause: metadata.CauseOperator})
		r.spares(r.silent, func(uint32) bool { return true })
		lost := 4000/per + 1
		r.s.m.Apply(metadata.Entry{Unit: lost, Count: 1, Mask: uint8(1<<per - 1),
			State: metadata.StateLost})
		r.s.m.Apply(metadata.Entry{Unit: lost + 1, Count: 1, Mask: uint8(1<<per - 1),
			State: metadata.StatePending})

		res := r.move(Move{Block: 4000, Count: 3 * per, Cause: metadata.CauseOperator})
		r.want("moved without a word", res, MoveResult{Moved: per, Skipped: per, Failed: per,
			NoCopy: 2 * per})
		r.want("lost", r.s.m.Counts().Lost, per)
		r.want("pending", r.s.m.Counts().Pending, per) // in the spare unit: what was tried failed

		bad := r.home(4000 + per)
		r.silent[bad] = true
		res = r.move(Move{Block: 4000, Count: 3 * per, AcceptOld: true,
			Cause: metadata.CauseOperator})
		r.want("moved by a word", res, MoveResult{Moved: 2*per - 1, Old: 2*per - 1, Skipped: per,
			Failed: 1, NoCopy: 1})
		delete(r.silent, bad)
		res = r.move(Move{Block: 4000, Count: 3 * per, AcceptOld: true,
			Cause: metadata.CauseOperator})
		r.want("the last one", res.Moved, uint64(1))
		for b, w := range old {
			if !bytes.Equal(r.now(b), w) {
				t.Errorf("block %d is not what home held", b)
			}
		}
		r.want("counts", r.s.m.Counts(), Counts{})
		r.want("used", r.alloc.Used(), uint64(0))
	}
}
