package metadata

import (
	"errors"
	"fmt"
	"slices"
)

// Restore is what PlanRestore or PlanSalvage found, and what Run will do.
type Restore struct {
	Superblock *Superblock `json:"superblock"` // what the set is laid out by
	// Backup is the position of the backup, zero if there is none; Disk that of
	// the newest record that was seen on the disk.
	Backup Position `json:"backup"`
	Disk   Position `json:"disk"`
	// Base is what the table begins with. Records is how many newer records of the
	// disk's logs are applied to it.
	Base    string      `json:"base"`
	Records int         `json:"records"`
	Table   TableCounts `json:"table"` // what will be written
	// Risks are the reasons why that table may not be the newest one. If there are none it
	// is certain to be.
	Risks []string `json:"risks"`
	Steps []string `json:"steps"` // what Run will do; empty: nothing is wrong

	unnamed []int  // devices, as given, that have no superblock of their own
	img     *Image // the devices in the set's order, and what was found on them
	given   []Device
	good    map[copyPlace]bool // superblock copies that can be read
	table   *Table
	base    *candidate // if it is a checkpoint of the disk
}

// PlanRestore finds the newest table of a set that its disks and a backup state together. It
// writes nothing. devs are all devices of the set, the backing first; their superblocks
// may be lost.
//
// A backup is as good as a checkpoint: if the records that followed it are all
// in the logs, nothing is lost, however much else is damaged. Otherwise Risks
// say what may be lost, and a person must decide. Errors: ErrForeign (another
// set, other sizes, another layout), ErrStale (a spare device), ErrNotFound (a
// device is missing), ErrBackupStale (the disk has metadata that is in order,
// and newer), ErrDamaged (no table can be made), ErrUnfinished, ErrUnsupported,
// ErrReadOnly; with ErrPath there is no plan.
func PlanRestore(devs []Device, b *Backup) (*Restore, error) { return planRestore(devs, b) }

// PlanSalvage is PlanRestore without a backup. The error is also ErrDamaged if there is no
// whole checkpoint.
func PlanSalvage(devs []Device) (*Restore, error) { return planRestore(devs, nil) }

func planRestore(devs []Device, b *Backup) (*Restore, error) {
	return examine(devs, false, func(inv *inventory) (*Restore, error) {
		return restoreOf(inv, b)
	})
}

func restoreOf(inv *inventory, b *Backup) (*Restore, error) {
	r := &Restore{given: inv.devs, Risks: []string{}, Steps: []string{}}
	if b != nil {
		r.Backup = b.Position
	}
	if err := r.identify(inv, b); err != nil {
		return r, err
	}
	r.Superblock = r.img.sb
	if err := r.img.sb.Unfinished(); err != nil {
		return r, err
	}
	if r.img.readOnly {
		return r, fmt.Errorf("%w: ro_compat features %#x", ErrReadOnly,
			r.img.sb.ROCompat&^knownROCompat)
	}
	if err := r.img.scan(); err != nil {
		return r, err
	}
	switch err := inv.loads(); {
	case errors.Is(err, ErrStale) || errors.Is(err, ErrForeign) || errors.Is(err, ErrUnsupported) ||
		errors.Is(err, ErrPath):
		return r, err
	case err != nil:
		if err := r.gather(b); err != nil {
			return r, err
		}
	default:
		if nothing, err := r.inOrder(inv, b); nothing || err != nil {
			return r, err
		}
	}
	return r, r.plan()
}

// inOrder handles a set that loads. In most cases there is nothing to do.
func (r *Restore) inOrder(inv *inventory, b *Backup) (nothing bool, _ error) {
	r.Disk, r.Base, r.Table = inv.img.tip.Position, "the disk", inv.table.Counts()
	if b == nil || inv.img.tip == b.tip {
		return true, nil
	}
	if !r.Disk.Less(b.Position) {
		return false, fmt.Errorf("%w: it was made at %s, and the metadata of the disk is in "+
			"order up to %s", ErrBackupStale, b.Position, r.Disk)
	}
	r.risk("the metadata of the disk is in order, but of an earlier time, %s, than the "+
		"backup, %s: where the whole disk was put back to that time, the table of the backup "+
		"does not fit the data on it", r.Disk, b.Position)
	return false, r.fromBackup(b, "the backup")
}

