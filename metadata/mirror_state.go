package metadata

// maxMirrors is the most mirrors that a set has.
const maxMirrors = 8

// MirrorState says how far a mirror can be relied on.
type MirrorState string

const (
	MirrorGood MirrorState = "good" // has all that is needed to load
	// It takes records, but something older is missing or bad, until it is refreshed.
	MirrorWeak  MirrorState = "weak"
	MirrorStale MirrorState = "stale" // misses records; marked so in the superblock
	// It is stale, and a checkpoint is being written to bring it back.
	MirrorRebuilding MirrorState = "rebuilding"
)

// MirrorStatus is the state of one mirror.
type MirrorStatus struct {
	Device   uint8       `json:"device"`
	Start    int64       `json:"start"`    // byte offset on the device
	Length   int64       `json:"length"`   // bytes
	Location string      `json:"location"` // for people: "backing@131072"
	State    MirrorState `json:"state"`
	LogUsed  int64       `json:"log_used"` // bytes that wait for a checkpoint
	LogSize  int64       `json:"log_size"` // bytes
}

// States of a mirror that a checkpoint has brought back, but that the superblocks still call
// stale. To the outside they are MirrorRebuilding.
const (
	// mirrorRebuilt: no record in its log says yet how new it is.
	mirrorRebuilt MirrorState = "rebuilt"
	// mirrorRecorded: its log has such a record.
	mirrorRecorded MirrorState = "recorded"
	// mirrorClearing: the superblocks under way say that it is not stale any more.
	mirrorClearing MirrorState = "clearing"
)

// moveState is how far a mirror has come on its way to another place.
type moveState uint8

const (
	moveNone   moveState = iota
	moveWanted           // the next superblocks are to say that it lies there, stale
	moveNamed            // the superblocks under way say so
)

// progress is how far a mirror has come with a step that all mirrors take.
type progress uint8

const (
	progressNone progress = iota // takes no part
	progressPending
	progressDone
	progressFailed
)

// mirror is the Committer's view of a mirror.
type mirror struct {
	mirrorAt
	state       MirrorState
	stateBefore MirrorState // before it became stale with the record that is being written
	staleFrom   Position

	// slots is what the atoms of the log hold: the position of a record that
	// a load would need, or zero, if the atom may be overwritten.
	slots []Position
	used  int
	next  int      // where to look for a free one
	cover Position // what its newest checkpoint covers
	new   int      // the slot of its newest checkpoint, or -1

	recProgress progress
	recSlot     int // being written, or written last
	recTry      int
	recCopies   int  // slots that have the record
	secondCopy  bool // a second copy was tried, or is
	recErr      error

	ckProgress progress
	ckErr      error
	ckSlot     int
	ckTry      int
	ckSteps    int // writes and reads of this checkpoint that have ended
	ckPaced    int // how many they were when the last record began
	// dirty: bit i says that something was found bad in slot i at the start,
	// and was not written again yet.
	dirty     uint8
	refreshes int    // log slots that wait to be refreshed
	ckBuf     []byte // to read it back into
	ckPage    uint32 // the page that is read back, or the first of several
	fails     uint   // checkpoints that failed in a row
	notBefore uint64 // no checkpoint begins by itself while Committer.records is less
	forced    int    // checkpoints that failed since its log is full
	rebuiltAt uint64 // Committer.records when it was last brought back

	move moveState
	to   mirrorPlace
	left bool // it was authoritative when the superblocks under way were begun
}

// takesRecords reports whether records are written to the mirror.
func (m *mirror) takesRecords() bool { return m.state != MirrorStale }

// rebuilding reports whether a checkpoint is bringing the mirror back, or has, while the
// superblocks still call it stale.
func (m *mirror) rebuilding() bool {
	switch m.state {
	case MirrorRebuilding, mirrorRebuilt, mirrorRecorded, mirrorClearing:
		return true
	}
	return false
}

// makesDurable reports whether a record on the mirror counts as durable.
func (m *mirror) makesDurable() bool {
	return m.device == 0 && m.authoritative()
}

// authoritative reports whether a load would believe the mirror about what the newest
// record is.
func (m *mirror) authoritative() bool { return m.state == MirrorGood || m.state == MirrorWeak }

// authoritativeMirrors is how many mirrors are authoritative.
func (c *Committer) authoritativeMirrors() (n int) {
	for i := range c.mirrors {
		if c.mirrors[i].authoritative() {
			n++
		}
	}
	return n
}

// copies is how many slots of the mirror a record is to take. While a load
// would believe only one mirror about what the newest record is, one bad sector
// under that record would undo it without a trace.
func (c *Committer) copies(m *mirror) int {
	if m.authoritative() && c.authoritativeMirrors() == 1 {
		return 2
	}
	return 1
}

