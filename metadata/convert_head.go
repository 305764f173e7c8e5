package metadata

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// spareTries is how many spare units in a row may be bad while the head is copied.
const spareTries = 16

// headCopy copies the head to the displaced head, and the tail, if that is to be displaced, to the
// displaced tail. Comments about the head apply to both.
type headCopy struct {
	devs []Device
	plan *Layout
	o    *ConvertOptions
	buf  []byte
	one  []byte

	sums    []uint64 // of each block, by nth, as it was read
	have    []bool   // blocks that could be read, by nth
	entries []Entry
	lost    uint64
	mapped  uint64
	// The blocks of ConvertOptions.Taken; how many have data, and how many have none.
	taken         map[int64][]byte
	took, untaken uint64
	spare         uint32 // the next spare unit to use
	done          int64  // bytes, for Progress
}

// copyHead copies the head and, if it is to be displaced, the tail. Blocks that do not read are
// given up when the head is written over. So they are read again when everything else has been
// read. If any of them reads then, the whole copy is made anew.
func copyHead(devs []Device, plan *Layout, o *ConvertOptions) (*headCopy, error) {
	buf, one := o.chunk(), AlignedBytes(PageSize)[:plan.BlockSize()]
	return untilStable(devs, func() (*headCopy, error) {
		h := &headCopy{devs: devs, plan: plan, o: o, buf: buf, one: one}
		h.take()
		return h, h.run()
	})
}

// table is the table that the entries make. The error is ErrInvalidEntry.
func (h *headCopy) table() (*Table, error) {
	t := NewTable(h.plan)
	for _, e := range h.entries {
		if err := t.Apply(e); err != nil {
			return nil, err
		}
	}
	if err := t.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidEntry, err)
	}
	if n := t.Counts().Entries; n > h.plan.TableCapacity() {
		return nil, fmt.Errorf("%w: the disk is so bad that %d entries are needed, a "+
			"checkpoint holds %d; take more spare space", ErrInvalidEntry, n,
			h.plan.TableCapacity())
	}
	return t, nil
}

func (h *headCopy) run() error {
	bs := int64(h.plan.BlockSize())
	blocks := h.plan.headBlocks + h.plan.TailBlocks()
	h.sums, h.have = make([]uint64, blocks), make([]bool, blocks)
	for _, f := range h.plan.sb.displacedSpans() {
		inChunks(h.buf, f, func(buf []byte, off int64) {
			h.read(buf, off)
			dev, at := h.plan.HomeOf(uint64(off / bs))
			// what fails is seen when it is read back
			writeAround(h.devs[dev], buf, at, h.one, func(int64) {})
			h.progress(len(buf))
		})
	}
	for _, dev := range slices.Compact([]uint8{h.plan.headDev, h.plan.tailDev}) {
		if err := h.devs[dev].Sync(); err != nil {
			return err
		}
	}
	// The original is about to be written over, so the copy must read back.
	var strays []int64
	for _, f := range h.plan.sb.displacedSpans() {
		inChunks(h.buf, f, func(buf []byte, off int64) {
			failed := map[int64]bool{}
			dev, at := h.plan.HomeOf(uint64(off / bs))
			readAround(h.devs[dev], buf, at, h.one, func(i int64, _ error) { failed[i] = true })
			for i := int64(0); i < int64(len(buf)); i += bs {
				// A block that has no copy needs a place anyway; it is
				// found when it is first written.
				block := (off + i) / bs
				if n := h.displacedIndex(block); h.have[n] && (h.taken[block] != nil ||
					failed[i] || xxhash.Sum64(buf[i:i+bs]) != h.sums[n]) {
					strays = append(strays, block)
				}
			}
			h.progress(len(buf))
		})
	}
	if err := h.place(strays); err != nil {
		return err
	}
	return h.placeTaken()
}

// displacedIndex is the number of a block among those that are displaced.
func (h *headCopy) displacedIndex(block int64) int64 {
	if block < int64(h.plan.headBlocks) {
		return block
	}
	return block - int64(h.plan.tailBlock) + int64(h.plan.headBlocks)
}

// progress notes that so many bytes more were copied, or read back.
func (h *headCopy) progress(n int) {
	if h.done += int64(n); h.o.Progress != nil {
		h.o.Progress(h.done, 2*int64(len(h.sums)*h.plan.BlockSize()))
	}
}

