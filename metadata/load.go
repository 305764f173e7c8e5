package metadata

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cespare/xxhash/v2"
	"github.com/google/uuid"
)

const readChunk = 1 << 20

// Load reads the metadata of a set and decides what it says; it writes
// nothing. devs are the set's devices in any order, each with its own
// superblock. Errors: ErrNotFound (no set, or a device of it is missing),
// ErrDamaged, ErrForeign, ErrStale, ErrUnsupported, ErrUnfinished, and ErrPath,
// if a device could not be asked.
func Load(devs []Device) (*Image, error) {
	devs = withRetries(devs)
	return untilStable(devs, func() (*Image, error) { return load(devs) })
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
	if err := img.followChain(); err != nil {
		return nil, err
	}
	return img, nil
}

// superblocks are those of one device.
type superblocks struct {
	copies []foundCopy
	sb     *Superblock // the elected one; it counts only where err is nil
	err    error
}

// superblocksOf reads the superblocks of all devices.
func superblocksOf(devs []Device) []superblocks {
	out := make([]superblocks, len(devs))
	for i, d := range devs {
		s := &out[i]
		s.copies = readSuperblocks(d)
		s.sb, s.err = elect(s.copies)
	}
	return out
}

// assemble elects the superblocks and puts the devices in order. With partial,
// spare devices may be missing: they are nil then.
func assemble(devs []Device, partial bool) (*Image, error) {
	return arrange(devs, superblocksOf(devs), partial)
}

