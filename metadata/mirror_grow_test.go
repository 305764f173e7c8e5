package metadata

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// growParams are sets with small tables.
func growParams(p PlanParams) PlanParams {
	p.SpareBytes, p.TableRoom = 1<<20, 16
	return p
}

// growWorlds are worlds whose tables are small.
var growWorlds = []struct {
	name string
	p    PlanParams
}{
	{"alone-512", growParams(smallParams(512, 0))},
	{"alone-512-16k", growParams(smallParams(512, 16384))},
	{"pair-4096", growParams(pairParams(4096))},
}

// fill commits pending marks, each an entry of its own, until the table has so many entries.
func (w *world) fill(entries uint64) {
	w.t.Helper()
	have, unit := w.live.Counts().Entries, uint64(200)
	w.live.Extents(func(x Extent) bool {
		unit = max(unit, x.end()+1)
		return true
	})
	for have < entries {
		var tx []Entry
		for ; len(tx) < 100 && have < entries; unit += 2 {
			tx = append(tx, Entry{Unit: unit, Count: 1, Mask: 1, State: StatePending, Time: 1})
			have++
		}
		w.pend = append(w.pend, modelTx{ticket: w.must(w.c.Commit(tx)), entries: tx})
		w.settle()
	}
	if n := w.live.Counts().Entries; n != entries {
		w.t.Fatalf("%d entries, want %d", n, entries)
	}
}

// checkpoint writes one, and fails the test if it cannot.
func (w *world) checkpoint() {
	w.t.Helper()
	before := w.c.ck.written
	w.must(w.c.Checkpoint())
	w.settle()
	if w.c.ck.written == before {
		w.t.Fatalf("no checkpoint: %+v", w.c.Status())
	}
}

// bounded makes sure that a load derives no smaller bound than the server kept.
func (w *world) bounded(disks []*memDisk, what string) {
	w.t.Helper()
	img, err := Load(devices(disks))
	if err != nil {
		w.t.Fatalf("%s: %v", what, err)
	}
	if n := img.layout.TableCapacity(); n < w.c.TableCapacity() {
		w.t.Fatalf("%s: a load says %d entries, the server %d", what, n, w.c.TableCapacity())
	}
	if now := w.c.sb.now; img.sb.Generation == now.Generation &&
		img.layout.TableCapacity() != w.c.TableCapacity() {
		w.t.Fatalf("%s: a load says %d entries, the server %d", what, img.layout.TableCapacity(),
			w.c.TableCapacity())
	}
}

// grown makes sure that all mirrors have larger slots, and that each alone is enough.
func (w *world) grown(than uint64) {
	w.t.Helper()
	if n := w.c.TableCapacity(); n < than*5/4 || n != w.c.sb.now.tableCapacity() {
		w.t.Fatalf("%d entries, %d before: %+v", n, than, w.c.Status())
	}
	for i := range w.c.mirrors {
		if m := &w.c.mirrors[i]; m.state != MirrorGood || m.slot <= w.plan.sb.SlotBytes {
			w.t.Fatalf("mirror %d: %s, slots of %d bytes", i, m.state, m.slot)
		}
		w.alone(i, "grown")
	}
	if w.c.sb.now.Incompat&incompatSlots == 0 {
		w.t.Error("no feature bit says so")
	}
	w.check(SeverityWarning) // the table may be nearly full
}

