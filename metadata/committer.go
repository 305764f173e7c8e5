package metadata

import "fmt"

// Ticket names a transaction, an Open or a Checkpoint. Tickets count up from 1.
type Ticket uint64

// Outcome is how a ticket ended.
type Outcome uint8

const (
	// OutcomeDurable: it is on at least one mirror of the backing, and every mirror
	// that does not have it is marked stale, durably.
	OutcomeDurable Outcome = 1
	// OutcomeUnknown: no mirror of the backing reported success. After a crash
	// the whole transaction may be there, or nothing of it. Once the record of Resume
	// is durable it is certain not to be there. Commits are suspended.
	OutcomeUnknown Outcome = 2
	// OutcomeDropped: it was never written anywhere, because it waited behind a record of unknown
	// outcome, or because the log was full for good. After a crash it is not there. Commits are
	// suspended. A Checkpoint that failed ends this way.
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
	// Entries fills dst with entries from cursor on. It returns how many there are,
	// the cursor of the next call, and whether that was all. The first cursor is 0;
	// all others are the Source's own. The entries of all calls together must
	// state everything that is not home and available. n may be less than
	// len(dst), but 0 only when done.
	Entries(cursor uint64, dst []Entry) (n int, next uint64, done bool)
}

// OpID names an Op until its Done.
type OpID uint64

// Op is a write or a read that the Committer wants done at once. Ops that are under way
// at the same time may be done in any order.
type Op struct {
	ID     OpID
	Device uint8 // index into Layout.Devices
	Offset int64 // bytes, a multiple of 4096
	// Data is aligned to 4096 bytes in memory, and a multiple of 4096 bytes long. It belongs to the
	// Committer, which does not touch it until Done. Several writes may share it, so nothing may
	// change it then.
	Data []byte
	// FUA: the write must be durable before Done. It is set on all writes. If that takes a flush,
	// and the flush fails, the Op ends with ErrFlush.
	FUA bool
	// Read: Data is to be read from the device. The Op fails unless all of it is read.
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
	// Recorder: the set gets the feature bit of a flight recorder, if it has room for one.
	Recorder bool
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
	// Refreshed counts the places that were found bad and have been written again
	// since the start: log slots, slots of checkpoints, superblocks.
	Refreshed uint64 `json:"scrubbed"`
	Suspended bool   `json:"suspended"` // Resume is needed
	// Superblocks is how many good copies the backing has; less than two is
	// too few. BadSuperblocks counts the copies of all devices that are not.
	Superblocks    int `json:"superblocks"`
	BadSuperblocks int `json:"bad_superblocks"`
	// TableCapacity is how many entries the table may have. Growth says what is done about more.
	TableCapacity uint64 `json:"table_capacity"`
	Growth        Growth `json:"growth"`
	// Err is the last thing that went wrong: why commits are suspended or
	// checkpoints fail. ErrLogFull, ErrTableFull, ErrInvalidEntry (of a
	// Source), or what a device reported.
	Err error `json:"-"`
}

// Committer makes transactions durable on the mirrors of a set.
//
// It is sans-I/O: Ops returns writes and reads, Done takes their results, and Results returns the
// outcomes of tickets. It keeps no clock, starts no goroutine, and is for a single goroutine.
// Commit, Ops, Done and Results allocate nothing in the steady state, so that they work while
// memory is short.
//
// Its parts, each with at most one step under way: the record (committer_record.go), the checkpoint
// (committer_checkpoint.go), the superblocks (committer_superblock.go), and what reads and
// refreshes (committer_verify.go, committer_refresh.go). A superblock update and a
// new record exclude each other; a checkpoint runs beside both.
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
	// reported is the newest record whose results are in results. collected is the newest record
	// whose results the caller has. The Source is sure to show only the effect of collected, so a
	// checkpoint covers no more than that.
	reported, collected link
	records             uint64 // durable records since the start; the measure of back-off

	// needRecord: a mirror that was brought back has no record in its log that says how
	// new it is. It stays marked as stale until the next record, which may be an empty one.
	needRecord bool

	lastTicket Ticket
	openTicket Ticket
	queue      txQueue
	rec        recordWrite
	ck         checkpoint
	sb         superblockUpdate
	capacity   uint64 // entries that a checkpoint holds, by the superblock that counts
	growth     growth
	scrub      Scrub // as the next record says it

	// The slices that the caller was handed do not change while new elements are collected.
	ops, handedOps []Op

	refresh refresh
	reads   verify

	opSlots [2*maxMirrors + 3]opSlot
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

