package remap

import "ublkremap/metadata"

// This file gives the durable table to a checkpoint, and keeps it small enough for one.

// table is a map and an allocator as a source of entries.
type table struct {
	m       *Map
	alloc   *Allocator
	known   []metadata.Entry // replaces what the map says
	density metadata.Density
}

// A cursor into the entries has one of these bits set after the part about the map: first the part
// about spare units, then the part about blocks whose last commit has an unknown outcome.
const (
	spareEntries = 1 << 63
	knownEntries = 1 << 62
)

// Entries returns the durable table, page by page, for a checkpoint. It fills dst and returns how
// many entries it wrote and where to continue. The table may change between two calls. Every such
// change is in the log.
func (a *Arbiter) Entries(cursor uint64, dst []metadata.Entry) (n int, next uint64, done bool) {
	return a.table().Entries(cursor, dst)
}

func (a *Arbiter) table() table { return table{a.m, a.alloc, a.known, a.space.density} }

// Entries is Arbiter.Entries.
func (t table) Entries(cursor uint64, dst []metadata.Entry) (n int, next uint64, done bool) {
	n, next, done = t.plain(cursor, dst)
	return metadata.Condense(dst[:n], t.density), next, done
}

func (t table) plain(cursor uint64, dst []metadata.Entry) (n int, next uint64, done bool) {
	if cursor&(spareEntries|knownEntries) == 0 {
		if n, next, done = t.m.Entries(cursor, dst); !done {
			return n, next, false
		}
		cursor = spareEntries
		if n == len(dst) {
			return n, cursor, false
		}
	}
	if cursor&spareEntries != 0 {
		k, next, done := t.alloc.Entries(cursor&^spareEntries, dst[n:])
		n += k
		if !done {
			return n, next | spareEntries, false
		}
		cursor = knownEntries
	}
	// These entries come last. They replace what the Map said of the blocks of a commit of unknown
	// outcome. If that commit has been settled since, a record about its blocks is durable.
	if at := cursor &^ knownEntries; at < uint64(len(t.known)) {
		k := copy(dst[n:], t.known[at:])
		n, cursor = n+k, cursor+uint64(k)
		return n, cursor, cursor&^knownEntries == uint64(len(t.known))
	}
	return n, cursor, true
}

// The size of the table is bounded. A change adds at most as many entries as chargeTable says: it
// may cut a run in two, and is an entry itself. The Arbiter counts the entries once and then keeps
// an upper bound. When the bound comes near the capacity it counts again. If the table is really
// nearly full, it is stated in fewer entries that mean the same. A heal in a run of pending units
// then costs one entry, so there is space for as many heals as there are spare units.
//
// Space is reserved before a heal begins, so its commit always fits. Pending marks and moves leave
// space for as many heals as there are free spare units, within a quarter of the table.

// Larger checkpoint slots are asked for long before anything is refused: see TableNearlyFull. A
// change that finds no room waits for them. It is refused only when no more room can be made.

// tableSpace says how full the table is.
type tableSpace struct {
	capacity uint64 // entries that a checkpoint holds; 0: no limit
	grows    bool   // larger checkpoint slots are being made, or would be if they were asked for
	density  metadata.Density
	upper    uint64 // upper bound of the number of entries
	since    uint64 // how much of upper was added since the last count
	reserved uint64 // entries for claims that are under way
	wanted   bool   // something waits for space
	full     bool   // something was refused since there last was space
	refused  uint64 // what was refused for lack of space since the start
}

// slack is what the bound leaves for entries that several calls of a Source split in two, and for
// changes while a checkpoint is written.
func (r *tableSpace) slack() uint64 { return r.capacity/64 + 64 }

const (
	perEntry     = 3 // what one entry about one unit, or about a run of fresh units, adds
	perBatch     = 2 * perEntry * MoveBatch
	recountLeast = 256
)

// tableFits reports whether n more entries fit, with room left for keep others. It counts the table
// if that may help.
func (a *Arbiter) tableFits(n, keep uint64) bool {
	r := &a.space
	if r.capacity == 0 {
		return true
	}
	for {
		limit := r.capacity
		if r.density == 0 {
			// The table is stated in fewer entries before it counts as nearly full.
			limit -= limit / 4
		}
		if r.upper+r.reserved+n+keep+r.slack() <= limit {
			r.full = false
			return true
		}
		switch {
		case r.since >= max(recountLeast, r.capacity/64):
		case r.density == 0:
			r.density = 1
		default:
			r.full = !r.grows
			return false
		}
		a.countEntries()
	}
}

