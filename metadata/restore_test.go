package metadata

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
)

// loss is what happened to a set after a backup of it was made.
type loss struct {
	name string
	// do damages the disks; w is the set as it was last.
	do func(w *world, disks []*memDisk)
	// certain: nothing may be missing, and no force is needed.
	certain bool
	started bool // there was a start since the backup
	newer   bool // there was a checkpoint since the backup
}

func noCheckpoints(w *world, disks []*memDisk) {
	for i := range w.c.mirrors {
		noCheckpoint(disks[w.c.mirrors[i].device], &w.c.mirrors[i])
	}
}

func noCheckpoint(d *memDisk, m *mirror) {
	for slot := range 2 {
		delete(d.pages, m.headerOffset(slot)/PageSize)
		delete(d.pages, m.pageOffset(slot, 0)/PageSize)
	}
}

var losses = []loss{
	{"every checkpoint", noCheckpoints, true, true, false},
	{"every superblock of the backing", func(w *world, disks []*memDisk) {
		lose(disks[0], &w.plan.sb, 0)
	}, true, false, false},
	{"superblocks and checkpoints of the backing", func(w *world, disks []*memDisk) {
		lose(disks[0], &w.plan.sb, 0)
		noCheckpoints(w, disks)
	}, true, false, false},
	{"every superblock of the backing, after a start", func(w *world, disks []*memDisk) {
		for i, d := range disks {
			lose(d, &w.plan.sb, uint8(i))
		}
	}, false, true, false},
	{"some record on every mirror", func(w *world, disks []*memDisk) {
		noCheckpoints(w, disks) // else a checkpoint is there that is newer than the backup
		at := w.c.durable
		at = w.prevOf(w.prevOf(at))
		for i := range w.c.mirrors {
			m := &w.c.mirrors[i]
			for s := range m.slots {
				if m.slots[s] == at.Position {
					delete(disks[m.device].pages, m.logOffset(s)/PageSize)
				}
			}
		}
	}, false, true, false},
	{"a record after the newest checkpoint, which is on one mirror",
		func(w *world, disks []*memDisk) {
			at := w.prevOf(w.c.durable)
			for i := range w.c.mirrors {
				m := &w.c.mirrors[i]
				for s := range m.slots {
					if m.slots[s] == at.Position {
						delete(disks[m.device].pages, m.logOffset(s)/PageSize)
					}
				}
				if i != 1 {
					noCheckpoint(disks[m.device], m)
				}
			}
		}, false, true, true},
	{"every log", func(w *world, disks []*memDisk) {
		for i := range w.c.mirrors {
			m := &w.c.mirrors[i]
			for s := range m.slots {
				delete(disks[m.device].pages, m.logOffset(s)/PageSize)
			}
		}
	}, false, false, false},
	{"every log, after a checkpoint", func(w *world, disks []*memDisk) {
		// The oldest records stay, because they lead to an earlier checkpoint.
		img, err := Load(devices(w.disks))
		if err != nil {
			w.t.Fatal(err)
		}
		for i := range img.mirrors {
			m := &img.mirrors[i]
			for s := range m.slots {
				if r := &m.slots[s]; r.state == slotRecord &&
					!r.Less(img.checkpoint.covers.Position) {
					delete(disks[m.device].pages, m.logOffset(s)/PageSize)
				}
			}
		}
	}, false, false, true},
	{"everything", func(w *world, disks []*memDisk) {
		for i, d := range disks {
			lose(d, &w.plan.sb, uint8(i))
		}
		for i := range w.c.mirrors {
			m := &w.c.mirrors[i]
			for off := m.start; off < m.start+2*m.slot+int64(len(m.slots))*m.atom; off += PageSize {
				delete(disks[m.device].pages, off/PageSize)
			}
		}
	}, false, true, false},
}

// prevOf finds the record before one.
func (w *world) prevOf(at link) link {
	img, err := Load(devices(w.disks))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, p := range img.records[at] {
		return img.mirrors[p.mirror].slots[p.slot].prev
	}
	w.t.Fatal("no such record", at)
	return link{}
}

