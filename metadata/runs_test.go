package metadata

import (
	"math/rand/v2"
	"testing"
)

// TestRuns compares the runs of random tables with what the table says of each block.
func TestRuns(t *testing.T) {
	for _, bs := range []int{512, 4096} {
		plan, err := Plan(PlanParams{BackingSize: 64 << 20, BlockSize: bs, Name: "runs"})
		if err != nil {
			t.Fatal(err)
		}
		seed := rand.Uint64()
		rng := rand.New(rand.NewPCG(seed, 1))
		for range 300 {
			b := &Backup{layout: plan, table: randomRuns(t, rng, plan)}
			compareRuns(t, b, uint64(UnitSize/bs))
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		}
	}
}

// randomRuns makes a table of a few units.
func randomRuns(t *testing.T, rng *rand.Rand, plan *Layout) *Table {
	table := NewTable(plan)
	full := uint8(1<<(UnitSize/plan.BlockSize()) - 1)
	spare := uint32(0)
	for range 1 + rng.IntN(20) {
		e := Entry{Unit: 600 + rng.Uint64N(40), Count: 1 + rng.Uint32N(5), Mask: full,
			Time: 1 + rng.Uint32N(2), Cause: CauseRead,
			State: []State{StateHome, StateMapped, StateLost, StatePending}[rng.IntN(4)]}
		if rng.IntN(2) == 0 {
			e.Mask = 1 + uint8(rng.UintN(uint(full)))
		}
		if e.State == StateMapped {
			e.Spare = spare
			if rng.IntN(3) > 0 {
				spare += e.Count
			} else {
				spare += e.Count + 1
			}
		}
		if err := table.Apply(e); err != nil {
			t.Fatal(err)
		}
	}
	return table
}

func compareRuns(t *testing.T, b *Backup, per uint64) {
	t.Helper()
	var last Run
	next := 600 * per
	plain := func(to uint64) {
		for ; next < to; next++ {
			if state, _, pending := b.table.Block(next/per, int(next%per)); state != StateHome ||
				pending {
				t.Errorf("block %d is %s, pending %v, and in no run", next, state, pending)
			}
		}
	}
	b.Runs(func(r Run) bool {
		if r.Count == 0 || r.Block < next || last.Count > 0 && last.follows(&r) {
			t.Errorf("%+v after %+v", r, last)
		}
		plain(r.Block)
		for i := range r.Count {
			state, spare, pending := b.table.Block((r.Block+i)/per, int((r.Block+i)%per))
			if state != r.State || pending != r.Pending || state == StateMapped &&
				uint64(spare)*per+(r.Block+i)%per != r.Spare+i {
				t.Errorf("block %d of %+v: %s, spare %d, pending %v", r.Block+i, r, state, spare,
					pending)
			}
		}
		next, last = r.Block+r.Count, r
		return true
	})
	plain(660 * per)
	n := 0
	b.Runs(func(Run) bool { n++; return false })
	if n > 1 {
		t.Errorf("%d calls after the one that ended it", n)
	}
}
