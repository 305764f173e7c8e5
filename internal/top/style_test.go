package top

import (
	"fmt"
	"math"
	"os"
	"strings"
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

// TestPageSaysTheSame: the map of the page has the names and letters of this one, and more kinds.
func TestPageSaysTheSame(t *testing.T) {
	js, err := os.ReadFile("../page/assets/surface.js")
	if err != nil {
		t.Fatal(err)
	}
	for k := kindLost; k < kindNone; k++ {
		want := fmt.Sprintf("letter: '%s', name: '%s' }", looks[k].letter, looks[k].name)
		if !strings.Contains(string(js), want) {
			t.Errorf("the page has no kind with %s", want)
		}
	}
}
