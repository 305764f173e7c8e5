package metadata

import (
	"fmt"
	"slices"
)

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
