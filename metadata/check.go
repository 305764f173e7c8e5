package metadata

import (
	"errors"
	"fmt"
	"strings"
)

// Severity of a Problem.
type Severity string

const (
	SeverityInfo    Severity = "info"    // nothing to do
	SeverityWarning Severity = "warning" // redundancy is lost, or soon will be; the set loads
	SeverityError   Severity = "error"   // the set does not load, or contradicts itself
)

// Problem is something that Check found.
type Problem struct {
	Severity Severity `json:"severity"`
	Where    string   `json:"where"`
	What     string   `json:"what"`
	Do       string   `json:"do,omitempty"` // what to do about it
}

// Report is what Check found.
type Report struct {
	Superblock *Superblock `json:"superblock,omitempty"`
	Position   Position    `json:"position"` // of the newest record
	Table      TableCounts `json:"table"`
	// Partition: the first sector of the backing has a partition table with one partition
	// that takes up the disk, so that other tools see that it is in use.
	Partition bool      `json:"partition"`
	Problems  []Problem `json:"problems"` // never nil
}

// Worst returns the worst severity among the problems, or "" if there are none.
func (r *Report) Worst() (worst Severity) {
	rank := map[Severity]int{SeverityInfo: 1, SeverityWarning: 2, SeverityError: 3}
	for _, p := range r.Problems {
		if rank[p.Severity] > rank[worst] {
			worst = p.Severity
		}
	}
	return worst
}

// OK reports that there are no errors; warnings do not count.
func (r *Report) OK() bool { return r.Worst() != SeverityError }

// String is the report for people: whether the set is in order, one line for each problem
// and one for what to do about it, and then what was found.
func (r *Report) String() string {
	var b strings.Builder
	switch worst := r.Worst(); {
	case worst == SeverityError:
		b.WriteString("damaged\n")
	case worst == SeverityWarning:
		b.WriteString("it works, with warnings\n")
	case len(r.Problems) > 0:
		b.WriteString("in order\n")
	default:
		b.WriteString("in order, no problems\n")
	}
	for _, p := range r.Problems {
		fmt.Fprintf(&b, "%s: %s: %s\n", p.Severity, p.Where, p.What)
		if p.Do != "" {
			fmt.Fprintf(&b, "  → %s\n", p.Do)
		}
	}
	if r.Superblock != nil {
		t := &r.Table
		fmt.Fprintf(&b, "set %s, %s\nepoch %d, newest record %s\n", r.Superblock.Name,
			r.Superblock.UUID, r.Superblock.Epoch, r.Position)
		fmt.Fprintf(&b, "%d units mapped, %d blocks lost, %d pending\n", t.Mapped, t.Lost,
			t.Pending)
		fmt.Fprintf(&b, "%d spare units used, %d retired, %d quarantined\n", t.SparesUsed,
			t.Retired, t.Quarantined)
		if r.Partition {
			b.WriteString("other tools see a partition table, with one partition of type da " +
				"(non-FS data)\n")
		} else {
			b.WriteString("other tools see no partition on it\n")
		}
	}
	return b.String()
}

func (r *Report) add(s Severity, where, do, format string, args ...any) {
	r.Problems = append(r.Problems, Problem{s, where, fmt.Sprintf(format, args...), do})
}

const nextStart = "the next start writes it again"

// Check reads everything of a set, also what Load does not need, and reports
// what is wrong with it. The error is that of Load where the set does not
// load, or ErrDamaged where its table contradicts itself; the report is valid
// in both cases. The error is ErrPath if a device could not be asked.
func Check(devs []Device) (Report, error) {
	var loads error
	r, unasked := examine(devs, false, func(inv *inventory) (r Report, _ error) {
		r, loads = check(inv)
		return r, nil
	})
	if unasked != nil {
		return unaskedReport(unasked), unasked
	}
	return r, loads
}

// unaskedReport is the report on devices that could not be asked.
func unaskedReport(why error) Report {
	r := Report{Problems: []Problem{}}
	r.add(SeverityError, "devices", "nothing can be said about the set before they can be read",
		"%v", why)
	return r
}

// check is Check for what is in an inventory. An unfinished set is no error here.
func check(inv *inventory) (Report, error) {
	c := checker{known: inv.stage >= stageRecords}
	c.Problems = []Problem{}
	inv.visit(&c)
	if inv.err != nil {
		do := ""
		if errors.Is(inv.err, ErrDamaged) {
			do = "nothing was changed; do not start this set before it is repaired or restored " +
				"from a backup of its metadata"
		}
		c.add(SeverityError, "set", do, "%v", inv.err)
	}
	return c.Report, inv.err
}

// checker is the visitor that writes a Report.
type checker struct {
	Report
	known bool   // which record and which checkpoint are the newest
	img   *Image // nil: the devices cannot be put in order

	// of the mirror that is being visited
	unreadable, damaged, void int // log slots
	badPages, pages           int // of the newest checkpoint
	newest                    bool
}

