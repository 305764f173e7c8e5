package top

import (
	"math"
	"testing"
)

func TestSparkline(t *testing.T) {
	for _, x := range []struct {
		values []float64
		width  int
		want   string
	}{
		{nil, 4, "    "},
		{[]float64{0, 0}, 4, "  ▁▁"},
		{[]float64{0, 1, 4, 7}, 4, "▁▂▅█"},
		{[]float64{7, 1, 2}, 2, "▅█"},
		{[]float64{1}, 0, ""},
		// 7 times it, divided by it, is more than 7 in floating point.
		{[]float64{2486937.233608333}, 1, "█"},
		{[]float64{math.NaN(), math.Inf(1), 1}, 3, "▁▁▁"},
	} {
		if got := sparkline(x.values, x.width); got != x.want {
			t.Errorf("sparkline(%v, %d) = %q, want %q", x.values, x.width, got, x.want)
		}
	}
}
