package metadata

import (
	"bytes"
	"errors"
	"fmt"
)

// Transition says that a set is on its way from or to a plain disk. Such a set
// is not served: Load refuses it with ErrUnfinished. The values are frozen with
// format version 4; they count only where the superblock has the incompat bit
// of transitions, so that a version that does not know them refuses the set.
type Transition uint32

const (
	// TransitionNone is an ordinary set.
	TransitionNone Transition = 0
	// TransitionCopied: Convert has copied the head and written what lies
	// outside of it. The disk is still the old one: nothing in its head was
	// changed, except that the page at Mark may be torn.
	TransitionCopied Transition = 1
	// TransitionConverting: the displaced copy counts from now on. What the set has
	// in the head may not be written yet.
	TransitionConverting Transition = 2
	// TransitionReverting: all data is at home except for the head, which is
	// being moved back to the front. The page at Mark goes last.
	TransitionReverting Transition = 3
)

// incompatTransition is the feature bit of a superblock that has a Transition.
const incompatTransition uint32 = 1

// String returns the transition's name in JSON.
func (t Transition) String() string {
	switch t {
	case TransitionNone:
		return "none"
	case TransitionCopied:
		return "taking-over-copied"
	case TransitionConverting:
		return "taking-over"
	case TransitionReverting:
		return "releasing"
	}
	return fmt.Sprintf("transition(%d)", uint32(t))
}

// MarshalText makes JSON carry the name.
func (t Transition) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// Unfinished is the error that says what to do about a set in transition, nil
// for any other.
func (sb *Superblock) Unfinished() error {
	switch sb.Transition {
	case TransitionNone:
		return nil
	case TransitionReverting:
		return fmt.Errorf("%w: %q is being given back; finish it with: ublk-remap release",
			ErrUnfinished, sb.Name)
	}
	return fmt.Errorf("%w: %q is being converted in place; finish it with: ublk-remap create "+
		"--in-place, or undo it with: ublk-remap release", ErrUnfinished, sb.Name)
}

// Interrupted returns the superblock of a set in transition, and the devices in its order; nil if
// the backing is no set, or an ordinary one. spares are those that the caller knows of. Early in a
// conversion with a spare device, and late in a revert, only that device shows it. Errors:
// ErrNotFound if a spare device is missing, the reason why the backing's superblock is refused, and
// ErrPath if a device could not be reached.
func Interrupted(backing Device, spares []Device) (*Superblock, []Device, error) {
	sb, err := Probe(backing)
	own := make([]*Superblock, len(spares))
	for i, d := range spares {
		var spareErr error
		if own[i], spareErr = Probe(d); errors.Is(spareErr, ErrPath) {
			return nil, nil, spareErr
		} // a device without one is not a part of the set
	}
	switch {
	case errors.Is(err, ErrPath):
		return nil, nil, err
	case err == nil && sb.DeviceIndex == 0:
	case errors.Is(err, ErrDamaged), errors.Is(err, ErrUnsupported):
		return nil, nil, err
	default:
		sb = nil
		for _, s := range own {
			if s != nil && s.DeviceIndex != 0 && s.Devices[0].Size == backing.Size() &&
				(s.Transition == TransitionCopied || s.Transition == TransitionReverting) {
				sb = s.clone()
				sb.DeviceIndex = 0
				break
			}
		}
	}
	if sb == nil || sb.Transition == TransitionNone {
		return nil, nil, nil
	}
	devs := make([]Device, len(sb.Devices))
	devs[0] = backing
	for i, s := range own {
		if s != nil && s.UUID == sb.UUID && int(s.DeviceIndex) < len(devs) &&
			devs[s.DeviceIndex] == nil {
			devs[s.DeviceIndex] = spares[i]
		}
	}
	for i, d := range devs {
		if d == nil {
			return nil, nil, fmt.Errorf("%w: %s device %s of set %s (%s) is missing", ErrNotFound,
				sb.Devices[i].Role, sb.Devices[i].UUID, sb.UUID, sb.Name)
		}
		if d.Size() < sb.Devices[i].Size {
			return nil, nil, fmt.Errorf("%w: %s has %d bytes, it had %d", ErrDamaged, nameOf(d, i),
				d.Size(), sb.Devices[i].Size)
		}
	}
	return sb, devs, nil
}

// imageOf loads a set in transition: devs in the order of sb, whether or not
// the backing still says so.
func imageOf(devs []Device, sb *Superblock) (*Image, error) {
	l, err := newLayout(sb)
	if err != nil {
		return nil, err
	}
	img := &Image{devs: devs, sb: sb, layout: l, maxEpoch: sb.Epoch, maxGeneration: sb.Generation}
	if err := img.scan(); err != nil {
		return nil, err
	}
	return img, img.followChain()
}

