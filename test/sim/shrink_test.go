package sim

import "testing"

// TestShrink makes runs with planted bugs smaller. It makes sure that the result still fails when
// it is written down and read again.
func TestShrink(t *testing.T) {
	skipWithRace(t)
	for _, b := range []Bug{BugDropsFUA, BugFlushIgnored, BugDiscardHome} {
		t.Run(b.String(), func(t *testing.T) {
			t.Parallel()
			seed, _ := find(b)
			if seed == 0 {
				t.Fatal("the bug was not found")
			}
			got := Shrink(seed, Options{Bug: b}, 3000)
			t.Logf("seed %d: %d doings left of %d after %d runs: %s\n%v", seed, got.Actions,
				got.Before, got.Runs, got.Set, got.Err)
			if got.Err == nil || got.Actions > 20 || got.Actions*2 > got.Before {
				t.Errorf("%d doings are left of %d: %v", got.Actions, got.Before, got.Err)
			}
			set, err := ParseSetting(got.Set.String())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Run(seed, Options{Bug: b, Set: set}); err == nil ||
				err.Error() != got.Err.Error() {
				t.Errorf("read again: %v", err)
			}
			if _, err := Run(seed, Options{Set: set}); err != nil {
				t.Errorf("without the bug: %v", err)
			}
		})
	}
}
