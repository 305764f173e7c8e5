package campaign

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"ublkremap/test/rig"
)

// roundsEnv names the environment variable that asks for a long campaign of so
// many rounds of each test.
const roundsEnv = "UBLK_REMAP_ROUNDS"

// long says whether a long campaign was asked for.
func long() bool { return os.Getenv(roundsEnv) != "" }

// rounds is how many rounds to do; short is that of the short version.
func rounds(t *testing.T, short int) int {
	t.Helper()
	v := os.Getenv(roundsEnv)
	if v == "" {
		return short
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		t.Fatalf("%s=%s: want a number", roundsEnv, v)
	}
	return n
}

// seeds returns the seed of each round. The first is that of the campaign, so that
// a single round can be repeated by its own.
func seeds(t *testing.T, n int) []uint64 {
	t.Helper()
	first := rig.Seed(t)
	rng := rand.New(rand.NewPCG(first, 1))
	all := []uint64{first}
	for len(all) < n {
		all = append(all, rng.Uint64()>>1)
	}
	return all
}

func source(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

// spread sums up durations.
type spread []time.Duration

func (s spread) String() string {
	if len(s) == 0 {
		return "none"
	}
	s = slices.Clone(s)
	slices.Sort(s)
	r := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
	return fmt.Sprintf("min %v, median %v, max %v (%d)", r(s[0]), r(s[len(s)/2]), r(s[len(s)-1]),
		len(s))
}

// tally counts things by name.
type tally map[string]int

func (c tally) String() string {
	names := make([]string, 0, len(c))
	for n := range c {
		names = append(names, n)
	}
	slices.Sort(names)
	var out []string
	for _, n := range names {
		out = append(out, fmt.Sprintf("%s %d", n, c[n]))
	}
	return strings.Join(out, ", ")
}