// arrange is assemble for superblocks that have been read.
func arrange(devs []Device, found []superblocks, partial bool) (*Image, error) {
	img := &Image{}
	if err := img.choose(devs, found); err != nil {
		return nil, err
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
	for i := range found {
		if err := img.place(devs[i], found[i].sb); err != nil {
			return nil, err
		}
	}
	for i, d := range img.devs {
		if d == nil && !partial {
			return nil, img.missing(i)
		}
	}
	img.readOnly = img.sb.ROCompat&^knownROCompat != 0
	return img, nil
}

// choose makes the superblock of the backing that of the set. Every device must have one.
func (img *Image) choose(devs []Device, found []superblocks) error {
	var first error
	for i := range found {
		f := &found[i]
		if f.err != nil {
			if first == nil || errors.Is(first, ErrNotFound) {
				first = fmt.Errorf("%s: %w", nameOf(devs[i], i), f.err)
			}
			continue
		}
		for _, c := range f.copies {
			if c.sb != nil && c.sb.UUID == f.sb.UUID {
				if c.sb.Generation == f.sb.Generation {
					img.newestCopies = append(img.newestCopies, copyPlace{f.sb.DeviceIndex,
						c.offset})
				}
				img.maxEpoch = max(img.maxEpoch, c.sb.Epoch)
				img.maxGeneration = max(img.maxGeneration, c.sb.Generation)
			}
		}
	}
	if first != nil {
		return first
	}
	for i := range found {
		sb := found[i].sb
		if sb.DeviceIndex != 0 {
			continue
		}
		if img.sb != nil {
			return fmt.Errorf("%w: two backing devices given, of set %s and of set %s",
				ErrForeign, img.sb.UUID, sb.UUID)
		}
		img.sb = sb
	}
	if img.sb == nil {
		return fmt.Errorf("%w: no backing device given", ErrNotFound)
	}
	return nil
}

// place puts a device where its superblock says that it belongs.
func (img *Image) place(d Device, sb *Superblock) error {
	own := sb.Devices[sb.DeviceIndex].UUID
	at := img.indexOf(own)
	switch {
	case sb.UUID != img.sb.UUID || at < 0:
		return fmt.Errorf("%w: device %s of set %s (%s) is not part of set %s (%s)",
			ErrForeign, own, sb.UUID, sb.Name, img.sb.UUID, img.sb.Name)
	case img.devs[at] != nil:
		return fmt.Errorf("%w: device %s was given twice, or one is a clone of the other",
			ErrForeign, own)
	case d.Size() < img.sb.Devices[at].Size:
		return fmt.Errorf("%w: device %s has %d bytes, it had %d", ErrDamaged, own, d.Size(),
			img.sb.Devices[at].Size)
	case sb.Epoch < img.sb.Epoch || sb.Epoch > img.sb.Epoch && (sb.PrevEpoch > img.sb.Epoch ||
		servedAhead(d, sb, img.sb.Epoch)):
		// Spare devices get a new epoch first, the backing last: so a
		// spare device may be ahead by starts that were cut, never behind.
		return fmt.Errorf("%w: device %s is of epoch %d, the backing of %d: one of them "+
			"is a clone or was absent", ErrStale, own, sb.Epoch, img.sb.Epoch)
	}
	img.devs[at] = d
	return nil
}

// indexOf is the index of a device in the device table, or -1.
func (img *Image) indexOf(id uuid.UUID) int {
	return slices.IndexFunc(img.sb.Devices, func(d DeviceInfo) bool { return d.UUID == id })
}

// missing is the error for a device of the set that was not given.
func (img *Image) missing(i int) error {
	return fmt.Errorf("%w: %s device %s of set %s (%s) is missing", ErrNotFound,
		img.sb.Devices[i].Role, img.sb.Devices[i].UUID, img.sb.UUID, img.sb.Name)
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
	// rests: bit i says that the image rests on slot i: it has the header of the checkpoint that
	// the image begins with, or a page that was read from here.
	rests uint8
	// badSlots: bit i says that the header of slot i cannot be read, or is a
	// damaged one, or that a page of the newest checkpoint in it is bad.
	badSlots uint8
	unread   uint8    // bit i says that the header of slot i cannot be read
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
		img.scanHeaders(&m, buf[:PageSize])
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

// scanHeaders reads the headers of a mirror; b is a page.
func (img *Image) scanHeaders(m *mirrorImage, b []byte) {
	for slot := range m.headers {
		if _, err := img.devs[m.device].ReadAt(b, m.headerOffset(slot)); err != nil {
			m.badSlots |= 1 << slot
			m.unread |= 1 << slot
			continue
		}
		if hasMagic(b, magicHeader) && !sealed(b, magicHeader) {
			m.badSlots |= 1 << slot
		}
		if h, ok := decodeHeader(b, &img.sb.UUID); ok && h.pages <= m.pages() {
			m.headers[slot] = &h
			img.maxEpoch = max(img.maxEpoch, h.epoch)
			img.maxCheckpoint = max(img.maxCheckpoint, h.generation)
			img.maxSequence = max(img.maxSequence, h.covers.Sequence)
		}
	}
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

// followChain finds the newest record, follows the chain of predecessors back to the
// newest whole checkpoint, and so fixes what the image says.
func (img *Image) followChain() error {
	if err := img.checkEpochs(); err != nil {
		return err
	}
	// A stale mirror misses records: what is newest there may be followed by
	// others that only the good mirror has.
	e := img.evidence(func(m *mirrorImage) bool { return !m.stale },
		func(covered link) bool { return covered == creation })
	if e.tip == (link{}) {
		// Before the first record there is nothing but the first checkpoint.
		if e.newest != (link{}) || e.must != (Position{}) {
			return fmt.Errorf("%w: no log of a mirror in use can be read, records up to %s or "+
				"later are missing; restore a backup of the metadata, or bring back the device "+
				"that could read it", ErrDamaged, later(e.newest.Position, e.must))
		}
		e.tip = creation
	}
	if e.tip.Less(e.must) {
		return fmt.Errorf("%w: there were records up to %s or later, but the newest one found is "+
			"%s: a log cannot be read, and the other mirror missed them; restore a backup of the "+
			"metadata, or bring back the device that could read it", ErrDamaged, e.must,
			e.tip.Position)
	}
	img.tip = e.tip
	t, err := img.follow(e.tip, img.candidates(), func(link) bool { return false },
		func(rec *record) error {
			if rec.sbGeneration > img.sb.Generation {
				return fmt.Errorf("%w: record %s was written under superblock generation %d, the "+
					"newest copy that can be read is %d", ErrDamaged, rec.Position,
					rec.sbGeneration, img.sb.Generation)
			}
			return nil
		})
	switch {
	case err != nil:
		return err
	case t.checkpoint != nil:
		img.checkpoint, img.chain = t.checkpoint, t.records
		slices.Reverse(img.chain)
		return img.compareMirrors()
	case t.end == creation || len(t.records) == 0:
		return fmt.Errorf("%w: no whole checkpoint is left on any mirror", ErrDamaged)
	}
	return fmt.Errorf("%w: record %s is missing on every mirror, but %s follows it, and "+
		"no whole checkpoint covers it; restore a backup of the metadata, or bring back "+
		"the device that could read it", ErrDamaged, t.end.Position,
		t.records[len(t.records)-1].Position)
}

// evidence is what logs and headers say about which record is the newest.
type evidence struct {
	tip    link     // the newest one on the mirrors in use
	newest link     // the newest one on any mirror
	must   Position // what the newest record cannot be older than
}

// evidence goes through every mirror. A mirror that is not in use has missed records from
// some position on. The record that a checkpoint covers stays in the log until something
// newer takes its place, so a log without anything as new was lost. first reports that there
// was no record before the covered one.
func (img *Image) evidence(inUse func(*mirrorImage) bool, first func(covered link) bool) evidence {
	var e evidence
	for i := range img.mirrors {
		m := &img.mirrors[i]
		use := inUse(m)
		if !use {
			e.must = later(e.must, m.staleFrom)
		}
		for _, h := range m.headers {
			if h != nil && !first(h.covers) {
				e.must = later(e.must, h.covers.Position)
			}
		}
		for j := range m.slots {
			s := &m.slots[j]
			if s.state != slotRecord {
				continue
			}
			if e.newest.Less(s.Position) {
				e.newest = s.link
			}
			// Two records of one position can only be two tries of a start that failed.
			if use && (e.tip.Less(s.Position) ||
				e.tip.Position == s.Position && e.tip.Hash < s.Hash) {
				e.tip = s.link
			}
		}
	}
	return e
}

// trail is what leads back from a record.
type trail struct {
	records []record // the newest first
	// checkpoint is the whole one that the trail ends at, nil if there is none.
	checkpoint *candidate
	known      bool // it ends at what the caller knows
	end        link // where it ends; a record that is missing, if there is neither
}

// follow follows the predecessors of a record back to what known says is known, or to a
// whole checkpoint. It calls each with every record, and returns its error.
func (img *Image) follow(tip link, candidates []*candidate, known func(link) bool,
	each func(*record) error) (trail, error) {
	t := trail{end: tip}
	for {
		if t.known = known(t.end); t.known {
			return t, nil
		}
		for _, c := range candidates {
			if c.covers == t.end && img.whole(c) {
				t.checkpoint = c
				return t, nil
			}
		}
		places := img.records[t.end]
		if len(places) == 0 {
			return t, nil
		}
		rec := img.mirrors[places[0].mirror].slots[places[0].slot].record
		if err := each(&rec); err != nil {
			return t, err
		}
		t.records = append(t.records, rec)
		t.end = rec.prev
	}
}

// checkEpochs makes sure that nothing was written under a later epoch than the backing's
// superblock has: a start writes that first. It checks everything, not only the
// chain. A checkpoint may cover all that a later start has written, and with an old
// copy of the backing it would show old data under a new table.
func (img *Image) checkEpochs() error {
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

func later(a, b Position) Position {
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
		m.rests = 0
		for slot, h := range m.headers {
			if h != nil && *h == c.header {
				m.rests |= 1 << slot
			}
		}
		m.whole = m.rests != 0
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
		// The other copies may have bad pages too. They are found now, while there is a copy from
		// which they can be written again.
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
	from := img.slotsOf(h)
	first := &from[0]
	buf, single := AlignedBytes(int(min(readChunk, uint64(h.pages)*PageSize))),
		AlignedBytes(PageSize)
	for page := uint32(0); page < h.pages; {
		count := min(readChunk/PageSize, h.pages-page)
		var err error
		readAtoms(img.devs[first.m.device], buf[:count*PageSize],
			first.m.pageOffset(first.slot, page), PageSize,
			func(i int, b []byte, bad error) {
				if err != nil {
					return
				}
				index := page + uint32(i)
				if bad == nil {
					if n, _, ok := decodePage(b, &img.sb.UUID, h.checkpointID, index); ok {
						err = f(b, n)
						return
					}
				}
				first.lacksPage()
				if n, ok := img.pageFrom(from[1:], h, index, single); ok {
					err = f(single, n)
					return
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

// checkpointSlot is a slot that may have pages of a checkpoint.
type checkpointSlot struct {
	m      *mirrorImage
	slot   int
	header bool // it has the header
}

// lacksPage notes that a page of the checkpoint is bad there.
func (s *checkpointSlot) lacksPage() {
	if s.header {
		s.m.whole = false
	}
}

// slotsOf lists all slots, those first that have the header of a checkpoint.
func (img *Image) slotsOf(h *header) (out []checkpointSlot) {
	for _, own := range []bool{true, false} {
		for i := range img.mirrors {
			m := &img.mirrors[i]
			for s, x := range m.headers {
				if (x != nil && *x == *h) == own {
					out = append(out, checkpointSlot{m, s, own})
				}
			}
		}
	}
	return out
}

// pageFrom reads a page of a checkpoint into b from the first of the slots that has it, and
// returns the number of its entries.
func (img *Image) pageFrom(slots []checkpointSlot, h *header, index uint32, b []byte) (n int,
	ok bool) {
	for i := range slots {
		s := &slots[i]
		_, err := img.devs[s.m.device].ReadAt(b, s.m.pageOffset(s.slot, index))
		if err == nil {
			if n, _, ok := decodePage(b, &img.sb.UUID, h.checkpointID, index); ok {
				s.m.rests |= 1 << s.slot
				return n, true
			}
		}
		s.lacksPage()
	}
	return 0, false
}

// compareMirrors notes what each mirror lacks of the image.
func (img *Image) compareMirrors() error {
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

// badPages counts the pages of a checkpoint that are bad on this mirror.
func (img *Image) badPages(m *mirrorImage, slot int, h *header) (bad int) {
	buf := AlignedBytes(int(min(readChunk, uint64(h.pages)*PageSize)))
	for page := uint32(0); page < h.pages; {
		n := min(readChunk/PageSize, h.pages-page)
		readAtoms(img.devs[m.device], buf[:n*PageSize], m.pageOffset(slot, page), PageSize,
			func(i int, b []byte, err error) {
				if err == nil {
					if _, _, ok := decodePage(b, &img.sb.UUID, h.checkpointID, page+uint32(i)); ok {
						return
					}
				}
				bad++
			})
		page += n
	}
	return bad
}
