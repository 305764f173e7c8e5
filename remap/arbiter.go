package remap

import (
	"fmt"
	"slices"
	"syscall"

	"ublkremap/metadata"
)

// ArbiterConfig is what an Arbiter needs to know of its device.
type ArbiterConfig struct {
	Queues, Depth int
	InternalTags  int    // of each queue: EngineConfig.InternalTags
	Policy        Policy // zero: the defaults
	// Buffer is what relocations copy through: 4096-aligned, at least two units long. Half of it
	// bounds what is copied at once, up to MoveBatch units. It
	// belongs to the Arbiter.
	Buffer []byte
	// MaxPending is how many pending blocks the table may have, beside the bound that the
	// layout sets, so that the entries of all spare units fit beside them; 0: no limit.
	MaxPending uint64
	// Names is what the devices are called in reasons; nil: nothing.
	Names []string
}

// claimState says what a request's claim waits for.
type claimState uint8

const (
	claimNone claimState = iota
	// for a unit that is being relocated, or for another claim to the same blocks; also a report
	claimWaiting
	claimHeld       // spare units are granted, the engine writes to them
	claimCommitting // the change is with the journal
	claimReporting  // a pending mark is with the journal
	claimRetest     // no spare unit is free: for its pending blocks to be read again
	claimSearching  // a spare unit failed: for another one that is well
	claimAsking     // for an answer of the device of a block that did not read
)

// claim is what the Arbiter knows of one request that heals: at most one span
// of units, and the spare units that it was granted.
type claim struct {
	id     int // its number
	state  claimState
	tested bool    // spare was found by a search, and is the claim's to use or to free
	msg    Message // the request's last message
	spare  uint32  // first spare unit granted, for claimHeld and later
	count  uint32
	time   uint32 // of the commit, seconds since 1970
	since  int64  // of claimRetest: monotonic ns
	room   uint64 // entries that are reserved for it
}

// failed reports whether the request saw a spare unit fail: that a block is pending in
// one was said before.
func (c *claim) failed() bool {
	known := uint8(0)
	if c.msg.Mapped && c.msg.Untried {
		known = 1
	}
	return c.msg.Tries > known
}

// spareOf returns the spare unit that the claim gives a unit.
func (c *claim) spareOf(unit uint64) (uint32, bool) {
	if c.state != claimHeld && c.state != claimCommitting || unit < c.msg.Unit ||
		unit-c.msg.Unit >= uint64(c.count) {
		return 0, false
	}
	return c.spare + uint32(unit-c.msg.Unit), true
}

// maskOf returns which blocks of one of its units the claim is about.
func (c *claim) maskOf(unit uint64) uint8 { return c.msg.maskOf(unit) }

// commitKind says whom a commit's outcome is for.
type commitKind uint8

const (
	commitClaim commitKind = iota
	commitMove
	commitResume
	commitRetire
)

type commit struct {
	ticket Ticket
	kind   commitKind
	claim  int
}

// Arbiter settles, for all queues of a device, which spare unit each heal gets,
// has the changes made durable, publishes them in the Map and answers. It owns
// the Allocator and the breaker, and it relocates blocks. All its methods must
// be called from one goroutine.
type Arbiter struct {
	cfg     ArbiterConfig
	geo     *Geometry
	shared  *Shared
	m       *Map
	alloc   *Allocator
	journal Journal
	drv     ArbiterDriver
	bucket  bucket

	claims     []claim // by queue × tags + tag
	index      claimIndex
	commits    []commit // under way, in ticket order; at the end of commitsAll
	commitsAll []commit // the memory of commits
	scratch    []metadata.Entry
	// unknown is what commits of unknown outcome were about, and known what is
	// durable about the same blocks. They answer errors until a later record about
	// them is durable.
	unknown  []metadata.Entry
	known    []metadata.Entry
	resuming bool
	reason   string
	kind     TripKind // of reason
	shortage shortage // of spare units, as last told

	grace       grace
	move        mover
	search      search
	suspects    suspects
	room        room
	out         Message  // what is being sent: a driver gets a pointer, which must not make garbage
	outTransfer Transfer // likewise
}

