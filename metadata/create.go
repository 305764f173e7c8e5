package metadata

import (
	"errors"
	"fmt"
)

// creation is what the first checkpoint of a set covers: no record has this
// position.
var creation = link{Position: Position{Epoch: 1, Sequence: 1}}

// Create writes a new set: devs as in plan.Devices. initial are the entries
// that the table begins with. Byte 0 of the backing is written last; a cut at
// any moment leaves either no set, or the whole new one. Whatever metadata the
// devices carried before is lost, and nothing of the data is copied. Errors:
// ErrInvalidEntry (also for entries that contradict each other, or are more
// than a checkpoint holds), ErrGeometry (a device does not have the planned
// size), and those of the devices.
func Create(devs []Device, plan *Layout, initial []Entry) error {
	sb := &plan.sb
	if len(devs) != len(sb.Devices) {
		return fmt.Errorf("%w: planned for %d devices, %d given", ErrGeometry, len(sb.Devices), len(devs))
	}
	for i, d := range devs {
		if d.Size() != sb.Devices[i].Size {
			return fmt.Errorf("%w: device %d planned for %d bytes has %d", ErrGeometry, i, sb.Devices[i].Size, d.Size())
		}
	}
	t := NewTable(plan)
	for _, e := range initial {
		if err := t.Apply(e); err != nil {
			return err
		}
	}
	if err := t.Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalidEntry, err)
	}
	if n := t.Counts().Entries; n > plan.TableCapacity() {
		return fmt.Errorf("%w: %d entries, a checkpoint holds %d", ErrInvalidEntry, n, plan.TableCapacity())
	}

	// Whatever set was here is gone before anything of it is overwritten: a
	// cut must not leave its superblock above the new set's pages.
	zero := AlignedBytes(PageSize)
	for i, d := range devs {
		places := []int64{0, SuperblockStride}
		for _, c := range readSuperblocks(d) {
			// The end of a device may be data in the new layout: it is left
			// alone unless a superblock is there.
			if c.offset > SuperblockStride && !errors.Is(c.err, ErrNotFound) {
				places = append(places, c.offset)
			}
		}
		for _, off := range places {
			if _, err := d.WriteAt(zero, off); err != nil {
				return fmt.Errorf("clearing the superblock of device %d at %d: %w", i, off, err)
			}
		}
	}
	if err := syncAll(devs); err != nil {
		return err
	}
	for _, m := range plan.mirrorsAt() {
		if err := writeFirst(devs[m.device], plan, &m, t); err != nil {
			return fmt.Errorf("writing the mirror at %d of device %d: %w", m.start, m.device, err)
		}
	}
	// The superblocks name what must be durable by then.
	if err := syncAll(devs); err != nil {
		return err
	}
	b := AlignedBytes(PageSize)
	for i := len(devs) - 1; i >= 0; i-- { // the backing last: it makes the set
		sb.encode(b, uint8(i))
		for _, off := range sb.copies(uint8(i)) {
			if _, err := devs[i].WriteAt(b, off); err != nil {
				return fmt.Errorf("writing the superblock of device %d at %d: %w", i, off, err)
			}
			// One at a time: a cut must not tear all copies.
			if err := devs[i].Sync(); err != nil {
				return fmt.Errorf("syncing device %d: %w", i, err)
			}
		}
	}
	return nil
}

func syncAll(devs []Device) error {
	for i, d := range devs {
		if err := d.Sync(); err != nil {
			return fmt.Errorf("syncing device %d: %w", i, err)
		}
	}
	return nil
}

// writeFirst writes the table as the first checkpoint of a mirror, and leaves
// its other slot without a header. The log needs no clearing: records of
// another set carry another UUID.
func writeFirst(d Device, plan *Layout, m *mirrorAt, t *Table) error {
	set := &plan.sb.UUID
	buf := AlignedBytes(1 << 20)
	var w pageWriter
	w.begin(&plan.sb.UUID, &plan.lim, t, checkpointID{epoch: creation.Epoch, generation: 1}, m.pages())
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
	_, err := d.WriteAt(buf[:PageSize], m.headerOffset(1))
	return err
}
