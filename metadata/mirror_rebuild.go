package metadata

// rebuildElsewhereAfter is how much trouble a place may give before its mirror is rebuilt
// elsewhere: the mirror became stale there, or its slots could not be written.
const rebuildElsewhereAfter = 2

// troubledPlace is a place that gave trouble.
type troubledPlace struct {
	mirrorPlace
	trouble uint
}

// mirrorPlace is where a mirror lies or could lie.
type mirrorPlace struct {
	device        uint8
	start, length int64
}

// place is where the mirror lies.
func (m *mirror) place() mirrorPlace {
	return mirrorPlace{m.device, m.start, m.logOffset(m.atoms) - m.start}
}

// overlaps reports whether two places share a byte.
func (p mirrorPlace) overlaps(o mirrorPlace) bool {
	return p.device == o.device && p.start < o.start+o.length && o.start < p.start+p.length
}

func (c *Committer) troubledPlace(place mirrorPlace) *troubledPlace {
	for i := range c.troubledPlaces {
		if s := &c.troubledPlaces[i]; s.mirrorPlace == place {
			return s
		}
	}
	c.troubledPlaces = append(c.troubledPlaces, troubledPlace{mirrorPlace: place})
	return &c.troubledPlaces[len(c.troubledPlaces)-1]
}

func (c *Committer) trouble(place mirrorPlace) uint {
	for _, s := range c.troubledPlaces {
		if s.mirrorPlace == place {
			return s.trouble
		}
	}
	return 0
}

// otherGood reports whether the set could do without m: another mirror of the
// backing has all that a load needs.
func (c *Committer) otherGood(m *mirror) bool {
	for i := range c.mirrors {
		if o := &c.mirrors[i]; o != m && o.device == 0 && o.state == MirrorGood {
			return true
		}
	}
	return false
}

// noteTrouble notes that a mirror could not be written where it lies. After
// rebuildElsewhereAfter times it is to be rebuilt at the place that gave the least trouble
// so far, if that is less than here. So two bad places take turns, at the pace
// of the back-off, and a place that was never tried is tried at once.
//
// The superblocks name the new place first, with the mark that the mirror is
// stale. Only then is anything written there. After a cut the mirror is stale in either case:
// in its old place with the older superblock, in the new place with the newer one. A stale
// mirror has no say in what the newest record is. What else it holds counts only if position
// and checksum fit into the chain, so an older mirror that was left there does no harm. The
// mark is cleared once the new place has a whole checkpoint and a record newer than that.
// From then on nothing reads the old place.
//
// While the backing has only one superblock that reads, no mirror moves: an update for that
// would not write over it, see superblockUpdate.
//
// A mirror with larger slots than others also moves to a place that is only as large as the
// smallest of those needs: the table holds no more than that one. Such a place may lie within the
// one that is left. Nothing needs what is there, because another mirror has all of it.
//
// cause is what failed there last. A flush or a path that fails is not trouble of the place:
// they fail everywhere.
func (c *Committer) noteTrouble(m *mirror, cause error) {
	if !badPlace(cause) {
		return
	}
	s := c.troubledPlace(m.place())
	s.trouble++
	if s.trouble < rebuildElsewhereAfter || m.move != moveNone || c.phase < phaseEpoch ||
		!c.otherGood(m) ||
		c.sb.goodCopies(0) < 2 {
		return
	}
	least := s.trouble
	now := c.sb.now
	consider := func(room *Superblock, device uint8, length int64) {
		for _, start := range room.placesFor(&now.Regions[m.region], device, length) {
			to := mirrorPlace{device, start, length}
			if t := c.trouble(to); t < least && !c.isTarget(to) {
				least = t
				m.move, m.to = moveWanted, to
			}
		}
	}
	try := func(device uint8) {
		consider(now, device, m.place().length)
		if smallest := now.leastSlot(); smallest < m.slot {
			consider(now.without(m.region), device, now.mirrorLength(smallest))
		}
	}
	try(m.device)
	// If only one mirror is left, another device is better than nothing. The backing's room is for
	// its own mirrors.
	if m.move == moveNone && c.authoritativeMirrors() < 2 {
		for d := 1; d < len(c.sb.now.Devices); d++ {
			if uint8(d) != m.device {
				try(uint8(d))
			}
		}
	}
	if m.move == moveWanted {
		if least == 0 {
			m.notBefore = 0
		}
		c.growth.failed = c.growth.failed || m.to.length < m.place().length
		c.sb.wanted = true
		c.changed = true
	}
}

// isTarget reports whether another mirror is about to move to a place that
// overlaps this one.
func (c *Committer) isTarget(place mirrorPlace) bool {
	for i := range c.mirrors {
		if m := &c.mirrors[i]; m.move != moveNone && m.to.overlaps(place) {
			return true
		}
	}
	return false
}

// leavePlace makes a mirror stale that is about to be rebuilt elsewhere, before the
// superblock that says so is written. No record is under way, but perhaps one that waits
// for that superblock; what is durable by now is on another mirror too. It reports whether
// the set can do without the mirror; if not, it stays where it is.
func (c *Committer) leavePlace(m *mirror) bool {
	if !m.authoritative() {
		// The checkpoint that has brought it back, or is about to, is in the old place.
		m.state, m.ckProgress = MirrorStale, progressNone
		return true
	}
	if !c.otherGood(m) && !plantedGrowsTogether {
		m.move = moveNone
		return false
	}
	m.stateBefore, m.state, m.staleFrom, m.left = m.state, MirrorStale, c.durable.Position, true
	return true
}

// superblocksNamedPlace is called once the superblocks name the new place, or could not be
// written.
func (c *Committer) superblocksNamedPlace(m *mirror, ok bool) {
	m.move = moveNone
	if !ok {
		// Some copy may name the new place. So what it gets here does not count until
		// another update says where it is.
		if m.left {
			m.state = m.stateBefore
		}
		m.left = false
		c.growth.postpone(c.records)
		return
	}
	m.left = false
	m.device, m.start = m.to.device, m.to.start
	m.slot = c.sb.now.MirrorSlot(&c.sb.now.Regions[m.region])
	m.new, m.cover = -1, Position{}
	clear(m.slots)
	m.used, m.next, m.dirty = 0, 0, 0
	c.changed = true
}
