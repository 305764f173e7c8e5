package metadata

import (
	"errors"
	"fmt"
	"slices"
)

// overlay is a device with some pages replaced in memory: what the device
// would be once they are written. It cannot be written itself.
type overlay struct {
	Device
	pages map[int64][]byte // by offset, a multiple of PageSize
}

// ReadAt does not read the pages that are replaced, so that a bad sector below one of them
// does no harm.
func (o *overlay) ReadAt(b []byte, off int64) (int, error) {
	var replaced []int64
	for at := range o.pages {
		if off <= at && at+PageSize <= off+int64(len(b)) {
			replaced = append(replaced, at)
		}
	}
	slices.Sort(replaced)
	from := off
	for _, at := range append(replaced, off+int64(len(b))) {
		if at > from {
			if _, err := o.Device.ReadAt(b[from-off:at-off], from); err != nil {
				return 0, err
			}
		}
		if at < off+int64(len(b)) {
			copy(b[at-off:], o.pages[at])
		}
		from = at + PageSize
	}
	return len(b), nil
}

// WriteAt fails.
func (o *overlay) WriteAt([]byte, int64) (int, error) { return 0, errors.ErrUnsupported }

// rescue is a device that gets superblocks from elsewhere, because its own are
// all lost.
type rescue struct {
	dev   Device
	given int // index among the devices as given
	index uint8
	sb    *Superblock
	from  string // where the superblock was found
}

// apply returns what the device would be with the superblocks.
func (r *rescue) apply() Device {
	o := &overlay{Device: r.dev, pages: map[int64][]byte{}}
	for _, off := range r.sb.copies(r.index) {
		b := AlignedBytes(PageSize)
		r.sb.encode(b, r.index)
		o.pages[off] = b
	}
	return o
}

// write writes the superblocks, one at a time, byte 0 last. A cut leaves none of
// them, as before, or some, which is enough. They are copies of a superblock that is in
// use, so its generation stays the same. At least one write must succeed.
func (r *rescue) write() error {
	return writeCopies(r.dev, r.sb, r.index, r.sb.copies(r.index))
}

// writeCopies writes a superblock to some of its places, in that order, each
// durable before the next, and reads them back. The error is that of the last
// failure if not one copy could be written.
func writeCopies(dev Device, sb *Superblock, index uint8, places []int64) error {
	b, back := AlignedBytes(PageSize), AlignedBytes(PageSize)
	sb.encode(b, index)
	written := 0
	var last error
	for _, off := range places {
		err := writePage(dev, b, back, off)
		if err == nil {
			written++
		} else {
			last = fmt.Errorf("writing the superblock of %s at %d: %w", nameOf(dev, int(index)),
				off, err)
		}
	}
	if written == 0 {
		return last
	}
	return nil
}

// SearchSuperblock searches a whole device for a superblock of the backing, from
// its end to its start. It is for a disk whose first superblocks are lost and whose size
// has changed since the set was made, so that the place of the last one is
// not known. A superblock counts only where it says that it lies. So one in the image of
// another disk, within the data, does not count. progress is called with the bytes
// that are left. The error is ErrNotFound if there is none, or what progress
// returned.
func SearchSuperblock(dev Device, progress func(left int64) error) (*Superblock, error) {
	devs := withRetries([]Device{dev})
	sb, err := searchSuperblock(devs[0], progress)
	return sb, orPathFailure(devs, err)
}

func searchSuperblock(dev Device, progress func(left int64) error) (*Superblock, error) {
	buf := AlignedBytes(readChunk)
	unread := 0
	for end := roundDown(dev.Size(), int64(PageSize)); end > 0; {
		if err := progress(end); err != nil {
			return nil, err
		}
		at := max(0, roundDown(end-1, int64(readChunk)))
		var found *Superblock
		readAtoms(dev, buf[:end-at], at, PageSize, func(i int, b []byte, err error) {
			if err != nil {
				unread++
				return
			}
			if le.Uint64(b) != magicSuperblock {
				return
			}
			sb, err := decodeSuperblock(b)
			if err == nil && sb.DeviceIndex == 0 && slices.Contains(sb.copies(0),
				at+int64(i)*PageSize) {
				found = sb
			}
		})
		if found != nil {
			return found, nil
		}
		end = at
	}
	if unread > 0 {
		return nil, fmt.Errorf(
			"%w: the whole device was searched, but %d pages of it cannot be read", ErrNotFound,
			unread)
	}
	return nil, fmt.Errorf("%w: the whole device was searched", ErrNotFound)
}

// planRescue finds superblocks for a device that has none, so that the set
// loads, and proves from the mirrors that they are the right ones. searched, if
// not nil, is what SearchSuperblock found on the first device. planRescue also returns the
// inventory of the set with these superblocks. Errors: cause, the reason why the set does
// not load, if there are none; ErrDamaged, if there are some without a proof.
func planRescue(inv *inventory, searched *Superblock, cause error) (*rescue, *inventory, error) {
	l, err := inv.survivors(cause)
	if err != nil {
		return nil, nil, err
	}
	r, err := l.source(inv, searched, cause)
	if err != nil {
		return nil, nil, err
	}
	r.dev = inv.devs[r.given]
	if have, want := r.dev.Size(), r.sb.Devices[r.index].Size; have < want {
		return nil, nil, fmt.Errorf("%w: device %s has no superblock left, and %d bytes where "+
			"the set had %d there: not the one (%w)",
			ErrForeign, r.sb.Devices[r.index].UUID, have, want, cause)
	}
	devs := slices.Clone(inv.devs)
	devs[r.given] = r.apply()
	after := takeInventory(devs, false)
	if err := after.loads(); err != nil {
		return nil, nil, fmt.Errorf("with the superblock from %s: %w", r.from, err)
	}
	if searched != nil && r.sb == searched {
		return r, after, nil // one of its own copies, as good as any
	}
	if why := after.img.unproved(r.index); why != "" {
		return nil, nil, fmt.Errorf("%w: the superblocks of device %s are lost; those from %s "+
			"may be older or belong to another disk, for %s; restore a backup of the metadata",
			ErrDamaged, r.sb.Devices[r.index].UUID, r.from, why)
	}
	return r, after, nil
}

