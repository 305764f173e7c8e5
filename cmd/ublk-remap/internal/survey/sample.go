package survey

import (
	"context"

	"github.com/cespare/xxhash/v2"

	"ublkremap/cmd/ublk-remap/internal/badblocks"
	"ublkremap/metadata"
)

// Sampled is the result of trying a sample of places.
type Sampled struct {
	Tried, Bad, Known int // units; the last ones are known to be bad, and were not tried
}

// Sample tries n units, or all there are, spread over a range. The first and the last are among
// them. Units that are known to be bad are left out. The distances are not regular, because those
// of bad units may be. Sample ends early if failures take long and no unit was good so far. Bad
// units are in Bad. Errors: those of Test.
func (d *Disk) Sample(ctx context.Context, r badblocks.Range, n int) (Sampled, error) {
	var s Sampled
	known := outward(d.known, d.dev.Size())
	units := (r.End - r.Start) / metadata.UnitSize
	sums := map[int64]uint64{}
	before := d.units
	for _, unit := range spread(units, int64(n)) {
		if err := context.Cause(ctx); err != nil {
			return s, err
		}
		off := r.Start + unit*metadata.UnitSize
		one := badblocks.Range{Start: off, End: off + metadata.UnitSize}
		if len(badblocks.Subtract([]badblocks.Range{one}, known)) == 0 {
			s.Known++
			continue
		}
		u := d.buf[:metadata.UnitSize]
		good, err := d.unit(u, off)
		if err != nil {
			return s, err
		}
		s.Tried++
		if good {
			sums[off] = xxhash.Sum64(u)
		} else if len(sums) == 0 && d.failed > presumeAfter {
			break
		}
		d.o.Progress(metadata.UnitSize, d.units)
	}
	err := d.confirm(sums, r.End)
	s.Bad = d.units - before
	return s, err
}

// spread returns n of the numbers below units, or all: the first, the last, and one somewhere in
// each part between. In their order the first few are far apart as well.
func spread(units, n int64) []int64 {
	if units <= n || n < 3 {
		n = units
	}
	list := make([]int64, n)
	// Steps of about 0.618 of the number of parts visit each once, if the two have no
	// common factor.
	step := max(n*618/1000, 1)
	for gcd(step, n) > 1 {
		step++
	}
	for i := range list {
		at := int64(i) * step % n
		from, to := at*units/n, (at+1)*units/n
		switch at {
		case 0:
			list[i] = 0
		case n - 1:
			list[i] = units - 1
		default:
			list[i] = from + int64(xxhash.Sum64([]byte{byte(at), byte(at >> 8)})%uint64(to-from))
		}
	}
	return list
}

func gcd(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
