package metadata

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// bad makes a page take no writes and, with read, not read either.
func (d *memDisk) bad(off int64, write, read bool) {
	if read {
		if d.failRead == nil {
			d.failRead = map[int64]bool{}
		}
		d.failRead[off/sector+3] = true
	}
	if before := d.failWrite; write {
		d.failWrite = func(at int64, n int) bool {
			return at <= off && off < at+int64(n) || before != nil && before(at, n)
		}
	}
}

// TestCreateAroundBadPlaces: a set is made around bad places as long as enough is left, starts
// there, and reports what it avoided.
func TestCreateAroundBadPlaces(t *testing.T) {
	plan, err := Plan(func() PlanParams { p := smallParams(512, 0); p.Name = "bad"; return p }())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := Plan(pairParamsNamed())
	if err != nil {
		t.Fatal(err)
	}
	at := plan.mirrorsAt()
	copies := plan.sb.copies(0)
	all := func(d *memDisk, offs ...int64) {
		for _, off := range offs {
			d.bad(off, true, true)
		}
	}
	places := func(l *Layout, device uint8) (offs []int64) {
		for _, start := range append(l.sb.mirrorPlaces(device), func() (s []int64) {
			for _, m := range l.mirrorsAt() {
				if m.device == device {
					s = append(s, m.start)
				}
			}
			return s
		}()...) {
			offs = append(offs, start, start+l.sb.SlotBytes) // both headers
		}
		return offs
	}
	for _, tc := range []struct {
		name  string
		plan  *Layout
		spoil func(d []*memDisk)
		bad   int // places that it goes around; -1: it is refused
		stale int
	}{
		{"nothing", plan, func([]*memDisk) {}, 0, 0},
		{"byte 0", plan, func(d []*memDisk) { all(d[0], copies[2]) }, 1, 0},
		{"64 KiB", plan, func(d []*memDisk) { all(d[0], copies[0]) }, 1, 0},
		{"the end", plan, func(d []*memDisk) { all(d[0], copies[1]) }, 1, 0},
		{"byte 0 takes no writes", plan, func(d []*memDisk) { d[0].bad(0, true, false) }, 1, 0},
		{"byte 0 does not read", plan, func(d []*memDisk) { d[0].bad(0, false, true) }, 1, 0},
		{"byte 0 and 64 KiB", plan, func(d []*memDisk) { all(d[0], 0, SuperblockStride) }, -1, 0},
		{"64 KiB and the end", plan, func(d []*memDisk) { all(d[0], copies[0], copies[1]) }, -1, 0},
		{"all superblocks", plan, func(d []*memDisk) { all(d[0], copies...) }, -1, 0},
		{"a header of A", plan, func(d []*memDisk) { all(d[0], at[0].headerOffset(0)) }, 1, 0},
		{"a page of A", plan, func(d []*memDisk) { all(d[0], at[0].pageOffset(0, 0)) }, 1, 0},
		{"a page of B takes no writes", plan, func(d []*memDisk) {
			d[0].bad(at[1].pageOffset(0, 0),
				true, false)
		}, 1, 0},
		{"a page of B does not read", plan, func(d []*memDisk) {
			d[0].bad(at[1].pageOffset(0, 0),
				false, true)
		}, 1, 0},
		{"the other header of B", plan, func(d []*memDisk) { all(d[0], at[1].headerOffset(1)) }, 1,
			0},
		{"a page in the other slot of B", plan,
			func(d []*memDisk) { all(d[0], at[1].pageOffset(1, 0)) }, 0, 0},
		{"log atoms of either mirror", plan, func(d []*memDisk) {
			all(d[0], at[0].logOffset(0),
				at[0].logOffset(1), at[1].logOffset(0))
		}, 0, 0},
		{"both mirrors, where planned", plan, func(d []*memDisk) {
			all(d[0], at[0].headerOffset(0),
				at[1].headerOffset(0))
		}, 2, 0},
		{"every place in the head", plan, func(d []*memDisk) {
			for _, off := range places(plan, 0) {
				if off < plan.sb.HeadBytes {
					all(d[0], off)
				}
			}
		}, 1, 0},
		{"every place but that of B", plan, func(d []*memDisk) {
			for _, off := range places(plan, 0) {
				if off != at[1].headerOffset(0) && off != at[1].headerOffset(1) {
					all(d[0], off)
				}
			}
		}, 1, 1},
		{"every place", plan, func(d []*memDisk) { all(d[0], places(plan, 0)...) }, -1, 0},
		{"pair: byte 0 of the backing", pair, func(d []*memDisk) { all(d[0], 0) }, 1, 0},
		{"pair: byte 0 and 64 KiB of the backing", pair,
			func(d []*memDisk) { all(d[0], 0, SuperblockStride) }, -1, 0},
		{"pair: byte 0 of the spare device", pair, func(d []*memDisk) { all(d[1], 0) }, 1, 0},
		{"pair: no superblock of the spare device", pair,
			func(d []*memDisk) { all(d[1], pair.sb.copies(1)...) }, -1, 0},
		{"pair: the spare device's mirror", pair,
			func(d []*memDisk) { all(d[1], pair.mirrorsAt()[2].headerOffset(0)) }, 1, 0},
		{"pair: every place on the spare device", pair,
			func(d []*memDisk) { all(d[1], places(pair, 1)...) }, 1, 1},
		{"pair: every place on the backing", pair,
			func(d []*memDisk) { all(d[0], places(pair, 0)...) }, -1, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := &world{t: t, r: seeded(t, 81), plan: tc.plan}
			for _, d := range tc.plan.Devices() {
				w.disks = append(w.disks, newMemDisk(d.Size))
			}
			tc.spoil(w.disks)
			w.base = w.tx(20)
			bad, err := CreateAround(devices(w.disks), tc.plan, w.base)
			if tc.bad < 0 {
				if !errors.Is(err, ErrBadPlaces) || !errors.Is(err, errMedium) ||
					strings.Contains(err.Error(), "\n") {
					t.Fatalf("created: %v", err)
				}
				if _, err := Load(devices(w.disks)); err == nil {
					t.Fatal("refused, and yet there")
				}
				return
			}
			if err != nil || len(bad) != tc.bad {
				t.Fatalf("%v: %v", bad, err)
			}
			stale := func() (n int) {
				for _, m := range w.c.Status().Mirrors {
					if m.State != MirrorGood {
						n++
					}
				}
				return n
			}
			w.find(w.disks, "created")
			w.check(SeverityWarning)
			// The Committer is told which writes the disk refuses.
			w.fail = func(op Op) bool {
				d := w.disks[op.Device]
				return d.failWrite != nil && d.failWrite(op.Offset, len(op.Data))
			}
			w.start()
			w.settle()
			w.commits(200)
			if w.stats.durable != 200 || stale() != tc.stale {
				t.Fatalf("%+v, %+v", w.stats, w.c.Status())
			}
			w.find(w.disks, "after 200 commits")
			if tc.stale > 0 {
				// The loss of the mirror that is left must be noticed.
				lost := clones(w.disks)
				for i := range w.c.mirrors {
					if m := &w.c.mirrors[i]; m.state == MirrorGood {
						for s := range m.slots {
							loseSlot(lost[m.device], m, s)
						}
					}
				}
				if _, err := Load(devices(lost)); !errors.Is(err, ErrDamaged) {
					t.Errorf("without the log of the only mirror: %v", err)
				}
			}
			// The disk works again.
			for _, d := range w.disks {
				d.failRead, d.failWrite = nil, nil
			}
			w.power()
			w.settle()
			w.check(SeverityInfo)
			if stale() != 0 {
				t.Errorf("%+v", w.c.Status())
			}
		})
	}
}