// lostSet makes a set, a backup of it, some more changes, and the damage.
func lostSet(t testing.TB, p PlanParams, l *loss, seed uint64) (w *world, b *Backup,
	disks []*memDisk) {
	w = history(t, p, seed, false)
	if _, err := w.c.Checkpoint(); err != nil { // room in the log
		t.Fatal(err)
	}
	w.settle()
	w.commit()
	w.settle()
	file := encoded(t, backupOf(t, w.disks))
	b, err := DecodeBackup(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	if l.started {
		w.power()
		w.settle()
	}
	for i := range 4 {
		if l.newer && i == 1 {
			if _, err := w.c.Checkpoint(); err != nil {
				t.Fatal(err)
			}
		}
		w.commit()
		w.settle()
	}
	disks = clones(w.disks)
	l.do(w, disks)
	if _, err := tableOf(devices(disks)); err == nil {
		t.Fatal("nothing is lost")
	}
	return w, b, disks
}

// restored runs a plan to its end and checks what is promised.
func restored(t *testing.T, what string, disks []*memDisk, b *Backup, want []Entry, certain bool) {
	t.Helper()
	plan, err := PlanRestore(healing(disks, noCut), b)
	if errors.Is(err, ErrBackupStale) || err == nil && len(plan.Steps) == 0 {
		// The restore was nearly finished.
		if got, err := tableOf(devices(disks)); err != nil || !slices.Equal(got, want) {
			t.Fatalf("%s: it is in order, but %v%s", what, err, diff(want, got))
		}
		return
	}
	if err != nil {
		t.Fatalf("%s: plan: %v", what, err)
	}
	if certain && len(plan.Risks) > 0 {
		t.Fatalf("%s: %q", what, plan.Risks)
	}
	report, err := plan.Run(RunOptions{Now: 7, Session: 8})
	if err != nil || report.Worst() == SeverityError || report.Worst() == SeverityWarning {
		t.Fatalf("%s: restore: %v\n%s", what, err, report.String())
	}
	got, err := tableOf(devices(disks))
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("%s: after the restore: %v%s", what, err, diff(want, got))
	}
	if report.Table != plan.Table {
		t.Errorf("%s: planned %+v, have %+v", what, plan.Table, report.Table)
	}
	if plan, err = PlanRestore(devices(disks), b); !errors.Is(err, ErrBackupStale) {
		t.Fatalf("%s: a second restore: %v, %q", what, err, plan.Steps)
	}
	if plan, err := PlanRepair(devices(disks), nil); err != nil || len(plan.Steps) != 0 {
		t.Fatalf("%s: a repair after it: %v, %q", what, err, plan.Steps)
	}
}

// TestRestoreCut cuts a restore at every write. What is left must not load, or
// load as the restored table, and another restore must finish it.
func TestRestoreCut(t *testing.T) {
	cuts := 0
	for _, tc := range worlds {
		for i := range uint64(len(losses)) * seeds(1) {
			l, seed := &losses[i%uint64(len(losses))], 500+i/uint64(len(losses))
			t.Run(fmt.Sprintf("%s/%s/%d", tc.name, l.name, seed), func(t *testing.T) {
				w, b, before := lostSet(t, tc.p, l, seed)
				plan, err := PlanRestore(devices(before), b)
				if err != nil || l.certain != (len(plan.Risks) == 0) || len(plan.Steps) == 0 {
					t.Fatalf("%v %q %q", err, plan.Risks, plan.Steps)
				}
				want := listed(plan.table)
				if plan.Disk.Less(b.Position) && !l.newer && !slices.Equal(want, listed(b.table)) {
					t.Fatalf("the backup is the newest there is: %s", diff(listed(b.table), want))
				}
				if best, _ := plan.best(b, plan.img.candidates()); l.newer &&
					(best == nil || plan.base == nil || plan.base.header != best.header) {
					t.Fatalf("there is a newer checkpoint than the backup, and it begins with %s",
						plan.Base)
				}
				if now := listed(w.table(w.base)); l.certain && !slices.Equal(want, now) {
					t.Fatalf("something is missing: %s", diff(now, want))
				}
				for n := int(w.r.Uint64N(uint64(stride(tc.name)))); ; n += stride(tc.name) {
					disks := clones(before)
					plan, err := PlanRestore(healing(disks, n), b)
					if err != nil {
						t.Fatal(err)
					}
					_, err = plan.Run(RunOptions{Now: 5, Session: w.r.Uint64()})
					after := make([]*memDisk, len(disks))
					for i, d := range disks {
						after[i] = d.cut(w.r)
					}
					cuts++
					what := fmt.Sprint("cut at write ", n)
					if got, err := tableOf(devices(after)); err == nil && !slices.Equal(got, want) {
						t.Fatalf("%s: it loads as something else: %s", what, diff(want, got))
					}
					restored(t, what, after, b, want, l.certain)
					if err == nil {
						break
					}
				}
			})
		}
	}
	t.Logf("%d cuts", cuts)
}

