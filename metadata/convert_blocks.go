package metadata

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"
	"strings"
)

// BlockRange is a run of exported blocks.
type BlockRange struct {
	Block uint64 `json:"block"`
	Count uint64 `json:"count"`
}

// maxRanges is how many ranges of blocks are listed. A table states one block of each unit in a few
// bytes. Listed as ranges, these blocks could need more memory than there is.
const maxRanges = 1 << 16

// blockList gathers blocks, in ascending order, as ranges.
type blockList struct {
	ranges []BlockRange
	more   uint64 // blocks that are in none of them
}

func (l *blockList) add(block uint64) { l.addRun(block, 1) }

func (l *blockList) addRun(block, count uint64) {
	if n := len(l.ranges); n > 0 {
		if last := &l.ranges[n-1]; last.Block+last.Count == block {
			last.Count += count
			return
		}
	}
	if len(l.ranges) == maxRanges {
		l.more += count
		return
	}
	l.ranges = append(l.ranges, BlockRange{block, count})
}

// addUnits adds the blocks of mask in units of per blocks each.
func (l *blockList) addUnits(unit, count uint64, mask uint8, per uint64) {
	if mask == uint8(1<<per-1) {
		l.addRun(unit*per, count*per)
		return
	}
	for ; count > 0 && len(l.ranges) < maxRanges; unit, count = unit+1, count-1 {
		for m := mask; m != 0; m &= m - 1 {
			l.add(unit*per + uint64(bits.TrailingZeros8(m)))
		}
	}
	l.more += count * uint64(bits.OnesCount8(mask))
}

// count is how many blocks there are.
func (l *blockList) count() uint64 { return countBlocks(l.ranges) + l.more }

func countBlocks(l []BlockRange) (n uint64) {
	for _, r := range l {
		n += r.Count
	}
	return n
}

// StuckError says which blocks a revert cannot bring home. It is ErrStuck.
type StuckError struct {
	// NoCopy are blocks that cannot be read where they live, or live nowhere.
	NoCopy []BlockRange
	// BadHome are blocks whose place on the plain disk takes no data.
	BadHome []BlockRange
	// NoCopyMore and BadHomeMore are how many others there are, which were too many to list.
	NoCopyMore, BadHomeMore uint64
	// Old is how many of NoCopy can be read at home, which holds what it held before they left it.
	Old uint64
}

// Error counts both, and lists the first few.
func (e *StuckError) Error() string {
	var parts []string
	for _, p := range []struct {
		what string
		list []BlockRange
		more uint64
	}{{"no copy that can be read", e.NoCopy, e.NoCopyMore}, {"a home that is still bad", e.BadHome,
		e.BadHomeMore}} {
		if n := countBlocks(p.list) + p.more; n > 0 {
			parts = append(parts, fmt.Sprintf("%d with %s (%s)", n, p.what, rangesText(p.list)))
		}
	}
	if e.Old > 0 {
		parts = append(parts, fmt.Sprintf("of at least %d of those without a copy home still "+
			"holds what it held before they left it, perhaps long ago (--accept-old takes that)",
			e.Old))
	}
	return fmt.Sprintf("%v: %s", ErrStuck, strings.Join(parts, ", "))
}

// Unwrap makes it ErrStuck.
func (e *StuckError) Unwrap() error { return ErrStuck }

// unmoved are the blocks that a revert could not bring to the front.
type unmoved struct {
	noCopy  blockList // they cannot be read where they live, or live nowhere
	badHome blockList // their place takes no data
}

func (u *unmoved) any() bool { return u.noCopy.count()+u.badHome.count() > 0 }

func (u *unmoved) err() *StuckError {
	return &StuckError{NoCopy: u.noCopy.ranges, BadHome: u.badHome.ranges,
		NoCopyMore: u.noCopy.more, BadHomeMore: u.badHome.more}
}

func rangesText(l []BlockRange) string {
	var b strings.Builder
	for i, r := range l {
		if i == 8 {
			b.WriteString(", …")
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%d", r.Block)
		if r.Count > 1 {
			fmt.Fprintf(&b, "+%d", r.Count)
		}
	}
	return b.String()
}

// mergeRanges joins lists.
func mergeRanges(lists ...[]BlockRange) []BlockRange {
	all := slices.Concat(lists...)
	slices.SortFunc(all, func(x, y BlockRange) int { return cmp.Compare(x.Block, y.Block) })
	var out []BlockRange
	for _, r := range all {
		if n := len(out); n > 0 && r.Block <= out[n-1].Block+out[n-1].Count {
			out[n-1].Count = max(out[n-1].Count, r.Block+r.Count-out[n-1].Block)
			continue
		}
		out = append(out, r)
	}
	return out
}
