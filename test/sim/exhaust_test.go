package sim

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

var (
	flagScenario = flag.String("scenario", "", "only this scenario, with -layout and -seed; with "+
		"-path and -v print the steps after an interruption")
	flagLayout = flag.String("layout", "alone-512", "with -scenario")
	flagAgain  = flag.Int("again", 1, "with UBLK_REMAP_FULL: one of how many interruptions of "+
		"recoveries is made")
	flagOrders = flag.Uint64("orders", 5, "with UBLK_REMAP_FULL: orders of events of each "+
		"scenario")
	flagPath = flag.String("path", "",
		"with -scenario: the interruptions, as a failure says them")
)

// TestExhaustive interrupts every scenario at every single write, and the recovery from that once
// more. In make sim only some writes of a recovery are interrupted. In a plain go test only some
// writes of the scenarios are interrupted too. UBLK_REMAP_FULL interrupts everything at every
// write, for several orders of events.
func TestExhaustive(t *testing.T) {
	full := os.Getenv("UBLK_REMAP_FULL") != ""
	how := Exhausting{Again: 24, Sparse: 1}
	orders := uint64(1)
	switch {
	case full:
		how.Again, orders = *flagAgain, *flagOrders
	case raceEnabled:
		how = Exhausting{Again: 60, Sparse: 9}
	case os.Getenv("UBLK_REMAP_SIM_SEEDS") == "":
		how = Exhausting{Again: 30, Sparse: 3}
	}
	if *flagScenario != "" {
		how.Only = *flagPath
		how.Again = 1
		if *flagPath != "" && testing.Verbose() {
			how.Trace = func(line string) { t.Log(line) }
		}
		exhaustOne(t, *flagScenario, *flagLayout, max(1, *flagSeed), how)
		return
	}
	var mu sync.Mutex
	var total Exhausted
	began := time.Now()
	names := []string{"create", "create-over"}
	for i := range Scenarios {
		names = append(names, Scenarios[i].Name)
	}
	t.Run("all", func(t *testing.T) {
		for _, name := range names {
			for i, layout := range Layouts {
				how := how
				if name == tableGrows {
					how.Sparse, how.Again = 2*how.Sparse, how.Again*4
				}
				if name == "log-wraps" {
					if i > 0 && !full {
						continue
					}
					how.Sparse, how.Again = 7*how.Sparse, how.Again*8
				}
				t.Run(name+"/"+layout, func(t *testing.T) {
					t.Parallel()
					for seed := uint64(1); seed <= orders; seed++ {
						out := exhaustOne(t, name, layout, seed, how)
						mu.Lock()
						total.Add(&out)
						mu.Unlock()
					}
				})
			}
		}
	})
	t.Logf("in %v: %s", time.Since(began).Round(time.Millisecond), &total)
}

func exhaustOne(t *testing.T, name, layout string, seed uint64, how Exhausting) Exhausted {
	t.Helper()
	var out Exhausted
	var err error
	switch name {
	case "create", "create-over":
		out, err = ExhaustCreate(layout, name == "create-over", seed, how)
	default:
		var sc *Scenario
		if sc, err = scenarioNamed(name); err != nil {
			t.Fatal(err)
		}
		out, err = Exhaust(sc, layout, seed, BugNone, how)
	}
	if err != nil {
		t.Fatalf("%v\nrepeat: go test ./test/sim -run 'TestExhaustive$' -v -scenario=%s "+
			"-layout=%s -seed=%d -path=%s", err, name, layout, seed, pathOf(err))
	}
	t.Logf("seed %d: %s", seed, &out)
	return out
}

// pathOf finds the interruptions in a failure's message.
func pathOf(err error) string {
	var path string
	if _, err := fmt.Sscanf(err.Error(), "interrupted at %s", &path); err != nil {
		return ""
	}
	return strings.TrimSuffix(path, ":")
}

// TestExhaustRepeats makes sure that the path of a failure is enough to repeat it.
func TestExhaustRepeats(t *testing.T) {
	skipWithRace(t)
	sc, err := scenarioNamed("heal")
	if err != nil {
		t.Fatal(err)
	}
	for _, bug := range []Bug{BugDropsFUA, BugCachedHeal} {
		_, first := Exhaust(sc, "pair-512", 3, bug, Exhausting{Again: 4, Sparse: 1})
		if first == nil {
			t.Errorf("%v: no interruption shows it", bug)
			continue
		}
		var trace int
		_, again := Exhaust(sc, "pair-512", 3, bug, Exhausting{Again: 1, Sparse: 1,
			Only: pathOf(first), Trace: func(string) { trace++ }})
		if again == nil || again.Error() != first.Error() {
			t.Errorf("%v: %v\nrepeated: %v", bug, first, again)
		} else if pathOf(first) != "" && trace == 0 {
			t.Errorf("%v: nothing was traced", bug)
		}
		t.Logf("%v: %v", bug, first)
	}
}
