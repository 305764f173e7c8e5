package metadata

import "math"

// A set whose table had become larger than a checkpoint could not be opened any more: its
// log was full, and nothing could free it. No table grows so large now. A set that has such
// a table is opened anyway. Its table is stated in fewer entries that say the same. If
// these are still too many, more blocks are called pending than are. That is safe: a pending
// block is read like any other, and written to a spare unit.

// Density says how densely a table is stated. At 0 a change costs the fewest entries.
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

// CountEntries returns how many entries a checkpoint of a table has. It reads the table as a
// checkpoint does.
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

// Condense makes fewer entries of those that one call of a Source returned, which are in the
// order of their units, and returns how many. At density 1 they say the same. A run of
// pending units, some of which are mapped or lost by now, is one entry for the whole run; the
// entries of those units follow it, and overrule it. At a higher density the run also
// includes short gaps, and blocks of units that are mapped in part.
func Condense(list []Entry, d Density) int {
	if d == 0 {
		return len(list)
	}
	out, cover := 0, -1
	var end uint64  // the unit that would go on with the run
	var other uint8 // what else was said about blocks since the run went on
	for i := 0; i < len(list); {
		e, n := list[i], 1
		if cover >= 0 {
			c := &list[cover]
			switch {
			case e.State.OfSpare() || e.State == StateHome || !d.reaches(end, e.Unit):
				cover = -1
			case e.State == StatePending:
				// A pending mark of blocks in a spare unit must come after the entry that puts them
				// there.
				if d.joins(c, &e) && (e.Unit >= end || e.Mask&other == 0) {
					c.Count = uint32(e.Unit + uint64(e.Count) - c.Unit)
					end, other = max(end, e.Unit+uint64(e.Count)), 0
					i++
					continue
				}
				cover = -1
			default:
				var placed, pending uint8
				n, placed, pending = sameUnits(list[i:])
				// If the run covers these units, these blocks stay pending.
				left := c.Mask &^ placed
				if d == 1 && left&^pending != 0 {
					cover, n = -1, 1
					break
				}
				// They are part of the run if that goes on behind them, or if it says what
				// is pending.
				end, other = max(end, e.Unit+uint64(e.Count)), other|placed|pending
				if whole := end - c.Unit; pending != 0 && pending == left &&
					whole <= math.MaxUint32 {
					c.Count = uint32(whole)
					out += copy(list[out:], list[i:i+n-1])
					i += n
					continue
				}
			}
		}
		if cover < 0 && e.State == StatePending {
			cover, end, other = out, e.Unit+uint64(e.Count), 0
		}
		out += copy(list[out:], list[i:i+n])
		i += n
	}
	return out
}

// sameUnits returns how many entries, from the first one on, are about the same units, up
// to the one about pending blocks. placed are the blocks that they call mapped or lost, and
// pending those that they call pending.
func sameUnits(list []Entry) (n int, placed, pending uint8) {
	for _, e := range list {
		if e.Unit != list[0].Unit || e.Count != list[0].Count || e.State.OfSpare() ||
			e.State == StateHome {
			break
		}
		n++
		if e.State == StatePending {
			return n, placed, e.Mask
		}
		placed |= e.Mask
	}
	return n, placed, 0
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
