package metadata

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// Reverted is what Revert did.
type Reverted struct {
	Moved uint64 // blocks that went home, outside of the head
	// Old, with AcceptOld only, are the blocks that hold what home held before they left it.
	Old []BlockRange
	// Left, with Force only, are the blocks that do not hold what was
	// exported: without a copy (in the head they read as zeroes now,
	// elsewhere as whatever the disk has there), or in bad places.
	Left StuckError
}

// Revert gives a disk back: afterwards it is a plain disk that holds at each offset what was
// exported there. The set of img must not be in use. Its devices must take I/O in the set's blocks.
//
//  1. Blocks of the spare region are written to their homes, read back, and
//     only then committed as being there. A cut here leaves an ordinary set.
//  2. The places of the head are tried, by writing what they hold. Nothing is refused
//     later than here (ErrStuck, a *StuckError, unless o.Force).
//  3. The superblocks, those outside of the head first, say that the head is
//     being moved. From here on the set is not served; ResumeRevert goes on.
//  4. The head moves to the front, except for the page at o.Mark, and a displaced tail
//     to the end, and both are read back. So a signature at the end of the disk shows
//     only once all but that page is home.
//  5. That page is written. From here on it is a plain disk.
//  6. What is left outside of the head is erased, the superblocks first.
//
// If a device cannot be reached any more, Revert stops there (ErrPath), as at a cut.
func Revert(img *Image, o ConvertOptions) (Reverted, error) {
	out, err := revert(img, o)
	return out, orPathFailure(img.devs, err)
}

func revert(img *Image, o ConvertOptions) (Reverted, error) {
	var out Reverted
	if img.readOnly {
		return out, fmt.Errorf("%w: ro_compat features %#x", ErrReadOnly,
			img.sb.ROCompat&^knownROCompat)
	}
	v, err := NewView(img)
	if err != nil {
		return out, err
	}
	survey := v.survey(&ConvertOptions{Chunk: o.Chunk})
	v.findOld(survey, o.AcceptOld)
	out.Left.NoCopy, out.Left.NoCopyMore = survey.NoCopy, survey.More
	if len(survey.NoCopy) > 0 && !o.Force {
		return out, Stuck(survey, o.AcceptOld)
	}
	if o.AcceptOld {
		out.Old = survey.Old
	}
	back, err := v.acceptOld(out.Old)
	if err != nil {
		return out, err
	}
	var bad blockList
	moved, noCopy, err := v.moveHome(&bad)
	if err != nil {
		return out, err
	}
	out.Moved = v.notDisplaced(moved)
	moved = append(moved, back...)
	if noCopy.count() > 0 && !o.Force {
		// These could be read a moment ago.
		return out, &StuckError{NoCopy: noCopy.ranges, NoCopyMore: noCopy.more}
	}
	out.Left.NoCopy = mergeRanges(out.Left.NoCopy, noCopy.ranges)
	// Nothing reads those homes until the table says so. So what was written to them does
	// no harm if the revert is refused.
	if bad.count() > 0 && !o.Force {
		return out, &StuckError{BadHome: bad.ranges, BadHomeMore: bad.more}
	}
	head, err := v.testHead(&o)
	if err != nil {
		return out, err
	}
	if head.count() > 0 && !o.Force {
		return out, &StuckError{BadHome: head.ranges, BadHomeMore: head.more}
	}
	now := img.sb.clone()
	now.Generation = img.maxGeneration
	// If a part of the head stays remapped, the mirrors outside of it must have all of that.
	if len(moved) > 0 || v.strays() > 0 {
		if now, err = v.commitHome(img, moved, o); err != nil {
			return out, err
		}
	}
	out.Left.BadHome, out.Left.BadHomeMore = append(head.ranges, bad.ranges...), head.more+bad.more
	return out, v.moveFront(now, o, &out)
}

// RevertConverting gives back a disk whose conversion was interrupted after its copy of the head
// counted; sb is what Interrupted returned, TransitionConverting.
func RevertConverting(devs []Device, sb *Superblock, o ConvertOptions) (Reverted, error) {
	devs = withRetries(devs)
	out, err := revertConverting(devs, sb, o)
	return out, orPathFailure(devs, err)
}

func revertConverting(devs []Device, sb *Superblock, o ConvertOptions) (Reverted, error) {
	var out Reverted
	v, err := viewOf(devs, sb)
	if err != nil {
		return out, err
	}
	survey := v.survey(&ConvertOptions{Chunk: o.Chunk})
	out.Left.NoCopy, out.Left.NoCopyMore = survey.NoCopy, survey.More
	if len(survey.NoCopy) > 0 && !o.Force {
		return out, &StuckError{NoCopy: survey.NoCopy, NoCopyMore: survey.More}
	}
	o.Mark = sb.Mark
	return out, v.moveFront(sb, o, &out)
}

