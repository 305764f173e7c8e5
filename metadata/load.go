package metadata

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cespare/xxhash/v2"
)

const readChunk = 1 << 20

// Load reads the metadata of a set and decides what it says; it writes
// nothing. devs are the set's devices in any order, each with its own
// superblock. Errors: ErrNotFound (no set, or a device of it is missing),
// ErrDamaged, ErrForeign, ErrStale, ErrUnsupported, ErrUnfinished, and ErrPath,
// if a device could not be asked.
func Load(devs []Device) (*Image, error) {
	devs = steadied(devs)
	return settled(devs, func() (*Image, error) { return load(devs) })
}

func load(devs []Device) (*Image, error) {
	img, err := assemble(devs, false)
	if err != nil {
		return nil, err
	}
	if err := img.sb.Unfinished(); err != nil {
		return nil, err
	}
	if err := img.scan(); err != nil {
		return nil, err
	}
	if err := img.walk(); err != nil {
		return nil, err
	}
	return img, nil
}

// assemble elects the superblocks and puts the devices in order. With partial,
// spare devices may be missing: they are nil then.
func assemble(devs []Device, partial bool) (*Image, error) {
	img := &Image{}
	elected := make([]*Superblock, len(devs))
	var first error
	for i, d := range devs {
		copies := readSuperblocks(d)
		sb, err := elect(copies)
		if err != nil {
			if first == nil || errors.Is(first, ErrNotFound) {
				first = fmt.Errorf("%s: %w", nameOf(d, i), err)
			}
			continue
		}
		elected[i] = sb
		for _, c := range copies {
			if c.sb != nil && c.sb.UUID == sb.UUID {
				if c.sb.Generation == sb.Generation {
					img.current = append(img.current, sbStep{sb.DeviceIndex, c.offset})
				}
				img.maxEpoch = max(img.maxEpoch, c.sb.Epoch)
				img.maxGeneration = max(img.maxGeneration, c.sb.Generation)
			}
		}
	}
	if first != nil {
		return nil, first
	}
	for _, sb := range elected {
		if sb.DeviceIndex == 0 {
			if img.sb != nil {
				return nil, fmt.Errorf("%w: two backing devices given, of set %s and of set %s",
					ErrForeign, img.sb.UUID, sb.UUID)
			}
			img.sb = sb
		}
	}
	if img.sb == nil {
		return nil, fmt.Errorf("%w: no backing device given", ErrNotFound)
	}
	var err error
	if img.layout, err = newLayout(img.sb); err != nil {
		return nil, err
	}
	if img.maxEpoch >= maxEpoch || img.maxGeneration >= maxEpoch {
		return nil, fmt.Errorf("%w: superblock: epoch %d, generation %d", ErrDamaged, img.maxEpoch,
			img.maxGeneration)
	}
	img.devs = make([]Device, len(img.sb.Devices))
	for i, sb := range elected {
		own := sb.Devices[sb.DeviceIndex].UUID
		at := slices.IndexFunc(img.sb.Devices, func(d DeviceInfo) bool { return d.UUID == own })
		switch {
		case sb.UUID != img.sb.UUID || at < 0:
			return nil, fmt.Errorf("%w: device %s of set %s (%s) is not part of set %s (%s)",
				ErrForeign, own, sb.UUID, sb.Name, img.sb.UUID, img.sb.Name)
		case img.devs[at] != nil:
			return nil, fmt.Errorf("%w: device %s was given twice, or one is a clone of the other",
				ErrForeign, own)
		case devs[i].Size() < img.sb.Devices[at].Size:
			return nil, fmt.Errorf("%w: device %s has %d bytes, it had %d", ErrDamaged, own,
				devs[i].Size(), img.sb.Devices[at].Size)
		case sb.Epoch < img.sb.Epoch || sb.Epoch > img.sb.Epoch && (sb.PrevEpoch > img.sb.Epoch ||
			servedAhead(devs[i], sb, img.sb.Epoch)):
			// Spare devices get a new epoch first, the backing last: so a
			// spare device may be ahead by starts that were cut, never behind.
			return nil, fmt.Errorf("%w: device %s is of epoch %d, the backing of %d: one of them "+
				"is a clone or was absent", ErrStale, own, sb.Epoch, img.sb.Epoch)
		}
		img.devs[at] = devs[i]
	}
	for i, d := range img.devs {
		if d == nil && !partial {
			return nil, fmt.Errorf("%w: %s device %s of set %s (%s) is missing", ErrNotFound,
				img.sb.Devices[i].Role, img.sb.Devices[i].UUID, img.sb.UUID, img.sb.Name)
		}
	}
	img.readOnly = img.sb.ROCompat&^knownROCompat != 0
	return img, nil
}

// slotState says what is in an atom of a log.
type slotState uint8

