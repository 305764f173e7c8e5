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

// Offsets in a record; frozen with format version 4.
const (
	recordKindAt         = wordAt
	recordPositionAt     = bodyAt
	recordPrevAt         = recordPositionAt + positionSize // link
	recordSBGenerationAt = recordPrevAt + linkSize
	recordSessionAt      = recordSBGenerationAt + 8
	recordCountAt        = recordSessionAt + 8
	recordHeader         = 112 // the entries follow
)

// MaxEntries is how many entries a log record holds, and so the most that one
// transaction may have. Frozen with format version 4.
const MaxEntries = (PageSize - recordHeader) / entrySize // 166

// maxEpoch keeps an epoch from wrapping around; no device lives that long.
const maxEpoch = 1 << 62

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
	scrub        Scrub // zero: it says nothing about that
}

// encode writes the header and the checksum around the entries that are in b
// already, and sets the record's Hash. Bytes of b behind the entries must be
// zero.
func (r *record) encode(b []byte, set *uuid.UUID) {
	clear(b[:recordHeader])
	putHead(b, magicRecord, uint32(r.kind), set)
	putPosition(b[recordPositionAt:], r.Position)
	putLink(b[recordPrevAt:], r.prev)
	le.PutUint64(b[recordSBGenerationAt:], r.sbGeneration)
	le.PutUint64(b[recordSessionAt:], r.session)
	le.PutUint32(b[recordCountAt:], r.count)
	if r.count <= maxEntriesAndScrub {
		putScrub(b, &r.scrub)
	}
	r.Hash = seal(b)
}

// decodeRecord reports whether b holds a record of that set, of any known version.
func decodeRecord(b []byte, set *uuid.UUID) (r record, ok bool) {
	if d := decodersIn(b, magicRecord, set); d != nil {
		return d.record(b)
	}
	return record{}, false
}

// decodeRecord4 refuses a record that does not come after its predecessor, so that every
// walk along the predecessors ends.
func decodeRecord4(b []byte) (r record, ok bool) {
	r = record{
		link:         link{getPosition(b[recordPositionAt:]), getChecksum(b)},
		prev:         getLink(b[recordPrevAt:]),
		sbGeneration: le.Uint64(b[recordSBGenerationAt:]),
		session:      le.Uint64(b[recordSessionAt:]),
		kind:         recordKind(le.Uint32(b[recordKindAt:])),
		count:        le.Uint32(b[recordCountAt:]),
	}
	if r.count > MaxEntries || r.kind != recordEpoch && r.kind != recordEntries ||
		!r.prev.Less(r.Position) || r.Epoch > maxEpoch {
		return record{}, false
	}
	if r.count <= maxEntriesAndScrub {
		r.scrub, _ = getScrub(b)
	}
	return r, true
}

// recordEntry is where entry i of a record begins.
func recordEntry(b []byte, i int) []byte { return b[recordHeader+i*entrySize:] }
