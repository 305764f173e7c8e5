package metadata

import "fmt"

// maxMirrors is the most mirrors that a set has.
const maxMirrors = 8

// Ticket names a transaction, an Open or a Checkpoint. Tickets count up from 1.
type Ticket uint64

// Outcome is how a ticket ended.
type Outcome uint8

const (
	// OutcomeDurable: on at least one mirror of the backing, and every mirror
	// that does not have it is marked stale, durably.
	OutcomeDurable Outcome = 1
	// OutcomeUnknown: no mirror of the backing reported success. After a crash
	// the transaction may be there or not, as a whole; it is certain not to be
	// once the record of Resume is durable. Commits are suspended.
	OutcomeUnknown Outcome = 2
	// OutcomeDropped: never written anywhere, because it waited behind a
	// record of unknown outcome, or because the log was full for good. After a
	// crash it is not there. Commits are suspended. For a Checkpoint: failed.
	OutcomeDropped Outcome = 3
)

// Result is a ticket's end.
type Result struct {
	Ticket  Ticket
	Outcome Outcome
}

// Source gives the live table, for checkpoints. The Committer calls it only
// from within its own methods, on the caller's goroutine.
//
// The table must be complete when Open is called. It must show every change
// whose ticket Results has returned as durable, from the next call into the
// Committer on. It may show newer ones.
type Source interface {
	// Entries fills dst with entries from cursor on, and returns how many, the
	// cursor to go on from, and whether that was all. The first cursor is 0;
	// all others are the Source's own. The entries of all pages together must
	// state everything that is not home and available. n may be less than
	// len(dst), but 0 only when done.
	Entries(cursor uint64, dst []Entry) (n int, next uint64, done bool)
}

// OpID names an Op until its Done.
type OpID uint64

// Op is a write that the Committer wants done, or a read, at once and in any
// order with the others that are under way.
type Op struct {
	ID     OpID
	Device uint8 // index into Layout.Devices
	Offset int64 // bytes, a multiple of 4096
	// Data is aligned to 4096 bytes in memory, and a multiple of 4096 bytes
	// long. It belongs to the Committer, which leaves it alone until Done. Of a
	// write nobody may change it, and several Ops may share it.
	Data []byte
	// FUA: the write must be durable before Done. All writes are. Where that takes a flush,
	// one that fails ends the Op with ErrFlush.
	FUA bool
	// Read: Data is to be read from the device, and all of it, or the Op has
	// failed.
	Read bool
}

// Options tune a Committer.
type Options struct {
	// Session is a random number that tells the writes of this start from
	// those of any other that might have taken the same epoch.
	Session uint64
	// CheckpointChunk is how much of a checkpoint one Op writes, in bytes; it
	// is rounded to atoms. Default: 512 KiB.
	CheckpointChunk int
}

// MirrorState says how far a mirror can be relied on.
type MirrorState string

const (
	MirrorGood MirrorState = "good" // has all that is needed to load
	// takes records, but something old is missing or was found bad, until it is written again
	MirrorWeak  MirrorState = "weak"
	MirrorStale MirrorState = "stale" // misses records; marked so in the superblock
	// stale, and a checkpoint is being written to bring it back
	MirrorRebuilding MirrorState = "rebuilding"
)

// MirrorStatus is the state of one mirror.
type MirrorStatus struct {
	Device   uint8       `json:"device"`
	Start    int64       `json:"start"`    // byte offset on the device
	Location string      `json:"location"` // for people: "backing@131072"
	State    MirrorState `json:"state"`
	LogUsed  int64       `json:"log_used"` // bytes that wait for a checkpoint
	LogSize  int64       `json:"log_size"` // bytes
}

// Status is a snapshot of a Committer.
type Status struct {
	Epoch       uint64         `json:"epoch"`
	Sequence    uint64         `json:"sequence"` // of the newest durable record
	Mirrors     []MirrorStatus `json:"mirrors"`
	LogUsed     int64          `json:"log_used"` // of the fullest mirror that is not stale
	LogSize     int64          `json:"log_size"`
	Checkpoint  bool           `json:"checkpoint"` // one is being written
	Checkpoints uint64         `json:"checkpoints"`
	// Refreshed counts the places that were bad at the start and were written
	// again since: log slots, slots of checkpoints, superblocks.
	Refreshed uint64 `json:"scrubbed"`
	Suspended bool   `json:"suspended"` // Resume is needed
	// Superblocks is how many good copies the backing has; less than two is
	// too few. BadSuperblocks counts the copies of all devices that are not.
	Superblocks    int `json:"superblocks"`
	BadSuperblocks int `json:"bad_superblocks"`
	// Err is the last thing that went wrong: why commits are suspended or
	// checkpoints fail. ErrLogFull, ErrTableFull, ErrInvalidEntry (of a
	// Source), or what a device reported.
	Err error `json:"-"`
}