// read reads a part of the head. Blocks that cannot be read are zero in buf.
func (h *headCopy) read(buf []byte, off int64) {
	bs := int64(len(h.one))
	failed := map[int64]bool{}
	readAround(h.devs[0], buf, off, h.one, func(i int64, _ error) { failed[i] = true })
	for i := int64(0); i < int64(len(buf)); i += bs {
		n, block := h.displacedIndex((off+i)/bs), buf[i:i+bs]
		if data, ok := h.taken[(off+i)/bs]; ok {
			failed[i] = data == nil
			clear(block)
			copy(block, data)
		}
		if !failed[i] {
			h.have[n], h.sums[n] = true, xxhash.Sum64(buf[i:i+bs])
		}
	}
}

// place finds room in the spare region for the blocks that the displaced head
// cannot hold, and makes the entries.
func (h *headCopy) place(strays []int64) error {
	stray := map[int64]bool{}
	for _, b := range strays {
		stray[b] = true
	}
	for _, f := range h.plan.sb.displacedSpans() {
		for unit := f.from / UnitSize; unit*UnitSize < f.to; unit++ {
			if err := h.placeUnit(unit, stray); err != nil {
				return err
			}
		}
	}
	return nil
}

func (h *headCopy) placeUnit(unit int64, stray map[int64]bool) error {
	per := int64(UnitSize / len(h.one))
	var lost, move, taken uint8
	for i := range min(per, int64(h.plan.blocks)-unit*per) {
		switch b := unit*per + i; {
		case !h.have[h.displacedIndex(b)]:
			// Without a copy, as it was: reads fail, the first write clears it.
			lost |= 1 << i
			if _, ok := h.taken[b]; !ok {
				h.lost++
			}
		case h.taken[b] != nil:
			taken |= 1 << i
		case stray[b]:
			move |= 1 << i
			h.mapped++
		}
	}
	if err := h.put(unit, lost, move, CauseWrite); err != nil {
		return err
	}
	return h.put(unit, 0, taken, CauseImport)
}

// put makes the entries of a unit of which some blocks have no copy, and some go to a spare unit.
func (h *headCopy) put(unit int64, lost, move uint8, cause Cause) error {
	per := int64(UnitSize / len(h.one))
	if lost != 0 {
		h.add(Entry{Unit: uint64(unit), Count: 1, Mask: lost, State: StateLost, Cause: CauseRead})
	}
	if move == 0 {
		return nil
	}
	for try := 0; ; try++ {
		if try == spareTries || uint64(h.spare) >= h.plan.spareUnits {
			return fmt.Errorf("%w: the place of unit %d cannot hold it, and no good spare "+
				"unit was found for it", ErrStuck, unit)
		}
		spare := h.spare
		h.spare++
		err := h.toSpare(unit*per, move, spare)
		if errors.Is(err, ErrPath) {
			return err // the spare unit is not at fault
		}
		if err == nil {
			h.add(Entry{Unit: uint64(unit), Spare: spare, Count: 1, Mask: move, State: StateMapped,
				Cause: cause})
			return nil
		}
		h.add(Entry{Spare: spare, Count: 1, State: StateRetired, Cause: CauseSpare})
	}
}

func (h *headCopy) add(e Entry) {
	e.Time = h.o.Now
	if n := len(h.entries); n > 0 {
		l := &h.entries[n-1]
		if l.State == StateLost && e.State == StateLost && l.Mask == e.Mask &&
			l.Unit+uint64(l.Count) == e.Unit {
			l.Count++
			return
		}
	}
	h.entries = append(h.entries, e)
}

// toSpare writes blocks of a unit to a spare unit, durably, and reads them back.
func (h *headCopy) toSpare(first int64, mask uint8, spare uint32) error {
	bs := int64(len(h.one))
	dev, at := h.plan.SpareOf(spare)
	d := h.devs[dev]
	for i := range int64(UnitSize) / bs {
		if mask>>i&1 == 0 {
			continue
		}
		if err := h.original(first + i); err != nil {
			return err
		}
		if _, err := d.WriteAt(h.one, at+i*bs); err != nil {
			return err
		}
	}
	if err := d.Sync(); err != nil {
		return err
	}
	for i := range int64(UnitSize) / bs {
		if mask>>i&1 == 0 {
			continue
		}
		if _, err := d.ReadAt(h.one, at+i*bs); err != nil {
			return err
		}
		if xxhash.Sum64(h.one) != h.sum(first+i) {
			return fmt.Errorf("%w: spare unit %d does not read back", ErrDamaged, spare)
		}
	}
	return nil
}