const (
	slotNone       slotState = iota // no record of this set
	slotDamaged                     // what was a record of this set, but its checksum is wrong
	slotRecord                      // a record
	slotUnreadable                  // the device cannot read it
)

// logSlot is an atom of a log.
type logSlot struct {
	record
	state slotState
}

// mirrorImage is what a mirror holds.
type mirrorImage struct {
	mirrorAt
	stale     bool
	staleFrom Position
	slots     []logSlot
	headers   [2]*header
	// whole: has the header of the checkpoint that the image begins with, and
	// no page of it was found bad here.
	whole bool
	// badSlots: bit i says that the header of slot i cannot be read, or is a
	// damaged one, or that a page of the newest checkpoint in it is bad.
	badSlots uint8
	missing  []int    // indices into Image.chain that this mirror lacks
	single   []int    // indices into Image.chain that it has once, and no other mirror in use has
	repairs  []repair // the records of missing and single, if they are few
}

// repair is a record that a mirror lacks and another has. It is seen on one
// mirror only after a cut between the writes to the two, or where a sector
// went bad; once it is written again, either mirror can be lost. Where only one
// mirror is in use it is a record that has but one slot.
type repair struct {
	Position
	data   []byte // an atom, aligned
	second bool   // the mirror has it
	slot   int    // where
}

// maxRepairs is how many records a start writes again. More than that, and a
// checkpoint is the quicker way.
const maxRepairs = 16

// found is a place of a record.
type found struct{ mirror, slot int }

// scan reads all logs and checkpoint headers.
func (img *Image) scan() error {
	set := &img.sb.UUID
	img.records = map[link][]found{}
	buf := AlignedBytes(int(min(readChunk, img.sb.LogBytes)))
	for _, at := range img.layout.mirrorsAt() {
		mi := len(img.mirrors)
		r := &img.sb.Regions[at.region]
		m := mirrorImage{mirrorAt: at, stale: r.Stale, staleFrom: r.StaleFrom,
			slots: make([]logSlot, at.atoms)}
		dev := img.devs[at.device]
		if dev == nil {
			continue
		}
		for slot := range m.headers {
			b := buf[:PageSize]
			if _, err := dev.ReadAt(b, at.headerOffset(slot)); err != nil {
				m.badSlots |= 1 << slot
				continue
			}
			if hasMagic(b, magicHeader) && !sealed(b, magicHeader) {
				m.badSlots |= 1 << slot
			}
			if h, ok := decodeHeader(b, set); ok && h.pages <= at.pages() {
				m.headers[slot] = &h
				img.maxEpoch = max(img.maxEpoch, h.epoch)
				img.maxCheckpoint = max(img.maxCheckpoint, h.generation)
				img.maxSequence = max(img.maxSequence, h.covers.Sequence)
			}
		}
		per := len(buf) / int(at.atom)
		for i := 0; i < at.atoms; i += per {
			n := min(per, at.atoms-i)
			readAtoms(dev, buf[:n*int(at.atom)], at.logOffset(i), int(at.atom),
				func(j int, b []byte, err error) {
					s := &m.slots[i+j]
					if err != nil {
						s.state = slotUnreadable
						return
					}
					rec, ok := decodeRecord(b, set)
					if !ok {
						if hasMagic(b, magicRecord) && ofSet(b, set) {
							s.state = slotDamaged
						}
						return
					}
					s.record, s.state = rec, slotRecord
					img.records[rec.link] = append(img.records[rec.link], found{mi, i + j})
					img.maxEpoch = max(img.maxEpoch, rec.Epoch)
					img.maxSequence = max(img.maxSequence, rec.Sequence)
				})
		}
		img.mirrors = append(img.mirrors, m)
	}
	if img.maxEpoch >= maxEpoch || img.maxSequence >= maxEpoch || img.maxCheckpoint >= maxEpoch {
		return fmt.Errorf("%w: epoch %d, sequence %d, checkpoint %d", ErrDamaged, img.maxEpoch,
			img.maxSequence, img.maxCheckpoint)
	}
	return nil
}

// readAtoms reads len(b) bytes at once, or, if that fails, atom by atom, so
// that one bad sector costs one atom.
func readAtoms(dev Device, b []byte, off int64, atom int, f func(i int, b []byte, err error)) {
	_, all := dev.ReadAt(b, off)
	for i := 0; i*atom < len(b); i++ {
		p := b[i*atom : (i+1)*atom]
		var err error
		if all != nil {
			_, err = dev.ReadAt(p, off+int64(i*atom))
		}
		f(i, p, err)
	}
}

