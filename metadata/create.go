package metadata

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"
)

// creation is what the first checkpoint of a set covers: no record has this
// position.
var creation = link{Position: Position{Epoch: 1, Sequence: 1}}

// BadPlace is a place that was meant for metadata of a new set and cannot be used.
type BadPlace struct {
	Device int    // index into the devices as given
	Offset int64  // in bytes
	What   string // what was to be there
	Err    error
	Moved  int64 // where it is instead; 0: nowhere
}

// String is the place for people.
func (p BadPlace) String() string {
	if p.Moved != 0 {
		return fmt.Sprintf("%s cannot be written at %d: %v; it is at %d instead", p.What, p.Offset,
			p.Err, p.Moved)
	}
	return fmt.Sprintf("%s cannot be written at %d: %v", p.What, p.Offset, p.Err)
}

// minCopies is how many copies of its superblock the backing of a new set must have, so that the
// set survives one bad sector later.
const minCopies = 2

// Create is CreateAround without the list of bad places.
func Create(devs []Device, plan *Layout, initial []Entry) error {
	_, err := CreateAround(devs, plan, initial)
	return err
}

// CreateAround writes a new set: devs as in plan.Devices. initial are the
// entries that the table begins with. Byte 0 of the backing is written last; a
// cut at any moment leaves either no set, or the whole new one. Whatever
// metadata the devices carried before is lost, and nothing of the data is
// copied.
//
// Bad places are avoided. A mirror that cannot be written where it was
// planned goes to another place of its device, or is stale from the beginning.
// Copies of the superblock may be missing. Places that the plan knows to be bad
// (PlanParams.Bad) are not tried. There must be two copies of the
// superblock and one mirror on the backing, and one copy on every other device.
// The bad places are returned, also with an error.
//
// Errors: ErrInvalidEntry (also for entries that contradict each other, or are
// more than a checkpoint holds), ErrGeometry (a device does not have the
// planned size), ErrBadPlaces, and those of the devices.
func CreateAround(devs []Device, plan *Layout, initial []Entry) ([]BadPlace, error) {
	devs = withRetries(devs)
	bad, err := createAround(devs, plan, initial)
	return bad, orPathFailure(devs, err)
}

func createAround(devs []Device, plan *Layout, initial []Entry) ([]BadPlace, error) {
	sb := plan.sb.clone()
	if err := plan.matches(devs); err != nil {
		return nil, err
	}
	t, err := firstTable(plan, initial)
	if err != nil {
		return nil, err
	}
	c := creator{devs: devs, sb: sb, known: plan.bad, page: AlignedBytes(PageSize),
		back: AlignedBytes(PageSize)}
	// The superblocks of an older set are cleared before anything else of it is
	// overwritten: a cut must not leave one of them above the new set's pages.
	if err := c.clear(); err != nil {
		return c.bad, err
	}
	if err := c.mirrors(plan, t); err != nil {
		return c.bad, err
	}
	// The superblocks name what must be durable by then.
	if err := syncAll(devs); err != nil {
		return c.bad, err
	}
	return c.bad, c.superblocks()
}

// matches checks that devices are what a layout was planned for. The error is ErrGeometry.
func (l *Layout) matches(devs []Device) error {
	if len(devs) != len(l.sb.Devices) {
		return fmt.Errorf("%w: planned for %d devices, %d given", ErrGeometry, len(l.sb.Devices),
			len(devs))
	}
	for i, d := range devs {
		if d.Size() != l.sb.Devices[i].Size {
			return fmt.Errorf("%w: %s planned for %d bytes has %d", ErrGeometry, nameOf(d, i),
				l.sb.Devices[i].Size, d.Size())
		}
	}
	return nil
}

// CheckInitial reports whether a set that is laid out as plan can begin with those entries: it
// refuses what CreateAround would refuse, and writes nothing. The error is ErrInvalidEntry.
func CheckInitial(plan *Layout, initial []Entry) error {
	_, err := firstTable(plan, initial)
	return err
}

// firstTable is the table that a new set begins with.
func firstTable(plan *Layout, initial []Entry) (*Table, error) {
	t := NewTable(plan)
	for _, e := range initial {
		if err := t.Apply(e); err != nil {
			return nil, err
		}
	}
	if err := t.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidEntry, err)
	}
	if n := t.Counts().Entries; n > plan.TableCapacity() {
		return nil, fmt.Errorf("%w: %d entries, a checkpoint holds %d", ErrInvalidEntry, n,
			plan.TableCapacity())
	}
	return t, nil
}

// creator is a set being created.
type creator struct {
	devs       []Device
	sb         *Superblock
	known      []BadRange
	bad        []BadPlace
	page, back []byte
}

func (c *creator) clear() error {
	for i, d := range c.devs {
		var places []int64
		for _, off := range c.sb.copies(uint8(i)) {
			if off <= RegionStart {
				places = append(places, off)
			}
		}
		for _, old := range readSuperblocks(d) {
			// The end of a device may be data in the new layout: it is left
			// alone unless a superblock is there.
			if !slices.Contains(places, old.offset) && !errors.Is(old.err, ErrNotFound) {
				places = append(places, old.offset)
			}
		}
		for _, off := range places {
			clear(c.page)
			if _, err := d.WriteAt(c.page, off); err == nil {
				continue
			} else if _, readErr := d.ReadAt(c.back, off); readErr == nil &&
				hasMagic(c.back, magicSuperblock) {
				// A load could take it for the new set's, or for another set.
				return fmt.Errorf("%w: the superblock of an older set at %d of %s cannot be "+
					"cleared: %w", ErrBadPlaces, off, nameOf(d, i), err)
			}
			// Whether the place is bad shows when the new one is written there.
		}
	}
	return syncAll(c.devs)
}

