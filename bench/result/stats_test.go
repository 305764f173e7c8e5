package result

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestQuantile(t *testing.T) {
	for _, tc := range []struct {
		values []float64
		q      float64
		want   float64
	}{
		{[]float64{7}, 0.5, 7}, {[]float64{7}, 0, 7}, {[]float64{7}, 1, 7},
		{[]float64{3, 1, 2}, 0.5, 2}, {[]float64{4, 1, 3, 2}, 0.5, 2.5},
		{[]float64{10, 0}, 0.25, 2.5}, {[]float64{5, 1, 9}, 0, 1}, {[]float64{5, 1, 9}, 1, 9},
	} {
		before := slices.Clone(tc.values)
		if got := Quantile(tc.values, tc.q); got != tc.want {
			t.Errorf("Quantile(%v, %v) = %v, want %v", tc.values, tc.q, got, tc.want)
		}
		if !slices.Equal(before, tc.values) {
			t.Errorf("the values were sorted: %v", tc.values)
		}
	}
	if !math.IsNaN(Quantile(nil, 0.5)) || !math.IsNaN(Of(nil).Median) || Of(nil).N != 0 {
		t.Error("nothing has a median")
	}
}

func TestSpreadProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.Float64Range(-1e9, 1e9), 1, 50).Draw(t, "values")
		s := Of(values)
		if s.N != len(values) || s.Min > s.Median || s.Median > s.Max ||
			!slices.Contains(values, s.Min) || !slices.Contains(values, s.Max) {
			t.Fatalf("%v: %+v", values, s)
		}
		below, above := 0, 0
		for _, v := range values {
			if v < s.Median {
				below++
			}
			if v > s.Median {
				above++
			}
		}
		if below > len(values)/2 || above > len(values)/2 {
			t.Fatalf("%v: %d below and %d above %v", values, below, above, s.Median)
		}
	})
}