// NewArbiter returns the arbiter of one device. The allocator must know every
// spare unit that the map uses.
func NewArbiter(cfg ArbiterConfig, s *Shared, alloc *Allocator, j Journal,
	d ArbiterDriver) *Arbiter {
	cfg.Policy = cfg.Policy.withDefaults()
	n := cfg.Queues * (cfg.Depth + cfg.InternalTags)
	a := &Arbiter{
		cfg: cfg, geo: &s.geo, shared: s, m: s.m, alloc: alloc, journal: j, drv: d,
		claims:     make([]claim, n),
		index:      newClaimIndex(n),
		commitsAll: make([]commit, 0, 2*n+16),
		scratch:    make([]metadata.Entry, 0, 256),
		unknown:    make([]metadata.Entry, 0, (n+1)*(MaxTries+3)),
		known:      make([]metadata.Entry, 0, (n+1)*(MaxTries+3)),
	}
	for i := range a.claims {
		a.claims[i].id = i
	}
	p := cfg.Policy
	a.bucket = bucket{tokens: p.Burst, burst: p.Burst, perSecond: p.PerSecond, last: d.Now()}
	a.move.init(cfg)
	a.commits = a.commitsAll
	a.search.init(n)
	a.suspects.init()
	a.room.density = s.geo.Density
	if a.room.capacity = s.geo.TableCapacity; a.room.capacity > 0 {
		a.countEntries()
	}
	return a
}

// Receive takes a message from an engine.
func (a *Arbiter) Receive(m *Message) {
	switch m.Kind {
	case MsgGraceDone:
		a.grace.done(a, m.Generation)
		a.advance()
		return
	case MsgDoubt:
		a.look(m.Device)
		a.advance()
		return
	}
	i := int(m.Queue)*(a.cfg.Depth+a.cfg.InternalTags) + int(m.Tag)
	c := &a.claims[i]
	switch m.Kind {
	case MsgReserve:
		c.msg = *m
		a.changed(c)
		a.reserve(c)
	case MsgRelease, MsgGiveUp:
		c.msg.Tried, c.msg.Tries, c.msg.Mapped, c.msg.Untried = m.Tried, m.Tries, m.Mapped,
			m.Untried
		a.changed(c)
		a.suspectTried(c)
		a.letGo(c)
		if m.Kind == MsgGiveUp {
			device, _ := a.geo.SpareOffset(m.Spare)
			a.search.add(a, job{kind: jobBreaker, device: device})
		}
	case MsgCommit:
		c.msg = *m
		a.changed(c)
		a.commit(i)
	case MsgPending:
		// The commit shows that the backing disk is there. Of a spare device it shows
		// nothing, unless that said itself that its medium is bad.
		if device := a.deviceOf(m); device != 0 && m.Errno != -int32(syscall.ENODATA) {
			c.msg, c.count = *m, 0
			a.set(c, claimAsking)
			a.search.add(a, job{kind: jobPending, claim: i, device: device})
		} else {
			a.pending(i, m)
		}
	}
	a.advance()
}

// advance goes on with what waits for something that may have ended.
func (a *Arbiter) advance() {
	for {
		a.awake()
		a.move.advance(a)
		if len(a.index.woken) == 0 && !a.index.all {
			break
		}
	}
	a.retire()
}

// deviceOf returns where the blocks of a message's first unit live.
func (a *Arbiter) deviceOf(m *Message) uint8 {
	device, _ := a.geo.HomeOffset(m.Unit * a.geo.BlocksPerUnit())
	if m.Mapped {
		device, _ = a.geo.SpareOffset(m.Spare)
	}
	return device
}

// asked goes on with a claim that calls blocks pending, once their device was asked.
// What a device that is away answers says nothing of its medium.
func (a *Arbiter) asked(i int, there bool) {
	c := &a.claims[i]
	a.set(c, claimNone)
	if !there {
		a.answer(c, MsgFailed)
		return
	}
	m := c.msg
	a.pending(i, &m)
}

// suspectTried notes the spare units that a claim's request saw fail.
func (a *Arbiter) suspectTried(c *claim) {
	if c.failed() {
		for _, spare := range c.msg.Tried[:c.msg.Tries] {
			a.suspect(spare)
		}
	}
}

func (a *Arbiter) answer(c *claim, kind MessageKind) {
	a.out = Message{
		Kind: kind, Queue: c.msg.Queue, Tag: c.msg.Tag, Unit: c.msg.Unit, Count: c.count,
		Spare: c.spare,
	}
	a.drv.Send(c.msg.Queue, &a.out)
}