type opKind uint8

const (
	opRecord opKind = iota
	opCheckpoint
	opSuperblock
	opRefresh
	opVerify
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
		durable: img.tip, reported: img.tip, collected: img.tip, scrub: img.Scrub(),
		ops: make([]Op, 0, 2*maxMirrors+3), handedOps: make([]Op, 0, 2*maxMirrors+3),
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
	if opts.Recorder && len(img.sb.eventHead(0)) >= minEventSlots {
		c.sb.hasRecorder()
	}
	c.capacity = img.sb.tableCapacity()
	for i := range img.mirrors {
		c.mirrors = append(c.mirrors, newMirror(&img.mirrors[i], img))
		c.mirrors[i].ckBuf = AlignedBytes(readBack)
		if m := &c.mirrors[i]; m.state == MirrorStale {
			// It is stale because a write failed there.
			c.troubledPlace(m.place()).trouble++
		} else {
			c.queueRefresh(i, &img.mirrors[i])
		}
		for _, r := range img.mirrors[i].repairs {
			c.rec.repairs = append(c.rec.repairs, mirrorRepair{i, r})
		}
	}
	return c, nil
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

// Commit queues a transaction: all of its entries become durable, or none.
// Transactions that wait while a record is being written share the next record.
// tx is copied. Errors: ErrNotOpen, ErrSuspended, ErrTxTooLarge, ErrInvalidEntry. After
// an error nothing is queued.
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
// unit that a transaction of unknown outcome was about. It may have any number
// of entries, also none. Its record follows the last durable one, so that the
// unknown ones are certain to be void once the ticket is durable. If it has more
// entries than a record holds, there are several records, and each may become durable
// alone. Commits are accepted at once, and go out after it. Errors:
// ErrNotOpen (also if nothing was suspended), ErrInvalidEntry.
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

// Ops returns the writes and reads to do that no earlier call returned. If it returns
// none, no Op is under way and Results has nothing either, then there is
// nothing to do until the next Commit. The slice is valid until the next call
// of Ops.
func (c *Committer) Ops() []Op {
	if len(c.results) == 0 {
		// A record without transactions has no result to collect, so the caller does not call again
		// because of it.
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
		c.stepGrowth()
		c.startDueCheckpoint()
	}
	c.stepCheckpoint()
	c.refreshVerified()
	c.stepRefresh()
	c.startSuperblocks()
	c.startRecord()
}

// issue queues a write. mirror means nothing for opSuperblock.
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
	case opVerify:
		at = 2*maxMirrors + 2
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
	case at == 2*maxMirrors+2:
		c.verifyDone(err)
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
	if len(c.results) > 0 || c.rec.active() || c.ck.active() || c.sb.active() {
		return false
	}
	switch c.phase {
	case phaseClosed:
		return !c.wantsUpdate() && !c.wantsRecord() && len(c.ck.asked) == 0
	case phaseOpen:
		return !c.wantsUpdate() && !c.wantsRecord() && len(c.ck.asked) == 0 &&
			len(c.refresh.todo) == 0
	}
	return false // an Open is under way
}

// wantsUpdate reports whether superblocks are to be written.
func (c *Committer) wantsUpdate() bool { return c.sb.wanted || c.sb.refresh }

// wantsRecord reports whether a record is to be written: for transactions that wait, or an
// empty one for a mirror that needs it.
func (c *Committer) wantsRecord() bool {
	return !c.queue.empty() || c.needRecord && !c.suspended
}

// Status returns a snapshot. It allocates.
func (c *Committer) Status() Status {
	s := Status{
		Epoch: c.sb.now.Epoch, Sequence: c.durable.Sequence, Checkpoint: c.ck.active(),
		Checkpoints: c.ck.written,
		Suspended:   c.suspended, Refreshed: c.refresh.done, Err: c.err,
		LogSize: c.layout.sb.LogBytes, TableCapacity: c.capacity, Growth: c.Growth(),
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

// RunOps drives c over devs, indexed as in Layout.Devices, until there is nothing left to do, and
// appends the results to dst. It is for offline work and tests; the outcomes show how the writes
// ended.
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
