package remap

import (
	"errors"

	"ublkremap/metadata"
)

// Ticket names a commit until its outcome is known.
type Ticket uint64

// Journal makes entries durable. The server implements it over
// metadata.Committer.
type Journal interface {
	// Commit asks for the entries to be made durable, all or none of them. They are
	// copied. The outcome comes by Arbiter.Committed, in the order of the
	// tickets. An error means that nothing was or will be written.
	Commit(entries []metadata.Entry) (Ticket, error)
	// Resume goes on after a commit of unknown outcome. restate gives the state from now on of each
	// block and spare unit that any such commit was about. It is nil if there was no such commit.
	// Ticket and error as with Commit.
	Resume(restate []metadata.Entry) (Ticket, error)
}

// Transfer is one operation of a relocation. Data is 4096-aligned and belongs to
// the Arbiter until Transferred was called.
type Transfer struct {
	ID uint64
	Op Op // OpRead or OpWrite
	// FUA: the data must be durable at the end. If that takes a flush, and it fails, the
	// driver says so by TransferUnflushed.
	FUA    bool
	Device uint8
	Offset int64 // bytes on Device
	Data   []byte
}

// ArbiterDriver carries out what an Arbiter asks for. None of its methods may call
// back into the Arbiter before they return, and none may fail. The pointers are
// valid only during the call.
type ArbiterDriver interface {
	// Send hands a message to the engine of a queue; messages to one queue stay in order.
	Send(queue uint16, m *Message)
	// Transfer starts an operation; its result comes back by Transferred or
	// TransferUnflushed.
	Transfer(t *Transfer)
	// Now is the time in nanoseconds of a monotonic clock.
	Now() int64
	// WallClock is the time in seconds since 1970.
	WallClock() uint32
	// Moved tells the end of a Move.
	Moved(r MoveResult)
	// SpareFailed tells that a read, not one of the scrub, has found bad blocks in a spare unit in
	// which others still live, or that a write has failed there. They should be moved at once: see
	// Arbiter.saveOthers.
	SpareFailed(bad BadSpare)
	// Alert tells of something that an operator should know.
	Alert(a Alert)
	// Missing says why a device is missing, or has become smaller than what is served of it, such
	// as "/dev/sdb is gone: …"; empty if nothing is known against it. It does no I/O.
	Missing(device uint8) string
}

// Alert is something that an operator should know.
type Alert uint8

const (
	AlertTripped   Alert = iota // the breaker opened; ArbiterStatus.Reason says why
	AlertResumed                // the breaker closed
	AlertSpareLow               // less than a tenth of the spare units is free
	AlertSpareFull              // none is free
)

func (a Alert) String() string {
	return [...]string{"breaker tripped", "breaker closed", "spare region runs low",
		"spare region full"}[a]
}

// TripKind says what the breaker opened for.
type TripKind uint8

const (
	TripPath     TripKind = iota // the path to a device, or the whole device, fails
	TripMissing                  // a device is missing
	TripMedia                    // a device answers, and its spare units fail
	TripBudget                   // blocks went bad faster than the budget allows
	TripMetadata                 // the metadata takes no commit
)

// Errors of the Arbiter.
var (
	// ErrTripped is returned, and is the end of a Move, while the breaker is open.
	ErrTripped = errors.New("the breaker is open")
	// ErrBusy is returned when no more Moves may wait.
	ErrBusy = errors.New("too many moves are waiting")
	// ErrRange is returned for blocks past the device's end.
	ErrRange = errors.New("no such block")
	// ErrSpareFull is the end of a Move when no spare unit is free.
	ErrSpareFull = errors.New("no spare unit is free")
	// ErrTableFull is the end of a Move when the table has no space for its entries.
	ErrTableFull = errors.New("the remap table is full")
	// ErrSpareBad is the end of a Move when every spare unit that was tried failed.
	ErrSpareBad = errors.New("no spare unit that was tried holds data")
	// ErrBudget is the end of a Move out of a bad spare unit, after a user's read, when blocks are
	// remapped faster than the budget allows. The breaker stays closed.
	ErrBudget = errors.New("blocks are remapped faster than the budget allows")
	// ErrElsewhere is the end of a Move when other places of a disk could not be read: not for
	// their medium, or too many of them.
	ErrElsewhere = errors.New("other places of a disk cannot be read")
	// ErrMissing is returned by Resume while a device is missing.
	ErrMissing = errors.New("nothing can be resumed")
	// ErrNotTripped is returned by Resume when the breaker is closed.
	ErrNotTripped = errors.New("the breaker is not open")
)
