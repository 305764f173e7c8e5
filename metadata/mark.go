package metadata

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
)

// This file marks blocks pending in a set that nobody serves, on the word of another tool. Nothing
// is read and no data moves: a block that is pending and lives at home is still read there, and its
// next write goes to the spare region. So a mark on a block that is well after all loses nothing.
// Blocks that live in the spare region, and lost ones, are left alone: the list is about their
// homes.
//
// The marks are records in the log, as those of a server are. A cut at any write leaves the table
// with some of them, and the same list can be marked again.

// Marks says what marking a list of blocks means for a set.
type Marks struct {
	Marked uint64 // blocks that become pending, and are not yet
	Known  uint64 // blocks that are pending or lost already
	Spared uint64 // blocks that live in the spare region

	img     *Image
	first   uint64 // block of the list
	entries []Entry
	dense   Density // at which a checkpoint holds the table with the marks
}

// PlanMarks looks at blocks that are to become pending. The ranges must be in order, without
// overlap, and on the device. Nothing is written. Errors: ErrReadOnly; ErrTableFull for a list that
// leaves no room for the heals that are to come; those of Image.Table.
func PlanMarks(img *Image, ranges []BlockRange, cause Cause, now uint32) (*Marks, error) {
	if img.readOnly {
		return nil, fmt.Errorf("%w: it has features of a newer version", ErrReadOnly)
	}
	t, err := img.Table()
	if err != nil {
		return nil, err
	}
	m := &Marks{img: img}
	if len(ranges) > 0 {
		m.first = ranges[0].Block
	}
	per := uint64(UnitSize / img.layout.BlockSize())
	for _, r := range ranges {
		for end := r.Block + r.Count; r.Block < end; {
			e := Entry{Unit: r.Block / per, Count: 1, State: StatePending, Cause: cause, Time: now}
			first := r.Block % per
			n := min(end-r.Block, per-first)
			if first == 0 && end-r.Block >= per {
				n = min((end-r.Block)/per, 1<<31) * per
				e.Count = uint32(n / per)
			}
			e.Mask = uint8(1<<min(first+n, per)-1) &^ uint8(1<<first-1)
			m.mark(t, e)
			r.Block += n
		}
	}
	for _, e := range m.entries {
		if err := t.Apply(e); err != nil {
			return nil, err
		}
	}
	return m, m.fits(t)
}

// mark adds the part of an entry that the table does not say yet.
func (m *Marks) mark(t *Table, e Entry) {
	for unit, end := e.Unit, e.Unit+uint64(e.Count); unit < end; {
		x, ok := t.units.next(unit)
		part := e
		part.Unit = unit
		switch {
		case !ok || x.Unit >= end:
			x, part.Count = Extent{}, uint32(end-unit)
		case x.Unit > unit:
			part.Count = uint32(x.Unit - unit)
			x = Extent{}
		default:
			part.Count = uint32(min(end, x.end()) - unit)
		}
		unit += uint64(part.Count)
		n := uint64(part.Count)
		m.Known += n * uint64(bits.OnesCount8(e.Mask&(x.Pending|x.Lost)))
		m.Spared += n * uint64(bits.OnesCount8(e.Mask&x.Mapped&^x.Pending))
		if part.Mask &^= x.Mapped | x.Pending | x.Lost; part.Mask != 0 {
			m.Marked += n * uint64(bits.OnesCount8(part.Mask))
			m.add(part)
		}
	}
}

// add adds an entry. Two ranges of one unit make one entry, because each entry is room in a record.
func (m *Marks) add(e Entry) {
	if n := len(m.entries); n > 0 {
		last := &m.entries[n-1]
		switch {
		case last.Count == 1 && e.Count == 1 && last.Unit == e.Unit:
			last.Mask |= e.Mask
			return
		case last.Mask == e.Mask && last.Unit+uint64(last.Count) == e.Unit &&
			last.Count <= math.MaxUint32-e.Count:
			last.Count += e.Count
			return
		}
	}
	m.entries = append(m.entries, e)
}