// refuse ends a claim with an answer that grants nothing.
func (a *Arbiter) refuse(c *claim, kind MessageKind) {
	a.letGo(c)
	a.answer(c, kind)
}

// reserve grants spare units to a claim, or lets it wait, or refuses.
func (a *Arbiter) reserve(c *claim) {
	spare, tested := c.spare, c.tested
	c.tested = false
	if first := a.m.Unit(c.msg.Unit); !a.waits(c, &first) && a.roomFor(c) {
		if joined, ok := a.join(c, &first); ok {
			a.grant(c, joined, 1)
		} else if tested {
			a.take(c, spare, 1)
			return
		} else {
			a.allocate(c, &first)
		}
	}
	if tested {
		a.free(spare, 1) // it was looked for in vain
	}
}

// waits reports whether a claim cannot be granted anything now: it waits, or it was
// answered.
func (a *Arbiter) waits(c *claim, first *UnitInfo) bool {
	m := &c.msg
	switch {
	case a.shared.Tripped():
		a.refuse(c, MsgRefused)
	case first.Busy:
		// The claim lets go of what it held: a relocation waits for claims
		// that hold spare units, not for those that wait for it.
		a.set(c, claimWaiting)
		a.giveRoom(c)
	case !believes(m, first) || m.Untried && (first.Pending|first.Lost)&m.First != m.First:
		a.refuse(c, MsgRetry)
	case a.contested(c) && !plantedNoTurns:
		a.set(c, claimWaiting)
		a.giveRoom(c)
	default:
		return false
	}
	return true
}

// allocate takes free spare units for a claim.
func (a *Arbiter) allocate(c *claim, first *UnitInfo) {
	m := &c.msg
	want := a.fresh(c, first)
	var spare, n uint32
	var ok bool
	switch {
	case c.failed():
		// One that was tried failed. The next one is tried before it is granted.
		a.suspectTried(c)
		device, _ := a.geo.SpareOffset(m.Tried[m.Tries-1])
		a.set(c, claimSearching)
		a.search.add(a, job{kind: jobClaim, claim: c.id, device: device})
		return
	case m.Tries > 0:
		spare, ok = a.alloc.AllocateFar(m.Tried[:m.Tries]...)
		n = 1
	default:
		spare, n, ok = a.alloc.Allocate(want, NoHint)
	}
	if ok {
		a.take(c, spare, n)
		return
	}
	a.spareAlert()
	if first.Pending&m.First == m.First {
		c.since = a.drv.Now()
		a.set(c, claimRetest)
		return
	}
	a.refuse(c, MsgRefused)
}

// take grants a claim spare units that were allocated, unless the budget is used up.
func (a *Arbiter) take(c *claim, spare, n uint32) {
	if !a.bucket.take(uint64(n), a.drv.Now()) {
		a.free(spare, n)
		a.refuse(c, MsgRefused)
		a.trip(TripBudget, "blocks are remapped faster than the budget allows")
		return
	}
	a.grant(c, spare, n)
	a.spareAlert()
}

// contested reports whether another claim writes to a spare unit for one of the
// blocks of the claim's first unit. Heals of a block take their turns: if two
// wrote to the same place, and one failed and was answered, the other would
// publish the data of the one that failed, over writes that came after it.
func (a *Arbiter) contested(c *claim) (yes bool) {
	a.index.held.each(c.msg.Unit, func(i int) bool {
		o := &a.claims[i]
		_, holds := o.spareOf(c.msg.Unit)
		yes = o != c && holds && o.maskOf(c.msg.Unit)&c.msg.First != 0
		return !yes
	})
	return yes
}

// believes reports whether the blocks of a message's first unit live where the
// engine saw them fail.
func believes(m *Message, first *UnitInfo) bool {
	for _, p := range first.Places[:first.N] {
		if m.Mapped && p.Spare == m.Spare {
			return p.Mask&m.First == m.First
		}
		if !m.Mapped && p.Mask&m.First != 0 {
			return false
		}
	}
	return !m.Mapped
}

