package metadata

import (
	"encoding/binary"
	"fmt"

	"github.com/cespare/xxhash/v2"
	"github.com/google/uuid"
)

// Wire constants of format version 4; frozen.
const (
	// Version is the format version that this package writes. format_version.go lists
	// all that it reads.
	Version = 4

	magicSuperblock = 0x3453_504d_524b_4c42 // "BLKRMPS4"
	magicRecord     = 0x3452_504d_524b_4c42 // "BLKRMPR4"
	magicHeader     = 0x3448_504d_524b_4c42 // "BLKRMPH4"
	magicPage       = 0x3450_504d_524b_4c42 // "BLKRMPP4"

	entrySize = 24
)

// Offsets of the fields that every structure begins with; the same in all versions.
const (
	magicAt   = 0
	versionAt = 8
	// wordAt is a field of 32 bits whose meaning depends on the structure.
	wordAt = 12
	// checksumOffset is where every structure has its xxhash64. The sum is over the 4096
	// bytes of the structure, with the checksum itself taken as zero.
	checksumOffset = 16
	setAt          = 24 // UUID of the set
	bodyAt         = 40 // what follows is the structure's own
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

// Sizes of a position and of a link in a structure.
const (
	positionSize = 16
	linkSize     = positionSize + 8
)

func putPosition(b []byte, p Position) {
	le.PutUint64(b, p.Epoch)
	le.PutUint64(b[8:], p.Sequence)
}

func getPosition(b []byte) Position { return Position{le.Uint64(b), le.Uint64(b[8:])} }

// link identifies one record: its position and its checksum.
type link struct {
	Position
	Hash uint64
}

func putLink(b []byte, l link) {
	putPosition(b, l.Position)
	le.PutUint64(b[positionSize:], l.Hash)
}

func getLink(b []byte) link { return link{getPosition(b), le.Uint64(b[positionSize:])} }

// putHead writes the fields that every structure begins with, except for the checksum.
func putHead(b []byte, magic uint64, word uint32, set *uuid.UUID) {
	le.PutUint64(b[magicAt:], magic)
	le.PutUint32(b[versionAt:], Version)
	le.PutUint32(b[wordAt:], word)
	copy(b[setAt:bodyAt], set[:])
}

// hasMagic reports whether b begins like a structure, whole or not.
func hasMagic(b []byte, magic uint64) bool { return le.Uint64(b[magicAt:]) == magic }

// ofSet reports whether a structure names that set.
func ofSet(b []byte, set *uuid.UUID) bool { return uuid.UUID(b[setAt:bodyAt]) == *set }

// getChecksum is the checksum that a structure carries.
func getChecksum(b []byte) uint64 { return le.Uint64(b[checksumOffset:]) }

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

// seal writes the checksum of a structure, and returns it.
func seal(b []byte) uint64 {
	sum := checksum(b)
	le.PutUint64(b[checksumOffset:], sum)
	return sum
}

// sealed reports whether b is a 4096-byte structure with that magic and a
// matching checksum.
func sealed(b []byte, magic uint64) bool {
	return len(b) >= PageSize && hasMagic(b, magic) && getChecksum(b) == checksum(b)
}
