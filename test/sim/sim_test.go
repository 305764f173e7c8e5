package sim

import (
	"flag"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	flagSeed  = flag.Uint64("seed", 0, "run this seed only; with -v print each step")
	flagStart = flag.Uint64("start", 1, "first seed")
	flagSeeds = flag.Uint64("seeds", seedsByDefault(), "number of seeds")
	flagFor   = flag.Duration("for", 0, "begin no more seeds after so long; 0: no limit")
	flagSet   = flag.String("set", "", "with -seed: make the run smaller, as a failure that was "+
		"shrunk says")
	flagBug  = flag.String("bug", "", "with -seed: plant this bug")
	flagMany = flag.Int("failures", 3, "how many failures to gather before giving up")
)

// seedsByDefault is UBLK_REMAP_SIM_SEEDS, which make sim sets, or what a plain
// go test has time for.
func seedsByDefault() uint64 {
	if n, err := strconv.ParseUint(os.Getenv("UBLK_REMAP_SIM_SEEDS"), 10, 64); err == nil {
		return n
	}
	if raceEnabled {
		return 100
	}
	return 2000
}

func TestMain(m *testing.M) {
	flag.Parse()
	// Runs are short and each makes a few MiB of garbage.
	debug.SetGCPercent(800)
	os.Exit(m.Run())
}

// skipWithRace skips what only takes longer with the race detector, because runs have one
// goroutine.
func skipWithRace(t *testing.T) {
	if raceEnabled {
		t.Skip("one goroutine, and slow: not with -race")
	}
}

func TestSim(t *testing.T) {
	if *flagSeed != 0 {
		opts := Options{Bug: bugNamed(t, *flagBug)}
		var err error
		if opts.Set, err = ParseSetting(*flagSet); err != nil {
			t.Fatal(err)
		}
		if plant(opts.Bug, true) {
			defer plant(opts.Bug, false)
		}
		if testing.Verbose() {
			opts.Trace = func(line string) { t.Log(line) }
		}
		if _, err := Run(*flagSeed, opts); err != nil {
			t.Fatal(err)
		}
		return
	}
	var next, failed atomic.Uint64
	next.Store(*flagStart)
	end := *flagStart + *flagSeeds
	var mu sync.Mutex
	var total Stats
	var wg sync.WaitGroup
	began := time.Now()
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for failed.Load() < uint64(*flagMany) {
				seed := next.Add(1) - 1
				if seed >= end || *flagFor != 0 && time.Since(began) > *flagFor {
					next.Add(^uint64(0))
					return
				}
				stats, err := Run(seed, Options{})
				mu.Lock()
				total.Add(&stats)
				mu.Unlock()
				if err != nil {
					failed.Add(1)
					t.Errorf("%v\nrepeat: go test ./test/sim -run 'TestSim$' -v -seed=%d",
						err, seed)
					if failed.Load() == 1 {
						small := Shrink(seed, Options{}, 2000)
						t.Logf("a smaller run that fails, %d actions of %d: %v\nrepeat: go test "+
							"./test/sim -run 'TestSim$' -v -seed=%d -set='%s'",
							small.Actions, small.Before, small.Err, seed, small.Set)
					}
				}
			}
		})
	}
	wg.Wait()
	t.Logf("seeds %d to %d in %v: %s", *flagStart, min(end, next.Load())-1,
		time.Since(began).Round(time.Millisecond), &total)
}

// TestRepeats makes sure that a seed says everything: the same run goes the same way.
func TestRepeats(t *testing.T) {
	for seed := uint64(1); seed <= 20; seed++ {
		var traces [2][]string
		for i := range traces {
			if _, err := Run(seed, Options{Trace: func(line string) {
				traces[i] = append(traces[i],
					line)
			}}); err != nil {
				t.Fatal(err)
			}
		}
		if !slices.Equal(traces[0], traces[1]) {
			t.Fatalf("seed %d went two ways", seed)
		}
	}
}
