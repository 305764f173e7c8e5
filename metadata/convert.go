package metadata

import (
	"errors"
	"fmt"

	"github.com/google/uuid"
)

// ConvertOptions are those of Convert, ResumeConvert and Revert.
type ConvertOptions struct {
	// Now is the time, in seconds since 1970, that entries carry.
	Now uint32
	// Mark is the offset of the page by which the file system on the plain disk is recognized: 0,
	// or SuperblockStride for one that leaves the start of the disk free and is found at 64 KiB.
	// The write of this page decides whether the disk is a set or a plain disk. So the disk never
	// looks like a file system that is only partly there.
	Mark int64
	// Chunk is how much is copied at once, in bytes, a multiple of 4096.
	// Default: 1 MiB.
	Chunk int
	// Session is a random number, as in Options.
	Session uint64
	// Taken are blocks, in order, whose contents, for Convert, are not what the disk holds at their
	// place.
	Taken []Taken
	// Force makes Revert go on where data has no copy or cannot go home.
	Force bool
	// AcceptOld makes Revert accept the older data that home holds of blocks without a readable
	// copy, if it can be read several times. Writes to these blocks since they left home are lost.
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

// Taken is a block that lives elsewhere than on the disk, where another program has put it.
type Taken struct {
	Block uint64
	Data  []byte // one block; nil: it has no copy that can be trusted
}

// Converted is the result of Convert.
type Converted struct {
	Taken uint64 // blocks of ConvertOptions.Taken whose data the set has now
	// blocks of ConvertOptions.Taken that have no copy: they are lost, and not counted in Lost
	Untaken uint64
	Lost    uint64 // blocks of the head that could not be read: they have no copy now, as before
	// blocks of the head whose place in the displaced head is bad: they are in the spare region
	Mapped uint64
	Bad    []BadPlace
}

// Convert makes a new set of a disk that keeps its data: the exported device shows the bytes that
// the disk has now, at the same offsets. devs are as in plan.Devices; they must take I/O in plan's
// blocks. The backing must not carry a superblock in its head, and the space outside of its
// exported bytes must be free. The caller must make sure of both. Spare devices are written over.
//
// Nothing in the head is changed before the copy of it is durable, was read back, and a superblock
// outside of the head says so. The page at o.Mark comes next: with it the copy counts. Only then is
// the rest of the head written over. A cut before that page leaves the old disk. A later cut leaves
// a set that ResumeConvert finishes. Revert can give back either.
//
// Bad places for the metadata are avoided as in CreateAround, also in the head, and listed
// in Converted. For recovery from a cut there must be a mirror outside of the head and, on
// each device, two copies of the superblock outside of it, or the only one. If they cannot
// be written, nothing is changed.
//
// Errors: ErrInvalidEntry if more blocks are bad than a table holds, ErrGeometry,
// ErrStuck if the bad blocks of the displaced head find no spare unit, those of the
// devices, and ErrBadPlaces if no mirror can be written on the backing: Revert
// gives that back. ErrPath is a cut.
func Convert(devs []Device, plan *Layout, o ConvertOptions) (Converted, error) {
	devs = withRetries(devs)
	out, err := convert(devs, plan, o)
	return out, orPathFailure(devs, err)
}

func convert(devs []Device, plan *Layout, o ConvertOptions) (out Converted, err error) {
	if err := plan.matches(devs); err != nil {
		return out, err
	}
	for _, c := range readSuperblocks(devs[0]) {
		if plan.sb.isDisplaced(c.offset) && c.sb != nil {
			return out, fmt.Errorf("%w: the superblock of set %s lies at %d of it", ErrForeign,
				c.sb.UUID, c.offset)
		}
	}
	// An older set in a tail or on a spare device goes first: no cut may leave its
	// superblock above what is written next.
	if err := clearOuterCopies(devs, plan); err != nil {
		return out, err
	}
	h, err := copyHead(devs, plan, &o)
	if err != nil {
		return out, fmt.Errorf("%w; nothing was changed that counts", err)
	}
	t, err := h.table()
	if err != nil {
		return out, err
	}
	out.Lost, out.Mapped = h.lost, h.mapped
	out.Taken, out.Untaken = h.took, h.untaken
	now := plan.sb.copied(o.Mark)
	if out.Bad, err = writeOuterMirrors(devs, plan, now, t); err != nil {
		return out, err
	}
	if err := syncAll(devs); err != nil {
		return out, err
	}
	// From here on an interrupted conversion is recognized.
	bad, err := putOuterCopies(devs, now)
	out.Bad = append(out.Bad, bad...)
	if err != nil {
		return out, err
	}
	// The step from the old disk to the new set: one page. If it tears, the
	// superblocks outside say how to put it together again.
	now.Generation++
	now.Transition = TransitionConverting
	if err := putCopies(devs, now, []copyPlace{{0, o.Mark}}); err != nil {
		return out, err
	}
	bad, err = finishConvert(devs, now, o)
	out.Bad = append(out.Bad, bad...)
	return out, err
}

// copied is the superblock of a new set whose head has been copied, and whose head is still
// the old disk's: the mirrors that are to lie there are stale.
func (sb *Superblock) copied(mark int64) *Superblock {
	now := sb.clone()
	now.Incompat |= incompatTransition
	now.Transition, now.Mark = TransitionCopied, mark
	for i := range now.Regions {
		if r := &now.Regions[i]; r.Kind == RegionMirror {
			r.Stale = now.inHead(r)
		}
	}
	return now
}

// writeOuterMirrors writes the first checkpoint of the mirrors outside of the head. Where
// they lie then is noted in sb.
func writeOuterMirrors(devs []Device, plan *Layout, sb *Superblock, t *Table) (bad []BadPlace,
	_ error) {
	for _, m := range plan.mirrorsAt() {
		r := &sb.Regions[m.region]
		if sb.inHead(r) {
			continue
		}
		start := r.Start
		why, err := writeMirror(sb, r, m,
			func(m *mirrorAt) error { return writeFirstCheckpoint(devs[m.device], plan, m, t) })
		if why != nil {
			bad = append(bad, badMirrorPlace(m.device, start, r, why, err))
		}
		if err != nil {
			return bad, fmt.Errorf("writing the mirror at %d of %s: %w; nothing was changed "+
				"that counts", r.Start, nameOf(devs[m.device], int(m.device)), err)
		}
	}
	return bad, nil
}

// writeMirror writes the first checkpoint of a mirror, by write, where it was planned. If that
// fails, it writes the checkpoint where there is room, and r then says where. why is what was wrong
// with the planned place, nil if nothing was. err is nil if the mirror was written somewhere.
func writeMirror(sb *Superblock, r *Region, m mirrorAt, write func(*mirrorAt) error) (why,
	err error) {
	if why = write(&m); why == nil || errors.Is(why, ErrDamaged) {
		return why, why
	}
	err = why
	for _, start := range sb.placesFor(r, m.device, r.Length) {
		m.start = start
		if err = write(&m); err == nil {
			r.Start = start
			r.Generation++
			return why, nil
		}
	}
	return why, err
}

// badMirrorPlace describes a mirror that could not be written where it was planned. If err is nil,
// r is its place instead.
func badMirrorPlace(device uint8, planned int64, r *Region, why, err error) BadPlace {
	p := BadPlace{Device: int(device), Offset: planned, What: "a mirror of the metadata", Err: why}
	if err == nil {
		p.Moved = r.Start
	}
	return p
}

// inHead reports whether a region lies in the head.
func (sb *Superblock) inHead(r *Region) bool { return r.Device == 0 && r.Start < sb.HeadBytes }

// outerCopies lists the copies outside of the places that displaced data comes from, in the order
// of writing.
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

// putOuterCopies writes the superblocks outside of the head, which say how far a conversion
// or a revert has come. Bad places among them are skipped, as long as two on each device
// are good, or the only one: a cut may leave the one that is being written
// unreadable. A bad place holds an older generation, or nothing.
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

// superblockIs reports whether the superblock of the backing is at off, in exactly this generation;
// b is room for it.
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

// finishConvert writes the metadata in the head, from the metadata outside of it. sb is the newest
// superblock, TransitionConverting. All of it can be done again, from any point. It returns the bad
// places that it avoided.
func finishConvert(devs []Device, sb *Superblock, o ConvertOptions) (bad []BadPlace, _ error) {
	l, err := newLayout(sb)
	if err != nil {
		return nil, err
	}
	now := sb.clone()
	// The copies outside still say that the head is untouched, and the page at the mark may
	// be lost. So they are written before the head is changed. The page itself stays as it
	// is: a spare device alone is no reason to change the head.
	if _, err := putOuterCopies(devs, now); err != nil {
		return nil, err
	}
	page := AlignedBytes(PageSize)
	if !superblockIs(devs[0], page, now, now.Mark) {
		if err := putCopies(devs, now, []copyPlace{{0, now.Mark}}); err != nil {
			return nil, err
		}
	}
	wipeHead(devs, now, o.chunk())
	if bad, err = writeHeadMirrors(devs, l, now); err != nil {
		return bad, err
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
	wrong, err = putFrontCopies(devs, now)
	return append(bad, wrong...), err
}

// wipeHead zeroes the head and a displaced tail, except for the superblocks in them, which
// it writes. zero is a buffer of zeroes.
func wipeHead(devs []Device, sb *Superblock, zero []byte) {
	var keep [][2]int64
	for _, off := range sb.displacedCopies() {
		keep = append(keep, [2]int64{off, off + PageSize})
		if off != sb.Mark {
			// A set can do without these copies, if their places are bad.
			_ = putCopies(devs, sb, []copyPlace{{0, off}})
		}
	}
	// Any signature of the old disk that stayed in the head would be found there. A place that
	// takes no zeroes does not show the old signature either.
	for _, f := range sb.displacedSpans() {
		inChunks(zero, f, func(b []byte, off int64) {
			wipeAround(devs[0], zero, off, off+int64(len(b)), keep)
		})
	}
}

// writeHeadMirrors copies the first checkpoint from a mirror outside of the head to those in
// it. Where they lie then, and which of them are stale, is noted in sb.
func writeHeadMirrors(devs []Device, l *Layout, sb *Superblock) (bad []BadPlace, _ error) {
	mirrors := l.mirrorsAt()
	from, header := firstOuterMirror(devs, sb, mirrors)
	if from == nil {
		return nil, fmt.Errorf("%w: no mirror outside of the head can be read", ErrDamaged)
	}
	copyTo := func(m *mirrorAt) error {
		return copyFirstCheckpoint(devs, sb.UUID, from, m, header)
	}
	whole := 0
	var last error
	for i := range mirrors {
		m := &mirrors[i]
		r := &sb.Regions[m.region]
		if sb.inHead(r) {
			// Only the superblocks of the last step say where it is in the end. The
			// earlier ones call it stale, so a second run tries all places again.
			start := r.Start
			why, err := writeMirror(sb, r, *m, copyTo)
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
	return bad, nil
}

// firstOuterMirror returns a mirror outside of the head whose first header reads, and that
// header; nil if there is none.
func firstOuterMirror(devs []Device, sb *Superblock, mirrors []mirrorAt) (*mirrorAt, []byte) {
	for i := range mirrors {
		m := &mirrors[i]
		if sb.inHead(&sb.Regions[m.region]) {
			continue
		}
		if h := readFirstHeader(devs, sb.UUID, m); h != nil {
			return m, h
		}
	}
	return nil, nil
}

// putFrontCopies writes the superblocks in the head and in a displaced tail, byte 0 last. That
// one decides: any other may lie in a bad place.
func putFrontCopies(devs []Device, sb *Superblock) (bad []BadPlace, err error) {
	var errs []error
	for _, off := range sb.displacedCopies() {
		if err = putCopies(devs, sb, []copyPlace{{0, off}}); err != nil {
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

// wipeAround zeroes [from, to) except for the ranges of keep and for what cannot be written.
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

// ResumeConvert finishes a conversion that was interrupted once its copy of the head counted: sb is
// what Interrupted returned, TransitionConverting, and devs are in its order.
func ResumeConvert(devs []Device, sb *Superblock, o ConvertOptions) error {
	devs = withRetries(devs)
	if sb.Transition != TransitionConverting {
		return fmt.Errorf("%w: nothing to finish: %s", ErrUnfinished, sb.Transition)
	}
	_, err := finishConvert(devs, sb, o)
	return orPathFailure(devs, err)
}

// UndoConvert undoes a conversion that was interrupted before its copy of the head counted: sb is
// what Interrupted returned, TransitionCopied, and devs are in its order. Afterwards the disk is as
// it was, or as its owner has changed it since. Errors: ErrForeign, unless force is set, if the
// disk is not the one that the spare device describes; ErrDamaged, and those of the devices.
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
	// The write of the next generation may have been torn.
	next := sb.clone()
	next.Generation++
	next.Transition = TransitionConverting
	if err := v.repairMark(next); err != nil && !errors.Is(err, errMarkUnclear) {
		return err
	}
	return erase(devs, sb, false)
}
