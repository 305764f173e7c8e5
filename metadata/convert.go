package metadata

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cespare/xxhash/v2"
	"github.com/google/uuid"
)

// ConvertOptions are those of Convert, ResumeConvert and Revert.
type ConvertOptions struct {
	// Now is the time, in seconds since 1970, that entries carry.
	Now uint32
	// Mark is where the page lies by which the old disk, or the one to be, is
	// recognized: 0, or SuperblockStride for what leaves the start of the disk
	// free and is found at 64 KiB. Its write decides which of the two the disk
	// is, so that it never looks like a file system that is only partly there.
	Mark int64
	// Chunk is how much is copied at once, in bytes, a multiple of 4096.
	// Default: 1 MiB.
	Chunk int
	// Session is a random number, as in Options.
	Session uint64
	// Force makes Revert go on where data has no copy or cannot go home.
	Force bool
	// AcceptOld makes Revert take what home holds for blocks without a copy that can be
	// read, if it can be read there, several times: what was written to them since they
	// left it is lost.
	AcceptOld bool
	// Progress, if set, is called now and then with how much of a long copy is
	// done, in bytes.
	Progress func(done, total int64)
}

func (o *ConvertOptions) chunk() []byte {
	if o.Chunk <= 0 {
		o.Chunk = 1 << 20
	}
	return AlignedBytes(roundUp(o.Chunk, PageSize))
}

// Converted is what Convert met.
type Converted struct {
	Lost uint64 // blocks of the head that could not be read: they have no copy now, as before
	// blocks of the head whose place in the displaced head is bad: they are in the spare region
	Mapped uint64
	Bad    []BadPlace
}

const (
	// spareTries is how many spare units in a row may be bad while the head is copied.
	spareTries = 16
)

// Convert makes a new set of a disk that keeps its data: what is exported shows
// the bytes that the disk has now, at the same offsets. devs are as in
// plan.Devices; they must take I/O in plan's blocks. The backing must not carry
// a superblock in its head, and what lies outside of its exported bytes must be
// free; both are for the caller to know. Spare devices are written over.
//
// Nothing in the head is changed before the copy of it is durable, was read
// back, and a superblock outside of the head says so. The page at o.Mark comes
// next: with it the copy counts. Only then is the rest of the head written over.
// A cut before that page leaves the old disk, a later one a set that
// ResumeConvert finishes; either can be given back by Revert.
//
// A bad place for the metadata is gone around as in CreateAround, also in the
// head, and told in Taken. What must be there, so that a cut can be recovered from,
// is a mirror outside of the head and, on each device, two copies of the superblock
// there, or the only one; if it is not, nothing is changed.
//
// Errors: ErrInvalidEntry if more blocks are bad than a table holds, ErrGeometry,
// ErrStuck if the bad blocks of the displaced head find no spare unit, those of the
// devices, and ErrBadPlaces if no mirror can be written on the backing: Revert
// gives that back. ErrPath is a cut.
func Convert(devs []Device, plan *Layout, o ConvertOptions) (Converted, error) {
	devs = withRetries(devs)
	taken, err := convert(devs, plan, o)
	return taken, orPathFailure(devs, err)
}

