package metadata

import "errors"

// The sentinel errors of this package. Every error it returns about what is on
// a disk wraps one of them; errors of a Device are passed on, wrapped, where
// no other copy could help.
var (
	// ErrNotFound is returned when a device carries no superblock of this
	// format, or when a device that the superblock names was not given.
	ErrNotFound = errors.New("no ublk-remap metadata found")
	// ErrDamaged is returned when metadata that must be there is missing or
	// contradicts itself. Nothing is guessed: the message names what is
	// missing.
	ErrDamaged = errors.New("metadata damaged")
	// ErrForeign is returned when a device belongs to another set.
	ErrForeign = errors.New("device belongs to another set")
	// ErrStale is returned when a device belongs to the set but its epoch shows that it is a clone,
	// or that it was missing while the set was used.
	ErrStale = errors.New("device is out of date")
	// ErrUnsupported is returned for a format version or an incompat feature
	// bit that this version does not know.
	ErrUnsupported = errors.New("format not supported")
	// ErrUnfinished is returned by Load for a set that is being converted or reverted.
	// Only the verb that began that may go on with it.
	ErrUnfinished = errors.New("set is in transition")
	// ErrStuck is returned by Revert for blocks that cannot go home, or have
	// no copy to go there: the error is a *StuckError.
	ErrStuck = errors.New("blocks cannot go home")
	// ErrPath is returned by every function that reads a disk, if the disk could not be reached:
	// its path fails, it is missing, resources are lacking, or it reads differently from a moment
	// ago. Nothing was concluded about what is on it, and nothing was written after the failure.
	ErrPath = errors.New("the disk cannot be relied on right now")
	// ErrReadOnly is returned by NewCommitter for an image with unknown
	// ro_compat bits: it may be read, never written.
	ErrReadOnly = errors.New("metadata is read-only")
	// ErrTooSmall is returned by Plan when a device cannot hold the layout.
	// The error is a *TooSmallError.
	ErrTooSmall = errors.New("device too small")
	// ErrBadPlaces is returned by Create when too many of the places that the
	// metadata must have on a device cannot be written.
	ErrBadPlaces = errors.New("too many bad places for the metadata")
	// ErrGeometry is returned by Plan for block sizes that the format cannot
	// serve, and for sizes or names out of range.
	ErrGeometry = errors.New("geometry not supported")
	// ErrInvalidEntry is returned when an entry breaks the rules of its
	// state or reaches beyond the device or its spare regions.
	ErrInvalidEntry = errors.New("invalid entry")
	// ErrTxTooLarge is returned by Commit for more than MaxEntries entries.
	ErrTxTooLarge = errors.New("transaction larger than a record")
	// ErrNotOpen is returned by Commit before Open was reported durable.
	ErrNotOpen = errors.New("committer is not open")
	// ErrSuspended is returned by Commit after an outcome that was not
	// durable, until Resume.
	ErrSuspended = errors.New("commits are suspended until resumed")
	// ErrTableFull is reported by Status when the table has more entries than
	// a checkpoint can hold. Commits go on until the log is full.
	ErrTableFull = errors.New("table larger than a checkpoint")
	// ErrFlush is how a write ends that was carried out, but whose flush failed, or another
	// flush meanwhile. The device's cache may have lost it, and any other write with it.
	// It says nothing about the place that was written.
	ErrFlush = errors.New("the flush failed")
	// ErrLogFull is reported by Status when a commit was dropped because no
	// mirror has room in its log and no checkpoint could be written.
	ErrLogFull = errors.New("log full")
)
