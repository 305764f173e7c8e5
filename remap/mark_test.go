package remap

import (
	"math/rand/v2"
	"testing"

	"ublkremap/metadata"
)

// marked marks ranges and returns how that ended. Done must have been called.
func (r *rig) marked(ranges ...metadata.BlockRange) (res MarkResult) {
	r.t.Helper()
	ended := 0
	if err := r.a.Mark(Marking{Ranges: ranges, Cause: metadata.CauseImport,
		Done: func(m MarkResult) { res, ended = m, ended+1 }}); err != nil {
		r.t.Fatal(err)
	}
	r.run()
	if ended != 1 {
		r.t.Fatalf("Done was called %d times", ended)
	}
	return res
}

// TestMark: listed blocks become pending. What lives in the spare region, or is lost, stays so. A
// second time changes nothing.
func TestMark(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	for _, bs := range []int{512, 4096} {
		r := newMoverRig(t, bs, 400)
		per := r.s.geo.BlocksPerUnit()
		r.move(Move{Block: 1100, Count: 64, ToSpare: true, Cause: metadata.CauseOperator})
		r.s.m.Apply(metadata.Entry{Unit: 1200 / per, Count: 2, Mask: 1, State: metadata.StateLost})
		r.s.m.Apply(metadata.Entry{Unit: 1300 / per, Count: 2, Mask: 1,
			State: metadata.StatePending})
		before := map[uint64]UnitInfo{}
		for u := range r.s.geo.Units() {
			before[u] = r.s.m.Unit(u)
		}
		listed := map[uint64]bool{}
		var ranges []metadata.BlockRange
		for b := uint64(900); b < 4000; {
			n := 1 + rng.Uint64N(9)
			if rng.IntN(20) == 0 {
				n += 200
			}
			ranges = append(ranges, metadata.BlockRange{Block: b, Count: n})
			for i := range n {
				listed[b+i] = true
			}
			b += n + rng.Uint64N(12)
		}
		var want MarkResult
		for b := range listed {
			bit, info := uint8(1)<<(b%per), before[b/per]
			switch {
			case (info.Pending|info.Lost)&bit != 0:
				want.Known++
			case info.Mapped()&bit != 0:
				want.Spared++
			default:
				want.Marked++
			}
		}
		if got := r.marked(ranges...); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
		for u, was := range before {
			now := r.s.m.Unit(u)
			for i := range per {
				bit := uint8(1) << i
				pending := was.Pending&bit != 0 ||
					listed[u*per+i] && (was.Mapped()|was.Lost)&bit == 0
				if now.Mapped() != was.Mapped() || now.Lost != was.Lost ||
					now.Pending&bit != 0 != pending {
					t.Fatalf("unit %d: %+v, was %+v", u, now, was)
				}
			}
		}
		again := r.marked(ranges...)
		if want.Known, want.Marked = want.Known+want.Marked, 0; again != want {
			t.Errorf("again: %+v, want %+v", again, want)
		}
	}
}

// TestMarkRefuses what is no list, and everything while the breaker is open.
func TestMarkRefuses(t *testing.T) {
	r := newMoverRig(t, 4096, 400)
	run := func(block, count uint64) metadata.BlockRange {
		return metadata.BlockRange{Block: block, Count: count}
	}
	for _, ranges := range [][]metadata.BlockRange{nil, {run(5, 0)}, {run(5, 2), run(6, 1)},
		{run(9, 1), run(5, 1)}, {run(r.s.geo.Blocks, 1)}, {run(r.s.geo.Blocks-1, 2)},
		{run(1, ^uint64(0))}} {
		if err := r.a.Mark(Marking{Ranges: ranges}); err != ErrRange {
			t.Errorf("%v: %v", ranges, err)
		}
	}
	r.a.trip(TripPath, "test")
	if err := r.a.Mark(Marking{Ranges: []metadata.BlockRange{run(5, 1)}}); err != ErrTripped {
		t.Error(err)
	}
}
