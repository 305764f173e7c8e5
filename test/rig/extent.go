package rig

import (
	"cmp"
	"fmt"
	"slices"
)

// Extent is a run of bytes.
type Extent struct{ Start, Length int64 }

// At is a run of so many bytes at start.
func At(start, length int64) Extent { return Extent{start, length} }

// End is the byte behind the extent.
func (e Extent) End() int64 { return e.Start + e.Length }

func (e Extent) String() string { return fmt.Sprintf("%d+%d", e.Start, e.Length) }

// Cut is what of the extent lies in [from, to). Its length is 0 if nothing does.
func (e Extent) Cut(from, to int64) Extent {
	start, end := max(e.Start, from), min(e.End(), to)
	return Extent{start, max(end-start, 0)}
}

// Overlaps says whether two extents have a byte in common.
func (e Extent) Overlaps(o Extent) bool { return e.Start < o.End() && o.Start < e.End() }

// Merge sorts extents and joins those that overlap or touch.
func Merge(in []Extent) []Extent {
	in = slices.Clone(in)
	slices.SortFunc(in, func(a, b Extent) int { return cmp.Compare(a.Start, b.Start) })
	var out []Extent
	for _, e := range in {
		if n := len(out); n > 0 && out[n-1].End() >= e.Start {
			out[n-1].Length = max(out[n-1].End(), e.End()) - out[n-1].Start
		} else {
			out = append(out, e)
		}
	}
	return out
}

// without is what of the extents lies in none of those, which are ordered.
func without(in, those []Extent) []Extent {
	var out []Extent
	for _, e := range in {
		for _, o := range those {
			if before := e.Cut(e.Start, o.Start); before.Length > 0 {
				out = append(out, before)
			}
			e = e.Cut(o.End(), e.End())
		}
		if e.Length > 0 {
			out = append(out, e)
		}
	}
	return out
}
