package remap

// This file has the state that an Engine keeps of its requests and operations.

// opKind says which part of a request an operation carries out.
type opKind uint8

const (
	opFirst     opKind = iota // the first try
	opProbe                   // a try in place while a failure is isolated
	opHeal                    // data on its way to a reserved spare unit
	opProof                   // reading it back from there
	opElsewhere               // reading another place, after a write in place
	opFlush                   // a flush of one device
)

// op is one operation on a device. It stays in flight through short results
// and retries for lack of resources.
type op struct {
	io     IO
	block  uint64 // first exported block; opFlush: the write count that it covers
	count  uint64 // blocks
	place  place
	kind   opKind
	parity uint8 // which grace period it belongs to; internalParity: to none
	active bool
	// durable: a flush follows the write. settling: that flush has ended, and others that were
	// under way have not.
	durable, settling bool
	flush             Flushing
	due               int64 // monotonic ns of the next retry; 0: with the driver
	since             int64 // when it first failed for lack of resources
	delay             int64
	next              int32 // free list
}

// place is where the Map had an operation's blocks when the operation began.
type place struct {
	mapped bool
	unit   uint32 // spare unit of the first block, if mapped
}

// healStep says what a request waits for.
type healStep uint8

const (
	healNone       healStep = iota
	healReserving           // MsgReserve is with the Arbiter
	healWriting             // the data is on its way to the spare units
	healCommitting          // MsgCommit is with the Arbiter
	healReporting           // MsgPending is with the Arbiter; when all is noted the read fails
)

// pace is how long a device takes to fail.
type pace uint8

const (
	paceUnknown pace = iota
	paceQuick
	paceSlow
)

// healTodo says what a heal does next, once the operation that led to it has ended.
type healTodo uint8

const (
	todoNothing  healTodo = iota
	todoWrite             // write to the spare units once more
	todoReadBack          // read what was written there
)

// request is the state of one tag.
type request struct {
	Request
	cursor, end uint64 // blocks not yet tried; opFlush: devices
	inflight    int    // operations
	errno       int32  // the answer so far
	reported    uint64 // opFlush: failed flushes that were reported when it began
	serial      uint32 // of the requests that this tag had
	trying      bool   // a read: it tries pending blocks, and counts in Engine.trying
	waits       bool   // for its turn to try them, and counts in Engine.waiting
	turn        int64  // until when it waits for that; 0: it has not waited
	way         Way
	met         int64 // see Answer.Met
	active      bool
	parked      bool             // waits for busy units
	isolating   bool             // something failed and was or is being isolated
	cancelled   bool             // an internal request: nothing more is tried
	notNoted    bool             // a read: something failed and could not be noted as pending
	internal    *internalRequest // nil: it is a request of the user

	// The following fields are used only while isolating.
	// failed as part of an operation, not yet tried by themselves; or pending or lost
	suspect blockset
	// failed at home by themselves, or could not be tried there; for a read only those not noted
	// yet
	bad blockset
	// of a read: blocks that failed in a spare unit; the others failed at home
	elsewhere blockset
	probe     uint64 // blocks to try at once
	attempts  int    // tries of the current probe
	found     int    // tries that were found bad by themselves
	since     int64  // monotonic ns of the first failure
	// monotonic ns: of the probe, or of the write to a spare unit, that is under way
	began int64
	cause int32 // the first failure
	// bit per device: it said itself that its medium failed (ENODATA)
	medium    uint16
	readErrno int32 // a read: its answer, once all blocks were tried and the bad ones are noted
	pace      pace  // how long a failure takes
	healed    bool

	heal heal
}

// heal is the heal of one span of a request.
type heal struct {
	step     healStep
	from, to uint64 // exported blocks
	seenAt   place  // where they were when they were found bad
	untried  bool   // they were not found bad, but pending or lost
	spare    uint32 // first spare unit granted
	limit    uint64 // units to ask for at most; 0: no limit
	retrying bool   // the write to the spare unit, or reading it back, is in its second try
	todo     healTodo
	read     uint64 // read back up to here
	unit     uint64 // of a report: the units before it are noted
	tried    [MaxTries]uint32
	tries    uint8
	home     bool // it is written in place: no spare unit was granted
	looks    int  // of a write in place: how often the blocks were read
	others   int  // other places to read before the next look
	astray   int  // reads of other places that failed
}
