package metadata

import (
	"fmt"

	"github.com/cespare/xxhash/v2"
	"github.com/google/uuid"
)

// Offsets in a checkpoint's header; frozen with format version 4.
const (
	headerPagesAt   = wordAt
	headerIDAt      = bodyAt // epoch, generation
	headerCoversAt  = headerIDAt + idSize
	headerSessionAt = headerCoversAt + linkSize
	headerEntriesAt = headerSessionAt + 8
	headerDigestAt  = headerEntriesAt + 8
)

// Offsets in a checkpoint's page; frozen with format version 4.
const (
	pageIndexAt = wordAt
	pageIDAt    = bodyAt // epoch, generation, as in the header
	pageCountAt = pageIDAt + idSize
	pageHeader  = 64 // the entries follow
)

// entriesPerPage is how many entries a page holds. Frozen with format version 4.
const entriesPerPage = (PageSize - pageHeader) / entrySize // 168

// checkpointID tells one checkpoint from every other of the set.
type checkpointID struct {
	epoch      uint64 // of the start that wrote it
	generation uint64 // counts the checkpoints
}

const idSize = 16 // of a checkpointID in a structure

func putID(b []byte, id checkpointID) {
	le.PutUint64(b, id.epoch)
	le.PutUint64(b[8:], id.generation)
}

func getID(b []byte) checkpointID { return checkpointID{le.Uint64(b), le.Uint64(b[8:])} }

// header is a checkpoint's header page. It is written last: once it is there,
// all pages are.
type header struct {
	checkpointID
	covers  link   // the newest record whose effect the pages are sure to show
	session uint64 // of the start that wrote it
	pages   uint32
	entries uint64
	digest  uint64 // xxhash64 of all pages' checksums, 8 bytes each, in order
	scrub   Scrub  // zero: it says nothing about that
}

func (h *header) encode(b []byte, set *uuid.UUID) {
	clear(b[:PageSize])
	putHead(b, magicHeader, h.pages, set)
	putID(b[headerIDAt:], h.checkpointID)
	putLink(b[headerCoversAt:], h.covers)
	le.PutUint64(b[headerSessionAt:], h.session)
	le.PutUint64(b[headerEntriesAt:], h.entries)
	le.PutUint64(b[headerDigestAt:], h.digest)
	putScrub(b, &h.scrub)
	seal(b)
}

// decodeHeader reports whether b is a checkpoint header of that set, of any known version.
func decodeHeader(b []byte, set *uuid.UUID) (h header, ok bool) {
	if d := decodersIn(b, magicHeader, set); d != nil {
		return d.header(b)
	}
	return header{}, false
}

func decodeHeader4(b []byte) (h header, ok bool) {
	h = header{
		checkpointID: getID(b[headerIDAt:]),
		covers:       getLink(b[headerCoversAt:]),
		session:      le.Uint64(b[headerSessionAt:]),
		pages:        le.Uint32(b[headerPagesAt:]),
		entries:      le.Uint64(b[headerEntriesAt:]),
		digest:       le.Uint64(b[headerDigestAt:]),
	}
	h.scrub, _ = getScrub(b)
	return h, h.epoch <= maxEpoch && h.entries <= uint64(h.pages)*entriesPerPage
}

// less reports whether h is older than o.
func (h *header) less(o *header) bool {
	return h.epoch < o.epoch || h.epoch == o.epoch && h.generation < o.generation
}

// encodePage writes a checkpoint page; entries are at most entriesPerPage. It
// returns the page's checksum.
func encodePage(b []byte, set *uuid.UUID, id checkpointID, index uint32, entries []Entry) uint64 {
	clear(b[:PageSize])
	putHead(b, magicPage, index, set)
	putID(b[pageIDAt:], id)
	le.PutUint32(b[pageCountAt:], uint32(len(entries)))
	for i := range entries {
		putEntry(pageEntry(b, i), &entries[i])
	}
	return seal(b)
}