// join finds a spare unit that already serves the claim's first unit, so that
// two queues that meet in one unit share it.
func (a *Arbiter) join(c *claim, first *UnitInfo) (uint32, bool) {
	usable := func(spare uint32) bool {
		if a.alloc.Service(spare) != InService || slices.Contains(c.msg.Tried[:c.msg.Tries],
			spare) {
			return false
		}
		for _, p := range first.Places[:first.N] {
			if p.Spare == spare && p.Mask&c.msg.First != 0 {
				return false
			}
		}
		return true
	}
	for _, p := range first.Places[:first.N] {
		if usable(p.Spare) {
			return p.Spare, true
		}
	}
	var found uint32
	var ok bool
	a.index.held.each(c.msg.Unit, func(i int) bool {
		if o := &a.claims[i]; o != c {
			if found, ok = o.spareOf(c.msg.Unit); ok {
				ok = usable(found)
			}
		}
		return !ok
	})
	return found, ok
}

// fresh returns how many units from the claim's first on have nothing to do with
// the spare region yet and can be granted spare units in a row.
func (a *Arbiter) fresh(c *claim, first *UnitInfo) uint32 {
	if first.N > 0 {
		return 1
	}
	n := uint32(1)
	for ; n < c.msg.Count; n++ {
		unit := c.msg.Unit + uint64(n)
		if info := a.m.Unit(unit); info.Busy || info.N > 0 {
			break
		}
		if a.claimed(unit) {
			break
		}
	}
	return n
}

// healing returns which blocks of a unit claims write to spare units.
func (a *Arbiter) healing(unit uint64) (mask uint8) {
	a.index.held.each(unit, func(i int) bool {
		if c := &a.claims[i]; c.state != claimNone {
			if _, ok := c.spareOf(unit); ok {
				mask |= c.maskOf(unit)
			}
		}
		return true
	})
	return mask
}

// claimed reports whether any claim gives the unit a spare unit.
func (a *Arbiter) claimed(unit uint64) (yes bool) {
	a.index.held.each(unit, func(i int) bool {
		_, yes = a.claims[i].spareOf(unit)
		return !yes
	})
	return yes
}

func (a *Arbiter) grant(c *claim, spare, n uint32) {
	c.spare, c.count = spare, n
	a.set(c, claimHeld)
	a.answer(c, MsgReserved)
}

// letGo ends a claim and frees the spare units that nothing else uses.
func (a *Arbiter) letGo(c *claim) {
	held := c.state == claimHeld || c.state == claimCommitting
	a.set(c, claimNone)
	a.giveRoom(c)
	if held {
		for i := range c.count {
			a.freeUnused(c.msg.Unit+uint64(i), c.spare+i)
		}
	}
	for _, spare := range c.msg.Tried[:c.msg.Tries] {
		a.freeUnused(c.msg.Unit, spare)
	}
	c.msg.Tries = 0
}

// freeUnused frees a spare unit that served a unit, unless blocks live there or
// another claim has to do with it, once a grace period has passed: blocks may
// have lived there, and left, while the claim held it.
func (a *Arbiter) freeUnused(unit uint64, spare uint32) {
	if info := a.m.Unit(unit); holds(&info, spare) || a.inDoubt(spare) {
		return
	}
	if a.given(unit, spare) {
		return
	}
	if a.alloc.IsUsed(spare) && !a.alloc.InLimbo(spare) && !a.search.has(spare) {
		a.grace.vacate(a, spare)
	}
}

// free gives spare units back that the arbiter knows to be in use.
func (a *Arbiter) free(spare, count uint32) { must(a.alloc.Free(spare, count)) }

// must stops the server on a broken invariant of the allocator: going on could
// give one spare unit to two units.
func must(err error) {
	if err != nil {
		panic("remap: " + err.Error())
	}
}

// shortage says how few spare units are free.
type shortage uint8

const (
	shortNone shortage = iota
	shortLow           // less than a tenth of them
	shortFull          // none
)

// spareAlert tells that the spare region runs low or is full: once each, until there is
// enough again. Every heal that finds it full comes here.
func (a *Arbiter) spareAlert() {
	now := shortNone
	switch free, total := a.alloc.FreeCount(), a.alloc.Total(); {
	case free == 0:
		now = shortFull
	case free <= total/10:
		now = shortLow
	}
	told := a.shortage
	switch {
	case now == shortNone:
		a.shortage = now
	case now > told:
		a.shortage = now
		a.drv.Alert(AlertSpareLow + Alert(now-shortLow))
	}
}

