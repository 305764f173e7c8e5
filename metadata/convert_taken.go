package metadata

import (
	"fmt"

	"github.com/cespare/xxhash/v2"
)

// This file takes over blocks that another program has put elsewhere, while a disk is converted.
// Their data is written to spare units, made durable and read back, and the first checkpoint says
// so, with CauseImport. Their homes are left alone. So a cut leaves the old disk, with everything
// where that program looks for it.

// take notes which blocks are taken over.
func (h *headCopy) take() {
	h.taken = make(map[int64][]byte, len(h.o.Taken))
	for _, t := range h.o.Taken {
		if t.Block >= h.plan.Blocks() {
			continue
		}
		h.taken[int64(t.Block)] = t.Data
		if t.Data != nil {
			h.took++
		} else {
			h.untaken++
		}
	}
}

// placeTaken makes the entries of the blocks outside of the head and the tail.
func (h *headCopy) placeTaken() error {
	per := int64(UnitSize / len(h.one))
	for i := 0; i < len(h.o.Taken); {
		unit := int64(h.o.Taken[i].Block) / per
		var lost, move uint8
		for ; i < len(h.o.Taken) && int64(h.o.Taken[i].Block)/per == unit; i++ {
			t := h.o.Taken[i]
			switch {
			case t.Block >= h.plan.Blocks(), h.plan.displaced(t.Block):
			case t.Data == nil:
				lost |= 1 << (int64(t.Block) % per)
			default:
				move |= 1 << (int64(t.Block) % per)
			}
		}
		if err := h.put(unit, lost, move, CauseImport); err != nil {
			return err
		}
	}
	return nil
}

// original puts into h.one what a block holds that has been read before. It must still be the same.
func (h *headCopy) original(block int64) error {
	if data, ok := h.taken[block]; ok {
		copy(h.one, data)
		return nil
	}
	if _, err := h.devs[0].ReadAt(h.one, block*int64(len(h.one))); err != nil ||
		xxhash.Sum64(h.one) != h.sum(block) {
		return fmt.Errorf("block %d of the head: %w", block, errUnstable)
	}
	return nil
}

// sum is the checksum of what a block holds.
func (h *headCopy) sum(block int64) uint64 {
	if data, ok := h.taken[block]; ok {
		return xxhash.Sum64(data)
	}
	return h.sums[h.displacedIndex(block)]
}

// takenOver calls f with the offsets in [from, to) of blocks that were taken over. Blocks without a
// copy are not among them.
func (v *View) takenOver(from, to int64, f func(at int64)) {
	bs := int64(v.layout.BlockSize())
	v.remapped(uint64(from/bs), uint64(to/bs), func(block uint64, state State, _ uint32) {
		x, ok := v.table.units.next(block * uint64(bs) / UnitSize)
		if ok && state == StateMapped && x.Cause == CauseImport {
			f(int64(block) * bs)
		}
	})
}