// survivors are the superblocks that are left, where those of one device are lost.
type survivors struct {
	lost                int         // index of that device as given, -1 if there is none
	backing, newest     *Superblock // newest: of the spare devices
	backingAt, newestAt int
}

// survivors fails if the superblocks of more than one device are lost.
func (inv *inventory) survivors(cause error) (survivors, error) {
	l := survivors{lost: -1}
	for i := range inv.found {
		sb, err := inv.found[i].sb, inv.found[i].err
		switch {
		case errors.Is(err, ErrUnsupported):
			return l, err
		case err != nil && l.lost >= 0:
			return l, fmt.Errorf("%w: neither %s nor %s has a superblock left; restore a "+
				"backup of the metadata (%w)", ErrDamaged, nameOf(inv.devs[l.lost], l.lost),
				nameOf(inv.devs[i], i), cause)
		case err != nil:
			l.lost = i
		case sb.DeviceIndex == 0 && l.backing == nil:
			l.backing, l.backingAt = sb, i
		case sb.DeviceIndex != 0 && (l.newest == nil || l.newest.Generation < sb.Generation):
			l.newest, l.newestAt = sb, i
		}
	}
	return l, nil
}

// source says which device gets a superblock, and from where.
func (l *survivors) source(inv *inventory, searched *Superblock, cause error) (*rescue, error) {
	spare := func(given int) *rescue {
		return &rescue{given: given, sb: l.newest, from: nameOf(inv.devs[l.newestAt], l.newestAt)}
	}
	switch {
	case l.lost < 0 && l.backing != nil && l.newest != nil && l.newest.UUID == l.backing.UUID &&
		l.newest.Generation > l.backing.Generation:
		// The newest copies on the backing are lost, older ones are left.
		return spare(l.backingAt), nil
	case l.lost < 0:
		return nil, cause
	case l.backing == nil && searched != nil:
		if l.newest != nil && (l.newest.UUID != searched.UUID ||
			l.newest.Generation > searched.Generation) {
			return nil, fmt.Errorf("%w: the superblock that was found on the backing is of set "+
				"%s, generation %d, that on the spare device of set %s, generation %d",
				ErrDamaged, searched.UUID, searched.Generation, l.newest.UUID, l.newest.Generation)
		}
		return &rescue{given: l.lost, sb: searched, from: "the end that the disk had"}, nil
	case l.backing == nil && l.newest != nil:
		return spare(l.lost), nil
	case l.backing == nil:
		return nil, cause
	}
	// It must be the one device of the set that is missing.
	r := &rescue{given: l.lost, sb: l.backing, from: "the backing"}
	missing := 0
	for i := range l.backing.Devices[1:] {
		if !slices.ContainsFunc(inv.found, func(s superblocks) bool {
			return s.err == nil && int(s.sb.DeviceIndex) == i+1
		}) {
			r.index = uint8(i + 1)
			missing++
		}
	}
	if missing != 1 {
		return nil, cause
	}
	return r, nil
}

// unproved says why the mirrors do not prove that the superblock of another
// device is the newest one, and fits the device with that index. It is empty if they
// prove it.
//
// A newer superblock could differ in this: a mirror is stale, or lies elsewhere. It would have
// been written because a write of a record to one mirror failed and to another succeeded. If
// every log of the backing can be read whole, every durable record is known. If every
// mirror also holds the newest record, no write of it failed. A mirror on the device itself
// that holds the epoch record of the last start proves that the device was part of it.
func (img *Image) unproved(index uint8) string {
	own := 0
	for i := range img.mirrors {
		m := &img.mirrors[i]
		where := fmt.Sprintf("the mirror at %d of %s ", m.start, img.nameOf(m.device))
		switch {
		case m.stale && (index == 0 || m.device == index):
			return where + "is stale"
		case index == 0 && m.device == 0 && slices.ContainsFunc(m.slots,
			func(s logSlot) bool { return s.state == slotDamaged || s.state == slotUnreadable }):
			return where + "cannot be read whole"
		}
		holds := slices.ContainsFunc(m.slots, func(s logSlot) bool {
			return s.state == slotRecord &&
				s.link == img.tip
		}) ||
			img.tip == creation && slices.ContainsFunc(m.headers[:],
				func(h *header) bool { return h != nil && *h == img.checkpoint.header })
		if !holds && (index == 0 || m.device == index) {
			return where + "lacks the newest record"
		}
		if m.device == index {
			own++
		}
	}
	switch {
	case own == 0:
		return "there is no mirror on it"
	case img.tip.Epoch != img.sb.Epoch:
		return fmt.Sprintf("its newest record is of epoch %d, and there was a start with epoch %d",
			img.tip.Epoch, img.sb.Epoch)
	}
	return ""
}
