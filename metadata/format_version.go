package metadata

import (
	"fmt"
	"maps"
	"slices"

	"github.com/google/uuid"
)

// decoders are how the structures of one format version are read. Each function gets a
// structure of that version whose checksum matches; records, headers and pages also name
// the set.
type decoders struct {
	superblock  func(b []byte) (*Superblock, error)
	record      func(b []byte) (record, bool)
	header      func(b []byte) (header, bool)
	page        func(b []byte, id checkpointID, index uint32) (count int, ok bool)
	recordEntry func(b []byte, i int) (e Entry, flags byte)
	pageEntry   func(b []byte, i int) (e Entry, flags byte)
	entry       func(b []byte) (e Entry, flags byte) // of a Snapshot
}

// versions are all format versions that this package reads. A new version adds a row and a
// golden image. The older rows stay, and TestEveryVersionIsRead reads their images.
var versions = map[uint32]*decoders{
	4: {
		superblock: decodeSuperblock4,
		record:     decodeRecord4,
		header:     decodeHeader4,
		page:       decodePage4,
		recordEntry: func(b []byte, i int) (Entry, byte) {
			return getEntry(recordEntry(b, i))
		},
		pageEntry: func(b []byte, i int) (Entry, byte) { return getEntry(pageEntry(b, i)) },
		entry:     getEntry,
	},
}

// decodersOf returns how to read a structure, or nil if its version is not known.
func decodersOf(b []byte) *decoders { return versions[le.Uint32(b[versionAt:])] }

// decodersIn returns how to read a record, a header or a page of a set, or nil if b is none.
func decodersIn(b []byte, magic uint64, set *uuid.UUID) *decoders {
	if !sealed(b, magic) || !ofSet(b, set) {
		return nil
	}
	return decodersOf(b)
}

// errVersion is the refusal of a superblock whose version is not known.
func errVersion(b []byte) error {
	return fmt.Errorf("%w: superblock of version %d, this program reads %v", ErrUnsupported,
		le.Uint32(b[versionAt:]), slices.Sorted(maps.Keys(versions)))
}
