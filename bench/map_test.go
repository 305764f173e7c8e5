package bench

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"ublkremap/metadata"
	"ublkremap/remap"
)

// looks is how many places a benchmark looks at in turn. 'near' ones are drawn
// from a few, so that what leads to them is in the processor's caches, as for a
// workload with locality; 'far' ones from the whole table, one after the other.
const looks = 1 << 16

// places fills looks places, with what draw returns.
func places(near bool, draw func() uint64) []uint64 {
	out := make([]uint64, looks)
	few := looks
	if near {
		few = 64
	}
	for i := range out {
		if i < few {
			out[i] = draw()
		} else {
			out[i] = out[i%few]
		}
	}
	return out
}

var (
	sinkRun remap.Run
	sinkOK  bool
)

// next measures Next over ranges of so many blocks, all of which must be a hit,
// or none.
func next(b *testing.B, m *remap.Map, at []uint64, blocks uint64, hit bool) {
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		block := at[i&(looks-1)]
		sinkRun, sinkOK = m.Next(block, block+blocks)
	}
	for _, block := range at {
		if _, ok := m.Next(block, block+blocks); ok != hit {
			b.Fatalf("Next(%d, +%d) is %v", block, blocks, ok)
		}
	}
}

// clean draws a place with nothing in the range behind it. In a scattered table
// it lies among remapped units; in a dense one anywhere.
func clean(rnd *rand.Rand, m *remap.Map, blocks uint64) func() uint64 {
	return func() uint64 {
		for {
			block := rnd.Uint64N(diskUnits-512) * perUnit
			if _, ok := m.Next(block, block+blocks); !ok {
				return block
			}
		}
	}
}

var nearAndFar = []struct {
	name string
	near bool
}{{"near", true}, {"far", false}}

// BenchmarkNext asks what a queue asks of every request: 4 KiB with a remapped
// unit, 4 KiB and 1 MiB without.
func BenchmarkNext(b *testing.B) {
	eachTable(b, func(b *testing.B, t *table) {
		for _, where := range nearAndFar {
			rnd := rand.New(rand.NewPCG(7, 7))
			b.Run("miss4K/"+where.name, func(b *testing.B) {
				next(b, t.m, places(where.near, clean(rnd, t.m, perUnit)), perUnit, false)
			})
			b.Run("clean1M/"+where.name, func(b *testing.B) {
				next(b, t.m, places(where.near, clean(rnd, t.m, mib)), mib, false)
			})
			if len(t.units) == 0 {
				continue
			}
			b.Run("hit4K/"+where.name, func(b *testing.B) {
				next(b, t.m, places(where.near, func() uint64 { return t.units[rnd.IntN(len(t.units))] * perUnit }), perUnit, true)
			})
		}
	})
}

// BenchmarkNextRun asks for 1 MiB that lies in spare units in a row: the longest
// run that a request has.
func BenchmarkNextRun(b *testing.B) {
	m := remap.NewMap(diskUnits, perUnit)
	m.Apply(metadata.Entry{State: metadata.StateMapped, Count: 1 << 16, Mask: 0xff})
	next(b, m, places(false, func() uint64 { return rand.Uint64N(1<<6) * 4 * mib }), mib, true)
}

