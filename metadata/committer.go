package metadata

const maxMirrors = 8

// MaxEntries is how many entries a log record holds, and so the most that one
// transaction may have. Frozen with format version 4.
const MaxEntries = (PageSize - recordHeader) / entrySize // 166

const recordHeader = 112

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
// The table must show every change whose ticket Results has returned as
// durable, from the next call into the Committer on. It may show newer ones.
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

// Op is a write that the Committer wants done, at once and in any order with
// the others that are under way.
type Op struct {
	ID     OpID
	Device uint8 // index into Layout.Devices
	Offset int64 // bytes, a multiple of 4096
	// Data is aligned to 4096 bytes in memory, and a multiple of 4096 bytes
	// long. It belongs to the Committer, which leaves it alone until Done;
	// nobody may change it, and several Ops may share it.
	Data []byte
	// FUA: the write must be durable before Done (RWF_DSYNC). All are.
	FUA bool
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
	MirrorGood       MirrorState = "good"       // has all that is needed to load
	MirrorWeak       MirrorState = "weak"       // takes records, but lacks something old until the next checkpoint
	MirrorStale      MirrorState = "stale"      // misses records; marked so in the superblock
	MirrorRebuilding MirrorState = "rebuilding" // stale, and a checkpoint is being written to bring it back
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
	Suspended   bool           `json:"suspended"` // Resume is needed
	// Err is why commits are suspended or checkpoints fail: ErrLogFull,
	// ErrTableFull, or what a device reported.
	Err error `json:"-"`
}

// Committer makes transactions durable on the mirrors of a set.
//
// It is sans-I/O: Ops hands out writes, Done takes their ends, Results hands
// out how tickets ended. It keeps no clock, starts no goroutine, and is for a
// single goroutine. Commit, Ops, Done and Results allocate nothing in the
// steady state.
type Committer struct{}

// NewCommitter makes the Committer of a loaded image. src is asked for the
// table when a checkpoint is written. Errors: ErrReadOnly.
func NewCommitter(img *Image, src Source, opts Options) (*Committer, error) { panic("in the works") }

// Open raises the epoch: in all superblocks, then by a record on all mirrors.
// now is in seconds since 1970. Nothing may be served before its ticket is
// durable. If it is not, Open may be called again.
func (c *Committer) Open(now uint32) (Ticket, error) { panic("in the works") }

// Commit takes a transaction: all of its entries become durable, or none.
// Transactions that wait while a record is under way go out together in the
// next. tx is copied. Errors: ErrNotOpen, ErrSuspended, ErrTxTooLarge,
// ErrInvalidEntry.
func (c *Committer) Commit(tx []Entry) (Ticket, error) { panic("in the works") }

// Resume ends a suspension. restate must state again every block and spare
// unit that a transaction of unknown outcome was about; it may be any number
// of entries, also none. Its record follows the last durable one, so that the
// unknown ones are certain to be void once the ticket is durable. Commits are
// taken again at once, and go out behind it. Errors: ErrNotOpen,
// ErrInvalidEntry.
func (c *Committer) Resume(restate []Entry) (Ticket, error) { panic("in the works") }

// Checkpoint asks for a checkpoint, as an orderly stop does; it joins one that
// has not begun yet. Errors: ErrNotOpen.
func (c *Committer) Checkpoint() (Ticket, error) { panic("in the works") }

// Ops returns the writes to do that no earlier call returned. The slice is
// valid until the next call of any method.
func (c *Committer) Ops() []Op { panic("in the works") }

// Done says how an Op ended: nil once the data is durable. It must be called
// once for each Op.
func (c *Committer) Done(id OpID, err error) { panic("in the works") }

// Results returns how tickets ended, since the last call; those of
// transactions in the order in which they were made. The slice is valid until
// the next call of any method.
func (c *Committer) Results() []Result { panic("in the works") }

// Idle reports that no Op is under way or wanted and no ticket is open.
func (c *Committer) Idle() bool { panic("in the works") }

// Status returns a snapshot. It allocates.
func (c *Committer) Status() Status { panic("in the works") }

// RunOps drives c over devs, indexed as in Layout.Devices, until it is idle,
// and appends the results to dst. It is for offline work and tests; what the
// writes answered is in the outcomes.
func RunOps(c *Committer, devs []Device, dst []Result) []Result { panic("in the works") }
