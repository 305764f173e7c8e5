package metadata

// This file gives mirrors larger checkpoint slots, so that the table may have more entries. The
// mirrors grow one after the other. Each is rebuilt in a larger place, as described at
// Committer.noteTrouble: the superblocks name the new place, with its length and the mark that the
// mirror is stale; then it gets a whole checkpoint; then the mark is cleared. The new place may
// overlap the old one, because from the first step on nothing reads the old one.
//
// Promise 13 holds because another mirror has all of it, proved: a mirror only leaves its place
// right after a checkpoint that every mirror took and that was read back on each.
//
// The table may have no more entries than the smallest slot holds, also while that mirror is
// stale. A load derives the same bound from the same superblock. So nothing has to be undone,
// wherever the power is cut.

// Growth says how far the mirrors are on the way to larger slots.
type Growth string

const (
	GrowthNone     Growth = ""          // not asked for, or done
	GrowthUnderWay Growth = "under way" // mirrors are being rebuilt
	// GrowthWaits: a mirror or a superblock has to be in order first, a larger place was bad, or
	// commits are suspended.
	GrowthWaits Growth = "waits"
	// GrowthNoRoom: the devices have no room for larger slots on every mirror.
	GrowthNoRoom Growth = "no room"
)

const (
	// growthTimes is how much larger slots become in one go, at most. What is left of the room
	// stays for a mirror whose place goes bad.
	growthTimes = 2
	// growthLeast is how much larger they must become to be worth it: by a quarter.
	growthLeast = 4
)

// growth is what is known about making slots larger.
type growth struct {
	wanted    bool   // asked for, and not done
	proved    bool   // a checkpoint was written since, on all mirrors
	failed    bool   // a mirror left a larger place because it was bad: not again before a start
	waits     bool   // something else has to be in order first
	notBefore uint64 // not before so many records
	slot      int64  // that every mirror is to have
	// noRoom is the generation of a superblock whose layout has no room.
	noRoom uint64
}

// postpone lets some records pass before the next try.
func (g *growth) postpone(records uint64) { g.notBefore = records + backoffRecords }

// Grow asks for larger checkpoint slots. It may be called at any time, and repeatedly. Growth shows
// the progress, and TableCapacity the result.
func (c *Committer) Grow() {
	g := &c.growth
	if g.wanted || g.failed || c.phase != phaseOpen || c.suspended ||
		g.noRoom == c.sb.now.Generation {
		return
	}
	if g.slot = c.sb.now.growthSlot(); g.slot == 0 {
		g.noRoom = c.sb.now.Generation
		return
	}
	g.wanted, g.proved, c.changed = true, false, true
}

// StopGrowing ends the growth with the mirrors that have moved so far. It is for a device that is
// about to end. After the next start, Grow continues it.
func (c *Committer) StopGrowing() { c.growth.wanted, c.growth.waits = false, false }

// TableCapacity is how many entries the table may have now. It rises when the superblocks say that
// every mirror has larger slots, and never falls.
func (c *Committer) TableCapacity() uint64 { return c.capacity }

// Growth says how far mirrors are with larger slots.
func (c *Committer) Growth() Growth {
	switch g := &c.growth; {
	case g.wanted && !g.waits && !c.suspended:
		return GrowthUnderWay
	case g.wanted, g.failed, c.suspended:
		return GrowthWaits
	case g.noRoom == c.sb.now.Generation:
		return GrowthNoRoom
	}
	return GrowthNone
}

// leastPages is how many pages fit into a slot of every mirror.
func (c *Committer) leastPages() uint32 {
	least := c.mirrors[0].pages()
	for i := range c.mirrors {
		least = min(least, c.mirrors[i].pages())
	}
	return least
}

