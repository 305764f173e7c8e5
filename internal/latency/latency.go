// Package latency has the histograms of how long things take, and the contract of their buckets,
// which the server and whoever reads its histograms share.
//
// Time is counted in ticks of 2^-30 s, a little less than a nanosecond, so that all bounds of
// buckets that are powers of two of a tick are powers of two of a second too. Prometheus' native
// histograms have the same bounds. Buckets are log-linear: from 2^-20 s (0.95 µs) to 2^8 s (256 s)
// each doubling is divided into 4 buckets of equal width, so a value is known to within a quarter
// of its lower bound. A bucket includes its upper bound and not its lower one.
//
//	bucket 0                   (0, 2^-20 s]
//	bucket 1+4k+j, j = 0 to 3  (2^(k-20) × (1 + j/4), 2^(k-20) × (1 + (j+1)/4)] s, k = 0 to 27
//	bucket 113                 more than 2^8 s
//
// Times are rounded to a tick first, or by one part in 2^31 if that is more.
//
// The bounds never change. Another scheme would get another name in the control socket's answer.
package latency

import (
	"math"
	"math/bits"
	"sync/atomic"
)

const (
	least  = 10 // bucket 0 ends at 2^least ticks
	most   = 38 // the last but one ends at 2^most ticks
	parts  = 4  // buckets of a doubling
	partsL = 2  // log2(parts)

	// Buckets is how many buckets a histogram has.
	Buckets = 1 + parts*(most-least) + 1
	// Doubling is how many buckets lie between two bounds that are powers of two.
	Doubling = parts
)

// ticksPerNano is 2^30/10^9 in fixed point, with 32 bits behind the point. So a time is rounded by
// less than a tick and a part of 2^-31 of it.
const ticksPerNano = (1<<62 + 500_000_000) / 1_000_000_000

// ticks returns a time in ticks. Times below 0 count as 0.
func ticks(ns int64) uint64 {
	hi, lo := bits.Mul64(uint64(max(ns, 0)), ticksPerNano)
	return hi<<32 | lo>>32
}

// Bucket returns the bucket of a time in nanoseconds.
func Bucket(ns int64) int {
	t := ticks(ns)
	if t <= 1<<least {
		return 0
	}
	t-- // a bucket includes its upper bound
	k := bits.Len64(t) - 1
	if k >= most {
		return Buckets - 1
	}
	return 1 + (k-least)*parts + int(t>>(k-partsL))&(parts-1)
}

// Bound returns the upper bound of a bucket in seconds. It is exact. That of the last bucket is
// infinite.
func Bound(bucket int) float64 {
	switch {
	case bucket <= 0:
		return math.Ldexp(1, least-30)
	case bucket >= Buckets-1:
		return math.Inf(1)
	}
	k, j := (bucket-1)/parts, (bucket-1)%parts
	return math.Ldexp(float64(parts+j+1), k+least-partsL-30)
}

// Histogram counts times. One goroutine adds, any number read.
type Histogram struct {
	sum    atomic.Uint64 // ns
	counts [Buckets]atomic.Uint64
}

// Add counts a time in nanoseconds. It takes no lock and no read-modify-write of memory that others
// write, because there is one writer.
func (h *Histogram) Add(ns int64) {
	c := &h.counts[Bucket(ns)]
	c.Store(c.Load() + 1)
	h.sum.Store(h.sum.Load() + uint64(max(ns, 0)))
}

// Sum is what several histograms have counted together.
type Sum struct {
	Nanoseconds uint64
	Counts      [Buckets]uint64
}

// Merge adds what a histogram has counted. If times are added meanwhile, the sum and the counts may
// differ by these.
func (s *Sum) Merge(h *Histogram) {
	s.Nanoseconds += h.sum.Load()
	for i := range h.counts {
		s.Counts[i] += h.counts[i].Load()
	}
}

// Count returns how many times were counted.
func (s *Sum) Count() uint64 {
	n := uint64(0)
	for _, c := range s.Counts {
		n += c
	}
	return n
}
