package bench

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ublkremap/metadata"
	"ublkremap/remap"
)

// looks is how many places a benchmark looks up in turn. 'near' places are drawn from a few, so
// that the path to them is in the processor's caches, as for a workload with locality. 'far' places
// are drawn from the whole table, one after the other.
const looks = 1 << 16

// places returns looks places that draw draws.
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

// sink receives the results of lookups. It has its cache lines to itself.
var sink struct {
	_   [128]byte
	run remap.Run
	ok  bool
	_   [128]byte
}

// next measures Next over ranges of that many blocks.
func next(b *testing.B, m *remap.Map, at []uint64, blocks uint64) {
	b.ReportAllocs()
	defer perCPU(b)()
	for i := 0; b.Loop(); i++ {
		block := at[i&(looks-1)]
		sink.run, sink.ok = m.Next(block, block+blocks)
	}
}

// verify checks that all of the ranges are hits, or that none is.
func verify(b *testing.B, m *remap.Map, at []uint64, blocks uint64, hit bool) {
	for _, block := range at {
		if _, ok := m.Next(block, block+blocks); ok != hit {
			b.Fatalf("Next(%d, +%d) is %v", block, blocks, ok)
		}
	}
}

// clean draws a place with nothing in the range behind it. In a scattered table the place is among
// remapped units. In a dense table it is anywhere.
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

// ask is one question that a queue asks.
type ask struct {
	name   string
	blocks uint64
	hit    bool
}

// asks are the questions that a queue asks about requests: 4 KiB with a remapped unit, 4 KiB and 1
// MiB without one.
var asks = []ask{{"miss4K", perUnit, false}, {"clean1M", mib, false}, {"hit4K", perUnit, true}}

// places returns where to ask.
func (a ask) places(t *table, near bool) []uint64 {
	rnd := rand.New(rand.NewPCG(7, 7))
	if a.hit {
		return places(near, func() uint64 { return t.units[rnd.IntN(len(t.units))] * perUnit })
	}
	return places(near, clean(rnd, t.m, a.blocks))
}

// eachAsk runs f for each question that is possible for a table.
func eachAsk(b *testing.B, t *table, f func(b *testing.B, a ask)) {
	for _, a := range asks {
		if !a.hit || len(t.units) > 0 {
			b.Run(a.name, func(b *testing.B) { f(b, a) })
		}
	}
}

// BenchmarkNext looks a request up.
func BenchmarkNext(b *testing.B) {
	eachTable(b, func(b *testing.B, t *table) {
		eachAsk(b, t, func(b *testing.B, a ask) {
			for _, near := range []bool{true, false} {
				b.Run(map[bool]string{true: "near", false: "far"}[near], func(b *testing.B) {
					at := a.places(t, near)
					verify(b, t.m, at, a.blocks, a.hit)
					next(b, t.m, at, a.blocks)
				})
			}
		})
	})
}

// BenchmarkNextRun asks for 1 MiB that lies in consecutive spare units: the longest run that a
// request has.
func BenchmarkNextRun(b *testing.B) {
	m := remap.NewMap(diskUnits, perUnit)
	m.Apply(metadata.Entry{State: metadata.StateMapped, Count: 1 << 16, Mask: 0xff})
	rnd := rand.New(rand.NewPCG(6, 6))
	at := places(false, func() uint64 { return rnd.Uint64N(1<<6) * 4 * mib })
	verify(b, m, at, mib, true)
	next(b, m, at, mib)
}

// BenchmarkNextWhileInserting looks up near places while one writer changes units all over the
// table. The writer works as fast as it can, or at 5,000 changes a second, which is many times what
// the breaker allows in the long run. The benchmark reports how many changes the writer made.
func BenchmarkNextWhileInserting(b *testing.B) {
	eachTable(b, func(b *testing.B, t *table) {
		eachAsk(b, t, func(b *testing.B, a ask) {
			at := a.places(t, true)
			for _, pace := range []struct {
				name  string
				sleep time.Duration // after 10 changes
			}{{"flat-out", 0}, {"5k", 2 * time.Millisecond}} {
				b.Run(pace.name, func(b *testing.B) { whileInserting(b, t, at, a, pace.sleep) })
			}
		})
	})
}

func whileInserting(b *testing.B, t *table, at []uint64, a ask, sleep time.Duration) {
	var wg sync.WaitGroup
	var stop atomic.Bool
	changes := 0
	wg.Go(func() {
		for rnd := rand.New(rand.NewPCG(9, 9)); !stop.Load(); {
			for range 5 {
				flip(t, rnd)
				changes += 2
			}
			if sleep > 0 {
				time.Sleep(sleep)
			}
		}
	})
	next(b, t.m, at, a.blocks)
	elapsed := b.Elapsed()
	stop.Store(true)
	wg.Wait()
	b.ReportMetric(float64(changes)/elapsed.Seconds()/1e3, "kchanges/s")
	verify(b, t.m, at, a.blocks, a.hit) // the writer left the table unchanged
}

// flip changes a unit and changes it back. It moves a remapped unit to another spare unit. If there
// is none it remaps a unit that is at home. Either way two leaves are made anew.
func flip(t *table, rnd *rand.Rand) {
	if len(t.units) == 0 {
		u := rnd.Uint64N(diskUnits)
		t.m.Apply(mapped(u, 1))
		t.m.Apply(home(u))
		return
	}
	i := rnd.IntN(len(t.units))
	t.m.Apply(mapped(t.units[i], spareOf(i)+1))
	t.m.Apply(mapped(t.units[i], spareOf(i)))
}

// BenchmarkInsert moves a unit home and remaps it again. If no unit is remapped it remaps one and
// moves it home. Each iteration is two changes of the table.
func BenchmarkInsert(b *testing.B) {
	eachTable(b, func(b *testing.B, t *table) {
		rnd := rand.New(rand.NewPCG(10, 10))
		at := make([]int, looks)
		for i := range at {
			at[i] = rnd.IntN(max(1, len(t.units)))
		}
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if len(t.units) == 0 {
				flip(t, rnd)
				continue
			}
			k := at[i&(looks-1)]
			t.m.Apply(home(t.units[k]))
			t.m.Apply(mapped(t.units[k], spareOf(k)))
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(2*b.N), "ns/change")
	})
}

// BenchmarkLoad builds whole tables from single entries: in the order of their units, as a
// checkpoint has them, and in any order, as a log might have them. It reports the memory per unit,
// from the map's structure and from the heap.
func BenchmarkLoad(b *testing.B) {
	for _, size := range sizes[2:] {
		for _, layout := range append(layouts, "shuffled") {
			b.Run(fmt.Sprintf("remaps=%s/%s", size.name, layout), func(b *testing.B) {
				current = table{}
				units := tableUnits(layout, size.remaps)
				if layout == "shuffled" {
					rand.New(rand.NewPCG(11, 11)).Shuffle(len(units), func(i, j int) {
						units[i],
							units[j] = units[j], units[i]
					})
				}
				before := heap()
				var m *remap.Map
				b.ReportAllocs()
				for b.Loop() {
					// Lets the collector have the last one before the next is built.
					m = nil //nolint:ineffassign
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

// BenchmarkEntries reads a whole table for a checkpoint, one page at a time.
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
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(max(1, entries)),
			"ns/entry")
	})
}
