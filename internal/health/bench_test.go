package health

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// BenchmarkJudge judges a disk of 20 TB with places that went bad one by one.
func BenchmarkJudge(b *testing.B) {
	for _, n := range []int{100, 1000, 10000, 100000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			rng := rand.New(rand.NewPCG(1, 2))
			s := &Seen{Now: now, Since: now.Add(-time.Duration(n) * time.Hour),
				Spare: 1 << 20, SpareFree: 1 << 19, BlockSize: 4096, Blocks: 20e12 / 4096}
			for i := range n {
				s.Bad = append(s.Bad, Bad{Block: uint64(i)*(s.Blocks/uint64(n)) + rng.Uint64N(1000),
					Count: 1, Spares: 1, At: ago(time.Duration(rng.IntN(n)) * time.Hour)})
			}
			b.ReportAllocs()
			for b.Loop() {
				Judge(s, nil)
			}
		})
	}
}
