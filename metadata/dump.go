package metadata

import "slices"

// DumpResult is everything of a set. WriteJSON prints it.
type DumpResult struct {
	Superblocks []SuperblockCopy
	Mirrors     []MirrorDump
	Position    Position // of the newest record; zero where the set does not load
	Counts      TableCounts
	Error       string  // why Mirrors or the table is missing
	Events      []Event // what the flight recorder holds, oldest first
	table       *Table  // nil: none
	backup      *Backup // what can be restored; nil: nothing
}

// Each calls f with the fewest entries that state the table, in order, until f returns an
// error. There can be millions of them. They are made as they are needed.
func (d *DumpResult) Each(f func(Entry) error) error {
	if d.table == nil {
		return nil
	}
	return d.table.each(f)
}

// SuperblockCopy is one place where a superblock may be.
type SuperblockCopy struct {
	Device     int         `json:"device"` // index of the device as given
	Offset     int64       `json:"offset"`
	Superblock *Superblock `json:"superblock,omitempty"`
	// Partition: other tools see a partition table here, with one partition that takes up
	// the disk.
	Partition bool   `json:"partition,omitempty"`
	Error     string `json:"error,omitempty"`
}

// MirrorDump is what a mirror holds.
type MirrorDump struct {
	Device      uint8            `json:"device"` // index into the set's device table
	Start       int64            `json:"start"`
	Stale       bool             `json:"stale"`
	Checkpoints []CheckpointDump `json:"checkpoints"`
	Records     []RecordDump     `json:"records"`
	Unreadable  int              `json:"unreadable_slots"` // log slots that cannot be read
	Damaged     int              `json:"damaged_slots"`    // log slots with a torn record
}

// CheckpointDump is a checkpoint slot with a valid header.
type CheckpointDump struct {
	Slot       int      `json:"slot"`
	Epoch      uint64   `json:"epoch"`
	Generation uint64   `json:"generation"`
	Covers     Position `json:"covers"`
	Entries    uint64   `json:"entries"`
	Pages      uint32   `json:"pages"`
	BadPages   int      `json:"bad_pages"`
	Used       bool     `json:"used"` // the table begins with it
}

// RecordDump is a log record.
type RecordDump struct {
	Slot     int      `json:"slot"`
	Position Position `json:"position"`
	Previous Position `json:"previous"`
	Kind     string   `json:"kind"`
	Used     bool     `json:"used"` // on the chain, and after the checkpoint
	Entries  []Entry  `json:"entries"`
}

// Dump reads everything of a set, as far as it can be read. It accepts what Load
// refuses, and missing spare devices. It fails only where no superblock was found
// at all, with the error of Probe for the first device, and with ErrPath if a device could
// not be asked.
func Dump(devs []Device) (*DumpResult, error) { return examine(devs, true, dump) }

func dump(inv *inventory) (*DumpResult, error) {
	d := &dumper{DumpResult: DumpResult{Superblocks: []SuperblockCopy{}, Mirrors: []MirrorDump{}},
		page: AlignedBytes(PageSize)}
	inv.visit(d)
	if !d.seen {
		if d.first == nil {
			d.first = ErrNotFound
		}
		return &d.DumpResult, d.first
	}
	d.Events = d.collected.events()
	if inv.stage >= stageRecords {
		d.Position = inv.img.tip.Position
	}
	switch {
	case inv.err != nil:
		d.Error = inv.err.Error()
	case !slices.Contains(inv.img.devs, nil):
		// An error says that the table is too large for a backup; it can be dumped anyway.
		d.backup, _ = newBackup(inv.img.sb.clone(), inv.img.tip, inv.table, inv.img.layout)
	}
	return &d.DumpResult, nil
}

// dumper is the visitor that makes a DumpResult.
type dumper struct {
	baseVisitor
	DumpResult
	seen  bool  // there is a superblock
	first error // why the first device without one has none
	page  []byte

	collected eventCollector
}

func (d *dumper) superblocks(given int, dev Device, s *superblocks) {
	if s.sb != nil {
		d.collected.device(unwrapped(dev), s.sb)
	}
	if s.err != nil && d.first == nil {
		d.first = s.err
	}
	for _, c := range s.copies {
		out := SuperblockCopy{Device: given, Offset: c.offset, Superblock: c.sb,
			Partition: c.partition}
		if c.err != nil {
			out.Error = c.err.Error()
		}
		d.seen = d.seen || c.sb != nil
		d.Superblocks = append(d.Superblocks, out)
	}
}

func (d *dumper) mirror(m *mirrorImage) {
	d.Mirrors = append(d.Mirrors, MirrorDump{Device: m.device, Start: m.start, Stale: m.stale,
		Checkpoints: []CheckpointDump{}, Records: []RecordDump{}})
}

func (d *dumper) checkpoint(c *checkpointSeen) {
	m, h := &d.Mirrors[len(d.Mirrors)-1], c.header
	if h == nil {
		return
	}
	m.Checkpoints = append(m.Checkpoints, CheckpointDump{Slot: c.slot, Epoch: h.epoch,
		Generation: h.generation, Covers: h.covers.Position, Entries: h.entries, Pages: h.pages,
		BadPages: c.bad, Used: c.used})
}

func (d *dumper) record(r *recordSeen) {
	switch m := &d.Mirrors[len(d.Mirrors)-1]; r.state {
	case slotUnreadable:
		m.Unreadable++
	case slotDamaged:
		m.Damaged++
	case slotRecord:
		m.Records = append(m.Records, RecordDump{Slot: r.slot, Position: r.Position,
			Previous: r.prev.Position, Kind: r.kind.String(), Used: r.used,
			Entries: r.entries(d.page)})
	}
}

func (d *dumper) table(t *Table) { d.Counts, d.DumpResult.table = t.Counts(), t }
