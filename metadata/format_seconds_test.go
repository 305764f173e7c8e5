package metadata

import (
	"math"
	"testing"
	"time"
)

func TestSeconds(t *testing.T) {
	for in, want := range map[time.Time]uint32{
		time.Unix(0, 0):    0,
		time.Unix(-5, 0):   0,
		{}:                 0,
		time.Unix(77, 999): 77,
		time.Date(2106, 2, 7, 6, 28, 15, 0, time.UTC): math.MaxUint32,
		time.Date(2106, 2, 7, 6, 28, 16, 0, time.UTC): math.MaxUint32,
		time.Date(2300, 1, 1, 0, 0, 0, 0, time.UTC):   math.MaxUint32,
	} {
		if got := Seconds(in); got != want {
			t.Errorf("%v: %d, want %d", in, got, want)
		}
	}
}
