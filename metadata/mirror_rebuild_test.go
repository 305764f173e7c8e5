package metadata

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// drawLayout draws a layout that Plan makes, of any size.
func drawLayout(t *rapid.T) (*Layout, PlanParams) {
	p := PlanParams{
		BackingSize:       rapid.Int64Range(16<<20, 1<<42).Draw(t, "backing"),
		BlockSize:         512 << rapid.IntRange(0, 3).Draw(t, "block"),
		PhysicalBlockSize: 512 << rapid.IntRange(0, 7).Draw(t, "physical"),
		Name:              "n",
	}
	if rapid.Bool().Draw(t, "asked") {
		p.SpareBytes = UnitSize * rapid.Int64Range(1, 1<<20).Draw(t, "spare")
	}
	if rapid.Bool().Draw(t, "pair") {
		p.SpareDeviceSize = rapid.Int64Range(64<<20, 1<<36).Draw(t, "spare device")
	}
	l, err := Plan(p)
	if err != nil {
		t.Skip(err)
	}
	return l, p
}

// TestPlanLeavesRoom: wherever mirrors lie there is room for one more.
func TestPlanLeavesRoom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l, p := drawLayout(t)
		var head, tail bool
		for _, start := range l.sb.mirrorPlaces(0) {
			head = head || start < l.sb.HeadBytes
			tail = tail || start >= l.sb.ExportedBytes
		}
		if !head || tail != (p.SpareDeviceSize == 0) {
			t.Fatalf("room in the head: %v, in the tail: %v: %v", head, tail, l.sb.freeSpans(0))
		}
		if p.SpareDeviceSize != 0 && len(l.sb.mirrorPlaces(1)) == 0 {
			t.Fatalf("no room on the spare device: %v", l.sb.freeSpans(1))
		}
		// Each place, taken, makes a layout that is valid.
		for i := range l.sb.Regions {
			if r := l.sb.Regions[i]; r.Kind == RegionMirror {
				for _, start := range l.sb.mirrorPlaces(r.Device) {
					moved := l.Superblock()
					moved.Regions[i].Start = start
					if _, err := newLayout(&moved); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	})
}

// at makes a fault that hits writes to mirrors that lie at one of the places
// on a device.
func (w *world) at(device uint8, starts ...int64) func(Op) bool {
	length := 2*w.plan.sb.SlotBytes + w.plan.sb.LogBytes
	return func(op Op) bool {
		return op.Device == device && slices.ContainsFunc(starts, func(s int64) bool {
			return op.Offset < s+length && s < op.Offset+int64(len(op.Data))
		})
	}
}

func (w *world) elsewhere(i int, was mirrorAt) {
	w.t.Helper()
	m := &w.c.mirrors[i]
	if m.state != MirrorGood || m.start == was.start || m.device != was.device {
		w.t.Fatalf("mirror %d of device %d at %d: it is %s at %d of device %d", i, was.device,
			was.start, m.state, m.start, m.device)
	}
	sb, err := Probe(w.disks[0])
	if err != nil {
		w.t.Fatal(err)
	}
	if r := sb.Regions[m.region]; r.Stale || r.Start != m.start || r.Generation < 2 {
		w.t.Fatalf("%+v", r)
	}
	w.alone(i, "moved")
}

// alone looks at what is found if all mirrors but one are lost.
func (w *world) alone(i int, what string) {
	w.t.Helper()
	if w.c.mirrors[i].device != 0 {
		return // one mirror of the backing is always needed
	}
	var disks []*memDisk
	for _, d := range w.disks {
		disks = append(disks, d.clone())
	}
	for j := range w.c.mirrors {
		if m := &w.c.mirrors[j]; j != i {
			wipe(disks[m.device], m)
		}
	}
	w.find(disks, fmt.Sprintf("only mirror %d: %s", i, what))
}