func (m *mirror) full() bool { return m.used == len(m.slots) }

// nextFree returns a log slot that may be overwritten.
func (m *mirror) nextFree() (slot int, ok bool) {
	if m.full() {
		return 0, false
	}
	for m.slots[m.next] != (Position{}) {
		m.next = (m.next + 1) % len(m.slots)
	}
	slot = m.next
	m.next = (m.next + 1) % len(m.slots)
	return slot, true
}

// nextFreeFar returns a free slot for the second copy of a record. The search begins half
// the log away from the first copy, so that damage to one slot and its neighbours
// spares the other. from is the slot of the first copy, or, for a retry, the one that was
// tried last for the second.
func (m *mirror) nextFreeFar(from int, retry bool) (slot int, ok bool) {
	if m.full() {
		return 0, false
	}
	if slot = from + 1; !retry {
		slot = from + len(m.slots)/2
	}
	for slot %= len(m.slots); m.slots[slot] != (Position{}); {
		slot = (slot + 1) % len(m.slots)
	}
	return slot, true
}

// use notes that a slot has a record that a load needs.
func (m *mirror) use(slot int, p Position) {
	if m.slots[slot] == (Position{}) {
		m.used++
	}
	m.slots[slot] = p
}

// hasNeeded reports whether a record in the log is needed.
func (m *mirror) hasNeeded() bool {
	for _, p := range m.slots {
		if p != (Position{}) && p != reserved {
			return true
		}
	}
	return false
}

// freeSlot frees a slot.
func (m *mirror) freeSlot(slot int) {
	if m.slots[slot] != (Position{}) {
		m.slots[slot] = Position{}
		m.used--
	}
}

// freeUpTo frees all slots up to a position.
func (m *mirror) freeUpTo(p Position) {
	for i, q := range m.slots {
		if q != (Position{}) && !p.Less(q) {
			m.slots[i] = Position{}
			m.used--
		}
	}
}

func newMirror(mi *mirrorImage, img *Image) mirror {
	m := mirror{mirrorAt: mi.mirrorAt, state: MirrorGood, new: -1,
		slots: make([]Position, len(mi.slots))}
	if mi.stale {
		m.state, m.staleFrom = MirrorStale, mi.staleFrom
		m.keepSlot(mi)
		for s := range mi.slots {
			if r := &mi.slots[s]; r.state == slotRecord && img.checkpoint.covers.Less(r.Position) {
				m.use(s, r.Position) // another mirror may lack it
			}
		}
		return m
	}
	m.dirty = mi.badSlots
	var newest checkpointID
	for s, h := range mi.headers {
		if h != nil && (h.epoch > newest.epoch || h.epoch == newest.epoch &&
			h.generation > newest.generation) &&
			!img.checkpoint.less(h) {
			newest, m.new, m.cover = h.checkpointID, s, h.covers.Position
		}
	}
	m.keepSlot(mi)
	if !mi.whole || len(mi.missing)+len(mi.single) > len(mi.repairs) {
		m.state = MirrorWeak
	}
	var last Position
	for s := range mi.slots {
		r := &mi.slots[s]
		if r.state != slotRecord {
			continue
		}
		if last.Less(r.Position) {
			last, m.next = r.Position, (s+1)%len(m.slots)
		}
		if m.cover.Less(r.Position) {
			m.use(s, r.Position)
		}
	}
	return m
}

// keepSlot makes the slot on which the image rests the one that is written over last. The image may
// rest on a page in a slot whose header was never written, or is of another checkpoint: then
// another mirror has the header, and not the page.
func (m *mirror) keepSlot(mi *mirrorImage) {
	for s := range mi.headers {
		if mi.rests&(1<<s) != 0 {
			m.new = s
		}
	}
}

// AppendMirrors appends the state of every mirror to dst, with an empty
// Location. It allocates nothing if dst has room.
func (c *Committer) AppendMirrors(dst []MirrorStatus) []MirrorStatus {
	for i := range c.mirrors {
		m := &c.mirrors[i]
		s := MirrorStatus{Device: m.device, Start: m.start, State: m.state,
			Length:  c.sb.now.Regions[m.region].Length,
			LogUsed: int64(m.used) * m.atom, LogSize: int64(len(m.slots)) * m.atom}
		switch {
		case m.rebuilding():
			s.State = MirrorRebuilding
		case s.State == MirrorGood && (m.dirty != 0 || m.refreshes > 0):
			s.State = MirrorWeak
		}
		dst = append(dst, s)
	}
	return dst
}
