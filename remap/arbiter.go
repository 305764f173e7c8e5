package remap

import (
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
	// MaxPending is how many pending blocks the table may have at most, besides the bound of the
	// layout, which leaves room for the entries of all spare units; 0: no limit.
	MaxPending uint64
	// Record is told what happened, for the flight recorder; nil: nobody wants to know. It must not
	// keep the pointer, and not call back into the Arbiter.
	Record func(*metadata.Event)
	// Names are the names of the devices in reasons; nil: none.
	Names []string
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
	// unknown are the entries of commits of unknown outcome, and known is the durable state of
	// the same blocks. These blocks answer errors until a later record about them is durable.
	unknown  []metadata.Entry
	known    []metadata.Entry
	resuming bool
	// restated counts how often the state of such blocks was committed again.
	restated uint64
	reason   string
	kind     TripKind // of reason
	shortage shortage // of spare units, as of the last alert

	grace       grace
	move        mover
	mark        marker
	search      search
	spareScrub  spareScrub
	tested      *Proofs // of the retest that is under way; nil: none
	wellHomes   map[uint64]wellHome
	suspects    suspects
	space       tableSpace
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
	a.space.density = s.geo.Density
	if a.space.capacity = s.geo.TableCapacity; a.space.capacity > 0 {
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
	case MsgCheckDevice:
		a.checkDevice(m.Device)
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
		if c.home { // the blocks did not take a write in place
			for i := range uint64(c.count) {
				a.homeFailed(c.msg.Unit+i, c.maskOf(c.msg.Unit+i))
			}
		}
		a.changed(c)
		a.suspectTried(c)
		a.endClaim(c)
		if m.Kind == MsgGiveUp {
			device, _ := a.geo.SpareOffset(m.Spare)
			a.search.add(a, job{kind: jobBreaker, device: device})
		}
	case MsgCommit:
		c.msg = *m
		a.changed(c)
		a.commit(i)
	case MsgPending:
		// The commit shows that the backing disk is present. It shows nothing about a spare
		// device, so that is asked first, unless it reported a medium error itself.
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

// advance goes on with claims and moves that may no longer have to wait.
func (a *Arbiter) advance() {
	for {
		a.resumeWoken()
		a.move.advance(a)
		a.mark.advance(a)
		if len(a.index.woken) == 0 && !a.index.all {
			break
		}
	}
	a.retire()
}

// ArbiterStatus is what status shows.
type ArbiterStatus struct {
	Total, Used, Free, Retired uint64 // spare units; one that is only tried is just in Total
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
		Total: a.alloc.Total(), Used: a.alloc.Used() - a.search.taken(), Free: a.alloc.FreeCount(),
		Retired: a.alloc.Retired(),
		Tripped: a.shared.Tripped(), Reason: a.reason, Kind: a.kind,
		Suspect: uint64(len(a.suspects.list)),
		Table: TableStatus{Entries: a.space.upper, Capacity: a.space.capacity,
			Full: a.space.full, Refused: a.space.refused},
	}
	s.Claims = a.index.live
	return s
}
