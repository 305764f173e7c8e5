package survey

import (
	"context"

	"github.com/cespare/xxhash/v2"

	"ublkremap/cmd/ublk-remap/internal/badblocks"
	"ublkremap/metadata"
)

// Sampled is what a sample of places says.
type Sampled struct {
	Tried, Bad, Known int // units; the last ones are known to be bad, and were not tried
}

// hopeless is after how many units a sample ends of which none is good.
const hopeless = 8

// Sample tries n units, or all there are, spread evenly over a range, the first and the last
// among them, but none that is known to be bad. Bad ones are in Bad. Errors: those of Test.
func (d *Disk) Sample(ctx context.Context, r badblocks.Range, n int) (Sampled, error) {
	var s Sampled
	known := outward(d.known, d.dev.Size())
	units := (r.End - r.Start) / metadata.UnitSize
	sums := map[int64]uint64{}
	before := d.units
	for i := range min(int64(n), units) {
		if err := context.Cause(ctx); err != nil {
			return s, err
		}
		off := r.Start + i*metadata.UnitSize
		if units > int64(n) {
			off = r.Start + i*(units-1)/int64(n-1)*metadata.UnitSize
		}
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
		} else if len(sums) == 0 && (s.Tried >= hopeless || d.failed > presumeAfter) {
			break
		}
		d.o.Progress(metadata.UnitSize, d.units)
	}
	err := d.confirm(sums, r.End)
	s.Bad = d.units - before
	return s, err
}
