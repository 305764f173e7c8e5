package latency

import (
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// TestContract: the bounds are those of the package's description.
func TestContract(t *testing.T) {
	if Buckets != 114 {
		t.Fatalf("%d buckets", Buckets)
	}
	for bucket, want := range map[int]float64{
		0: 1.0 / (1 << 20), 1: 1.25 / (1 << 20), 2: 1.5 / (1 << 20), 3: 1.75 / (1 << 20),
		4: 2.0 / (1 << 20), 5: 2.5 / (1 << 20), 80: 1, 81: 1.25, 84: 2, 112: 256,
		113: math.Inf(1),
	} {
		if got := Bound(bucket); got != want {
			t.Errorf("bucket %d ends at %v s, want %v", bucket, got, want)
		}
	}
	for i := range Buckets - 1 {
		if Bound(i) >= Bound(i+1) {
			t.Errorf("bucket %d ends at %v, the next at %v", i, Bound(i), Bound(i+1))
		}
	}
}

// TestBucket: each time is in the bucket whose bounds are around it.
func TestBucket(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 0))
	try := func(ns int64) {
		b := Bucket(ns)
		at := float64(max(ns, 0)) / 1e9
		slack := 1.0/(1<<30) + at/(1<<31)
		if at > Bound(b)+slack || b > 0 && at <= Bound(b-1)-slack {
			t.Errorf("seed %d: %d ns are in bucket %d, (%v, %v] s", seed, ns, b, Bound(b-1),
				Bound(b))
		}
	}
	for _, ns := range []int64{math.MinInt64, -1, 0, 1, 953, 954, 955, 1e3, 1e6, 1e9, 256e9,
		256e9 + 1, 257e9, math.MaxInt64} {
		try(ns)
	}
	for range 100_000 {
		try(rng.Int64() >> rng.IntN(63))
	}
	for i := range Buckets - 1 {
		for d := int64(-2); d <= 2; d++ {
			try(int64(Bound(i)*1e9) + d)
		}
	}
	if got := Bucket(1e9); got != 80 {
		t.Errorf("a second is in bucket %d, want 80, which ends there", got)
	}
}

// TestMerge: readers see a sum while a writer adds, and all of it in the end.
func TestMerge(t *testing.T) {
	const n = 10_000
	var h [2]Histogram
	var writers sync.WaitGroup
	for i := range h {
		writers.Go(func() {
			for v := range int64(n) {
				h[i].Add(v)
			}
		})
	}
	for range 100 {
		var s Sum
		s.Merge(&h[0])
		if s.Count() > n {
			t.Fatalf("%d of %d", s.Count(), n)
		}
	}
	writers.Wait()
	var s Sum
	s.Merge(&h[0])
	s.Merge(&h[1])
	if s.Count() != 2*n || s.Nanoseconds != n*(n-1) {
		t.Errorf("%d times, %d ns", s.Count(), s.Nanoseconds)
	}
}

// TestAddAllocatesNothing, see also BenchmarkAdd.
func TestAddAllocatesNothing(t *testing.T) {
	var h Histogram
	if n := testing.AllocsPerRun(100, func() { h.Add(12345) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkAdd(b *testing.B) {
	var h Histogram
	b.ReportAllocs()
	for i := range b.N {
		h.Add(int64(i))
	}
}
