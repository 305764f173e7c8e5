package metadata

import (
	"errors"
	"fmt"
	"math/bits"
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

// gather makes the table out of the newest base, a checkpoint or the backup, and
// the records that followed.
func (r *Restore) gather(b *Backup) error {
	img := r.img
	candidates := img.candidates()
	if done, err := r.fromInterrupted(candidates); done {
		return err
	}
	e := img.evidence(img.inUse,
		func(covered link) bool { return covered.Sequence == creation.Sequence })
	risks, certain := img.interrupted()
	if risks {
		r.risk("a restore that could not be certain of everything was interrupted before")
	}
	if !certain { // else it was found out then, and its superblocks come last
		r.doubtUnnamed(e.newest)
	}
	if e.tip == (link{}) {
		e.tip = e.newest
		if e.tip == (link{}) && e.must == (Position{}) && img.sb.Epoch == creation.Epoch {
			e.tip = creation // never started
		} else {
			r.risk("no record can be read on a mirror in use")
		}
	}
	r.Disk = e.tip.Position
	if e.tip.Less(e.must) {
		r.risk("there were records up to %s or later, the newest one that can be read is %s: "+
			"changes after that are missing", e.must, r.Disk)
	}
	if best, from := r.best(b, candidates); (best != nil || b != nil) && e.tip.Less(from) {
		// The base is newer than all records that are left.
		return r.acrossGap(b, candidates, nil, link{})
	}
	if !certain && slices.ContainsFunc(r.unnamed,
		func(i int) bool { return r.given[i] == img.devs[0] }) {
		img.tip, img.checkpoint = e.tip, &candidate{}
		if why := img.unproved(0); why != "" {
			r.risk("the superblocks of the backing are lost, and those at hand may not be the "+
				"newest, for %s", why)
		}
	}
	return r.fromRecords(b, candidates, e.tip)
}

// fromInterrupted uses the checkpoint of a restore that was interrupted before it wrote the
// record that follows, if there is one.
func (r *Restore) fromInterrupted(candidates []*candidate) (done bool, _ error) {
	for _, c := range candidates {
		if c.covers.Position == marker(r.img.sb.Epoch) && c.covers != creation && r.img.whole(c) {
			r.base, r.Disk = c, c.covers.Position
			r.table = NewTable(r.img.layout)
			err := r.img.entries().checkpoint(&c.header, r.table.Apply)
			r.Base = "a restore that was interrupted"
			return true, err
		}
	}
	return false, nil
}

// interrupted reports whether a restore was interrupted: one that had risks, and one
// that was certain.
func (img *Image) interrupted() (risks, certain bool) {
	for i := range img.mirrors {
		m := &img.mirrors[i]
		risks = risks || m.stale && m.staleFrom == risky(img.sb.Epoch)
		certain = certain || m.stale && m.staleFrom == marker(img.sb.Epoch)
	}
	return risks, certain
}

// doubtUnnamed adds the risks of devices that have no superblock.
func (r *Restore) doubtUnnamed(newest link) {
	img := r.img
	for _, i := range r.unnamed {
		at := slices.Index(img.devs, r.given[i])
		read := slices.ContainsFunc(img.mirrors,
			func(m mirrorImage) bool { return int(m.device) == at && !m.blank() })
		if !read {
			r.risk("%s has no superblock and no mirror that can be read: nothing on it says that "+
				"it is %s %s", nameOf(r.given[i], i), img.sb.Devices[at].Role,
				img.sb.Devices[at].UUID)
		} else if at != 0 && !r.current(uint8(at), newest) {
			r.risk("%s has no superblock, and its mirror lacks the newest record: it may be out "+
				"of date", nameOf(r.given[i], i))
		}
	}
}

// blank reports that a mirror has neither a header nor a record of the set.
func (m *mirrorImage) blank() bool {
	return m.headers == [2]*header{} &&
		!slices.ContainsFunc(m.slots, func(s logSlot) bool { return s.state == slotRecord })
}

// fromRecords follows the records back from the newest one to what they follow.
func (r *Restore) fromRecords(b *Backup, candidates []*candidate, tip link) error {
	warned := false
	t, err := r.img.follow(tip, candidates,
		func(l link) bool { return b != nil && l == b.tip },
		func(rec *record) error {
			if rec.sbGeneration > r.img.sb.Generation && !warned {
				warned = true
				r.risk("record %s was written under superblock generation %d, the newest that "+
					"can be read is %d: mirrors or spare regions may have been added or moved",
					rec.Position, rec.sbGeneration, r.img.sb.Generation)
			}
			return nil
		})
	switch {
	case err != nil:
		return err
	case t.known:
		return r.build(b, nil, t.records)
	case t.checkpoint != nil:
		return r.build(nil, t.checkpoint, t.records)
	}
	return r.acrossGap(b, candidates, t.records, t.end)
}

// current reports whether a mirror on a device holds the newest record, of the
// last start.
func (r *Restore) current(device uint8, newest link) bool {
	if newest.Epoch != r.img.sb.Epoch && newest != (link{}) {
		return false
	}
	for i := range r.img.mirrors {
		m := &r.img.mirrors[i]
		if m.device == device && slices.ContainsFunc(m.slots,
			func(s logSlot) bool { return s.state == slotRecord && s.link == newest }) {
			return true
		}
	}
	return false
}

// best is the newest base: a whole checkpoint, or, where that is nil, the backup;
// and its position.
func (r *Restore) best(b *Backup, candidates []*candidate) (best *candidate, from Position) {
	for _, c := range candidates {
		if r.img.whole(c) && (best == nil || from.Less(c.covers.Position)) {
			best, from = c, c.covers.Position
		}
	}
	if b != nil && (best == nil || !b.Position.Less(from)) {
		return nil, b.Position
	}
	return best, from
}

// acrossGap handles records that are missing: it uses the newest base, and the records after
// it whose order is certain.
func (r *Restore) acrossGap(b *Backup, candidates []*candidate, chain []record,
	missing link) error {
	best, from := r.best(b, candidates)
	if best == nil && b == nil {
		return fmt.Errorf("%w: no whole checkpoint is left on any mirror; restore a backup of "+
			"the metadata", ErrDamaged)
	}
	for len(chain) > 0 && !from.Less(chain[len(chain)-1].Position) {
		chain = chain[:len(chain)-1]
	}
	// Records that follow the base, as long as each has only one successor.
	var at link
	if best != nil {
		b, at = nil, best.covers
	} else {
		at = b.tip
	}
	forward := r.forward(at, missing.Position)
	if n := len(forward); n > 0 {
		from = forward[n-1].Position
		slices.Reverse(forward)
		chain = append(chain, forward...)
	}
	if len(chain) == len(forward) {
		r.risk("of the time after %s no record is left that is certain to count", from)
	} else {
		r.risk("records after %s and up to %s are missing: blocks that were remapped, moved home "+
			"or lost in them are taken for what they were before, and may read old data", from,
			missing.Position)
	}
	return r.build(b, best, chain)
}

// forward returns the records that follow one, each the only one that follows the
// one before it, up to a position.
func (r *Restore) forward(at link, before Position) (out []record) {
	next := map[link][]record{}
	for l, places := range r.img.records {
		rec := r.img.mirrors[places[0].mirror].slots[places[0].slot].record
		if l.Less(before) {
			next[rec.prev] = append(next[rec.prev], rec)
		}
	}
	for len(next[at]) == 1 {
		rec := next[at][0]
		out = append(out, rec)
		at = rec.link
	}
	return out
}

// build makes the table from a base, the backup, or, where that is nil, a checkpoint, and from
// the records of chain, the newest first.
func (r *Restore) build(b *Backup, c *candidate, chain []record) error {
	entries := r.img.entries()
	if r.base = c; b != nil {
		if err := r.fromBackup(b, fmt.Sprintf("the backup of %s", b.Position)); err != nil {
			return err
		}
	} else {
		r.Base = fmt.Sprintf("the checkpoint of %s", c.covers.Position)
		r.table = NewTable(r.img.layout)
		if err := entries.checkpoint(&c.header, r.table.Apply); err != nil {
			return err
		}
	}
	r.Records = len(chain)
	slices.Reverse(chain)
	return r.replay(entries, chain)
}

// fromBackup begins the table with that of a backup.
func (r *Restore) fromBackup(b *Backup, what string) error {
	r.Base, r.table = what, NewTable(r.img.layout)
	return b.table.each(r.apply)
}

func (r *Restore) apply(e Entry) error {
	if err := r.table.Apply(e); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return nil
}

// replay applies records. Where some between them are missing, a spare unit may
// have changed its owner. The newer record is right then. The blocks of the older owner become
// lost, so that they do not read as the data of another unit.
func (r *Restore) replay(entries *entryReader, chain []record) error {
	var all []Entry
	for i := range chain {
		err := entries.record(&chain[i], func(e Entry) error { all = append(all, e); return nil })
		if err != nil {
			return err
		}
	}
	if len(r.Risks) == 0 {
		for _, e := range all {
			if err := r.apply(e); err != nil {
				return err
			}
		}
		return nil
	}
	// A table that is read while it changes may state some spare units twice, but not more.
	if n, most := r.table.spareUses(), 2*r.img.layout.SpareUnits(); n > most {
		return fmt.Errorf("%w: units live in %d spare units, there are %d", ErrDamaged, n,
			r.img.layout.SpareUnits())
	}
	owner := r.table.ownerOf()
	var lost uint64
	for _, e := range all {
		if err := r.apply(e); err != nil {
			return err
		}
		for i := uint32(0); e.State == StateMapped && i < e.Count; i++ {
			unit, spare := e.Unit+uint64(i), e.Spare+i
			if old, ok := owner[spare]; ok && old != unit {
				n, err := r.markLost(old, spare, e.Time)
				if err != nil {
					return err
				}
				lost += n
			}
			owner[spare] = unit
		}
	}
	if lost > 0 {
		r.risk("%d blocks are marked as lost, because their spare units hold other blocks since",
			lost)
	}
	return nil
}

// ownerOf says of every spare unit in use which unit owns it.
func (t *Table) ownerOf() map[uint32]uint64 {
	owner := map[uint32]uint64{}
	t.Extents(func(x Extent) bool {
		for i := range x.Count {
			for m := x.Mapped; m != 0; m &= m - 1 {
				owner[x.Spare[bits.TrailingZeros8(m)]+uint32(i)] = x.Unit + i
			}
		}
		return true
	})
	return owner
}

// markLost makes those blocks of a unit lost that live in that spare unit, and counts them.
func (r *Restore) markLost(unit uint64, spare, time uint32) (uint64, error) {
	mask := uint8(0)
	for j := range 8 {
		if st, at, _ := r.table.Block(unit, j); st == StateMapped && at == spare {
			mask |= 1 << j
		}
	}
	if mask == 0 {
		return 0, nil
	}
	return uint64(bits.OnesCount8(mask)), r.apply(Entry{Unit: unit, Count: 1, Mask: mask,
		State: StateLost, Cause: CauseUnknown, Time: time})
}

// Run does what the plan says. Nothing may have written to the devices since.
//
//  1. The superblocks get a new epoch and say that no mirror is in use. From
//     here on the set does not load, so that a half-written set is never used. The logs
//     are unchanged.
//  2. One mirror after the other gets the table as a checkpoint, and then a
//     record that follows it.
//  3. The superblocks say that the mirrors are in use. This takes effect with the first
//     copy on the backing.
//  4. What a repair does: a start that writes everything anew.
//
// A cut in 1 to 3 leaves what was there before, or a set that does not load and that
// another restore finishes: it finds the checkpoint of 2, or the logs as they were. The
// report is that of Check at the end. Errors: those of the devices, if no mirror of
// the backing could be written; ErrPath, which is like a cut.
func (r *Restore) Run(o RunOptions) (Report, error) {
	if len(r.Steps) == 0 {
		return Check(r.given)
	}
	report, err := r.run(o)
	return report, orPathFailure(r.img.devs, err)
}

func (r *Restore) run(o RunOptions) (Report, error) {
	img := r.img
	img.leap()
	sb := r.outOfUse(o)
	if err := r.superblocks(sb); err != nil {
		return Report{}, err
	}
	if err := r.mirrors(sb, o); err != nil {
		return Report{}, err
	}
	sb.Generation++
	if err := r.superblocks(sb); err != nil {
		return Report{}, err
	}
	now, err := Load(img.devs)
	if err != nil {
		return Report{}, fmt.Errorf("after the restore: %w", err)
	}
	if err := now.rebuild(o); err != nil {
		return Report{}, err
	}
	return Check(img.devs)
}

// outOfUse is the superblock of 1: a new epoch, and every mirror stale.
func (r *Restore) outOfUse(o RunOptions) *Superblock {
	img := r.img
	sb := img.sb.clone()
	sb.Generation, sb.Epoch = img.maxGeneration+1, img.maxEpoch+1
	sb.PrevEpoch = img.sb.Epoch
	for _, s := range superblocksOf(img.devs) {
		// The epoch before, as a spare device must see it: no later than what
		// the backing has as long as it was not written.
		if s.err == nil {
			sb.PrevEpoch = min(sb.PrevEpoch, s.sb.Epoch)
		}
	}
	sb.Session, sb.Started = o.Session, o.Now
	for i := range img.mirrors {
		m := &img.mirrors[i]
		reg := &sb.Regions[m.region]
		switch {
		case !img.inUse(m):
		case len(r.Risks) > 0:
			reg.StaleFrom = risky(sb.Epoch)
		default:
			reg.StaleFrom = marker(sb.Epoch)
		}
		reg.Stale = true
	}
	return sb
}

// mirrors writes the table to every mirror, and marks in sb those where it failed. It must
// succeed for one on the backing.
func (r *Restore) mirrors(sb *Superblock, o RunOptions) error {
	at := link{marker(sb.Epoch), o.Session}
	rec := record{
		link: link{Position: Position{sb.Epoch, creation.Sequence + 1}}, prev: at,
		kind:         recordEpoch,
		sbGeneration: sb.Generation, session: o.Session,
	}
	id := checkpointID{epoch: sb.Epoch, generation: r.img.maxCheckpoint + 1}
	written, last := false, error(nil)
	for _, i := range r.order() {
		m := &r.img.mirrors[i]
		reg := &sb.Regions[m.region]
		if err := r.writeMirror(m, id, at, rec); err != nil {
			reg.StaleFrom, last = rec.Position, fmt.Errorf("writing the mirror at %d of %s: %w",
				m.start, r.img.nameOf(m.device), err)
			continue
		}
		reg.Stale, reg.StaleFrom = false, Position{}
		written = written || m.device == 0
	}
	if !written {
		return last
	}
	return nil
}

// superblocks writes all copies, those of the backing last. On a device the copies that
// cannot be read now come first, and byte 0 last. One write must succeed on every device.
func (r *Restore) superblocks(sb *Superblock) error {
	for d := len(sb.Devices) - 1; d >= 0; d-- {
		places := sb.copies(uint8(d))
		slices.SortStableFunc(places, func(a, b int64) int {
			x, y := r.good[copyPlace{uint8(d), a}], r.good[copyPlace{uint8(d), b}]
			switch {
			case x == y:
				return 0
			case y:
				return -1
			}
			return 1
		})
		if err := writeCopies(r.img.devs[d], sb, uint8(d), places); err != nil {
			return err
		}
	}
	return nil
}

// order is the order in which mirrors are written. If a checkpoint of the disk is the base,
// the mirrors that have it come first: their other slot is free.
func (r *Restore) order() []int {
	var first, rest []int
	for i := range r.img.mirrors {
		m := &r.img.mirrors[i]
		if r.base != nil && slices.ContainsFunc(m.headers[:],
			func(h *header) bool { return h != nil && *h == r.base.header }) {
			first = append(first, i)
		} else {
			rest = append(rest, i)
		}
	}
	return append(first, rest...)
}

// writeMirror writes the table to a mirror as a checkpoint that covers at, and
// then the record that follows it.
func (r *Restore) writeMirror(m *mirrorImage, id checkpointID, at link, rec record) error {
	dev, set := r.img.devs[m.device], &r.img.sb.UUID
	slot := 0
	if h := m.headers[0]; h != nil && (r.base != nil && *h == r.base.header ||
		m.headers[1] == nil || m.headers[1].less(h)) {
		slot = 1
	}
	if h := m.headers[slot]; h != nil && r.base != nil && *h == r.base.header {
		slot = 1 - slot
	}
	buf := AlignedBytes(readChunk)
	back := AlignedBytes(readChunk)
	var w pageWriter
	w.begin(set, &r.img.layout.lim, r.table, id, m.pages())
	for !w.finished() {
		first := w.pages
		n, err := w.fill(buf)
		if err != nil {
			return err
		}
		if n > 0 {
			if err := writePage(dev, buf[:n], back, m.pageOffset(slot, first)); err != nil {
				return err
			}
		}
	}
	h := w.header(at, rec.session)
	h.encode(buf, set)
	if err := writePage(dev, buf[:PageSize], back, m.headerOffset(slot)); err != nil {
		return err
	}
	atom := int(m.atom)
	clear(buf[:atom])
	rec.encode(buf, set)
	var last error
	for _, s := range r.freeSlots(m) {
		if last = writePage(dev, buf[:atom], back, m.logOffset(s)); last == nil {
			return nil
		}
	}
	return last
}

// freeSlots returns a few log slots of a mirror, those first that hold nothing,
// then those of the oldest records.
func (r *Restore) freeSlots(m *mirrorImage) []int {
	order := make([]int, len(m.slots))
	for i := range order {
		order[i] = i
	}
	rank := func(i int) Position {
		switch s := &m.slots[i]; s.state {
		case slotNone:
			return Position{}
		case slotRecord:
			return s.Position
		}
		return Position{0, 1}
	}
	slices.SortStableFunc(order, func(a, b int) int {
		x, y := rank(a), rank(b)
		switch {
		case x.Less(y):
			return -1
		case y.Less(x):
			return 1
		}
		return 0
	})
	return order[:min(len(order), 2*recordTries)]
}