func convert(devs []Device, plan *Layout, o ConvertOptions) (Converted, error) {
	var taken Converted
	sb := &plan.sb
	if len(devs) != len(sb.Devices) {
		return taken, fmt.Errorf("%w: planned for %d devices, %d given", ErrGeometry,
			len(sb.Devices), len(devs))
	}
	for i, d := range devs {
		if d.Size() != sb.Devices[i].Size {
			return taken, fmt.Errorf("%w: %s planned for %d bytes has %d", ErrGeometry,
				nameOf(d, i), sb.Devices[i].Size, d.Size())
		}
	}
	for _, c := range readSuperblocks(devs[0]) {
		if sb.isDisplaced(c.offset) && c.sb != nil {
			return taken, fmt.Errorf("%w: the superblock of set %s lies at %d of it", ErrForeign,
				c.sb.UUID, c.offset)
		}
	}
	// What a tail or a spare device held is gone before anything is written
	// that it could be taken for.
	if err := clearOuterCopies(devs, plan); err != nil {
		return taken, err
	}
	// What does not read is given up when the head is written over. So it is asked again
	// when all is read, and all of it is done anew if anything reads then.
	buf, one := o.chunk(), AlignedBytes(PageSize)[:plan.BlockSize()]
	h, err := untilStable(devs, func() (*headCopy, error) {
		h := &headCopy{devs: devs, plan: plan, o: &o, buf: buf, one: one}
		return h, h.run()
	})
	if err != nil {
		return taken, fmt.Errorf("%w; nothing was changed that counts", err)
	}
	t := NewTable(plan)
	for _, e := range h.entries {
		if err := t.Apply(e); err != nil {
			return taken, err
		}
	}
	if err := t.Validate(); err != nil {
		return taken, fmt.Errorf("%w: %w", ErrInvalidEntry, err)
	}
	if n := t.Counts().Entries; n > plan.TableCapacity() {
		return taken, fmt.Errorf("%w: the disk is so bad that %d entries are needed, a "+
			"checkpoint holds %d; take more spare space", ErrInvalidEntry, n, plan.TableCapacity())
	}
	taken.Lost, taken.Mapped = h.lost, h.mapped

	now := sb.clone()
	now.Incompat |= incompatTransition
	now.Transition, now.Mark = TransitionCopied, o.Mark
	for i := range now.Regions {
		if r := &now.Regions[i]; r.Kind == RegionMirror {
			r.Stale = now.inHead(r)
		}
	}
	for _, m := range plan.mirrorsAt() {
		r := &now.Regions[m.region]
		if now.inHead(r) {
			continue
		}
		start := r.Start
		why, err := writeMirror(now, r, m,
			func(m *mirrorAt) error { return writeFirstCheckpoint(devs[m.device], plan, m, t) })
		if why != nil {
			taken.Bad = append(taken.Bad, badMirrorPlace(m.device, start, r, why, err))
		}
		if err != nil {
			return taken, fmt.Errorf("writing the mirror at %d of %s: %w; nothing was changed "+
				"that counts", r.Start, nameOf(devs[m.device], int(m.device)), err)
		}
	}
	if err := syncAll(devs); err != nil {
		return taken, err
	}
	// From here on an interrupted conversion is recognized.
	bad, err := putOuterCopies(devs, now)
	taken.Bad = append(taken.Bad, bad...)
	if err != nil {
		return taken, err
	}
	// The step from the old disk to the new set: one page. If it tears, the
	// superblocks outside say how to put it together again.
	now.Generation++
	now.Transition = TransitionConverting
	if err := putCopies(devs, now, []copyPlace{{0, o.Mark}}); err != nil {
		return taken, err
	}
	bad, err = finishConvert(devs, now, o)
	taken.Bad = append(taken.Bad, bad...)
	return taken, err
}

// writeMirror writes the first checkpoint of a mirror, by write, where it was
// planned, or else where there is room for it; r says then where that is. why is
// what was wrong with the planned place, nil if nothing was; err is nil if there
// is another one.
func writeMirror(sb *Superblock, r *Region, m mirrorAt, write func(*mirrorAt) error) (why,
	err error) {
	if why = write(&m); why == nil || errors.Is(why, ErrDamaged) {
		return why, why
	}
	err = why
	for _, start := range sb.placesFor(r, m.device) {
		m.start = start
		if err = write(&m); err == nil {
			r.Start = start
			r.Generation++
			return why, nil
		}
	}
	return why, err
}

// badMirrorPlace tells of a mirror that could not be written where it was planned. r is
// where it is instead, if err is nil.
func badMirrorPlace(device uint8, planned int64, r *Region, why, err error) BadPlace {
	p := BadPlace{Device: int(device), Offset: planned, What: "a mirror of the metadata", Err: why}
	if err == nil {
		p.Moved = r.Start
	}
	return p
}

// inHead reports whether a region lies in the head.
func (sb *Superblock) inHead(r *Region) bool { return r.Device == 0 && r.Start < sb.HeadBytes }

// outside lists the copies that lie where no displaced data is from, in the order of
// writing.
func (sb *Superblock) outerCopies() []copyPlace {
	var out []copyPlace
	for d := len(sb.Devices) - 1; d >= 0; d-- {
		for _, off := range sb.copies(uint8(d)) {
			if d > 0 || !sb.isDisplaced(off) {
				out = append(out, copyPlace{uint8(d), off})
			}
		}
	}
	return out
}

// putCopies writes superblocks one after the other, each durable and read
// back before the next.
func putCopies(devs []Device, sb *Superblock, to []copyPlace) error {
	b, back := AlignedBytes(PageSize), AlignedBytes(PageSize)
	for _, c := range to {
		sb.encode(b, c.device)
		if err := writePage(devs[c.device], b, back, c.offset); err != nil {
			return fmt.Errorf("the superblock at %d of %s: %w", c.offset,
				nameOf(devs[c.device], int(c.device)), err)
		}
	}
	return nil
}

