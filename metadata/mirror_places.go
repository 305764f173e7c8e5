package metadata

import (
	"cmp"
	"slices"
)

// span is a range of bytes on a device.
type span struct{ from, to int64 }

// freeSpans returns the room on a device that may hold metadata and that no region
// and no superblock takes: in the head and the tail of the backing, behind the
// superblocks of a spare device. A place that a mirror has left is free, too.
func (sb *Superblock) freeSpans(device uint8) []span {
	var room []span
	if device != 0 {
		room = []span{{sb.firstRegion(device), sb.Devices[device].Size}}
	} else {
		room = []span{{sb.firstRegion(0), sb.HeadBytes}}
		if sb.hasTail() && sb.TailStart == 0 {
			room = append(room, span{sb.ExportedBytes, tailSuperblock(sb.Devices[0].Size)})
		}
	}
	var taken []span
	for i := range sb.Regions {
		if r := &sb.Regions[i]; r.Device == device {
			taken = append(taken, span{r.Start, r.Start + r.Length})
		}
	}
	slices.SortFunc(taken, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	var out []span
	for _, g := range room {
		for _, t := range taken {
			if t.from >= g.to || t.to <= g.from {
				continue
			}
			if g.from < t.from {
				out = append(out, span{g.from, t.from})
			}
			g.from = t.to
		}
		if g.from < g.to {
			out = append(out, g)
		}
	}
	return out
}

// without is the superblock without one of its regions, so that its place counts as free.
func (sb *Superblock) without(region int) *Superblock {
	c := sb.clone()
	c.Regions = slices.Delete(c.Regions, region, region+1)
	return c
}

// placesFor returns the places on a device at which a mirror of a length may be rebuilt. One
// that lies outside of the head stays outside, because a revert needs it there when it puts
// the data back to where the head is.
func (sb *Superblock) placesFor(r *Region, device uint8, length int64) []int64 {
	places := sb.placesOf(device, length)
	if device == 0 && !sb.inHead(r) {
		places = slices.DeleteFunc(places, func(start int64) bool { return start < sb.HeadBytes })
	}
	return places
}

// maxPlaces is how many places in one gap are considered.
const maxPlaces = 8

// mirrorPlaces is placesOf for a mirror with the least slots.
func (sb *Superblock) mirrorPlaces(device uint8) []int64 {
	return sb.placesOf(device, sb.mirrorLength(sb.SlotBytes))
}

// placesOf returns the offsets on a device at which a mirror of a length would fit
// beside what is there: from the beginning of each free span on, one behind the
// other, and one up against its end.
func (sb *Superblock) placesOf(device uint8, length int64) []int64 {
	atom := int64(sb.AtomSize)
	var out []int64
	for _, g := range sb.freeSpans(device) {
		from, to := roundUp(g.from, atom), roundDown(g.to, atom)
		n := 0
		for ; from+length <= to && n < maxPlaces; from += length {
			out = append(out, from)
			n++
		}
		if last := to - length; n > 0 && out[len(out)-1] < last {
			out = append(out, last)
		}
	}
	return out
}
