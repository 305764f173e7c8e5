package metadata

import (
	"math/rand/v2"
	"testing"
)

// TestCondense: a table that is stated in fewer entries says the same. Beyond density 1 it also
// calls some blocks at home pending that are not. Nothing else differs.
func TestCondense(t *testing.T) {
	plan, err := Plan(PlanParams{BackingSize: 64 << 20, BlockSize: 512, Name: "dense",
		SpareBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	var saved [8]int
	for range 400 {
		table, raw := randomTable(t, r, plan), 0
		for d := range Density(8) {
			table.dense = d
			list := make([]Entry, 4096)
			n, _, done := table.Entries(0, list)
			if !done {
				t.Fatal(n)
			}
			if d == 0 {
				raw = n
			}
			saved[d] += raw - n
			again := NewTable(plan)
			for _, e := range list[:n] {
				if err := again.Apply(e); err != nil {
					t.Fatal(err)
				}
			}
			if c := CountEntries(table); c != uint64(n) {
				t.Fatalf("%d entries are counted, they are %d", c, n)
			}
			table.dense = 0
			if d < 2 {
				if !sameTable(table, again) {
					t.Fatalf("density %d: %+v", d, list[:n])
				}
				continue
			}
			for u := uint64(590); u < 700; u++ {
				for b := range 8 {
					state, spare, pending := table.Block(u, b)
					s, p, q := again.Block(u, b)
					if s != state || p != spare || pending && !q || q && !pending &&
						state != StateHome {
						t.Fatalf("density %d: block %d of unit %d: %v %d %v, was %v %d %v", d, b, u,
							s, p, q, state, spare, pending)
					}
				}
			}
		}
	}
	for d := 1; d < len(saved); d++ {
		// Runs are taken as they come, so a density may save a few entries less than the
		// one before.
		if saved[d] == 0 || saved[d] < saved[d-1]-saved[d-1]/50 {
			t.Errorf("entries saved by density: %v", saved)
		}
	}
}

func randomTable(t *testing.T, r *rand.Rand, plan *Layout) *Table {
	table := NewTable(plan)
	spare := uint32(0)
	masks := []uint8{0xff, 0xff, 3, 1, 2}
	for range 1 + r.IntN(60) {
		e := Entry{Unit: 600 + r.Uint64N(60), Count: 1, Mask: masks[r.IntN(len(masks))],
			Time: 1 + r.Uint32N(8)/7, Cause: CauseRead}
		switch r.IntN(6) {
		case 0:
			e.State, e.Count = StatePending, 1+r.Uint32N(30)
		case 1, 2, 3:
			e.State, e.Spare = StateMapped, spare
			spare += 1 + r.Uint32N(2)
		case 4:
			e.State = StateLost
		case 5:
			e.State = StateHome
		}
		if err := table.Apply(e); err != nil {
			t.Fatal(err)
		}
	}
	return table
}

// TestOverfullSets: sets whose table is larger than a checkpoint, as older versions let it
// grow, are stated so that it fits.
func TestOverfullSets(t *testing.T) {
	plan, err := Plan(PlanParams{BackingSize: 1 << 30, BlockSize: 512, Name: "overfull"})
	if err != nil {
		t.Fatal(err)
	}
	n := plan.TableCapacity()
	for name, fill := range map[string]func(apply func(Entry)){
		"writes into a zone": func(apply func(Entry)) {
			apply(Entry{Unit: 5000, Count: uint32(3 * n), Mask: 0xff, State: StatePending, Time: 1})
			for i := range plan.SpareUnits() {
				apply(Entry{Unit: 5000 + 2*i, Spare: uint32(i), Count: 1, Mask: 0xff,
					State: StateMapped, Time: 2})
			}
			for i := range n / 3 {
				apply(Entry{Unit: 6000 + 3*n + 2*i, Count: 1, Mask: 1, State: StatePending,
					Time: 1})
			}
		},
		"one of two blocks": func(apply func(Entry)) {
			for i := range n - 10 {
				apply(Entry{Unit: 5000 + 2*i, Count: 1, Mask: 3, State: StatePending, Time: 1})
			}
			for i := range min(n/3, plan.SpareUnits()) {
				apply(Entry{Unit: 5000 + 2*i, Spare: uint32(i), Count: 1, Mask: 1,
					State: StateMapped, Time: 2})
			}
		},
		"every other unit": func(apply func(Entry)) {
			for i := range n + 1000 {
				apply(Entry{Unit: 5000 + 2*i, Count: 1, Mask: 0xff, State: StatePending,
					Time: uint32(i)})
			}
		},
	} {
		table := NewTable(plan)
		fill(func(e Entry) {
			if err := table.Apply(e); err != nil {
				t.Fatal(name, err)
			}
		})
		before := CountEntries(table)
		table.fit(plan)
		if after := CountEntries(table); before <= n || after > n || table.dense == 0 {
			t.Errorf("%s: %d entries, then %d of %d, density %d", name, before, after, n,
				table.dense)
		}
	}
}