// putOuterCopies writes the superblocks outside of the head, which say how far a move
// has come. A bad place among them is gone around, as long as two on each device
// are good, or the only one: a cut may leave the one that is being written
// unreadable. What a bad one holds is of an older generation, or nothing.
func putOuterCopies(devs []Device, sb *Superblock) (bad []BadPlace, err error) {
	good, want, last := map[uint8]int{}, map[uint8]int{}, map[uint8]error{}
	for _, c := range sb.outerCopies() {
		want[c.device] = min(want[c.device]+1, minCopies)
		if err := putCopies(devs, sb, []copyPlace{c}); err != nil {
			last[c.device] = err
			bad = append(bad, BadPlace{Device: int(c.device), Offset: c.offset,
				What: "a superblock", Err: err})
			continue
		}
		good[c.device]++
	}
	for device, err := range last {
		if good[device] < want[device] {
			return bad, err
		}
	}
	return bad, nil
}

// holds reports whether a superblock of the backing is at off, in this very
// generation; b is room for it.
func superblockIs(d Device, b []byte, sb *Superblock, off int64) bool {
	if _, err := d.ReadAt(b, off); err != nil {
		return false
	}
	s, _ := decodeSuperblock(b)
	return s != nil && s.UUID == sb.UUID && s.Generation == sb.Generation
}

// clearOuterCopies wipes the superblocks of whatever set the devices carried, but
// nothing in the head, which is data.
func clearOuterCopies(devs []Device, plan *Layout) error {
	zero, page := AlignedBytes(PageSize), AlignedBytes(PageSize)
	for i, d := range devs {
		for _, c := range readSuperblocks(d) {
			if i == 0 && c.offset < plan.sb.ExportedBytes || errors.Is(c.err, ErrNotFound) {
				continue
			}
			if _, err := d.WriteAt(zero, c.offset); err != nil {
				if _, readErr := d.ReadAt(page, c.offset); readErr != nil ||
					!hasMagic(page, magicSuperblock) {
					continue // a bad place, in which nothing is found
				}
				return fmt.Errorf("clearing the superblock of %s at %d: %w", nameOf(d, i), c.offset,
					err)
			}
		}
	}
	return syncAll(devs)
}

// headCopy copies the head to the displaced head, and the tail, if that is to be
// displaced, to the displaced tail. What is said of the head goes for both.
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
	spare   uint32 // the next spare unit to use
	done    int64  // bytes, for Progress
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
				// A block that has no copy needs a place all the same; it is
				// found when it is first written.
				block := (off + i) / bs
				if n := h.displacedIndex(block); h.have[n] &&
					(failed[i] || xxhash.Sum64(buf[i:i+bs]) != h.sums[n]) {
					strays = append(strays, block)
				}
			}
			h.progress(len(buf))
		})
	}
	return h.place(strays)
}

// nth is the number of a block among those that are displaced.
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

