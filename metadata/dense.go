package metadata

import "math"

// A set whose table had become larger than a checkpoint could not be opened any more: its log was full,
// and nothing could free it. Nothing lets a table grow so large now. A set that is so already is
// opened all the same: its table is stated in fewer entries, that say the same, or, if these are
// still too many, call more blocks pending than are. That is safe: a pending block is read as any other,
// and written to a spare unit.

// Density says how a table is stated; 0 is as it is, of which a change costs the least.
type Density uint8

// densest is the density beyond which there is nothing to be saved.
const densest Density = 40

// DensityFor returns the least density at which a table fits a checkpoint of a layout, with some
// room. at gives the table at a density.
func DensityFor(l *Layout, at func(Density) Source) Density {
	capacity := l.TableCapacity()
	if CountEntries(at(0)) <= capacity {
		return 0
	}
	for d := Density(1); d < densest; d++ {
		if CountEntries(at(d)) <= capacity-capacity/16 {
			return d
		}
	}
	return densest
}

// CountEntries returns how many entries a checkpoint of a table has: it asks as one that is written.
func CountEntries(src Source) (n uint64) {
	var page [2 * entriesPerPage]Entry
	have := 0
	for cursor, done := uint64(0), false; !done; {
		var k int
		if k, cursor, done = src.Entries(cursor, page[have:]); k == 0 && !done {
			break // no Source does that
		}
		n += uint64(k)
		if have += k; have >= entriesPerPage {
			have %= entriesPerPage
		}
	}
	return n
}

// Condense makes fewer entries of those that one call of a Source gave, which come in the order of
// their units, and returns how many. At density 1 they say the same: a run of pending units some of
// which are mapped or lost by now is one entry for the whole run, and after it one for each of
// those, which says what holds. Beyond that the run also takes what lies between, if it is no more than
// some units, and blocks of units that are mapped in part.
func Condense(list []Entry, d Density) int {
	if d == 0 {
		return len(list)
	}
	out, cover := 0, -1
	var end uint64  // the unit that would go on with the run
	var other uint8 // what else was said about blocks since the run went on
	for i := range list {
		e := list[i]
		if cover >= 0 {
			switch c := &list[cover]; {
			case e.State.OfSpare() || e.State == StateHome || !d.reaches(end, e.Unit):
				cover = -1
			// What is pending in a spare unit must be said after what puts it there.
			case e.State == StatePending && d.joins(c, &e) && (e.Unit >= end || e.Mask&other == 0):
				c.Count = uint32(e.Unit + uint64(e.Count) - c.Unit)
				end, other = max(end, e.Unit+uint64(e.Count)), 0
				continue
			case e.State == StatePending, d == 1 && e.Mask&c.Mask != c.Mask:
				cover = -1
			default: // it is part of the run if that goes on behind it
				end, other = max(end, e.Unit+uint64(e.Count)), other|e.Mask
			}
		}
		if cover < 0 && e.State == StatePending {
			cover, end, other = out, e.Unit+uint64(e.Count), 0
		}
		list[out] = e
		out++
	}
	return out
}

// reaches reports whether a run that ends before a unit may go on with another one.
func (d Density) reaches(end, unit uint64) bool {
	if d == 1 {
		return unit == end
	}
	return unit <= end+1<<(d-2) && unit+1 >= end
}

// joins reports whether an entry about pending blocks may go into the one about a run.
func (d Density) joins(c, e *Entry) bool {
	whole := e.Unit + uint64(e.Count) - c.Unit
	if e.Unit < c.Unit || e.Mask != c.Mask || whole > math.MaxUint32 || whole < uint64(c.Count) {
		return false
	}
	return d > 1 || e.Time == c.Time && e.Cause == c.Cause
}