// Committer makes transactions durable on the mirrors of a set.
//
// It is sans-I/O: Ops hands out writes, Done takes their ends, Results hands
// out how tickets ended. It keeps no clock, starts no goroutine, and is for a
// single goroutine. Commit, Ops, Done and Results allocate nothing in the
// steady state, so that they work while memory is short.
//
// Its parts, each with at most one step under way: the record (committer_record.go), the
// checkpoint (committer_checkpoint.go), the superblocks (committer_superblock.go). A superblock
// update and a new record exclude each other; a checkpoint goes on beside both.
type Committer struct {
	layout         *Layout
	src            Source
	session        uint64
	now            uint32
	mirrors        []mirror
	troubledPlaces []troubledPlace // places that gave trouble since the start

	phase     phase
	suspended bool
	err       error // why the last thing failed

	maxEpoch uint64 // the largest ever used or seen
	seq      uint64 // the last one used or seen

	durable link // the newest durable record
	// The newest record whose results were put into results, and the newest
	// one whose results the caller has: only of that can the Source be
	// expected to know, so only that can be covered by a checkpoint.
	reported, collected link
	records             uint64 // durable records since the start; the measure of back-off

	// beacon: a mirror that was brought back has no record in its log that
	// says how new it is. The next one, if need be an empty one, does; until
	// then it stays marked as stale.
	needRecord bool

	lastTicket Ticket
	openTicket Ticket
	queue      txQueue
	rec        recordWrite
	ck         checkpoint
	sb         superblockUpdate

	// What the caller was handed stays as it is while new ones gather.
	ops, handedOps []Op

	refresh refresh

	opSlots [2*maxMirrors + 2]opSlot
	changed bool // something moved that may let something else begin

	results, handed []Result
}

type phase uint8

const (
	phaseClosed phase = iota
	phaseSuperblocks
	phaseCheckpoint
	phaseRepair
	phaseEpoch
	phaseOpen
)

// mirrorRebuilt: a checkpoint has brought the mirror back, but the superblock
// still says that it is stale.
const mirrorRebuilt MirrorState = "rebuilt"

// fate is how far a mirror has come with a step that all mirrors take.
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
	stateBefore MirrorState // before it became stale with the record under way
	// seen: brought back, and its log has a record that says how new it is.
	hasRecord bool
	clearing  bool // the superblocks under way say that it is not stale any more
	staleFrom Position

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
	// Failed checkpoints in a row; no other is tried, unless asked for, before
	// that many records.
	fails     uint
	notBefore uint64
	forced    int // checkpoints tried in vain since its log is full
	// What c.records was when it was last brought back.
	rebuiltAt uint64

	// moving: the next superblocks are to say that it lies there, stale.
	moving   bool
	named    bool // those under way do
	toDevice uint8
	toStart  int64
	left     bool // it was not stale before that update
}

// takes reports whether records are written to the mirror.
func (m *mirror) takesRecords() bool { return m.state != MirrorStale }

// sound reports whether a record on the mirror counts as durable.
func (m *mirror) makesDurable() bool {
	return m.device == 0 && m.authoritative()
}

// stands reports whether a load would believe the mirror about what the newest
// record is.
func (m *mirror) authoritative() bool { return m.state == MirrorGood || m.state == MirrorWeak }

// standing is how many mirrors do.
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

// free returns a log slot that may be overwritten.
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

// nextFreeFar returns a free slot for the second copy of a record: the first one
// from half the log away on, so that what spoils one slot and its neighbours
// leaves the other. from is the slot of the first copy, or the one that was
// tried last for the second.
func (m *mirror) nextFreeFar(from int, again bool) (slot int, ok bool) {
	if m.full() {
		return 0, false
	}
	if slot = from + 1; !again {
		slot = from + len(m.slots)/2
	}
	for slot %= len(m.slots); m.slots[slot] != (Position{}); {
		slot = (slot + 1) % len(m.slots)
	}
	return slot, true
}

