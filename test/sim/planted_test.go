package sim

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var flagTable = flag.String("table", "", "file whose section on planted bugs TestPlantedBugs "+
	"writes anew: ../../docs/RELIABILITY.md")

// plantedSeeds is the number of seeds within which each bug must be found.
const plantedSeeds = 3000

func bugNamed(t *testing.T, name string) Bug {
	if name == "" {
		return BugNone
	}
	for b := range bugs {
		if b.String() == name {
			return b
		}
	}
	t.Fatalf("no bug is called %q", name)
	return BugNone
}

// runFor makes a run that is about what a bug needs, with that bug or another one.
func runFor(about Bug, seed uint64, b Bug) error {
	opts := Options{Bug: b, Focus: about.Focus()}
	if name := about.Focus().scenario(); name != "" {
		sc, err := scenarioNamed(name)
		if err == nil {
			layout := "pair-512"
			if about.Focus() == FocusSpares { // only on the backing disk such units are retired
				layout = "alone-512"
			}
			_, err = Play(sc, layout, seed, opts)
		}
		return err
	}
	_, err := Run(seed, opts)
	return err
}

// find looks for a planted bug. A request that hangs and a panic are no proof: the bug's wrapper
// may be the cause.
func find(b Bug) (seed uint64, err error) {
	for seed = 1; seed <= plantedSeeds; seed++ {
		err = runFor(b, seed, b)
		if err != nil && !strings.Contains(err.Error(), "hang") && !strings.Contains(err.Error(),
			"panic:") {
			return seed, err
		}
	}
	return 0, nil
}

// cpuTime is what the process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestPlantedBugs shows that the checks can fail: each planted bug is found within a number of
// seeds. Bugs that are inside of the code under test need the build tag planted.
func TestPlantedBugs(t *testing.T) {
	skipWithRace(t)
	var mu sync.Mutex
	var rows []string
	for b := BugNone + 1; b < bugs; b++ {
		t.Run(b.String(), func(t *testing.T) {
			if b.Inside() {
				if !plant(b, true) {
					t.Skip("inside of the code under test: needs -tags planted, as make sim has it")
				}
				defer plant(b, false)
			} else if *flagTable == "" {
				t.Parallel()
			}
			began := cpuTime()
			seed, err := find(b)
			took := cpuTime() - began
			if seed == 0 {
				t.Fatal("not found")
			}
			t.Logf("%d seeds, found: %v", seed, err)
			plant(b, false)
			if err := runFor(b, seed, BugNone); err != nil {
				t.Errorf("but it fails without the bug too: %v", err)
			}
			if *flagTable != "" && took > time.Minute {
				t.Errorf("found after %v of CPU time, a minute is too long", took)
			}
			runs := "any"
			if f := b.Focus(); f != FocusNone {
				runs = f.String()
			}
			mu.Lock()
			rows = append(rows, fmt.Sprintf("| `%s` | %s | %s | %s | %d | %.1f | %s |", b,
				bugTable[b].what, bugTable[b].where, runs, seed, took.Seconds(), said(err)))
			mu.Unlock()
		})
	}
	if *flagTable != "" && !t.Failed() {
		writeTable(t, rows)
	}
}

var prefix = regexp.MustCompile(`^seed \d+, step \d+: `)

// said shortens the message of a check to what fits into a table.
func said(err error) string {
	text, _, _ := strings.Cut(prefix.ReplaceAllString(err.Error(), ""), "\n")
	text = strings.NewReplacer("|", "\\|", "`", "'").Replace(text)
	if len(text) > 150 {
		text = text[:150] + "…"
	}
	return text
}

const tableHeading = "## Planted bugs\n"

// writeTable puts the table under its heading, and leaves the rest of the file alone.
func writeTable(t *testing.T, rows []string) {
	old, err := os.ReadFile(*flagTable)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	before, after, found := strings.Cut(string(old), tableHeading)
	if found {
		if _, rest, more := strings.Cut(after, "\n## "); more {
			after = "\n## " + rest
		} else {
			after = ""
		}
	} else if before != "" {
		before += "\n"
	}
	text := tableHeading + `
Bugs are planted to show that the checks of the simulator can fail. There are three places for them:

* the drivers of the engines, the arbiter and the committer;
* the view of the disks that a load gets;
* the code under test itself, with the build tag ` +
		"`planted`" + `. The product is built without that tag
  and contains no trace of them.

The first seeds must find each bug. The runs are ordinary ones, or runs about just what the bug
needs. A hang or a panic does not count. CPU seconds are of one core. ` +
		"`make planted-table`" + ` makes
this table.

| bug | what it does | where it is planted | runs | seeds | CPU s | what the check said |
| --- | --- | --- | --- | --- | --- | --- |
` + strings.Join(rows, "\n") + "\n"
	if err := os.WriteFile(*flagTable, []byte(before+text+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