// BenchmarkNextWhileInserting asks while one writer inserts and removes single
// units as fast as it can, all over the table.
func BenchmarkNextWhileInserting(b *testing.B) {
	eachTable(b, func(b *testing.B, t *table) {
		for _, what := range []string{"miss4K", "clean1M", "hit4K"} {
			rnd := rand.New(rand.NewPCG(8, 8))
			// Twice the places, as the writer's units make some unclean.
			draw, blocks, hit := clean(rnd, t.m, perUnit), uint64(perUnit), false
			switch {
			case what == "clean1M":
				draw, blocks = clean(rnd, t.m, mib), mib
			case what == "hit4K" && len(t.units) == 0:
				continue
			case what == "hit4K":
				draw, hit = func() uint64 { return t.units[rnd.IntN(len(t.units))] * perUnit }, true
			}
			b.Run(what, func(b *testing.B) {
				at := places(false, draw)
				var wg sync.WaitGroup
				stop := make(chan struct{})
				var inserts int
				wg.Add(1)
				go func() {
					defer wg.Done()
					rnd := rand.New(rand.NewPCG(9, 9))
					for {
						select {
						case <-stop:
							return
						default:
						}
						// A unit that is at home, beside a remapped one if there is any.
						u := rnd.Uint64N(diskUnits)
						if len(t.units) > 0 {
							u = t.units[rnd.IntN(len(t.units))] ^ 1
						}
						if info := t.m.Unit(u); info.N != 0 {
							t.m.Apply(mapped(u, info.Places[0].Spare)) // says what is so: the leaf is replaced all the same
						} else {
							t.m.Apply(mapped(u, 1))
							t.m.Apply(metadata.Entry{State: metadata.StateHome, Unit: u, Count: 1, Mask: 0xff})
							inserts++
						}
						inserts++
					}
				}()
				next2(b, t.m, at, blocks)
				close(stop)
				wg.Wait()
				b.ReportMetric(float64(inserts)/b.Elapsed().Seconds()/1e3, "kinserts/s")
				for _, block := range at { // the writer has cleaned up behind itself
					if _, ok := t.m.Next(block, block+blocks); ok != hit {
						b.Fatalf("Next(%d, +%d) is %v", block, blocks, ok)
					}
				}
			})
		}
	})
}

// next2 is next without the check.
func next2(b *testing.B, m *remap.Map, at []uint64, blocks uint64) {
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		block := at[i&(looks-1)]
		sinkRun, sinkOK = m.Next(block, block+blocks)
	}
}

// BenchmarkInsert inserts a single unit, and takes it home again off the clock
// of no one: each iteration is two changes of the table.
func BenchmarkInsert(b *testing.B) {
	eachTable(b, func(b *testing.B, t *table) {
		rnd := rand.New(rand.NewPCG(10, 10))
		at := make([]uint64, looks)
		for i := range at {
			at[i] = rnd.Uint64N(diskUnits)
			if len(t.units) > 0 {
				at[i] = t.units[rnd.IntN(len(t.units))]
			}
		}
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			u := at[i&(looks-1)]
			t.m.Apply(metadata.Entry{State: metadata.StateHome, Unit: u, Count: 1, Mask: 0xff})
			t.m.Apply(mapped(u, uint32(u)))
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(2*b.N), "ns/change")
		current = table{} // it is not what it was
	})
}

// BenchmarkLoad builds whole tables from single entries, in the order of their
// units as a checkpoint has them, and in any order as a log might. It
// reports the memory per unit, from the map's structure and from the heap.
func BenchmarkLoad(b *testing.B) {
	for _, size := range sizes[2:] {
		for _, layout := range append(layouts, "shuffled") {
			b.Run(fmt.Sprintf("remaps=%s/%s", size.name, layout), func(b *testing.B) {
				current = table{}
				units := tableUnits(layout, size.remaps)
				if layout == "shuffled" {
					rand.New(rand.NewPCG(11, 11)).Shuffle(len(units), func(i, j int) { units[i], units[j] = units[j], units[i] })
				}
				before := heap()
				var m *remap.Map
				b.ReportAllocs()
				for b.Loop() {
					m = nil
					m = build(units)
				}
				if got := m.Counts().Mapped; got != uint64(len(units)) {
					b.Fatalf("%d units", got)
				}
				b.ReportMetric(float64(m.Bytes())/float64(len(units)), "B/unit")
				b.ReportMetric(float64(heap()-before)/float64(len(units)), "heapB/unit")
				runtime.KeepAlive(m)
				runtime.KeepAlive(units)
			})
		}
	}
}

func heap() int64 {
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc)
}

// BenchmarkEntries reads a whole table for a checkpoint, a page at a time.
func BenchmarkEntries(b *testing.B) {
	eachTable(b, func(b *testing.B, t *table) {
		page := make([]metadata.Entry, 160)
		entries := 0
		b.ReportAllocs()
		for b.Loop() {
			entries = 0
			for cursor, done := uint64(0), false; !done; {
				var n int
				n, cursor, done = t.m.Entries(cursor, page)
				entries += n
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(max(1, entries)), "ns/entry")
	})
}