// hold notes that a slot has a record that a load needs.
func (m *mirror) use(slot int, p Position) {
	if m.slots[slot] == (Position{}) {
		m.used++
	}
	m.slots[slot] = p
}

// holds reports whether a record in the log is needed.
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

// release frees all slots up to a position.
func (m *mirror) freeUpTo(p Position) {
	for i, q := range m.slots {
		if q != (Position{}) && !p.Less(q) {
			m.slots[i] = Position{}
			m.used--
		}
	}
}

type opKind uint8

const (
	opRecord opKind = iota
	opCheckpoint
	opSuperblock
	opRefresh
)

type opSlot struct {
	busy bool
	id   OpID
}

// NewCommitter makes the Committer of a loaded image, which must be the
// newest: nothing may have written to the set since. src is asked for the
// table when a checkpoint is written. Errors: ErrReadOnly.
func NewCommitter(img *Image, src Source, opts Options) (*Committer, error) {
	if img.readOnly {
		return nil, fmt.Errorf("%w: ro_compat features %#x", ErrReadOnly,
			img.sb.ROCompat&^knownROCompat)
	}
	c := &Committer{
		layout: img.layout, src: src, session: opts.Session,
		maxEpoch: img.maxEpoch, seq: img.maxSequence,
		durable: img.tip, reported: img.tip, collected: img.tip,
		ops: make([]Op, 0, 2*maxMirrors+2), handedOps: make([]Op, 0, 2*maxMirrors+2),
		results: make([]Result, 0, 256), handed: make([]Result, 0, 256),
	}
	if c.seq < creation.Sequence {
		c.seq = creation.Sequence
	}
	c.queue.txs, c.queue.entries = make([]waitingTx, 0, 1024), make([]Entry, 0, 4096)
	c.rec.txs = make([]waitingTx, 0, MaxEntries)
	atom := int(img.sb.AtomSize)
	c.rec.buf = AlignedBytes(atom)
	c.ck.generation = img.maxCheckpoint
	chunk := opts.CheckpointChunk
	if chunk <= 0 {
		chunk = defaultChunk
	}
	chunk = min(roundUp(chunk, atom), int(min(img.sb.SlotBytes, maxLogBytes)))
	c.ck.buf = AlignedBytes(chunk)
	c.refresh.buf = AlignedBytes(atom)
	readBack := min(chunk, maxReadBack)
	c.sb.init(img)
	for i := range img.mirrors {
		c.mirrors = append(c.mirrors, newMirror(&img.mirrors[i], img))
		c.mirrors[i].ckBuf = AlignedBytes(readBack)
		if m := &c.mirrors[i]; m.state == MirrorStale {
			c.troubledPlace(m.device, m.start).trouble++ // why else?
		} else {
			c.queueRefresh(i, &img.mirrors[i])
		}
		for _, r := range img.mirrors[i].repairs {
			c.rec.repairs = append(c.rec.repairs, mirrorRepair{i, r})
		}
	}
	return c, nil
}

