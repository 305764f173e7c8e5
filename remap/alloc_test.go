package remap

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"ublkremap/metadata"
)

func newAllocator(t interface {
	Helper()
	Fatal(...any)
}, regions ...SpareRegion) *Allocator {
	t.Helper()
	a, err := NewAllocator(regions)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestAllocatorRegions(t *testing.T) {
	for name, regions := range map[string][]SpareRegion{
		"empty":            {{First: 5, Count: 0}},
		"overlap":          {{First: 5, Count: 10}, {First: 0, Count: 6}},
		"same":             {{First: 5, Count: 10}, {First: 5, Count: 10}},
		"holds NoHint":     {{First: NoHint, Count: 1}},
		"past last number": {{First: 1 << 31, Count: 1<<31 + 1}},
	} {
		if _, err := NewAllocator(regions); !errors.Is(err, ErrSpareRegions) {
			t.Errorf("%s: %v", name, err)
		}
	}
	a := newAllocator(t)
	if _, _, ok := a.Allocate(1, NoHint); ok || a.Total() != 0 {
		t.Error("a unit from no region")
	}
}

func TestAllocate(t *testing.T) {
	a := newAllocator(t, SpareRegion{First: 200, Count: 50}, SpareRegion{First: 0, Count: 100},
		SpareRegion{First: 100, Count: 30})
	steps := []struct {
		count, hint, start, n uint32
	}{
		{10, NoHint, 0, 10},
		{5, NoHint, 10, 5}, // goes on
		{5, 40, 40, 5},     // where it is asked to
		{30, NoHint, 45, 30},
		{30, NoHint, 100, 30}, // 75 to 99 is too short, and a run stays in its region
		{20, 120, 200, 20},
		{40, NoHint, 220, 30}, // nowhere 40: the longest
		{40, NoHint, 15, 25},
		{40, NoHint, 75, 25},
		{1, NoHint, 0, 0},
	}
	for _, s := range steps {
		start, n, ok := a.Allocate(s.count, s.hint)
		if start != s.start || n != s.n || ok != (s.n > 0) {
			t.Fatalf("Allocate(%d, %d) = %d+%d %v, want %d+%d", s.count, s.hint, start, n, ok,
				s.start, s.n)
		}
	}
	if a.FreeCount() != 0 || a.Used() != 180 || a.Total() != 180 {
		t.Errorf("free %d, used %d, total %d", a.FreeCount(), a.Used(), a.Total())
	}
	// The cursor goes on, past what was freed behind it.
	if err := a.Free(50, 50); err != nil {
		t.Fatal(err)
	}
	for _, want := range []uint32{50, 55} {
		if start, n, _ := a.Allocate(5, NoHint); start != want || n != 5 {
			t.Errorf("got %d+%d, want %d+5", start, n, want)
		}
		if err := a.Free(want, 5); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Take(50, 50); err != nil {
		t.Fatal(err)
	}
	// A run that passes over the place where the search begins is found whole.
	if err := a.Free(10, 20); err != nil {
		t.Fatal(err)
	}
	if start, n, _ := a.Allocate(20, 15); start != 10 || n != 20 {
		t.Errorf("got %d+%d", start, n)
	}
}

func TestAllocateFar(t *testing.T) {
	a := newAllocator(t, SpareRegion{First: 0, Count: 100}, SpareRegion{First: 100, Count: 100})
	if u, ok := a.AllocateFar(7); !ok || u != 100 {
		t.Errorf("another region is there: got %d", u)
	}
	if u, ok := a.AllocateFar(107, 7); !ok || u != 32 {
		t.Errorf("a quarter away from 7: got %d", u)
	}
	if u, ok := a.AllocateFar(); !ok || u != 0 {
		t.Errorf("away from nothing: got %d", u)
	}

	one := newAllocator(t, SpareRegion{First: 0, Count: 100})
	if err := one.Take(20, 80); err != nil {
		t.Fatal(err)
	}
	if u, ok := one.AllocateFar(0, 50); !ok || u != 12 {
		t.Errorf("only 0 to 19 are free: got %d, want 12 units of distance", u)
	}
	if err := one.Take(0, 12); err != nil {
		t.Fatal(err)
	}
	if err := one.Take(14, 6); err != nil {
		t.Fatal(err)
	}
	if u, ok := one.AllocateFar(13); ok {
		t.Errorf("nothing but a failed unit is free: got %d", u)
	}
	if u, ok := one.AllocateFar(14); !ok || u != 13 {
		t.Errorf("its neighbour is better than nothing: got %d", u)
	}
	if _, ok := one.AllocateFar(14); ok {
		t.Error("a unit where none is free")
	}
}

func TestAllocatorErrors(t *testing.T) {
	a := newAllocator(t, SpareRegion{First: 10, Count: 10}, SpareRegion{First: 30, Count: 10})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(a.Take(12, 2))
	must(a.Retire(30, 1, metadata.CauseWrite, 5))
	must(a.Quarantine(31, 1, metadata.CauseUnknown, 6))
	before := *a
	for name, test := range map[string]struct {
		err  error
		want error
	}{
		"take twice":        {a.Take(11, 2), ErrSpareState},
		"free what is free": {a.Free(12, 3), ErrSpareState},
		"free twice": {errors.Join(a.Free(12, 1), a.Take(12, 1), a.Free(14, 1)),
			ErrSpareState},
		"deferred of what is free":    {a.DeferFree(14, 1), ErrSpareState},
		"retire twice":                {a.Retire(30, 2, 0, 0), ErrSpareState},
		"quarantine what is retired":  {a.Quarantine(30, 1, 0, 0), ErrSpareState},
		"quarantine twice":            {a.Quarantine(31, 1, 0, 0), ErrSpareState},
		"put back what is in service": {a.Unretire(30, 3), ErrSpareState},
		"below the first region":      {a.Take(9, 2), ErrSpareRange},
		"between regions":             {a.Take(19, 2), ErrSpareRange},
		"past the end":                {a.Retire(39, 2, 0, 0), ErrSpareRange},
		"far past the end":            {a.Free(NoHint, NoHint), ErrSpareRange},
		"entry past the end": {a.Apply(metadata.Entry{State: metadata.StateRetired,
			Spare: 40, Count: 1}), ErrSpareRange},
	} {
		if !errors.Is(test.err, test.want) {
			t.Errorf("%s: %v, want %v", name, test.err, test.want)
		}
	}
	if a.free != before.free || a.nUsed != before.nUsed || a.nDeferred != 0 || a.nRetired != 1 ||
		a.nQuarantined != 1 {
		t.Errorf("an error left its traces: %+v", a)
	}
}

// TestAllocatorTakeMap checks that a table that claims a spare unit twice, or one that does not
// exist, is refused, and that a good one is not.
func TestAllocatorTakeMap(t *testing.T) {
	m := NewMap(1<<20, 8)
	m.Apply(entryOf(metadata.StateMapped, 100, 20, 0xff, 0))
	m.Apply(entryOf(metadata.StateMapped, 105, 1, 0x01, 20)) // lives in 5 and 20
	m.Apply(entryOf(metadata.StateMapped, 5000, 1, 0x01, 30))
	region := SpareRegion{First: 0, Count: 40}
	a := newAllocator(t, region)
	if err := a.TakeMap(m); err != nil || a.Used() != 22 || a.IsUsed(21) || !a.IsUsed(20) {
		t.Errorf("%v, %d used", err, a.Used())
	}
	m.Apply(entryOf(metadata.StateMapped, 6000, 1, 0x80, 5))
	if err := newAllocator(t, region).TakeMap(m); !errors.Is(err, ErrSpareState) {
		t.Errorf("claimed twice: %v", err)
	}
	m.Apply(entryOf(metadata.StateMapped, 6000, 1, 0x80, 40))
	if err := newAllocator(t, region).TakeMap(m); !errors.Is(err, ErrSpareRange) {
		t.Errorf("past the end: %v", err)
	}
}

// spareModel is one spare unit.
type spareModel struct {
	used, deferred bool
	service        Service
	why            note
}

// TestAllocatorModel compares an allocator with a plain list of units.
func TestAllocatorModel(t *testing.T) {
	regions := []SpareRegion{{First: 3, Count: 70}, {First: 73, Count: 60}, {First: 190, Count: 66}}
	rapid.Check(t, func(t *rapid.T) {
		a := newAllocator(t, regions...)
		model := map[uint32]*spareModel{}
		for _, r := range regions {
			for u := r.First; u < r.First+r.Count; u++ {
				model[u] = &spareModel{}
			}
		}
		all := func(start, n uint32, f func(s *spareModel) bool) bool {
			for u := start; u < start+n; u++ {
				if s := model[u]; s == nil || !f(s) {
					return false
				}
			}
			return true
		}
		free := func(s *spareModel) bool { return !s.used && s.service == InService }
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			start, n := rapid.Uint32Range(0, 260).Draw(t, "start"),
				rapid.OneOf(rapid.Uint32Range(1, 3), rapid.Uint32Range(1, 80)).Draw(t, "count")
			why := note{time: rapid.Uint32Range(0, 2).Draw(t, "time"), cause: metadata.CauseWrite}
			var err error
			var from func(*spareModel) bool
			var to func(*spareModel)
			switch op := rapid.IntRange(0, 8).Draw(t, "op"); op {
			case 0:
				err = a.Take(start, n)
				from, to = func(s *spareModel) bool { return !s.used },
					func(s *spareModel) { s.used = true }
			case 1:
				err = a.Free(start, n)
				from, to = func(s *spareModel) bool { return s.used }, func(s *spareModel) {
					s.used,
						s.deferred = false, false
				}
			case 2:
				err = a.DeferFree(start, n)
				from, to = func(s *spareModel) bool { return s.used && !s.deferred },
					func(s *spareModel) { s.deferred = true }
			case 3:
				err = a.Retire(start, n, why.cause, why.time)
				from, to = func(s *spareModel) bool { return s.service != Retired },
					func(s *spareModel) { s.service, s.why = Retired, why }
			case 4:
				err = a.Quarantine(start, n, why.cause, why.time)
				from, to = func(s *spareModel) bool { return s.service == InService },
					func(s *spareModel) { s.service, s.why = Quarantined, why }
			case 5:
				err = a.Unretire(start, n)
				from, to = func(s *spareModel) bool { return s.service != InService },
					func(s *spareModel) { s.service = InService }
			case 6:
				state := rapid.SampledFrom([]metadata.State{metadata.StateRetired,
					metadata.StateQuarantined, metadata.StateAvailable}).Draw(t, "state")
				err = a.Apply(metadata.Entry{State: state, Spare: start, Count: n, Cause: why.cause,
					Time: why.time})
				from = func(*spareModel) bool { return true }
				to = func(s *spareModel) {
					s.service = map[metadata.State]Service{metadata.StateRetired: Retired,
						metadata.StateQuarantined: Quarantined}[state]
					s.why = why
				}
			case 7:
				got, size, ok := a.Allocate(n, rapid.SampledFrom([]uint32{NoHint, start}).Draw(t,
					"hint"))
				longest := uint32(0)
				for u := range model {
					run := uint32(0)
					for run < n && model[u+run] != nil && free(model[u+run]) && sameRegion(regions,
						u, u+run) {
						run++
					}
					longest = max(longest, run)
				}
				if size != longest || ok != (longest > 0) || !all(got, size, free) || size > 0 &&
					!sameRegion(regions, got, got+size-1) {
					t.Fatalf("Allocate(%d) = %d+%d %v, the longest run is %d", n, got, size, ok,
						longest)
				}
				start, n, from, to = got, size, free, func(s *spareModel) { s.used = true }
			case 8:
				got, ok := a.AllocateFar(start, n)
				possible := false
				for u, s := range model {
					possible = possible || free(s) && u != start && u != n
				}
				if ok != possible || ok && (got == start || got == n) {
					t.Fatalf("AllocateFar(%d, %d) = %d %v, possible %v", start, n, got, ok,
						possible)
				}
				start, n, from, to = got, 1, free, func(s *spareModel) { s.used = true }
				if !ok {
					n = 0
				}
			}
			if can := all(start, n, from); can != (err == nil) {
				t.Fatalf("units %d+%d: %v, but the model says %v", start, n, err, can)
			} else if can {
				all(start, n, func(s *spareModel) bool { to(s); return true })
			}
			checkAllocator(t, a, model)
		}
		again := newAllocator(t, regions...)
		page := make([]metadata.Entry, rapid.IntRange(1, 4).Draw(t, "room"))
		for cursor, done := uint64(0), false; !done; {
			var got int
			got, cursor, done = a.Entries(cursor, page)
			for _, e := range page[:got] {
				if err := again.Apply(e); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, s := range model {
			s.used, s.deferred = false, false
		}
		checkAllocator(t, again, model)
	})
}

func sameRegion(regions []SpareRegion, x, y uint32) bool {
	return slices.ContainsFunc(regions, func(r SpareRegion) bool {
		return x >= r.First && y >= r.First && x < r.First+r.Count && y < r.First+r.Count
	})
}

func checkAllocator(t *rapid.T, a *Allocator, model map[uint32]*spareModel) {
	var free, used, deferred, retired, quarantined uint64
	for u, s := range model {
		if a.IsUsed(u) != s.used || a.Service(u) != s.service ||
			a.deferred.has(uint64(u)) != s.deferred {
			t.Fatalf("unit %d: used %v, service %d, want %+v", u, a.IsUsed(u), a.Service(u), *s)
		}
		if s.service != InService && a.notes[u] != s.why {
			t.Fatalf("unit %d: %+v, want %+v", u, a.notes[u], s.why)
		}
		switch {
		case s.deferred:
			deferred++
		case s.used:
			used++
		case s.service == InService:
			free++
		}
		switch s.service {
		case Retired:
			retired++
		case Quarantined:
			quarantined++
		}
	}
	taken, bad := a.CountIn(0, 1<<32)
	if taken != used+deferred || bad != retired+quarantined {
		t.Fatalf("%d units in use and %d bad, want %d and %d", taken, bad, used+deferred,
			retired+quarantined)
	}
	if a.FreeCount() != free || a.Used() != used || a.Deferred() != deferred ||
		a.Retired() != retired ||
		a.Quarantined() != quarantined {
		t.Fatalf("free %d %d, used %d %d, deferred %d %d, retired %d %d, quarantined %d %d",
			a.FreeCount(), free,
			a.Used(), used, a.Deferred(), deferred, a.Retired(), retired, a.Quarantined(),
			quarantined)
	}
	if len(a.notes) != int(retired+quarantined) {
		t.Fatalf("%d notes", len(a.notes))
	}
}

// TestAllocateFragmented checks that a long run that is far away is not searched
// for without end, and that every unit is found in the end.
func TestAllocateFragmented(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	const units = 1 << 15
	a := newAllocator(t, SpareRegion{Count: units})
	for u := uint32(0); u < units-1000; u += 2 {
		if err := a.Take(u, 1); err != nil {
			t.Fatal(err)
		}
	}
	if start, n, ok := a.Allocate(100, 0); !ok || n != 1 {
		t.Errorf("got %d+%d %v: it looked at more than %d runs", start, n, ok, maxRuns)
	}
	for a.FreeCount() > 0 {
		left := a.FreeCount()
		_, n, ok := a.Allocate(1+rnd.Uint32N(20), NoHint)
		if !ok || a.FreeCount() != left-uint64(n) {
			t.Fatalf("%d units are free, got %d %v", left, n, ok)
		}
	}
	if a.Used() != units {
		t.Errorf("%d used", a.Used())
	}
}

func TestAllocatorDoesNotAllocate(t *testing.T) {
	a := newAllocator(t, SpareRegion{First: 0, Count: 1 << 16}, SpareRegion{First: 1 << 16,
		Count: 1 << 16})
	if n := testing.AllocsPerRun(100,
		func() { a.AllocateFar(3, 1<<16+5); a.Allocate(7, NoHint); a.Allocate(1, 500) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if a.Used() != 101*9 {
		t.Errorf("%d used", a.Used())
	}
}