// TestGrow: a table that is full gets larger slots while it is served, and then holds more. It
// holds as much after a start, and on each mirror alone. A table that is full again grows again, as
// long as there is room.
func TestGrow(t *testing.T) {
	for _, tc := range growWorlds {
		t.Run(tc.name, func(t *testing.T) {
			w := ran(t, tc.p, 71, 10)
			for times := 0; ; times++ {
				was := w.c.TableCapacity()
				w.fill(min(was, 1000))
				w.checkpoint()
				if w.c.Growth() != GrowthNone {
					t.Fatalf("nobody asked: %q", w.c.Growth())
				}
				if w.c.Grow(); w.c.Growth() == GrowthNoRoom {
					if times == 0 || w.c.TableCapacity() != was {
						t.Fatalf("no room after %d times", times)
					}
					t.Logf("%d times, %d entries", times, was)
					break
				}
				if w.c.Growth() != GrowthUnderWay {
					t.Fatalf("%q", w.c.Growth())
				}
				w.settle()
				w.grown(was)
				w.fill(min(w.c.TableCapacity(), 1000))
				w.checkpoint()
				w.grown(was)
				now := w.c.TableCapacity()
				w.power()
				w.settle()
				if n := w.c.TableCapacity(); n != now {
					t.Fatalf("%d entries after a start, %d before", n, now)
				}
				w.grown(was)
			}
			if w.stats.unknown+w.stats.dropped > 0 {
				t.Errorf("%+v", w.stats)
			}
		})
	}
}

// TestGrowEveryCut cuts the power between any two steps of growing, with every write that is under
// way lost, done or torn. What is left loads, holds the table, and can grow to the end.
func TestGrowEveryCut(t *testing.T) {
	for _, tc := range growWorlds {
		t.Run(tc.name, func(t *testing.T) {
			w := ran(t, tc.p, 72, 3)
			was := w.c.TableCapacity()
			w.fill(was)
			cuts, looks, starts := 0, 0, 0
			try := func() {
				w.eachCut(8, &cuts, func(disks []*memDisk, what string) {
					found := w.find(disks, what)
					w.bounded(disks, what)
					if looks++; looks%15 != 0 {
						return
					}
					starts++
					v := &world{t: t, r: w.r, plan: w.plan, disks: disks, base: found, time: w.time}
					v.start()
					v.settle()
					v.c.Grow()
					v.settle()
					v.grown(was)
				})
			}
			w.c.Grow()
			for range 40 {
				w.drain(try)
				if w.c.Growth() == GrowthNone {
					break
				}
				w.commit()
			}
			w.settle()
			w.grown(was)
			if cuts < 100 || starts < 5 {
				t.Errorf("%d cuts, %d starts", cuts, starts)
			}
			t.Logf("%d cuts, %d starts from one", cuts, starts)
		})
	}
}

// TestGrowthAndCuts makes places bad and good again at random, under load and with power cuts,
// while larger slots are asked for all the time.
func TestGrowthAndCuts(t *testing.T) {
	grew := 0
	for _, tc := range growWorlds {
		for seed := range seeds(2) {
			t.Run(fmt.Sprintf("%s/%d", tc.name, seed), func(t *testing.T) {
				w := newWorld(t, seeded(t, 300+seed), tc.p)
				var bad []mirrorPlace
				w.fail = func(op Op) bool {
					return slices.ContainsFunc(bad, func(p mirrorPlace) bool {
						return p.overlaps(mirrorPlace{op.Device, op.Offset, int64(len(op.Data))})
					})
				}
				for i := range steps(2500) {
					if w.r.IntN(150) == 0 {
						bad = bad[:0]
						for range w.r.IntN(3) {
							p := w.c.mirrors[w.r.IntN(len(w.c.mirrors))].place()
							p.start += int64(w.r.IntN(int(p.length/PageSize))) * PageSize
							p.length = PageSize
							bad = append(bad, p)
						}
					}
					w.step()
					if w.r.IntN(20) == 0 {
						w.c.Grow()
					}
					if i%7 == 0 {
						w.find(w.cut(), "cut")
						w.bounded(w.cut(), "cut")
						w.findAlone()
					}
					if i%19 == 0 {
						w.findLatent()
					}
					if w.r.IntN(300) == 0 {
						w.power()
					}
				}
				bad = nil
				w.settle()
				w.power() // or the back-off may take longer than the test
				w.settle()
				w.commits(400)
				w.find(w.disks, "end")
				w.check(SeverityInfo)
				if w.c.TableCapacity() > w.plan.TableCapacity() {
					grew++
				}
			})
		}
	}
	if grew == 0 && !raceDetector {
		t.Error("no set has larger slots")
	}
	t.Logf("%d sets have larger slots", grew)
}

