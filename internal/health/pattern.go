package health

import (
	"fmt"
	"math"
	"math/cmplx"
	"slices"
	"time"

	"ublkremap/internal/readable"
)

// Pattern says how the bad blocks lie, with the evidence for it.
type Pattern struct {
	// Kind is none, few, area, growing area, stripes or scattered.
	Kind string `json:"kind"`
	// Text says it in a sentence, with the numbers; empty for none.
	Text string `json:"text"`
}

// The kinds of patterns.
const (
	PatternNone      = "none"
	PatternFew       = "few"
	PatternArea      = "area"
	PatternGrowing   = "growing area"
	PatternStripes   = "stripes"
	PatternScattered = "scattered"
)

const (
	// spotGap: bad runs with less between them are one spot. A track has 1 to 2 MiB.
	spotGap = 2 << 20
	// manySpots is how many spots a pattern needs. With less, anything looks like one.
	manySpots = 8
	// areaShare: an area is at most such a share of the disk that has most of the spots.
	areaShare = 0.01
	mostShare = 0.8
	// manyStripes is how many spots stripes need, and stripeFit how well they fit: 1 if all are at
	// the same place of the period, about 1/√n if they are anywhere.
	manyStripes = 20
	stripeFit   = 0.8
	// stripeLeast is the shortest period, in bytes. A drive writes some tracks with one head, then
	// some with the next.
	stripeLeast = 64 << 20
	// mostTurns is how many periods the bad blocks may reach over, and mostSpots how many spots are
	// looked at, so that it takes less than a tenth of a second.
	mostTurns = 8192
	mostSpots = 400
)

// spot is one damaged place.
type spot struct {
	at    float64 // middle, as a share of the device
	first time.Time
}

// patternOf says how the bad blocks lie.
func patternOf(s *Seen) Pattern {
	spots := spotsOf(s)
	size := float64(s.Blocks) * float64(s.BlockSize)
	text := func(share float64) string { return readable.Bytes(int64(share * size)) }
	switch {
	case len(spots) == 0:
		return Pattern{Kind: PatternNone}
	case len(spots) < manySpots:
		return Pattern{PatternFew, fmt.Sprintf("%s, too few for a pattern",
			readable.Count(uint64(len(spots)), "damaged place", "damaged places"))}
	}
	from, to := densest(spots)
	if to-from <= areaShare {
		n := 0
		for _, p := range spots {
			if p.at >= from && p.at <= to {
				n++
			}
		}
		where := fmt.Sprintf("%d of %d damaged places are within %s, at %s", n, len(spots),
			text(to-from), text(from))
		if grows(spots, from, to) {
			return Pattern{PatternGrowing, where + "; the newer ones are farther out: a scratch " +
				"or loose particles, which get worse with use"}
		}
		return Pattern{PatternArea, where + ": a damaged area"}
	}
	if period, fit := stripes(spots, size); fit >= stripeFit {
		return Pattern{PatternStripes, fmt.Sprintf("%d damaged places repeat every %s (fit %.2f): "+
			"one head or one surface", len(spots), readable.Bytes(int64(period)), fit)}
	}
	return Pattern{PatternScattered, fmt.Sprintf("%d damaged places lie anywhere between %s and %s",
		len(spots), text(spots[0].at), text(spots[len(spots)-1].at))}
}

// spotsOf joins runs that are close to each other.
func spotsOf(s *Seen) (spots []spot) {
	if s.Blocks == 0 {
		return nil
	}
	end := uint64(0)
	for i, b := range s.Bad {
		gap := uint64(spotGap / max(s.BlockSize, 1))
		if i > 0 && b.Block <= end+gap {
			p := &spots[len(spots)-1]
			if b.At.Before(p.first) {
				p.first = b.At
			}
		} else {
			spots = append(spots, spot{(float64(b.Block) + float64(b.Count)/2) /
				float64(s.Blocks), b.At})
		}
		end = max(end, b.Block+b.Count)
	}
	return spots
}

// densest returns the shortest part of the device that has most of the spots.
func densest(spots []spot) (from, to float64) {
	n := int(math.Ceil(float64(len(spots)) * mostShare))
	from, to = 0, 1
	for i := 0; i+n <= len(spots); i++ {
		if a, b := spots[i].at, spots[i+n-1].at; b-a < to-from {
			from, to = a, b
		}
	}
	return from, to
}

// grows reports whether the newer half of an area's spots lies farther from its middle than the
// older half does, by half as much again.
func grows(spots []spot, from, to float64) bool {
	var in []spot
	for _, p := range spots {
		if p.at >= from && p.at <= to {
			in = append(in, p)
		}
	}
	slices.SortStableFunc(in, func(a, b spot) int { return a.first.Compare(b.first) })
	half := len(in) / 2
	if half == 0 || !in[len(in)-1].first.After(in[0].first.Add(incidentGap)) {
		return false // all of it was found at once
	}
	middle := 0.0
	for _, p := range in[:half] {
		middle += p.at / float64(half)
	}
	mean := func(spots []spot) (sum float64) {
		for _, p := range spots {
			sum += math.Abs(p.at-middle) / float64(len(spots))
		}
		return sum
	}
	return mean(in[half:]) > 1.5*mean(in[:half])
}

// stripes returns the period at which the spots repeat best, in bytes, and how well they fit it:
// the length of the mean of the unit vectors that their places in the period stand for (Rayleigh's
// test). A drive has fewer sectors a track towards its end, so the period is constant only over a
// part of a large drive, and real stripes can be missed. The fit is 0 if chance could explain it.
func stripes(spots []spot, size float64) (period, fit float64) {
	reach := (spots[len(spots)-1].at - spots[0].at) * size
	if len(spots) < manyStripes || reach < 8*stripeLeast {
		return 0, 0
	}
	const fewTurns, step = 4, 0.25 // a step of a quarter of a turn misses no period
	// The vectors of the places at the period that is tried, and what turns them to those of the
	// next one. A product costs a tenth of a sine, and 32,000 in a row lose four digits of 16.
	var vectors, next []complex128
	for i := 0; i < len(spots); i += (len(spots) + mostSpots - 1) / mostSpots {
		place := 2 * math.Pi * (spots[i].at - spots[0].at) * size / reach
		vectors = append(vectors, cmplx.Rect(1, fewTurns*place))
		next = append(next, cmplx.Rect(1, step*place))
	}
	n, tried := float64(len(vectors)), 0.0
	for turns := float64(fewTurns); turns <= min(reach/stripeLeast, mostTurns); turns += step {
		tried++
		var sum complex128
		for i, v := range vectors {
			sum += v
			vectors[i] = v * next[i]
		}
		if f := cmplx.Abs(sum) / n; f > fit {
			period, fit = reach/turns, f
		}
	}
	// By chance, one of so many periods fits this well with a probability of tried·exp(-n·fit²).
	if n*fit*fit < math.Log(tried*1000) {
		return 0, 0
	}
	return period, fit
}