// ResumeRevert continues a revert; sb is what Interrupted returned, TransitionReverting. The error
// is ErrForeign if the disk is not the one that the spare device describes, and ErrStuck also if it
// cannot be told whether the head was moved already; with o.Force it is moved again.
func ResumeRevert(devs []Device, sb *Superblock, o ConvertOptions) (Reverted, error) {
	devs = withRetries(devs)
	out, err := resumeRevert(devs, sb, o)
	return out, orPathFailure(devs, err)
}

func resumeRevert(devs []Device, sb *Superblock, o ConvertOptions) (Reverted, error) {
	var out Reverted
	v, err := viewOf(devs, sb)
	if err != nil {
		return out, err
	}
	o.Mark = sb.Mark
	page := AlignedBytes(PageSize)
	for _, off := range sb.displacedCopies() {
		// The superblocks in the head are written over with the rest of it, the one at the mark
		// last. So the revert is not complete while one is there.
		if _, err := devs[0].ReadAt(page, off); err == nil {
			if s, _ := decodeSuperblock(page); s != nil && s.UUID == sb.UUID {
				return out, v.moveFront(sb, o, &out)
			}
		}
	}
	if err := v.checkOwner(); err != nil && !o.Force {
		return out, err
	}
	// The last page was being written, so everything else was in place. The disk may have been in
	// use since, so only what is torn is repaired.
	if err := v.repairMark(sb); err != nil {
		if errors.Is(err, errNotReverted) {
			return out, v.moveFront(sb, o, &out)
		}
		if !errors.Is(err, errMarkUnclear) {
			return out, err
		}
		if !o.Force {
			return out, fmt.Errorf("%w: %w", ErrStuck, err)
		}
		return out, v.moveFront(sb, o, &out)
	}
	return out, erase(devs, sb, false)
}

// moveHome writes mapped blocks to their homes and reads them back. It returns
// entries for those that are there now. Of the blocks outside of head and tail, noCopy are
// those whose copy cannot be read, and bad gets those that did not get home. Blocks of head
// and tail will have another home.
func (v *View) moveHome(bad *blockList) (_ []Entry, noCopy blockList, _ error) {
	const batch = 1024
	type move struct {
		block uint64
		sum   uint64
	}
	var done []Entry
	var moves []move
	per := uint64(UnitSize / v.layout.BlockSize())
	flush := func() error {
		if len(moves) == 0 {
			return nil
		}
		// Homes are on the backing. The homes of head and tail are on the devices that these were
		// displaced to.
		for _, d := range slices.Compact([]uint8{0, v.layout.headDev, v.layout.tailDev}) {
			if err := v.devs[d].Sync(); err != nil {
				return err
			}
		}
		for _, m := range moves {
			d, at := v.layout.HomeOf(m.block)
			if _, err := v.devs[d].ReadAt(v.one, at); err != nil || xxhash.Sum64(v.one) != m.sum {
				if !v.layout.displaced(m.block) {
					bad.add(m.block)
				}
				continue
			}
			done = addHome(done, m.block/per, uint8(1)<<(m.block%per))
		}
		moves = moves[:0]
		return nil
	}
	var err error
	v.mapped(func(block uint64, spare uint32) {
		if err != nil {
			return
		}
		d, at := v.slot(block, spare)
		if _, e := v.devs[d].ReadAt(v.one, at); e != nil {
			if !v.layout.displaced(block) {
				noCopy.add(block)
			}
			return
		}
		d, at = v.layout.HomeOf(block)
		sum := xxhash.Sum64(v.one)
		if _, e := v.devs[d].WriteAt(v.one, at); e != nil {
			sum = ^sum // it is seen below that it is not there
		}
		if moves = append(moves, move{block, sum}); len(moves) == batch {
			err = flush()
		}
	})
	if err == nil {
		err = flush()
	}
	return done, noCopy, err
}

// addHome adds a block to a list of entries.
func addHome(list []Entry, unit uint64, bit uint8) []Entry {
	if n := len(list); n > 0 && list[n-1].Unit == unit {
		list[n-1].Mask |= bit
		return list
	}
	return append(list, Entry{Unit: unit, Count: 1, Mask: bit, State: StateHome,
		Cause: CauseOperator})
}