// stepGrowth begins with the next mirror, as soon as everything is in order.
func (c *Committer) stepGrowth() {
	g := &c.growth
	if !g.wanted {
		return
	}
	g.waits = g.failed || c.suspended || c.records < g.notBefore || c.sb.goodCopies(0) < 2
	inOrder := !g.waits
	for i := range c.mirrors {
		m := &c.mirrors[i]
		g.waits = g.waits || c.records < m.notBefore && !m.rebuilding()
		inOrder = inOrder && m.state == MirrorGood && m.dirty == 0 && m.move == moveNone
	}
	if g.waits {
		g.proved = false
	}
	if plantedGrowsTogether {
		inOrder = true
	}
	if !inOrder || g.waits || c.ck.active() || c.sb.active() || c.sb.wanted || c.rec.active() {
		return
	}
	if !g.proved {
		return // startDueCheckpoint sees to it
	}
	now := c.sb.now
	if now.leastSlot() >= g.slot {
		g.wanted = false
		return
	}
	steps := now.growthSteps(g.slot)
	if len(steps) == 0 {
		g.wanted = false // the places have changed; it is asked for again if it is needed
		return
	}
	m, to := &c.mirrors[steps[0].mirror], steps[0].to
	if !c.otherGood(m) && !plantedGrowsTogether || c.trouble(to) >= rebuildElsewhereAfter {
		g.waits, g.failed = true, true
		return
	}
	m.move, m.to = moveWanted, to
	c.sb.wanted, c.changed = true, true
}

// growthStep is a mirror that moves to a larger place.
type growthStep struct {
	mirror int // index among the mirrors
	to     mirrorPlace
}

// growthSlot is the size of slots that every mirror can get, 0 if that is not worth it.
func (sb *Superblock) growthSlot() int64 {
	atom, least := int64(sb.AtomSize), sb.leastSlot()
	fits := func(slot int64) bool { return sb.growthSteps(slot) != nil }
	low, high := least/atom, growthTimes*least/atom // in atoms: low fits
	for low < high {
		if mid := (low + high + 1) / 2; fits(mid * atom) {
			low = mid
		} else {
			high = mid - 1
		}
	}
	if slot := low * atom; slot >= least+least/growthLeast {
		return slot
	}
	return 0
}

// growthSteps are the moves, one after the other, after which every mirror has slots of at least
// that size; nil if they cannot be made. A mirror moves within the room that it is in, to one
// end of it, so that its neighbour gets what is left.
func (sb *Superblock) growthSteps(slot int64) []growthStep {
	now, steps := sb.clone(), []growthStep{}
	for progress := true; progress; {
		progress = false
		mirror := -1
		done := true
		for i := range now.Regions {
			r := &now.Regions[i]
			if r.Kind != RegionMirror {
				continue
			}
			if mirror++; now.MirrorSlot(r) >= slot {
				continue
			}
			to, ok := now.growthPlace(i, slot)
			if !ok {
				done = false
				continue
			}
			r.Start, r.Length = to.start, to.length
			steps = append(steps, growthStep{mirror, to})
			progress = true
		}
		if done {
			return steps
		}
	}
	return nil
}

// growthPlace finds a place with slots of that size for a mirror, that may overlap where it is.
func (sb *Superblock) growthPlace(region int, slot int64) (mirrorPlace, bool) {
	r := &sb.Regions[region]
	atom, length := int64(sb.AtomSize), sb.mirrorLength(slot)
	for _, g := range sb.without(region).freeSpans(r.Device) {
		if r.Device == 0 && sb.inHead(r) != (g.from < sb.HeadBytes) {
			continue // one in the head and one outside: both are seldom lost at once
		}
		from, to := roundUp(g.from, atom), roundDown(g.to, atom)
		if from+length > to {
			continue
		}
		// If a neighbour is a mirror, it should get what is left.
		if sb.mirrorEndsAt(r.Device, g.from) {
			from = to - length
		}
		return mirrorPlace{r.Device, from, length}, true
	}
	return mirrorPlace{}, false
}

// mirrorEndsAt reports whether a mirror ends at a byte of a device.
func (sb *Superblock) mirrorEndsAt(device uint8, off int64) bool {
	for i := range sb.Regions {
		r := &sb.Regions[i]
		if r.Kind == RegionMirror && r.Device == device && r.Start+r.Length == off {
			return true
		}
	}
	return false
}