// TestMirrorMoves: a mirror whose place takes no writes any more is rebuilt in
// another place, at once, and then is as good as any; so is one that has a bad
// spot under a checkpoint slot, and one whose place is bad at the start.
func TestMirrorMoves(t *testing.T) {
	for _, tc := range worlds {
		for i := range len(single(t, tc.p).c.mirrors) {
			t.Run(fmt.Sprintf("%s/%d", tc.name, i), func(t *testing.T) {
				w := ran(t, tc.p, 61, 30)
				was := w.c.mirrors[i].mirrorAt
				w.fail = w.at(was.device, was.start)
				w.commit()
				w.settle()
				w.elsewhere(i, was)
				w.commits(70)
				w.power()
				w.settle()
				w.elsewhere(i, was)
				w.check(SeverityInfo)

				// The new place goes bad as well: back to the old one, which is
				// good again by now.
				now := w.c.mirrors[i].mirrorAt
				w.fail = w.at(now.device, now.start)
				w.commits(2 * backoffRecords)
				w.elsewhere(i, now)
				w.check(SeverityInfo)
				if w.stats.unknown+w.stats.dropped > 0 {
					t.Errorf("%+v", w.stats)
				}
			})
		}
	}
	t.Run("one slot", func(t *testing.T) {
		for slot := range 2 {
			w := ran(t, smallParams(512, 0), 62, 5)
			was := w.c.mirrors[1].mirrorAt
			bad := was.pageOffset(slot, 0)
			w.fail = func(op Op) bool {
				return op.Offset <= bad &&
					bad < op.Offset+int64(len(op.Data))
			}
			w.commits(5 * backoffRecords)
			w.elsewhere(1, was)
			w.check(SeverityInfo)
		}
	})
	t.Run("stale at the start", func(t *testing.T) {
		w := ran(t, smallParams(512, 0), 63, 5)
		rewrite(w.disks[0], func(sb *Superblock) {
			sb.Regions[1].Stale,
				sb.Regions[1].StaleFrom = true, w.c.durable.Position
		})
		was := w.c.mirrors[1].mirrorAt
		w.start()
		w.fail = w.at(0, was.start)
		w.settle()
		w.elsewhere(1, was)
		w.check(SeverityInfo)
	})
}

// TestMoveEveryCut cuts the power between any two steps of a move, with every
// write that is under way lost, done or torn; what is left loads, starts, and
// ends with all mirrors good.
func TestMoveEveryCut(t *testing.T) {
	for _, tc := range []struct {
		name string
		p    PlanParams
	}{{"alone", smallParams(512, 0)}, {"pair", pairParams(512)}} {
		t.Run(tc.name, func(t *testing.T) {
			w := ran(t, tc.p, 64, 3)
			was := w.c.mirrors[0].mirrorAt
			w.fail = w.at(was.device, was.start)
			cuts, starts := 0, 0
			try := func() {
				w.eachCut(0, &cuts, func(disks []*memDisk, what string) {
					found := w.find(disks, what)
					if cuts%11 != 0 {
						return
					}
					starts++
					v := &world{t: t, r: w.r, plan: w.plan, disks: disks, base: found, time: w.time}
					v.start()
					v.fail = w.fail
					v.settle()
					v.commits(backoffRecords + 2)
					v.elsewhere(0, was)
					v.check(SeverityInfo)
				})
			}
			for i := range 6 {
				w.commit()
				w.drain(try)
				if i == 0 && w.c.mirrors[0].start == was.start {
					t.Error("not moved at once")
				}
			}
			w.settle()
			w.elsewhere(0, was)
			if cuts < 100 || starts < 10 {
				t.Errorf("%d cuts, %d starts", cuts, starts)
			}
			t.Logf("%d cuts, %d starts from one", cuts, starts)
		})
	}
}

// TestNoGoodPlace: if every place is bad they take turns, with ever longer pauses. A place that
// works again is found.
func TestNoGoodPlace(t *testing.T) {
	w := ran(t, smallParams(512, 0), 65, 3)
	places := append(w.c.sb.now.mirrorPlaces(0), w.c.mirrors[0].start)
	writes, seen := 0, map[int64]bool{}
	bad := w.at(0, places...)
	w.fail = func(op Op) bool {
		if bad(op) {
			writes++
			seen[w.c.mirrors[0].start] = true
			return true
		}
		return false
	}
	const commits = 3000
	w.commits(commits)
	if st := w.c.Status().Mirrors; st[0].State != MirrorStale || st[1].State != MirrorGood {
		t.Fatalf("%+v", st)
	}
	if len(seen) != len(places) || writes > 200 {
		t.Errorf("%d writes failed, in %d places of %d", writes, len(seen), len(places))
	}
	t.Logf("%d commits, %d writes failed in %d places", commits, writes, len(seen))
	w.check(SeverityWarning)
	w.fail = nil
	for range backoffRecords << 6 {
		if w.commit(); w.c.mirrors[0].state == MirrorGood {
			break
		}
		w.settle()
	}
	w.settle()
	if w.c.mirrors[0].state != MirrorGood {
		t.Errorf("%+v", w.c.Status())
	}
	w.check(SeverityInfo)
}

