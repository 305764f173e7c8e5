package remap

import "ublkremap/metadata"

// Op is what a request asks for.
type Op uint8

const (
	OpRead Op = iota
	OpWrite
	OpWriteZeroes
	OpDiscard
	OpFlush
)

// Request is one request of the user of the exported device. Block and Count are zero for
// OpFlush. Reads, writes and write-zeroes span at most Config.MaxBlocks
// blocks; a discard may be longer.
type Request struct {
	Tag   uint16 // below Config.Depth; free again once Driver.Finish was called for it
	Op    Op
	FUA   bool   // the write must be durable before it is acknowledged
	Block uint64 // first exported block
	Count uint32 // blocks
}

// IO is one operation on a device that an Engine wants done. Its data is that
// of the request Tag, from byte Buffer of the request's buffer on, or zeroes
// if Zero is set. From EngineConfig.Depth on a Tag is that of an internal request:
// see Engine.InternalBuffer.
type IO struct {
	ID uint64 // to be handed back with Engine.Complete
	Op Op
	// OpWrite only: the data must be durable on completion (RWF_DSYNC). Never set for a
	// device without FUA
	FUA bool
	// OpWrite only: write zeroes, at most Config.ZeroBlocks blocks, not the request's data
	Zero bool
	// Discard, OpRead only: only the result counts, and the data, at most Config.DiscardBlocks
	// blocks, is discarded. It must not go to the request's buffer, which holds data that is
	// still to be written.
	Discard bool
	Device  uint8 // 0 is the backing disk, then the spare devices
	Tag     uint16
	Buffer  uint32 // byte offset into the request's buffer
	Offset  int64  // byte offset on the device
	Length  int64  // bytes; 0 for OpFlush
}

// Driver carries out what an Engine asks for. None of its methods may call
// back into the Engine before they return (but see Engine.Answering), and none
// may fail: a driver whose ring is full makes room or keeps the operation until
// there is room. The pointers are valid only during the call.
type Driver interface {
	// Issue starts an operation; its result comes back by Engine.Complete.
	Issue(io *IO)
	// Finish answers a request: 0 for success, whole, or a negative errno.
	Finish(tag uint16, result int32)
	// Send hands a message to the Arbiter; messages of one queue stay in order.
	Send(m *Message)
	// Now is the time in nanoseconds of a monotonic clock, never 0. It is asked for
	// only when something failed, or did so before, or when flushes meet, for internal
	// requests, and by LookAtAges.
	Now() int64
}

// MessageKind says what a Message is about.
type MessageKind uint8

const (
	// From an Engine to the Arbiter.

	// MsgReserve asks for spare units for the units [Unit, Unit+Count).
	// Answer: MsgReserved, MsgRefused or MsgRetry.
	MsgReserve MessageKind = iota + 1
	// MsgRelease gives a reservation back unused. No answer.
	MsgRelease
	// MsgGiveUp is MsgRelease after as many spare units failed as may be
	// tried. No answer.
	MsgGiveUp
	// MsgCommit says that the data is durable in the reserved spare units.
	// Answer: MsgCommitted or MsgFailed.
	MsgCommit
	// MsgPending reports blocks that could not be read, or were to be read with such
	// blocks and were not tried. Answer: MsgCommitted, which says by Unit and Count how far
	// that goes; the engine reports the rest. Or MsgFailed, or MsgRetry for the units from Unit on.
	MsgPending
	// MsgGraceDone answers MsgGrace.
	MsgGraceDone
	// MsgCheckDevice says that a device failed as a missing one does. At most one is under way
	// for each device. No answer.
	MsgCheckDevice

	// From the Arbiter to an Engine.

	// MsgReserved grants Count units from Spare on, perhaps fewer than asked.
	MsgReserved
	// MsgInPlace grants Count units for a write where the blocks are pending: no spare unit is
	// free. The engine proves that the data reads before it commits.
	MsgInPlace
	// MsgRefused: no spare unit is available, or the breaker is open.
	MsgRefused
	// MsgRetry: the unit has moved meanwhile, or is moving. The engine reads the Map again.
	MsgRetry
	// MsgCommitted: the change is durable and published.
	MsgCommitted
	// MsgFailed: the change is not known to be durable.
	MsgFailed
	// MsgGrace asks for MsgGraceDone when all operations now in flight have ended.
	MsgGrace
	// MsgWake: units are no longer busy, parked requests may go on.
	MsgWake
)

// MaxTries is how many spare units a heal tries before it gives up.
const MaxTries = 4

// Message is a message between an Engine and the Arbiter. It holds no
// pointers, so a mailbox is a plain array. Tag names the request that is being
// healed: a request has at most one message without an answer under way.
type Message struct {
	Kind  MessageKind
	Queue uint16
	Tag   uint16
	First uint8 // mask of the bad blocks in the first unit
	Last  uint8 // mask of the bad blocks in the last unit; equals First if Count is 1
	Tries uint8 // how many of Tried are set
	// the error that began it, negative; 0 if the blocks were pending or lost
	Errno int32
	Unit  uint64 // first unit
	Count uint32 // units
	// first spare unit granted; MsgPending: the spare unit that failed if Mapped
	Spare      uint32
	Mapped     bool           // MsgPending: the blocks live in Spare, not at home
	Untried    bool           // MsgReserve: the blocks were pending or lost, and not tried in place
	Device     uint8          // MsgCheckDevice: the device; 0 is the backing disk
	Cause      metadata.Cause // MsgPending: of the mark
	Generation uint64         // of MsgGrace and MsgGraceDone
	// Since is when the request first failed, monotonic ns; 0: not known. Only the flight recorder
	// uses it.
	Since int64
	Tried [MaxTries]uint32
}

// maskOf returns which blocks of one of its units the message is about.
func (m *Message) maskOf(unit uint64) uint8 {
	switch unit - m.Unit {
	case 0:
		return m.First
	case uint64(m.Count) - 1:
		return m.Last
	}
	return 0xff
}
