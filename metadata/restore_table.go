package metadata

import (
	"fmt"
	"math/bits"
	"slices"
)

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
