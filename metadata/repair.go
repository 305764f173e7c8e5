package metadata

import (
	"errors"
	"fmt"
)

// margin is how many epochs, generations and sequence numbers a repair skips.
// Structures that cannot be read now may have used some of them, and may read later.
const margin = 1 << 10

// Repair is what PlanRepair found, and what Run will do about it.
type Repair struct {
	Before Report   `json:"before"` // what Check found
	Steps  []string `json:"steps"`  // what Run will do; empty: nothing is wrong

	devs   []Device
	rescue *rescue
}

// PlanRepair reads everything of a set and decides how to make all of its
// copies whole again. It writes nothing. devs are all of its devices, the
// backing first; one of them may have lost its superblocks. searched is what
// SearchSuperblock found on the backing, or nil.
//
// Only what is certain is repaired: the set must load, if need be with the
// superblock of another of its devices, where the mirrors prove that it is the
// newest. Errors: those of Load, with ErrDamaged where information is missing;
// ErrReadOnly.
func PlanRepair(devs []Device, searched *Superblock) (*Repair, error) {
	devs = withRetries(devs)
	r, err := examine(devs, false, func(inv *inventory) (*Repair, error) {
		return planRepair(inv, searched)
	})
	if r == nil { // a device could not be asked
		r = &Repair{devs: devs, Steps: []string{}, Before: unaskedReport(err)}
	}
	return r, err
}

func planRepair(inv *inventory, searched *Superblock) (*Repair, error) {
	r := &Repair{devs: inv.devs, Steps: []string{}}
	report, err := check(inv)
	r.Before = report
	if err != nil {
		if errors.Is(err, ErrStale) || errors.Is(err, ErrForeign) ||
			errors.Is(err, ErrUnsupported) || errors.Is(err, ErrPath) {
			return r, err
		}
		if r.rescue, inv, err = planRescue(inv, searched, err); err != nil {
			return r, err
		}
		if report, err = check(inv); err != nil {
			return r, err
		}
		r.step("write the superblock of %s (%s) anew, from %s",
			nameOf(r.rescue.dev, r.rescue.given),
			r.rescue.sb.Devices[r.rescue.index].Role, r.rescue.from)
	}
	if err := inv.loads(); err != nil {
		return r, err
	}
	if inv.img.readOnly {
		return r, fmt.Errorf("%w: ro_compat features %#x", ErrReadOnly,
			inv.img.sb.ROCompat&^knownROCompat)
	}
	w := report.Worst()
	p := repairPlanner{img: inv.img,
		needed: r.rescue != nil || w == SeverityWarning || w == SeverityError}
	inv.visit(&p)
	if !p.needed {
		return r, nil
	}
	r.step("raise the epoch past %d, in every copy of the superblock", inv.img.maxEpoch)
	r.Steps = append(r.Steps, p.steps...)
	r.step("write the remap table, as of record %s, into both checkpoint slots of every mirror",
		inv.img.tip.Position)
	r.step("read everything back and check it")
	return r, nil
}

func (r *Repair) step(format string, args ...any) {
	r.Steps = append(r.Steps, fmt.Sprintf(format, args...))
}

// repairPlanner is the visitor that finds what a repair would change for the better: what
// Check warns of, torn records, and damage in checkpoints that are not the newest.
type repairPlanner struct {
	baseVisitor
	img    *Image
	needed bool
	steps  []string // for the mirrors
}

func (p *repairPlanner) checkpoint(c *checkpointSeen) {
	// A slot without a header was never written, or is torn: the next checkpoint goes there
	// anyway. A header that cannot be read may read once it is written.
	p.needed = p.needed || c.bad > 0 || c.unread
}

func (p *repairPlanner) mirrorEnd(m *mirrorImage) {
	step := func(format string, args ...any) {
		p.steps = append(p.steps, fmt.Sprintf("mirror at %d of %s: ", m.start,
			p.img.nameOf(m.device))+fmt.Sprintf(format, args...))
	}
	switch n := len(m.missing); {
	case m.stale:
		step("bring it back with a whole checkpoint")
	case n > 0 && len(m.repairs) == n:
		step("write %d missing records again", n)
	}
	if n := m.garbage(); n > 0 {
		p.needed = true
		step("clear %d log slots that are torn or cannot be read", n)
	}
}

