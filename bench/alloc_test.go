package bench

import (
	"testing"

	"ublkremap/remap"
)

const spareUnits = 4 << 20 // 16 GiB

// allocator returns an allocator in which every unit is used, except those that free names.
func allocator(b *testing.B, free func(unit uint32) bool) *remap.Allocator {
	a, err := remap.NewAllocator([]remap.SpareRegion{{First: 0, Count: spareUnits}})
	if err != nil {
		b.Fatal(err)
	}
	for u := uint32(0); u < spareUnits; u++ {
		if free(u) {
			continue
		}
		if err := a.Take(u, 1); err != nil {
			b.Fatal(err)
		}
	}
	return a
}

// BenchmarkAllocate allocates from 4 Mi spare units and frees again.
func BenchmarkAllocate(b *testing.B) {
	for _, test := range []struct {
		name  string
		count uint32
		free  func(uint32) bool
	}{
		{"empty/1", 1, func(uint32) bool { return true }},
		{"empty/256", 256, func(uint32) bool { return true }},
		{"every_other/1", 1, func(u uint32) bool { return u%2 == 0 }},
		{"every_other/256", 256, func(u uint32) bool { return u%2 == 0 }},
		{"last_one/1", 1, func(u uint32) bool { return u == spareUnits-1 }},
	} {
		b.Run(test.name, func(b *testing.B) {
			a := allocator(b, test.free)
			b.ReportAllocs()
			for b.Loop() {
				start, n, ok := a.Allocate(test.count, remap.NoHint)
				if !ok {
					b.Fatal("full")
				}
				if err := a.Free(start, n); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("far", func(b *testing.B) {
		a := allocator(b, func(u uint32) bool { return u%2 == 0 })
		b.ReportAllocs()
		for b.Loop() {
			u, ok := a.AllocateFar(0, spareUnits/2)
			if !ok {
				b.Fatal("full")
			}
			if err := a.Free(u, 1); err != nil {
				b.Fatal(err)
			}
		}
	})
}