// claimEntries writes to scratch what a claim's commit says.
func (a *Arbiter) claimEntries(c *claim) []metadata.Entry {
	m := &c.msg
	out := a.scratch[:0]
	if c.state == claimReporting {
		return a.spanEntries(out, c, metadata.Entry{State: metadata.StatePending,
			Cause: m.Cause, Time: c.time})
	}
	device, _ := a.geo.SpareOffset(c.spare)
	for _, spare := range m.Tried[:m.Tries] {
		// That the disk is there says the spare unit that took the data: of a spare device
		// see suspect.go.
		if d, _ := a.geo.SpareOffset(spare); d == device && d == 0 &&
			a.alloc.Service(spare) == InService {
			out = append(out, metadata.Entry{
				Spare: spare, Count: 1, State: metadata.StateRetired, Cause: metadata.CauseSpare,
				Time: c.time,
			})
		}
	}
	cause := metadata.CauseWrite
	switch {
	case m.Mapped:
		cause = metadata.CauseSpare
	case m.Errno == 0:
		cause = metadata.CauseRead // it was pending or lost
	}
	return a.spanEntries(out, c, metadata.Entry{Spare: c.spare, State: metadata.StateMapped,
		Cause: cause, Time: c.time})
}

// spanEntries adds what e says for the span of units of a claim: one entry for each mask, with
// spare units in a row if e has one.
func (a *Arbiter) spanEntries(out []metadata.Entry, c *claim, e metadata.Entry) []metadata.Entry {
	m := &c.msg
	full := uint8(1<<a.geo.BlocksPerUnit() - 1)
	add := func(from, count uint32, mask uint8) {
		if count == 0 {
			return
		}
		e := e
		e.Unit, e.Count, e.Mask = m.Unit+uint64(from), count, mask
		if e.State == metadata.StateMapped {
			e.Spare += from
		}
		out = append(out, e)
	}
	head, tail := uint32(0), uint32(0)
	if m.First != full {
		head = 1
	}
	if m.Count > head && m.Last != full {
		tail = 1
	}
	add(0, head, m.First)
	add(head, m.Count-head-tail, full)
	add(m.Count-tail, tail, m.Last)
	return out
}

// commit hands a claim's change to the journal: the data is durable in the
// spare units, so the record may now name them.
func (a *Arbiter) commit(i int) {
	c := &a.claims[i]
	for c.count > c.msg.Count { // granted and not used
		c.count--
		a.freeUnused(c.msg.Unit+uint64(c.count), c.spare+c.count)
	}
	c.time = a.drv.WallClock()
	a.set(c, claimCommitting)
	if !a.journalCommit(commitClaim, i, a.claimEntries(c)) {
		a.refuse(c, MsgFailed)
	}
}

func (a *Arbiter) journalCommit(kind commitKind, claim int, entries []metadata.Entry) bool {
	ticket, err := a.journal.Commit(entries)
	if err != nil {
		// It may have failed at something of its own, and waits to be resumed.
		a.trip(TripMetadata, "the metadata takes no commit: "+err.Error())
		return false
	}
	a.underWay(commit{ticket, kind, claim})
	return true
}

// underWay notes a commit. The memory is twice what is ever needed, so that it is seldom moved to
// the front.
func (a *Arbiter) underWay(c commit) {
	if len(a.commits) == cap(a.commits) {
		a.commits = append(a.commitsAll[:0], a.commits...)
	}
	a.commits = append(a.commits, c)
}

// pending has blocks marked that could not be read, or were to be read with some that could
// not. What the table knows already is left out; the answer says how far it got.
func (a *Arbiter) pending(i int, m *Message) {
	c := &a.claims[i]
	c.msg = *m
	now := a.unnoted(c)
	switch {
	case a.shared.Tripped(), a.cfg.MaxPending > 0 && a.m.Counts().Pending >= a.cfg.MaxPending:
		a.answer(c, MsgFailed)
	case now == healed:
		// They may be on their way to another place, or the heal fails. Then they are known to
		// be bad by this report alone: it waits for the end.
		c.msg = *m
		a.set(c, claimWaiting)
	case now == relocating:
		// What moves may be at another place soon. The engine looks again then.
		a.answer(c, MsgRetry)
	case c.msg.First == 0:
		a.answer(c, MsgCommitted) // all of it is known, or lives at another place
	case !a.roomToReport(c):
		a.answer(c, MsgFailed)
	default:
		c.time = a.drv.WallClock()
		a.set(c, claimReporting)
		if !a.journalCommit(commitClaim, i, a.claimEntries(c)) {
			a.set(c, claimNone)
			a.giveRoom(c)
			a.answer(c, MsgFailed)
		}
	}
}