// garbage counts the log slots that hold no record but should be readable.
func (m *mirrorImage) garbage() (n int) {
	for i := range m.slots {
		if s := m.slots[i].state; s == slotDamaged || s == slotUnreadable {
			n++
		}
	}
	return n
}

// RunOptions are what a repair or a restore cannot know by itself.
type RunOptions struct {
	Now     uint32 // seconds since 1970
	Session uint64 // random
}

// Run does what the plan says. Nothing may have written to the devices since.
// The order is that of a start: superblocks, missing records, the epoch record,
// then whole checkpoints. Each is durable before the next is written. So a cut at any
// write leaves a set that loads as before, or that PlanRepair finishes. What cannot
// be written stays wrong. The report is that of a Check at the end. If a device cannot be
// asked any more Run stops (ErrPath), which is like a cut.
func (r *Repair) Run(o RunOptions) (Report, error) {
	report, err := r.run(o)
	return report, orPathFailure(r.devs, err)
}

func (r *Repair) run(o RunOptions) (Report, error) {
	if len(r.Steps) == 0 {
		return r.Before, nil
	}
	if r.rescue != nil {
		if err := r.rescue.write(); err != nil {
			return r.Before, err
		}
	}
	img, err := Load(r.devs)
	if err != nil {
		return r.Before, err
	}
	if err := img.rebuild(o); err != nil {
		return r.Before, err
	}
	return Check(r.devs)
}

// rebuild writes everything anew with a Committer, and then clears the log slots that are
// still torn or unreadable.
func (img *Image) rebuild(o RunOptions) error {
	before, err := img.Table()
	if err != nil {
		return err
	}
	img.leap()
	c, err := NewCommitter(img, before, Options{Session: o.Session})
	if err != nil {
		return err
	}
	do := func(what string, ask func() (Ticket, error)) error {
		t, err := ask()
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		for _, res := range RunOps(c, img.devs, nil) {
			if res.Ticket == t && res.Outcome != OutcomeDurable {
				err = c.Status().Err
				if err == nil {
					err = errors.New("no mirror of the backing takes it")
				}
				return fmt.Errorf("%s: %w", what, err)
			}
		}
		return nil
	}
	if err := do("raising the epoch", func() (Ticket, error) { return c.Open(o.Now) }); err != nil {
		return err
	}
	// Twice, so that both slots of every mirror get a checkpoint. Without a record between
	// them the Committer would see no need for the second.
	for range 2 {
		if err := do("writing a record",
			func() (Ticket, error) { return c.Commit(nil) }); err != nil {
			return err
		}
		if err := do("writing a checkpoint", c.Checkpoint); err != nil {
			return err
		}
	}
	// All that is needed is in the checkpoints and the records behind them.
	after, err := Load(img.devs)
	if err != nil {
		return err
	}
	t, err := after.Table()
	if err != nil {
		return err
	}
	if t.Counts() != before.Counts() {
		return fmt.Errorf("%w: the table reads back as another one: %+v, not %+v", ErrDamaged,
			t.Counts(), before.Counts())
	}
	return after.clearGarbage()
}

// leap raises the next epoch, generation and sequence numbers past all that may have been
// used without a trace that can be read now.
func (img *Image) leap() {
	for _, n := range []*uint64{&img.maxEpoch, &img.maxGeneration, &img.maxSequence,
		&img.maxCheckpoint} {
		if *n < maxEpoch/2 {
			*n += margin
		}
	}
}

// clearGarbage zeroes the log slots that are damaged or cannot be read. A write
// is also what makes a drive replace a bad sector. It ignores failures: Check
// reports them.
func (img *Image) clearGarbage() error {
	zero := AlignedBytes(int(img.sb.AtomSize))
	for i := range img.mirrors {
		m := &img.mirrors[i]
		for s := range m.slots {
			if st := m.slots[s].state; st == slotDamaged || st == slotUnreadable {
				_, _ = img.devs[m.device].WriteAt(zero, m.logOffset(s))
			}
		}
	}
	return syncAll(img.devs)
}