// TestGrowWaits: no mirror leaves a good place while the set could not do without it, and the table
// is as large as before until every mirror has grown.
func TestGrowWaits(t *testing.T) {
	t.Run("a mirror is stale", func(t *testing.T) {
		w := ran(t, growParams(smallParams(512, 0)), 73, 10)
		was := w.c.TableCapacity()
		m := &w.c.mirrors[0]
		w.fail = func(op Op) bool { return w.ofMirror(op, 0) }
		w.commits(5)
		w.fail = w.at(0, append(w.c.sb.now.mirrorPlaces(0), m.start)...)
		other := w.c.mirrors[1].place()
		w.fail = func(op Op) bool {
			return op.Device == 0 && !op.Read && op.Offset < w.plan.sb.HeadBytes &&
				op.Offset >= RegionStart
		}
		for range 40 {
			w.commit()
			w.c.Grow()
			w.settle()
		}
		if w.c.Growth() != GrowthWaits || w.c.TableCapacity() != was ||
			w.c.mirrors[1].place() != other {
			t.Fatalf("%+v", w.c.Status())
		}
		w.fail = nil
		w.commits(backoffRecords << maxBackoff)
		w.grown(was)
	})
	t.Run("the larger place is bad", func(t *testing.T) {
		w := ran(t, growParams(smallParams(512, 0)), 74, 10)
		was := w.c.TableCapacity()
		steps := w.c.sb.now.growthSteps(w.c.sb.now.growthSlot())
		bad := mirrorPlace{0, steps[0].to.start + steps[0].to.length - PageSize, PageSize}
		slot := steps[0].to.start + w.c.sb.now.growthSlot() + PageSize // a page of slot 1
		w.fail = func(op Op) bool {
			at := mirrorPlace{op.Device, op.Offset, int64(len(op.Data))}
			return !op.Read && (at.overlaps(bad) || at.overlaps(mirrorPlace{0, slot, PageSize}))
		}
		w.c.Grow()
		w.commits(3000)
		t.Logf("%+v", w.c.Status())
		w.find(w.disks, "a bad page")
		if w.c.TableCapacity() < was {
			t.Errorf("%d entries, %d before", w.c.TableCapacity(), was)
		}
		w.check(SeverityWarning)
	})
}

// TestGrowthRoom: in every layout that Plan makes, slots can be half as large again at least. Every
// step on the way there is a valid layout, in which a mirror outside of the head stays there.
func TestGrowthRoom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l, _ := drawLayout(t)
		sb := l.Superblock()
		was := sb.leastSlot()
		slot := sb.growthSlot()
		if slot < was+was/2-int64(sb.AtomSize) || slot > growthTimes*was {
			t.Fatalf("slots of %d bytes can have %d: %v, %v", was, slot, sb.freeSpans(0),
				sb.freeSpans(1%uint8(len(sb.Devices))))
		}
		sb.grow(t, slot)
		if sb.leastSlot() != slot || sb.tableCapacity() <= l.TableCapacity() {
			t.Fatalf("%d after all steps, not %d", sb.leastSlot(), slot)
		}
	})
}

// grow makes all steps to larger slots, and checks each.
func (sb *Superblock) grow(t interface{ Fatalf(string, ...any) }, slot int64) {
	var mirrors []int
	for i := range sb.Regions {
		if sb.Regions[i].Kind == RegionMirror {
			mirrors = append(mirrors, i)
		}
	}
	for _, step := range sb.growthSteps(slot) {
		r := &sb.Regions[mirrors[step.mirror]]
		in := sb.inHead(r)
		r.Start, r.Length = step.to.start, step.to.length
		sb.stateSlots()
		if _, err := newLayout(sb); err != nil {
			t.Fatalf("%+v: %v", step, err)
		}
		if sb.inHead(r) != in {
			t.Fatalf("a mirror left the head, or got there: %+v", r)
		}
	}
}
