package metadata

import (
	"bytes"
	"errors"
	"slices"
	"testing"
)

// grownWorld is a set whose mirrors have got larger slots. before is a backup that was made before
// that. If full is set, there are more entries than the smaller slots held.
func grownWorld(t *testing.T, p PlanParams, seed uint64, full bool) (w *world, before *Backup) {
	t.Helper()
	w = ran(t, p, seed, 10)
	was := w.c.TableCapacity()
	w.checkpoint()
	before = decoded(t, backupOf(t, w.disks))
	w.c.Grow()
	w.settle()
	w.grown(was)
	if full {
		w.fill(min(was+was/8, 1000))
	}
	w.checkpoint()
	return w, before
}

// decoded is a backup as restore reads it from its file.
func decoded(t *testing.T, b *Backup) *Backup {
	t.Helper()
	b, err := DecodeBackup(bytes.NewReader(encoded(t, b)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestRestoreGrown: a set with larger slots is restored from its backup, with its larger slots and
// with all entries, whatever of it is lost.
func TestRestoreGrown(t *testing.T) {
	for i, tc := range growWorlds {
		t.Run(tc.name, func(t *testing.T) {
			w, _ := grownWorld(t, tc.p, 80+uint64(i), true)
			b := decoded(t, backupOf(t, w.disks))
			if n := b.Superblock.tableCapacity(); n != w.c.TableCapacity() {
				t.Fatalf("the backup has room for %d entries, the set for %d", n,
					w.c.TableCapacity())
			}
			w.commit()
			w.settle()
			for _, name := range []string{"every checkpoint", "every superblock of the backing",
				"every superblock of the backing, after a start", "every log", "everything"} {
				at := slices.IndexFunc(losses, func(l loss) bool { return l.name == name })
				if at < 0 {
					t.Fatalf("no loss is called %q", name)
				}
				disks := clones(w.disks)
				losses[at].do(w, disks)
				plan, err := PlanRestore(devices(disks), b)
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				want := listed(plan.table)
				if now := listed(w.table(w.base)); losses[at].certain && !slices.Equal(want, now) {
					t.Errorf("%s: something is missing: %s", name, diff(now, want))
				}
				restored(t, name, disks, b, want, losses[at].certain)
				img, err := Load(devices(disks))
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if n := img.Layout().TableCapacity(); n != w.c.TableCapacity() {
					t.Errorf("%s: room for %d entries, %d before", name, n, w.c.TableCapacity())
				}
			}
		})
	}
}

// TestRestoreBeforeGrowth: a backup that is older than the larger slots is of no use as long as a
// superblock says where the mirrors are. Without any superblock the set is as the backup has it,
// and the plan says that changes may be missing.
func TestRestoreBeforeGrowth(t *testing.T) {
	for i, tc := range growWorlds {
		t.Run(tc.name, func(t *testing.T) {
			w, b := grownWorld(t, tc.p, 90+uint64(i), false)
			if _, err := PlanRestore(devices(w.disks), b); !errors.Is(err, ErrBackupStale) {
				t.Errorf("nothing is lost: %v", err)
			}
			disks := clones(w.disks)
			for j, d := range disks {
				lose(d, &w.plan.sb, uint8(j))
			}
			plan, err := PlanRestore(devices(disks), b)
			if err != nil {
				t.Fatal(err)
			}
			if len(plan.Risks) == 0 {
				t.Error("the plan does not say that changes may be missing")
			}
			restored(t, "no superblock", disks, b, listed(plan.table), false)
		})
	}
}

// grown gives the mirrors of a scene larger slots.
func (s *scene) grown() {
	s.t.Helper()
	img, err := Load(asDevices(s.disks))
	if err != nil {
		s.t.Fatal(err)
	}
	table, err := img.Table()
	if err != nil {
		s.t.Fatal(err)
	}
	c, err := NewCommitter(img, table, Options{Session: 9})
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := c.Open(1003); err != nil {
		s.t.Fatal(err)
	}
	RunOps(c, asDevices(s.disks), nil)
	c.Grow()
	RunOps(c, asDevices(s.disks), nil)
	if c.Growth() != GrowthNone || c.TableCapacity() <= img.Layout().TableCapacity() {
		s.t.Fatalf("no larger slots: %+v", c.Status())
	}
	for _, d := range s.disks {
		if err := d.Sync(); err != nil {
			s.t.Fatal(err)
		}
	}
}

// TestRevertGrown gives back a set with larger slots and a history, and cuts at every write: what a
// cut leaves becomes the plain disk, or a new set in place.
func TestRevertGrown(t *testing.T) {
	eachScene(t, func(t *testing.T, tc sceneCase, seed uint64) {
		if tc.name != "alone-512" && tc.name != "pair-512-kept-tail" && !full() {
			t.Skip("UBLK_REMAP_FULL=1 runs it")
		}
		s := newScene(t, tc.p, 4<<20+seed)
		s.opts.Mark = tc.mark
		s.thorough()
		s.takenOver()
		s.live(false)
		s.grown()
		s.isSet(s.disks, "with larger slots")
		s.cutEvery(s.disks, true, 1, "release")
		t.Logf("%d cuts; %d left the set at once", s.cuts, s.sets)
	})
}
