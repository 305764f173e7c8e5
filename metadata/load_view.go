package metadata

import (
	"fmt"
	"math/bits"
)

// View reads what a set exports, offline: every block from where the table
// says that it lives. It is for one goroutine, and the set must not change
// meanwhile. Its devices must take reads in the set's blocks.
type View struct {
	devs   []Device
	layout *Layout
	table  *Table
	one    []byte // a block, aligned
	chunk  []byte
}

// NewView returns a view of the set that an Image was loaded from, as of then.
// Errors: those of Image.Table.
func NewView(img *Image) (*View, error) {
	t, err := img.Table()
	if err != nil {
		return nil, err
	}
	return newView(img.devs, img.layout, t), nil
}

func newView(devs []Device, l *Layout, t *Table) *View {
	return &View{devs: devs, layout: l, table: t, one: AlignedBytes(PageSize)[:l.BlockSize()]}
}

// Size is what is exported, in bytes.
func (v *View) Size() int64 { return v.layout.sb.ExportedBytes }

// ReadAt reads exported bytes, of any alignment, whole or with an error: that
// of the first block that cannot be had.
func (v *View) ReadAt(p []byte, off int64) (int, error) {
	bs := int64(v.layout.BlockSize())
	if off < 0 || off+int64(len(p)) > v.Size() {
		return 0, fmt.Errorf("read of %d bytes at %d of %d exported", len(p), off, v.Size())
	}
	if v.chunk == nil {
		v.chunk = AlignedBytes(64 << 10)
	}
	done := 0
	for done < len(p) {
		at := off + int64(done)
		// so that a split at the head stays aligned in memory
		first := roundDown(at, int64(PageSize))
		n := min(int64(len(v.chunk)), roundUp(off+int64(len(p)), bs)-first)
		bad := errBadBlock{}
		v.read(v.chunk[:n], first, func(block uint64, err error) {
			if bad.err == nil {
				bad = errBadBlock{block, err}
			}
		})
		if bad.err != nil {
			return done, bad
		}
		done += copy(p[done:], v.chunk[at-first:n])
	}
	return done, nil
}

type errBadBlock struct {
	block uint64
	err   error
}

func (e errBadBlock) Error() string { return fmt.Sprintf("block %d: %v", e.block, e.err) }
func (e errBadBlock) Unwrap() error { return e.err }

// errLost is why a lost block cannot be read.
var errLost = fmt.Errorf("it has no copy anywhere")

// read fills buf, which is aligned, with the exported bytes from off on; both
// are multiples of the block size. bad is called with every block that cannot be
// read; in buf it is zero.
func (v *View) read(buf []byte, off int64, bad func(block uint64, err error)) {
	for _, seam := range []int64{v.layout.sb.HeadBytes, v.layout.sb.TailStart} {
		if end := off + int64(len(buf)); off < seam && seam < end {
			v.read(buf[:seam-off], off, bad)
			v.read(buf[seam-off:], seam, bad)
			return
		}
	}
	bs := int64(v.layout.BlockSize())
	first := uint64(off / bs)
	at := func(block uint64) []byte { return buf[int64(block-first)*bs:][:bs] }
	dev, home := v.layout.HomeOf(first)
	failed := map[uint64]error{}
	readAround(v.devs[dev], buf, home, v.one,
		func(i int64, err error) { failed[first+uint64(i/bs)] = err })
	v.remapped(first, first+uint64(int64(len(buf))/bs), func(block uint64, state State,
		spare uint32) {
		delete(failed, block)
		if state == StateLost {
			failed[block] = errLost
			clear(at(block))
			return
		}
		d, o := v.slot(block, spare)
		if _, err := v.devs[d].ReadAt(v.one, o); err != nil {
			failed[block] = err
			clear(at(block))
			return
		}
		copy(at(block), v.one)
	})
	if len(failed) == 0 {
		return
	}
	for b := first; b < first+uint64(int64(len(buf))/bs); b++ {
		if err := failed[b]; err != nil {
			bad(b, err)
		}
	}
}

// slot is where a block lives in a spare unit.
func (v *View) slot(block uint64, spare uint32) (device uint8, offset int64) {
	bs := uint64(v.layout.BlockSize())
	device, offset = v.layout.SpareOf(spare)
	return device, offset + int64(block%(UnitSize/bs)*bs)
}

// remapped calls f with the blocks in [from, to) that are mapped or lost, in
// order.
func (v *View) remapped(from, to uint64, f func(block uint64, state State, spare uint32)) {
	per := uint64(UnitSize / v.layout.BlockSize())
	for unit := from / per; ; {
		x, ok := v.table.units.next(unit)
		if !ok || x.Unit*per >= to {
			return
		}
		for i := range x.Count {
			u := x.Unit + i
			if u*per >= to {
				return
			}
			for m := x.Mapped | x.Lost; m != 0; m &= m - 1 {
				k := bits.TrailingZeros8(m)
				block := u*per + uint64(k)
				switch {
				case block < from || block >= to:
				case x.Lost>>k&1 != 0:
					f(block, StateLost, 0)
				default:
					f(block, StateMapped, x.Spare[k]+uint32(i))
				}
			}
		}
		unit = x.end()
	}
}

// mapped calls f with the blocks that live in spare units, in order. There are no
// more of them than the spare region holds.
func (v *View) mapped(f func(block uint64, spare uint32)) {
	per := uint64(UnitSize / v.layout.BlockSize())
	v.table.Extents(func(x Extent) bool {
		for i := uint64(0); x.Mapped != 0 && i < x.Count; i++ {
			for m := x.Mapped; m != 0; m &= m - 1 {
				k := bits.TrailingZeros8(m)
				f((x.Unit+i)*per+uint64(k), x.Spare[k]+uint32(i))
			}
		}
		return true
	})
}

// lost lists the blocks outside of head and tail that have no copy.
func (v *View) lost() (l blockList) {
	per := uint64(UnitSize / v.layout.BlockSize())
	head, tail := v.layout.headBlocks/per, (v.layout.tailBlock+per-1)/per
	v.table.Extents(func(x Extent) bool {
		if x.Unit < head && x.end() > head {
			x = x.tail(head)
		}
		if x.Unit < tail && x.end() > tail {
			x.Count = tail - x.Unit
		}
		if x.Unit >= head && x.Unit < tail && x.Lost != 0 {
			l.addUnits(x.Unit, x.Count, x.Lost, per)
		}
		return true
	})
	return l
}
