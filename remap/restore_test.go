package remap

import (
	"math/rand/v2"
	"testing"

	"ublkremap/metadata"
)

// TestQuarantineEnds: FORMAT.md: "A mapped entry also ends the quarantine of the spare units that
// it names." The server must make the same of any entries as the Table of package metadata.
func TestQuarantineEnds(t *testing.T) {
	plan, err := metadata.Plan(metadata.PlanParams{BackingSize: 64 << 20, BlockSize: 4096,
		Name: "quarantine"})
	noError(t, err)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	for range 200 {
		var entries []metadata.Entry
		for i := range uint32(1 + rng.IntN(40)) {
			e := metadata.Entry{Spare: rng.Uint32N(8), Count: 1 + rng.Uint32N(3),
				Cause: metadata.CauseWrite, Time: i + 1}
			switch rng.IntN(4) {
			case 0:
				e.State = metadata.StateRetired
			case 1:
				e.State = metadata.StateAvailable
			case 2:
				e.State = metadata.StateQuarantined
			case 3: // each spare unit serves one unit
				e.State, e.Unit, e.Mask = metadata.StateMapped, 700+uint64(e.Spare), 1
			}
			entries = append(entries, e)
		}
		tab := metadata.NewTable(plan)
		r, err := Restore(plan, func(f func(metadata.Entry) error) error {
			for _, e := range entries {
				noError(t, tab.Apply(e))
				if err := f(e); err != nil {
					return err
				}
			}
			return nil
		})
		noError(t, err)
		want := tab.Counts()
		if q, n := r.Allocator.Quarantined(), r.Allocator.Retired(); q != want.Quarantined ||
			n != want.Retired {
			t.Fatalf("quarantined %d, retired %d, the format's table says %d, %d: %+v", q, n,
				want.Quarantined, want.Retired, entries)
		}
		if used := r.Allocator.Used(); used != want.SparesUsed {
			t.Fatalf("%d used, want %d", used, want.SparesUsed)
		}
	}
}