// TestMovesAndCuts makes places bad and good again at random, under load, with power cuts.
func TestMovesAndCuts(t *testing.T) {
	moves := 0
	for _, tc := range worlds {
		for seed := range seeds(1) {
			t.Run(fmt.Sprintf("%s/%d", tc.name, seed), func(t *testing.T) {
				w := newWorld(t, seeded(t, 100+seed), tc.p)
				type spot struct {
					device uint8
					start  int64
				}
				var all []spot
				for d := range w.disks {
					for _, s := range w.c.sb.now.mirrorPlaces(uint8(d)) {
						all = append(all, spot{uint8(d), s})
					}
				}
				for i := range w.c.mirrors {
					all = append(all, spot{w.c.mirrors[i].device, w.c.mirrors[i].start})
				}
				bad := map[spot]bool{}
				w.fail = func(op Op) bool {
					for s := range bad {
						if w.at(s.device, s.start)(op) {
							return true
						}
					}
					return false
				}
				for i := range steps(2000) {
					if w.r.IntN(150) == 0 {
						clear(bad)
						for range w.r.IntN(3) {
							bad[all[w.r.IntN(len(all))]] = true
						}
					}
					w.stepAndCut(i)
				}
				w.fail = nil
				w.settle()
				w.power() // or the back-off may take longer than the test
				w.settle()
				w.commits(400)
				w.find(w.disks, "end")
				w.check(SeverityInfo)
				for i := range w.c.mirrors {
					if w.c.mirrors[i].state != MirrorGood {
						t.Errorf("%+v", w.c.Status())
					}
				}
				sb, err := Probe(w.disks[0])
				if err != nil {
					t.Fatal(err)
				}
				for _, r := range sb.Regions {
					moves += int(r.Generation) - 1
				}
			})
		}
	}
	if moves == 0 && !raceDetector {
		t.Error("no mirror moved")
	}
	t.Logf("%d moves", moves)
}

// TestRebuiltMirrorMoves: a mirror has been brought back, and the superblocks do not say so
// yet. A second checkpoint fails on it, so that it is to be rebuilt elsewhere. The new place
// holds nothing: it must not count as good before a checkpoint is there.
func TestRebuiltMirrorMoves(t *testing.T) {
	w := single(t, smallParams(4096, 0))
	m := &w.c.mirrors[0]
	was := m.mirrorAt
	inLog := func(op Op) bool { return w.ofMirror(op, 0) && op.Offset >= was.logOffset(0) }
	done := func(op Op, err error) {
		switch {
		case err != nil:
		case op.Read:
			_, err = w.disks[op.Device].ReadAt(op.Data, op.Offset)
		default:
			w.disks[op.Device].store(memWrite{op.Offset, slices.Clone(op.Data)}, nil)
		}
		w.c.Done(op.ID, err)
		w.c.Results()
	}
	const (
		refusing = iota // the mirror refuses a record, and becomes stale
		rebuilding
		racing // the second checkpoint fails while a record is being written
		over
	)
	stage, slow := refusing, []Op(nil)
	w.must(w.c.Commit(w.tx(1)))
	for range 1000 {
		ops := slices.Clone(w.c.Ops())
		for _, op := range ops {
			switch {
			case stage == refusing && inLog(op), stage == racing && w.ofMirror(op, 0) && !inLog(op):
				done(op, errMedium)
			case stage == racing && inLog(op):
				slow = append(slow, op)
			default:
				done(op, nil)
			}
			switch {
			case stage == refusing && m.state == MirrorStale:
				stage = rebuilding
			case stage == rebuilding && m.state == mirrorRebuilt:
				stage = racing
				if _, err := w.c.Checkpoint(); err != nil {
					t.Fatal(err)
				}
			case stage == racing && m.move != moveNone:
				stage = over
				for _, op := range slow {
					done(op, nil)
				}
			}
		}
		if m.state == MirrorGood && m.new < 0 {
			t.Fatalf("at %d it is good, and has no checkpoint", m.start)
		}
		if len(ops) == 0 {
			break
		}
	}
	if stage != over {
		t.Fatalf("stage %d: the mirror is %s", stage, m.state)
	}
	w.elsewhere(0, was)
}
