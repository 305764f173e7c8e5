package health

import (
	"math"
	"slices"
	"strings"
	"time"

	"ublkremap/internal/readable"
)

// Rate says how fast the disk goes bad, and for how long its spare region lasts at that rate.
type Rate struct {
	PerDay float64 // spare units that new bad blocks take
	// Days is how many days the free spare units last at this rate. Low and High are the bounds of
	// its 95 % interval. nil: for ever at this rate.
	Days, Low, High *float64
	Incidents       int     // times that the disk got worse
	Over            float64 // days that were looked at
}

// Lasts says for how many days something lasts, and between which bounds: about 5 hours, between 1
// hour and 16 days. The bounds are empty if there is nothing between them.
func Lasts(days, low, high float64) (about, between string) {
	about, least, most := readable.Days(days), readable.Days(low), readable.Days(high)
	if least == most {
		return about, ""
	}
	if !strings.HasPrefix(about, "over ") {
		about = "about " + about
	}
	return about, "between " + least + " and " + most
}

const (
	// window is how far back the rate looks. A disk that has been good since counts as good.
	window = 30 * 24 * time.Hour
	// incidentGap: bad blocks that show themselves within such a time are of one event, because the
	// reader of a damaged area meets them one after another.
	incidentGap = time.Hour
	day         = 24 * time.Hour
)

// rateOf returns the rate of the last window. Bad blocks come in bunches, so what is counted is
// incidents. If they are independent of each other, their number has a Poisson distribution.
func rateOf(s *Seen) Rate {
	from := s.Now.Add(-window)
	if s.Since.After(from) {
		from = s.Since
	}
	r := Rate{Over: max(float64(s.Now.Sub(from))/float64(day), 1.0/24)}
	var units uint64
	var times []time.Time
	for _, b := range s.Bad {
		if b.At.Before(from) || b.At.After(s.Now) || b.Spares == 0 {
			continue
		}
		units += b.Spares
		times = append(times, b.At)
	}
	slices.SortFunc(times, time.Time.Compare)
	for i, t := range times {
		if i == 0 || t.Sub(times[i-1]) > incidentGap {
			r.Incidents++
		}
	}
	if units == 0 {
		return r
	}
	r.PerDay = float64(units) / r.Over
	low, high := poisson95(r.Incidents)
	each := float64(units) / float64(r.Incidents)
	left := func(incidents float64) *float64 {
		d := float64(s.SpareFree) / (incidents * each / r.Over)
		return &d
	}
	r.Days, r.Low, r.High = left(float64(r.Incidents)), left(high), left(low)
	return r
}

// poisson95 returns the bounds of the 95 % confidence interval of a mean, of which n was counted
// once: half of a quantile of the chi-squared distribution with 2n and 2n+2 degrees of freedom
// (Garwood, Biometrika 28, 1936), by the approximation of Wilson and Hilferty (1931).
func poisson95(n int) (low, high float64) {
	const z = 1.959964 // of 97.5 % of the normal distribution
	bound := func(degrees, z float64) float64 {
		c := 2 / (9 * degrees)
		return degrees / 2 * math.Pow(1-c+z*math.Sqrt(c), 3)
	}
	if n > 0 {
		low = bound(2*float64(n), -z)
	}
	return low, bound(2*float64(n)+2, z)
}

// newUnits counts the spare units that were taken since t.
func newUnits(s *Seen, t time.Time) (n uint64) {
	for _, b := range s.Bad {
		if b.At.After(t) && !b.At.After(s.Now) {
			n += b.Spares
		}
	}
	return n
}
