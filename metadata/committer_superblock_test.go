package metadata

import (
	"fmt"
	"slices"
	"testing"
)

// tears are ways in which a power cut leaves a page that was being written: the
// sectors that are new.
var tears = []struct {
	name string
	keep func(sector int) bool
}{
	{"the first half", func(s int) bool { return s < 4 }},
	{"the second half", func(s int) bool { return s >= 4 }},
	{"the first sector", func(s int) bool { return s == 0 }},
	{"all but the first sector", func(s int) bool { return s > 0 }},
	{"every other sector", func(s int) bool { return s%2 == 1 }},
}

// sbWorlds are the layouts that differ in where superblocks lie.
var sbWorlds = []struct {
	name string
	p    PlanParams
	two  bool // as made before compatThird and compatPartition
}{
	{"alone", smallParams(512, 0), false},
	{"alone without a partition", smallParams(512, 0), true},
	{"pair", pairParams(512), false},
	{"pair, atoms of 64K", PlanParams{BackingSize: 32 << 20, BlockSize: 4096,
		PhysicalBlockSize: 64 << 10, SpareBytes: 1 << 20, SpareDeviceSize: 32 << 20}, false},
	{"pair with two superblocks", pairParams(4096), true},
}

func sbWorld(t *testing.T, seed uint64, p PlanParams, two bool) *world {
	p.Name = "w"
	plan, err := Plan(p)
	if err != nil {
		t.Fatal(err)
	}
	if two {
		sb := plan.Superblock()
		sb.Compat = 0
		if plan, err = newLayout(&sb); err != nil {
			t.Fatal(err)
		}
	}
	return newWorldOf(t, seeded(t, seed), plan)
}

// latent makes a copy of the superblock take writes and not read, for good.
func (w *world) latent(at copyPlace) {
	d := w.disks[at.device]
	if d.failRead == nil {
		d.failRead = map[int64]bool{}
	}
	d.failRead[at.offset/sector+3] = true
}

// cutting makes every write of a superblock be cut, in every way, on copies of the
// disks: every device must have a superblock then, and those must fit. Now and then
// the whole set is loaded. It returns how many cuts there were so far.
func (w *world) cutting(fail func(Op) bool, what string) *int {
	n := new(int)
	w.fail = func(op Op) bool {
		if w.superblock(op) {
			for _, tear := range tears {
				disks := clones(w.disks)
				disks[op.Device].store(memWrite{op.Offset, op.Data}, tear.keep)
				how := fmt.Sprintf("%s: cut while the superblock at %d of device %d is written, "+
					"and %s is new", what, op.Offset, op.Device, tear.name)
				if _, err := assemble(devices(disks), false); err != nil {
					w.t.Fatalf("%s: %v", how, err)
				}
				if *n++; *n%16 == 0 {
					w.find(disks, how)
				}
			}
		}
		return fail != nil && fail(op)
	}
	return n
}

// TestSuperblockTornAndLatent: any one copy of the superblock takes writes and does not read, and
// the power is cut at any write of another one. These writes are part of starts, the mark of a
// mirror that fails and its removal, a move, and the check of the copies. The set must load.
func TestSuperblockTornAndLatent(t *testing.T) {
	n := 0
	for _, tc := range sbWorlds {
		t.Run(tc.name, func(t *testing.T) {
			places := sbWorld(t, 91, tc.p, tc.two).plan.sb
			for d := range places.Devices {
				for _, off := range places.copies(uint8(d)) {
					for _, late := range []bool{false, true} {
						if n++; !sampled(n, 3) {
							continue
						}
						w := sbWorld(t, 91, tc.p, tc.two)
						what := fmt.Sprintf("the one at %d of device %d does not read (since it "+
							"runs: %v)", off, d, late)
						if !late {
							w.latent(copyPlace{uint8(d), off})
						}
						w.start()
						total := w.cutting(nil, "start: "+what)
						w.settle()
						if late {
							w.latent(copyPlace{uint8(d), off})
						}
						again := func(fail func(Op) bool, n int, what string) {
							more := w.cutting(fail, what)
							for range n {
								w.commit()
								w.settle()
								if _, err := w.c.Checkpoint(); err != nil {
									t.Fatal(err)
								}
								w.settle()
							}
							*total += *more
						}
						again(nil, 1, "check: "+what)
						was := w.c.mirrors[1].start
						again(w.at(0, was), 6, "mark and move: "+what)
						again(nil, 6, "back: "+what)
						if w.c.mirrors[1].start == was || !w.healthy() {
							t.Fatalf("%s: mirrors have not moved, or not come back: %+v", what,
								w.c.Status())
						}
						w.power()
						w.cutting(nil, "another start: "+what)
						w.settle()
						if !w.opened || w.stats.unknown+w.stats.dropped > 0 || *total == 0 {
							t.Fatalf("%s: %d cuts, %+v", what, *total, w.stats)
						}
					}
				}
			}
		})
	}
}