func newMirror(mi *mirrorImage, img *Image) mirror {
	m := mirror{mirrorAt: mi.mirrorAt, state: MirrorGood, new: -1,
		slots: make([]Position, len(mi.slots))}
	if mi.stale {
		m.state, m.staleFrom = MirrorStale, mi.staleFrom
		for s, h := range mi.headers {
			if h != nil && *h == img.checkpoint.header {
				m.new = s // to be overwritten last, the image rests on it
			}
		}
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

// Open raises the epoch: in all superblocks, then by a record on all mirrors.
// now is in seconds since 1970. Nothing may be served before its ticket is
// durable. If it ends otherwise, Open may be called again. Errors: ErrNotOpen
// if it was called already and has not failed.
func (c *Committer) Open(now uint32) (Ticket, error) {
	if c.phase != phaseClosed {
		return 0, fmt.Errorf("%w: it is being opened, or was", ErrNotOpen)
	}
	c.now = now
	c.phase = phaseSuperblocks
	c.suspended, c.err = false, nil
	c.maxEpoch++
	c.sb.opening, c.sb.wanted = true, true
	c.openTicket = c.ticket()
	return c.openTicket, nil
}

func (c *Committer) ticket() Ticket {
	c.lastTicket++
	return c.lastTicket
}

// Commit takes a transaction: all of its entries become durable, or none.
// Transactions that wait while a record is under way go out together in the
// next. tx is copied. Errors: ErrNotOpen, ErrSuspended, ErrTxTooLarge,
// ErrInvalidEntry; nothing was taken then.
func (c *Committer) Commit(tx []Entry) (Ticket, error) {
	switch {
	case c.phase != phaseOpen:
		return 0, ErrNotOpen
	case c.suspended:
		return 0, ErrSuspended
	case len(tx) > MaxEntries:
		return 0, fmt.Errorf("%w: %d entries, a record holds %d", ErrTxTooLarge, len(tx),
			MaxEntries)
	}
	if err := c.validate(tx); err != nil {
		return 0, err
	}
	t := c.ticket()
	c.queue.push(waitingTx{ticket: t, n: len(tx), last: true}, tx)
	return t, nil
}

func (c *Committer) validate(tx []Entry) error {
	for i := range tx {
		if err := c.layout.lim.validate(&tx[i]); err != nil {
			return err
		}
	}
	return nil
}

// Resume ends a suspension. restate must state again every block and spare
// unit that a transaction of unknown outcome was about; it may be any number
// of entries, also none. Its record follows the last durable one, so that the
// unknown ones are certain to be void once the ticket is durable; with more
// entries than a record holds there are several, and each may become durable
// alone. Commits are taken again at once, and go out behind it. Errors:
// ErrNotOpen (also where nothing was suspended), ErrInvalidEntry.
func (c *Committer) Resume(restate []Entry) (Ticket, error) {
	if c.phase != phaseOpen || !c.suspended {
		return 0, fmt.Errorf("%w, or not suspended", ErrNotOpen)
	}
	if err := c.validate(restate); err != nil {
		return 0, err
	}
	c.suspended, c.err = false, nil
	for i := range c.mirrors {
		c.mirrors[i].forced = 0
	}
	t := c.ticket()
	for {
		n := min(len(restate), MaxEntries)
		c.queue.push(waitingTx{ticket: t, n: n, last: n == len(restate)}, restate[:n])
		if restate = restate[n:]; len(restate) == 0 {
			return t, nil
		}
	}
}

// Checkpoint asks for a checkpoint, as an orderly stop does. Its ticket is
// durable once a mirror of the backing has it. Errors: ErrNotOpen.
func (c *Committer) Checkpoint() (Ticket, error) {
	if c.phase != phaseOpen {
		return 0, ErrNotOpen
	}
	t := c.ticket()
	c.ck.asked = append(c.ck.asked, t)
	return t, nil
}

// Ops returns the writes and reads to do that no earlier call returned. When it returns
// none while no Op is under way and Results has nothing either, there is
// nothing to do until the next Commit. The slice is valid until the next call
// of Ops.
func (c *Committer) Ops() []Op {
	if len(c.results) == 0 {
		// A record without transactions has no result that a caller could collect, and with it
		// comes no further call.
		c.collected = c.reported
	}
	for c.changed = true; c.changed; {
		c.changed = false
		c.advance()
	}
	c.handedOps, c.ops = c.ops, c.handedOps[:0]
	return c.handedOps
}

func (c *Committer) advance() {
	if c.phase != phaseOpen {
		c.advanceOpening()
	} else {
		c.startDueCheckpoint()
	}
	c.stepCheckpoint()
	c.stepRefresh()
	c.startSuperblocks()
	c.startRecord()
}

// issue queues a write. mirror is of no meaning for opSuperblock.
func (c *Committer) issue(kind opKind, mirror int, device uint8, offset int64, data []byte) {
	c.queueOp(kind, mirror, Op{Device: device, Offset: offset, Data: data, FUA: true})
}

func (c *Committer) queueOp(kind opKind, mirror int, op Op) {
	at := 2*mirror + int(kind)
	switch kind {
	case opSuperblock:
		at = 2 * maxMirrors
	case opRefresh:
		at = 2*maxMirrors + 1
	}
	s := &c.opSlots[at]
	s.busy = true
	s.id = s.id&^0xff + 0x100 | OpID(at)
	op.ID = s.id
	c.ops = append(c.ops, op)
}

// Done says how an Op ended: nil once the data is durable, or read. It must be called
// once for each Op; an unknown id is ignored.
func (c *Committer) Done(id OpID, err error) {
	at := int(id & 0xff)
	if at >= len(c.opSlots) || !c.opSlots[at].busy || c.opSlots[at].id != id {
		return
	}
	c.opSlots[at].busy = false
	switch {
	case at == 2*maxMirrors:
		c.superblockDone(err)
	case at == 2*maxMirrors+1:
		c.refreshDone(err)
	case at%2 == int(opRecord):
		c.recordDone(at/2, err)
	default:
		c.checkpointDone(at/2, err)
	}
}

// Results returns how tickets ended, since the last call; those of
// transactions in the order in which they were made. The slice is valid until
// the next call of Results.
func (c *Committer) Results() []Result {
	c.handed, c.results = c.results, c.handed[:0]
	c.collected = c.reported
	return c.handed
}

func (c *Committer) result(t Ticket, o Outcome) { c.results = append(c.results, Result{t, o}) }

// Idle reports that no Op is under way or wanted and no ticket is open.
func (c *Committer) Idle() bool {
	for i := range c.opSlots {
		if c.opSlots[i].busy {
			return false
		}
	}
	return !c.rec.active && (len(c.refresh.todo) == 0 || c.phase == phaseClosed) && !c.ck.active &&
		!c.sb.active && !c.sb.wanted && !c.sb.refresh && c.queue.empty() && len(c.ck.asked) == 0 &&
		(!c.needRecord || c.suspended) && len(c.results) == 0 && (c.phase == phaseClosed ||
		c.phase == phaseOpen)
}

// Status returns a snapshot. It allocates.
func (c *Committer) Status() Status {
	s := Status{
		Epoch: c.sb.now.Epoch, Sequence: c.durable.Sequence, Checkpoint: c.ck.active,
		Checkpoints: c.ck.written,
		Suspended:   c.suspended, Refreshed: c.refresh.done, Err: c.err,
		LogSize: c.layout.sb.LogBytes,
	}
	for _, m := range c.AppendMirrors(nil) {
		m.Location = fmt.Sprintf("%s@%d", c.layout.sb.Devices[m.Device].Role, m.Start)
		if m.State != MirrorStale {
			s.LogUsed = max(s.LogUsed, m.LogUsed)
		}
		s.Mirrors = append(s.Mirrors, m)
	}
	for i := range c.sb.places {
		switch p := &c.sb.places[i]; {
		case !p.good:
			s.BadSuperblocks++
		case p.device == 0:
			s.Superblocks++
		}
	}
	return s
}

// AppendMirrors appends the state of every mirror to dst, with an empty
// Location. It allocates nothing if dst has room.
func (c *Committer) AppendMirrors(dst []MirrorStatus) []MirrorStatus {
	for i := range c.mirrors {
		m := &c.mirrors[i]
		s := MirrorStatus{Device: m.device, Start: m.start, State: m.state,
			LogUsed: int64(m.used) * m.atom, LogSize: int64(len(m.slots)) * m.atom}
		switch {
		case s.State == mirrorRebuilt:
			s.State = MirrorRebuilding
		case s.State == MirrorGood && (m.dirty != 0 || m.refreshes > 0):
			s.State = MirrorWeak
		}
		dst = append(dst, s)
	}
	return dst
}

// RunOps drives c over devs, indexed as in Layout.Devices, until there is
// nothing left to do, and appends the results to dst. It is for offline work
// and tests; what the writes answered is in the outcomes.
func RunOps(c *Committer, devs []Device, dst []Result) []Result {
	for {
		ops, moved := c.Ops(), false
		for _, op := range ops {
			moved = true
			var err error
			if op.Read {
				_, err = devs[op.Device].ReadAt(op.Data, op.Offset)
			} else if _, err = devs[op.Device].WriteAt(op.Data, op.Offset); err == nil {
				if err = devs[op.Device].Sync(); err != nil {
					err = fmt.Errorf("%w: %w", ErrFlush, err)
				}
			}
			c.Done(op.ID, err)
		}
		r := c.Results()
		dst = append(dst, r...)
		if !moved && len(r) == 0 {
			return dst
		}
	}
}
