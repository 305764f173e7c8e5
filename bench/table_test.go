package bench

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"ublkremap/metadata"
	"ublkremap/remap"
)

// The disk of all benchmarks: 16 TiB with 512-byte blocks.
const (
	diskUnits = 1 << 32
	perUnit   = 8
	mib       = 1 << 20 / 512 // blocks
)

var sizes = []struct {
	name   string
	remaps int
}{{"0", 0}, {"1k", 1 << 10}, {"1M", 1 << 20}, {"16M", 16 << 20}}

// layouts say where the remapped units are: side by side from the middle of the disk on, or
// anywhere on it. In both layouts no two spare units are consecutive, as after many single heals.
var layouts = []string{"dense", "sparse"}

// table is a map and the units that are remapped in it, in ascending order.
type table struct {
	name  string
	m     *remap.Map
	units []uint64
}

// current is the table that was built last. Tables are large, so only one is kept.
var current table

func mapped(unit uint64, spare uint32) metadata.Entry {
	return metadata.Entry{State: metadata.StateMapped, Unit: unit, Spare: spare, Count: 1,
		Mask: 0xff, Cause: metadata.CauseWrite, Time: 1}
}

func home(unit uint64) metadata.Entry {
	return metadata.Entry{State: metadata.StateHome, Unit: unit, Count: 1, Mask: 0xff}
}

// tableUnits returns the units of a layout. The seed is fixed: every run
// measures the same tables.
func tableUnits(layout string, remaps int) []uint64 {
	rnd := rand.New(rand.NewPCG(uint64(remaps), 1))
	units := make([]uint64, remaps)
	for i := range units {
		if layout == "dense" {
			units[i] = diskUnits/2 + uint64(i)
		} else {
			units[i] = rnd.Uint64N(diskUnits)
		}
	}
	slices.Sort(units)
	return slices.Compact(units)
}

// spareOf scatters spare units, so that no two units are consecutive in the spare space.
func spareOf(i int) uint32 { return uint32(i) * 3 }

func build(units []uint64) *remap.Map {
	b := remap.NewBuilder(diskUnits, perUnit)
	for i, u := range units {
		b.Apply(mapped(u, spareOf(i)))
	}
	return b.Map()
}

// tableFor returns the table of a layout and size. It keeps the table until another one is asked
// for.
func tableFor(layout string, remaps int) *table {
	name := fmt.Sprint(layout, remaps)
	if current.name != name {
		current = table{}
		runtime.GC()
		units := tableUnits(layout, remaps)
		current = table{name: name, m: build(units), units: units}
		runtime.GC()
	}
	return &current
}

// eachTable runs f for every layout and size.
func eachTable(b *testing.B, f func(b *testing.B, t *table)) {
	for _, size := range sizes {
		for _, layout := range layouts {
			if size.remaps == 0 && layout != layouts[0] {
				continue // there is nothing to lay out
			}
			b.Run(fmt.Sprintf("remaps=%s/%s", size.name, layout), func(b *testing.B) {
				f(b, tableFor(layout, size.remaps))
			})
		}
	}
}