// TableNearlyFull reports that the table should get larger checkpoint slots: something waits for
// room, or the table takes more than half of what a checkpoint holds, in the form with the fewest
// entries. Pending marks are refused when three quarters are taken, because a quarter is kept for
// heals.
func (a *Arbiter) TableNearlyFull() bool {
	r := &a.space
	if r.capacity == 0 {
		return false
	}
	for r.upper+r.slack() > r.capacity/2 {
		switch {
		case r.since >= max(recountLeast, r.capacity/64):
		case r.density == 0:
			r.density = 1
		default:
			return true
		}
		a.countEntries()
	}
	return r.wanted
}

// SetTable tells the Arbiter how many entries a checkpoint holds from now on. grows says that
// larger slots are being made, or would be if they were asked for: then it is worth waiting for
// them. The caller must call Advance afterwards if SetTable returns true: something that waited for
// room goes on.
func (a *Arbiter) SetTable(capacity uint64, grows bool) bool {
	r := &a.space
	if r.capacity == 0 || r.capacity == capacity && r.grows == grows {
		return false
	}
	r.full = r.full && r.capacity == capacity && !grows
	r.capacity, r.grows = capacity, grows
	if !r.wanted {
		return false
	}
	r.wanted = false
	a.wakeAll()
	return true
}

func (a *Arbiter) countEntries() {
	a.space.upper, a.space.since = metadata.CountEntries(a.table()), 0
}

// reserveSpace reserves room for something that is about to begin. It returns false if there is
// none.
func (a *Arbiter) reserveSpace(n, keep uint64) bool {
	if !a.tableFits(n, keep) {
		return false
	}
	a.space.reserved += n
	return true
}

// spaceForClaim reserves room for what a claim's commit may say. The claim waits if only reserved
// room is in the way. Otherwise it is refused.
func (a *Arbiter) spaceForClaim(c *claim) bool {
	n := uint64(perEntry) + 2*uint64(c.msg.Tries)
	if c.msg.Count > 1 {
		n += 2 * perEntry
	}
	a.returnSpace(c)
	switch {
	case a.reserveSpace(n, 0):
		c.space = n
		return true
	case a.space.grows,
		a.space.reserved > 0 && a.space.upper+n+a.space.slack() <= a.space.capacity:
		a.waitForSpace(c)
	default:
		a.space.refused++
		a.refuse(c, MsgRefused)
	}
	return false
}

// spaceForReport reserves room for what a claim reports as pending.
func (a *Arbiter) spaceForReport(c *claim) bool {
	a.returnSpace(c)
	counts := a.m.Counts()
	n := 3*perEntry + min(uint64(c.msg.Count), counts.Mapped+counts.Lost)
	if !a.reserveSpace(n, a.spaceForHeals()) {
		return false
	}
	c.space = n
	return true
}

// waitForSpace lets a claim wait until there is room, or no more can be made.
func (a *Arbiter) waitForSpace(c *claim) {
	a.space.full, a.space.wanted = false, true
	a.set(c, claimWaiting)
}

// returnSpace gives back what is reserved for a claim.
func (a *Arbiter) returnSpace(c *claim) {
	if c.space > 0 && a.space.wanted {
		a.space.wanted = false
		a.wakeAll()
	}
	a.space.reserved -= c.space
	c.space = 0
}

// spaceForHeals returns the room that is kept for heals.
func (a *Arbiter) spaceForHeals() uint64 {
	return min(perEntry*a.alloc.FreeCount(), a.space.capacity/4)
}

// chargeTable counts what entries that became durable have added.
func (a *Arbiter) chargeTable(entries []metadata.Entry) {
	n := a.tableCost(entries)
	a.space.upper += n
	a.space.since += n
}

// tableCost returns how many entries, at most, a change adds to the table.
func (a *Arbiter) tableCost(entries []metadata.Entry) (n uint64) {
	for _, e := range entries {
		n += perEntry
		if e.State == metadata.StatePending && e.Count > 1 {
			// Units that already live in a spare unit need an entry each.
			c := a.m.Counts()
			n += min(uint64(e.Count), c.Mapped+c.Lost)
		}
	}
	return n
}

// TableStatus says how full the table is.
type TableStatus struct {
	Entries  uint64 // that the table has, at most
	Capacity uint64 // that a checkpoint holds; 0: no limit
	Full     bool   // something was refused for lack of room, and would be refused again
	Refused  uint64 // heals, pending marks and moves refused for that since the start
}
