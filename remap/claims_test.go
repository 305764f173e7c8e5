package remap

import (
	"math/rand/v2"
	"slices"
	"testing"

	"ublkremap/metadata"
)

// TestRunIndex compares the index with a look at all claims.
func TestRunIndex(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	for _, claims := range []int{1, 3, 64} {
		x := newRunIndex(claims)
		runs := make([]run, claims)
		for range 20_000 {
			i := rng.IntN(claims)
			switch rng.IntN(4) {
			case 0:
				runs[i] = run{}
			case 1:
				runs[i] = run{rng.Uint64N(40), 1}
			default:
				runs[i] = run{rng.Uint64N(1 << rng.IntN(12)), 1 + rng.Uint32N(1<<rng.IntN(9))}
			}
			x.set(i, runs[i])
			unit := runs[rng.IntN(claims)].unit + rng.Uint64N(300)
			var got, want []int
			x.each(unit, func(i int) bool { got = append(got, i); return true })
			for i, r := range runs {
				if r.count > 0 && unit >= r.unit && unit-r.unit < uint64(r.count) {
					want = append(want, i)
				}
			}
			if slices.Sort(got); !slices.Equal(got, want) {
				t.Fatalf("unit %d: %v, want %v: %+v", unit, got, want, runs)
			}
		}
	}
}

// TestManyClaims: what the Arbiter looks at for a heal does not grow with the heals that
// are under way.
func TestManyClaims(t *testing.T) {
	var most float64
	for _, c := range []struct{ queues, depth, units int }{{1, 64, 1}, {1, 64, 32}, {16, 256, 1},
		{4, 256, 32}} {
		g := &herd{t: t, rng: rand.New(rand.NewPCG(1, 5))}
		plan, err := metadata.Plan(metadata.PlanParams{BackingSize: 1 << 40, BlockSize: 4096,
			Name: "group", SpareBytes: 1 << 30})
		noError(t, err)
		g.disk = &herdDisk{size: 1 << 40, pages: map[int64][]byte{}}
		devices := []metadata.Device{g.disk}
		noError(t, metadata.Create(devices, plan, nil))
		img, err := metadata.Load(devices)
		noError(t, err)
		r, err := Restore(img.Layout(), img.Replay)
		noError(t, err)
		g.homes = int64(r.Geometry.Blocks) * 4096
		shared := NewShared(r.Geometry, r.Map)
		k := herdKeeper{g}
		g.arbiter = NewArbiter(ArbiterConfig{Queues: c.queues, Depth: c.depth,
			Buffer: make([]byte, 8192), Policy: Policy{Burst: 1 << 40}}, shared, r.Allocator, k, k)
		g.com, err = metadata.NewCommitter(img, g.arbiter, metadata.Options{Session: 1})
		noError(t, err)
		_, err = g.com.Open(1)
		noError(t, err)
		metadata.RunOps(g.com, devices, nil)
		for q := range c.queues {
			g.engines = append(g.engines, NewEngine(EngineConfig{Queue: uint16(q), Depth: c.depth,
				MaxBlocks: 128, ZeroBlocks: 16, Policy: Policy{MaxBad: 1}}, shared,
				herdQueue{g, q}))
		}
		for q, e := range g.engines {
			for tag := range c.depth {
				e.Submit(&Request{Tag: uint16(tag), Op: OpWrite,
					Block: 100000 + uint64(q*c.depth+tag)*64, Count: uint32(c.units)})
			}
		}
		n := c.queues * c.depth
		for rounds := 0; g.finished < n; rounds++ {
			if rounds == 10_000 {
				t.Fatalf("%d of %d heals", g.finished, n)
			}
			g.round(1)
		}
		per := float64(g.arbiter.index.held.looked+
			g.arbiter.index.waiting.looked) / float64(n*c.units)
		t.Logf("%d queues × %d, %d units: %.3f claims looked at for each unit", c.queues, c.depth,
			c.units, per)
		if n <= 64 {
			most = max(most, per)
		} else if per > 2*most+1 {
			t.Errorf("%d queues × %d, %d units: %.3f claims are looked at for each unit, %.3f "+
				"with few", c.queues, c.depth, c.units, per, most)
		}
		if live, held := g.arbiter.index.live, g.arbiter.index.held.n; live != 0 || held != 0 {
			t.Errorf("%d claims, %d held in the end", live, held)
		}
	}
}
