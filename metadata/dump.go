package metadata

import (
	"bufio"
	"encoding/json"
	"io"
)

// DumpResult is everything of a set. WriteJSON prints it.
type DumpResult struct {
	Superblocks []SuperblockCopy
	Mirrors     []MirrorDump
	Position    Position // of the newest record; zero where the set does not load
	Counts      TableCounts
	Error       string // why Mirrors or the table is missing
	table       *Table // nil: none
}

// Each calls f with the fewest entries that state the table, in order, until f returns an
// error. They can be millions, and are not in memory as such.
func (d *DumpResult) Each(f func(Entry) error) error {
	if d.table == nil {
		return nil
	}
	var page [entriesPerPage]Entry
	for cursor, done := uint64(0), false; !done; {
		var n int
		n, cursor, done = d.table.Entries(cursor, page[:])
		for _, e := range page[:n] {
			if err := f(e); err != nil {
				return err
			}
		}
	}
	return nil
}

// WriteJSON writes it as one JSON document, in pieces: the whole of it can be hundreds of
// megabytes. Indent is that of each level. No piece ends within a character. After an error
// of w the document stays open, so that nobody takes it for all.
func (d *DumpResult) WriteJSON(w io.Writer, indent string) error {
	out := bufio.NewWriterSize(w, 64<<10)
	const end = "\n}"
	front, err := json.MarshalIndent(struct {
		Superblocks []SuperblockCopy `json:"superblocks"`
		Mirrors     []MirrorDump     `json:"mirrors"`
		Position    Position         `json:"position"`
	}{d.Superblocks, d.Mirrors, d.Position}, "", indent)
	if err != nil {
		return err
	}
	// bufio remembers the first error of w, and Flush returns it.
	_, _ = out.Write(front[:len(front)-len(end)])
	_, _ = out.WriteString(",\n" + indent + `"table": [`)
	next, inner := "", "\n"+indent+indent
	err = d.Each(func(e Entry) error {
		b, err := json.MarshalIndent(e, indent+indent, indent)
		if err != nil {
			return err
		}
		_, _ = out.WriteString(next + inner)
		next = ","
		_, err = out.Write(b)
		return err
	})
	if err != nil {
		return err
	}
	if next != "" {
		_, _ = out.WriteString("\n" + indent)
	}
	back, err := json.MarshalIndent(struct {
		Counts TableCounts `json:"counts"`
		Error  string      `json:"error,omitempty"`
	}{d.Counts, d.Error}, "", indent)
	if err != nil {
		return err
	}
	_, _ = out.WriteString("],")
	if err := out.Flush(); err != nil {
		return err
	}
	_, err = w.Write(append(back[len("{"):], '\n'))
	return err
}

// SuperblockCopy is one place where a superblock may be.
type SuperblockCopy struct {
	Device     int         `json:"device"` // index of the device as given
	Offset     int64       `json:"offset"`
	Superblock *Superblock `json:"superblock,omitempty"`
	Error      string      `json:"error,omitempty"`
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

// Dump reads everything of a set, as far as it can be read: also what Load
// refuses, and with spare devices missing. An error is returned only where
// nothing was found at all: that of Probe for the first device; and ErrPath if a device
// could not be asked.
func Dump(devs []Device) (*DumpResult, error) {
	devs = steadied(devs)
	return settled(devs, func() (*DumpResult, error) { return dump(devs) })
}

func dump(devs []Device) (*DumpResult, error) {
	d := &DumpResult{Superblocks: []SuperblockCopy{}, Mirrors: []MirrorDump{}}
	var first error
	seen := false
	for i, dev := range devs {
		copies := readSuperblocks(dev)
		if _, err := elect(copies); err != nil && first == nil {
			first = err
		}
		for _, c := range copies {
			out := SuperblockCopy{Device: i, Offset: c.offset, Superblock: c.sb}
			if c.err != nil {
				out.Error = c.err.Error()
			}
			seen = seen || c.sb != nil
			d.Superblocks = append(d.Superblocks, out)
		}
	}
	if !seen {
		if first == nil {
			first = ErrNotFound
		}
		return d, first
	}
	img, err := assemble(devs, true)
	if err == nil {
		err = img.scan()
	}
	if err != nil {
		d.Error = err.Error()
		return d, nil
	}
	loaded := img.walk()
	used := map[link]bool{}
	if loaded == nil {
		d.Position = img.tip.Position
		for i := range img.chain {
			used[img.chain[i].link] = true
		}
	} else {
		d.Error = loaded.Error()
	}
	buf := AlignedBytes(PageSize)
	for i := range img.mirrors {
		m := &img.mirrors[i]
		out := MirrorDump{Device: m.device, Start: m.start, Stale: m.stale,
			Checkpoints: []CheckpointDump{}, Records: []RecordDump{}}
		for slot, h := range m.headers {
			if h != nil {
				out.Checkpoints = append(out.Checkpoints, CheckpointDump{
					Slot: slot, Epoch: h.epoch, Generation: h.generation, Covers: h.covers.Position,
					Entries: h.entries,
					Pages:   h.pages, BadPages: img.badPages(m, slot, h), Used: loaded == nil &&
						*h == img.checkpoint.header,
				})
			}
		}
		for j := range m.slots {
			s := &m.slots[j]
			switch s.state {
			case slotUnreadable:
				out.Unreadable++
			case slotDamaged:
				out.Damaged++
			case slotRecord:
				r := RecordDump{Slot: j, Position: s.Position, Previous: s.prev.Position,
					Kind: s.kind.String(), Used: used[s.link], Entries: []Entry{}}
				if _, err := img.devs[m.device].ReadAt(buf, m.logOffset(j)); err == nil {
					if got, ok := decodeRecord(buf, &img.sb.UUID); ok && got.link == s.link {
						for k := range int(s.count) {
							e, _ := getEntry(recordEntry(buf, k))
							r.Entries = append(r.Entries, e)
						}
					}
				}
				out.Records = append(out.Records, r)
			}
		}
		d.Mirrors = append(d.Mirrors, out)
	}
	if loaded != nil {
		return d, nil
	}
	t, err := img.Table()
	if err != nil {
		d.Error = err.Error()
	}
	if t == nil {
		return d, nil
	}
	d.Counts, d.table = t.Counts(), t
	return d, nil
}
