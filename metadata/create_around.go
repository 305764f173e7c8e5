package metadata

import (
	"cmp"
	"errors"
	"slices"
)

// BadRange is a run of bytes of a device of which is known that they do not hold data.
type BadRange struct {
	Device     uint8
	Start, End int64
}

// errKnownBad is the error for a place that PlanParams.Bad names.
var errKnownBad = errors.New("it is known to be bad")

// maxGrowth is how much larger than necessary the room for the metadata may become, in
// search of a place that is not bad.
const maxGrowth = 32 * headAlign

// planAround lays a set out around what is known to be bad. Where a mirror finds no good
// place, head and tail are made larger. If that does not help either, the layout is the
// one that has the fewest mirrors in bad places: Create tries those, and others.
func planAround(sb *Superblock, p PlanParams, atom int64) (*Layout, error) {
	bad := sortedBad(p.Bad)
	var best *Superblock
	var first error
	stuck := 0
	for more := int64(0); more <= maxGrowth; more += headAlign {
		try := sb.clone()
		var err error
		if p.SpareDeviceSize == 0 {
			err = planAlone(try, p, atom, more)
		} else {
			err = planPair(try, p, atom, more)
		}
		if err != nil {
			if more == 0 {
				return nil, err
			}
			first = err
			break // it does not get smaller
		}
		if n := try.avoidBad(bad); best == nil || n < stuck {
			best, stuck = try, n
		}
		if stuck == 0 {
			break
		}
	}
	if best == nil {
		return nil, first
	}
	// If one copy of the superblock is in a bad place, another one makes up for it.
	if best.hasTail() && atom <= fourthStride && slices.ContainsFunc(best.copies(0),
		func(off int64) bool { return badIn(bad, 0, off, PageSize) != nil }) {
		best.Compat |= compatFourth
	}
	l, err := newLayout(best)
	if err == nil {
		l.bad = bad
	}
	return l, err
}

// avoidBad puts mirrors that lie in bad places elsewhere on their device, and returns how
// many could not be.
func (sb *Superblock) avoidBad(bad []BadRange) (stuck int) {
	for i := range sb.Regions {
		r := &sb.Regions[i]
		if r.Kind != RegionMirror || badIn(bad, r.Device, r.Start, r.Length) == nil {
			continue
		}
		if start, ok := sb.cleanPlace(i, bad); ok {
			r.Start = start
		} else {
			stuck++
		}
	}
	return stuck
}

// cleanPlace finds a place for a mirror on its device, in the head if it is there, and else
// outside of it, that holds no bad range and nothing else.
func (sb *Superblock) cleanPlace(region int, bad []BadRange) (int64, bool) {
	r := sb.Regions[region]
	others := sb.without(region) // it may overlap where it was
	for _, g := range others.freeSpans(r.Device) {
		if r.Device == 0 && sb.inHead(&r) != (g.from < sb.HeadBytes) {
			continue
		}
		for from := roundUp(g.from, int64(sb.AtomSize)); from+r.Length <= g.to; {
			hit := badIn(bad, r.Device, from, r.Length)
			if hit == nil {
				return from, true
			}
			from = roundUp(hit.End, int64(sb.AtomSize))
		}
	}
	return 0, false
}

// badIn returns the last bad range that reaches into a place, or nil. bad is as sortedBad
// returns it.
func badIn(bad []BadRange, device uint8, off, length int64) *BadRange {
	i, _ := slices.BinarySearchFunc(bad, BadRange{Device: device, Start: off + length}, compareBad)
	if i == 0 {
		return nil
	}
	if b := &bad[i-1]; b.Device == device && off < b.End {
		return b
	}
	return nil
}

func compareBad(a, b BadRange) int {
	return cmp.Or(cmp.Compare(a.Device, b.Device), cmp.Compare(a.Start, b.Start))
}

// sortedBad returns the ranges in order. It joins those that meet.
func sortedBad(bad []BadRange) []BadRange {
	bad = slices.Clone(bad)
	slices.SortFunc(bad, compareBad)
	merged := bad[:0]
	for _, b := range bad {
		if n := len(merged); n > 0 && merged[n-1].Device == b.Device && b.Start <= merged[n-1].End {
			merged[n-1].End = max(merged[n-1].End, b.End)
			continue
		}
		merged = append(merged, b)
	}
	return merged
}