// fits refuses marks that a checkpoint could not hold together with what heals will add. A server
// keeps the same room (package remap, table.go).
func (m *Marks) fits(t *Table) error {
	l := m.img.layout
	at := func(d Density) Source {
		denser := *t
		denser.dense = d
		return &denser
	}
	m.dense = DensityFor(l, at)
	if m.Marked == 0 {
		return nil
	}
	capacity := l.TableCapacity()
	c := t.Counts()
	free := l.SpareUnits() - min(l.SpareUnits(), c.SparesUsed+c.Retired+c.Quarantined)
	const perHeal = 3 // entries that a heal adds
	need := CountEntries(at(1)) + min(perHeal*free, capacity/4) + capacity/64 + 64
	if need > capacity {
		return fmt.Errorf("%w: with these marks, and room for heals, it has %d entries, and %d "+
			"fit", ErrTableFull, need, capacity)
	}
	return nil
}

// Run makes the marks durable. Nothing may have written to the devices since PlanMarks. If it ends
// with an error, the marks before that may be there; what was there before is. Errors: ErrPath if a
// device cannot be asked any more. In the end the flight recorder notes them, as it does when a
// server imports a list. If that cannot be written, it is missing there, and nothing else.
func (m *Marks) Run(o RunOptions) error {
	if len(m.entries) == 0 {
		return nil
	}
	r := NewRecorder(m.img)
	epoch, err := m.run(o, r != nil)
	if err = orPathFailure(m.img.devs, err); err == nil && r != nil {
		m.note(r, epoch, o.Now)
	}
	return err
}

// note writes an event about the marks. A cut meanwhile costs that event at most.
func (m *Marks) note(r *Recorder, epoch uint64, at uint32) {
	const now = 1 // no time passes on the Recorder's clock
	r.Begin(epoch, now)
	r.Note(&Event{Micros: int64(at) * 1e6, Kind: EventImport, Done: EventImported, HasBlock: true,
		Block: m.first, Count: uint32(min(m.Marked, math.MaxUint32)),
		Detail: m.Marked + m.Known + m.Spared}, now)
	r.Hurry(now)
	for {
		op, ok := r.Next(now)
		if !ok {
			return
		}
		dev := m.img.devs[op.Device]
		_, err := dev.WriteAt(op.Data, op.Offset)
		if err == nil {
			if err = dev.Sync(); err != nil {
				err = fmt.Errorf("%w: %w", ErrFlush, err)
			}
		}
		r.Done(op.Lane, err, now)
	}
}

// run makes the marks durable, and returns the epoch that it has raised for that. recorder: the set
// gets the feature bit of a flight recorder.
func (m *Marks) run(o RunOptions, recorder bool) (epoch uint64, err error) {
	t, err := m.img.Table()
	if err != nil {
		return 0, err
	}
	t.dense = m.dense
	c, err := NewCommitter(m.img, t, Options{Session: o.Session, Recorder: recorder})
	if err != nil {
		return 0, err
	}
	if err := c.durably(m.img.devs, func() (Ticket, error) { return c.Open(o.Now) }); err != nil {
		return 0, err
	}
	for list := m.entries; len(list) > 0; {
		n := min(len(list), MaxEntries)
		// A checkpoint that begins in the same run must have these entries. It may have them before
		// their record is durable: a block that is pending too early is read as before.
		for _, e := range list[:n] {
			if err := t.Apply(e); err != nil {
				return 0, err
			}
		}
		if err := c.durably(m.img.devs,
			func() (Ticket, error) { return c.Commit(list[:n]) }); err != nil {
			return 0, err
		}
		list = list[n:]
	}
	return c.Status().Epoch, nil
}

// durably asks a Committer for something, and does its I/O until that has ended.
func (c *Committer) durably(devs []Device, ask func() (Ticket, error)) error {
	t, err := ask()
	if err != nil {
		return err
	}
	for _, r := range RunOps(c, devs, nil) {
		if r.Ticket == t && r.Outcome == OutcomeDurable {
			return nil
		}
	}
	if err := c.Status().Err; err != nil {
		return err
	}
	return errors.New("no mirror of the backing takes a change")
}