// testHead writes to every place of the head, and of the tail if that is displaced,
// what it holds, and returns the blocks that do not take it. Metadata that cannot be
// read is zeroed, because nothing needs it any more.
func (v *View) testHead(o *ConvertOptions) (bad blockList, err error) {
	back := o.chunk()
	d, bs := v.devs[0], int64(v.layout.BlockSize())
	try := func(b []byte, off int64) error {
		_, err := d.ReadAt(b, off)
		if err == nil {
			_, err = d.WriteAt(b, off)
		}
		if err == nil {
			if err := d.Sync(); err != nil {
				return err
			}
			sum := xxhash.Sum64(b)
			if _, err = d.ReadAt(b, off); err == nil && xxhash.Sum64(b) == sum {
				return nil
			}
		}
		readAround(d, b, off, v.one, func(int64, error) {})
		// It is not enough that it reads back, because it held the same data before.
		failed := map[int64]bool{}
		writeAround(d, b, off, v.one, func(i int64) { failed[i] = true })
		if err := d.Sync(); err != nil {
			return err
		}
		readAround(d, back[:len(b)], off, v.one, func(i int64, _ error) { failed[i] = true })
		for i := int64(0); i < int64(len(b)); i += bs {
			if failed[i] || !bytes.Equal(back[i:i+bs], b[i:i+bs]) {
				bad.add(uint64((off + i) / bs))
			}
		}
		return nil
	}
	for _, f := range v.layout.sb.displacedSpans() {
		inChunks(o.chunk(), f, func(b []byte, off int64) {
			if err == nil {
				err = try(b, off)
			}
		})
	}
	return bad, err
}

// commitHome makes it durable that blocks are at home, in every mirror, and
// returns the superblock as it is then.
func (v *View) commitHome(img *Image, entries []Entry, o ConvertOptions) (*Superblock, error) {
	c, err := NewCommitter(img, v.table, Options{Session: o.Session})
	if err != nil {
		return nil, err
	}
	run := func(t Ticket, err error) error {
		if err != nil {
			return err
		}
		ended := OutcomeDropped
		for _, r := range RunOps(c, v.devs, nil) {
			if r.Ticket == t {
				ended = r.Outcome
			}
		}
		if ended != OutcomeDurable {
			return fmt.Errorf("the metadata takes no change; nothing is lost, the set is as it "+
				"was: %w", c.Status().Err)
		}
		return nil
	}
	if err := run(c.Open(o.Now)); err != nil {
		return nil, err
	}
	for len(entries) > 0 {
		n := min(len(entries), MaxEntries)
		// A checkpoint may contain this before the record does: the data is already at home,
		// durably, and is still at its old place as well.
		for i := range entries[:n] {
			entries[i].Time = o.Now
			if err := v.table.Apply(entries[i]); err != nil {
				return nil, err
			}
		}
		if err := run(c.Commit(entries[:n])); err != nil {
			return nil, err
		}
		entries = entries[n:]
	}
	// The mirrors in the head are about to go: the others must have it all.
	if err := run(c.Checkpoint()); err != nil {
		return nil, err
	}
	sb := c.sb.now.clone()
	sb.Generation = max(sb.Generation, c.sb.gen)
	return sb, nil
}

// moveFront moves the head to the front; sb is the newest superblock.
func (v *View) moveFront(sb *Superblock, o ConvertOptions, out *Reverted) error {
	now, err := v.reverting(sb, o.Mark)
	if err != nil {
		return err
	}
	if err := v.putReverting(now, o.Force); err != nil {
		return err
	}
	var left unmoved
	buf := o.chunk()
	if err := v.allButMark(buf, now, o, &left); err != nil {
		return err
	}
	if left.any() && !o.Force {
		return fmt.Errorf("%w; the set stays as it is, half given back: try again, or add --force",
			left.err())
	}
	// A copy that could not be read is given up for good with the next page.
	if left.noCopy.count() > 0 && readsDiffer(v.devs) {
		return errUnstable
	}
	// All but the page that makes it a plain disk is durable.
	if err := v.restoreFront(buf[:PageSize], now.Mark, &left); err != nil {
		return err
	}
	if left.any() && !o.Force {
		return left.err()
	}
	out.Left.BadHome = mergeRanges(out.Left.BadHome, left.badHome.ranges)
	out.Left.NoCopy = mergeRanges(out.Left.NoCopy, left.noCopy.ranges)
	return erase(v.devs, now, true)
}

