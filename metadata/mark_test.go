package metadata

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// blockStates lists the state of each block of a set.
func blockStates(t testing.TB, devs []Device) []State {
	t.Helper()
	img, err := Load(devs)
	if err != nil {
		t.Fatal(err)
	}
	table, err := img.Table()
	if err != nil {
		t.Fatal(err)
	}
	per := uint64(UnitSize / img.layout.BlockSize())
	out := make([]State, img.layout.Blocks())
	for b := range out {
		state, _, pending := table.Block(uint64(b)/per, b%int(per))
		if out[b] = state; pending {
			out[b] = StatePending
		}
	}
	return out
}

// drawRanges draws a list of blocks: single ones, neighbours, and long runs.
func (w *world) drawRanges(blocks uint64) (list []BlockRange) {
	for at := uint64(w.r.IntN(20)); at < blocks; {
		n := 1 + uint64(w.r.IntN(4))
		if w.r.IntN(6) == 0 {
			n = 1 + w.r.Uint64N(200)
		}
		n = min(n, blocks-at)
		list = append(list, BlockRange{at, n})
		at += n + 1 + w.r.Uint64N(60)
	}
	return list
}

// TestMarks marks random lists in sets with a history. Each block has the state that it should
// have, and the counts are right. A cut at any write leaves each block as it was or marked, and the
// same list marked again completes the marks.
func TestMarks(t *testing.T) {
	for _, tc := range worlds {
		t.Run(tc.name, func(t *testing.T) {
			for seed := range seeds(2) {
				w := history(t, tc.p, 700+seed, seed%2 == 1)
				list := w.drawRanges(w.plan.Blocks())
				before := blockStates(t, devices(w.disks))
				want := slices.Clone(before)
				var marked, known, spared uint64
				for _, r := range list {
					for b := r.Block; b < r.Block+r.Count; b++ {
						switch before[b] {
						case StateHome:
							want[b] = StatePending
							marked++
						case StateMapped:
							spared++
						default:
							known++
						}
					}
				}
				for n := 0; ; n += stride(tc.name) {
					disks := clones(w.disks)
					m := planMarks(t, healing(disks, n), list)
					if m.Marked != marked || m.Known != known || m.Spared != spared {
						t.Fatalf("%+v, want %d, %d, %d", m, marked, known, spared)
					}
					err := m.Run(RunOptions{Now: 6, Session: w.r.Uint64()})
					after := make([]*memDisk, len(disks))
					for i, d := range disks {
						after[i] = d.cut(w.r)
					}
					wantStates(t, fmt.Sprintf("seed %d, cut at write %d", seed, n), devices(after),
						before, want)
					if err != nil {
						m = planMarks(t, healing(after, noCut), list)
						if err := m.Run(RunOptions{Now: 7, Session: w.r.Uint64()}); err != nil {
							t.Fatal(err)
						}
					}
					wantStates(t, "in the end", devices(after), want, want)
					if r, checkErr := Check(devices(after)); checkErr != nil || !r.OK() {
						t.Fatal(checkErr, r.String())
					}
					if err == nil {
						break
					}
				}
			}
		})
	}
}