// unnoted reduces a report to the first units in a row about which the table has something
// to learn, as far as one span can say it. What is not settled about the first of them has
// the report put off.
func (a *Arbiter) unnoted(c *claim) standing {
	m := c.msg
	full := uint8(1<<a.geo.BlocksPerUnit() - 1)
	var n uint32
	for i := range m.Count {
		mask, now := a.news(&m, m.Unit+uint64(i))
		switch {
		case n == 0 && mask == 0:
			continue
		case n == 0 && now != settled:
			c.msg.Unit, c.count = m.Unit+uint64(i), 0
			return now
		case n == 0:
			c.msg.Unit, c.msg.First = m.Unit+uint64(i), mask
		case mask == 0, now != settled, n > 1 && c.msg.Last != full:
			c.msg.Count, c.count = n, n
			return settled
		}
		c.msg.Last = mask
		n++
	}
	if n == 0 { // the answer is about all of it
		c.msg.First, n = 0, m.Count
	}
	c.msg.Count, c.count = n, n
	return settled
}

// standing says what is going on with the blocks of a unit.
type standing uint8

const (
	settled    standing = iota
	relocating          // they are being relocated
	healed              // somebody writes to a spare unit for them
)

// news returns which blocks of one unit of a report the table does not know as pending yet,
// where they are said to live.
func (a *Arbiter) news(m *Message, unit uint64) (mask uint8, now standing) {
	info := a.m.Unit(unit)
	mask = m.maskOf(unit) & uint8(1<<a.geo.BlocksPerUnit()-1) &^ (info.Pending | info.Lost)
	if !m.Mapped {
		mask &^= info.Mapped()
	} else {
		var here uint8
		for _, p := range info.Places[:info.N] {
			if p.Spare == m.Spare {
				here = p.Mask
			}
		}
		mask &= here
	}
	switch {
	case mask == 0:
	case info.Busy:
		return mask, relocating
	case mask&a.healing(unit) != 0:
		return mask, healed
	}
	return mask, settled
}

// Committed takes the outcome of a commit, in the order of the tickets. Not durable
// means that the outcome is not known: the record may still be on the media. It
// shows in the Map at once and never calls the Journal; Advance, which may, is
// to follow a batch of outcomes.
func (a *Arbiter) Committed(t Ticket, durable bool) {
	if len(a.commits) == 0 || a.commits[0].ticket != t {
		panic("remap: commits answered out of order")
	}
	done := a.commits[0]
	if a.commits = a.commits[1:]; len(a.commits) == 0 {
		a.commits = a.commitsAll[:0] // all of its memory again
	}
	switch done.kind {
	case commitClaim:
		a.claimCommitted(&a.claims[done.claim], durable)
	case commitMove:
		a.move.committed(a, durable)
	case commitResume:
		a.resumed(durable)
	case commitRetire:
		a.retired(durable)
	}
}

func (a *Arbiter) claimCommitted(c *claim, durable bool) {
	entries := a.claimEntries(c)
	reporting := c.state == claimReporting
	if !durable {
		a.outcomeUnknown(entries)
		a.set(c, claimNone) // what it was granted stays out of use
		a.letGo(c)
		a.answer(c, MsgFailed)
		return
	}
	a.publish(entries)
	if !reporting {
		a.took(c.spare)
		for _, spare := range c.msg.Tried[:c.msg.Tries] {
			a.suspect(spare) // if it was not retired
		}
		// Whoever asks from now on joins by the Map.
		a.letGo(c)
	}
	a.set(c, claimNone)
	a.giveRoom(c)
	a.answer(c, MsgCommitted)
}

