package metadata

import "github.com/google/uuid"

// recordKind says what a record is for; frozen with format version 4.
type recordKind uint32

const (
	recordEpoch   recordKind = 1 // the first one of a start; no entries
	recordEntries recordKind = 2
)

func (k recordKind) String() string {
	if k == recordEpoch {
		return "epoch"
	}
	return "entries"
}

// recordHeader is the size of a record's header.
const recordHeader = 112

// MaxEntries is how many entries a log record holds, and so the most that one
// transaction may have. Frozen with format version 4.
const MaxEntries = (PageSize - recordHeader) / entrySize // 166

// record is a log record without its entries.
type record struct {
	link
	prev link // the record it follows
	// sbGeneration is the superblock's when the record was written: a
	// superblock older than this is not the newest one.
	sbGeneration uint64
	session      uint64
	kind         recordKind
	count        uint32
}

// encode writes the header and the checksum around the entries that are in b
// already, and sets the record's Hash. Bytes of b behind the entries must be
// zero.
func (r *record) encode(b []byte, set *uuid.UUID) {
	clear(b[:recordHeader])
	le.PutUint64(b, magicRecord)
	le.PutUint32(b[8:], Version)
	le.PutUint32(b[12:], uint32(r.kind))
	copy(b[24:40], set[:])
	le.PutUint64(b[40:], r.Epoch)
	le.PutUint64(b[48:], r.Sequence)
	le.PutUint64(b[56:], r.prev.Epoch)
	le.PutUint64(b[64:], r.prev.Sequence)
	le.PutUint64(b[72:], r.prev.Hash)
	le.PutUint64(b[80:], r.sbGeneration)
	le.PutUint64(b[88:], r.session)
	le.PutUint32(b[96:], r.count)
	r.Hash = seal(b)
}

// decodeRecord reports whether b holds a record of that set. A record that
// does not come after its predecessor is none, so that every walk ends.
func decodeRecord(b []byte, set *uuid.UUID) (r record, ok bool) {
	if !sealed(b, magicRecord) || le.Uint32(b[8:]) != Version || [16]byte(b[24:40]) != *set {
		return record{}, false
	}
	r = record{
		link: link{Position{le.Uint64(b[40:]), le.Uint64(b[48:])},
			le.Uint64(b[checksumOffset:])},
		prev:         link{Position{le.Uint64(b[56:]), le.Uint64(b[64:])}, le.Uint64(b[72:])},
		sbGeneration: le.Uint64(b[80:]),
		session:      le.Uint64(b[88:]),
		kind:         recordKind(le.Uint32(b[12:])),
		count:        le.Uint32(b[96:]),
	}
	if r.count > MaxEntries || r.kind != recordEpoch && r.kind != recordEntries ||
		!r.prev.Less(r.Position) || r.Epoch > maxEpoch {
		return record{}, false
	}
	return r, true
}

func recordEntry(b []byte, i int) []byte { return b[recordHeader+i*entrySize:] }

// maxEpoch keeps an epoch from wrapping around; no device lives that long.
const maxEpoch = 1 << 62