// viewOf is a view of a set in transition. A revert whose displaced head is complete needs no
// table, and no mirror.
func viewOf(devs []Device, sb *Superblock) (*View, error) {
	if sb.Transition == TransitionReverting && sb.Strays == 0 {
		l, err := newLayout(sb)
		if err != nil {
			return nil, err
		}
		return newView(devs, l, NewTable(l)), nil
	}
	img, err := imageOf(devs, sb)
	if err != nil {
		return nil, err
	}
	return NewView(img)
}

const tearSize = 512 // a write tears at multiples of it

// errMarkUnclear: the page at the mark cannot be read, and the rest of the head
// does not say whether it may be written.
var errMarkUnclear = errors.New(
	"the page that decides can no longer be read, and the head is not " +
		"what was copied")

// errNotReverted: the page at the mark is the superblock, whole.
var errNotReverted = errors.New("the superblock is there")

// repairMark repairs the page at the mark, whose write may have been cut. Afterwards it holds the
// exported bytes, except for what its owner has changed since. errMarkUnclear: it is not clear what
// the page was. errNotReverted: all of the superblock of a revert is there, so that nothing was
// torn, and the revert is not complete.
func (v *View) repairMark(next *Superblock) error {
	p := v.readMark(next)
	// The page could not be read when it was looked for.
	if next.Transition == TransitionReverting && len(p.unread) == 0 && bytes.Equal(p.now, p.sb) {
		return errNotReverted
	}
	changed := p.changed()
	mend := p.restoreTorn(changed)
	for off, exported := range p.unread {
		if !exported {
			continue
		}
		if changed || !v.sameHead(next.Mark) {
			return fmt.Errorf("page at %d: %w", next.Mark, errMarkUnclear)
		}
		copy(p.now[off:off+p.block], p.exported[off:off+p.block])
		mend[off] = true
	}
	if len(mend) == 0 {
		return nil
	}
	for off := range mend {
		copy(v.one, p.now[off:])
		if _, err := v.devs[0].WriteAt(v.one, next.Mark+off); err != nil {
			return fmt.Errorf("putting the page at %d right: %w", next.Mark, err)
		}
	}
	return v.devs[0].Sync()
}

// markPage is the page at the mark. Blocks are named by their offset in it.
type markPage struct {
	block    int64          // bytes
	now      []byte         // what is there
	exported []byte         // what was there before, or is to be there
	sb       []byte         // the superblock that was written there
	noCopy   map[int64]bool // blocks whose exported bytes cannot be had
	unread   map[int64]bool // blocks that do not read; true if the exported bytes can be had
}

// readMark reads what is at the mark and what is exported there.
func (v *View) readMark(next *Superblock) *markPage {
	p := &markPage{block: int64(v.layout.BlockSize()), now: AlignedBytes(PageSize),
		exported: AlignedBytes(PageSize), sb: AlignedBytes(PageSize),
		noCopy: map[int64]bool{}, unread: map[int64]bool{}}
	v.read(p.exported, next.Mark,
		func(block uint64, _ error) { p.noCopy[int64(block)*p.block-next.Mark] = true })
	next.encode(p.sb, 0)
	for off := int64(0); off < PageSize; off += p.block {
		if _, err := v.devs[0].ReadAt(v.one, next.Mark+off); err != nil {
			p.unread[off] = !p.noCopy[off]
		} else {
			copy(p.now[off:], v.one)
		}
	}
	v.takenOver(next.Mark, next.Mark+PageSize, func(at int64) { p.keep(at - next.Mark) })
	return p
}

// keep has a block of the disk stay as it is, except for sectors that hold the superblock's bytes:
// its exported bytes were taken over from elsewhere.
func (p *markPage) keep(block int64) {
	for off := block; off < block+p.block; off += tearSize {
		now := p.now[off : off+tearSize]
		if !p.unread[block] && !bytes.Equal(now, p.sb[off:off+tearSize]) {
			copy(p.exported[off:], now)
		}
	}
}

// sectors calls f with each part of the page that a write leaves whole, if it reads and its
// exported bytes can be had.
func (p *markPage) sectors(f func(off int64, now, exported, sb []byte)) {
	for off := int64(0); off < PageSize; off += tearSize {
		if b := off / p.block * p.block; !p.unread[b] && !p.noCopy[b] {
			end := off + tearSize
			f(off, p.now[off:end], p.exported[off:end], p.sb[off:end])
		}
	}
}

// changed reports whether the disk's owner has changed the page since: a sector is neither
// what is exported nor the superblock's.
func (p *markPage) changed() (changed bool) {
	p.sectors(func(_ int64, now, exported, sb []byte) {
		changed = changed || !bytes.Equal(now, exported) && !bytes.Equal(now, sb)
	})
	return changed
}