// TestOneSuperblockLeft: all copies of the superblock on a device but one do not read. The set is
// started again and again, and cut in each way at each write: it loads every time. News that can
// wait is not written over the last copy; once the others read again they are.
func TestOneSuperblockLeft(t *testing.T) {
	n := 0
	for _, tc := range sbWorlds {
		t.Run(tc.name, func(t *testing.T) {
			places := sbWorld(t, 92, tc.p, tc.two).plan.sb
			if thirdSuperblock(int64(places.AtomSize)) < RegionStart && len(places.Devices) > 1 {
				places.Compat |= compatThird // what the first start makes of it
			}
			for d := range places.Devices {
				for _, left := range places.copies(uint8(d)) {
					if n++; !sampled(n, 2) {
						continue
					}
					w := sbWorld(t, 92, tc.p, tc.two)
					what := fmt.Sprintf("only the one at %d of device %d reads", left, d)
					w.start()
					w.settle()
					// A mirror is stale, and could come back.
					was := w.c.mirrors[1].start
					w.fail = w.at(0, append(w.c.sb.now.mirrorPlaces(0), was)...)
					w.commits(3)
					for _, off := range places.copies(uint8(d)) {
						if off != left {
							w.latent(copyPlace{uint8(d), off})
						}
					}
					cuts := 0
					for range 4 {
						w.power()
						n := w.cutting(nil, what)
						w.settle()
						if !w.opened {
							t.Fatalf("%s: no start: %+v", what, w.c.Status())
						}
						cuts += *n
					}
					touched := false
					cut := w.fail
					w.fail = func(op Op) bool {
						touched = touched || op.Device == uint8(d) && op.Offset == left
						return cut(op)
					}
					for range 6 {
						w.commit()
						w.settle()
						if _, err := w.c.Checkpoint(); err != nil {
							t.Fatal(err)
						}
						w.settle()
					}
					if touched {
						t.Errorf("%s: it was written for news that could wait", what)
					}
					if back := w.c.mirrors[1].state == MirrorGood; back != (d > 0) {
						t.Errorf("%s: the mirror that was stale is %s", what, w.c.mirrors[1].state)
					}
					w.disks[d].failRead = nil
					w.fail = nil
					w.power()
					w.settle()
					for range 6 {
						w.commit()
						w.settle()
						w.must(w.c.Checkpoint())
						w.settle()
					}
					if s := w.c.Status(); !w.healthy() || s.BadSuperblocks > 0 ||
						w.stats.unknown+w.stats.dropped > 0 || cuts == 0 {
						t.Errorf("%s: after all reads again: %+v, %d cuts, %+v", what, s, cuts,
							w.stats)
					}
				}
			}
		})
	}
}

// TestThirdSuperblock: nothing else lies at its place, and no atom holds two superblocks.
func TestThirdSuperblock(t *testing.T) {
	for physical := 512; physical <= SuperblockStride; physical *= 2 {
		p := PlanParams{BackingSize: 64 << 20, BlockSize: 512, PhysicalBlockSize: physical,
			SpareBytes: 1 << 20, SpareDeviceSize: 64 << 20, Name: "third"}
		plan, err := Plan(p)
		if err != nil {
			t.Fatal(err)
		}
		sb := plan.Superblock()
		for d := range sb.Devices {
			copies := sb.copies(uint8(d))
			if len(copies) != 3 || copies[2] != 0 {
				t.Fatalf("physical blocks of %d: device %d has superblocks at %v", physical, d,
					copies)
			}
			atoms := map[int64]bool{}
			for _, off := range copies {
				atoms[off/int64(sb.AtomSize)] = true
				for _, r := range sb.Regions {
					if int(r.Device) == d && off+int64(sb.AtomSize) > r.Start &&
						off < r.Start+r.Length {
						t.Errorf("physical blocks of %d: the superblock at %d of device %d lies "+
							"in a region at %d", physical, off, d, r.Start)
					}
				}
				if slices.Contains(sb.mirrorPlaces(uint8(d)), off) {
					t.Errorf("physical blocks of %d: a mirror may move to %d of device %d",
						physical, off, d)
				}
			}
			if len(atoms) != 3 {
				t.Errorf("physical blocks of %d: superblocks of device %d at %v share an atom",
					physical, d, copies)
			}
		}
	}
}