// mirrors writes the mirrors where they were planned, or else where there is
// room for them.
func (c *creator) mirrors(plan *Layout, t *Table) error {
	whole := 0
	var last error
	for _, m := range plan.mirrorsAt() {
		d, r := c.devs[m.device], &c.sb.Regions[m.region]
		write := func() error {
			if badIn(c.known, m.device, m.start, r.Length) != nil {
				return errKnownBad
			}
			return writeFirstCheckpoint(d, plan, &m, t)
		}
		err := write()
		if err != nil {
			p := BadPlace{Device: int(m.device), Offset: m.start, What: "a mirror of the metadata",
				Err: err}
			// Nothing reads the place before the superblocks name it.
			for _, start := range c.sb.placesFor(r, m.device, r.Length) {
				m.start = start
				if err = write(); err == nil {
					p.Moved, r.Start = start, start
					r.Generation++
					break
				}
			}
			c.bad = append(c.bad, p)
		}
		switch {
		case err != nil:
			r.Stale, last = true, err // from which record on, the first start says
		case m.device == 0:
			whole++
		}
	}
	if whole == 0 {
		return fmt.Errorf("%w: no mirror of the metadata can be written on the backing: %w",
			ErrBadPlaces, last)
	}
	return nil
}

func (c *creator) superblocks() error {
	for i := len(c.devs) - 1; i >= 0; i-- { // the backing last: it makes the set
		d, need := c.devs[i], 1
		if i == 0 {
			need = minCopies
		}
		places := c.sb.copies(uint8(i))
		var last error
		var good []int64
		for n, off := range places {
			if len(good)+len(places)-n < need {
				break // it cannot be had any more
			}
			c.sb.encode(c.page, uint8(i))
			err := errKnownBad
			if badIn(c.known, uint8(i), off, PageSize) == nil {
				// One at a time: a cut must not tear all copies.
				err = writePage(d, c.page, c.back, off)
			}
			if err != nil {
				last = err
				c.bad = append(c.bad, BadPlace{Device: i, Offset: off, What: "a superblock",
					Err: err})
				continue
			}
			good = append(good, off)
		}
		if len(good) < need {
			clear(c.page)
			for _, off := range good {
				_, _ = d.WriteAt(c.page, off) // so that no half a set is left, if possible
			}
			err := fmt.Errorf("%w: %s must have %d superblocks, and %d of its places for them "+
				"are good: %w", ErrBadPlaces, nameOf(d, i), need, len(good), last)
			return errors.Join(err, d.Sync())
		}
	}
	return nil
}

// writeFirstCheckpoint writes the table as the first checkpoint of a mirror, and leaves
// its other slot without a header. The log needs no clearing: records of
// another set carry another UUID.
func writeFirstCheckpoint(d Device, plan *Layout, m *mirrorAt, t *Table) error {
	set := &plan.sb.UUID
	buf := AlignedBytes(1 << 20)
	var w pageWriter
	w.begin(&plan.sb.UUID, &plan.lim, t, checkpointID{epoch: creation.Epoch, generation: 1},
		m.pages())
	for !w.finished() {
		first := w.pages
		n, err := w.fill(buf)
		if err != nil {
			return err
		}
		if n > 0 {
			if _, err := d.WriteAt(buf[:n], m.pageOffset(0, first)); err != nil {
				return err
			}
		}
	}
	h := w.header(creation, 0)
	h.encode(buf, set)
	if _, err := d.WriteAt(buf[:PageSize], m.headerOffset(0)); err != nil {
		return err
	}
	clear(buf[:PageSize])
	if _, err := d.WriteAt(buf[:PageSize], m.headerOffset(1)); err != nil {
		return err
	}
	if err := d.Sync(); err != nil {
		return err
	}
	return verifyFirstCheckpoint(d, set, m, &h, buf)
}

// verifyFirstCheckpoint makes sure that what writeFirstCheckpoint wrote can be read.
func verifyFirstCheckpoint(d Device, set *uuid.UUID, m *mirrorAt, want *header, buf []byte) error {
	for slot := range 2 {
		if _, err := d.ReadAt(buf[:PageSize], m.headerOffset(slot)); err != nil {
			return err
		}
		if h, ok := decodeHeader(buf, set); ok != (slot == 0) || ok && h != *want {
			return errReadBack
		}
	}
	for page := uint32(0); page < want.pages; {
		n := min(uint32(len(buf)/PageSize), want.pages-page)
		if _, err := d.ReadAt(buf[:n*PageSize], m.pageOffset(0, page)); err != nil {
			return err
		}
		for i := range n {
			if _, _, ok := decodePage(buf[i*PageSize:], set, want.checkpointID, page+i); !ok {
				return errReadBack
			}
		}
		page += n
	}
	return nil
}