// plan checks the table and says what Run will do.
func (r *Restore) plan() error {
	if err := r.table.Validate(); err != nil {
		return err
	}
	r.table.fit(r.img.layout)
	r.Table = r.table.Counts()
	if n := r.img.layout.TableCapacity(); r.Table.Entries > n {
		return fmt.Errorf("%w: the table would have %d entries, a checkpoint holds %d",
			ErrDamaged, r.Table.Entries, n)
	}
	r.step("mark every mirror as out of use, in every copy of the superblock, with a new epoch")
	r.step("write the table of %s and of %d newer records to every mirror", r.Base, r.Records)
	r.step("put the mirrors into use in every copy of the superblock")
	r.step("start it once: write every copy of everything anew, and check it")
	return nil
}

func (r *Restore) step(format string, args ...any) {
	r.Steps = append(r.Steps, fmt.Sprintf(format, args...))
}
func (r *Restore) risk(format string, args ...any) {
	r.Risks = append(r.Risks, fmt.Sprintf(format, args...))
}

// identify finds out which device is which, and elects the newest superblock of the devices
// and the backup.
func (r *Restore) identify(inv *inventory, b *Backup) error {
	img := &Image{}
	r.img = img
	backing, err := r.newest(inv, b)
	if err != nil {
		return err
	}
	if img.layout, err = newLayout(img.sb); err != nil {
		return err
	}
	if b != nil {
		if err := sameLayout(b.layout, img.layout); err != nil {
			return err
		}
	}
	img.devs = make([]Device, len(img.sb.Devices))
	for i := range inv.found {
		if inv.found[i].err == nil {
			if err := r.place(i, inv.found[i].sb, backing, b); err != nil {
				return err
			}
		}
	}
	for _, i := range r.unnamed {
		at := slices.Index(img.devs, nil)
		if at < 0 || i == 0 && at != 0 {
			return fmt.Errorf("%w: %s has no superblock, and all devices of the set are there "+
				"without it", ErrForeign, nameOf(inv.devs[i], i))
		}
		if err := r.put(i, at); err != nil {
			return err
		}
	}
	if i := slices.Index(img.devs, nil); i >= 0 {
		return img.missing(i)
	}
	if img.maxEpoch >= maxEpoch/2 || img.maxGeneration >= maxEpoch/2 {
		return fmt.Errorf("%w: epoch %d, generation %d", ErrDamaged, img.maxEpoch,
			img.maxGeneration)
	}
	img.readOnly = img.sb.ROCompat&^knownROCompat != 0
	return nil
}

// newest elects the newest superblock of the devices and the backup. It returns that of the
// backing device, nil if it has none.
func (r *Restore) newest(inv *inventory, b *Backup) (backing *Superblock, _ error) {
	img, reference := r.img, "the backing is"
	r.good = map[copyPlace]bool{}
	if b != nil {
		img.sb, reference = b.Superblock, "the backup is"
		img.maxEpoch, img.maxGeneration = b.Superblock.Epoch, b.Superblock.Generation
	}
	for i := range inv.found {
		sb, err := inv.found[i].sb, inv.found[i].err
		switch {
		case errors.Is(err, ErrUnsupported):
			return nil, err
		case err != nil && i == 0 && b == nil:
			return nil, fmt.Errorf("the backing: %w", err)
		case err != nil:
			r.unnamed = append(r.unnamed, i)
			continue
		case img.sb != nil && sb.UUID != img.sb.UUID:
			return nil, fmt.Errorf("%w: %s is of set %s (%s), %s of set %s (%s)", ErrForeign,
				nameOf(inv.devs[i], i), sb.UUID, sb.Name, reference, img.sb.UUID, img.sb.Name)
		}
		if sb.DeviceIndex == 0 && backing == nil {
			backing = sb
		}
		if img.sb == nil || sb.Generation > img.sb.Generation {
			img.sb = sb
		}
		for _, c := range inv.found[i].copies {
			if c.sb != nil && c.sb.UUID == sb.UUID {
				r.good[copyPlace{sb.DeviceIndex, c.offset}] = true
				img.maxEpoch = max(img.maxEpoch, c.sb.Epoch)
				img.maxGeneration = max(img.maxGeneration, c.sb.Generation)
			}
		}
	}
	return backing, nil
}