// reverting is the next superblock of a set whose head is about to be moved to the front.
func (v *View) reverting(sb *Superblock, mark int64) (*Superblock, error) {
	now := sb.clone()
	if sb.Transition != TransitionReverting {
		now.Strays = v.strays()
	}
	now.Generation++
	now.Incompat |= incompatTransition
	now.Transition, now.Mark = TransitionReverting, mark
	now.markHeadMirrorsStale()
	if now.Generation == math.MaxUint64 {
		return nil, fmt.Errorf("%w: generation %d", ErrDamaged, now.Generation)
	}
	if sb.Transition == TransitionReverting || now.Strays == 0 {
		return now, nil
	}
	// Only the mirrors outside of the head will say where the strays are.
	outer, err := viewOf(v.devs, now)
	if err != nil {
		return nil, fmt.Errorf("%d blocks of the head are remapped, and only a mirror in the "+
			"head says where to; repair the metadata first: %w", now.Strays, err)
	}
	if !sameTable(outer.table, v.table) {
		return nil, fmt.Errorf("%w: the mirrors do not agree", ErrDamaged)
	}
	return now, nil
}

// putReverting writes the superblocks. Those outside of the head come first: once the head
// changes they are what is left. A spare device may be ahead; the backing's decide.
func (v *View) putReverting(sb *Superblock, force bool) error {
	if _, err := putOuterCopies(v.devs, sb); err != nil {
		return err
	}
	front := slices.DeleteFunc(sb.displacedCopies(),
		func(off int64) bool { return off == sb.Mark })
	for _, off := range append(front, sb.Mark) {
		err := putCopies(v.devs, sb, []copyPlace{{0, off}})
		// Those that are not at the mark may lie in bad places.
		if err != nil && off == sb.Mark && !force {
			return err
		}
	}
	return nil
}

// allButMark moves the head to the front, except for the page at the mark, and then a
// displaced tail to the end.
func (v *View) allButMark(buf []byte, sb *Superblock, o ConvertOptions,
	left *unmoved) (err error) {
	head := span{sb.Mark + PageSize, sb.HeadBytes}
	spans := append([]span{{0, sb.Mark}, head}, sb.displacedSpans()[1:]...)
	var done, total int64
	for _, s := range spans {
		total += s.to - s.from
	}
	for _, s := range spans {
		inChunks(buf, s, func(b []byte, off int64) {
			if err == nil {
				err = v.restoreFront(b, off, left)
			}
			if done += int64(len(b)); err == nil && o.Progress != nil {
				o.Progress(done, total)
			}
		})
	}
	return err
}

// strays counts the blocks of head and tail that do not live where those were
// displaced to.
func (v *View) strays() (n uint64) {
	count := func(uint64, State, uint32) { n++ }
	v.remapped(0, v.layout.headBlocks, count)
	v.remapped(v.layout.tailBlock, v.layout.blocks, count)
	return n
}

// markHeadMirrorsStale marks the mirrors in the head: what they hold does not count any more.
func (sb *Superblock) markHeadMirrorsStale() {
	for i := range sb.Regions {
		if r := &sb.Regions[i]; r.Kind == RegionMirror && sb.inHead(r) {
			r.Stale, r.StaleFrom = true, Position{}
		}
	}
}

// restoreFront writes a part of the head to the front of the disk, or a part of the tail to its
// end, durably, and reads it back. It adds to left the blocks that did not get there, and those
// that have no copy, which become zeroes.
func (v *View) restoreFront(buf []byte, off int64, left *unmoved) error {
	d, bs := v.devs[0], int64(v.layout.BlockSize())
	v.read(buf, off, func(block uint64, _ error) { left.noCopy.add(block) })
	writeAround(d, buf, off, v.one, func(int64) {}) // what fails is seen below
	if err := d.Sync(); err != nil {
		return err
	}
	back := AlignedBytes(len(buf))
	failed := map[int64]bool{}
	readAround(d, back, off, v.one, func(i int64, _ error) { failed[i] = true })
	for i := int64(0); i < int64(len(buf)); i += bs {
		if failed[i] || !bytes.Equal(back[i:i+bs], buf[i:i+bs]) {
			left.badHome.add(uint64((off + i) / bs))
		}
	}
	return nil
}

// sameTable reports whether two tables state the same.
func sameTable(a, b *Table) bool {
	x, y := make([]Entry, 256), make([]Entry, 256)
	for i, j := uint64(0), uint64(0); ; {
		n, nextA, doneA := a.Entries(i, x)
		m, nextB, doneB := b.Entries(j, y)
		if n != m || doneA != doneB {
			return false
		}
		for k := range x[:n] {
			if x[k] != y[k] {
				return false
			}
		}
		if doneA {
			return true
		}
		i, j = nextA, nextB
	}
}