func (c *checker) superblocks(given int, d Device, s *superblocks) {
	if s.err != nil {
		return // the reason why the set does not load says more
	}
	best := s.sb
	for _, off := range best.copies(best.DeviceIndex) {
		for i := range s.copies {
			if s.copies[i].offset == off {
				c.superblock(fmt.Sprintf("superblock at %d of %s (%s)", off, nameOf(d, given),
					best.Devices[best.DeviceIndex].Role), &s.copies[i], best)
			}
		}
	}
	if unknown := best.ROCompat &^ knownROCompat; unknown != 0 {
		c.add(SeverityInfo, nameOf(d, given), "use the version that made it to change anything",
			"ro_compat features %#x are not known: read-only", unknown)
	}
}

func (c *checker) superblock(where string, at *foundCopy, best *Superblock) {
	switch {
	case at.err != nil && at.sb == nil:
		c.add(SeverityWarning, where, nextStart, "%v", at.err)
	case at.sb.UUID != best.UUID:
		c.add(SeverityWarning, where, nextStart, "it belongs to set %s", at.sb.UUID)
	case at.sb.Generation != best.Generation:
		c.add(SeverityWarning, where, nextStart, "generation %d, the newest is %d",
			at.sb.Generation, best.Generation)
	case at.offset == 0 && best.Transition == TransitionNone && !at.partition:
		c.add(SeverityInfo, where, nextStart, "an older version wrote it, without a partition "+
			"by which other tools see that the disk is in use")
	}
	c.Partition = c.Partition || at.offset == 0 && best.DeviceIndex == 0 && at.partition
}

func (c *checker) devices(img *Image) {
	c.img, c.Superblock = img, img.sb
	if c.known {
		c.Position = img.tip.Position
	}
	if err := img.sb.Unfinished(); err != nil {
		c.add(SeverityWarning, "set", "", "%v", err)
	}
	for i, d := range img.devs {
		if d.Size() != img.sb.Devices[i].Size {
			c.add(SeverityInfo, nameOf(d, i), "", "it has %d bytes, the set uses %d", d.Size(),
				img.sb.Devices[i].Size)
		}
	}
}

func (c *checker) mirror(*mirrorImage) {
	c.unreadable, c.damaged, c.void, c.badPages, c.pages, c.newest = 0, 0, 0, 0, 0, false
}

func (c *checker) checkpoint(at *checkpointSeen) {
	if at.used {
		c.newest = true
		c.badPages, c.pages = c.badPages+at.bad, c.pages+int(at.header.pages)
	}
}

func (c *checker) record(r *recordSeen) {
	switch {
	case r.state == slotUnreadable:
		c.unreadable++
	case r.state == slotDamaged:
		c.damaged++
	case r.void:
		c.void++
	}
}

func (c *checker) mirrorEnd(m *mirrorImage) {
	if !c.known {
		return
	}
	where := fmt.Sprintf("mirror at %d of %s", m.start, c.img.nameOf(m.device))
	const newCheckpoint = "the next start writes a new checkpoint"
	if m.stale {
		c.add(SeverityWarning, where, "the next start tries to bring it back",
			"it is stale: records from %s on were not written to it", m.staleFrom)
	}
	if c.unreadable > 0 {
		c.add(SeverityWarning, where, "they are skipped, and written over in time",
			"%d of %d log slots cannot be read", c.unreadable, len(m.slots))
	}
	if c.damaged > 0 {
		c.add(SeverityInfo, where, "", "%d log slots hold a torn or damaged record", c.damaged)
	}
	if c.void > 0 {
		c.add(SeverityInfo, where, "", "%d records were superseded: commits of unknown outcome",
			c.void)
	}
	if !m.stale && len(m.missing) > 0 {
		c.add(SeverityWarning, where, nextStart, "%d of %d records since the checkpoint are "+
			"missing, the first is %s", len(m.missing), len(c.img.chain),
			c.img.chain[m.missing[0]].Position)
	}
	if c.badPages > 0 {
		c.add(SeverityWarning, where, newCheckpoint,
			"%d of %d pages of the newest checkpoint are bad, another mirror has them", c.badPages,
			c.pages)
	}
	if !c.newest && !m.stale {
		c.add(SeverityWarning, where, newCheckpoint, "the newest checkpoint is not on it")
	}
}

func (c *checker) table(t *Table) {
	c.Table = t.Counts()
	capacity := c.img.layout.TableCapacity()
	if c.Table.Entries <= capacity/10*9 {
		return
	}
	do := "copy the data to another disk, or move blocks home with: ublk-remap remap remove"
	if c.img.sb.growthSlot() > 0 {
		do = "it gets more room by itself while the set is served"
	}
	c.add(SeverityWarning, "table", do, "%d entries, a checkpoint holds %d", c.Table.Entries,
		capacity)
}