// walk finds the newest record, follows the chain of predecessors back to the
// newest whole checkpoint, and so fixes what the image says.
func (img *Image) walk() error {
	if err := img.epochs(); err != nil {
		return err
	}
	var trusted, newest link // newest record: of mirrors that are not stale, of all
	var must Position        // what the newest record cannot be older than
	candidates := img.candidates()
	for i := range img.mirrors {
		m := &img.mirrors[i]
		if m.stale && must.Less(m.staleFrom) {
			must = m.staleFrom
		}
		// What a checkpoint covers is in the log until something newer takes
		// its place: so a log without anything as new was lost.
		for _, h := range m.headers {
			if h != nil && h.covers != creation && must.Less(h.covers.Position) {
				must = h.covers.Position
			}
		}
		for j := range m.slots {
			s := &m.slots[j]
			if s.state != slotRecord {
				continue
			}
			if newest.Less(s.Position) {
				newest = s.link
			}
			// A stale mirror misses records: what is newest there may be
			// followed by others that only the good mirror has. Two records
			// of one position can only be two tries of a start that failed.
			if !m.stale && (trusted.Less(s.Position) || trusted.Position == s.Position &&
				trusted.Hash < s.Hash) {
				trusted = s.link
			}
		}
	}
	if trusted == (link{}) {
		// Before the first record there is nothing but the first checkpoint.
		if newest != (link{}) || must != (Position{}) {
			return fmt.Errorf("%w: no log of a mirror in use can be read, records up to %s or "+
				"later are missing; restore a backup of the metadata, or bring back the device "+
				"that could read it", ErrDamaged, max2(newest.Position, must))
		}
		trusted = creation
	}
	if trusted.Less(must) {
		return fmt.Errorf("%w: there were records up to %s or later, but the newest one found is "+
			"%s: a log cannot be read, and the other mirror missed them; restore a backup of the "+
			"metadata, or bring back the device that could read it", ErrDamaged, must,
			trusted.Position)
	}
	img.tip = trusted
	for at := trusted; ; {
		for _, c := range candidates {
			if c.covers == at && img.whole(c) {
				img.checkpoint = c
				slices.Reverse(img.chain)
				return img.settle()
			}
		}
		places := img.records[at]
		if len(places) == 0 {
			if at == creation || len(img.chain) == 0 {
				return fmt.Errorf("%w: no whole checkpoint is left on any mirror", ErrDamaged)
			}
			return fmt.Errorf("%w: record %s is missing on every mirror, but %s follows it, and "+
				"no whole checkpoint covers it; restore a backup of the metadata, or bring back "+
				"the device that could read it", ErrDamaged, at.Position,
				img.chain[len(img.chain)-1].Position)
		}
		rec := img.mirrors[places[0].mirror].slots[places[0].slot].record
		if rec.sbGeneration > img.sb.Generation {
			return fmt.Errorf("%w: record %s was written under superblock generation %d, the "+
				"newest copy that can be read is %d", ErrDamaged, rec.Position, rec.sbGeneration,
				img.sb.Generation)
		}
		img.chain = append(img.chain, rec)
		at = rec.prev
	}
}

// epochs makes sure that nothing was written under a later epoch than the backing's
// superblock has: a start writes that first. It looks at everything, not only at the
// chain: a checkpoint may cover all that a later start has written, and an old
// copy of the backing beside it would show old data under a new table.
func (img *Image) epochs() error {
	var elsewhere uint64
	for i := range img.mirrors {
		m := &img.mirrors[i]
		var newest uint64
		for _, h := range m.headers {
			if h != nil {
				newest = max(newest, h.epoch)
			}
		}
		for j := range m.slots {
			if m.slots[j].state == slotRecord {
				newest = max(newest, m.slots[j].Epoch)
			}
		}
		if m.device == 0 && newest > img.sb.Epoch {
			return fmt.Errorf("%w: the newest superblock that can be read is of epoch %d, the "+
				"mirror at %d of the backing of epoch %d", ErrDamaged, img.sb.Epoch, m.start,
				newest)
		}
		elsewhere = max(elsewhere, newest)
	}
	if elsewhere > img.sb.Epoch {
		return fmt.Errorf("%w: the backing is of epoch %d, a spare device was written to in "+
			"epoch %d: the backing is a clone or was absent", ErrStale, img.sb.Epoch, elsewhere)
	}
	return nil
}

func max2(a, b Position) Position {
	if a.Less(b) {
		return b
	}
	return a
}

// candidate is a checkpoint that at least one mirror has a header of.
type candidate struct {
	header
	tried bool
	ok    bool
}

// candidates lists the checkpoints, the newest first.
func (img *Image) candidates() []*candidate {
	var out []*candidate
	for i := range img.mirrors {
		for _, h := range img.mirrors[i].headers {
			if h != nil && !slices.ContainsFunc(out,
				func(c *candidate) bool { return c.header == *h }) {
				out = append(out, &candidate{header: *h})
			}
		}
	}
	slices.SortFunc(out, func(a, b *candidate) int {
		if a.epoch < b.epoch || a.epoch == b.epoch && a.generation < b.generation {
			return 1
		}
		return -1
	})
	return out
}