// TestCreateOverBadSuperblock: an old set whose superblock can no longer be
// overwritten must not come back.
func TestCreateOverBadSuperblock(t *testing.T) {
	p := smallParams(512, 0)
	p.Name = "old"
	old, err := Plan(p)
	if err != nil {
		t.Fatal(err)
	}
	p.Name = "new"
	plan, err := Plan(p)
	if err != nil {
		t.Fatal(err)
	}
	for _, off := range plan.sb.copies(0) {
		d := newMemDisk(plan.Devices()[0].Size)
		if err := Create([]Device{d}, old, nil); err != nil {
			t.Fatal(err)
		}
		d.bad(off, true, false)
		if err := Create([]Device{d}, plan, nil); !errors.Is(err, ErrBadPlaces) {
			t.Errorf("an old superblock at %d that reads: %v", off, err)
		}
		d.bad(off, true, true)
		bad, err := CreateAround([]Device{d}, plan, nil)
		if err != nil || len(bad) != 1 {
			t.Fatal(bad, err)
		}
		d.failRead = nil // it reads again one day
		img, err := Load([]Device{d})
		if err != nil || img.Layout().Superblock().Name != "new" {
			t.Errorf("an old superblock came back at %d: %v", off, err)
		}
		if r, err := Check([]Device{d}); err != nil || r.Worst() != SeverityWarning ||
			!slices.ContainsFunc(r.Problems, func(p Problem) bool {
				return strings.Contains(p.What,
					"belongs to set")
			}) {
			t.Errorf("check: %v\n%s", err, r.String())
		}
	}
}