// TestRestoreGap: with a gap in the log, newer records win. Blocks that they contradict become
// lost, and all of this is reported.
func TestRestoreGap(t *testing.T) {
	plan, err := Plan(PlanParams{BackingSize: 16 << 20, BlockSize: 512, SpareBytes: 1 << 20,
		Name: "gap"})
	if err != nil {
		t.Fatal(err)
	}
	d := newMemDisk(16 << 20)
	if err := Create([]Device{d}, plan,
		[]Entry{{Unit: 1, Spare: 1, Count: 2, Mask: 0x0f, State: StateMapped}}); err != nil {
		t.Fatal(err)
	}
	img, err := Load([]Device{d})
	if err != nil {
		t.Fatal(err)
	}
	live, err := img.Table()
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewCommitter(img, live, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Open(1); err != nil {
		t.Fatal(err)
	}
	RunOps(c, []Device{d}, nil)
	b := backupOf(t, []*memDisk{d})
	var at []link
	for _, e := range []Entry{
		{Unit: 1, Count: 1, Mask: 0x0f, State: StateHome}, // lost with the record
		// its spare unit has a new owner
		{Unit: 9, Spare: 1, Count: 1, Mask: 0xff, State: StateMapped},
		{Unit: 7, Spare: 77, Count: 1, Mask: 0xff, State: StateMapped}, // known
		{Unit: 2, Spare: 2, Count: 1, Mask: 0xf0, State: StateMapped},  // the same owner
		// not valid: pending has no spare
		{Unit: 50, Spare: 50, Count: 1, Mask: 0x01, State: StatePending},
	} {
		if e.State == StatePending {
			e.Spare = 0
		}
		if _, err := c.Commit([]Entry{e}); err != nil {
			t.Fatal(err)
		}
		RunOps(c, []Device{d}, nil)
		at = append(at, c.durable)
	}
	img, err = Load([]Device{d})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range img.records[at[0]] {
		delete(d.pages, img.mirrors[p.mirror].logOffset(p.slot)/PageSize)
	}
	for what, f := range map[string]func() (*Restore, error){
		"backup":    func() (*Restore, error) { return PlanRestore([]Device{d}, b) },
		"no backup": func() (*Restore, error) { return PlanSalvage([]Device{d}) },
		"old backup": func() (*Restore,
			error) {
			old := *b
			old.tip.Hash++
			return PlanRestore([]Device{d}, &old)
		},
	} {
		r, err := f()
		records := 4
		if what == "no backup" {
			records = 5 // that of the start, too
		}
		if err != nil || r.Records != records {
			t.Fatalf("%s: %v %+v", what, err, r)
		}
		want := []Entry{
			{Unit: 1, Count: 1, Mask: 0x0f, State: StateLost, Cause: CauseUnknown},
			{Unit: 2, Spare: 2, Count: 1, Mask: 0xff, State: StateMapped},
			{Unit: 7, Spare: 77, Count: 1, Mask: 0xff, State: StateMapped},
			{Unit: 9, Spare: 1, Count: 1, Mask: 0xff, State: StateMapped},
			{Unit: 50, Count: 1, Mask: 0x01, State: StatePending},
		}
		if got := listed(r.table); !slices.Equal(got, want) {
			t.Errorf("%s: %s", what, diff(want, got))
		}
		risks := strings.Join(r.Risks, "\n")
		for _, text := range []string{"up to " + at[0].String() + " are missing",
			"4 blocks are marked as lost"} {
			if !strings.Contains(risks, text) {
				t.Errorf("%s: %q does not say %q", what, risks, text)
			}
		}
		disks := []*memDisk{d.clone()}
		if r, err = PlanRestore(devices(disks), b); err != nil {
			t.Fatal(err)
		}
		if rep, err := r.Run(RunOptions{Now: 3, Session: 3}); err != nil || rep.Worst() != "" {
			t.Errorf("%s: %v %s", what, err, rep.String())
		}
	}
}

// TestRestoreRefuses: a backup that does not fit is refused, and nothing is written.
func TestRestoreRefuses(t *testing.T) {
	w := history(t, pairParams(512), 600, false)
	old := clones(w.disks)
	b := backupOf(t, w.disks)
	w.power()
	w.settle()
	w.commit()
	w.settle()
	now := backupOf(t, w.disks)
	other := history(t, pairParams(512), 601, false)
	odd := pairParams(512)
	odd.SpareBytes = 896 << 10
	odd.UUID = w.plan.sb.UUID
	odd.DeviceUUIDs = [2]uuid.UUID{w.plan.sb.Devices[0].UUID, w.plan.sb.Devices[1].UUID}
	differ := history(t, odd, 602, false)
	small := newMemDisk(8 << 20)
	bare := w.disks[0].clone()
	lose(bare, &w.plan.sb, 0)
	unfinished := w.disks[0].clone()
	rewrite(unfinished, func(sb *Superblock) {
		sb.Incompat, sb.Transition = sb.Incompat|incompatTransition, TransitionReverting
		sb.Generation++
	})
	readOnly := w.disks[0].clone()
	rewrite(readOnly, func(sb *Superblock) { sb.ROCompat = 2; sb.Generation++ })
	for _, c := range []struct {
		what  string
		b     *Backup
		want  error
		text  string
		disks []*memDisk
	}{
		{"an old one", b, ErrBackupStale, now.Position.String(), w.disks},
		{"another set's", backupOf(t, other.disks), ErrForeign, "set", w.disks},
		{"another layout", backupOf(t, differ.disks), ErrForeign, "laid out", w.disks},
		{"no spare device", now, ErrNotFound, w.plan.sb.Devices[1].UUID.String(), w.disks[:1]},
		{"no backing", now, ErrNotFound, "backing", w.disks[1:]},
		{"a stale spare device", now, ErrStale, "epoch", []*memDisk{w.disks[0], old[1]}},
		{"a stale spare device, no backing", now, ErrStale, "epoch", []*memDisk{bare, old[1]}},
		{"another's spare device", now, ErrForeign, "set", []*memDisk{w.disks[0], other.disks[1]}},
		{"twice", now, ErrForeign, "twice", []*memDisk{w.disks[0], w.disks[1], w.disks[1].clone()}},
		{"one more", now, ErrForeign, "without it", []*memDisk{w.disks[0], w.disks[1],
			newMemDisk(8 << 20)}},
		{"a small disk", now, ErrForeign, "bytes", []*memDisk{small, w.disks[1]}},
		{"a set being released", now, ErrUnfinished, "", []*memDisk{unfinished, w.disks[1]}},
		{"a set with unknown features", now, ErrReadOnly, "", []*memDisk{readOnly, w.disks[1]}},
	} {
		disks := clones(c.disks)
		for _, d := range disks {
			d.readOnly = true
		}
		plan, err := PlanRestore(devices(disks), c.b)
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) ||
			len(plan.Steps) > 0 {
			t.Errorf("%s: %v, %q", c.what, err, plan.Steps)
		}
	}
	// In order, and as new.
	plan, err := PlanRestore(devices(w.disks), now)
	if err != nil || len(plan.Steps) != 0 {
		t.Error(err, plan.Steps)
	}
	// In order, but older than the backup.
	plan, err = PlanRestore(devices(clones(old)), now)
	if err != nil || len(plan.Risks) != 1 || !strings.Contains(plan.Risks[0], "earlier time") {
		t.Error(err, plan.Risks)
	}
	if plan, err := PlanSalvage(devices(w.disks)); err != nil || len(plan.Steps) != 0 {
		t.Error(err, plan.Steps)
	}
	if _, err := PlanSalvage([]Device{bare, w.disks[1]}); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	// A bare spare device whose mirror is of an earlier start.
	bareSpare := old[1].clone()
	lose(bareSpare, &w.plan.sb, 1)
	if plan, err = PlanRestore(devices([]*memDisk{w.disks[0], bareSpare}), now); err != nil ||
		!strings.Contains(strings.Join(plan.Risks, ";"), "out of date") {
		t.Error(err, plan.Risks)
	}
}