// whole reads all pages of a checkpoint, and reports whether each can be had
// from some mirror. It notes which mirrors lack some.
func (img *Image) whole(c *candidate) bool {
	if c.tried {
		return c.ok
	}
	c.tried = true
	for i := range img.mirrors {
		m := &img.mirrors[i]
		m.whole = slices.ContainsFunc(m.headers[:], func(h *header) bool {
			return h != nil &&
				*h == c.header
		})
	}
	var digest xxhash.Digest
	digest.Reset()
	var entries uint64
	err := img.pages(&c.header, func(b []byte, n int) error {
		addSum(&digest, getChecksum(b))
		entries += uint64(n)
		return nil
	})
	c.ok = err == nil && digest.Sum64() == c.digest && entries == c.entries
	if c.ok {
		// The other copies may have bad pages too: better to learn it while
		// there is a copy to write them again from.
		for i := range img.mirrors {
			m := &img.mirrors[i]
			for slot, h := range m.headers {
				if m.whole && h != nil && *h == c.header && img.badPages(m, slot, h) > 0 {
					m.whole = false
				}
			}
		}
	}
	return c.ok
}

// pages calls f with every page of a checkpoint, in order, each from the first
// mirror that can read it, and n, the number of its entries.
func (img *Image) pages(h *header, f func(b []byte, n int) error) error {
	set := &img.sb.UUID
	buf, single := AlignedBytes(int(min(readChunk, uint64(h.pages)*PageSize))),
		AlignedBytes(PageSize)
	type source struct {
		m    *mirrorImage
		slot int
		own  bool // has the header
	}
	var from []source
	for _, own := range []bool{true, false} { // those with the header first
		for i := range img.mirrors {
			m := &img.mirrors[i]
			for s, x := range m.headers {
				if (x != nil && *x == *h) == own {
					from = append(from, source{m, s, own})
				}
			}
		}
	}
	for page := uint32(0); page < h.pages; {
		count := min(readChunk/PageSize, h.pages-page)
		first := &from[0]
		chunk := buf[:count*PageSize]
		var err error
		readAtoms(img.devs[first.m.device], chunk, first.m.pageOffset(first.slot, page), PageSize,
			func(i int, b []byte, bad error) {
				if err != nil {
					return
				}
				index := page + uint32(i)
				if bad == nil {
					if n, _, ok := decodePage(b, set, h.checkpointID, index); ok {
						err = f(b, n)
						return
					}
				}
				if first.own {
					first.m.whole = false
				}
				for _, s := range from[1:] {
					if _, bad := img.devs[s.m.device].ReadAt(single,
						s.m.pageOffset(s.slot, index)); bad == nil {
						if n, _, ok := decodePage(single, set, h.checkpointID, index); ok {
							err = f(single, n)
							return
						}
					}
					if s.own {
						s.m.whole = false
					}
				}
				err = fmt.Errorf("%w: page %d of checkpoint %d.%d is missing on every mirror",
					ErrDamaged, index, h.epoch, h.generation)
			})
		if err != nil {
			return err
		}
		page += count
	}
	return nil
}

// settle notes what each mirror lacks of the image.
func (img *Image) settle() error {
	inUse := 0
	for i := range img.mirrors {
		if !img.mirrors[i].stale {
			inUse++
		}
	}
	for i := range img.mirrors {
		m := &img.mirrors[i]
		for slot, h := range m.headers {
			if h != nil && *h == img.checkpoint.header && !m.whole {
				m.badSlots |= 1 << slot
			}
		}
		type copies struct{ n, slot int }
		have := make(map[link]copies, len(img.chain))
		for j := range m.slots {
			if m.slots[j].state == slotRecord {
				have[m.slots[j].link] = copies{have[m.slots[j].link].n + 1, j}
			}
		}
		for j := range img.chain {
			switch n := have[img.chain[j].link].n; {
			case n == 0:
				m.missing = append(m.missing, j)
			case n == 1 && inUse == 1:
				m.single = append(m.single, j)
			}
		}
		if m.stale || len(m.missing)+len(m.single) > maxRepairs {
			continue
		}
		for _, j := range slices.Concat(m.missing, m.single) {
			b := AlignedBytes(int(m.atom))
			if err := img.readRecord(&img.chain[j], b); err != nil {
				return err
			}
			at := have[img.chain[j].link]
			m.repairs = append(m.repairs, repair{img.chain[j].Position, b, at.n > 0, at.slot})
		}
	}
	return nil
}