// publish makes durable entries visible.
func (a *Arbiter) publish(entries []metadata.Entry) {
	a.spend(entries)
	for _, e := range entries {
		switch e.State {
		case metadata.StateMapped, metadata.StateHome, metadata.StateLost:
			must(a.alloc.Apply(e)) // it may end a quarantine
			if !a.anyPlaces(e) {
				a.m.Apply(e)
				continue
			}
			for i := range uint64(e.Count) {
				a.publishUnit(e, i)
			}
		case metadata.StatePending:
			a.m.Apply(e)
		default:
			must(a.alloc.Apply(e))
			for i := range e.Count {
				a.unsuspect(e.Spare + i)
			}
		}
	}
}

// anyPlaces reports whether blocks of an entry's units live in spare units.
func (a *Arbiter) anyPlaces(e metadata.Entry) bool {
	for i := range uint64(e.Count) {
		if info := a.m.Unit(e.Unit + i); info.N > 0 {
			return true
		}
	}
	return false
}

// publishUnit publishes the i-th unit of an entry that moves blocks, and sets
// the spare units aside that no block lives in any more.
func (a *Arbiter) publishUnit(e metadata.Entry, i uint64) {
	e.Unit += i
	e.Count = 1
	if e.State == metadata.StateMapped {
		e.Spare += uint32(i)
	}
	before := a.m.Unit(e.Unit)
	a.m.Apply(e)
	for _, p := range before.Places[:before.N] {
		a.vacateUnused(e.Unit, p.Spare)
	}
}

// vacateUnused sets a spare unit aside that served a unit and may have been
// looked at in the Map, unless blocks live there or a claim will free it.
func (a *Arbiter) vacateUnused(unit uint64, spare uint32) {
	info := a.m.Unit(unit)
	if !holds(&info, spare) && a.alloc.IsUsed(spare) && !a.alloc.InLimbo(spare) &&
		!a.given(unit, spare) {
		a.grace.vacate(a, spare)
	}
}

// given reports whether a claim will free a spare unit that served a unit: it writes there,
// or it has tried it. Were it freed before, and given to another unit, the claim would take it
// from that.
func (a *Arbiter) given(unit uint64, spare uint32) (yes bool) {
	if a.index.tried[spare] > 0 {
		return true
	}
	a.index.held.each(unit, func(i int) bool {
		s, ok := a.claims[i].spareOf(unit)
		yes = ok && s == spare
		return !yes
	})
	return yes
}

// outcomeUnknown takes entries whose record may or may not be on the media. Until
// a later record about them is durable, their blocks answer errors — the old
// data may be what a restart finds, and so may the new — and their spare units
// are set aside.
func (a *Arbiter) outcomeUnknown(entries []metadata.Entry) {
	for _, e := range entries {
		switch e.State {
		case metadata.StateMapped, metadata.StateHome:
			for i := range uint64(e.Count) {
				a.remember(e.Unit+i, e.Mask)
			}
			lost := e
			lost.State, lost.Cause, lost.Spare = metadata.StateLost, metadata.CauseUnknown, 0
			a.m.Apply(lost)
		}
		a.unknown = append(a.unknown, e)
		if e.State == metadata.StateMapped {
			for i := range e.Count {
				a.setAside(e.Unit+uint64(i), e.Spare+i)
			}
		}
	}
	a.tripFor(TripMetadata, 0, "no metadata mirror on the backing disk takes a commit")
}

// remember notes what is durable about blocks before the Map calls them lost:
// that they are is for the readers of the Map, and must not get into a
// checkpoint, or a restart would lose data that is at its place.
func (a *Arbiter) remember(unit uint64, mask uint8) {
	for _, e := range a.unknown {
		if (e.State == metadata.StateMapped || e.State == metadata.StateHome) && unit >= e.Unit &&
			unit-e.Unit < uint64(e.Count) {
			mask &^= e.Mask // it is in known already
		}
	}
	info := a.m.Unit(unit)
	say := func(state metadata.State, spare uint32, of uint8) {
		if of &= mask; of != 0 {
			a.known = append(a.known, metadata.Entry{
				Unit: unit, Spare: spare, Count: 1, Mask: of, State: state, Cause: info.Cause,
				Time: info.Time,
			})
		}
	}
	say(metadata.StateHome, 0, ^(info.Mapped() | info.Lost))
	for _, p := range info.Places[:info.N] {
		say(metadata.StateMapped, p.Spare, p.Mask)
	}
	say(metadata.StateLost, 0, info.Lost)
	say(metadata.StatePending, 0, info.Pending)
}