// TestRestoreOlderDisk: a whole set was put back to an earlier time, and the
// newer table is wanted anyway, also after a cut at every write.
func TestRestoreOlderDisk(t *testing.T) {
	for _, tc := range worlds {
		w := history(t, tc.p, 700, false)
		old := clones(w.disks)
		before := listed(w.table(w.base))
		w.power()
		w.settle()
		w.commit()
		w.settle()
		want := listed(w.table(w.base))
		b := backupOf(t, w.disks)
		for n := int(w.r.Uint64N(uint64(stride(tc.name)))); ; n += stride(tc.name) {
			disks := clones(old)
			plan, err := PlanRestore(healing(disks, n), b)
			if err != nil || len(plan.Risks) == 0 {
				t.Fatal(err, plan.Risks)
			}
			_, err = plan.Run(RunOptions{Now: 5, Session: w.r.Uint64()})
			after := make([]*memDisk, len(disks))
			for i, d := range disks {
				after[i] = d.cut(w.r)
			}
			what := fmt.Sprintf("%s: cut at write %d", tc.name, n)
			if got, err := tableOf(devices(after)); err == nil && !slices.Equal(got, want) &&
				!slices.Equal(got, before) {
				t.Fatalf("%s: it loads as something else: %s", what, diff(want, got))
			}
			restored(t, what, after, b, want, false)
			if err == nil {
				break
			}
		}
	}
}

