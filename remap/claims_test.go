package remap

import (
	"math/rand/v2"
	"slices"
	"syscall"
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

// TestManyClaims: the number of claims that the Arbiter looks at for a heal does not grow with the
// heals that are under way. Requests stand in groups: the four of a group begin at the same unit,
// in different blocks of it, so they meet in the index.
func TestManyClaims(t *testing.T) {
	const blockSize, per, group = 512, metadata.UnitSize / 512, 4
	var few float64
	for _, c := range []struct{ queues, depth, units int }{{1, 16, 1}, {1, 64, 1}, {4, 16, 5},
		{16, 256, 1}, {8, 256, 5}} {
		g := newHerdOf(t, 1, metadata.PlanParams{BackingSize: 1 << 40, BlockSize: blockSize,
			SpareBytes: 1 << 30}, c.queues, EngineConfig{Depth: c.depth, MaxBlocks: 128 * per,
			ZeroBlocks: 16 * per, Policy: Policy{MaxBad: 1, Burst: 1 << 40}})
		n := c.queues * c.depth
		// The order is that of other places than of the tags.
		for _, i := range g.rng.Perm(n) {
			unit, first := uint64(100_000+i/group*(c.units+1)), uint64(i%group*per/group)
			g.engines[i%c.queues].Submit(&Request{Tag: uint16(i / c.queues), Op: OpWrite,
				Block: unit*per + first, Count: uint32(c.units * per)})
		}
		for rounds := 0; g.finished < n; rounds++ {
			if rounds == 100_000 {
				t.Fatalf("%d of %d heals", g.finished, n)
			}
			g.round(1)
		}
		looks := float64(g.arbiter.index.held.looked+
			g.arbiter.index.waiting.looked) / float64(n*c.units)
		t.Logf("%d queues × %d, %d units: %.3f claims looked at for each unit", c.queues, c.depth,
			c.units, looks)
		switch {
		case looks == 0:
			t.Errorf("%d queues × %d, %d units: no claim is ever looked at", c.queues, c.depth,
				c.units)
		case n <= 64:
			few = max(few, looks)
		case looks > 2*few:
			t.Errorf("%d queues × %d, %d units: %.3f claims are looked at for each unit, %.3f "+
				"with few", c.queues, c.depth, c.units, looks, few)
		}
		if live, held := g.arbiter.index.live, g.arbiter.index.held.n; live != 0 || held != 0 {
			t.Errorf("%d claims, %d held in the end", live, held)
		}
	}
}

// TestLateClaimFreesOnce: a claim that has seen a spare unit fail arrives while the unit is being
// freed, and waits for a relocation. The spare unit is not given to others before the claim has
// ended.
func TestLateClaimFreesOnce(t *testing.T) {
	r := newRig(t, 512, 8)
	for b := range uint64(8) {
		r.breakHome(2000+b, syscall.EIO)
	}
	r.do(OpWrite, 2000, 8)
	old := r.s.m.Unit(250).Places[0].Spare
	reserve := func(tag uint16) {
		m := Message{Kind: MsgReserve, Tag: tag, Unit: 250, Count: 1, First: 0xff, Last: 0xff,
			Mapped: true, Spare: old, Tries: 1, Errno: -int32(syscall.EIO)}
		m.Tried[0] = old
		r.a.Receive(&m)
	}
	settle := func() {
		for len(r.moves)+len(r.tickets) > 0 {
			r.step()
		}
	}
	reserve(0)
	settle()
	granted := r.toE[len(r.toE)-1]
	r.want("granted", granted.Kind, MsgReserved)
	commit := granted
	commit.Kind, commit.First, commit.Last = MsgCommit, 0xff, 0xff
	commit.Mapped, commit.Tries, commit.Tried = true, 1, [MaxTries]uint32{old}
	commit.Count = 1
	r.a.Receive(&commit)
	settle()
	r.want("it is to be free", r.alloc.FreeDeferred(old), true)
	r.s.m.SetBusy(250, 1, true)
	reserve(1)
	r.a.Receive(&Message{Kind: MsgGraceDone, Generation: r.a.grace.generation})
	r.want("in use", r.alloc.IsUsed(old), true)
	r.want("to be free", r.alloc.FreeDeferred(old), false)
	r.s.m.SetBusy(250, 1, false)
	r.a.wakeAll()
	r.a.advance()
	r.want("to be free, in the end", r.alloc.FreeDeferred(old), true)
	r.a.Receive(&Message{Kind: MsgGraceDone, Generation: r.a.grace.generation})
	r.want("claims", r.a.Status().Claims, 0)
}