// decodePage reports whether b is page index of that checkpoint, of any known version; how
// many entries it has; and its checksum.
func decodePage(b []byte, set *uuid.UUID, id checkpointID, index uint32) (count int, sum uint64,
	ok bool) {
	d := decodersIn(b, magicPage, set)
	if d == nil {
		return 0, 0, false
	}
	if count, ok = d.page(b, id, index); !ok {
		return 0, 0, false
	}
	return count, getChecksum(b), true
}

func decodePage4(b []byte, id checkpointID, index uint32) (count int, ok bool) {
	n := le.Uint32(b[pageCountAt:])
	if le.Uint32(b[pageIndexAt:]) != index || getID(b[pageIDAt:]) != id || n > entriesPerPage {
		return 0, false
	}
	return int(n), true
}

// pageEntry is where entry i of a page begins.
func pageEntry(b []byte, i int) []byte { return b[pageHeader+i*entrySize:] }

// pageWriter packs the entries of a Source into the pages of one checkpoint.
// It allocates only when it is first used.
type pageWriter struct {
	set     *uuid.UUID
	lim     *limits
	src     Source
	id      checkpointID
	max     uint32 // pages that fit
	cursor  uint64
	drained bool
	scratch []Entry // len: what waits for a page
	digest  xxhash.Digest
	pages   uint32
	entries uint64
}

func (w *pageWriter) begin(set *uuid.UUID, lim *limits, src Source, id checkpointID,
	maxPages uint32) {
	if w.scratch == nil {
		w.scratch = make([]Entry, 0, 2*entriesPerPage)
	}
	w.set, w.lim, w.src, w.id, w.max = set, lim, src, id, maxPages
	w.cursor, w.drained, w.scratch = 0, false, w.scratch[:0]
	w.digest.Reset()
	w.pages, w.entries = 0, 0
}

// finished reports that all entries are in pages.
func (w *pageWriter) finished() bool { return w.drained && len(w.scratch) == 0 }

// fill encodes the next pages into b and returns how many bytes of it they take. Errors:
// ErrTableFull; ErrInvalidEntry, because nothing invalid may ever reach a disk.
//
// A source that returns few entries has gone through many units: units in a row are one
// entry. Then fill returns the pages that are full, perhaps none, and must be called again
// if it has not finished. Otherwise a table of few entries and many units would hold
// commits up for as long as it takes to walk all of it.
func (w *pageWriter) fill(b []byte) (n int, err error) {
	for short := false; len(b)-n >= PageSize; {
		for !short && !w.drained && len(w.scratch) < entriesPerPage {
			have := len(w.scratch)
			room := cap(w.scratch) - have
			k, next, done := w.src.Entries(w.cursor, w.scratch[have:cap(w.scratch)])
			if k == 0 && !done {
				return 0, fmt.Errorf("%w: the source returned none at cursor %d", ErrInvalidEntry,
					w.cursor)
			}
			w.scratch, w.cursor, w.drained = w.scratch[:have+k], next, done
			for i := have; i < have+k; i++ {
				if err := w.lim.validate(&w.scratch[i]); err != nil {
					return 0, err
				}
			}
			short = k < room/2
		}
		count := min(len(w.scratch), entriesPerPage)
		if count == 0 || count < entriesPerPage && !w.drained {
			break
		}
		if w.pages == w.max {
			return 0, fmt.Errorf("%w: it holds %d entries", ErrTableFull,
				uint64(w.max)*entriesPerPage)
		}
		addSum(&w.digest, encodePage(b[n:], w.set, w.id, w.pages, w.scratch[:count]))
		w.scratch = w.scratch[:copy(w.scratch, w.scratch[count:])]
		w.pages++
		w.entries += uint64(count)
		n += PageSize
	}
	return n, nil
}

func (w *pageWriter) header(covers link, session uint64) header {
	return header{
		checkpointID: w.id, covers: covers, session: session,
		pages: w.pages, entries: w.entries, digest: w.digest.Sum64(),
	}
}

func addSum(d *xxhash.Digest, sum uint64) {
	var b [8]byte
	le.PutUint64(b[:], sum)
	d.Write(b[:])
}

func newDigest() *xxhash.Digest {
	d := new(xxhash.Digest)
	d.Reset()
	return d
}