// TestMirrorsThatFail: a mirror that takes no writes stays out of use after a repair and a restore,
// and this is reported. Without any mirror nothing is done. Once one takes writes again, the
// restore can be finished.
func TestMirrorsThatFail(t *testing.T) {
	for _, tc := range worlds {
		t.Run(tc.name, func(t *testing.T) {
			l := &losses[0]
			w, b, disks := lostSet(t, tc.p, l, 800)
			want := listed(w.table(w.base))
			// The places of all mirrors on the backing, and all room for others.
			dead := map[int]bool{}
			fail := func(off int64, _ int) bool {
				for i := range w.c.mirrors {
					m := &w.c.mirrors[i]
					if m.device == 0 && dead[i] && off >= m.start && off < m.start+2*m.slot+
						int64(len(m.slots))*m.atom {
						return true
					}
				}
				return len(dead) > 0 && off > RegionStart && !slices.Contains(w.plan.sb.copies(0),
					off) &&
					!slices.ContainsFunc(w.c.mirrors, func(m mirror) bool {
						return m.device == 0 && off >= m.start && off < m.start+2*m.slot+
							int64(len(m.slots))*m.atom
					})
			}
			disks[0].failWrite = fail
			dead[0], dead[1] = true, true
			plan, err := PlanRestore(devices(disks), b)
			if err != nil || len(plan.Risks) > 0 {
				t.Fatal(err, plan.Risks)
			}
			if _, err := plan.Run(RunOptions{Now: 1, Session: 1}); !errors.Is(err, errMedium) {
				t.Fatalf("no mirror of the backing takes it: %v", err)
			}
			if _, err := Load(devices(disks)); !errors.Is(err, ErrDamaged) {
				t.Fatalf("a restore that failed loads: %v", err)
			}
			delete(dead, 1)
			if plan, err = PlanRestore(devices(disks), b); err != nil || len(plan.Risks) > 0 {
				t.Fatal(err, plan.Risks)
			}
			report, err := plan.Run(RunOptions{Now: 2, Session: 2})
			if err != nil || report.Worst() != SeverityWarning {
				t.Fatalf("%v\n%s", err, report.String())
			}
			if got, err := tableOf(devices(disks)); err != nil || !slices.Equal(got, want) {
				t.Fatalf("%v%s", err, diff(want, got))
			}
			// A repair cannot do more as long as it does not take writes.
			repair, err := PlanRepair(devices(disks), nil)
			if err != nil || len(repair.Steps) == 0 {
				t.Fatal(err, repair.Steps)
			}
			if report, err = repair.Run(RunOptions{Now: 3, Session: 3}); err != nil ||
				report.Worst() != SeverityWarning {
				t.Fatalf("%v\n%s", err, report.String())
			}
			disks[0].failWrite = nil
			repaired(t, "the disk got well", disks, want)
		})
	}
}