// read reads a part of the head; what cannot be read is zero in buf.
func (h *headCopy) read(buf []byte, off int64) {
	bs := int64(len(h.one))
	failed := map[int64]bool{}
	readAround(h.devs[0], buf, off, h.one, func(i int64, _ error) { failed[i] = true })
	for i := int64(0); i < int64(len(buf)); i += bs {
		if n := h.displacedIndex((off + i) / bs); !failed[i] {
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
	var lost, move uint8
	for i := range min(per, int64(h.plan.blocks)-unit*per) {
		switch b := unit*per + i; {
		case !h.have[h.displacedIndex(b)]:
			// Without a copy, as it was: reads fail, the first write clears it.
			lost |= 1 << i
			h.lost++
		case stray[b]:
			move |= 1 << i
			h.mapped++
		}
	}
	if lost != 0 {
		h.add(Entry{Unit: uint64(unit), Count: 1, Mask: lost, State: StateLost, Cause: CauseRead})
	}
	if move == 0 {
		return nil
	}
	for try := 0; ; try++ {
		if try == spareTries || uint64(h.spare) >= h.plan.spareUnits {
			return fmt.Errorf("%w: the displaced head cannot hold unit %d, and no good spare "+
				"unit was found for it", ErrStuck, unit)
		}
		spare := h.spare
		h.spare++
		err := h.toSpare(unit*per, move, spare)
		if errors.Is(err, ErrPath) {
			return err // the spare unit has done nothing
		}
		if err == nil {
			h.add(Entry{Unit: uint64(unit), Spare: spare, Count: 1, Mask: move, State: StateMapped,
				Cause: CauseWrite})
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
		if _, err := h.devs[0].ReadAt(h.one, (first+i)*bs); err != nil ||
			xxhash.Sum64(h.one) != h.sums[h.displacedIndex(first+i)] {
			return fmt.Errorf("block %d of the head: %w", first+i, errUnstable)
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
		if xxhash.Sum64(h.one) != h.sums[h.displacedIndex(first+i)] {
			return fmt.Errorf("%w: spare unit %d does not read back", ErrDamaged, spare)
		}
	}
	return nil
}

// finishConvert writes what the set has in its head, from what it has outside
// of it. sb is the newest superblock, TransitionConverting. All of it can be done
// again, from any point. The places that it went around are returned.
func finishConvert(devs []Device, sb *Superblock, o ConvertOptions) (bad []BadPlace, _ error) {
	l, err := newLayout(sb)
	if err != nil {
		return nil, err
	}
	now := sb.clone()
	// If the page at the mark were lost now, what is outside would take the
	// head for untouched: before it is touched, every copy says better. The
	// page itself stays as it is, for on a spare device's word alone nothing
	// in the head is changed.
	if _, err := putOuterCopies(devs, now); err != nil {
		return nil, err
	}
	page := AlignedBytes(PageSize)
	if !superblockIs(devs[0], page, now, now.Mark) {
		if err := putCopies(devs, now, []copyPlace{{0, now.Mark}}); err != nil {
			return nil, err
		}
	}
	// A set can do without its other copies in the head, if those are bad places.
	var keep [][2]int64
	for _, off := range now.displacedCopies() {
		keep = append(keep, [2]int64{off, off + PageSize})
		if off != now.Mark {
			_ = putCopies(devs, now, []copyPlace{{0, off}})
		}
	}
	// Whatever mark of the old disk is left in the head would be found there.
	// What cannot be written cannot be read as what it was either, or holds
	// what a reader of a bad sector gets.
	zero := o.chunk()
	for _, f := range now.displacedSpans() {
		inChunks(zero, f, func(b []byte, off int64) {
			wipeAround(devs[0], zero, off,
				off+int64(len(b)), keep)
		})
	}
	var from *mirrorAt
	var header []byte
	mirrors := l.mirrorsAt()
	for i := range mirrors {
		m := &mirrors[i]
		if now.inHead(&now.Regions[m.region]) {
			continue
		}
		if h := readFirstHeader(devs, now.UUID, m); h != nil {
			from, header = m, h
			break
		}
	}
	if from == nil {
		return nil, fmt.Errorf("%w: no mirror outside of the head can be read", ErrDamaged)
	}
	whole := 0
	var last error
	for i := range mirrors {
		m := &mirrors[i]
		r := &now.Regions[m.region]
		if now.inHead(r) {
			// Where it is in the end only the superblocks of the last step say:
			// until then it is stale for whoever reads those that are there, and
			// a second run tries all places anew.
			start := r.Start
			why, err := writeMirror(now, r, *m,
				func(m *mirrorAt) error {
					return copyFirstCheckpoint(devs, now.UUID, from, m,
						header)
				})
			if errors.Is(why, ErrDamaged) || errors.Is(err, ErrDamaged) {
				return bad, errors.Join(why, err)
			}
			if why != nil {
				bad, last = append(bad, badMirrorPlace(m.device, start, r, why, err)), why
			}
			// Without any good place it stays stale: the set is degraded.
			r.Stale = err != nil
		}
		if m.device == 0 && !r.Stale {
			whole++
		}
	}
	if whole == 0 {
		return bad, fmt.Errorf("%w: no mirror of the metadata can be written on the backing: %w",
			ErrBadPlaces, last)
	}
	if err := devs[0].Sync(); err != nil {
		return bad, err
	}
	now.Generation++
	now.Incompat &^= incompatTransition
	now.Transition, now.Mark = TransitionNone, 0
	wrong, err := putOuterCopies(devs, now)
	if err != nil {
		return bad, err
	}
	bad = append(bad, wrong...)
	// Byte 0 last, and a bad place before it is no harm.
	var errs []error
	for _, off := range now.displacedCopies() {
		if err = putCopies(devs, now, []copyPlace{{0, off}}); err != nil {
			bad = append(bad, BadPlace{Offset: off, What: "a superblock", Err: err})
			errs = append(errs, err)
		}
	}
	if err != nil {
		return bad, errors.Join(errs...)
	}
	return bad, nil
}

// readFirstHeader returns the page of a mirror's first checkpoint's header, nil if
// it cannot be had.
func readFirstHeader(devs []Device, set uuid.UUID, m *mirrorAt) []byte {
	b := AlignedBytes(PageSize)
	if _, err := devs[m.device].ReadAt(b, m.headerOffset(0)); err != nil {
		return nil
	}
	if h, ok := decodeHeader(b, &set); !ok || h.covers != creation || h.pages > m.pages() {
		return nil
	}
	return b
}

// copyFirstCheckpoint writes the first checkpoint of one mirror to another, and reads it
// back. ErrDamaged: the source cannot be read.
func copyFirstCheckpoint(devs []Device, set uuid.UUID, from, to *mirrorAt, header []byte) error {
	h, _ := decodeHeader(header, &set)
	b := AlignedBytes(PageSize)
	for page := range h.pages {
		if _, err := devs[from.device].ReadAt(b, from.pageOffset(0, page)); err != nil {
			return fmt.Errorf("%w: page %d of the mirror at %d of %s: %w", ErrDamaged, page,
				from.start, nameOf(devs[from.device], int(from.device)), err)
		}
		if _, _, ok := decodePage(b, &set, h.checkpointID, page); !ok {
			return fmt.Errorf("%w: page %d of the mirror at %d of %s", ErrDamaged, page, from.start,
				nameOf(devs[from.device], int(from.device)))
		}
		if _, err := devs[to.device].WriteAt(b, to.pageOffset(0, page)); err != nil {
			return err
		}
	}
	if err := devs[to.device].Sync(); err != nil {
		return err
	}
	copy(b, header)
	if _, err := devs[to.device].WriteAt(b, to.headerOffset(0)); err != nil {
		return err
	}
	clear(b)
	if _, err := devs[to.device].WriteAt(b, to.headerOffset(1)); err != nil {
		return err
	}
	if err := devs[to.device].Sync(); err != nil {
		return err
	}
	return verifyFirstCheckpoint(devs[to.device], &set, to, &h, b)
}

// wipeAround zeroes [from, to) but for the ranges of keep; around what cannot
// be written.
func wipeAround(d Device, zero []byte, from, to int64, keep [][2]int64) {
	for from < to {
		end := to
		skip := false
		for _, k := range keep {
			switch {
			case k[0] <= from && from < k[1]:
				from, skip = k[1], true
			case from < k[0]:
				end = min(end, k[0])
			}
		}
		if skip {
			continue
		}
		if _, err := d.WriteAt(zero[:end-from], from); err != nil {
			for off := from; off < end; off += PageSize {
				_, _ = d.WriteAt(zero[:min(PageSize, end-off)], off)
			}
		}
		from = end
	}
}

// ResumeConvert finishes a conversion that was interrupted once its copy of the
// head counted: sb is what Interrupted said, TransitionConverting, and devs are in
// its order.
func ResumeConvert(devs []Device, sb *Superblock, o ConvertOptions) error {
	devs = withRetries(devs)
	if sb.Transition != TransitionConverting {
		return fmt.Errorf("%w: nothing to finish: %s", ErrUnfinished, sb.Transition)
	}
	_, err := finishConvert(devs, sb, o)
	return orPathFailure(devs, err)
}

// UndoConvert forgets a conversion that was interrupted before its copy of the
// head counted: sb is what Interrupted said, TransitionCopied, and devs are in
// its order. Afterwards the disk is as it was, or as its owner has changed it
// since. Errors: ErrForeign, unless force is set, if the disk is not the one that
// the spare device tells of; ErrDamaged, and those of the devices.
func UndoConvert(devs []Device, sb *Superblock, force bool) error {
	devs = withRetries(devs)
	return orPathFailure(devs, undoConvert(devs, sb, force))
}

func undoConvert(devs []Device, sb *Superblock, force bool) error {
	if sb.Transition != TransitionCopied {
		return fmt.Errorf("%w: not to be undone: %s", ErrUnfinished, sb.Transition)
	}
	v, err := viewOf(devs, sb)
	if err != nil {
		return err
	}
	if err := v.checkOwner(); err != nil && !force {
		return err
	}
	// What may have been torn is the write of the next generation.
	next := sb.clone()
	next.Generation++
	next.Transition = TransitionConverting
	if err := v.repairMark(next); err != nil && !errors.Is(err, errMarkUnclear) {
		return err
	}
	return erase(devs, sb, false)
}
