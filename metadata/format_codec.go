package metadata

import (
	"encoding/binary"
	"fmt"

	"github.com/cespare/xxhash/v2"
)

// Wire constants of format version 4; frozen.
const (
	// Version is the format version that this package reads and writes.
	Version = 4

	magicSuperblock = 0x3453_504d_524b_4c42 // "BLKRMPS4"
	magicRecord     = 0x3452_504d_524b_4c42 // "BLKRMPR4"
	magicHeader     = 0x3448_504d_524b_4c42 // "BLKRMPH4"
	magicPage       = 0x3450_504d_524b_4c42 // "BLKRMPP4"

	// checksumOffset is where every structure has its xxhash64, over the 4096
	// bytes of the structure with the checksum itself taken as zero.
	checksumOffset = 16

	entrySize = 24
)

var le = binary.LittleEndian

// Position orders records: by Epoch, then by Sequence. A pair is never used
// for two different records.
type Position struct {
	Epoch    uint64 `json:"epoch"`
	Sequence uint64 `json:"sequence"`
}

// Less reports whether p comes before q.
func (p Position) Less(q Position) bool {
	return p.Epoch < q.Epoch || p.Epoch == q.Epoch && p.Sequence < q.Sequence
}

// String is for messages.
func (p Position) String() string { return fmt.Sprintf("(%d,%d)", p.Epoch, p.Sequence) }

// link names one record beyond doubt: its position and its checksum.
type link struct {
	Position
	Hash uint64
}

var zero8 [8]byte

// checksum is the xxhash64 of a 4096-byte structure with its checksum field
// taken as zero.
func checksum(b []byte) uint64 {
	var d xxhash.Digest
	d.Reset()
	d.Write(b[:checksumOffset])
	d.Write(zero8[:])
	d.Write(b[checksumOffset+8 : PageSize])
	return d.Sum64()
}

func seal(b []byte) uint64 {
	sum := checksum(b)
	le.PutUint64(b[checksumOffset:], sum)
	return sum
}

// sealed reports whether b is a 4096-byte structure with that magic whose
// checksum is right.
func sealed(b []byte, magic uint64) bool {
	return len(b) >= PageSize && le.Uint64(b) == magic &&
		le.Uint64(b[checksumOffset:]) == checksum(b)
}

func putEntry(b []byte, e *Entry) {
	_ = b[entrySize-1]
	le.PutUint64(b, e.Unit)
	le.PutUint32(b[8:], e.Spare)
	le.PutUint32(b[12:], e.Count)
	le.PutUint32(b[16:], e.Time)
	b[20], b[21], b[22], b[23] = e.Mask, byte(e.State), byte(e.Cause), 0
}

func getEntry(b []byte) (e Entry, flags byte) {
	_ = b[entrySize-1]
	return Entry{
		Unit: le.Uint64(b), Spare: le.Uint32(b[8:]), Count: le.Uint32(b[12:]),
		Time: le.Uint32(b[16:]),
		Mask: b[20], State: State(b[21]), Cause: Cause(b[22]),
	}, b[23]
}

// limits is what an entry may reach: it follows from the layout.
type limits struct {
	units      uint64 // exported units, the last one may be partial
	spareUnits uint64
	mask       uint8 // blocks that a unit has
	lastMask   uint8 // blocks that the last unit has
}

// validate checks the rules of Entry, and that it stays within the device.
func (l *limits) validate(e *Entry) error {
	switch {
	case !e.State.Valid() || !e.Cause.Valid():
		return fmt.Errorf("%w: %s, %s", ErrInvalidEntry, e.State, e.Cause)
	case e.Count == 0:
		return fmt.Errorf("%w: no units", ErrInvalidEntry)
	}
	if e.State.OfSpare() || e.State == StateMapped {
		if uint64(e.Spare)+uint64(e.Count) > l.spareUnits {
			return fmt.Errorf("%w: spare units %d+%d of %d", ErrInvalidEntry, e.Spare, e.Count,
				l.spareUnits)
		}
	} else if e.Spare != 0 {
		return fmt.Errorf("%w: spare unit %d in state %s", ErrInvalidEntry, e.Spare, e.State)
	}
	if e.State.OfSpare() {
		if e.Unit != 0 || e.Mask != 0 {
			return fmt.Errorf("%w: unit %d, mask %#x in state %s", ErrInvalidEntry, e.Unit, e.Mask,
				e.State)
		}
		return nil
	}
	if e.Unit >= l.units || uint64(e.Count) > l.units-e.Unit {
		return fmt.Errorf("%w: units %d+%d of %d", ErrInvalidEntry, e.Unit, e.Count, l.units)
	}
	mask := l.mask
	if e.Unit == l.units-1 {
		mask = l.lastMask
	}
	if e.Mask == 0 || e.Mask&^mask != 0 {
		return fmt.Errorf("%w: mask %#x of %#x", ErrInvalidEntry, e.Mask, mask)
	}
	return nil
}
