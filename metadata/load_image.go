package metadata

import "fmt"

// Image is a set of devices as Load found it. It reads, and never writes. What
// it says is that of the moment of Load: a Committer that goes on from there
// does not change it, and an Image must not be replayed once one does.
type Image struct {
	devs         []Device // as in sb.Devices
	sb           *Superblock
	layout       *Layout
	readOnly     bool
	mirrors      []mirrorImage
	records      map[link][]found
	newestCopies []copyPlace // the superblock copies that are the newest of their device

	checkpoint *candidate
	chain      []record // the records after the checkpoint, oldest first
	tip        link     // the newest record

	// The largest ever seen, on the chain or not, also of starts that failed:
	// what comes next must be larger.
	maxEpoch, maxGeneration, maxSequence, maxCheckpoint uint64
}

// Layout of the set.
func (img *Image) Layout() *Layout { return img.layout }

// Devices returns the devices that were given to Load, indexed as in
// Layout.Devices.
func (img *Image) Devices() []Device {
	out := make([]Device, len(img.devs))
	for i, d := range img.devs {
		out[i] = unwrapped(d)
	}
	return out
}

// ReadOnly reports that the set has ro_compat features that this version does
// not know.
func (img *Image) ReadOnly() bool { return img.readOnly }

// Position of the newest record.
func (img *Image) Position() Position { return img.tip.Position }

// Replay calls f with the entries of the checkpoint, then with those of the
// records after it, in order. Every entry is valid for the layout; an entry
// may repeat what an earlier one said, or be overruled by a later one. It
// stops at the first error of f and returns it. Errors: ErrDamaged, where an entry is
// impossible; ErrPath, where what Load could read can no longer be read.
func (img *Image) Replay(f func(Entry) error) error {
	return orPathFailure(img.devs, img.replay(f))
}

func (img *Image) replay(f func(Entry) error) error {
	r := img.entries()
	if err := r.checkpoint(&img.checkpoint.header, f); err != nil {
		return err
	}
	for i := range img.chain {
		if err := r.record(&img.chain[i], f); err != nil {
			return err
		}
	}
	return nil
}

// entryReader hands out the entries of checkpoints and records, each valid for the layout. All code
// that makes a table out of them uses it. The number of units that they name is limited (stated).
type entryReader struct {
	img    *Image
	stated entryBudget
	page   []byte // aligned
}

func (img *Image) entries() *entryReader {
	return &entryReader{img: img, stated: newEntryBudget(img.layout), page: AlignedBytes(PageSize)}
}

// entry checks one. Errors: ErrDamaged, and those of f.
func (r *entryReader) entry(e Entry, flags byte, what string, f func(Entry) error) error {
	if flags != 0 {
		return fmt.Errorf("%w: %s: entry with flags %#x", ErrDamaged, what, flags)
	}
	if err := r.img.layout.lim.validate(&e); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDamaged, what, err)
	}
	if err := r.stated.add(&e); err != nil {
		return err
	}
	return f(e)
}

// checkpoint calls f with the entries of a checkpoint that was found whole. Errors: those
// of entry; ErrPath, where it can no longer be read.
func (r *entryReader) checkpoint(h *header, f func(Entry) error) error {
	var broken error // of an entry, or of f
	err := r.img.pages(h, func(b []byte, n int) error {
		decode := decodersOf(b).pageEntry
		for i := range n {
			e, flags := decode(b, i)
			if broken = r.entry(e, flags, "checkpoint", f); broken != nil {
				return broken
			}
		}
		return nil
	})
	switch {
	case broken != nil:
		return broken
	case err != nil: // all pages were there
		return fmt.Errorf("%w: checkpoint %d.%d can no longer be read, a moment ago it could; "+
			"try again", ErrPath, h.epoch, h.generation)
	}
	return nil
}

// record calls f with the entries of a record that was found. Errors: as of checkpoint.
func (r *entryReader) record(rec *record, f func(Entry) error) error {
	if err := r.img.readRecord(rec, r.page); err != nil {
		return err
	}
	decode := decodersOf(r.page).recordEntry
	for j := range int(rec.count) {
		e, flags := decode(r.page, j)
		if err := r.entry(e, flags, "record", f); err != nil {
			return fmt.Errorf("record %s: %w", rec.Position, err)
		}
	}
	return nil
}

// readRecord reads a record that Load saw, from any mirror, into the 4096
// bytes of b.
func (img *Image) readRecord(rec *record, b []byte) error {
	for _, p := range img.records[rec.link] {
		m := &img.mirrors[p.mirror]
		if _, err := img.devs[m.device].ReadAt(b[:PageSize], m.logOffset(p.slot)); err != nil {
			continue
		}
		if got, ok := decodeRecord(b, &img.sb.UUID); ok && got.link == rec.link {
			return nil
		}
	}
	return fmt.Errorf("%w: record %s can no longer be read, a moment ago it could; try again",
		ErrPath, rec.Position)
}

// Table replays into a table and validates it: ErrDamaged if two units own one
// spare unit. Errors are those of Replay.
func (img *Image) Table() (*Table, error) {
	t := NewTable(img.layout)
	if err := img.Replay(t.Apply); err != nil {
		return nil, err
	}
	t.fit(img.layout)
	return t, t.Validate()
}

// entryBudget limits how many units entries may be about, because replaying them takes time
// for each unit. No server writes entries that name the same units over and over.
type entryBudget struct{ left uint64 }

func newEntryBudget(l *Layout) entryBudget {
	const times, least = 64, 1 << 30 // of a small device any number is soon counted
	return entryBudget{max(times*max(l.Units(), l.SpareUnits()), least)}
}

func (s *entryBudget) add(e *Entry) error {
	if uint64(e.Count) > s.left {
		return fmt.Errorf("%w: entries that are about the same units too many times, the last "+
			"one of %d from %d on", ErrDamaged, e.Count, e.Unit)
	}
	s.left -= uint64(e.Count)
	return nil
}

// nameOf is what a device of the set is called in messages.
func (img *Image) nameOf(index uint8) string { return nameOf(img.devs[index], int(index)) }
