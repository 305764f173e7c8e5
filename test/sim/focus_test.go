package sim

import (
	"flag"
	"os"
	"testing"
)

var (
	flagFocus = flag.String("focus", "", "TestFocus: run this one only")
	flagEach  = flag.Uint64("each", eachByDefault(), "TestFocus: number of seeds of each focus, "+
		"from -start on")
)

// eachByDefault is for a few seconds in all. FULL=1 makes as many runs as a planted bug gets.
func eachByDefault() uint64 {
	switch {
	case os.Getenv("UBLK_REMAP_FULL") != "":
		return plantedSeeds
	case raceEnabled:
		return 1
	}
	return 20
}

// TestFocus makes the runs that are about one thing, as planted bugs get them, without a bug. They
// combine what ordinary runs seldom do.
func TestFocus(t *testing.T) {
	found := false
	for f := FocusNone + 1; f < focuses; f++ {
		if f.scenario() != "" || *flagFocus != "" && *flagFocus != f.String() {
			continue // TestExhaustive plays the scenarios
		}
		found = true
		t.Run(f.String(), func(t *testing.T) {
			t.Parallel()
			opts, from, to := Options{Focus: f}, *flagStart, *flagStart+*flagEach
			if *flagSeed != 0 && *flagFocus != "" {
				from, to = *flagSeed, *flagSeed+1
				opts.Trace = func(line string) { t.Log(line) }
			}
			var total Stats
			for seed, failed := from, 0; seed < to && failed < *flagMany; seed++ {
				stats, err := Run(seed, opts)
				total.Add(&stats)
				if err != nil {
					failed++
					t.Errorf("%v\nrepeat: go test ./test/sim -run 'TestFocus$' -v -focus='%v' "+
						"-seed=%d", err, f, seed)
				}
			}
			t.Logf("%s", &total)
		})
	}
	if !found {
		t.Fatalf("no focus is called %q, or it is a scenario", *flagFocus)
	}
}