func planMarks(t testing.TB, devs []Device, list []BlockRange) *Marks {
	t.Helper()
	img, err := Load(devs)
	if err != nil {
		t.Fatal(err)
	}
	m, err := PlanMarks(img, list, CauseImport, 5)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// wantStates: each block has one state or the other.
func wantStates(t testing.TB, what string, devs []Device, one, other []State) {
	t.Helper()
	for b, s := range blockStates(t, devs) {
		if s != one[b] && s != other[b] {
			t.Fatalf("%s: block %d is %v, want %v or %v", what, b, s, one[b], other[b])
		}
	}
}

// TestMarksTooMany: a list that leaves no room for heals is refused, and nothing is written.
func TestMarksTooMany(t *testing.T) {
	p := smallParams(512, 0)
	p.BackingSize, p.Name = 64<<20, "many"
	plan, err := Plan(p)
	if err != nil {
		t.Fatal(err)
	}
	d := newMemDisk(p.BackingSize)
	if err := Create([]Device{d}, plan, nil); err != nil {
		t.Fatal(err)
	}
	var list []BlockRange
	for b := uint64(0); b < plan.Blocks(); b += 16 {
		list = append(list, BlockRange{b, 1})
	}
	img, err := Load([]Device{d})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := PlanMarks(img, list, CauseImport, 1); !errors.Is(err, ErrTableFull) {
		t.Fatalf("%d of %d entries: %v", len(list), plan.TableCapacity(), err)
	}
	// A dead zone is one entry, however large it is.
	m := planMarks(t, []Device{d}, []BlockRange{{3, plan.Blocks() - 3}})
	if err := m.Run(RunOptions{Now: 1, Session: 1}); err != nil || len(m.entries) != 2 {
		t.Fatal(err, m.entries)
	}
}

// TestMarksCheckpoint: the log fills with marks again and again. Each checkpoint that this brings
// has the marks whose records it covers.
func TestMarksCheckpoint(t *testing.T) {
	p := smallParams(4096, 4096)
	p.Name = "w"
	plan, err := Plan(p)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorldOf(t, rand.New(rand.NewPCG(17, 1)), plan)
	want := blockStates(t, devices(w.disks))
	for at := 0; at < 2500; {
		n := 1
		if w.r.IntN(8) == 0 {
			n = MaxEntries + 1 // two records
		}
		var list []BlockRange
		for range n {
			list = append(list, BlockRange{uint64(at), 1})
			if want[at] == StateHome {
				want[at] = StatePending
			}
			at += 2
		}
		m := planMarks(t, devices(w.disks), list)
		if err := m.Run(RunOptions{Now: 6, Session: w.r.Uint64()}); err != nil {
			t.Fatal(err)
		}
		wantStates(t, fmt.Sprint("at ", at), devices(w.disks), want, want)
	}
}

// TestMarksAreNoted: the flight recorder has each import into a stopped set, and what was there.
// If its rings take no writes, or do not read, the marks are made all the same.
func TestMarksAreNoted(t *testing.T) {
	for _, spare := range []int64{0, 9 << 20} {
		for _, bad := range []string{"", "no writes", "no reads"} {
			p := smallParams(4096, 4096)
			p.Name, p.SpareDeviceSize = "w", spare
			plan, err := Plan(p)
			if err != nil {
				t.Fatal(err)
			}
			w := newWorldOf(t, rand.New(rand.NewPCG(18, 1)), plan)
			sb := plan.Superblock()
			inRing := func(d int) func(off int64, n int) bool {
				return func(off int64, _ int) bool {
					for _, l := range eventLanes(&sb) {
						for _, s := range l.slots {
							if int(l.device) == d && s.offset == off {
								return true
							}
						}
					}
					return false
				}
			}
			for i, d := range w.disks {
				switch bad {
				case "no writes":
					d.failWrite = inRing(i)
				case "no reads":
					for off := int64(0); off < d.size; off += PageSize {
						if inRing(i)(off, 0) {
							d.dead = append(d.dead, [2]int64{off, off + PageSize})
						}
					}
				}
			}
			var marked []uint64
			for n := range uint64(3) {
				m := planMarks(t, devices(w.disks), []BlockRange{{10 * n, 2}, {10*n + 5, 1}})
				if err := m.Run(RunOptions{Now: uint32(6 + n), Session: n}); err != nil {
					t.Fatal(err)
				}
				marked = append(marked, m.Marked)
			}
			events, err := EventsOn(devices(w.disks))
			if err != nil {
				t.Fatal(err)
			}
			if bad != "" {
				if len(events) > 0 {
					t.Errorf("%s: %+v", bad, events)
				}
				continue
			}
			for n, e := range events {
				want := Event{Number: uint64(n + 1), Micros: int64(6+n) * 1e6, Kind: EventImport,
					Done: EventImported, HasBlock: true, Block: uint64(10 * n),
					Count: uint32(marked[n]), Detail: 3}
				if e != want {
					t.Errorf("event %d is %+v, want %+v", n, e, want)
				}
			}
			if len(events) != 3 {
				t.Errorf("%d events of 3 imports", len(events))
			}
			if r, err := Check(devices(w.disks)); err != nil || !r.OK() {
				t.Fatal(err, r.String())
			}
		}
	}
}
