package metadata

import (
	"errors"
	"fmt"
	"testing"
)

// loseSlot makes an atom of a log unreadable.
func loseSlot(d *memDisk, m *mirror, slot int) {
	d.dead = append(d.dead, [2]int64{m.logOffset(slot), m.logOffset(slot) + m.atom})
}

// findLatent cuts the power and makes one atom of one log unreadable. Everything durable must be
// found. If not all mirrors are good, the set may be refused, but nothing durable may be undone.
func (w *world) findLatent() {
	w.t.Helper()
	if !w.opened || w.c.sb.uncertain || w.c.sb.active() {
		return
	}
	disks := w.cut()
	m := &w.c.mirrors[w.r.IntN(len(w.c.mirrors))]
	if m.device != 0 {
		return
	}
	// The newest records matter most.
	slot := (m.next - 1 - w.r.IntN(3) + w.r.IntN(2)*len(m.slots)/2 + len(m.slots)) % len(m.slots)
	loseSlot(disks[0], m, slot)
	if _, err := Load(devices(disks)); errors.Is(err, ErrDamaged) {
		for i := range w.c.mirrors {
			if w.c.mirrors[i].state != MirrorGood {
				return
			}
		}
	}
	w.find(disks, fmt.Sprintf("slot %d of the mirror at %d unreadable", slot, m.start))
}

// TestOneMirrorLeft: while one mirror is stale, any sector of the other one's log may go bad:
// everything durable is found, also the newest record.
func TestOneMirrorLeft(t *testing.T) {
	for _, tc := range worlds[:3] {
		t.Run(tc.name, func(t *testing.T) {
			for victim := range 2 {
				w := ran(t, tc.p, 71+uint64(victim), 10)
				places := append(w.c.sb.now.mirrorPlaces(0), w.c.mirrors[victim].start)
				w.fail = w.at(0, places...)
				good := &w.c.mirrors[1-victim]
				lost := 0
				look := func(disks []*memDisk, what string) {
					t.Helper()
					for s, p := range good.slots {
						if p == (Position{}) || p.Less(w.c.durable.Position) && w.r.IntN(10) > 0 {
							continue
						}
						bad := []*memDisk{disks[0].clone()}
						loseSlot(bad[0], good, s)
						w.find(bad, fmt.Sprintf("%s: slot %d unreadable", what, s))
						lost++
					}
				}
				for i := range steps(80) {
					w.commit()
					w.settle()
					if st := w.c.Status().Mirrors[victim].State; st != MirrorStale {
						t.Fatalf("mirror %d is %s", victim, st)
					}
					look(w.disks, fmt.Sprintf("commit %d", i))
					if i%25 == 20 {
						// This is a start with a bad sector there, and nothing else. The records
						// that are left with one copy get another.
						for s, p := range good.slots {
							if p == w.c.durable.Position {
								loseSlot(w.disks[0], good, s)
								break
							}
						}
						w.power()
						w.settle()
						w.disks[0].dead = nil
						good = &w.c.mirrors[1-victim]
						look(w.disks, fmt.Sprintf("commit %d, after a start", i))
					}
				}
				if n := len(w.unknown); n > 0 || w.stats.dropped > 0 {
					t.Errorf("%+v", w.stats)
				}
				t.Logf("%d slots lost", lost)
				w.fail = nil
				w.power()
				w.settle()
				w.check(SeverityInfo)
			}
		})
	}
}

// TestSecondCopyIsFarAway: the second copy skips slots that take no writes. If no slot is left that
// takes it, the record has one copy.
func TestSecondCopyIsFarAway(t *testing.T) {
	w := ran(t, smallParams(512, 0), 73, 3)
	places := append(w.c.sb.now.mirrorPlaces(0), w.c.mirrors[0].start)
	dead := w.at(0, places...)
	good := &w.c.mirrors[1]
	n := len(good.slots)
	bad := map[int]bool{}
	w.fail = func(op Op) bool {
		return dead(op) || op.Device == 0 && op.Offset >= good.logOffset(0) &&
			bad[int((op.Offset-good.logOffset(0))/good.atom)%n]
	}
	copies := func() (at []int) {
		img, err := Load(devices(w.disks))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range img.records[w.c.durable] {
			if f.mirror == 1 && !bad[f.slot] { // a write that failed may be there anyway
				at = append(at, f.slot)
			}
		}
		return at
	}
	w.commit()
	w.settle()
	if at := copies(); len(at) != 2 || at[1]-at[0] != n/2 {
		t.Errorf("the record that made a mirror stale is in slots %v of %d", at, n)
	}
	for i := range recordTries {
		clear(bad)
		for j := range i {
			bad[(good.next+n/2+j)%n] = true
		}
		w.commit()
		w.settle()
		if at := copies(); len(at) != 2 || at[1]-at[0] < n/4 {
			t.Errorf("%d bad slots: the record is in slots %v", i, at)
		}
	}
	clear(bad)
	for j := range 2 * recordTries {
		bad[(good.next+n/2+j)%n] = true
	}
	w.commit()
	w.settle()
	if at := copies(); len(at) != 1 {
		t.Errorf("no slot takes the second copy: the record is in slots %v", at)
	}
	if w.stats.unknown+w.stats.dropped > 0 {
		t.Errorf("%+v", w.stats)
	}
	w.check(SeverityWarning)
}

// TestSuperblockMarkSurvives: a mirror is marked as stale; then any one copy of
// the superblock is lost, or goes back to what it was before.
func TestSuperblockMarkSurvives(t *testing.T) {
	for _, tc := range worlds {
		w := ran(t, tc.p, 74, 10)
		before := clones(w.disks)
		was := w.c.mirrors[0].start
		w.fail = w.at(0, append(w.c.sb.now.mirrorPlaces(0), was)...)
		if tc.p.SpareDeviceSize != 0 {
			w.fail = w.at(0, append(w.c.sb.now.mirrorPlaces(0), was, w.c.mirrors[1].start)...)
			good := w.at(0, w.c.mirrors[1].start)
			all := w.fail
			w.fail = func(op Op) bool { return all(op) && !good(op) }
		}
		w.commits(5)
		if s := w.c.mirrors[0].state; s != MirrorStale {
			t.Fatalf("%s: it is %s", tc.name, s)
		}
		for dev := range w.disks {
			for _, off := range w.plan.sb.copies(uint8(dev)) {
				for _, how := range []string{"unreadable", "zeroed", "one bit flipped", "torn half",
					"old"} {
					disks := clones(w.disks)
					d := disks[dev]
					page := *d.pages[off/PageSize]
					switch how {
					case "unreadable":
						d.failRead = map[int64]bool{off/sector + 2: true}
					case "zeroed":
						page = [PageSize]byte{}
					case "one bit flipped":
						page[1100] ^= 4
					case "torn half":
						copy(page[PageSize/2:], before[dev].pages[off/PageSize][PageSize/2:])
						copy(page[:], before[dev].pages[off/PageSize][:sector])
					case "old":
						page = *before[dev].pages[off/PageSize]
					}
					d.pages[off/PageSize] = &page
					w.find(disks, fmt.Sprintf("%s: superblock at %d of device %d %s", tc.name, off,
						dev, how))
					img, err := Load(devices(disks))
					if err != nil || !img.mirrors[0].stale {
						t.Fatalf("%s: superblock at %d of device %d %s: the mark is lost: %v",
							tc.name, off, dev, how, err)
					}
				}
			}
		}
	}
}