// setAside keeps a spare unit from being used for anything, without calling it
// used, unless blocks live there.
func (a *Arbiter) setAside(unit uint64, spare uint32) {
	if info := a.m.Unit(unit); !holds(&info, spare) && a.alloc.IsUsed(spare) &&
		!a.alloc.InLimbo(spare) {
		must(a.alloc.SetLimbo(spare, 1))
	}
}

// useAgain undoes setAside.
func (a *Arbiter) useAgain(spare uint32) {
	if a.alloc.InLimbo(spare) && !a.grace.inLimbo(spare) {
		must(a.alloc.Free(spare, 1))
		must(a.alloc.Take(spare, 1))
	}
}

// inDoubt reports whether a record of unknown outcome puts blocks into the
// spare unit, or takes them away from it.
func (a *Arbiter) inDoubt(spare uint32) bool {
	names := func(e metadata.Entry) bool {
		return e.State == metadata.StateMapped && spare >= e.Spare && spare-e.Spare < e.Count
	}
	return slices.ContainsFunc(a.unknown, names) || slices.ContainsFunc(a.known, names)
}

// trip opens the breaker: nothing is remapped until an operator resumes.
func (a *Arbiter) trip(kind TripKind, reason string) {
	if a.shared.Tripped() {
		return
	}
	a.reason, a.kind = reason, kind
	a.shared.tripped.Store(true)
	for i := range a.claims {
		if c := &a.claims[i]; c.state == claimWaiting || c.state == claimRetest {
			a.refuse(c, MsgRefused)
		}
	}
	a.drv.Alert(AlertTripped)
}

// Resume closes the breaker, after what commits of unknown outcome were about
// has been stated again.
func (a *Arbiter) Resume() error {
	switch {
	case !a.shared.Tripped():
		return ErrNotTripped
	case a.resuming || len(a.commits) > 0:
		return ErrBusy
	}
	if why := a.missing(); why != "" {
		a.reason, a.kind = why, TripGone
		return fmt.Errorf("%w: %s", ErrGone, why)
	}
	ticket, err := a.journal.Resume(a.unknown)
	if err != nil {
		return err
	}
	a.resuming = true
	a.underWay(commit{ticket: ticket, kind: commitResume})
	return nil
}

func (a *Arbiter) resumed(durable bool) {
	a.resuming = false
	if !durable {
		return
	}
	unknown, known := a.unknown, a.known
	a.unknown, a.known = a.unknown[:0], a.known[:0]
	for _, e := range unknown {
		if e.State == metadata.StateMapped {
			for i := range e.Count {
				a.useAgain(e.Spare + i)
			}
		}
	}
	a.publish(unknown)
	// Where the blocks were, and where they were to go in between, nothing may
	// live any more.
	for _, list := range [][]metadata.Entry{known, unknown} {
		for _, e := range list {
			if e.State == metadata.StateMapped {
				for i := range e.Count {
					a.vacateUnused(e.Unit+uint64(i), e.Spare+i)
				}
			}
		}
	}
	a.bucket.tokens, a.bucket.last = a.bucket.burst, a.drv.Now()
	a.reason = ""
	a.shared.doubted.Store(0)
	a.shared.tripped.Store(false)
	a.drv.Alert(AlertResumed)
}

// ArbiterStatus is what status shows.
type ArbiterStatus struct {
	Total, Used, Free, Retired uint64 // spare units
	Tripped                    bool
	Suspect                    uint64 // spare units that failed and are not retired, or not yet
	Reason                     string // why the breaker is open
	Kind                       TripKind
	Table                      TableStatus
	Claims                     int // requests that heal
}

// Status returns the arbiter's state.
func (a *Arbiter) Status() ArbiterStatus {
	s := ArbiterStatus{
		Total: a.alloc.Total(), Used: a.alloc.Used(), Free: a.alloc.FreeCount(),
		Retired: a.alloc.Retired(),
		Tripped: a.shared.Tripped(), Reason: a.reason, Kind: a.kind,
		Suspect: uint64(len(a.suspects.list)),
		Table:   TableStatus{Entries: a.room.upper, Capacity: a.room.capacity, Full: a.room.full},
	}
	s.Claims = a.index.live
	return s
}
