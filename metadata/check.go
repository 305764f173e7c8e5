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
	Problems   []Problem   `json:"problems"` // never nil
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
	}
	return b.String()
}

func (r *Report) add(s Severity, where, do, format string, args ...any) {
	r.Problems = append(r.Problems, Problem{s, where, fmt.Sprintf(format, args...), do})
}

const nextStart = "the next start writes it again"

// Check reads everything of a set, also what Load has no need of, and reports
// what is wrong with it. The error is that of Load where the set does not
// load, or ErrDamaged where its table contradicts itself; the report is of use
// all the same. ErrPath if a device could not be asked.
func Check(devs []Device) (Report, error) {
	devs = steadied(devs)
	var loads error
	r, unasked := settled(devs, func() (r Report, _ error) {
		r, loads = check(devs)
		return r, nil
	})
	if unasked != nil {
		r = Report{Problems: []Problem{}}
		r.add(SeverityError, "devices", "nothing can be said about the set before they can be read",
			"%v", unasked)
		return r, unasked
	}
	return r, loads
}

func check(devs []Device) (Report, error) {
	r := Report{Problems: []Problem{}}
	fail := func(err error) (Report, error) {
		do := ""
		if errors.Is(err, ErrDamaged) {
			do = "nothing was changed; do not start this set before it is repaired or restored " +
				"from a backup of its metadata"
		}
		r.add(SeverityError, "set", do, "%v", err)
		return r, err
	}
	for i, d := range devs {
		copies := readSuperblocks(d)
		best, err := elect(copies)
		if err != nil {
			continue // assemble says so, better
		}
		for _, off := range best.copies(best.DeviceIndex) {
			for _, c := range copies {
				where := fmt.Sprintf("superblock at %d of %s (%s)", off, nameOf(d, i),
					best.Devices[best.DeviceIndex].Role)
				switch {
				case c.offset != off:
				case c.err != nil && c.sb == nil:
					r.add(SeverityWarning, where, nextStart, "%v", c.err)
				case c.sb.UUID != best.UUID:
					r.add(SeverityWarning, where, nextStart, "it belongs to set %s", c.sb.UUID)
				case c.sb.Generation != best.Generation:
					r.add(SeverityWarning, where, nextStart, "generation %d, the newest is %d",
						c.sb.Generation, best.Generation)
				}
			}
		}
		if best.ROCompat&^knownROCompat != 0 {
			r.add(SeverityInfo, nameOf(d, i), "use the version that made it to change anything",
				"ro_compat features %#x are not known: read-only", best.ROCompat&^knownROCompat)
		}
	}
	img, err := assemble(devs, false)
	if err != nil {
		return fail(err)
	}
	r.Superblock = img.sb
	if err := img.sb.Unfinished(); err != nil {
		r.add(SeverityWarning, "set", "", "%v", err)
	}
	for i, d := range img.devs {
		if d.Size() != img.sb.Devices[i].Size {
			r.add(SeverityInfo, nameOf(d, i), "", "it has %d bytes, the set uses %d", d.Size(),
				img.sb.Devices[i].Size)
		}
	}
	if err := img.scan(); err != nil {
		return fail(err)
	}
	if err := img.walk(); err != nil {
		return fail(err)
	}
	r.Position = img.tip.Position
	for i := range img.mirrors {
		img.checkMirror(&r, &img.mirrors[i])
	}
	t, err := img.Table()
	if t != nil {
		r.Table = t.Counts()
		if capacity := img.layout.TableCapacity(); r.Table.Entries > capacity/10*9 {
			r.add(SeverityWarning, "table", "copy the data to another disk, or move blocks home "+
				"with: ublk-remap remap remove", "%d entries, a checkpoint holds %d",
				r.Table.Entries, capacity)
		}
	}
	if err != nil {
		return fail(err)
	}
	return r, nil
}

func (img *Image) checkMirror(r *Report, m *mirrorImage) {
	where := fmt.Sprintf("mirror at %d of %s", m.start, img.nameOf(m.device))
	if m.stale {
		r.add(SeverityWarning, where, "the next start tries to bring it back",
			"it is stale: records from %s on were not written to it", m.staleFrom)
	}
	onChain := make(map[link]bool, len(img.chain))
	for i := range img.chain {
		onChain[img.chain[i].link] = true
	}
	unreadable, damaged, dead := 0, 0, 0
	for i := range m.slots {
		switch s := &m.slots[i]; {
		case s.state == slotUnreadable:
			unreadable++
		case s.state == slotDamaged:
			damaged++
		case s.state == slotRecord && img.checkpoint.covers.Less(s.Position) && !onChain[s.link]:
			dead++
		}
	}
	if unreadable > 0 {
		r.add(SeverityWarning, where, "they are skipped, and written over in time",
			"%d of %d log slots cannot be read", unreadable, len(m.slots))
	}
	if damaged > 0 {
		r.add(SeverityInfo, where, "", "%d log slots hold a torn or damaged record", damaged)
	}
	if dead > 0 {
		r.add(SeverityInfo, where, "", "%d records were superseded: commits of unknown outcome",
			dead)
	}
	if !m.stale && len(m.missing) > 0 {
		r.add(SeverityWarning, where, nextStart, "%d of %d records since the checkpoint are "+
			"missing, the first is %s", len(m.missing), len(img.chain),
			img.chain[m.missing[0]].Position)
	}
	whole := false
	for slot, h := range m.headers {
		if h == nil {
			continue
		}
		if bad := img.badPages(m, slot, h); *h == img.checkpoint.header {
			whole = bad == 0
			if bad > 0 {
				r.add(SeverityWarning, where, "the next start writes a new checkpoint",
					"%d of %d pages of the newest checkpoint are bad, another mirror has them", bad,
					h.pages)
			}
		}
	}
	if !whole && !m.stale && (m.headers[0] == nil || *m.headers[0] != img.checkpoint.header) &&
		(m.headers[1] == nil || *m.headers[1] != img.checkpoint.header) {
		r.add(SeverityWarning, where, "the next start writes a new checkpoint",
			"the newest checkpoint is not on it")
	}
}

// badPages counts the pages of a checkpoint that this very copy lacks.
func (img *Image) badPages(m *mirrorImage, slot int, h *header) (bad int) {
	buf := AlignedBytes(int(min(readChunk, uint64(h.pages)*PageSize)))
	for page := uint32(0); page < h.pages; {
		n := min(readChunk/PageSize, h.pages-page)
		readAtoms(img.devs[m.device], buf[:n*PageSize], m.pageOffset(slot, page), PageSize,
			func(i int, b []byte, err error) {
				if err == nil {
					if _, _, ok := decodePage(b, &img.sb.UUID, h.checkpointID, page+uint32(i)); ok {
						return
					}
				}
				bad++
			})
		page += n
	}
	return bad
}
