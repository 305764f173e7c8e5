package health

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// disk is a set with bad blocks at these places, in bytes, found one a day.
func disk(size uint64, places []float64) *Seen {
	s := &Seen{Blocks: size / 4096, BlockSize: 4096, Now: now}
	for i, at := range places {
		s.Bad = append(s.Bad, Bad{Block: uint64(at) / 4096, Count: 8, Spares: 1,
			At: ago(time.Duration(len(places)-i) * day)})
	}
	slices.SortFunc(s.Bad, func(a, b Bad) int { return int(int64(a.Block) - int64(b.Block)) })
	return s
}

func TestPattern(t *testing.T) {
	const size = 4 << 40
	random := rand.New(rand.NewPCG(1, 2))
	anywhere := func(n int) (all []float64) {
		for range n {
			all = append(all, random.Float64()*size)
		}
		return all
	}
	around := func(n int, from, width float64) (all []float64) {
		for range n {
			all = append(all, from+random.Float64()*width)
		}
		return all
	}
	var outward, striped, noisy []float64
	for i := range 24 {
		outward = append(outward, 1e12+float64(i*i)*8e6*float64(1-2*(i%2)))
	}
	const period, turns = 1.7e9, 2587
	for range 60 {
		striped = append(striped, float64(random.IntN(turns))*period+
			random.Float64()*period/8)
		noisy = append(noisy, float64(random.IntN(turns))*period+
			random.Float64()*period*0.9)
	}
	for name, c := range map[string]struct {
		places []float64
		kind   string
		text   string
	}{
		"none":             {nil, PatternNone, ""},
		"few":              {anywhere(3), PatternFew, "3 damaged places"},
		"scattered":        {anywhere(200), PatternScattered, "lie anywhere"},
		"scattered, fewer": {anywhere(25), PatternScattered, "lie anywhere"},
		"area": {append(around(30, 2e12, 3e9), anywhere(3)...), PatternArea,
			"a damaged area"},
		"outward":  {outward, PatternGrowing, "farther out"},
		"one head": {striped, PatternStripes, "repeat every 1.6 GiB"},
		"noise":    {noisy, PatternScattered, "lie anywhere"},
	} {
		t.Run(name, func(t *testing.T) {
			p := patternOf(disk(size, c.places))
			if p.Kind != c.kind || !strings.Contains(p.Text, c.text) {
				t.Errorf("%+v, want %s with %q", p, c.kind, c.text)
			}
		})
	}
}

// TestScatteredIsNoPattern: places anywhere are hardly ever taken for a pattern.
func TestScatteredIsNoPattern(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for range 40 {
		places := make([]float64, 20+random.IntN(60))
		for i := range places {
			places[i] = random.Float64() * (1 << 42)
		}
		if p := patternOf(disk(1<<42, places)); p.Kind != PatternScattered {
			t.Errorf("%d places: %+v", len(places), p)
		}
	}
}