// place puts a device where its superblock says that it belongs. The epoch that a spare
// device must have is the backing's, or else the backup's.
func (r *Restore) place(i int, sb, backing *Superblock, b *Backup) error {
	img := r.img
	own := sb.Devices[sb.DeviceIndex].UUID
	at := img.indexOf(own)
	if at < 0 {
		return fmt.Errorf("%w: device %s is not part of set %s (%s)", ErrForeign, own,
			img.sb.UUID, img.sb.Name)
	}
	epoch := img.sb.Epoch
	if backing != nil {
		epoch = backing.Epoch
	} else if b != nil {
		epoch = b.Superblock.Epoch
	}
	if sb.DeviceIndex != 0 && (sb.Epoch < epoch || backing != nil && sb.Epoch > epoch &&
		sb.PrevEpoch > epoch) {
		return fmt.Errorf("%w: spare device %s is of epoch %d, the set of %d", ErrStale, own,
			sb.Epoch, epoch)
	}
	return r.put(i, at)
}

// put makes a given device the one of that index.
func (r *Restore) put(i, at int) error {
	d, id := r.given[i], r.img.sb.Devices[at]
	switch {
	case r.img.devs[at] != nil:
		return fmt.Errorf("%w: device %s was given twice, or one is a clone of the other",
			ErrForeign, id.UUID)
	case d.Size() < id.Size:
		return fmt.Errorf("%w: %s has %d bytes, %s %s of the set has %d", ErrForeign,
			nameOf(d, i), d.Size(), id.Role, id.UUID, id.Size)
	}
	r.img.devs[at] = d
	return nil
}

// sameLayout: an entry of a must mean the same in b, which may have more spare
// regions.
func sameLayout(a, b *Layout) error {
	same := a.sb.BlockSize == b.sb.BlockSize && a.sb.HeadBytes == b.sb.HeadBytes &&
		a.sb.ExportedBytes == b.sb.ExportedBytes &&
		a.headDev == b.headDev && a.headStart == b.headStart &&
		a.tailBlock == b.tailBlock && a.tailDev == b.tailDev && a.tailStart == b.tailStart &&
		len(a.spares) <= len(b.spares)
	for i := 0; same && i < len(a.spares); i++ {
		x, y := &a.spares[i], &b.spares[i]
		same = x.Device == y.Device && x.Start == y.Start && x.Length == y.Length &&
			x.First == y.First
	}
	if !same {
		return fmt.Errorf("%w: the set was laid out in another way when the backup was made",
			ErrForeign)
	}
	return nil
}

// While a restore runs, mirrors that were in use are marked as stale from a position that no
// record ever has: marker, which the restored checkpoint covers, or, if there are
// risks, the position before it.
func marker(epoch uint64) Position { return Position{epoch, creation.Sequence} }
func risky(epoch uint64) Position  { return Position{epoch, creation.Sequence - 1} }

// inUse reports whether the mirror is in use, or was before a restore that was interrupted.
func (img *Image) inUse(m *mirrorImage) bool {
	return !m.stale || m.staleFrom == marker(img.sb.Epoch) || m.staleFrom == risky(img.sb.Epoch)
}