// restoreTorn puts the exported bytes in place of the sectors that hold the superblock's, and
// returns the blocks with such sectors. If the page was changed, a sector of zeroes may be its
// owner's. No other sector equals that of a superblock by chance.
func (p *markPage) restoreTorn(changed bool) map[int64]bool {
	zero := make([]byte, tearSize)
	mend := map[int64]bool{}
	p.sectors(func(off int64, now, exported, sb []byte) {
		if !bytes.Equal(now, exported) && bytes.Equal(now, sb) &&
			!(changed && bytes.Equal(now, zero)) {
			copy(now, exported)
			mend[off/p.block*p.block] = true
		}
	})
	return mend
}

// sameHead reports whether the disk's own head, except for the page at the mark, holds what is
// exported, as far as both can be read. Blocks that were taken over from elsewhere do not count.
func (v *View) sameHead(mark int64) bool {
	buf, disk, one := AlignedBytes(64<<10), AlignedBytes(64<<10),
		AlignedBytes(PageSize)[:v.layout.BlockSize()]
	bs := int64(len(one))
	for off := int64(0); off < v.layout.sb.HeadBytes; off += int64(len(buf)) {
		skip := map[int64]bool{}
		v.read(buf, off, func(block uint64, _ error) { skip[int64(block)*bs] = true })
		readAround(v.devs[0], disk, off, one, func(i int64, _ error) { skip[off+i] = true })
		v.takenOver(off, off+int64(len(buf)), func(at int64) { skip[at] = true })
		for i := int64(0); i < int64(len(buf)); i += bs {
			if at := off + i; skip[at] || at >= mark && at < mark+PageSize {
				continue
			}
			if !bytes.Equal(disk[i:i+bs], buf[i:i+bs]) {
				return false
			}
		}
	}
	return true
}

// checkOwner checks that a disk without a superblock is the one that a spare device describes: at
// least half of the units that its head should hold by now are there. Its owner may have changed
// the others since. The error is ErrForeign.
func (v *View) checkOwner() error {
	if len(v.devs) == 1 {
		return nil
	}
	buf, disk, one := AlignedBytes(64<<10), AlignedBytes(64<<10),
		AlignedBytes(PageSize)[:v.layout.BlockSize()]
	zero := AlignedBytes(UnitSize)
	same, all := 0, 0
	for off := int64(0); off < v.layout.sb.HeadBytes; off += int64(len(buf)) {
		v.read(buf, off, func(uint64, error) {})
		readAround(v.devs[0], disk, off, one, func(int64, error) {})
		for i := 0; i < len(buf); i += UnitSize {
			// Zeroes prove nothing.
			if want := buf[i : i+UnitSize]; !bytes.Equal(want, zero) {
				all++
				if bytes.Equal(want, disk[i:i+UnitSize]) {
					same++
				}
			}
		}
	}
	if 2*same < all {
		return fmt.Errorf("%w: of %d units that the first bytes of the disk should hold %d are "+
			"there; name the disk that it began with, or add --force if its contents were "+
			"replaced since", ErrForeign, all, same)
	}
	return nil
}

// erase wipes what a set has outside of the head, so that nothing finds it any
// more: superblocks first, then the mirrors that they name. Only what carries
// the set's UUID is touched, because the disk may have been in use since. If it is sure that
// it was not, superblocks that cannot be read are erased as well.
func erase(devs []Device, sb *Superblock, sure bool) error {
	b, zero := AlignedBytes(PageSize), AlignedBytes(PageSize)
	for _, c := range sb.outerCopies() {
		if _, err := devs[c.device].ReadAt(b, c.offset); err != nil {
			if !sure && c.device == 0 {
				continue // it cannot be found either
			}
		} else if s, _ := decodeSuperblock(b); s == nil || s.UUID != sb.UUID {
			continue
		}
		if err := writePage(devs[c.device], zero, b, c.offset); err != nil {
			if _, readErr := devs[c.device].ReadAt(b, c.offset); readErr != nil {
				continue // the place is bad: nothing finds anything there
			}
			return fmt.Errorf("clearing the superblock at %d of %s: %w", c.offset,
				nameOf(devs[c.device], int(c.device)), err)
		}
	}
	if err := pathFailure(devs); err != nil {
		return err
	}
	// Nothing finds the set any more. It does no harm if a device goes away now.
	defer clearFailures(devs)
	l, err := newLayout(sb)
	if err != nil {
		return err
	}
	ours := func(b []byte) bool {
		return (hasMagic(b, magicHeader) || hasMagic(b, magicRecord) || hasMagic(b, magicPage)) &&
			ofSet(b, &sb.UUID)
	}
	for _, m := range l.mirrorsAt() {
		if sb.inHead(&sb.Regions[m.region]) {
			continue
		}
		// A mirror is found by a superblock only. So what cannot be cleared does no harm.
		d := devs[m.device]
		for off := m.start; off < m.start+2*m.slot+int64(m.atoms)*m.atom; off += PageSize {
			if _, err := d.ReadAt(b, off); err == nil && ours(b) {
				_, _ = d.WriteAt(zero, off)
			}
		}
		if err := d.Sync(); err != nil && pathFailure(devs) == nil {
			return err
		}
	}
	return nil
}
