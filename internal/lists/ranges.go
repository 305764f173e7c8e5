package lists

import (
	"cmp"
	"slices"
)

// Range is a run of bytes of a device: [Start, End).
type Range struct{ Start, End int64 }

// Merge returns ranges in order. It joins ranges that overlap or touch.
func Merge(list []Range) []Range {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b Range) int { return cmp.Compare(a.Start, b.Start) })
	merged := list[:0]
	for _, r := range list {
		if n := len(merged); n > 0 && r.Start <= merged[n-1].End {
			merged[n-1].End = max(merged[n-1].End, r.End)
			continue
		}
		merged = append(merged, r)
	}
	return merged
}

// Intersect returns the parts of the ranges that are in others. Both must be in the form that Merge
// returns.
func Intersect(list, others []Range) []Range { return Subtract(list, Subtract(list, others)) }

// Subtract returns the parts of the ranges that are not in minus. Both must be in the form that
// Merge returns.
func Subtract(list, minus []Range) []Range {
	var out []Range
	for _, r := range list {
		i, _ := slices.BinarySearchFunc(minus, r.Start,
			func(m Range, at int64) int { return cmp.Compare(m.End, at) })
		for ; i < len(minus) && minus[i].Start < r.End; i++ {
			if r.Start < minus[i].Start {
				out = append(out, Range{r.Start, minus[i].Start})
			}
			r.Start = max(r.Start, minus[i].End)
		}
		if r.Start < r.End {
			out = append(out, r)
		}
	}
	return out
}
