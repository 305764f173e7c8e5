package health

import "time"

// Seen is what the server of a set has seen of its disk.
type Seen struct {
	Tripped bool   // the breaker is open
	Reason  string // why
	// TripKind is what it opened for: path, missing, media, budget or metadata; empty: not known.
	TripKind string

	Blocks    uint64 // of the device
	BlockSize int    // bytes
	Pending   uint64 // blocks that do not read
	Lost      uint64 // blocks whose data is gone
	SpareFree uint64 // units that are free
	Spare     uint64 // units in all

	// Transport counts errors of the way to the disk since the server's start.
	Transport uint64

	Bad     []Bad     // places that the disk failed, in the order of their blocks
	Since   time.Time // since when the set exists; zero: not known
	Now     time.Time
	Unknown bool // nobody could be asked; the figures are zero
}

// Bad is a run of blocks that the disk failed to read or write.
type Bad struct {
	Block, Count uint64
	Spares       uint64 // units of the spare region that it uses
	At           time.Time
}

// ByDisk reports whether an entry of the remap table of this cause is there because the disk
// failed. Entries that somebody asked for, and other tools' lists, say nothing of what happens now.
func ByDisk(cause string) bool {
	switch cause {
	case "write", "read", "scrub", "spare", "unknown":
		return true
	}
	return false
}

// wayFails reports whether what stopped remapping says nothing against the disk itself: the way to
// it fails, or it is gone. A disk whose metadata takes no commit may have either.
func (s *Seen) wayFails() bool {
	switch s.TripKind {
	case "path", "missing":
		return true
	case "media", "budget":
		return false
	}
	return s.Transport > 0 && len(s.Bad) == 0
}
