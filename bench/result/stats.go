package result

import (
	"math"
	"slices"
)

// Spread sums up one figure over rounds.
type Spread struct {
	Median, Min, Max float64
	N                int
}

// Of sums values up; the order does not matter. Without values all is NaN.
func Of(values []float64) Spread {
	if len(values) == 0 {
		return Spread{math.NaN(), math.NaN(), math.NaN(), 0}
	}
	return Spread{Quantile(values, 0.5), slices.Min(values), slices.Max(values), len(values)}
}

// Quantile returns the q-quantile, 0 to 1, interpolated between the two
// values next to it; NaN without values. The values keep their order.
func Quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	at := q * float64(len(sorted)-1)
	low := int(at)
	if low+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	part := at - float64(low)
	return sorted[low]*(1-part) + sorted[low+1]*part
}
